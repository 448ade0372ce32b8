"""Staff messages: pushed at once, stored by the same queue as everything, kept until they are read (SPEC section 6)."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection

import anyio
import orjson

from robodyne_rt.core.held_messages import HeldMessages, addresses, is_for, own_name
from robodyne_rt.core.rate_limit import SlidingWindow
from robodyne_rt.core.retry import Backoff
from robodyne_rt.model.access import ANONYMOUS, ISSUER_PREFIX, MAX_ID_LENGTH, ROLE_PREFIX, ROLES, Principal, normal_name
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Clock, MessageRepository
from robodyne_rt.protocol import session_messages
from robodyne_rt.protocol.checking import MAX_NAME
from robodyne_rt.protocol.errors import InvalidPayload, RateLimited, ResourceNotFound, StorageUnavailable
from robodyne_rt.protocol.http import NewMessage
from robodyne_rt.sessions.manager import Session, SessionManager

logger = logging.getLogger(__name__)

SENT_PER_MINUTE = 60
PUSH_DEADLINE_S = 0.05
ASKED_AGAIN_S = (1.0, 10.0)
"""While the unread messages cannot be known."""


class StaffMessages:
    """Messages between people, over all sessions.

    Args:
        resolve: returns the user that a name means.
        label: returns what people call a user.
        roles: those that there are.
    """

    def __init__(
        self,
        *,
        sessions: SessionManager,
        repository: MessageRepository,
        resolve: Callable[[str], str],
        label: Callable[[str], str],
        roles: Collection[str] = ROLES,
        clock: Clock,
    ) -> None:
        self._resolve = resolve
        self._label = label
        self._roles = roles
        self._sessions = sessions
        self._repository = repository
        self._clock = clock
        self._limit = SlidingWindow(limit=SENT_PER_MINUTE, window_s=60.0)
        self._held = HeldMessages()
        # By sender and key: what is being sent.
        self._under_way: dict[tuple[str, str], anyio.Event] = {}

    async def send(self, sender: Principal, message: NewMessage, *, key: str | None) -> Entity:
        """Push a message to its recipient's sessions and store it; return it as it is stored.

        Args:
            message: `recipient` is a user's id, a name that one user has, or `role:NAME`.
            key: the sender's name for it: sent again under the same one, it is stored once.
        Raises:
            InvalidPayload: a field is wrong.
            RateLimited: over 60 a minute.
            Conflict: the key was used for another message, or several users have that name.
            StorageUnavailable: it may have been seen, but is stored nowhere: send it again.
        """
        columns = _columns(message, self._roles)
        if not columns["recipient"].startswith(ROLE_PREFIX):
            columns["recipient"] = self._resolve(columns["recipient"])
        verdict = self._limit.take(sender.name, self._clock.now())
        if verdict.retry_after:
            raise RateLimited("too many messages", retry_after=round(verdict.retry_after, 3), remaining=0)
        self._let_go()
        if self._held.is_full:
            raise StorageUnavailable("storing is behind; send it again", retry_after_s=1)
        digest = hashlib.blake2b(orjson.dumps(columns, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
        if key is None:
            return await self._send(sender, columns, None, digest, None)
        name = (sender.name, key)
        while (under_way := self._under_way.get(name)) is not None:
            await under_way.wait()  # an impatient sender comes twice at once
        self._under_way[name] = anyio.Event()
        try:
            return await self._send(sender, columns, key, digest, self._held.came_before(*name) or await self._first(*name))
        finally:
            self._under_way.pop(name).set()

    async def _send(self, sender: Principal, columns: Entity, key: str | None, digest: str, repeated: int | None) -> Entity:
        """Push and store a message; `repeated` is the id that it got when it came first."""
        id = repeated or self._repository.next_id()
        columns |= {"id": id, "sender": sender.name, "timestamp": self._clock.stamp(), "websocket_sent": False}
        if repeated is None:
            columns["websocket_sent"] = self._push(columns)
            self._held.begin(columns)
            self._held.remember(sender.name, key, id)
        try:
            stored = await self._repository.store(columns, key, digest)
            if not self._repository.is_persisted:
                self._held.spooled(id)
        finally:
            self._held.end(id)
        self._held.remember(sender.name, key, stored)
        if repeated is not None or stored != id:
            with contextlib.suppress(StorageUnavailable):
                return await self._repository.find(stored) or session_messages.staff_message(columns) | {"id": stored}
        return session_messages.staff_message(columns) | {"id": stored}

    def _let_go(self) -> None:
        """Forget what is in the database by now."""
        if self._repository.is_persisted:
            self._held.let_go()

    async def _first(self, sender: str, key: str) -> int | None:
        """Return the message that a key was used for; nobody waits long for that."""
        with anyio.move_on_after(PUSH_DEADLINE_S), contextlib.suppress(StorageUnavailable):
            return await self._repository.first(sender, key)
        return None

    def _push(self, columns: Entity) -> bool:
        """Send a message to every session of its recipient; return whether there was one."""
        message = self._signed(session_messages.staff_message(columns | {"websocket_sent": True}))
        payload = session_messages.told("staff_message", **message)
        reached = False
        for session in self._sessions.connected:
            if is_for(session.principal, columns):
                assert session.link is not None
                session.link.send(payload)
                session.delivered.add(columns["id"])
                reached = True
        return reached

    async def deliver_unread(self, session: Session) -> None:
        """Send a session what its user has not read; what is only held in memory too.

        Raises:
            StorageUnavailable: the stored ones cannot be known now.
        """
        principal = session.principal
        self._let_go()
        found = [session_messages.staff_message(held) for held in self._held.of(principal)]
        try:
            found = await self._repository.unread(session.user, addresses(principal), own=own_name(principal)) + found
        finally:
            await self._bring(session, found)

    async def _bring(self, session: Session, messages: list[Entity]) -> None:
        """Send messages as fast as they are taken, and note which were."""
        sent, link = [], session.link
        for message in messages:
            if link is None or not await link.has_room() or session.link is not link:
                break
            if message["id"] in session.delivered:
                continue
            session.delivered.add(message["id"])
            link.send_undelivered(session_messages.told("staff_message", **self._signed(message) | {"websocketSent": True}))
            if not message["websocketSent"]:
                sent.append(message["id"])
        if sent:
            self._repository.mark_sent(sent)

    async def deliver_until_done(self, session: Session) -> None:
        """Send a session what its user has not read, as soon as that can be known."""
        backoff = Backoff(*ASKED_AGAIN_S)
        while session.link is not None:
            try:
                await self.deliver_unread(session)
                return
            except StorageUnavailable:
                await anyio.sleep(backoff.next_s())
            except Exception:
                logger.exception("unread messages could not be delivered", extra={"action": "unread_failed"})
                return

    async def read(self, reader: Principal, message_id: int) -> None:
        """Note that somebody read a message, and tell its sender, and all sessions of the reader.

        Raises:
            ResourceNotFound: no such message for this one.
            StorageUnavailable: it is not noted.
        """
        at = self._clock.stamp()
        sender = await self._repository.read(message_id, reader.name, addresses(reader), at)
        if sender is None:
            return
        payload = session_messages.told("message_read", messageId=message_id, userId=reader.name, readAt=at)
        for user in {sender, reader.name}:
            for session in self._sessions.of_user(user):
                if session.link is not None:
                    session.link.send(payload)

    async def listed(self, user: Principal, *, before: int | None, limit: int) -> list[Entity]:
        """Return what somebody sent and was sent, newest first."""
        found = await self._repository.listed(user.name, addresses(user), before, limit)
        return [self._signed(message) for message in found]

    async def unread(self, user: Principal, *, before: int | None, limit: int) -> list[Entity]:
        """Return the newest of what somebody was sent and has not read, oldest first."""
        found = await self._repository.unread(user.name, addresses(user), own=own_name(user), before=before, limit=limit)
        return [self._signed(message) for message in found]

    def _signed(self, message: Entity) -> Entity:
        """Return a message with what people call its sender, where that is not the sender's id."""
        name = self._label(message["sender"])
        return message if name == message["sender"] else message | {"senderName": name}


def _columns(message: NewMessage, roles: Collection[str]) -> Entity:
    recipient = normal_name(message.recipient)
    longest = MAX_ID_LENGTH if message.recipient.startswith(ISSUER_PREFIX) else MAX_NAME
    if len(message.recipient) > longest or not message.recipient.isprintable():
        raise InvalidPayload('recipient: expected a user\'s name or id, or "role:NAME"')
    if recipient.startswith(ROLE_PREFIX) and (role := recipient.removeprefix(ROLE_PREFIX)) not in roles:
        raise ResourceNotFound(f"no role {role!r}; known: {', '.join(roles)}")
    if recipient == ANONYMOUS:
        raise ResourceNotFound(f"no user {recipient!r}")
    return message.model_dump() | {"recipient": recipient}
