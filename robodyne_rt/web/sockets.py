"""The WebSockets: of one topic, `GET /ws/{topic}` (SPEC section 3), and of a session, `GET /ws` (SPEC section 4).

aiohttp does the handshake and reads; the hub writes ready-made frames to the transport. aiohttp's own closing is replaced,
because it would wait for each peer in turn: here a close is one write, and who does not take it is aborted by the hub.
"""

import base64
import binascii
import logging

from aiohttp import HttpVersion11, WSMessage, WSMsgType, web

from robodyne_rt.hub.connection import Connection, HeartbeatKind
from robodyne_rt.model.topics import TOPIC_NAMES
from robodyne_rt.protocol import session_messages, topic_messages
from robodyne_rt.protocol.checking import known_part
from robodyne_rt.protocol.errors import (
    BadRequest,
    Forbidden,
    Internal,
    InvalidPayload,
    InvalidUtf8,
    ProtocolError,
    RobodyneError,
    TokenExpired,
    TokenInvalid,
    TokenMissing,
    TooLarge,
)
from robodyne_rt.protocol.session_messages import SessionSocketQuery
from robodyne_rt.protocol.topic_messages import TopicSocketQuery
from robodyne_rt.sessions.manager import Session
from robodyne_rt.web.context import CONTEXT
from robodyne_rt.web.people import profile_fields
from robodyne_rt.web.session_handler import SessionHandler, renew

logger = logging.getLogger(__name__)

_REASONS = {error.close_code: error.close_reason for error in (ProtocolError, InvalidUtf8, TooLarge)}
"""Of the closes that aiohttp decides on."""

_ENDS = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})


class TopicSocket(web.WebSocketResponse):
    """aiohttp's socket, closed by the hub."""

    connection: Connection | None = None

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """End the connection: aiohttp calls this when the peer closed, broke the protocol, or the handler returned."""
        connection = self.connection
        if connection is None or connection.closing:
            return False
        if connection.transport.is_closing():
            connection.manager.gone(connection)
            return True
        if code == 1000 and self.close_code:
            code = self.close_code if _may_be_sent(self.close_code) else 1002
        connection.manager.close(connection, code, _REASONS.get(code, ""))
        return True


def _may_be_sent(code: int) -> bool:
    """Return whether a close code may stand in a close frame (RFC 6455 section 7.4)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


async def topic_socket(request: web.Request) -> web.StreamResponse:
    """Serve one subscriber until either side ends it."""
    # Waiting happens here and nowhere deeper: each coroutine on the way would cost half a kilobyte per idle screen.
    context = request.app[CONTEXT]
    topic = request.match_info["topic"]
    # A name that is no topic must not become a label, of which there would be no end.
    socket, connection = await _open(request, topic if topic in TOPIC_NAMES else "unknown")
    if connection is None:
        return socket
    clock = context.clock
    try:
        if not connection.closing:
            await _greet(request, connection, topic)
        while (message := await socket.receive()).type not in _ENDS:
            text = _text_of(message, connection, clock.now())
            if text is None:
                continue
            said = connection.received(text, clock.now(), topic_messages.parse_client)
            if said is not None:  # a token: the one type that is about more than the connection
                await renew(context, connection, said.data)
    except Exception:
        _failed(connection)
    finally:
        context.hub.gone(connection)
    return socket


async def _greet(request: web.Request, connection: Connection, topic: str) -> None:
    """Subscribe a topic's own connection, and send it its first message."""
    hub = request.app[CONTEXT].hub
    query, problem = known_part(TopicSocketQuery, request.query)
    try:
        subscription = hub.subscribe(connection, topic, interval_s=query.interval, is_full=query.mode == "full")
        await hub.greet(subscription, query.since, query.epoch)
    except RobodyneError as error:
        connection.close(error)
    _tell_problem(connection, problem)


def _tell_problem(connection: Connection, problem: str) -> None:
    """Tell what is wrong with a query, once its connection was served by the rest of it."""
    if problem and not connection.closing:
        connection.error(InvalidPayload.session_code, problem, {})


async def session_socket(request: web.Request) -> web.StreamResponse:
    """Serve one session's connection until either side ends it (SPEC section 4)."""
    context = request.app[CONTEXT]
    socket, connection = await _open(request, session_messages.LABEL)
    if connection is None:
        return socket
    clock = context.clock
    session: Session | None = None
    try:
        if not connection.closing:
            session = await _attach(request, connection)
        handler = None if session is None else SessionHandler(context=context, session=session, connection=connection)
        while (message := await socket.receive()).type not in _ENDS:
            text = _text_of(message, connection, clock.now())
            if session is None or handler is None:
                continue
            context.sessions.seen(session)  # a pong of the protocol is a sign of life too
            if text is None:
                continue
            said = connection.received(text, clock.now(), session_messages.parse)
            if said is not None:
                await handler.take(said)
    except Exception:
        _failed(connection)
    finally:
        context.hub.gone(connection)
        if session is not None:
            context.sessions.detach(session, connection)
    return socket


async def _attach(request: web.Request, connection: Connection) -> Session | None:
    """Return the session of a connection; None where it was told why not, or is gone."""
    context = request.app[CONTEXT]
    query, problem = known_part(SessionSocketQuery, request.query)
    principal = connection.principal
    if not (principal.rights or any(right.startswith("read:") for right in principal.place_rights)):
        connection.close(TokenMissing() if principal.is_anonymous else Forbidden())
        return None
    said = query.capabilities
    session = await context.sessions.attach(
        connection,
        device=query.device,
        token=query.session,
        confirmed=query.answered,
        capabilities=None if said is None else session_messages.CAPABILITIES.intersection(said.split(",")),
        more={
            "roles": sorted(principal.roles),
            "rights": sorted(principal.rights | principal.place_rights),
            **profile_fields(principal),
        },
    )
    _tell_problem(connection, problem)
    return session


async def _open(request: web.Request, label: str) -> tuple[TopicSocket, Connection | None]:
    """Do the handshake; return the connection, which may be closed already, with the reason told."""
    check_upgrade(request)
    context = request.app[CONTEXT]
    kind: HeartbeatKind = "protocol" if request.query.get("heartbeat") == "protocol" else "message"
    address = context.authenticator.address_of(request)
    refusal: RobodyneError | None = None
    try:
        principal = await context.authenticator.identify(request, upgrades=True)
    except (TokenInvalid, TokenExpired) as error:
        # Told after the handshake, so that a browser can read it.
        refusal, principal = error, context.access.anonymous(address)
    # The limit itself still passes: aiohttp refuses a message of exactly max_msg_size.
    socket = TopicSocket(autoping=False, compress=False, max_msg_size=context.max_client_message_bytes + 1)
    await socket.prepare(request)
    transport = request.transport
    if transport is None:
        return socket, None
    if refusal is None and label == session_messages.LABEL and (token := request.query.get("session")):
        context.sessions.make_way(token, principal)
    connection = socket.connection = context.hub.connect(
        transport,
        label,
        peer=address,
        principal=principal,
        heartbeat_kind=kind,
        at_most=context.max_sessions if label == session_messages.LABEL else None,
    )
    if refusal is not None:
        connection.close(refusal)
    return socket, connection


def _text_of(message: WSMessage, connection: Connection, now: float) -> bytes | None:
    """Return what a client says; frames that are no text are dealt with here."""
    match message.type:
        case WSMsgType.TEXT:
            text: bytes = message.data
            return text
        case WSMsgType.PING:
            connection.received_ping(message.data, now)
        case WSMsgType.PONG:
            connection.received_pong(now, message.data)
        case _:
            connection.received_binary(now)
    return None


def _failed(connection: Connection) -> None:
    """End a connection after an error of ours: after the 101 there is no HTTP answer any more."""
    logger.exception("a WebSocket failed", extra={"action": "socket_failed"})
    connection.close(Internal())


def check_upgrade(request: web.Request) -> None:
    """Refuse what is no clean WebSocket handshake before anything is switched (RFC 6455 section 4.2.1).

    Raises:
        BadRequest: a body (which could smuggle a second request), or a bad key.
        web.HTTPUpgradeRequired: no upgrade, or another version of the protocol.
    """
    headers = request.headers
    if request.method != "GET":
        raise _upgrade_required("a WebSocket handshake is a GET")
    if request.version < HttpVersion11:
        raise BadRequest("a WebSocket handshake needs HTTP/1.1")
    if headers.get("Content-Length", "0").strip() != "0" or "Transfer-Encoding" in headers:
        raise BadRequest("a WebSocket handshake has no body")
    connection = headers.get("Connection", "").lower()
    if headers.get("Upgrade", "").strip().lower() != "websocket" or "upgrade" not in connection:
        raise _upgrade_required("this path speaks WebSocket")
    if headers.get("Sec-WebSocket-Version", "").strip() != "13":
        raise _upgrade_required("only version 13 of the WebSocket protocol is spoken")
    if len(headers.getall("Sec-WebSocket-Key", ())) > 1:
        raise BadRequest("Sec-WebSocket-Key: expected one")
    try:
        key = base64.b64decode(headers.get("Sec-WebSocket-Key", ""), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16:
        raise BadRequest("Sec-WebSocket-Key: expected 16 bytes in base64")


def _upgrade_required(reason: str) -> web.HTTPException:
    headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    return web.HTTPUpgradeRequired(reason=reason, headers=headers)
