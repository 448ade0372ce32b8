"""Accepts HTTP connections one by one, so that each holds a place (`connections.py`) from its first moment.

aiohttp's own sites learn of a connection later: asyncio accepts all that wait before it tells of the first, and one whose TLS
handshake never ends is never told of. Until then nothing would count their descriptors.
"""

import asyncio
import contextlib
import logging
import socket
import ssl

import anyio
import anyio.lowlevel
from aiohttp import web

from robodyne_rt.web.runner import Connection

logger = logging.getLogger(__name__)

HANDSHAKE_S = 5.0
"""What a peer has to begin its TLS, and to end it."""

BACKLOG = 4096
ACCEPT_PAUSE_S = 0.1
"""After an accept that failed: most likely there are no descriptors just now."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on all addresses of a host.

    Raises:
        OSError: one of them is taken, or not this machine's.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as bound:
        sockets = [
            bound.enter_context(socket.create_server(address[:2], family=family, backlog=BACKLOG))
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found)
        ]
        bound.pop_all()
    return sockets


class HttpListener:
    """Listens on sockets, which it closes in the end.

    Args:
        server: makes a `Connection` for each connection.
        tls: None for plain HTTP.
    """

    def __init__(self, sockets: list[socket.socket], *, server: web.Server, tls: ssl.SSLContext | None) -> None:
        self.sockets = sockets
        self._server = server
        self._tls = tls
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Accept until `close`."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    for sock in self.sockets:
                        tasks.start_soon(self._accept, sock)
        finally:
            for sock in self.sockets:
                sock.close()

    def close(self) -> None:
        """Accept no more."""
        self._scope.cancel()

    async def _accept(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as connecting:
            while True:
                try:
                    accepted, address = await loop.sock_accept(sock)
                except OSError as error:
                    logger.warning("a connection cannot be accepted: %s", error, extra={"action": "accept_failed"})
                    await anyio.sleep(ACCEPT_PAUSE_S)
                    continue
                connection, scope = self._server(), anyio.CancelScope()
                assert isinstance(connection, Connection)
                if connection.begin(str(address[0]), cut=scope.cancel):
                    connecting.start_soon(self._connect, connection, scope, accepted)
                else:
                    accepted.close()
                # Where many wait, accepting needs no waiting: let who was cut off be closed first.
                await anyio.lowlevel.checkpoint()

    async def _connect(self, connection: Connection, scope: anyio.CancelScope, accepted: socket.socket) -> None:
        with scope, contextlib.suppress(OSError):  # of the peer: no TLS, none of our versions, silence
            loop = asyncio.get_running_loop()
            if self._tls is None:
                await loop.connect_accepted_socket(lambda: connection, accepted)
            else:
                await loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._tls,
                    ssl_handshake_timeout=HANDSHAKE_S,
                    ssl_shutdown_timeout=HANDSHAKE_S,
                )
            return
        connection.failed()
