"""aiohttp's server, with a bounded number of connections, and silent about what it could not parse: its own answer repeats the
bytes, a token among them perhaps, and tells which versions run here.
"""

import asyncio
from typing import Any, cast

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from robodyne_rt.errors import BadRequest, Internal
from robodyne_rt.web.connections import HttpConnections
from robodyne_rt.web.middleware import HEADERS


class _RequestHandler(RequestHandler):
    """One connection. One that is refused never reaches aiohttp."""

    def __init__(self, *arguments: Any, connections: HttpConnections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connections = connections
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        # The control socket has no address: only this machine's own user may open it.
        self._is_refused = isinstance(peer, tuple) and not self._connections.admit(self, str(peer[0]))
        if self._is_refused:
            cast(asyncio.Transport, transport).abort()  # uvloop's are no subclass
            return
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_refused:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self._is_refused:
            self._connections.leave(self)
            # aiohttp would close what is lost. asyncio's TLS transport breaks at that: it forgets its protocol, and whoever
            # asks it afterwards how much is unsent (the hub) gets an AttributeError.
            self.transport = None
            super().connection_lost(exc)

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
    admitted: HttpConnections

    def __call__(self) -> RequestHandler:
        return _RequestHandler(self, loop=self._loop, connections=self.admitted, **self._kwargs)


class Runner(web.AppRunner):
    """An `AppRunner` with that server; aiohttp has no public place to put one."""

    def __init__(self, app: web.Application, *, connections: HttpConnections, **options: Any) -> None:
        super().__init__(app, **options)
        self._connections = connections

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        server = _Server(made.request_handler, request_factory=made.request_factory, loop=made._loop, **made._kwargs)
        server.admitted = self._connections
        return server
