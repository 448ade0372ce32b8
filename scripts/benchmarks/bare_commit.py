"""The least that the same Python needs for what the server does with an event: what its fan-out is held against.

One loop: a JSON line from TCP, one row in SQLite by a FULL commit, one frame for all WebSockets, an answer. No checks, no
change log, no catch-up, no limits, no thread. Prints {"port": P, "devices_port": P} and serves until its input ends.
"""

import asyncio
import json
import sqlite3
import struct
import sys
import tempfile
from pathlib import Path
from typing import cast

import orjson
from aiohttp import web

OTHER_FIELDS = ("data", "robot_id", "table_id", "order_id", "acknowledged_at", "acknowledged_by", "timestamp", "customer_id")
"""With these an update is about as long as the server's."""


class Server:
    """Its rows and its subscribers."""

    def __init__(self, folder: Path) -> None:
        self.database = sqlite3.connect(folder / "bare.db", isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = FULL")
        self.database.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, type TEXT, severity TEXT, description TEXT)")
        self.subscribers: set[asyncio.Transport] = set()

    async def subscribe(self, request: web.Request) -> web.WebSocketResponse:
        """Send updates until the client goes."""
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        transport = request.transport
        assert transport is not None
        transport.write(_frame(b'{"type":"update","data":[]}'))
        self.subscribers.add(transport)
        async for _ in websocket:
            pass
        self.subscribers.discard(transport)
        return websocket

    def store_and_tell(self, line: bytes) -> bytes:
        """Take one message; return its answer."""
        event = orjson.loads(line)
        row = event["type"], event["severity"], event["description"]
        self.database.execute("BEGIN IMMEDIATE")
        cursor = self.database.execute("INSERT INTO event (type, severity, description) VALUES (?, ?, ?)", row)
        self.database.execute("COMMIT")
        entity = {"id": cursor.lastrowid, "type": row[0], "severity": row[1], "description": row[2]} | dict.fromkeys(
            OTHER_FIELDS
        )
        frame = _frame(orjson.dumps({"type": "update", "topic": "events", "data": [entity], "offset": cursor.lastrowid}))
        for transport in self.subscribers:
            transport.write(frame)
        return orjson.dumps({"status": "success", "message": "stored", "id": event["id"]}) + b"\n"


class Device(asyncio.Protocol):
    """One connection of a device."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._transport.write(self._server.store_and_tell(line))


def _frame(payload: bytes) -> bytes:
    if len(payload) < 126:
        return struct.pack("!BB", 0x81, len(payload)) + payload
    return struct.pack("!BBH", 0x81, 126, len(payload)) + payload


async def main(folder: Path) -> None:
    """Serve on free ports of 127.0.0.1."""
    server = Server(folder)
    app = web.Application()
    app.router.add_get("/ws/events", server.subscribe)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    devices = await asyncio.get_running_loop().create_server(lambda: Device(server), "127.0.0.1", 0)
    ports = {"port": runner.addresses[0][1], "devices_port": devices.sockets[0].getsockname()[1]}
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
        try:
            import uvloop
        except ImportError:
            asyncio.run(main(Path(folder)))
        else:
            uvloop.run(main(Path(folder)))
