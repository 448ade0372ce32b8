"""The same message over every wire: JSON lines, length prefix, raw, and a serial line with noise."""

import json
import os
import random
import socket
import time
import tty
import zlib
from collections.abc import Callable

from tests.e2e.server import Replica, Server, receive

ROBOT = {"msg_type": "Albabot", "status": "SERVING", "battery_level": 81}


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        assert chunk, "closed early"
        data += chunk
    return data


async def test_length_prefix_and_raw_reach_the_screen_like_a_line(server: Server) -> None:
    async with server.watch("/ws/robots") as screen:
        replica = Replica()
        replica.apply(await receive(screen))
        with server.dial() as sock:
            body = json.dumps(ROBOT | {"robot_id": "by-length", "id": "1"}).encode()
            sock.sendall(len(body).to_bytes(4, "big") + body)
            size = int.from_bytes(read_exactly(sock, 4), "big")
            assert json.loads(read_exactly(sock, size))["status"] == "success"
        with server.dial() as sock:
            for number in range(2):
                sock.sendall(json.dumps(ROBOT | {"robot_id": "by-raw", "battery_level": number}).encode())
                assert read_exactly(sock, 2) == b"OK"
            sock.sendall(json.dumps(ROBOT | {"robot_id": "by-raw", "status": "FLYING"}).encode())
            assert read_exactly(sock, 5) == b"ERROR"
        with server.dial() as sock:
            body = json.dumps(ROBOT | {"robot_id": "by-crc", "id": "1"}).encode()
            sock.sendall(body + f"*{zlib.crc32(body):08x}\r\n".encode())
            line = sock.makefile("rb").readline()
            answer, _, crc = line.strip().rpartition(b"*")
            assert int(crc, 16) == zlib.crc32(answer) and json.loads(answer)["status"] == "success"
        names = {"by-length", "by-raw", "by-crc"}
        while not names <= {robot["robot_id"] for robot in replica.entities.values()}:
            replica.apply(await receive(screen))


def test_many_messages_before_the_first_answer_are_answered_in_order(server: Server) -> None:
    messages = [{"msg_type": "Event", "type": "INFO", "robot_id": "pipe", "id": f"p{number}"} for number in range(3000)]
    messages[10:10] = [{"msg_type": "Nonsense", "id": "bad"}]
    answers = server.tell(*messages)
    assert [answer["id"] for answer in answers] == [message["id"] for message in messages]
    assert [answer["status"] for answer in answers if answer["id"] != "bad"] == ["success"] * 3000


class SerialWire:
    """The device's end of a pseudo-terminal whose other end the server opens under a stable name."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.plug()

    def plug(self) -> None:
        self.controller, self.port = os.openpty()
        tty.setraw(self.port)
        if os.path.islink(self.link):
            os.unlink(self.link)
        os.symlink(os.ttyname(self.port), self.link)
        self.rest = b""

    def unplug(self) -> None:
        os.close(self.port)
        os.close(self.controller)
        os.unlink(self.link)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.controller, data[:512]) :]

    def answers(self, count: int, *, within_s: float = 20) -> list[dict[str, object]]:
        """Return the next answers; each must bear its right CRC."""
        found: list[dict[str, object]] = []
        os.set_blocking(self.controller, False)
        deadline = time.monotonic() + within_s
        while len(found) < count and time.monotonic() < deadline:
            try:
                self.rest += os.read(self.controller, 65536)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            *lines, self.rest = self.rest.split(b"\n")
            for line in lines:
                body, _, crc = line.rpartition(b"*")
                assert int(crc, 16) == zlib.crc32(body)
                found.append(json.loads(body))
        os.set_blocking(self.controller, True)
        return found


def wait_for_port(server: Server, *, opened: int) -> None:
    """Opening a port throws away what it holds, as it should: it may be half a line."""
    deadline = time.monotonic() + 20
    while server.log().count('"port_open"') < opened:
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.02)


def crc_line(message: dict[str, object]) -> bytes:
    body = json.dumps(message).encode()
    return body + b"*%08X\n" % zlib.crc32(body)


def test_a_serial_line_with_noise_between_lines_and_an_unplug(
    start_server: Callable[..., Server], tmp_path_factory: object
) -> None:
    link = os.path.join(tmp_path_factory.mktemp("ports"), "usb-button")  # type: ignore[attr-defined]
    wire = SerialWire(link)
    server = start_server(SERIAL=json.dumps([{"port": link}]))
    wait_for_port(server, opened=1)
    rng = random.Random(3)
    for number in range(50):
        wire.send(bytes(rng.choice(b"\x00\xff\x80abc{}*\r\n") for _ in range(rng.randrange(30))) + b"\n")
        wire.send(crc_line({"msg_type": "Event", "type": "CALL", "table_number": 3, "id": f"s{number}"}))
    assert [answer["id"] for answer in wire.answers(50)] == [f"s{number}" for number in range(50)]
    assert server.sql("SELECT count(*) FROM event") == [(50,)]
    wire.unplug()
    time.sleep(0.3)
    wire.plug()
    wait_for_port(server, opened=2)
    wire.send(crc_line({"msg_type": "Event", "type": "CALL", "table_number": 3, "id": "after"}))
    assert [answer["id"] for answer in wire.answers(1)] == ["after"]
    assert "Traceback" not in server.log()


def test_ten_thousand_serial_messages_through_bit_errors_store_no_wrong_one(
    start_server: Callable[..., Server], tmp_path_factory: object
) -> None:
    link = os.path.join(tmp_path_factory.mktemp("ports"), "usb-robot")  # type: ignore[attr-defined]
    wire = SerialWire(link)
    server = start_server(SERIAL=json.dumps([{"port": link}]))
    wait_for_port(server, opened=1)
    rng = random.Random(11)
    sent = {}
    answered: set[object] = set()
    for start in range(0, 10_000, 500):
        data = bytearray()
        for number in range(start, start + 500):
            text = f"note {number} {rng.randrange(10**9)}"
            sent[f"n{number}"] = text
            data += crc_line({"msg_type": "Event", "type": "INFO", "description": text, "id": f"n{number}"})
        for _ in range(int(len(data) * 8 * 1e-4)):
            bit = rng.randrange(len(data) * 8)
            data[bit // 8] ^= 1 << bit % 8
        data += crc_line({"msg_type": "Event", "type": "INFO", "description": "mark", "id": f"mark-{start}"})
        # A few at a time, reading on the way: a pseudo-terminal holds only some KiB.
        got: list[dict[str, object]] = []
        for at in range(0, len(data), 4000):
            wire.send(bytes(data[at : at + 4000]))
            got += wire.answers(10**6, within_s=0.02)
        while not any(answer.get("id") == f"mark-{start}" for answer in got):
            more = wire.answers(1)
            assert more
            got += more
        answered |= {answer["id"] for answer in got}
    stored = server.sql("SELECT m.id, e.description FROM device_message m JOIN event e ON e.id = m.row")
    real = [(id, text) for id, text in stored if not id.startswith("mark")]
    assert all(sent.get(id) == text for id, text in real)
    assert 7000 < len(real) < 10_000
    assert {id for id, _ in stored} == answered
