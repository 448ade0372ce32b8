"""Serves the contract: `/api/openapi.json`, `/api/asyncapi.json`, and `/api/docs` to read them; `protocol/openapi.py` and
`protocol/asyncapi.py` make it from the server's tables.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import orjson
from aiohttp import web

from robodyne_rt import __version__
from robodyne_rt.protocol.checking import Query
from robodyne_rt.protocol.errors import ResourceNotFound
from robodyne_rt.web.body import HEADERS
from robodyne_rt.web.route import ROUTES


async def openapi(request: web.Request, query: Query) -> web.Response:
    """Return the contract of the HTTP API, as OpenAPI 3.1."""
    return await _made(request, _make_openapi)


async def asyncapi(request: web.Request, query: Query) -> web.Response:
    """Return the contract of the WebSockets, as AsyncAPI 3.0."""
    return await _made(request, _make_asyncapi)


async def page(request: web.Request) -> web.Response:
    """Show the contract to a browser: with Swagger UI where the extra `docs` is installed, as plain links where it is not."""
    has_viewer = _viewer() is not None
    body = _PAGE.format(viewer=_VIEWER if has_viewer else _NO_VIEWER)
    return web.Response(text=body, content_type="text/html", headers={**HEADERS, "Content-Security-Policy": _POLICY})


async def asset(request: web.Request) -> web.Response:
    """Return a file of Swagger UI, or the line that starts it."""
    name = request.match_info["asset"]
    if name == "start.js":
        return web.Response(text=_START, content_type="text/javascript", headers=HEADERS)
    files = _viewer()
    if files is None or name not in _ASSETS:
        raise ResourceNotFound("no such path")
    body = await anyio.to_thread.run_sync((files / name).read_bytes)
    return web.Response(body=body, content_type=_ASSETS[name], headers=HEADERS)


def _viewer() -> Path | None:
    """Return the folder of Swagger UI; None where the extra `docs` is not installed."""
    # Found, not imported: the package is one of Django's, and only its files are wanted.
    found = importlib.util.find_spec("drf_spectacular_sidecar")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "static/drf_spectacular_sidecar/swagger-ui-dist"


async def _made(request: web.Request, make: Callable[[web.Application], dict[str, Any]]) -> web.Response:
    documents = request.app[DOCUMENTS]
    if make.__name__ not in documents:
        # A few hundred models are built for it: in a thread, once.
        documents[make.__name__] = orjson.dumps(await anyio.to_thread.run_sync(make, request.app))
    headers = {**HEADERS, "Cache-Control": "no-cache"}
    return web.Response(body=documents[make.__name__], content_type="application/json", headers=headers)


def _make_openapi(app: web.Application) -> dict[str, Any]:
    from robodyne_rt.protocol import openapi

    routes = app[ROUTES]
    return openapi.document(routes, name=app[NAME], version=__version__)


def _make_asyncapi(app: web.Application) -> dict[str, Any]:
    from robodyne_rt.protocol import asyncapi

    return asyncapi.document(name=app[NAME], version=__version__)


DOCUMENTS = web.AppKey("documents", dict[str, bytes])
NAME = web.AppKey("name", str)

_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>robodyne-rt: the API</title>
<link rel="icon" href="/static/icon.svg">
<style>body {{ margin: 16px; font-family: sans-serif }}</style>
<p><a href="/api/openapi.json">OpenAPI 3.1</a> of HTTP, <a href="/api/asyncapi.json">AsyncAPI 3.0</a> of the WebSockets.</p>
{viewer}
</html>
"""

_VIEWER = """<link rel="stylesheet" href="/api/docs/swagger-ui.css">
<div id="api"></div>
<script src="/api/docs/swagger-ui-bundle.js"></script>
<script src="/api/docs/start.js"></script>"""

_NO_VIEWER = "<p>To read and try it here: <code>pip install 'robodyne-rt[docs]'</code>, and restart the server.</p>"

_START = 'SwaggerUIBundle({ url: "/api/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });'
