"""Who has a session, and over which connection: resumed, replaced, away, forgotten (SPEC section 4).

A session has at most one connection. The shell around it (`sessions/manager.py`) closes connections, stores, and tells others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from robodyne_rt.core.outbox import Outbox
from robodyne_rt.model.access import Principal

SESSIONS_OF_A_USER = 200
"""Sessions of one user that are known; the oldest that is away makes way: a client that never resumes."""


class Link(Protocol):
    """The connection of a session, as far as is decided by it."""

    principal: Principal


L = TypeVar("L", bound=Link)


@dataclass(eq=False, slots=True, kw_only=True)
class Session(Generic[L]):
    """One session; its fields are for reading.

    Attributes:
        last_seen: monotonic time at which it said something last, or lost its connection.
        last_principal: who it was on its last connection.
        capabilities: what its client can be asked; None where it did not say.
        delivered: staff messages that went over the present connection.
    """

    id: str
    user: str
    device: str
    token_digest: str
    connected_at: str
    last_principal: Principal
    outbox: Outbox = field(default_factory=Outbox)
    link: L | None = None
    last_seen: float = 0.0
    capabilities: frozenset[str] | None = None
    delivered: set[int] = field(default_factory=set)

    @property
    def principal(self) -> Principal:
        """Who it is, and what they may do now."""
        return self.link.principal if self.link is not None else self.last_principal


class SessionTable(Generic[L]):
    """All sessions of a node.

    Args:
        stale_after_s: how long one that is away is kept.
        single: whether a user may be connected by one session only; `device`: by one for each device.
    """

    def __init__(self, *, stale_after_s: float, single: bool | Literal["device"]) -> None:
        self._stale_after_s = stale_after_s
        self._single = single
        self._by_id: dict[str, Session[L]] = {}
        self._by_digest: dict[str, Session[L]] = {}
        self._by_user: dict[str, dict[Session[L], None]] = {}
        self._changed: dict[Session[L], None] = {}
        self._gone: list[str] = []
        self._confirmed: dict[Session[L], None] = {}

    def __iter__(self) -> Iterator[Session[L]]:
        return iter([*self._by_id.values()])

    def __contains__(self, id: str) -> bool:
        return id in self._by_id

    def get(self, id: str) -> Session[L] | None:
        """Return a session by its id."""
        return self._by_id.get(id)

    def of_token(self, digest: str) -> Session[L] | None:
        """Return a session by the digest of its token."""
        return self._by_digest.get(digest)

    def of_user(self, user: str) -> list[Session[L]]:
        """Return a user's sessions, oldest first."""
        return list(self._by_user.get(user, ()))

    @property
    def connected(self) -> list[Session[L]]:
        """Sessions with a connection."""
        return [session for session in self._by_id.values() if session.link is not None]

    # -- coming and going ----------------------------------------------------------------------------------------

    def add(self, session: Session[L]) -> Session[L] | None:
        """Take a session in; return one of the same user that has to be forgotten for it."""
        self._by_id[session.id] = session
        self._by_digest[session.token_digest] = session
        sessions = self._by_user.setdefault(session.user, {})
        sessions[session] = None
        if len(sessions) <= SESSIONS_OF_A_USER:
            return None
        oldest = next((other for other in sessions if other.link is None), None)
        return None if oldest is session else oldest

    def replaced_by(self, session: Session[L], principal: Principal) -> list[Session[L]]:
        """Return the sessions whose connection ends when a connection of `principal` takes this one: itself first."""
        replaced = [session] if session.link is not None else []
        if self._single and not principal.is_anonymous:
            for other in self._by_user.get(session.user, ()):
                is_elsewhere = self._single == "device" and other.device != session.device
                if other is not session and not is_elsewhere and other.link is not None:
                    replaced.append(other)
        return replaced

    def attach(
        self, session: Session[L], link: L, *, capabilities: frozenset[str] | None, now: float, connected_at: str
    ) -> None:
        """Give a session its connection."""
        session.link = link
        session.capabilities = capabilities
        session.delivered = set()
        session.last_seen = now
        session.connected_at = connected_at
        self.note(session)

    def detach(self, session: Session[L], now: float) -> bool:
        """Note that a connection is gone; return whether its session is kept: nobody's can be resumed by nobody."""
        session.last_principal = session.principal
        session.link = None
        session.last_seen = now
        if session.principal.is_anonymous:
            return False
        self.note(session)
        return True

    def forget(self, session: Session[L]) -> None:
        """Forget a session."""
        self._by_id.pop(session.id, None)
        self._by_digest.pop(session.token_digest, None)
        sessions = self._by_user.get(session.user, {})
        sessions.pop(session, None)
        if not sessions:
            self._by_user.pop(session.user, None)
        self._changed.pop(session, None)
        self._confirmed.pop(session, None)
        self._gone.append(session.id)

    def stale(self, now: float) -> list[Session[L]]:
        """Return the sessions that were away for too long."""
        return [
            session
            for session in self._by_id.values()
            if session.link is None and now - session.last_seen >= self._stale_after_s
        ]

    def kept_for_s(self, session: Session[L], now: float) -> float:
        """Return how long a session is kept if it says nothing more, in seconds."""
        return max(0.0, round(self._stale_after_s - (now - session.last_seen), 1))

    # -- what others are to be told --------------------------------------------------------------------------------

    def note(self, session: Session[L]) -> None:
        """Note that something of a session changed that others see."""
        self._changed[session] = None

    def confirm(self, session: Session[L], upto: int) -> bool:
        """Note that a user has the answers up to a number; return whether that is news."""
        if not session.outbox.confirm(upto):
            return False
        self._confirmed[session] = None
        return True

    @property
    def has_confirmed(self) -> bool:
        """Whether `take_confirmed` has something."""
        return bool(self._confirmed)

    def take_confirmed(self) -> list[Session[L]]:
        """Return, once, the sessions whose confirmed number is to be stored."""
        confirmed, self._confirmed = self._confirmed, {}
        return list(confirmed)

    def take_changes(self) -> tuple[list[Session[L]], list[str]]:
        """Return, once, the sessions that changed, and the ids of those that are no more."""
        changed, self._changed = self._changed, {}
        gone, self._gone = self._gone, []
        return list(changed), gone


def may_resume(session: Session[L] | None, principal: Principal) -> bool:
    """Return whether who comes with a session's token gets that session: it is theirs."""
    return session is not None and session.user == principal.name and not principal.is_anonymous
