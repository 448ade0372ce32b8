"""Bodies of requests and answers: JSON, bounded in size and time."""

from typing import Any, TypeVar

import anyio
import orjson
from aiohttp import web

from robodyne_rt.protocol.checking import Model, checked
from robodyne_rt.protocol.errors import BadRequest, InvalidPayload, RequestTimeout, TooLarge, UnsupportedMediaType
from robodyne_rt.protocol.json_depth import is_too_deep
from robodyne_rt.protocol.names import with_both_names

DEADLINE_S = 10.0
CREDENTIALS = frozenset({"token", "ticket"})
"""Keys of a query that say who asks."""

M = TypeVar("M", bound=Model)

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


async def read_body(request: web.Request, *, limit_bytes: int) -> bytes:
    """Return a JSON request's body.

    Raises:
        UnsupportedMediaType: not JSON, or compressed.
        TooLarge: over `limit_bytes`.
        RequestTimeout: not complete within 10 s.
        ConnectionResetError: nobody is there any more.
    """
    if request.content_type != "application/json":
        raise UnsupportedMediaType(f"expected application/json, not {request.content_type[:100]}")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType("compressed bodies are not taken")
    if (request.content_length or 0) > limit_bytes:
        raise TooLarge(f"body over {limit_bytes} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(DEADLINE_S):
            async for chunk in request.content.iter_any():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit_bytes:
                    raise TooLarge(f"body over {limit_bytes} bytes")
    except TimeoutError:
        raise RequestTimeout(f"the body was not complete within {DEADLINE_S:.0f} s") from None
    except RuntimeError as error:
        if request.transport is None:  # aiohttp's word for a peer that went away before
            raise ConnectionResetError("the peer is gone") from error
        raise
    return b"".join(chunks)


async def read_model(request: web.Request, model: type[M], *, limit_bytes: int) -> M:
    """Return a request's JSON object as a model; no body at all is an empty object.

    Raises:
        BadRequest: not JSON.
        InvalidPayload: not what the model says.
    """
    body: Any = {}
    if request.can_read_body:
        try:
            body = orjson.loads(await read_body(request, limit_bytes=limit_bytes))
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"not JSON: {error}") from error
    if not isinstance(body, dict) or is_too_deep(body):
        raise InvalidPayload("expected a JSON object")
    return checked(model, body)


def read_query(request: web.Request, model: type[M]) -> M:
    """Return a request's query as a model.

    Raises:
        InvalidPayload: not what the model says, or a key twice.
    """
    return checked(model, query_of(request), noun="query key")


def query_of(request: web.Request) -> dict[str, str]:
    """Return the query without what says who asks, which is no part of what is asked.

    Raises:
        InvalidPayload: a key stands there twice.
    """
    query = {name: value for name, value in request.query.items() if name not in CREDENTIALS}
    if len(query) != sum(name not in CREDENTIALS for name in request.query):
        raise InvalidPayload("a query key stands there twice")
    return query


def json_answer(body: object, *, status: int = 200) -> web.Response:
    """Return an answer in JSON that nobody stores."""
    text = orjson.dumps(with_both_names(body))
    return web.Response(status=status, body=text, content_type="application/json", headers=HEADERS)
