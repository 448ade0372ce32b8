"""Stores the spool's rows once the database is back: in order, each once (SPEC section 6).

The number that the drain has come to is kept in the database, under the spool's own name, and is written in the same
transaction as the rows: whatever happens, a row is applied once.
"""

import logging

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import RobodyneError, StorageUnavailable
from robodyne_rt.store.engine.database import DbConnection, read_meta, write_meta
from robodyne_rt.store.intake import write_registry
from robodyne_rt.store.intake.commit import Committer, log_dead_letter
from robodyne_rt.store.intake.dead_letters import SpooledWrite, UnreadableRow
from robodyne_rt.store.intake.reports import DeadLetter, Report
from robodyne_rt.store.intake.spool import Spool, SpooledRow
from robodyne_rt.store.stats import WriterStats

logger = logging.getLogger(__name__)

SPOOL_PATIENCE_S = 5.0
"""A spool that cannot be read for so long is given up: a healthy database does not wait for it."""


REPAIR_PATIENCE_S = 60.0
"""A repair copies all of it, on a slow disk perhaps a gigabyte."""


class SpoolDrain:
    """Belongs to the writer's thread, but for `allow`.

    Args:
        batch_max: rows per transaction.
        ids: for rows of the spool that are no message; the loop gives ids from another one at the same time.
    """

    def __init__(self, spool: Spool, *, batch_max: int, ids: IdGenerator, stats: WriterStats, clock: Clock) -> None:
        self._spool = spool
        self._batch_max = batch_max
        self._stats = stats
        self._clock = clock
        self._ids = ids
        self._unreadable_since: float | None = None
        self.allowed_upto = 0
        """Rows up to this number are durable in the spool."""
        self.drained_upto = 0
        """Rows up to this number are stored."""

    def allow(self, upto: int) -> None:
        """Let the rows up to a number be drained: they are durable in the spool. For any thread."""
        self.allowed_upto = upto  # a plain int: the writer's thread reads it in its next cycle

    def is_due(self, after_seq: int | None) -> bool:
        """Return whether rows are to be stored next; `after_seq` is the row after which a batch waits, if one does."""
        upto = self.allowed_upto if after_seq is None else min(after_seq, self.allowed_upto)
        return upto > self.drained_upto

    @property
    def _mark_key(self) -> str:
        return f"spool:{self._spool.name}"  # another one where the spool was begun anew

    def read_mark(self, db: DbConnection) -> int:
        """Read from the database how far the drain has come, also by a commit that was never answered; return it."""
        self.drained_upto = int(read_meta(db, self._mark_key) or 0)
        if self.drained_upto:
            self._spool.forget(self.drained_upto)
        return self.drained_upto

    def drain(self, db: DbConnection, committer: Committer, after_seq: int | None) -> Report | None:
        """Store the next rows; return the report without updates, None where the spool cannot be read now.

        Raises:
            Exception: an error of the database (`Database.errors`); the mark says then what was stored.
        """
        upto = self.allowed_upto if after_seq is None else min(after_seq, self.allowed_upto)
        try:
            rows = self._spool.rows(self.drained_upto, self._batch_max)
        except StorageUnavailable as error:
            return self._unreadable(error)
        self._stats.spool_unreadable, self._unreadable_since = False, None
        rows = [row for row in rows if row.seq <= upto]
        if not rows:
            self.drained_upto = upto  # their append had failed, or an earlier run stored them
            return Report(drained=upto)
        report = Report(drained=rows[-1].seq)
        batch = [self._write_of(row) for row in rows]
        committer.commit(batch, report, mark=lambda index: write_meta(db, self._mark_key, str(rows[index].seq)))
        self.drained_upto = report.drained
        self._stats.trouble = ""
        self._stats.drained += len(rows)
        report.done = []  # they were answered when they came into the spool
        for write in batch:
            if write.refusal is not None:
                self._stats.dead_letters += 1
                self._stats.parked_letters += 1
                report.dead_letters.append(DeadLetter(write, write.dead_letter, str(write.refusal)))
                log_dead_letter(write, 1, write.refusal, unforeseen=False)
                report.reverted.append(write)
        self._spool.forget(report.drained)
        return report

    def _write_of(self, row: SpooledRow) -> SpooledWrite:
        try:
            return SpooledWrite(write_registry.load(row.payload), self._clock)
        except (ValueError, KeyError, TypeError, RobodyneError) as error:
            id = self._ids.next(self._clock.now())
            return SpooledWrite(UnreadableRow(row, error, id, self._clock), self._clock)

    def _unreadable(self, error: StorageUnavailable) -> Report | None:
        """Note that the spool cannot be read; return the report that gives it up when that lasts."""
        now = self._clock.now()
        if self._unreadable_since is None:
            self._unreadable_since = now
            logger.error("the spool cannot be read: %s", error, extra={"action": "spool_unreadable"})
        self._stats.trouble = error.text
        self._stats.spool_unreadable = True
        if now - self._unreadable_since < (REPAIR_PATIENCE_S if self._spool.is_repair_due else SPOOL_PATIENCE_S):
            return None
        self._stats.spool_unreadable, self._unreadable_since = False, None
        self._stats.trouble = ""
        self.drained_upto = self.allowed_upto
        report = Report()
        report.drain_failed = True
        return report

    def close(self) -> None:
        """End the reading."""
        self._spool.close_reader()
