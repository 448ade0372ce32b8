"""Sessions: resumed by their token, delivered to, listed, swept (SPEC section 4).

A session has at most one connection. What must reach its user waits in its outbox until they have it; of a session only its
token's digest, its newest confirmed answer and the answers themselves are stored, enough to go on after a restart.
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

import anyio

from robodyne_rt.core import session_table
from robodyne_rt.core.outbox import Outbox
from robodyne_rt.core.session_table import SessionTable, may_resume
from robodyne_rt.model import times
from robodyne_rt.model.access import Principal
from robodyne_rt.model.changes import Entity
from robodyne_rt.model.rows import RequestRow
from robodyne_rt.ports import Clock, Presence, SessionRepository, SessionStore
from robodyne_rt.protocol import session_messages, topic_messages
from robodyne_rt.protocol.errors import RobodyneError, SessionReplaced, StorageUnavailable, TokenInvalid

logger = logging.getLogger(__name__)

REFRESH_S = 20.0
"""How often it is stored that sessions are in use."""

SWEEP_S = 0.5
CONFIRMED_STORED_S = 0.2
MAX_DEVICE = 100

NODE = "node-0"


class Link(Protocol):
    """The connection of a session."""

    principal: Principal

    @property
    def is_gone(self) -> bool: ...

    @property
    def topics(self) -> list[str]: ...

    def send(self, payload: bytes) -> None: ...

    def send_undelivered(self, payload: bytes) -> None: ...

    async def has_room(self) -> bool: ...

    def expect_pong(self) -> None: ...

    def close(self, error: RobodyneError) -> None: ...


Session = session_table.Session[Link]


class SessionManager:
    """All sessions of this node.

    Args:
        store: presence, of all nodes.
        repository: what is stored.
        ttl_s: how long a session can be resumed after it was last in use.
        stale_after_s: how long a silent one is listed.
        single: whether a user may have one session only; `device`: one for each device.
        on_presence: told when the list of who is there changed.
        on_attached: told of each session that got a connection.
        on_gone: told of each session that will not come back soon.
    """

    def __init__(
        self,
        *,
        store: SessionStore,
        repository: SessionRepository,
        ttl_s: float,
        stale_after_s: float,
        single: bool | Literal["device"],
        clock: Clock,
        on_presence: Callable[[], None],
        on_attached: Callable[["Session"], None] = lambda session: None,
        on_gone: Callable[["Session"], None] = lambda session: None,
    ) -> None:
        self._store = store
        self._repository = repository
        self._ttl_s = ttl_s
        self._table: SessionTable[Link] = SessionTable(stale_after_s=stale_after_s, single=single)
        self._clock = clock
        self._on_presence = on_presence
        self._on_attached = on_attached
        self._on_gone = on_gone
        self._refreshed_at = clock.now()
        self._wake = anyio.Event()

    def __len__(self) -> int:
        return len(self._table.connected)

    def get(self, id: str) -> Session | None:
        """Return a session that is in memory."""
        return self._table.get(id)

    def of_user(self, user: str) -> list[Session]:
        """Return a user's sessions."""
        return self._table.of_user(user)

    @property
    def connected(self) -> list[Session]:
        """Sessions with a connection."""
        return self._table.connected

    # -- coming and going ----------------------------------------------------------------------------------------

    async def attach(
        self,
        link: Link,
        *,
        device: str,
        token: str | None,
        confirmed: int | None,
        capabilities: frozenset[str] | None,
        more: Entity,
    ) -> Session | None:
        """Give a connection its session: the one of `token` where that is good, else a new one; greet it, and send it what
        it does not have. None where it is gone meanwhile.

        Args:
            device: names the user's device.
            capabilities: what its client can be asked; None where it does not say.
            confirmed: number of the newest answer that the client has.
            more: further facts for the greeting.
        """
        digest = _digest(token) if token else ""
        session = self._table.of_token(digest) if token else None
        if token and session is None:
            session = await self._load(digest)
            if link.is_gone:
                return None  # it may have come again on another connection, which stands
        principal = link.principal
        resumed = may_resume(session, principal)
        if session is None or not resumed:
            token = secrets.token_urlsafe(32)
            session = self._create(principal, device, _digest(token))
        for replaced in self._table.replaced_by(session, principal):
            self._replace(replaced, is_over=replaced is not session)
        self._table.attach(session, link, capabilities=capabilities, now=self._clock.now(), connected_at=self._clock.stamp())
        self._wake.set()
        if confirmed is not None:
            self.confirm(session, confirmed)
        link.send(
            session_messages.connected(
                session_id=session.id,
                session_token=token or "",
                user=session.user,
                server_time=self._clock.stamp(),
                resumed=resumed,
                **more,
            )
        )
        self._send(session, session.outbox.waiting, undelivered=True)
        self._on_attached(session)
        return session

    def make_way(self, token: str, principal: Principal) -> None:
        """Close the older connection of a session that comes back: its place is the new one's, also where all are taken."""
        session = self._table.of_token(_digest(token))
        if session is not None and session.link is not None and may_resume(session, principal):
            session.link.close(SessionReplaced())

    def _create(self, principal: Principal, device: str, digest: str) -> Session:
        session = Session(
            id=secrets.token_urlsafe(12),
            user=principal.name,
            device="".join(filter(str.isprintable, device))[:MAX_DEVICE],
            token_digest=digest,
            connected_at="",
            last_principal=principal,
        )
        self._add(session)
        if not principal.is_anonymous:
            now = times.to_text(self._clock.wall())
            self._repository.create(
                {
                    "id": session.id,
                    "token_digest": digest,
                    "user_name": session.user,
                    "device": session.device,
                    "acked": 0,
                    "created_at": now,
                    "last_seen": now,
                }
            )
        return session

    def _add(self, session: Session) -> None:
        if (oldest := self._table.add(session)) is not None:
            self._store_seen([oldest])
            self._forget(oldest)

    async def _load(self, digest: str) -> Session | None:
        """Return a session that is not in memory; None where there is none, or that cannot be known now."""
        try:
            stored = await self._repository.find(digest, self._clock.wall() - self._ttl_s)
        except StorageUnavailable:
            logger.warning("a session cannot be resumed: the database is away", extra={"action": "session_not_resumed"})
            return None
        if stored is None or stored["id"] in self._table:
            return None if stored is None else self._table.get(stored["id"])
        waiting = {answer["seq"]: answer_payload(answer) for answer in stored["answers"] if answer["seq"] is not None}
        session = Session(
            id=stored["id"],
            user=stored["user_name"],
            device=stored["device"],
            token_digest=stored["token_digest"],
            connected_at=stored["created_at"],
            last_principal=Principal(stored["user_name"], frozenset(), frozenset()),
            outbox=Outbox(seq=stored["seq"], acked=stored["acked"], waiting=waiting),
            last_seen=self._clock.now(),
        )
        self._add(session)
        return session

    def _replace(self, session: Session, *, is_over: bool) -> None:
        """End the connection of a session for a newer one; where it is over it answers nothing any more."""
        if session.link is None:
            return  # it went with another one's
        session.link.close(SessionReplaced())
        if is_over:
            if session.link is not None:
                self._detach(session)
            self._on_gone(session)

    def detach(self, session: Session, link: Link) -> None:
        """Note that a connection is gone; the session may come back."""
        if session.link is link:
            self._detach(session)

    def _detach(self, session: Session) -> None:
        if self._table.detach(session, self._clock.now()):
            self._wake.set()
        else:
            self._forget(session)

    def forget_user(self, user: str) -> None:
        """Forget the sessions of somebody who is no more: who bears the name next is another one."""
        for session in self.of_user(user):
            if session.link is None:
                self._forget(session)
            else:
                session.link.close(TokenInvalid("there is no such user any more"))
                self._forget(session)

    def _forget(self, session: Session) -> None:
        self._table.forget(session)
        self._wake.set()
        self._on_gone(session)

    # -- answers -------------------------------------------------------------------------------------------------

    def deliver(self, session: Session, seq: int, payload: bytes) -> None:
        """Send an answer, now or when the session comes back."""
        session.outbox.put(seq, payload)
        self._send(session, {seq: payload})

    def _send(self, session: Session, answers: dict[int, bytes], *, undelivered: bool = False) -> None:
        """Send answers, and a ping behind them: its pong proves that they arrived."""
        link = session.link
        if link is None or not answers:
            return
        for payload in answers.values():
            (link.send_undelivered if undelivered else link.send)(payload)
        link.expect_pong()
        link.send(topic_messages.ping(self._clock.wall(), seq=max(answers)))

    def current(self, session: Session) -> Session:
        """Return a session as it is now: it may have been forgotten and loaded anew."""
        return self._table.get(session.id) or session

    def confirm(self, session: Session, upto: int) -> None:
        """Note that a user has the answers up to a number."""
        if self._table.confirm(session, upto):
            self._wake.set()

    def seen(self, session: Session) -> None:
        """Note that a session said something."""
        session.last_seen = self._clock.now()

    # -- presence ------------------------------------------------------------------------------------------------

    def note(self, session: Session) -> None:
        """Note that something of a session changed that others see."""
        self._table.note(session)
        self._wake.set()

    def _presence(self, session: Session) -> Presence:
        silent_s = self._clock.now() - session.last_seen
        profile = session.principal.profile
        return Presence(
            session_id=session.id,
            user_id=session.user,
            roles=sorted(session.principal.roles),
            device=session.device,
            node_id=NODE,
            connected_at=session.connected_at,
            last_seen=times.to_text(self._clock.wall() - silent_s),
            presence="away" if session.link is None else "online",
            topics=session.link.topics if session.link is not None else [],
            ttl_s=self._table.kept_for_s(session, self._clock.now()),
            user_name=None if profile is None else profile.username,
            full_name=None if profile is None else profile.full_name,
            email=None if profile is None else profile.email,
            company=None if profile is None else profile.company,
        )

    async def present(self) -> list[Presence]:
        """Return who is there, on all nodes."""
        for session in self._table.connected:
            await self._store.put(self._presence(session))
        return await self._store.all()

    # -- by the clock --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep presence and records current until cancelled."""
        while True:
            with anyio.move_on_after(SWEEP_S):
                await self._wake.wait()
            self._wake = anyio.Event()
            await self._tell_presence()
            if self._table.has_confirmed:
                await anyio.sleep(CONFIRMED_STORED_S)  # those of one moment together
                self._store_seen(self._table.take_confirmed())
            now = self._clock.now()
            if now - self._refreshed_at >= REFRESH_S:
                self._refreshed_at = now
                self._store_seen(self.connected)
            self.sweep(now)

    async def _tell_presence(self) -> None:
        changed, gone = self._table.take_changes()
        if not changed and not gone:
            return
        for id in gone:
            await self._store.remove(id)
        for session in changed:
            if session.id in self._table:
                await self._store.put(self._presence(session))
        self._on_presence()

    def _store_seen(self, sessions: Iterable[Session]) -> None:
        now, wall = self._clock.now(), self._clock.wall()
        seen = [(s.id, s.outbox.acked, wall - (now - s.last_seen)) for s in sessions if not s.principal.is_anonymous]
        if seen:
            self._repository.refresh(seen)

    def flush(self) -> None:
        """Store how far everybody is: the server ends."""
        self._store_seen(self._table)

    def sweep(self, now: float) -> None:
        """Forget sessions that were silent for too long; until `ttl_s` their tokens are good all the same."""
        for session in self._table.stale(now):
            self._store_seen([session])
            self._forget(session)


def answer_payload(stored: RequestRow, *, remaining: int | None = None) -> bytes:
    """Return the JSON of a final answer from its row; `remaining` is how many more may be asked now, where that is known."""
    dialect: session_messages.Dialect = "desktop" if stored["dialect"] == "desktop" else "session"
    if stored["status"] == "COMPLETED":
        return session_messages.response(
            dialect, stored["request_id"], stored["response"] or "", remaining=remaining, seq=stored["seq"]
        )
    code = stored["code"] or "INTERNAL"
    return session_messages.failure(dialect, stored["request_id"], code, stored["response"] or "", seq=stored["seq"])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
