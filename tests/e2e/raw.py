"""Bytes on a socket, sent as they are: no client library that would mend, refuse or retry them."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.e2e.server import Server

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class Answer(NamedTuple):
    """An HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body, which must be problem+json of this status."""
        assert self.headers.get("content-type", "").startswith("application/problem+json"), self
        body: dict[str, Any] = json.loads(self.body)
        assert body["status"] == self.status, self
        return body


class Wire:
    """A TCP connection and what came on it.

    Sending never fails: a server that has closed already said why before, and that is what tests read.
    """

    def __init__(self, port: int, *, timeout_s: float = 10.0, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout_s)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> bool:
        """Send all bytes; return whether the peer still took them."""
        try:
            self.sock.sendall(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def receive(self) -> bool:
        """Receive some bytes; return False at the end of the stream (a reset is one too)."""
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        self.received += data
        self.ended = not data
        return bool(data)

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        while len(self.received) < size:
            if not self.receive():
                raise EOFError(f"closed after {bytes(self.received)!r}")
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def take_until(self, end: bytes) -> bytes:
        """Return the next bytes up to and with `end`."""
        while (at := self.received.find(end)) < 0:
            if not self.receive():
                raise EOFError(f"closed after {bytes(self.received)!r}")
        return self.take(at + len(end))

    def line(self) -> dict[str, Any]:
        """Return the next line of JSON."""
        found: dict[str, Any] = json.loads(self.take_until(b"\n"))
        return found

    def prefixed(self) -> dict[str, Any]:
        """Return the next JSON behind a 4-byte length."""
        found: dict[str, Any] = json.loads(self.take(int.from_bytes(self.take(4), "big")))
        return found

    def rest(self, within_s: float = 10.0) -> bytes:
        """Return everything up to the end of the stream, which must come in time."""
        deadline = time.monotonic() + within_s
        while (left := deadline - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                if not self.receive():
                    return bytes(self.received)
            except TimeoutError:
                break
        raise AssertionError(f"not closed within {within_s:.0f} s; got {bytes(self.received[:500])!r}")

    def answer(self) -> Answer:
        """Return the next HTTP answer."""
        head = self.take_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        status = int(head[0].split()[1])
        body = b"" if status in (101, 204, 304) else self.take(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)


class Frame(NamedTuple):
    """A WebSocket frame of the server."""

    opcode: int
    payload: bytes


class Socket(Wire):
    """A WebSocket connection after its handshake."""

    def frame(self) -> Frame:
        """Return the next frame."""
        first, size = self.take(2)
        assert first & 0x80, "the server sends no fragments"
        assert not size & 0x80, "a server never masks"
        if size > 125:
            size = int.from_bytes(self.take(2 if size == 126 else 8), "big")
        return Frame(first & 0x0F, self.take(size))

    def message(self) -> dict[str, Any]:
        """Return the next text message."""
        while (frame := self.frame()).opcode != TEXT:
            assert frame.opcode != CLOSE, frame
        found: dict[str, Any] = json.loads(frame.payload)
        return found

    def close_frame(self, within_s: float = 10.0) -> tuple[int, str]:
        """Return code and reason of the server's close, which must come in time, whatever comes before."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            frame = self.frame()
            if frame.opcode == CLOSE:
                return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode()
        raise AssertionError(f"no close frame within {within_s:.0f} s")

    def say(self, message: Any) -> None:
        """Send one text message: JSON, or text and bytes as they are."""
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.send(client_frame(text))


def client_frame(
    payload: bytes, opcode: int = TEXT, *, final: bool = True, reserved: int = 0, masked: bool = True, size: int | None = None
) -> bytes:
    """Return a frame as clients send them (the mask is zero, which is a mask like any other); `size` may lie."""
    size = len(payload) if size is None else size
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 1 << 16:
        head += bytes([mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask_bit | 127]) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


def head(server: Server, start: str, *lines: str, host: str | None = None) -> bytes:
    """Return the head of a request: its first line without the version, Host, and further header lines."""
    host = host if host is not None else f"127.0.0.1:{server.port}"
    return "\r\n".join([f"{start} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1")


def upgrade(server: Server, path: str, *lines: str, method: str = "GET", **changed: str | None) -> bytes:
    """Return a WebSocket handshake; `changed` names headers (`_` for `-`) to set or, with None, to leave out."""
    headers: dict[str, str | None] = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    given = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return head(server, f"{method} {path}", *given, *lines)


def ask(server: Server, data: bytes) -> Answer:
    """Send bytes to the HTTP port on a connection of their own; return the first answer."""
    with Wire(server.port) as wire:
        wire.send(data)
        return wire.answer()


def open_socket(server: Server, path: str, *lines: str, **options: Any) -> Socket:
    """Open a WebSocket."""
    wire = Socket(server.port, **options)
    wire.send(upgrade(server, path, *lines))
    answer = wire.answer()
    assert answer.status == 101, answer
    return wire


# -- the server from outside ---------------------------------------------------------------------------------------


def resident_bytes(server: Server) -> int:
    """Return the memory that the server's process occupies."""
    assert server.process is not None
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(server: Server) -> float:
    """Return the CPU time that the server has used."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(server: Server) -> int:
    """Return how many file descriptors the server holds."""
    assert server.process is not None
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def wait_until(fact: Callable[[], bool], *, within_s: float, every_s: float = 0.05) -> bool:
    """Return whether a fact became true in time."""
    deadline = time.monotonic() + within_s
    while not (found := fact()) and time.monotonic() < deadline:
        time.sleep(every_s)
    return found


@contextlib.contextmanager
def stays_well(server: Server) -> Iterator[None]:
    """Check that the server came through: it runs, answers, and logged no traceback meanwhile."""
    seen = len(server.log())
    yield
    assert server.is_running, server.log()
    assert server.get("/livez")[0] == 200
    assert "Traceback" not in server.log()[seen:], server.log()[seen:][-4000:]


@contextlib.contextmanager
def others_are_served(server: Server, *, within_s: float = 5.0) -> Iterator[None]:
    """Check that a neighbour gets its answers all the while: each one, and none later than a generous bound."""
    done = threading.Event()
    took: list[float] = []
    failed: list[BaseException] = []

    def neighbour() -> None:
        while not done.is_set():
            started = time.monotonic()
            try:
                assert server.get("/livez")[0] == 200
            except BaseException as error:
                failed.append(error)
                return
            took.append(time.monotonic() - started)
            done.wait(0.02)

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(20)
    assert not failed, failed
    assert took
    assert max(took) < within_s


@contextlib.contextmanager
def memory_grows_at_most(server: Server, limit_bytes: int) -> Iterator[None]:
    """Check the server's memory at its highest while a block runs, not only at the end."""
    before = highest = resident_bytes(server)
    done = threading.Event()

    def look() -> None:
        nonlocal highest
        while not done.wait(0.01):
            highest = max(highest, resident_bytes(server))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(5)
    grown = max(highest, resident_bytes(server)) - before
    assert grown <= limit_bytes, f"grew by {grown / 1024:.0f} KiB"
