"""Peers that hold a server up, as a process of their own: flood.py KIND PORT [MORE]; ready when it prints, works until ended.

Started by fairness.py, so that the load takes no time of the process that measures.
"""

import base64
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable

MESSAGE_BATCH = 500


def main() -> None:
    """Do what the arguments say."""
    kind, port, *more = sys.argv[1:]
    kinds: dict[str, Callable[..., None]] = {
        "events": events,
        "telemetry": telemetry,
        "bad": bad,
        "reconnects": reconnects,
        "paused": paused,
        "stuck": stuck,
    }
    kinds[kind](int(port), *more)


def _say(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port))


def _flood(port: int, lines: bytes, *, reads: bool) -> None:
    with _say(port) as device:
        print("ready", flush=True)
        device.setblocking(False)
        unsent = memoryview(lines)
        while True:
            readable, _, _ = select.select([device] if reads else [], [device], [])
            if readable and not device.recv(1 << 20):
                return
            try:
                unsent = unsent[device.send(unsent) :]
            except BlockingIOError:
                continue
            unsent = unsent or memoryview(lines)


def _lines(messages: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def events(port: int) -> None:
    """Events without end, without reading answers."""
    _flood(port, _lines([{"msg_type": "Event", "type": "INFO", "description": "flood"}] * MESSAGE_BATCH), reads=False)


def telemetry(port: int, robot: str = "flood-1") -> None:
    """Telemetry without end."""
    messages = [{"msg_type": "Telemetry", "robot_id": robot, "x": x / 100, "y": 1.0} for x in range(MESSAGE_BATCH)]
    _flood(port, _lines(messages), reads=False)


def bad(port: int) -> None:
    """Messages that cannot be taken, without end; the answers are read."""
    _flood(port, b"{}\n" * MESSAGE_BATCH, reads=True)


def _upgrade(port: int, path: str) -> socket.socket:
    screen = socket.create_connection(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    screen.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return screen


def _masked(text: str) -> bytes:
    payload = text.encode()
    return bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload  # a mask of zeros changes nothing


def reconnects(port: int, count: str) -> None:
    """So many screens come at once, watch `orders` and `status` for two seconds, and come again."""
    print("ready", flush=True)
    while True:
        screens = [_upgrade(port, f"/ws/{'status' if number % 2 else 'orders'}") for number in range(int(count))]
        ends_at = time.monotonic() + 2.0
        while (left_s := ends_at - time.monotonic()) > 0:
            for screen in select.select(screens[:1000], [], [], left_s)[0]:
                screen.recv(1 << 20)
        for screen in screens:
            screen.close()


def paused(port: int, count: str, topic: str) -> None:
    """So many clients pause one after the other, and resume without reading when a line comes on standard input."""
    screens = []
    for _ in range(int(count)):
        screen = _upgrade(port, f"/ws/{topic}")
        screen.recv(65536)
        screen.sendall(_masked('{"type":"pause"}'))
        screens.append(screen)
        print("paused", flush=True)
        sys.stdin.readline()
    for screen in screens:
        screen.sendall(_masked('{"type":"resume"}'))
    print("ready", flush=True)
    time.sleep(3600)


def stuck(port: int, count: str, topic: str) -> None:
    """So many clients watch a topic and read nothing."""
    screens = [_upgrade(port, f"/ws/{topic}") for _ in range(int(count))]
    print("ready", flush=True)
    time.sleep(3600)
    del screens


if __name__ == "__main__":
    main()
