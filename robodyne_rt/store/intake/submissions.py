"""What the other parts ask the store to write, each turned into a `Write` and submitted."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.ports import Clock, Outcome, ReceivedMessage
from robodyne_rt.store.intake.spool_repair import SpoolDamage
from robodyne_rt.store.intake.writes import (
    CallWrite,
    EventWrite,
    MessageWrite,
    ServerLineWrite,
    TelemetryWrite,
    VanishedWrite,
    Write,
)
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter, ids_needed

T = TypeVar("T")


class Submissions(ABC):
    """The ways to submit; all methods are for the loop's thread."""

    def __init__(self, *, clock: Clock, ids: IdGenerator) -> None:
        self._clock = clock
        self._ids = ids
        self.spool_lost = 0
        """Messages that were acknowledged, waited in the spool and are lost."""

    @abstractmethod
    def submit(self, write: Write) -> None:
        """Queue one write; never waits."""

    def next_id(self) -> int:
        """Return an id for a row that the server names before storing."""
        return self._ids.next(self._clock.now())

    def store_messages(self, messages: Sequence[ReceivedMessage]) -> None:
        now, next_id = self._clock.now(), self._ids.next
        for message, device, digest, heard_at, outcome in messages:
            ids = [next_id(now) for _ in range(ids_needed(message))]
            self.submit(MessageWrite(message, device, digest, heard_at, ids, outcome))

    def store_telemetry(self, robot_id: str, fields: dict[str, Any], heard_at: str) -> None:
        self.submit(TelemetryWrite(robot_id, fields, heard_at))

    def store_vanished(self, robot_id: str, heard_at: str) -> None:
        self.submit(VanishedWrite(robot_id, heard_at, self.next_id()))

    def store_error_event(self, description: str, data: Any = None) -> None:
        """Store an ERROR event of the server itself."""
        self.submit(EventWrite(self.next_id(), "ERROR", "ERROR", description, data, self._clock.stamp()))

    def store_server_line(self, level: str, message: str, data: Any, at: str, outcome: Outcome) -> None:
        """Store a line of the server's own log, now or not at all."""
        self.submit(ServerLineWrite(self.next_id(), level, message, data, at, outcome))

    def report_damage(self, damage: SpoolDamage) -> None:
        """Tell people what became of the spool's file."""
        self.spool_lost += damage.lost or 0
        if damage.lost != 0:
            self.store_error_event(damage.text, {"lost": damage.lost})

    async def call(self, function: Callable[[DeviceMessageWriter], T]) -> T:
        """Run a function in the writer's transaction; return its result when that is durable.

        Raises:
            StorageUnavailable: the database is away.
            RobodyneError: what the function refused.
        """
        result: T = await self.write(lambda outcome: CallWrite(function, outcome))
        return result

    async def write(self, make: Callable[[Outcome], Write]) -> Any:
        """Submit the write that `make` returns for an outcome; return its result when it is durable.

        Raises:
            StorageUnavailable: neither the database nor the spool took it.
            RobodyneError: it was refused.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def outcome(result: Any, error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        self.submit(make(outcome))
        return await done
