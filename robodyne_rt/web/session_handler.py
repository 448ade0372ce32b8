"""What a client says in a session, and who takes it (SPEC section 4)."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from robodyne_rt.hub.connection import Connection
from robodyne_rt.model import times
from robodyne_rt.protocol import session_messages
from robodyne_rt.protocol.errors import (
    RobodyneError,
    TokenExpired,
    TokenInvalid,
    UnknownTopic,
)
from robodyne_rt.protocol.session_messages import (
    ANSWERED_BY,
    CAPABILITIES,
    Ack,
    MessageRead,
    SessionMessage,
    Subscribe,
    Unsubscribe,
)
from robodyne_rt.protocol.topic_messages import BadMessage
from robodyne_rt.sessions.manager import Session
from robodyne_rt.web.context import Context


class SessionHandler:
    """One connection of a session: dispatches what the client says."""

    def __init__(self, *, context: Context, session: Session, connection: Connection) -> None:
        self._context = context
        self._session = session
        self._connection = connection
        handlers: dict[str, Callable[[SessionMessage], Awaitable[None]]] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "query": self._query,
            "ack": self._ack,
            "token": self._token,
            "message_read": self._message_read,
        }
        self._handlers = handlers | dict.fromkeys(ANSWERED_BY, self._callback_answer)
        connection.listener = self

    def alive(self, data: Any) -> None:
        """Take a pong: what was sent before its ping arrived."""
        if (seq := session_messages.proven(data)) is not None:
            self._context.sessions.confirm(self._session, seq)

    def ended(self) -> None:
        """The connection left the hub: the session is away, however long its socket takes to close."""
        self._context.sessions.detach(self._session, self._connection)

    async def take(self, message: SessionMessage) -> None:
        """Take one message; what is wrong with it is told, and the connection lives."""
        try:
            await self._handlers[message.type](message)
        except BadMessage as error:
            self._connection.bad_message(error.word, error.text, self._context.clock.now(), error.details)
        except RobodyneError as error:
            details = {"requestId": message.request_id} if message.request_id else {}
            topic = message.fields.get("topic")
            self._connection.error(
                error.session_code, error.text, details, topic=topic if isinstance(topic, str) and len(topic) <= 100 else ""
            )

    # -- topics --------------------------------------------------------------------------------------------------

    async def _subscribe(self, message: SessionMessage) -> None:
        hub, wanted = self._context.hub, session_messages.fields_of(Subscribe, message)
        if (known := self._connection.subscription(wanted.topic)) is not None:
            hub.unsubscribe(known)  # asked again: from where the client is now
        subscription = hub.subscribe(self._connection, wanted.topic, interval_s=wanted.interval, is_full=wanted.mode == "full")
        self._context.sessions.note(self._session)
        try:
            await hub.greet(subscription, None if wanted.since is None else str(wanted.since), wanted.epoch)
        except RobodyneError:
            hub.unsubscribe(subscription)
            self._context.sessions.note(self._session)
            raise

    async def _unsubscribe(self, message: SessionMessage) -> None:
        topic = session_messages.fields_of(Unsubscribe, message).topic
        if topic not in self._context.hub.feeds:
            raise UnknownTopic(f"no topic {topic[:100]!r}")
        subscription = self._connection.subscription(topic)
        if subscription is None:
            return  # it was refused, or taken away
        self._context.hub.unsubscribe(subscription)
        self._context.sessions.note(self._session)

    # -- requests ------------------------------------------------------------------------------------------------

    async def _query(self, message: SessionMessage) -> None:
        try:
            text = session_messages.question(message)
        except BadMessage as error:
            if message.request_id is None:
                raise
            self._fail(message, error.word, error.text)
            self._connection.count_bad(self._context.clock.now())
            return
        assert message.request_id is not None
        principal = self._connection.principal
        if not principal.may("query"):
            self._fail(message, "FORBIDDEN", f"{principal.label} may not ask questions")
            return
        claimed = message.fields.get("userId")
        if claimed is not None and claimed not in (principal.name, principal.label) and not self._context.access.is_open:
            self._fail(message, "FORBIDDEN", "userId is not who the token says")
            return
        if isinstance(said := message.fields.get("capabilities"), list):
            self._session.capabilities = frozenset(word for word in said if isinstance(word, str)) & CAPABILITIES
        again = message.fields.get("again") is True
        await self._context.desk.ask(self._session, message.request_id, text, message.dialect, again=again)

    def _fail(self, message: SessionMessage, code: str, text: str) -> None:
        assert message.request_id is not None
        self._connection.send(session_messages.failure(message.dialect, message.request_id, code, text))

    async def _ack(self, message: SessionMessage) -> None:
        self._context.sessions.confirm(self._session, session_messages.fields_of(Ack, message).seq)

    async def _callback_answer(self, message: SessionMessage) -> None:
        self._context.desk.callback_answered(self._session, message.type, message.request_id, message.fields)

    # -- the rest ------------------------------------------------------------------------------------------------

    async def _token(self, message: SessionMessage) -> None:
        data = message.data if isinstance(message.data, dict) else {"token": message.fields.get("token")}
        if await renew(self._context, self._connection, data):
            self._context.sessions.note(self._session)
            expires_at = times.to_text(self._connection.principal.expires_at)
            self._connection.send(session_messages.told("token", expiresAt=expires_at))

    async def _message_read(self, message: SessionMessage) -> None:
        read = session_messages.fields_of(MessageRead, message)
        await self._context.messages.read(self._connection.principal, read.message_id)


async def renew(context: Context, connection: Connection, data: Any) -> bool:
    """Take a `token` message: the same user's newer token keeps a connection alive."""
    token = data.get("token") if isinstance(data, dict) else None
    now = context.clock.now()
    try:
        if not isinstance(token, str):
            raise TokenInvalid("expected a token")
        principal = await context.authenticator.tokens.principal(token)
    except (TokenInvalid, TokenExpired) as error:
        connection.bad_message("FORBIDDEN", error.text, now, {"reason": error.close_reason})
        return False
    if principal.name != connection.principal.name:
        connection.bad_message("FORBIDDEN", "the token is another user's", now, {})
        return False
    if not connection.closing:
        context.hub.renew(connection, replace(principal, place_rights=connection.principal.place_rights))
    return True
