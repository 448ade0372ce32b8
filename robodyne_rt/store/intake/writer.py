"""The one writer: a thread that owns the session that writes (SPEC section 6).

It takes what has queued up and commits it as one transaction; after each commit, whenever a foreign program committed and
at the latest every `fallback_interval_s` it reads the change log. Outcomes and updates then reach the loop in one call,
updates first: who was told "success" and connects finds the change in the snapshot.

- A write that fails by its own fault is found by doing its batch again one by one under savepoints, so that it never costs
  its neighbours; after its third attempt it is parked in `dead_letter`.
- Where the database is away, locked or full, the writer lets go of everything it was given since: the intake has it too, and
  spools it. The writer comes back by itself, drains the spool in order, and only then takes new writes.
- A commit that fails means "unknown": nobody in it is told anything, and it is done again; the names of its messages, in the
  same transaction, keep that from happening twice. After an I/O error of a file the thread ends with `StorageBroken` and the
  process with it.
"""

import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from robodyne_rt.core import times
from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.errors import DeadLettered, RobodyneError, StorageBroken, StorageUnavailable
from robodyne_rt.model.changes import Update
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.ports import Clock
from robodyne_rt.store.engine.database import Database, DbConnection, Fault, read_meta, renew_epoch, write_meta
from robodyne_rt.store.intake import write_registry
from robodyne_rt.store.intake.dead_letters import DeadLetterWrite, SpooledWrite, UnreadableRow
from robodyne_rt.store.intake.reports import Done, Failure, Report, WriterStats
from robodyne_rt.store.intake.spool import Spool, SpooledRow
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.log.change_log import ChangeLog, GapInLog
from robodyne_rt.store.log.retention import Maintenance
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How often foreign commits are looked for: 2.5 us each on SQLite, 40 us on Postgres, well inside the 250 ms promised."""

MAX_LINES_PER_UPDATE = 500
"""Lines of the log that become one update: a bulk load must not become one endless message."""

MAX_UPDATES_PER_CYCLE = 10
"""Updates of one topic per turn; the rest waits for the next turn, so that a bulk load does not hold up the devices."""

WRITER_NODE = 30
"""Node number of the ids that this thread gives: the loop gives others at the same time."""

BACKOFF_S = (0.05, 2.0)
"""First and longest pause before a database that is away is tried again."""

BACKUP_PAGES = 256
"""Pages of a backup copied between two turns: 1 MiB."""


class _Backup(NamedTuple):
    target: Path
    done: Callable[[BaseException | None], None]


class Writer:
    """The public methods are for the loop's thread, `run` is the thread itself.

    Args:
        database: where sessions come from when this one is lost.
        session: read-write, prepared, handed over for good.
        epoch: the database's.
        spool: to be drained; None where there is none.
        changes_retained: lines of the log kept per topic.
        notify: whether foreign commits are looked for between the fallback polls.
        attempts: how often a write may fail by its own fault.
        retention_days: how long dead letters are kept.
        report: called in the writer's thread with what is to be brought to the loop.
    """

    def __init__(
        self,
        database: Database,
        db: DbConnection,
        *,
        epoch: str,
        spool: Spool | None = None,
        windows: Mapping[str, int],
        batch_max: int,
        changes_retained: int,
        fallback_interval_s: float,
        notify: bool,
        attempts: int = 3,
        retention_days: float = 14,
        clock: Clock,
        report: Callable[[Report], None],
    ) -> None:
        self.stats = WriterStats()
        self._database = database
        self._spool = spool
        self._epoch = epoch
        self._windows = windows
        self._batch_max = batch_max
        self._fallback_interval_s = fallback_interval_s
        self._notify = notify
        self._attempts = attempts
        self._clock = clock
        self._ids = IdGenerator(node=WRITER_NODE)
        self._report = report
        # Works with their generation; a backup; True when the doorbell rang; None asks for the end.
        self._queue: queue.SimpleQueue[tuple[int, list[Write]] | _Backup | bool | None] = queue.SimpleQueue()
        self._held: list[Write] = []
        self._generation = 0
        self._failed_generation = -1
        self._ending = False
        self._notified = False
        self._backup: _Backup | None = None
        self._db: DbConnection | None = None
        self._maintenance = Maintenance(
            database,
            db,
            stats=self.stats,
            changes_retained=changes_retained,
            look_interval_s=fallback_interval_s,
            retention_days=retention_days,
        )
        self._use(db)
        self.snapshots = {topic: self._log.snapshot(topic) for topic in TOPICS}
        """What each topic's window shows at start; updates go on from there."""
        self.lookups = self._log.menu()
        self.positions = {topic: snapshot.offset for topic, snapshot in self.snapshots.items()}
        self._away = False
        self._next_try = 0.0
        self._pause_s = BACKOFF_S[0]
        self._mark = f"spool:{spool.name}" if spool else ""
        self._drained = self._read_mark()
        self._drain_target = spool.last_seq if spool and spool.rows_at_start else 0
        if spool and spool.rows_at_start and self._drained:
            spool.forget(self._drained)
        self._seen_unreadable: set[tuple[str, int, str]] = set()
        self._more_news = False
        self._next_fallback = 0.0

    def _use(self, db: DbConnection) -> None:
        self._db = db
        self._tables = DeviceMessageWriter(db)
        self._tables.age_s = self._maintenance.age_s
        self._log = ChangeLog(db, windows=self._windows)

    # -- the loop's side -----------------------------------------------------------------------------------------

    @property
    def drained(self) -> int:
        """Rows of the spool up to this number are stored."""
        return self._drained

    def give(self, generation: int, batch: list[Write]) -> None:
        """Queue writes; those of a generation that failed are the giver's again."""
        self._queue.put((generation, batch))

    def drain(self, upto: int) -> None:
        """Allow the spool's rows up to a number to be drained: they are durable there."""
        self._drain_target = upto  # a plain int: the thread reads it when it turns

    def notify(self) -> None:
        """Ask for a look at what foreign programs committed."""
        self._queue.put(True)

    def back_up(self, target: Path, done: Callable[[BaseException | None], None]) -> None:
        """Copy the database to a new file while writing goes on, to be verified then; `done` is called in the writer's
        thread."""
        self._queue.put(_Backup(target, done))

    def interrupt(self) -> None:
        """Make a call that hangs fail: the database is taken for away."""
        if (db := self._db) is not None:
            db.interrupt()

    def stop(self) -> None:
        """Ask the thread to commit what is queued and end."""
        self._queue.put(None)

    # -- the thread's side ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Write and read until `stop`; everything queued before is committed, or left to the intake.

        Raises:
            StorageBroken: the database cannot be trusted; the process should end and be started again.
        """
        try:
            while not (self._ending and not self._held):
                self._fetch(wait=True)
                self._guarded_turn()
                if self._backup is not None and not self._away:
                    self._run_backup()
        finally:
            if self._db is not None:
                if not self._away:
                    self._finish(self._db)
                self._db.close()
            if self._spool is not None:
                self._spool.close_reader()

    def _finish(self, db: DbConnection) -> None:
        try:
            db.checkpoint()
        except self._database.errors:
            logger.exception("the last checkpoint failed", extra={"action": "checkpoint_failed"})

    def _fetch(self, *, wait: bool) -> None:
        busy = self._held or self._more_news or self._is_draining()
        try:
            item = self._queue.get(timeout=0.001 if busy else POLL_S) if wait else self._queue.get_nowait()
            while True:
                if item is None:
                    self._ending = True
                elif item is True:
                    self._notified = True
                elif isinstance(item, _Backup):
                    self._backup = item
                elif item and item[0] > self._failed_generation:
                    self._generation = item[0]
                    self._held += item[1]
                if len(self._held) >= self._batch_max:
                    return
                item = self._queue.get_nowait()
        except queue.Empty:
            return

    def _guarded_turn(self) -> None:
        try:
            self._turn()
        except self._database.errors as error:
            self._fail(error)
        self.stats.turned_at = time.monotonic()

    def _turn(self) -> None:
        if self._away and not self._come_back():
            return
        assert self._db is not None
        if self._is_draining():
            self._drain_some()
            return
        batch = self._held
        if len(batch) > self._batch_max:
            batch, self._held = batch[: self._batch_max], batch[self._batch_max :]
        else:
            self._held = []
        report = Report()
        if batch:
            self._write(batch, report)
        is_due = self._is_fallback_due()
        if batch or self._is_news() or is_due:
            try:
                self._read_news(report.updates, assign_offsets=not batch)
                if is_due:
                    report.lookups = self._log.menu()
                if self._log.unreadable:
                    report.unreadable = self._unreadable()
            finally:
                # What is committed is told, and what was read is shown, also where the database goes away right now.
                if report.done or report.updates or report.lookups or report.unreadable:
                    self._report(report)
        self._upkeep(bool(batch))

    # -- writing -------------------------------------------------------------------------------------------------

    def _write(self, batch: Sequence[Write], report: Report) -> None:
        """Commit a batch, and say what each of its outcomes is to be told."""
        started = time.perf_counter()
        try:
            self._transaction(batch, report, one_by_one=False)
        except Exception as error:
            self._roll_back_or_raise(error)
            report.done.clear()
            self._one_by_one(batch, report)
        self.stats.commits += 1
        if len(self.stats.commit_s) < 10_000:
            self.stats.commit_s.append(time.perf_counter() - started)
            self.stats.batch_sizes.append(len(batch))

    def _roll_back_or_raise(self, error: Exception) -> None:
        """Undo the transaction after a write's own fault; anything else is a fault of the database and goes on upwards."""
        assert self._db is not None
        if isinstance(error, self._database.errors):
            fault = self._database.fault(error)
            if fault is Fault.BUSY and self._database.kind == "postgres":
                self._db.rollback()  # a deadlock: we were chosen to yield, and nothing of it happened
                return
            if fault is not Fault.WRITE:
                raise error
        self._db.rollback()

    def _one_by_one(self, batch: Sequence[Write], report: Report) -> None:
        """Find out which writes are at fault; the others are committed."""
        try:
            self._transaction(batch, report, one_by_one=True)
        except Exception as error:
            # The commit itself was refused (a deferred constraint): each gets a transaction of its own.
            self._roll_back_or_raise(error)
            report.done.clear()
            report.parked.clear()
            for write in batch:
                self._alone(write, report)

    def _alone(self, write: Write, report: Report, before: Callable[[], None] | None = None) -> None:
        errors: list[Exception] = []
        while len(errors) < self._attempts:
            attempt = Report()
            try:
                self._transaction([write], attempt, one_by_one=False, before=before)
                report.done += attempt.done
                return
            except Exception as error:
                self._roll_back_or_raise(error)
                if self._is_at_fault(error):
                    errors.append(error)
        outcome: BaseException = errors[-1]
        if write.kept:
            parked = DeadLetterWrite(write, errors[-1], self._attempts, self._clock)
            stored = Report()
            self._transaction([parked], stored, one_by_one=False, before=before)
            letter = stored.done[0][1]
            self._note_dead_letter(write, letter, errors[-1], report)
            outcome = DeadLettered(dead_letter=letter)
        report.done.append((write, None, outcome))

    def _transaction(
        self, batch: Sequence[Write], report: Report, *, one_by_one: bool, before: Callable[[], None] | None = None
    ) -> None:
        """Apply writes and commit them; `report.done` gets them in order."""
        db = self._db
        assert db is not None
        tables, done = self._tables, report.done
        db.begin()
        if before is not None:
            before()
        if one_by_one:
            for write in batch:
                done.append(self._try(db, write, report))
        else:
            for write in batch:
                try:
                    done.append((write, write.apply(tables), None))
                except RobodyneError as refusal:
                    done.append((write, None, refusal))
        db.assign_offsets()
        db.commit()

    def _try(self, db: DbConnection, write: Write, report: Report) -> Done:
        """Apply one write under a savepoint, as often as it may fail, then park it."""
        error: Exception | None = None
        # It failed together with its batch already, which was one attempt; the first of these may be an innocent neighbour.
        for attempt in range(1, self._attempts + 1):
            db.execute("SAVEPOINT work")
            try:
                result = write.apply(self._tables)
            except RobodyneError as refusal:
                db.execute("RELEASE SAVEPOINT work")
                return (write, None, refusal)
            except Exception as fault:
                if not self._is_at_fault(fault):
                    raise
                db.execute("ROLLBACK TO SAVEPOINT work")
                error = fault
                if attempt == 1:
                    db.repair_sequences()
            else:
                db.execute("RELEASE SAVEPOINT work")
                return (write, result, None)
        assert error is not None
        self.stats.errors += 1
        if not write.kept:
            logger.error("a %s could not be stored: %s", write.kind, error, extra={"action": "write_failed"})
            return (write, None, error)
        letter = DeadLetterWrite(write, error, self._attempts, self._clock).apply(self._tables)
        self._note_dead_letter(write, letter, error, report)
        return (write, None, DeadLettered(dead_letter=letter))

    def _is_at_fault(self, error: Exception) -> bool:
        """Return whether an error is the write's own, not the database's."""
        return not isinstance(error, self._database.errors) or self._database.fault(error) is Fault.WRITE

    def _note_dead_letter(self, write: Write, letter: int, error: Exception, report: Report) -> None:
        self.stats.dead_letters += 1
        report.parked.append((write, letter, str(error)))
        logger.error(
            "a %s was parked as a dead letter after %d attempts: %s",
            write.kind,
            self._attempts,
            error,
            extra={"action": "dead_letter"},
            exc_info=None if isinstance(error, (RobodyneError, *self._database.errors)) else error,
        )

    # -- away and back -------------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        """Let go of everything, and come back later."""
        fault = self._database.fault(error)
        if fault is Fault.BROKEN:
            raise StorageBroken(f"{self._database.name}: {error}") from error
        text = f"{fault.value}: {' '.join(str(error).split())}" if fault is not Fault.BUSY else fault.value
        if self.stats.trouble != text:
            logger.error("cannot store in %s: %s", self._database.name, text, extra={"action": "store_trouble"})
        self.stats.trouble = text
        self.stats.failures += 1
        self._held = []
        self._failed_generation = self._generation
        assert self._db is not None or self._away
        if self._db is not None and (fault is Fault.AWAY or not self._rolled_back(self._db)):
            self._db.close()
            self._db = None
        self._pause_s = min(BACKOFF_S[1], 2 * self._pause_s) if self._away else BACKOFF_S[0]
        self._away = True
        self._next_try = time.monotonic() + self._pause_s
        self._report(Report(failure=Failure(self._failed_generation)))

    def _rolled_back(self, db: DbConnection) -> bool:
        try:
            db.rollback()
        except self._database.errors:
            return False
        return True

    def _come_back(self) -> bool:
        """Try to write again; return whether that works. Until then nothing is held: the intake has it."""
        if self._held:
            self._failed_generation = self._generation
            self._held = []
            self._report(Report(failure=Failure(self._failed_generation)))
        now = time.monotonic()
        if now < self._next_try:
            return False
        try:
            if self._db is None:
                self._use(self._database.open_writer())
            db = self._db
            assert db is not None
            db.begin()
            write_meta(db, "written_at", times.to_text(self._clock.wall()))  # a disk with room, a database that commits
            db.commit()
            report = Report(recovered=True)
            self._check_history(db, report)
            # The last rows of the spool may have been committed without our hearing of it.
            self._drained = report.drained = self._read_mark()
            if self._spool is not None and self._drained:
                self._spool.forget(self._drained)
        except self._database.errors as error:
            self._still_away(error)
            return False
        except (StorageUnavailable, StorageBroken) as error:
            if self._database.kind == "sqlite":
                raise
            self._still_away(error)
            return False
        self._away = False
        self._pause_s = BACKOFF_S[0]
        self.stats.trouble = ""
        self._more_news = True
        logger.info("%s can be written again", self._database.name, extra={"action": "store_recovered"})
        self._report(report)
        return True

    def _still_away(self, error: Exception) -> None:
        fault = self._database.fault(error)
        if isinstance(error, self._database.errors) and fault is Fault.BROKEN:
            raise StorageBroken(f"{self._database.name}: {error}") from error
        if self._db is not None and (fault is Fault.AWAY or not self._rolled_back(self._db)):
            self._db.close()
            self._db = None
        self._pause_s = min(BACKOFF_S[1], 2 * self._pause_s)
        self._next_try = time.monotonic() + self._pause_s

    def _check_history(self, db: DbConnection, report: Report) -> None:
        """A database that came back with another epoch, or older than we saw it, has lost history (SPEC section 6)."""
        heads = self._log.heads()
        epoch = read_meta(db, "epoch") or ""
        behind = [topic for topic, position in self.positions.items() if heads.get(topic, 0) < position]
        if epoch == self._epoch and not behind:
            return
        if epoch == self._epoch:
            epoch = renew_epoch(db, epoch)
        self.stats.regressions += 1
        logger.error(
            "%s came back without changes that it had confirmed: new epoch %s", self._database.name, epoch,
            extra={"action": "data_regressed"},
        )  # fmt: skip
        self._epoch = report.epoch = epoch
        report.updates = [self._log.snapshot(topic) for topic in TOPICS]
        self.positions = {update.topic: update.offset for update in report.updates}

    # -- the spool -----------------------------------------------------------------------------------------------

    def _is_draining(self) -> bool:
        return self._drain_target > self._drained and not self._away

    def _read_mark(self) -> int:
        if not self._mark or self._db is None:
            return 0
        return int(read_meta(self._db, self._mark) or 0)

    def _drain_some(self) -> None:
        """Store the next rows of the spool, once: their mark is in the same transaction."""
        assert self._spool is not None and self._db is not None
        db = self._db
        try:
            rows = self._spool.rows(self._drained, self._batch_max)
        except StorageUnavailable as error:
            self._note_spool_unreadable(error)
            return
        self.stats.spool_unreadable = False
        rows = [row for row in rows if row.seq <= self._drain_target]
        if not rows:
            self._drained = self._drain_target
            self._report(Report(drained=self._drained))
            return
        report = Report()
        pairs = [(row.seq, self._spooled(row)) for row in rows]
        batch = [write for _, write in pairs]
        last = rows[-1].seq
        try:
            try:
                self._transaction(batch, Report(), one_by_one=False, before=lambda: self._set_mark(db, last))
            except Exception as error:
                self._roll_back_or_raise(error)
                self._transaction(batch, report, one_by_one=True, before=lambda: self._set_mark(db, last))
        except Exception as error:
            # As in `_one_by_one`: each gets a transaction of its own, and in it the mark of how far we are.
            self._roll_back_or_raise(error)
            report = Report()
            for seq, write in pairs:
                self._alone(write, report, before=lambda seq=seq: self._set_mark(db, seq))  # type: ignore[misc]
            self._set_mark(db, last)
        self.stats.commits += 1
        self.stats.trouble = ""
        self._drained = last
        self.stats.drained += len(rows)
        for write in batch:
            if write.refusal is not None:
                self._note_dead_letter(write, write.letter_id, write.refusal, report)
        report.lost = [write for write, *_ in report.parked]
        self._spool.forget(last)
        report.drained = last
        report.done = []
        try:
            self._read_news(report.updates, assign_offsets=False)
        finally:
            self._report(report)
        self._upkeep(wrote=True)

    def _set_mark(self, db: DbConnection, seq: int) -> None:
        write_meta(db, self._mark, str(seq))

    def _spooled(self, row: SpooledRow) -> SpooledWrite:
        """Return the write of a row."""
        try:
            return SpooledWrite(write_registry.load(row.payload), self._clock)
        except (ValueError, KeyError, TypeError, RobodyneError) as error:
            return SpooledWrite(
                UnreadableRow(row, error, self._ids.next(int(self._clock.wall() * 1000)), self._clock), self._clock
            )

    def _note_spool_unreadable(self, error: StorageUnavailable) -> None:
        if self.stats.trouble != error.text:
            logger.error("the spool cannot be read: %s", error, extra={"action": "spool_unreadable"})
        self.stats.trouble = error.text
        self.stats.spool_unreadable = True
        time.sleep(POLL_S)

    # -- reading what is new -------------------------------------------------------------------------------------

    def _is_news(self) -> bool:
        assert self._db is not None
        if self._more_news:
            return True
        notified, self._notified = self._notified, False
        if self._notify and (notified or self._database.kind == "sqlite" or not self._held):
            return self._db.has_foreign_changes(self.positions)
        return False

    def _is_fallback_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_fallback:
            return False
        self._next_fallback = now + self._fallback_interval_s
        return True

    def _read_news(self, updates: list[Update], *, assign_offsets: bool = True) -> None:
        """Add an update for each topic that moved; a topic whose log has a hole gets a snapshot instead.

        Args:
            updates: what stands here is told, and `positions` are behind it, also where this fails in the middle.
            seal: whether there may be foreign changes without an offset; our own transaction has just sealed otherwise.
        """
        assert self._db is not None
        if assign_offsets:
            self._db.assign_foreign_offsets()
        self._more_news = False
        # No transaction around it: a state that is newer than its position is right, and comes again.
        for topic, head in self._log.heads().items():
            position = self.positions.get(topic)
            if position is None or head == position:
                continue
            try:
                if position > head:
                    raise GapInLog(f"{topic}: the head went back from {position} to {head}")
                for _ in range(MAX_UPDATES_PER_CYCLE):
                    if position >= head:
                        break
                    update = self._log.after(topic, position, MAX_LINES_PER_UPDATE)
                    if update.offset == position:
                        raise GapInLog(f"{topic}: nothing after {position}, though the head is {head}")
                    position = self.positions[topic] = update.offset
                    updates.append(update)
            except GapInLog as gap:
                logger.error("%s: sending snapshots", gap, extra={"action": "log_gap"})
                update = self._log.snapshot(topic)
                position = self.positions[topic] = update.offset
                updates.append(update)
            self._more_news |= position < head
        if updates:
            self.stats.newest_change_at = self._log.newest_at
            self.stats.published_at = self._clock.wall()

    def _unreadable(self) -> list[str]:
        """Return one text for each value that could not be read, once."""
        found, self._log.unreadable = self._log.unreadable, []
        new = [item for item in dict.fromkeys(found) if item not in self._seen_unreadable]
        self._seen_unreadable.update(new)
        return [f"{table}.{column} of row {id} cannot be read; shown as null" for table, id, column in new]

    # -- upkeep --------------------------------------------------------------------------------------------------

    def _upkeep(self, wrote: bool) -> None:
        db = self._db
        assert db is not None
        if wrote and (pages := db.upkeep(self.stats.commits)) is not None:
            self.stats.wal_pages = pages
        # Here and not where news is looked for: that is not asked while devices keep us busy.
        self._maintenance.run(db, self._tables, self.positions)

    # -- backup --------------------------------------------------------------------------------------------------

    def _run_backup(self) -> None:
        """Copy the database in small steps on this connection, with turns in between: so it always makes progress."""
        backup, self._backup = self._backup, None
        assert backup is not None and self._db is not None
        error: BaseException | None = None
        try:
            self._db.copy(backup.target, pages=BACKUP_PAGES, between=self._turn_during_backup)
        except (StorageBroken, StorageUnavailable, OSError) as caught:
            error = caught
        except self._database.errors as caught:
            error = caught
        backup.done(error)

    def _turn_during_backup(self) -> None:
        self._fetch(wait=False)
        if self._backup is not None:
            self._backup.done(StorageUnavailable("a backup is being made already"))
            self._backup = None
        self._guarded_turn()
        if self._away:
            raise StorageUnavailable(f"the backup was broken off: {self.stats.trouble}")
