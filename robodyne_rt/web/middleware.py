"""What every request passes: Host and Origin checks, CORS, who sends it and whether they may, errors as problem+json (RFC 9457,
SPEC sections 3, 7 and 8)."""

import ipaddress
import logging
from typing import Any, cast

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from robodyne_rt.core.origins import OriginKind
from robodyne_rt.core.rights import require, require_topic
from robodyne_rt.protocol.errors import (
    BadRequest,
    Forbidden,
    Internal,
    Misdirected,
    RequestTimeout,
    ResourceNotFound,
    RobodyneError,
    TokenMissing,
    of_status,
)
from robodyne_rt.web.authenticator import asked_host
from robodyne_rt.web.body import HEADERS, read_model, read_query
from robodyne_rt.web.connections import HttpConnection
from robodyne_rt.web.context import CONTEXT, PRINCIPAL, Context
from robodyne_rt.web.route import Route

logger = logging.getLogger(__name__)

PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "authorization, content-type, if-match, if-none-match, idempotency-key, x-session-id,"
    " traceparent",
    "Access-Control-Max-Age": "600",
}
"""What pages of other origins may send; browsers keep the answer for ten minutes."""
EXPOSED_HEADERS = "ETag, Location, Retry-After"
"""What they may read, besides what they always may."""


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check whom the request is for and whence it comes; turn every error into its answer."""
    context = request.app[CONTEXT]
    connection = cast(HttpConnection, request.protocol)  # our runner makes no others
    try:
        check_host(request, context)
        if _is_preflight(request) and _readable_by(request) is not None:
            return web.Response(status=204, headers=PREFLIGHT_HEADERS)
        check_origin(request, context)
        if request.content.is_eof():  # else it still waits for the peer
            context.connections.work(connection)
        return await handler(request)
    except RobodyneError as error:
        return problem(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        known = of_status(error.status)
        if known is None:
            return problem(BadRequest(error.reason), status=error.status, headers=_kept(error))
        return problem(known(_TEXTS.get(error.status, error.reason)), headers=_kept(error))
    except Exception as error:
        if isinstance(error, OSError) and _is_gone(request):
            return web.Response(status=400)  # nobody will read this, and nobody should log it
        logger.exception("request failed: %s %s", request.method, request.path, extra={"action": "request_failed"})
        return problem(Internal("an unforeseen error; the server's log has the cause"))
    finally:
        context.connections.wait(connection)


def _is_gone(request: web.Request) -> bool:
    """Return whether the peer is: the kernel has many words for it (reset, broken pipe, timed out, no route)."""
    return request.transport is None or request.transport.is_closing()


def guarded(route: Route) -> Handler:
    """Return a handler that runs only for who has the route's right, with what was sent as the model that it takes."""
    if route.right == "socket":
        return route.handler

    async def checked(request: web.Request) -> web.StreamResponse:
        if "%00" in request.rel_url.raw_path:
            raise ResourceNotFound(_TEXTS[404])  # in no name there is a NUL
        principal = await request.app[CONTEXT].authenticator.identify(request)
        request[PRINCIPAL] = principal
        if route.right == "read":
            require_topic(principal, request.match_info["topic"])
        elif route.right == "user":
            if principal.is_anonymous:
                raise TokenMissing("this needs a token")
        elif route.right != "public":
            require(principal, route.right, f"the right to {route.right.replace('_', ' ')}")
        if route.body is not None:
            return await route.handler(request, await read_model(request, route.body, limit_bytes=route.body_bytes))
        if route.query is not None:
            return await route.handler(request, read_query(request, route.query))
        return await route.handler(request)

    return checked


_TEXTS = {404: "no such path", 405: "this path does not take this method; see Allow", 413: "the body is too large"}


def _kept(error: web.HTTPException) -> dict[str, str]:
    return {name: error.headers[name] for name in ("Allow", "Upgrade", "Sec-WebSocket-Version") if name in error.headers}


def problem(error: RobodyneError, *, status: int | None = None, headers: dict[str, str] | None = None) -> web.Response:
    """Return an error as problem+json with its stable `code`."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": error.code.replace("_", " ").capitalize(),
        "status": status or error.status,
        "detail": error.text,
        "code": error.code,
        **{key: value for key, value in error.details.items() if key not in ("type", "title", "status", "detail", "code")},
    }
    extra = dict(headers or {})
    if (retry_after := error.details.get("retry_after_s") or error.details.get("retry_after")) is not None:
        body |= {"retry_after_s": retry_after, "retry_after": retry_after}  # the latter for one more version
        extra["Retry-After"] = str(max(1, round(retry_after)))
    if error.status == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="robodyne-rt"'
    response = web.Response(
        status=status or error.status,
        body=orjson.dumps(body),
        content_type="application/problem+json",
        headers={**HEADERS, **extra},
    )
    if error.status == RequestTimeout.status:
        response.force_close()  # the rest of the body would be taken for the next request
    return response


def check_host(request: web.Request, context: Context) -> None:
    """Refuse names that are not ours: a guest's browser may be led here under another name (DNS rebinding).

    Raises:
        Misdirected: the Host header is neither an IP address nor one of `allowed_hosts`.
    """
    host = _host_name(asked_host(request))
    if host in context.allowed_hosts or _is_address(host):
        return
    raise Misdirected(f"this server does not answer for {host[:100]!r}; add it to [server] allowed_hosts")


def check_origin(request: web.Request, context: Context) -> None:
    """Refuse pages of other sites: browsers do not stop them from opening WebSockets or posting, and a page that comes from
    the right place must not read what the place may. A token is the page's own to give; that it is a good one,
    `Authenticator.identify` checks. Where everybody is let in a token proves nothing.

    Raises:
        Forbidden: an Origin that is neither our own nor one of `allowed_origins`, and no token.
    """
    if context.authenticator.origin_kind(request) is OriginKind.FOREIGN and (
        context.access.is_open or not bears_token(request)
    ):
        origin = request.headers["Origin"]
        raise Forbidden(f"pages of {origin[:100]!r} need a token of their own, or a line in [server] allowed_origins")


def bears_token(request: web.Request) -> bool:
    """Return whether a request bears a token or a ticket of its own, good or bad."""
    return "Authorization" in request.headers or not {"token", "ticket"}.isdisjoint(request.query)


def _is_preflight(request: web.Request) -> bool:
    return request.method == "OPTIONS" and {"Origin", "Access-Control-Request-Method"} <= request.headers.keys()


def _readable_by(request: web.Request) -> str | None:
    """Return which pages may read the answer to a request, as `Access-Control-Allow-Origin` says it: a listed one with its
    cookies, every other one only what its own token opens."""
    context = request.app[CONTEXT]
    kind = context.authenticator.origin_kind(request)
    if kind is OriginKind.LISTED:
        return request.headers["Origin"]
    if kind is OriginKind.ABSENT or context.access.is_open:
        return None
    return "*" if "Authorization" in request.headers or _is_preflight(request) else None


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Say which pages may read an answer (CORS), and do not tell strangers which versions run here."""
    response.headers["Server"] = "robodyne-rt"
    if response.status == 101:
        return
    response.headers.add("Vary", "Origin")
    if (readable_by := _readable_by(request)) is not None:
        response.headers["Access-Control-Allow-Origin"] = readable_by
        response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        if readable_by != "*":
            response.headers["Access-Control-Allow-Credentials"] = "true"


def _host_name(header: str) -> str:
    """Return the Host header without its port, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].rstrip(".").lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class _PeerFaults(logging.Filter):
    """Lets one line a second through about requests that cannot be parsed, without a traceback: a scanner must not fill the
    log, and the fault is not ours."""

    def __init__(self) -> None:
        super().__init__()
        self._told_at = float("-inf")
        self._untold = 0

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        self._untold += 1
        if record.created - self._told_at < 1.0:
            return False
        # Not its text, which repeats what was sent: a token, perhaps.
        record.msg, record.args = "%d malformed requests, the last one: %s", (self._untold, type(error).__name__)
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = record.exc_text = None
        self._told_at, self._untold = record.created, 0
        return True


def peer_fault_logger() -> logging.Logger:
    """Return the logger for aiohttp's server, which logs each malformed request as an error of ours."""
    quiet = logging.getLogger("robodyne_rt.web.http")
    quiet.filters[:] = [_PeerFaults()]
    return quiet
