"""Bodies of requests and answers: JSON, bounded in size and time."""

from collections.abc import Iterable
from typing import Any

import anyio
import orjson
from aiohttp import web

from robodyne_rt.protocol.errors import BadRequest, InvalidPayload, RequestTimeout, TooLarge, UnsupportedMediaType
from robodyne_rt.protocol.json_depth import is_too_deep
from robodyne_rt.web.middleware import HEADERS

DEADLINE_S = 10.0
BODY_BYTES = 65536

_REQUIRED = object()


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


async def read_object(request: web.Request, known: Iterable[str], *, limit_bytes: int = BODY_BYTES) -> dict[str, Any]:
    """Return a request's JSON object; no body at all is an empty one.

    Args:
        known: names that it may have.
    Raises:
        BadRequest: not JSON.
        InvalidPayload: not an object, or with another name.
    """
    if not request.can_read_body:
        return {}
    try:
        body = orjson.loads(await read_body(request, limit_bytes=limit_bytes))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"not JSON: {error}") from error
    if not isinstance(body, dict) or is_too_deep(body):
        raise InvalidPayload("expected a JSON object")
    if unknown := sorted(set(body) - set(known)):
        raise InvalidPayload(f"unknown field {unknown[0][:100]!r}; known: {', '.join(known) or 'none'}")
    return body


def text_field(body: dict[str, Any], name: str, at_most: int, *, default: Any = _REQUIRED) -> str:
    """Return a text of a body.

    Raises:
        InvalidPayload: it is missing, empty, too long, or no text.
    """
    value = body.get(name)
    if value is None and default is not _REQUIRED:
        return str(default)
    if not isinstance(value, str) or not 0 < len(value) <= at_most or "\0" in value:
        raise InvalidPayload(f"{name}: expected a text of 1 to {at_most} characters")
    return value


def number_in_query(request: web.Request, name: str, *, default: int | None, most: int) -> int | None:
    """Return a number of the query string.

    Raises:
        InvalidPayload: it is none, or out of range.
    """
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and 0 < int(text) <= most):
        raise InvalidPayload(f"{name}: expected a number from 1 to {most}")
    return int(text)


def json_answer(body: object, *, status: int = 200) -> web.Response:
    """Return an answer in JSON that nobody stores."""
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=HEADERS)
