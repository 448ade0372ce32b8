"""aiohttp's server, silent about what it could not parse: its own answer repeats the bytes, a token among them perhaps, and
tells which versions run here.
"""

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from robodyne_rt.errors import BadRequest, Internal
from robodyne_rt.web.middleware import HEADERS


class _RequestHandler(RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # which logs, and sees that nothing was sent yet
        error: BadRequest | Internal = BadRequest("the request cannot be parsed") if status < 500 else Internal()
        body = {"type": "about:blank", "title": error.code.replace("_", " ").capitalize(), "status": status}
        response = web.Response(
            status=status,
            body=orjson.dumps(body | {"detail": error.text, "code": error.code}),
            content_type="application/problem+json",
            headers={**HEADERS, "Server": "robodyne-rt"},
        )
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _RequestHandler(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """An `AppRunner` with that server; aiohttp has no public place to put one."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, loop=made._loop, **made._kwargs)
