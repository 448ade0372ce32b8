"""A peer that resets its connection is no error of the server's: on either loop, with TLS and without."""

import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.authority import Authority
from tests.e2e.raw import head, upgrade
from tests.e2e.server import Server

WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None; from robodyne_rt.cli.main import main; sys.exit(main())"


@pytest.fixture(params=["uvloop", "asyncio", "uvloop with TLS", "asyncio with TLS"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Server:
    settings = {}
    if "TLS" in request.param:
        settings["SERVER__TLS_CERT"], settings["SERVER__TLS_KEY"] = Authority(tmp_path).issue("localhost")
    server = Server(tmp_path, **settings)
    if "asyncio" in request.param:
        server.program = ("-c", WITHOUT_UVLOOP)
    request.addfinalizer(server.__exit__)
    return server.start()


def dialler(server: Server) -> Callable[[], socket.socket]:
    def dial() -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        if "ROBODYNE_RT__SERVER__TLS_CERT" not in server._settings:
            return sock
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(sock)

    return dial


def reset(sock: socket.socket) -> None:
    bare = socket.socket(fileno=sock.detach())
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bare.close()


def test_a_reset_at_any_moment_is_no_error(server: Server) -> None:
    dial = dialler(server)
    body = head(server, "POST /api/device-messages", "Content-Type: application/json", "Content-Length: 100")
    for request in (
        head(server, "GET /api/robots") * 20,
        head(server, "GET /static/app.js") * 20,
        body + b"{",
        upgrade(server, "/ws/robots"),
        upgrade(server, "/ws"),
        upgrade(server, "/ws/unknown"),
        upgrade(server, "/ws/events") + b"\x81\xfe\x10",
    ):
        for pause_s in (0.0, 0.001, 0.005, 0.03):
            sock = dial()
            sock.sendall(request)
            time.sleep(pause_s)
            reset(sock)
    time.sleep(0.5)
    assert [line for line in server.log().splitlines() if '"ERROR"' in line or "Traceback" in line] == []
    assert server.stop() == 0
    assert "Traceback" not in server.log()


def test_peers_that_never_end_their_connection_are_cut_off_at_a_shutdown(server: Server) -> None:
    dial = dialler(server)
    held = [dial() for _ in range(5)]
    for sock, request in zip(
        held,
        [b"", head(server, "GET /api/robots"), b"GET /", upgrade(server, "/ws/robots"), upgrade(server, "/ws/robots")],
        strict=True,
    ):
        sock.sendall(request)
    held[4].recv(1000)
    time.sleep(0.2)
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 8
    assert "ResourceWarning" not in server.log()
    for sock in held:
        sock.close()
