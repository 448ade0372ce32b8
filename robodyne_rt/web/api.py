"""The HTTP API: the polling twin of a topic, device messages, health and metrics (SPEC sections 3, 5, 7 and 12)."""

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator

import anyio
import orjson
from aiohttp import web

from robodyne_rt import __version__
from robodyne_rt.core.framing import Frame
from robodyne_rt.core.rights import require
from robodyne_rt.devices.receiver import Peer
from robodyne_rt.protocol import http
from robodyne_rt.protocol.checking import Query
from robodyne_rt.protocol.errors import BadRequest, StorageUnavailable, status_of_device_code
from robodyne_rt.protocol.topic_messages import PART_BYTES
from robodyne_rt.web.body import HEADERS, json_answer, read_body
from robodyne_rt.web.context import CONTEXT, PRINCIPAL

logger = logging.getLogger(__name__)

PIECE_TAKEN_WITHIN_S = 30.0
"""How long a reader of a large document may take for a piece of it."""


async def get_topic(request: web.Request, query: http.TopicQuery) -> web.StreamResponse:
    """Answer as the WebSocket's first message would, for clients that poll; `ETag` names what was answered, unless it is
    so large that it is streamed."""
    context = request.app[CONTEXT]
    since = None if query.mode == "full" else query.since
    document, epoch = await context.hub.document(request.match_info["topic"], request[PRINCIPAL], since, query.epoch)
    headers = {**HEADERS, "Cache-Control": "no-cache"}
    payload = b""
    async for piece in document.pieces:
        payload += piece
        if len(payload) > PART_BYTES:
            return await _stream(request, headers, payload, document.pieces)
    headers["ETag"] = etag = f'"{epoch}-{document.offset}-{zlib.crc32(payload):08x}"'
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    return web.Response(body=payload, content_type="application/json", headers=headers)


async def _stream(
    request: web.Request, headers: dict[str, str], begun: bytes, pieces: AsyncIterator[bytes]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/json"})
    await response.prepare(request)
    try:
        async for piece in _after(begun, pieces):
            with anyio.fail_after(PIECE_TAKEN_WITHIN_S):
                await response.write(piece)
        await response.write_eof()
    except Exception:
        # An answer has begun: nothing but its end may follow.
        logger.warning("a document was not sent to its end", exc_info=True, extra={"action": "document_cut"})
        if request.transport is not None:
            request.transport.abort()
    return response


async def _after(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


async def post_device_message(request: web.Request) -> web.Response:
    """Take one device message; the answer is what the device's TCP connection would read."""
    context = request.app[CONTEXT]
    address = context.authenticator.address_of(request)
    body = await read_body(request, limit_bytes=context.max_device_message_bytes)
    try:
        if not isinstance(orjson.loads(body), dict):
            raise BadRequest("expected a JSON object")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"not JSON: {error}") from error
    if context.receiver.store.is_behind:
        raise StorageUnavailable("storing is behind; keep the message", retry_after_s=1)
    answered = asyncio.Event()
    replies = context.receiver.take([Frame(body, checked=False)], Peer(address), answered.set)
    if not replies:
        return json_answer({"status": "success", "message": "pushed, not stored yet"}, status=202)
    await answered.wait()
    text = replies[0].body or b""
    status = status_of_device_code(orjson.loads(text).get("error_code"))
    return web.Response(status=status, body=text, content_type="application/json", headers=HEADERS)


async def list_dead_letters(request: web.Request, query: Query) -> web.Response:
    """Return the newest dead letters, without their payload."""
    return json_answer({"dead_letters": await request.app[CONTEXT].dead_letters.listed()})


async def show_dead_letter(request: web.Request, query: Query) -> web.Response:
    """Return one dead letter with its payload."""
    return json_answer(await request.app[CONTEXT].dead_letters.shown(int(request.match_info["id"])))


async def act_on_dead_letters(request: web.Request, body: http.DeadLetterAction) -> web.Response:
    """Requeue or drop dead letters."""
    ids = None if body.ids == "all" else body.ids
    return json_answer({"results": await request.app[CONTEXT].dead_letters.act(body.action, ids)})


async def post_backup(request: web.Request) -> web.Response:
    """Copy the database, verified, while everything goes on; answers where the copy lies on the server."""
    return json_answer(await request.app[CONTEXT].back_up(), status=201)


async def livez(request: web.Request) -> web.Response:
    """Say that the loop turns."""
    return web.Response(text="ok\n", headers=HEADERS)


async def readyz(request: web.Request, query: http.HealthQuery) -> web.Response:
    """Say whether the server can do its work; `?verbose` says what is wrong."""
    context = request.app[CONTEXT]
    is_ready, checks = context.health_report()
    status = 200 if is_ready else 503
    if query.verbose is None:
        return web.Response(status=status, text="ok\n" if is_ready else "not ready\n", headers=HEADERS)
    require(request[PRINCIPAL], "look", "the verbose report")
    return json_answer({"ready": is_ready, "version": __version__, "checks": checks}, status=status)


async def metrics(request: web.Request) -> web.Response:
    """Return the metrics for Prometheus."""
    text = request.app[CONTEXT].metrics()
    return web.Response(body=text, headers={**HEADERS, "Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
