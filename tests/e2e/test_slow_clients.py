"""A client that never reads and one that reads a byte a second: nobody else notices, and both are gone in time."""

import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.server import Server

WATCHERS = 40


def raw_client(server: Server, topic: str = "events") -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /ws/{topic} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert sock.recv(12) == b"HTTP/1.1 101"
    return sock


def memory_kib(server: Server) -> int:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def open_files(server: Server) -> int:
    assert server.process is not None
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@pytest.mark.timeout(180)
async def test_stuck_clients_cost_nobody_anything(start_server: Callable[..., Server]) -> None:
    server = start_server(HUB__SLOW_CLIENT_TIMEOUT_S="4", HUB__SEND_BUFFER_LIMIT_BYTES="100000")
    text = "x" * 2000
    stop = asyncio.Event()

    async def load() -> int:
        """Events as fast as they are answered, ten at a time."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.devices_port)
        number = 0
        while not stop.is_set():
            for _ in range(10):
                number += 1
                message = {"msg_type": "Event", "type": "INFO", "robot_id": "r", "description": text, "id": f"{number}"}
                message["data"] = {"sent": time.monotonic()}  # type: ignore[assignment]
                writer.write(json.dumps(message).encode() + b"\n")
            for _ in range(10):
                await reader.readline()
            await asyncio.sleep(0.01)
        writer.close()
        return number

    async def watch(delays: list[float]) -> int:
        seen = 0
        offset = None
        async with server.watch("/ws/events") as client:
            try:
                async with asyncio.timeout(60):
                    async for raw in client:
                        message = json.loads(raw)
                        if message["type"] != "update" or message.get("volatile"):
                            continue  # what is volatile, on a busy disk, comes again with its offset
                        assert offset is None or message["prev"] <= offset
                        offset = message["offset"]
                        for event in message["data"] if not message.get("snapshot") else ():
                            if event["type"] != "INFO":
                                continue  # the robot fell silent
                            seen += 1
                            delays.append(time.monotonic() - event["data"]["sent"])
                        if stop.is_set() and seen >= sent[0] > 0:
                            return seen
            except TimeoutError:
                return seen
        return seen

    sent = [0]
    delays: list[float] = []
    watchers = [asyncio.ensure_future(watch(delays)) for _ in range(WATCHERS)]
    await asyncio.sleep(0.5)
    files, memory = open_files(server), memory_kib(server)
    loading = asyncio.ensure_future(load())
    never, dripping = raw_client(server), raw_client(server)

    async def drip() -> None:
        dripping.setblocking(False)
        loop = asyncio.get_running_loop()
        with pytest.raises((ConnectionError, OSError)):
            while await loop.sock_recv(dripping, 1):
                await asyncio.sleep(1)
            raise ConnectionError

    drips = asyncio.ensure_future(drip())
    peak = 0
    deadline = time.monotonic() + 45
    gone = False
    while not gone and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        peak = max(peak, memory_kib(server))
        metrics = server.get("/metrics")[2].decode()
        gone = 'robodyne_ws_closes_total{code="4005",reason="too_slow"} 2.0' in metrics and open_files(server) <= files + 2
    stop.set()
    sent[0] = await loading
    counts = await asyncio.gather(*watchers)
    drips.cancel()
    never.close()
    dripping.close()
    assert gone, metrics
    assert counts == [sent[0]] * WATCHERS
    # Two stuck clients may hold the limit and one message each; the rest is the backlog of events in memory.
    assert peak - memory < 2 * 200 + 40_000, f"{peak - memory} KiB"
    await asyncio.sleep(0.5)
    assert open_files(server) <= files + 1
