"""The hub on a real change log, with transports and a clock that tests move by hand."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from robodyne_rt.core.robot_presence import RobotPresence
from robodyne_rt.core.window import WINDOW_BYTES
from robodyne_rt.hub.connection import Connection
from robodyne_rt.hub.manager import ConnectionManager
from robodyne_rt.hub.robot_monitor import RobotMonitor
from robodyne_rt.model.access import Principal
from robodyne_rt.model.changes import Entity, Keys, Update
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.ports import Clock
from robodyne_rt.protocol import topic_messages
from robodyne_rt.protocol.errors import RobodyneError
from robodyne_rt.settings import Hub
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.engine.sqlite import SqliteDatabase
from robodyne_rt.store.log.change_log import ChangeLog
from tests.e2e.server import Replica
from tests.stores import WINDOWS


async def nothing() -> Entity:
    """No facts about server and storage."""
    return {}


class HandClock(Clock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0

    def now(self) -> float:
        return self.at


class FakeTransport:
    """Keeps what was written; `takes=False` lets it pile up as a client would that does not read."""

    def __init__(self) -> None:
        self.takes = True
        self.written: list[bytes] = []
        self.unsent = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(data)
        if not self.takes:
            self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def drain(self) -> None:
        self.takes, self.unsent = True, 0

    def is_closing(self) -> bool:
        return self.aborted

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True
        self.unsent = 0

    def frames(self) -> list[tuple[int, bytes]]:
        """Return (opcode, payload) of all that was written since the last call; RFC 6455 read independently of our writer."""
        data, found = b"".join(self.written), []
        self.written.clear()
        while data:
            opcode, size, head = data[0] & 0x0F, data[1], 2
            if size == 126:
                size, head = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, head = int.from_bytes(data[2:10], "big"), 10
            found.append((opcode, data[head : head + size]))
            data = data[head + size :]
        return found

    def messages(self) -> list[dict[str, Any]]:
        """Return the text messages written since the last call."""
        return [json.loads(payload) for opcode, payload in self.frames() if opcode == 1]

    def close_reason(self) -> tuple[int, str] | None:
        """Return code and reason of a close frame written since the last call."""
        for opcode, payload in self.frames():
            if opcode == 8:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()
        return None


class DirectReader:
    """Reads the log at once, in the loop's own thread; implements `ports.ChangeReader`."""

    def __init__(self, db: DbConnection, epoch: str) -> None:
        self.epoch = epoch
        self.log = ChangeLog(db, windows=WINDOWS)
        self.windows = self.entities_read = 0

    async def snapshot(self, topic: str, *, limit_bytes: int | None = None) -> Update:
        await asyncio.sleep(0)
        return self.log.snapshot(topic, limit_bytes=limit_bytes)

    async def window(self, topic: str) -> Keys:
        self.windows += 1
        await asyncio.sleep(0)
        return self.log.window(topic)

    async def changed(self, topic: str, offset: int) -> Keys | None:
        await asyncio.sleep(0)
        return self.log.changed(topic, offset)

    async def entities(self, topic: str, keys: Sequence[int]) -> dict[int, Entity]:
        self.entities_read += len(keys)
        await asyncio.sleep(0)
        return self.log.entities(topic, keys)

    async def overview(self) -> Entity:
        return self.log.overview()


class NoStore:
    """Takes what the hub wants stored, and keeps it for the test; implements part of `ports.MessageStore`."""

    def __init__(self) -> None:
        self.telemetry: list[tuple[str, Entity]] = []
        self.vanished: list[str] = []

    def store_telemetry(self, robot_id: str, fields: Entity, heard_at: str) -> None:
        self.telemetry.append((robot_id, fields))

    def store_vanished(self, robot_id: str, heard_at: str) -> None:
        self.vanished.append(robot_id)


class Rig:
    """A hub over a database file; `settings` are those of `[hub]`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.database = SqliteDatabase(f"sqlite:///{folder / 'robodyne.db'}")
        self.db = self.database.open_writer()
        self.connection = self.db.connection
        # Tests that count in thousands need no disk.
        self.connection.execute("PRAGMA synchronous = OFF")
        self.epoch = self.database.prepare(self.db)
        self.clock = HandClock()
        self.settings = Hub(**settings)
        self.store = NoStore()
        self.start()

    def start(self) -> None:
        """Build the hub as a server's start does; also after a restart."""
        self.reader = DirectReader(self.db, self.epoch)
        snapshots = {topic: self.reader.log.snapshot(topic, limit_bytes=WINDOW_BYTES) for topic in TOPICS}
        self.positions = {topic: snapshot.offset for topic, snapshot in snapshots.items()}
        self.robot_presence = RobotPresence(offline_after_s=10, limit=500)
        self.monitor = RobotMonitor(self.robot_presence, store=cast(Any, self.store), clock=self.clock)
        self.hub = ConnectionManager(
            settings=self.settings,
            reader=self.reader,
            snapshots=snapshots,
            windows=WINDOWS,
            robot_presence=self.robot_presence,
            clock=self.clock,
            health=nothing,
            on_private=lambda update: None,
        )

    def sql(self, statement: str, *parameters: Any) -> None:
        self.connection.execute(statement, parameters)

    async def feed(self) -> None:
        """Let the hub have what the log has gained, and let the turn of the loop end."""
        for topic in TOPICS:
            while self.publish_next(topic, 500):
                pass
        await asyncio.sleep(0)

    def publish_next(self, topic: str, lines: int) -> bool:
        """Let the hub have the next lines of a topic; return whether there were any."""
        update = self.reader.log.after(topic, self.positions[topic], lines)
        if update.offset == self.positions[topic]:
            return False
        self.positions[topic] = update.offset
        self.hub.publish([update])
        return True

    async def connect(self, topic: str, *, since: int | None = None, epoch: str | None = None, **options: Any) -> "Screen":
        screen = Screen(self)
        screen.replica.offset = since
        role = options.pop("role", "")
        principal = Principal("screen", frozenset({role}), frozenset({"*"}))
        interval_s, is_full = options.pop("interval_s", 0.0), options.pop("is_full", False)
        connection = self.hub.connect(cast(Any, screen.transport), topic, peer="test", principal=principal, **options)
        screen.connection = connection
        try:
            subscription = self.hub.subscribe(connection, topic, interval_s=interval_s, is_full=is_full)
        except RobodyneError as error:
            connection.close(error)
            return screen
        await self.hub.greet(subscription, None if since is None else str(since), epoch)
        return screen

    async def poll(self, topic: str, principal: Principal, since: str | None, epoch: str | None) -> tuple[bytes, int]:
        """Return what `GET` answers, and the offset that it names."""
        document, _ = await self.hub.document(topic, principal, since, epoch)
        return b"".join([piece async for piece in document.pieces]), document.offset

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.at += seconds
        self.hub.tick(self.clock.at)
        self.monitor.tick(self.clock.at)

    def close(self) -> None:
        self.connection.close()


class Screen:
    """A subscriber and the state it keeps."""

    connection: Connection

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.transport = FakeTransport()
        self.replica = Replica()

    def take(self) -> list[dict[str, Any]]:
        """Read what arrived into the replica; return the messages."""
        messages = self.transport.messages()
        for message in messages:
            self.replica.apply(message)
        return messages

    def say(self, **message: Any) -> None:
        self.connection.received(json.dumps(message).encode(), self.rig.clock.now(), topic_messages.parse_client)
