"""Commits one batch: all together, else one by one under savepoints, else each in a transaction of its own (SPEC section 6).

A write that fails by its own fault costs its neighbours nothing: after its last attempt it becomes a dead letter, in the
same transaction as they. A fault of the database itself goes upwards; then nothing of the batch is reported.
"""

import logging
from collections.abc import Callable, Sequence

from robodyne_rt.core.spooling import Answered
from robodyne_rt.logs import storing_lines
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import DeadLettered, RobodyneError
from robodyne_rt.store.engine.database import Database, DbConnection, Fault
from robodyne_rt.store.errors import StorageBroken
from robodyne_rt.store.intake.dead_letters import DeadLetterWrite
from robodyne_rt.store.intake.letter_retries import LetterRetries, retry_in_s
from robodyne_rt.store.intake.reports import DeadLetter, Report
from robodyne_rt.store.intake.writes import Write, are_server_lines
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter, told_of_letter

logger = logging.getLogger(__name__)

MAX_YIELDS = 3
"""How often a write yields to others of a deadlock before the database is said to be busy."""

Mark = Callable[[int], None]
"""Called inside the transaction with the index of the last write in it: what it writes lives or dies with the batch."""


class Committer:
    """Writes with one connection; for the thread that owns it.

    Args:
        tables: what writes are applied to, on the same connection.
        retries: tries again later what is kept as a dead letter.
        max_attempts: how often a write may fail by its own fault.
    """

    def __init__(
        self,
        database: Database,
        db: DbConnection,
        tables: DeviceMessageWriter,
        *,
        retries: LetterRetries,
        max_attempts: int,
        stats: WriterStats,
        clock: Clock,
    ) -> None:
        self._database = database
        self._db = db
        self._tables = tables
        self._retries = retries
        self._max_attempts = max_attempts
        self._stats = stats
        self._clock = clock

    def commit(self, batch: Sequence[Write], report: Report, *, mark: Mark | None = None) -> None:
        """Commit a batch; `report` gets in order what each outcome is to be told, and the dead letters.

        Raises:
            Exception: an error of the database (`Database.errors`). What stands in `report` is committed all the same;
                whether the rest of the batch is stored is unknown.
            FilesReplaced: the batch went to files that nobody finds again.
        """
        try:
            self._commit_together(batch, report, mark)
        except Exception as error:
            self._roll_back_or_raise(error)
            self._commit_one_by_one(batch, report, mark)
        self._stats.commits += 1

    def _commit_together(self, batch: Sequence[Write], report: Report, mark: Mark | None) -> None:
        db, tables = self._db, self._tables
        done: list[Answered[Write]] = []
        db.begin()
        if mark is not None:
            mark(len(batch) - 1)
        for write in batch:
            try:
                done.append((write, write.apply(tables), None))
            except RobodyneError as refusal:
                done.append((write, None, refusal))
        db.assign_offsets()
        db.commit()
        report.done += done

    def _commit_one_by_one(self, batch: Sequence[Write], report: Report, mark: Mark | None) -> None:
        """Find out which writes are at fault; the others are committed."""
        db, attempt = self._db, Report()
        try:
            db.begin()
            if mark is not None:
                mark(len(batch) - 1)
            for write in batch:
                attempt.done.append(self._try_under_savepoint(write, attempt))
            db.assign_offsets()
            db.commit()
        except Exception as error:
            # The commit itself was refused (a deferred constraint): each gets a transaction of its own.
            self._roll_back_or_raise(error)
            for index, write in enumerate(batch):
                self._commit_alone(write, report, None if mark is None else lambda _, index=index: mark(index))  # type: ignore[misc]
            return
        report.done += attempt.done
        report.dead_letters += attempt.dead_letters
        report.reverted += attempt.reverted

    def _commit_alone(self, write: Write, report: Report, mark: Mark | None) -> None:
        """Commit one write in a transaction of its own, or its dead letter.

        Raises:
            Exception: an error of the database, also where it yields to others again and again.
        """
        own_fault: Exception | None = None
        yields = 0
        while own_fault is None:
            try:
                self._commit_together([write], report, mark)
                return
            except Exception as error:
                self._roll_back_or_raise(error)
                if self._is_own_fault(error):
                    own_fault = error
                elif (yields := yields + 1) > MAX_YIELDS:
                    raise
        if not write.spoolable:
            report.done.append((write, None, own_fault))
            return
        letter, stored = self._dead_letter(write, own_fault), Report()
        self._commit_together([letter], stored, mark)
        report.done.append((write, None, self._keep(letter, write, stored.done[0][1], own_fault, report)))

    def _try_under_savepoint(self, write: Write, report: Report) -> Answered[Write]:
        """Apply one write; where it fails put right what makes good writes fail, then make it a dead letter."""
        db = self._db
        error: Exception | None = None
        # It failed together with its batch before, which does not count: a neighbour may have been at fault.
        for is_first in (True, False):
            db.execute("SAVEPOINT work")
            try:
                result = write.apply(self._tables)
            except RobodyneError as refusal:
                db.execute("RELEASE SAVEPOINT work")
                return (write, None, refusal)
            except Exception as fault:
                if not self._is_own_fault(fault):
                    raise
                db.execute("ROLLBACK TO SAVEPOINT work")
                self._tables.forget_unstored()
                error = fault
                if is_first:
                    db.repair_sequences()
            else:
                db.execute("RELEASE SAVEPOINT work")
                return (write, result, None)
        assert error is not None
        self._stats.errors += 1
        if not write.spoolable:
            with storing_lines(are_server_lines([write])):
                logger.error("a %s could not be stored: %s", write.kind, error, extra={"action": "write_failed"})
            return (write, None, error)
        letter = self._dead_letter(write, error)
        return (write, None, self._keep(letter, write, letter.apply(self._tables), error, report))

    def _dead_letter(self, write: Write, error: Exception) -> DeadLetterWrite:
        return DeadLetterWrite(write, error, 1, self._clock, retry_in_s=retry_in_s(1, self._max_attempts))

    def _keep(self, letter: DeadLetterWrite, write: Write, id: int, error: Exception, report: Report) -> DeadLettered:
        """Note that a write is kept as a dead letter; return what its device is told."""
        report.reverted.append(write)
        if letter.retry_in_s is not None:
            self._retries.schedule(id, 1)
            logger.warning(
                "a %s cannot be stored and is tried again in %d s: %s",
                write.kind,
                letter.retry_in_s,
                error,
                extra={"action": "letter_kept"},
            )
        else:
            self._stats.dead_letters += 1
            self._stats.parked_letters += 1
            report.dead_letters.append(DeadLetter(write, id, str(error)))
            log_dead_letter(write, 1, error, unforeseen=not isinstance(error, (RobodyneError, *self._database.errors)))
        return DeadLettered(**told_of_letter(id, letter.state, letter.retry_in_s))

    def _roll_back_or_raise(self, error: Exception) -> None:
        """Undo the transaction after a write's own fault; anything else is a fault of the database and goes on upwards."""
        self._tables.forget_unstored()
        if isinstance(error, StorageBroken):
            raise error
        if isinstance(error, self._database.errors):
            fault = self._database.fault(error)
            if self._database.has_yielded(error):
                self._db.rollback()  # a deadlock: we were chosen to yield, and nothing of it happened
                return
            if fault is not Fault.WRITE:
                raise error
        self._db.rollback()

    def _is_own_fault(self, error: Exception) -> bool:
        """Return whether an error is the write's own, not the database's."""
        return not isinstance(error, self._database.errors) or self._database.fault(error) is Fault.WRITE


def log_dead_letter(write: Write, attempts: int, error: BaseException, *, unforeseen: bool) -> None:
    """Say in the log that a write became a dead letter; with a traceback where nobody foresaw the error."""
    logger.error(
        "a %s was parked as a dead letter after %d attempts: %s",
        write.kind,
        attempts,
        error,
        extra={"action": "dead_letter"},
        exc_info=error if unforeseen else None,
    )
