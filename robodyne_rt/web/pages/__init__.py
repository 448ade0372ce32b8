"""The server's own pages: a fixed map of files, read and compressed once at start. No directory is ever listed or followed."""

import gzip
import hashlib
import re
from importlib import resources

from aiohttp import web
from aiohttp.typedefs import Handler

from robodyne_rt.web.body import HEADERS

_TYPES = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
    "json": "application/json",
    "ts": "application/typescript",  # type declarations, for editors
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
    # `no-cache`: kept, but asked for each time, which the ETag makes cheap; a new version shows at once.
    headers = {**HEADERS, "Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    digest = hashlib.sha256(body).hexdigest()[:32]
    compressed = gzip.compress(body, mtime=0)
    # Each form has a tag of its own (RFC 9110 section 8.8.3.3).
    plain = {**headers, "ETag": f'"{digest}"'}
    packed = {**headers, "ETag": f'"{digest}-gzip"', "Content-Encoding": "gzip"}

    async def page(request: web.Request) -> web.StreamResponse:
        takes_gzip = len(compressed) < len(body) and _takes_gzip(request.headers.get("Accept-Encoding", ""))
        form, content = (packed, compressed) if takes_gzip else (plain, body)
        if any(tag.value in (digest, f"{digest}-gzip", "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers={**headers, "ETag": form["ETag"]})
        return web.Response(body=content, content_type=content_type, charset="utf-8", headers=form)

    return page


def _takes_gzip(accept_encoding: str) -> bool:
    """Return whether a client takes gzip (RFC 9110 section 12.5.3).

    Example: `br, gzip;q=0.5` does; `gzip;q=0, *` does not.
    """
    weights = dict[str, float]()
    for part in accept_encoding.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        match = re.fullmatch(r"q\s*=\s*(\d(?:\.\d{0,3})?)", parameters[0]) if parameters else None
        weights[name] = float(match[1]) if match else 1.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0
