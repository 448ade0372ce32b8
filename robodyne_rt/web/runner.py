"""aiohttp's server, with a bounded number of connections, and silent about what it could not parse: its own answer repeats the
bytes, a token among them perhaps, and tells which versions run here.
"""

import asyncio
import sys
from collections.abc import Callable, Hashable
from typing import Any, cast

import anyio
import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from robodyne_rt.devices.turns import ReadingTurns
from robodyne_rt.protocol.errors import BadRequest, Internal
from robodyne_rt.web.body import HEADERS
from robodyne_rt.web.connections import HttpConnections

TURN_S = 0.0003
"""Of reading in one turn of the loop: to answer a request takes several times as long as to read it."""


MAX_UNREAD_BYTES = 65536
"""What one connection may have waiting for its turn."""

CLOSED_WITHIN_S = 0.5
"""What a peer has to take the rest, and to end its TLS, when the server ends."""

CUT_WITHIN_S = 0.1


class Connection(RequestHandler):
    """One connection, read from in turns with the others. The control socket's need no place: only this machine's own user may
    open it."""

    # There are thousands.
    __slots__ = (
        "_connections",
        "_cut",
        "_is_gone",
        "_is_lost",
        "_link",
        "_loss",
        "_turns",
        "_unread",
        "place",
        "waits_for_store",
    )

    def __init__(self, *arguments: Any, connections: HttpConnections, turns: ReadingTurns, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connections = connections
        self._turns = turns
        self._unread = b""
        self.waits_for_store = False
        self._is_lost = False
        self._loss: BaseException | None = None
        self._is_gone = False
        self.place: Hashable | None = None
        self._cut: Callable[[], None] | None = None
        self._link: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        """Whether the peer's end is not known yet; aiohttp forgets its `transport` when it begins to close it."""
        return self._link is not None

    def begin(self, address: str, *, cut: Callable[[], None]) -> bool:
        """Take a place for what was accepted; return whether there is one.

        Args:
            cut: ends the handshake.
        """
        self._cut = cut
        return self._connections.admit(self, address)

    def failed(self) -> None:
        """Give the place back: the handshake failed."""
        self._connections.leave(self)

    def cut(self) -> None:
        """Cut it off: another one needs the place."""
        if self._link is not None:
            self._link.abort()
        elif self._cut is not None:
            self._cut()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._cut is not None and self.place is None:
            # Cut off at the very end of its handshake.
            self._is_gone = True
            cast(asyncio.Transport, transport).abort()
            return
        self._cut = None
        self._link = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_gone:
            self._unread += data
            if len(self._unread) > MAX_UNREAD_BYTES:
                self.take_turn()  # rather than hold it
            else:
                self._turns.ask(self)

    def take_turn(self) -> bool:
        """Hand on what was read, or that the peer is gone."""
        data, self._unread = self._unread, b""
        if not self._is_lost:
            super().data_received(data)
            return False
        self._turns.forget(self)
        # aiohttp would close what is lost. asyncio's TLS transport breaks at that: it forgets its protocol, and whoever asks it
        # afterwards how much is unsent (the hub) gets an AttributeError.
        self.transport = None
        error, self._loss = self._loss, None
        super().connection_lost(error)
        return False

    def eof_received(self) -> None:
        if self._unread:
            self.take_turn()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._link = None
        if not self._is_gone:
            self._connections.leave(self)
            self._is_lost, self._loss = True, exc
            self._turns.ask(self)  # a crowd that leaves at once is as much work as one that comes

    def log_exception(self, *args: Any, **kw: Any) -> None:
        # Whoever reads what a peer that is gone still owed is told so by aiohttp as a RuntimeError: no fault of ours.
        if not (self.transport is None and isinstance(sys.exception(), RuntimeError)):
            super().log_exception(*args, **kw)

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
    turns: ReadingTurns

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, connections=self.admitted, turns=self.turns, **self._kwargs)


class Runner(web.AppRunner):
    """An `AppRunner` with that server; aiohttp has no public place to put one."""

    def __init__(self, app: web.Application, *, connections: HttpConnections, **options: Any) -> None:
        super().__init__(app, **options)
        self._connections = connections

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        server = _Server(made.request_handler, request_factory=made.request_factory, loop=made._loop, **made._kwargs)
        server.admitted = self._connections
        server.turns = ReadingTurns(asyncio.get_running_loop(), turn_s=TURN_S)
        return server

    async def cleanup(self) -> None:
        """End all connections: those that their peers do not end in time are cut off."""
        server = self.server
        ending = cast(list[Connection], server.connections if server is not None else [])
        await super().cleanup()
        await _closed(ending, within_s=CLOSED_WITHIN_S)
        for connection in ending:
            connection.cut()
        await _closed(ending, within_s=CUT_WITHIN_S)


async def _closed(connections: list[Connection], *, within_s: float) -> None:
    with anyio.move_on_after(within_s):
        while any(connection.is_open for connection in connections):
            await anyio.sleep(0.01)
