"""The server's own pages: a fixed map of files, read once at start. No directory is ever listed or followed."""

from importlib import resources

from aiohttp import web
from aiohttp.typedefs import Handler

from robodyne_rt.web.middleware import HEADERS

_TYPES = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
    "json": "application/json",
    "ts": "text/plain",  # type declarations, for editors
}

# Scripts and styles come from files of ours only; no inline script can run, whatever a robot calls itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def handlers() -> dict[str, Handler]:
    """Return a handler for each path: `/` and `/static/NAME`."""
    found: dict[str, Handler] = {}
    for file in resources.files(__package__).iterdir():
        ending = file.name.rpartition(".")[2]
        if ending not in _TYPES:
            continue
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        found[path] = _page(file.read_bytes(), _TYPES[ending])
    return found


def _page(body: bytes, content_type: str) -> Handler:
    headers = {**HEADERS, "Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}

    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    return page
