"""Tries again what failed by its own fault, after 2 s and then every 30 s (SPEC section 6): the fault may be gone by then.

A letter is RETRYING until it is stored, or until its attempts are used up; then it is PARKED and waits for a person. Belongs to
the writer's thread.
"""

import logging
import math
from typing import Any, Literal

import orjson

from robodyne_rt.model import times
from robodyne_rt.model.rows import RetriedRow
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import RobodyneError
from robodyne_rt.store.engine.database import Database, DbConnection, Fault
from robodyne_rt.store.intake import write_registry
from robodyne_rt.store.intake.reports import DeadLetter, Report
from robodyne_rt.store.intake.writes import MessageWrite, Write
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.tables import dead_letters
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 2
NEXT_RETRY_S = 30

MAX_PER_CYCLE = 20
"""Letters tried between two batches, so that devices do not wait behind them."""


def retry_in_s(attempts: int, max_attempts: int) -> int | None:
    """Return after how many seconds a write that failed so often is tried again, None where it is not."""
    if attempts >= max_attempts:
        return None
    return FIRST_RETRY_S if attempts == 1 else NEXT_RETRY_S


class LetterRetries:
    """Knows when which letter is due.

    Args:
        max_attempts: how often a write may fail by its own fault.
    """

    def __init__(self, database: Database, *, max_attempts: int, stats: WriterStats, clock: Clock) -> None:
        self._database = database
        self._max_attempts = max_attempts
        self._stats = stats
        self._clock = clock
        self._due: dict[int, float] = {}
        self.next_at = math.inf
        """When the next one is due, in monotonic seconds."""

    def load(self, db: DbConnection) -> None:
        """Take up what an earlier run left; soon, because nobody knows how long that was."""
        rows = db.execute("SELECT id FROM dead_letter WHERE state = 'RETRYING' ORDER BY id").fetchall()
        self._due = dict.fromkeys((id for (id,) in rows), self._clock.now() + FIRST_RETRY_S)
        self._look_ahead()

    def schedule(self, id: int, attempts: int) -> None:
        """Try a letter again when it is due; one that does not exist then costs nothing."""
        delay_s = retry_in_s(attempts, self._max_attempts)
        if delay_s is not None:
            self._due[id] = self._clock.now() + delay_s
            self._look_ahead()

    def _look_ahead(self) -> None:
        self.next_at = min(self._due.values(), default=math.inf)

    def run(self, db: DbConnection, tables: DeviceMessageWriter, now: float) -> Report | None:
        """Try what is due, each in a transaction of its own; return what became of it, None where nothing was due.

        Raises:
            Exception: an error of the database; what was not tried is due still.
        """
        due = [id for id, at in self._due.items() if at <= now][:MAX_PER_CYCLE]
        if not due:
            return None
        report = Report()
        for id in due:
            self._try(db, tables, id, report)
            if self._due.get(id, now + 1) <= now:
                del self._due[id]
        self._look_ahead()
        return report

    def _try(self, db: DbConnection, tables: DeviceMessageWriter, id: int, report: Report) -> None:
        db.begin()
        letter = dead_letters.retrying(db, id)
        if letter is None:
            db.rollback()
            return  # an operator was here first, or its transaction was undone
        error: Exception
        try:
            write = write_registry.load(letter["payload"])
            dead_letters.forget(db, letter)
            outdated = isinstance(write, MessageWrite) and tables.is_outdated(write.message, write.heard_at)
            if not outdated:
                write.apply(tables)
            elif write.claim_key is not None:  # else it had no id under which it could come again
                tables.claim(*write.claim_key, write.digest, write.row_id or id)
            db.assign_offsets()
            db.commit()
        except Exception as fault:
            tables.forget_unstored()
            if not self._is_own_fault(fault):
                raise
            db.rollback()
            error = fault
        else:
            what = "is outdated by now and was dropped" if outdated else "was stored after all"
            logger.info("dead letter %d (%s) %s", id, letter["kind"], what, extra={"action": "letter_stored"})
            return
        self._note_failure(db, tables, letter, error, report)

    def _note_failure(
        self, db: DbConnection, tables: DeviceMessageWriter, letter: RetriedRow, error: Exception, report: Report
    ) -> None:
        id, attempts = letter["id"], letter["attempts"] + 1
        delay_s = retry_in_s(attempts, self._max_attempts)
        state: Literal["RETRYING", "PARKED"] = "PARKED" if delay_s is None or isinstance(error, RobodyneError) else "RETRYING"
        text = error.text if isinstance(error, RobodyneError) else f"{type(error).__name__}: {str(error).strip()}"
        db.begin()
        db.execute(
            "UPDATE dead_letter SET attempts = ?, state = ?, retry_age_s = ?, error = ?, last_at = ?, age_s = ? WHERE id = ?",
            (
                attempts, state, tables.age_s + delay_s if delay_s is not None and state == "RETRYING" else None,
                text.replace("\0", "\ufffd")[:2000], times.to_text(self._clock.wall()), tables.age_s, id,
            ),
        )  # fmt: skip
        db.commit()
        if state == "RETRYING":
            self.schedule(id, attempts)
            return
        self._stats.dead_letters += 1
        self._stats.parked_letters += 1
        report.dead_letters.append(DeadLetter(_told_of(letter), id, text))
        logger.error(
            "a %s is parked as dead letter %d after %d attempts: %s", letter["kind"], id, attempts, text,
            extra={"action": "dead_letter"},
        )  # fmt: skip

    def _is_own_fault(self, error: Exception) -> bool:
        return not isinstance(error, self._database.errors) or self._database.fault(error) is Fault.WRITE


def _told_of(letter: RetriedRow) -> Write:
    """Return the write that an event about its letter tells of."""
    try:
        return write_registry.load(letter["payload"])
    except Exception:  # a later version wrote it: what the letter says of itself must do
        return _Unloadable(letter)


class _Unloadable(Write):
    """What a letter says of a write that cannot be loaded."""

    __slots__ = ("_letter",)
    kind = "unreadable"

    def __init__(self, letter: RetriedRow) -> None:
        super().__init__()
        self._letter = letter

    def apply(self, tables: DeviceMessageWriter) -> Any:
        raise ValueError("it cannot be loaded")

    def dead_letter_columns(self) -> dict[str, Any]:
        return {**{name: value for name, value in self._letter.items() if name in ("id", "kind", "device", "message_id")}} | {
            "payload": orjson.dumps(None).decode()
        }
