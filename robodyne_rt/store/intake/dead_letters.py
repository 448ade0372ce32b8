"""Writes around a write: what becomes of one that ran out of attempts, or is refused although it was acknowledged."""

from typing import Any

from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import Conflict, DeadLettered, RobodyneError
from robodyne_rt.store.intake.spool import SpooledRow
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter


class DeadLetterWrite(Write):
    """What is left of a write at fault: a row in `dead_letter`."""

    __slots__ = ("_row", "_write", "retry_in_s")
    kind = "dead_letter"
    spoolable = False

    def __init__(
        self, write: Write, error: BaseException, attempts: int, clock: Clock, *, retry_in_s: int | None = None
    ) -> None:
        super().__init__()
        now = times.to_text(clock.wall())
        text = f"{type(error).__name__}: {str(error).strip()}"[:2000]
        self._write = write
        letter = write.dead_letter_columns()
        if isinstance(error, Conflict):
            letter["message_id"] = None  # that id is another message's, which is stored
        # What has no id cannot be told to its device a second time: a person decides.
        self.retry_in_s = retry_in_s if letter["message_id"] is not None else None
        self._row = letter | {"error": text, "attempts": attempts, "first_at": now, "last_at": now, "state": self.state}

    @property
    def state(self) -> str:
        """`RETRYING` or `PARKED`."""
        return "PARKED" if self.retry_in_s is None else "RETRYING"

    def apply(self, tables: DeviceMessageWriter) -> Any:
        due = {} if self.retry_in_s is None else {"retry_age_s": tables.age_s + self.retry_in_s}
        return tables.store_dead_letter(self._row | due, self._write.digest)


class SpooledWrite(Write):
    """A write out of the spool: acknowledged, so a refusal now (its dish was deleted meanwhile) makes it a dead letter, in the
    same transaction."""

    __slots__ = ("_clock", "dead_letter", "kind", "refusal", "write")

    def __init__(self, write: Write, clock: Clock) -> None:
        super().__init__()
        self.kind = write.kind
        self.write = write
        self.refusal: RobodyneError | None = None
        self.dead_letter = 0
        self._clock = clock

    def apply(self, tables: DeviceMessageWriter) -> Any:
        self.refusal = None
        try:
            self.write.apply(tables)
        except DeadLettered:
            return  # it became one before, under the same id
        except RobodyneError as refusal:
            if not self.write.leaves_dead_letter:
                return
            self.refusal = refusal
            self.dead_letter = DeadLetterWrite(self.write, refusal, 1, self._clock).apply(tables)

    def dead_letter_columns(self) -> Entity:
        return self.write.dead_letter_columns()

    @property
    def digest(self) -> str:
        return self.write.digest

    @property
    def keys(self) -> list[tuple[str, int]]:
        return self.write.keys


class UnreadableRow(Write):
    """A row of the spool that this version cannot read: a dead letter as it is."""

    __slots__ = ("_row",)
    kind = "unreadable"

    def __init__(self, row: SpooledRow, error: Exception, id: int, clock: Clock) -> None:
        super().__init__()
        now = times.to_text(clock.wall())
        self._row = {"id": id, "kind": self.kind, "device": None, "message_id": None, "payload": row.payload}
        self._row |= {"error": f"{type(error).__name__}: {error}"[:2000], "attempts": 1, "first_at": now, "last_at": now}

    def apply(self, tables: DeviceMessageWriter) -> Any:
        return tables.store_dead_letter(self._row, "")
