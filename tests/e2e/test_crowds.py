"""Who opens HTTP connections without end keeps neither devices nor other people out (SPEC section 8)."""

import contextlib
import json
import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.authority import Authority
from tests.e2e.raw import head, open_files, open_socket, stays_well, wait_until
from tests.e2e.server import Server

DESCRIPTORS = 400
DEVICES = 100


class FewDescriptors(Server):
    """A server that may open few files, and has a lower limit that it may raise."""

    loop = "uvloop"

    def start(self, *, wait_s: float = 20.0) -> "FewDescriptors":
        lines = (
            f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (128, {DESCRIPTORS}))",
            "" if self.loop == "uvloop" else "sys.modules['uvloop'] = None",
            "sys.argv[0] = 'robodyne-rt'; runpy.run_module('robodyne_rt', run_name='__main__')",
        )
        self.program = ("-c", "\n".join(lines))
        super().start(wait_s=wait_s)
        return self


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    """On both loops: they accept in different ways."""
    made = FewDescriptors(tmp_path_factory.mktemp("few"), DEVICES__MAX_CONNECTIONS=str(DEVICES))
    made.loop = request.param
    with made.start() as running:
        yield running
        assert running.is_running, running.log()


def dial(server: Server, address: str, data: bytes = b"") -> socket.socket | None:
    """Open an HTTP connection from an address of this machine; return None where it is cut off at once."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=5, source_address=(address, 0))
    with contextlib.suppress(OSError):
        if data:
            sock.sendall(data)
        return sock
    sock.close()
    return None


def ask_from(server: Server, address: str) -> bytes:
    """Return the first line of an answer to somebody at an address."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5, source_address=(address, 0)) as sock:
        sock.sendall(head(server, "GET /livez"))
        return sock.recv(1000).partition(b"\r\n")[0]


IDLE = {
    "silent": b"",
    "half a head": b"GET /livez HTTP/1.1\r\nHost: 127.0",
    "a body that never comes": b"POST /api/device-messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{",
}


@pytest.mark.parametrize("kind", IDLE)
@pytest.mark.parametrize("addresses", [("127.0.0.2",), ("127.0.0.2", "127.0.0.3", "127.0.0.4")], ids=["one", "three"])
def test_connections_without_end_keep_nobody_out(server: Server, kind: str, addresses: tuple[str, ...]) -> None:
    held: list[Any] = []
    with stays_well(server):
        for number in range(700):
            held.append(dial(server, addresses[number % len(addresses)], IDLE[kind]))
        assert open_files(server) <= DESCRIPTORS - DEVICES
        with contextlib.ExitStack() as devices:
            for number in range(DEVICES - 10):
                sock = devices.enter_context(server.dial())
                sock.sendall(
                    json.dumps({"msg_type": "Table", "table_number": number + 1, "status": "OCCUPIED"}).encode() + b"\n"
                )
                assert b"success" in sock.recv(1000), f"device {number}"
                if number % 10 == 0:
                    held.append(dial(server, addresses[0], IDLE[kind]))
                    assert ask_from(server, "127.0.0.9").endswith(b"200 OK")
        with open_socket(server, "/ws/robots") as screen:
            assert screen.message()["snapshot"]
            held += [dial(server, addresses[0], IDLE[kind]) for _ in range(200)]
            screen.say({"type": "ping", "data": 1})
            assert screen.message()["type"] == "pong", "a screen that is served stays"
        for sock in held:
            if sock is not None:
                sock.close()
        assert wait_until(lambda: open_files(server) < 60, within_s=10)


def test_handshakes_that_never_end_keep_nobody_out(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost")
    settings = {"SERVER__TLS_CERT": cert, "SERVER__TLS_KEY": key, "DEVICES__MAX_CONNECTIONS": str(DEVICES)}
    trusting = ssl.create_default_context(cafile=str(authority.path))
    with FewDescriptors(tmp_path, **settings).start() as server:

        def ask_by_tls(address: str) -> bytes:
            sock = socket.create_connection(("127.0.0.1", server.port), timeout=5, source_address=(address, 0))
            with sock, trusting.wrap_socket(sock, server_hostname="localhost") as link:
                link.sendall(head(server, "GET /livez"))
                return link.recv(1000).partition(b"\r\n")[0]

        assert ask_by_tls("127.0.0.9").endswith(b"200 OK")
        hello = b"\x16\x03\x01\x02\x00\x01"
        held = [dial(server, f"127.0.0.{2 + number % 3}", hello if number % 2 else b"") for number in range(700)]
        assert open_files(server) <= DESCRIPTORS - DEVICES
        for number in range(DEVICES - 10):
            assert (
                server.tell({"msg_type": "Table", "table_number": number + 1, "status": "OCCUPIED"})[0]["status"] == "success"
            )
        assert ask_by_tls("127.0.0.9").endswith(b"200 OK")
        assert wait_until(lambda: open_files(server) < 60, within_s=15), "a handshake may take 5 s"
        no_tls = dial(server, "127.0.0.2", head(server, "GET /livez"))
        assert no_tls is not None
        assert not no_tls.recv(1000).startswith(b"HTTP")
        for sock in (*held, no_tls):
            if sock is not None:
                sock.close()
        assert server.stop() == 0
        assert "Traceback" not in server.log(), server.log()


def test_it_takes_the_descriptors_that_it_may_have(server: Server) -> None:
    assert server.process is not None
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (DESCRIPTORS, DESCRIPTORS)
    assert "http_full" in server.log()
    assert server.log().count("http_full") <= 3, "told once a minute"
