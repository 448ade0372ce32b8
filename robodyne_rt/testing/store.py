"""Neighbours of the store's shells: they keep what they were told."""

from collections.abc import Callable
from typing import Any

from robodyne_rt.core.spooling import Give
from robodyne_rt.model.changes import Entity, OptimisticChange, Update
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.intake.spool import SpooledRow
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter


class RecordingSink:
    """Where updates go; implements `ports.ChangeSink`. `told` has (what, topic, ids) in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, list[int]]] = []
        self.entities: dict[str, dict[int, Entity]] = {}

    def publish(self, updates: list[Update]) -> None:
        for update in updates:
            self.told.append(("publish", update.topic, sorted(update.entities)))
            self.entities.setdefault(update.topic, {}).update(update.entities)

    def begin_history(self, snapshots: list[Update]) -> None:
        self.told.append(("begin_history", "", []))
        self.publish(snapshots)

    def current(self, topic: str) -> dict[int, Entity]:
        return self.entities.get(topic, {})

    def show_optimistic(self, topic: str, changes: dict[int, OptimisticChange]) -> None:
        self.told.append(("show", topic, sorted(changes)))

    def confirm(self, topic: str, ids: list[int]) -> None:
        self.told.append(("confirm", topic, ids))

    def revert(self, topic: str, ids: list[int]) -> None:
        self.told.append(("revert", topic, ids))

    def touch_status(self) -> None:
        self.told.append(("touch_status", "", []))


class FakeWriter:
    """The loop's side of a writer that does nothing by itself."""

    def __init__(self) -> None:
        self.stats = WriterStats()
        self.batches: list[Give[Write]] = []
        self.allowed_upto = 0
        self.interrupts = 0

    def give(self, batch: Give[Write]) -> None:
        self.batches.append(batch)

    def drain(self, upto: int) -> None:
        self.allowed_upto = upto

    def interrupt(self) -> None:
        self.interrupts += 1


class FakeSpool:
    """A spool whose appends are answered by hand: `answer(None)`, or with an error."""

    def __init__(self) -> None:
        self.trouble = ""
        self.appends: list[list[SpooledRow]] = []
        self.discarded: list[int] = []
        self._waiting: list[Callable[[StorageUnavailable | None], None]] = []

    def append(self, loop: Any, rows: list[SpooledRow], done: Callable[[StorageUnavailable | None], None]) -> None:
        self.appends.append(rows)
        self._waiting.append(done)

    def discard(self, lost: int) -> None:
        self.discarded.append(lost)

    def answer(self, error: StorageUnavailable | None = None) -> None:
        """Answer the oldest append."""
        self._waiting.pop(0)(error)


class ScriptedWrite(Write):
    """Does what the test says.

    Args:
        act: called with what the write is applied to; its result is the write's.
    """

    __slots__ = ("act", "applied")
    kind = "scripted"

    def __init__(self, act: Callable[[DeviceMessageWriter], Any], outcome: Any = None) -> None:
        super().__init__(outcome)
        self.act = act
        self.applied = 0

    def apply(self, tables: DeviceMessageWriter) -> Any:
        self.applied += 1
        return self.act(tables)
