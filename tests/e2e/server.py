"""The server as a process of its own, and small foreign clients that import nothing of ours.

`Server` starts `robodyne-rt serve` on free ports in a folder of its own and tells where it listens, from its log.
"""

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import websockets
from websockets.asyncio.client import ClientConnection

from tests import processes

OPEN = {
    "ROBODYNE_RT__SERVER__HOST": "127.0.0.1",
    "ROBODYNE_RT__SERVER__PORT": "0",
    "ROBODYNE_RT__DEVICES__HOST": "127.0.0.1",
    "ROBODYNE_RT__DEVICES__PORT": "0",
    "ROBODYNE_RT__AUTH__MODE": "off",
    "ROBODYNE_RT__LOG__FORMAT": "json",
    "ROBODYNE_RT__SERVER__SHUTDOWN_GRACE_S": "2",
}


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would in the server's folder; return what it printed."""
    return processes.run(arguments, folder=folder, environment=OPEN | environment)


class Server:
    """One server process; settings as `SECTION__KEY="value"`."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.database = folder / "robodyne.db"
        self.log_path = folder / "server.log"
        self._settings = {f"ROBODYNE_RT__{key}": value for key, value in settings.items()}
        self.program: tuple[str, ...] = ()
        """What Python runs instead of the server's own program; `serve` follows."""
        self.process: processes.Process | None = None
        self.may_log_faults = False
        """Whether a traceback in the log is what the test is about."""
        self.port = 0
        self.devices_port = 0

    def start(self, *, wait_s: float = 20.0) -> "Server":
        """Start it and wait until it says that it is ready."""
        seen = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = processes.start(
                ["serve"],
                folder=self.folder,
                environment=processes.clean_environment() | OPEN | self._settings,
                log=log,
                program=[sys.executable, *self.program] if self.program else [],
            )
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            for line in self.log_path.read_bytes()[seen:].decode().splitlines():
                if '"server_ready"' in line and line.endswith("}"):
                    ready = json.loads(line[line.index("{") :])
                    self.port, self.devices_port = ready["port"], ready["devices_port"]
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the server did not become ready:\n{self.log()}")

    def log(self) -> str:
        return self.log_path.read_text()

    def stop(self, *, wait_s: float = 15.0) -> int:
        """SIGTERM, and wait for the end; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(wait_s)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def end(self) -> None:
        """End it at once, if it runs."""
        if self.is_running:
            self.kill()

    def restart(self) -> "Server":
        """Stop and start again on the same ports."""
        self.stop()
        self._settings["ROBODYNE_RT__SERVER__PORT"] = str(self.port)
        self._settings["ROBODYNE_RT__DEVICES__PORT"] = str(self.devices_port)
        return self.start()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> "Server":
        return self if self.process else self.start()

    def __exit__(self, kind: object = None, *_: object) -> None:
        """End it as systemd would, and look into its log; where the test has failed already, at once."""
        if kind is not None:
            self.end()
            return
        if self.is_running:
            try:
                assert self.stop() == 0, self.log()
            finally:
                self.end()
        if not self.may_log_faults:
            processes.assert_no_faults(self.log())

    # -- foreign clients -------------------------------------------------------------------------------------------

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """GET a path; return (status, headers, body) whatever the status."""
        request = urllib.request.Request(self.url(path), headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    @contextlib.asynccontextmanager
    async def watch(self, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
        """A WebSocket client on `/ws/...`, closed at the end."""
        async with await self.connect(path, **options) as client:
            yield client

    async def connect(self, path: str, **options: Any) -> ClientConnection:
        """A WebSocket client on `/ws/...`."""
        options = {"max_size": None, "compression": None, "ping_interval": None} | options
        return await websockets.connect(f"ws://127.0.0.1:{self.port}{path}", **options)

    @contextlib.contextmanager
    def dial(self) -> Iterator[socket.socket]:
        """A TCP connection to the device port."""
        with socket.create_connection(("127.0.0.1", self.devices_port), timeout=10) as sock:
            yield sock

    def tell(self, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        """Send messages as JSON lines on one device connection; return the answers."""
        with self.dial() as sock, sock.makefile("rb") as lines:
            sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
            return [json.loads(lines.readline()) for _ in messages]

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement on the database as a foreign program would."""
        url = self._settings.get("ROBODYNE_RT__DATABASE__URL", "")
        if url.startswith("postgres"):
            with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as link:
                cursor = link.execute(statement.replace("?", "%s"), *([parameters] if parameters else []))
                return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        connection = sqlite3.connect(self.database, timeout=10)
        try:
            with connection:
                return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()


async def receive(client: ClientConnection, *, within_s: float = 5.0) -> dict[str, Any]:
    """Return the client's next message."""
    message: dict[str, Any] = json.loads(await asyncio.wait_for(client.recv(), within_s))
    return message


async def updates_until(client: ClientConnection, done: Any, *, within_s: float = 10.0) -> list[dict[str, Any]]:
    """Return the client's messages up to and with the first for which `done(message)` holds."""
    found = []
    async with asyncio.timeout(within_s):
        while True:
            found.append(json.loads(await client.recv()))
            if done(found[-1]):
                return found


class Replica:
    """A subscriber's state, kept by the rules that the protocol gives to clients; it raises on any gap."""

    def __init__(self) -> None:
        self.entities: dict[int, dict[str, Any]] = {}
        self.offset: int | None = None
        self.epoch: str | None = None
        self.messages = 0

    def apply(self, message: dict[str, Any]) -> None:
        if message["type"] != "update":
            return
        self.messages += 1
        if message.get("volatile"):
            return
        if message.get("snapshot"):
            self.entities = {}
        else:
            assert self.offset is not None and message["prev"] <= self.offset, f"gap: {self.offset} -> {message['prev']}"
        for entity in message["data"]:
            self.entities[entity["id"]] = entity
        for key in message.get("removed", ()):
            self.entities.pop(key, None)
        self.offset = message.get("offset", self.offset)
        self.epoch = message.get("epoch", self.epoch)
