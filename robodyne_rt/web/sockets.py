"""The WebSocket of one topic: `GET /ws/{topic}` (SPEC section 3).

aiohttp does the handshake and reads; the hub writes ready-made frames to the transport. aiohttp's own closing is replaced,
because it would wait for each peer in turn: here a close is one write, and who does not take it is aborted by the hub.
"""

import base64
import binascii
import logging

from aiohttp import HttpVersion11, WSMsgType, web

from robodyne_rt.errors import BadRequest, Internal, TokenMissing, TooLarge
from robodyne_rt.hub.connection import Connection, HeartbeatKind
from robodyne_rt.web.context import CONTEXT, peer_address

logger = logging.getLogger(__name__)

MAX_INTERVAL_S = 3600.0

_PROTOCOL_REASONS = {1002: "protocol_error", 1007: "invalid_utf8", TooLarge.close_code: TooLarge.close_reason}


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
        connection.manager.close(connection, code, _PROTOCOL_REASONS.get(code, ""))
        return True


def _may_be_sent(code: int) -> bool:
    """Return whether a close code may stand in a close frame (RFC 6455 section 7.4)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


async def topic_socket(request: web.Request) -> web.StreamResponse:
    """Serve one subscriber until either side ends it."""
    check_upgrade(request)
    context = request.app[CONTEXT]
    topic = request.match_info["topic"]
    query = request.query
    interval_s = _interval(query.get("interval"))
    kind: HeartbeatKind = "protocol" if query.get("heartbeat") == "protocol" else "message"
    since, epoch = query.get("since"), query.get("epoch")
    address = peer_address(request)
    # The limit itself still passes: aiohttp refuses a message of exactly max_msg_size.
    socket = TopicSocket(autoping=False, compress=False, max_msg_size=context.max_client_message_bytes + 1)
    await socket.prepare(request)
    transport = request.transport
    if transport is None:
        return socket
    hub = context.hub
    connection = hub.connect(transport, topic, peer=address, interval_s=interval_s or 0.0, heartbeat_kind=kind)
    socket.connection = connection
    clock = context.clock
    try:
        if not connection.closing and not context.access.may_read(topic, address):
            connection.close(TokenMissing())
        await hub.greet(connection, since, epoch)
        if interval_s is None and not connection.closing:
            connection.error("INVALID_MESSAGE", f"interval: expected seconds from 0 to {MAX_INTERVAL_S:.0f}", {})
        while True:
            message = await socket.receive()
            match message.type:
                case WSMsgType.TEXT:
                    connection.received(message.data, clock.now())
                case WSMsgType.PING:
                    connection.received_ping(message.data, clock.now())
                case WSMsgType.PONG:
                    connection.received_pong(clock.now())
                case WSMsgType.BINARY:
                    connection.received_binary(clock.now())
                case _:
                    return socket
    except Exception:
        # After the 101 there is no HTTP answer any more.
        logger.exception("a WebSocket failed", extra={"action": "socket_failed"})
        connection.close(Internal())
        return socket
    finally:
        hub.gone(connection)


def check_upgrade(request: web.Request) -> None:
    """Refuse what is no clean WebSocket handshake before anything is switched (RFC 6455 section 4.2.1).

    Raises:
        BadRequest: a body (which could smuggle a second request), or a bad key.
        web.HTTPUpgradeRequired: no upgrade, or another version of the protocol.
    """
    headers = request.headers
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


def _interval(text: str | None) -> float | None:
    """Return `?interval=` in seconds, None where it is no such number."""
    if text is None:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value <= MAX_INTERVAL_S else None
