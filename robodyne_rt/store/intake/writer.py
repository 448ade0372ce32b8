"""The one writer: a thread that owns the connection that writes (SPEC section 6).

A cycle commits what has queued up as one transaction (`commit.py`), or stores the next rows of the spool (`drain.py`), then
reads the change log (`log/reader.py`): after each commit, whenever a foreign program committed, and at the latest every
`fallback_interval_s`. Outcomes and updates reach the loop in one report, updates first: who was told "success" and connects
finds the change in the snapshot.

Where the database is away, locked or full, the writer lets go of everything it was given since and says so: the ledger
(`core/spooling.py`) has it too. A commit that fails means "unknown": nobody in it is told anything, and it is done again;
the names of its messages, in the same transaction, keep that from happening twice. The writer comes back by itself. After an
I/O error of a file the thread ends with `StorageBroken`, and the process with it.
"""

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NoReturn

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.core.retry import Backoff
from robodyne_rt.core.spooling import LATE_S, Give
from robodyne_rt.logs import storing_lines
from robodyne_rt.model import times
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.settings import ConfigError
from robodyne_rt.store.engine.database import Database, DbConnection, Fault, read_epochs, renew_epoch, write_meta
from robodyne_rt.store.errors import DataOwned, FilesReplaced, StorageBroken
from robodyne_rt.store.intake.backup import BACKUP_PAUSE_S, BackupRequest, copy_between_cycles, rescue
from robodyne_rt.store.intake.commit import Committer
from robodyne_rt.store.intake.drain import SpoolDrain
from robodyne_rt.store.intake.letter_retries import LetterRetries
from robodyne_rt.store.intake.reports import Report
from robodyne_rt.store.intake.spool import Spool
from robodyne_rt.store.intake.writes import Write, are_server_lines
from robodyne_rt.store.log.change_log import HistoryLost
from robodyne_rt.store.log.history import History
from robodyne_rt.store.log.maintenance import PRUNE_PAUSE_S, Maintenance
from robodyne_rt.store.log.reader import LogReader
from robodyne_rt.store.log.retention import Retention
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How often foreign commits are looked for: 2.5 us each on SQLite, 40 us on Postgres, well inside the 250 ms promised."""

BUSY_POLL_S = 0.001
"""How long the queue is waited for while there is more to do."""

FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 2.0
"""Pauses before a database that is away is tried again."""

WRITER_NODE = 30
"""Node number of the ids that this thread gives: the loop gives others at the same time."""

LOCK_RETRY_S = 0.002
"""Pause before a database that is only locked is tried again, while the lock is younger than `LATE_S`: most are soon gone."""

MAX_MEASURED = 10_000
"""Commits whose duration is kept until `/metrics` asks for it."""


ReportTo = Callable[[Report], None]


class Writer:
    """The public methods are for the loop's thread, `run` is the thread itself.

    Args:
        database: where connections come from when this one is lost.
        db: read-write, prepared, handed over for good.
        spool: to be drained; None where there is none.
        changes_retained: lines of the log kept per topic.
        notify: whether foreign commits are looked for between the fallback polls.
        attempts: how often a write may fail by its own fault.
        retention_days: how long dead letters are kept.
        retention: deletes what is old.
        ids: what the loop gives ids by; looked at only.
    """

    def __init__(
        self,
        database: Database,
        db: DbConnection,
        *,
        history: History,
        spool: Spool | None = None,
        windows: Mapping[str, int],
        batch_max: int,
        changes_retained: int,
        fallback_interval_s: float,
        notify: bool,
        attempts: int = 3,
        retention_days: float = 14,
        retention: Retention,
        ids: IdGenerator,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.stats = WriterStats(clock.now())
        self._database = database
        self._history = history
        self._batch_max = batch_max
        self._fallback_interval_s = fallback_interval_s
        self._notify = notify
        self._max_attempts = attempts
        self._clock = clock
        self._sleep = sleep
        # True when a foreign program was heard; None asks for the end.
        self._queue: queue.SimpleQueue[Give[Write] | BackupRequest | bool | None] = queue.SimpleQueue()
        self._generation = 0
        # What one transaction may take, all after the same row of the spool; and batches after later ones.
        self._held: list[Write] = []
        self._held_after_seq = 0
        self._later: deque[Give[Write]] = deque()
        self._is_ending = False
        self._was_notified = False
        self._backup: BackupRequest | None = None
        self._is_away = False
        # Since when another program's lock lets nothing of ours through.
        self._locked_since: float | None = None
        self._backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._next_try = 0.0
        self._next_fallback = 0.0
        self._maintenance = Maintenance(
            database,
            db,
            stats=self.stats,
            changes_retained=changes_retained,
            look_interval_s=fallback_interval_s,
            retention_days=retention_days,
            retention=retention,
            ids=ids,
            clock=clock,
        )
        self._log = LogReader(db, windows=windows, history=history, stats=self.stats, clock=clock)
        self._drain: SpoolDrain | None = None
        if spool is not None:
            own_ids = IdGenerator(node=WRITER_NODE, wall=clock.wall(), now=clock.now(), above=ids.bound(clock.now()))
            self._drain = SpoolDrain(spool, batch_max=batch_max, ids=own_ids, stats=self.stats, clock=clock)
        self._retries = LetterRetries(database, max_attempts=attempts, stats=self.stats, clock=clock)
        self._retries.load(db)
        self._db: DbConnection | None = None
        self._use(db)
        self.snapshots = {snapshot.topic: snapshot for snapshot in self._log.snapshots()}
        """What each topic's window shows at start; updates go on from there."""
        self.lookups = self._log.lookups()
        self.drained_at_start = self._drain.read_mark(db) if self._drain else 0

    def _use(self, db: DbConnection) -> None:
        self._db = db
        db.limit_lock_waits()
        self._tables = DeviceMessageWriter(db)
        self._tables.age_s = self._maintenance.age_s
        self._committer = Committer(
            self._database,
            db,
            self._tables,
            retries=self._retries,
            max_attempts=self._max_attempts,
            stats=self.stats,
            clock=self._clock,
        )

    # -- the loop's side -------------------------------------------------------------------------------------------

    @property
    def positions(self) -> Mapping[str, int]:
        """Offset up to which each topic of the change log was read."""
        return self._log.positions

    def give(self, batch: Give[Write]) -> None:
        """Queue writes; those of a generation that failed are the giver's again."""
        self._queue.put(batch)

    def drain(self, upto: int) -> None:
        """Allow the spool's rows up to a number to be drained: they are durable there."""
        if self._drain is not None:
            self._drain.allow(upto)

    def notify(self) -> None:
        """Ask for a look at what foreign programs committed."""
        self._queue.put(True)

    def back_up(self, request: BackupRequest) -> None:
        """Copy the database to a new file while writing goes on, to be verified then."""
        self._queue.put(request)

    def interrupt(self) -> None:
        """Make a call that hangs fail: the database is taken to be away."""
        if (db := self._db) is not None:
            db.interrupt()

    def stop(self) -> None:
        """Ask the thread to commit what is queued and end."""
        self._queue.put(None)

    # -- the thread's side -----------------------------------------------------------------------------------------

    def run(self, report_to: ReportTo) -> None:
        """Write and read until `stop`; everything queued before is committed, or left to the intake.

        Args:
            report_to: called in this thread with what is to be brought to the loop.
        Raises:
            StorageBroken: the database cannot be trusted; the process should end and be started again.
        """
        try:
            while not (self._is_ending and not self._held):
                self.fetch(wait=True)
                self.cycle(report_to)
                if self._backup is not None and not self._is_away:
                    self._run_backup(report_to)
        except StorageBroken as error:
            self._rescue(error)
        finally:
            if self._db is not None and not self._is_away:
                self._finish(self._db)
            self.close()

    def close(self) -> None:
        """Let go of the database and the spool; for when `run` has ended, or was never called."""
        if self._db is not None:
            self._db.close()
        if self._drain is not None:
            self._drain.close()

    def _rescue(self, error: StorageBroken) -> NoReturn:
        """Save what nobody would find again, if that is what is wrong, and raise."""
        try:
            if self._db is not None:
                self._db.check_files()
        except FilesReplaced as replaced:
            logger.critical(
                "%s: nothing more is acknowledged; what was stored is being saved", replaced, extra={"action": "files_replaced"}
            )
            assert self._db is not None
            error = FilesReplaced(f"{replaced}: {self._rescued(self._db)}")
            self._db.remove_orphans()
        raise error

    def _rescued(self, db: DbConnection) -> str:
        """Save the open file; return what became of it, for people."""
        (file,) = self._database.files
        try:
            saved = rescue(file, db, now=self._clock.wall(), between=self._note_turn)
        except Exception as error:  # no room, no such folder, a damaged file: why we end stays the first reason
            logger.exception("what was stored could not be saved", extra={"action": "rescue_failed"})
            return f"and what was stored in it could not be saved: {error}"
        return f"all that was stored in it is in {saved}; stop the server and `robodyne-rt restore` it, or look into it"

    def _note_turn(self) -> None:
        self.stats.cycled_at = self._clock.now()

    def _finish(self, db: DbConnection) -> None:
        try:
            db.checkpoint()
        except self._database.errors:
            logger.exception("the last checkpoint failed", extra={"action": "checkpoint_failed"})

    def fetch(self, *, wait: bool) -> None:
        """Take from the queue what fits into one transaction."""
        try:
            item = self._queue.get(timeout=self._idle_s()) if wait else self._queue.get_nowait()
            while True:
                if isinstance(item, Give):
                    self._hold(item)
                elif item is None:
                    self._is_ending = True
                elif isinstance(item, BackupRequest):
                    self._take_backup(item)
                else:
                    self._was_notified = True
                if len(self._held) >= self._batch_max:
                    return
                item = self._queue.get_nowait()
        except queue.Empty:
            return

    def _idle_s(self) -> float:
        """Return how long to wait for more before the next cycle."""
        if self._held or self._log.has_more or self._is_drain_due() or (self._is_away and self._is_briefly_locked):
            return BUSY_POLL_S
        if self._backup is not None:
            return BACKUP_PAUSE_S
        return PRUNE_PAUSE_S if self._maintenance.is_behind else POLL_S

    def _hold(self, batch: Give[Write]) -> None:
        if batch.generation != self._generation:
            return  # the database failed since it was given: the intake has it again
        if not self._held:
            self._held_after_seq = batch.after_seq
        elif batch.after_seq != self._held_after_seq or self._later:
            self._later.append(batch)
            return
        self._held += batch.entries

    def _next_writes(self) -> list[Write]:
        """Return the writes of the next transaction."""
        held = self._held
        self._held = held[self._batch_max :]
        if not self._held and self._later:
            self._held_after_seq = self._later[0].after_seq
            while self._later and self._later[0].after_seq == self._held_after_seq:
                self._held += self._later.popleft().entries
        return held if len(held) <= self._batch_max else held[: self._batch_max]

    def cycle(self, report_to: ReportTo) -> None:
        """Do what is due once; what is committed is told, and what was read is shown, also where the database fails then.

        Raises:
            StorageBroken: the database cannot be trusted.
        """
        now = self.stats.cycled_at = self._clock.now()
        with storing_lines(are_server_lines(self._held)):
            try:
                if not self._is_away or self._come_back(report_to):
                    self._work(report_to, now)
            except self._database.errors as error:
                self._fail(error, report_to)

    def _work(self, report_to: ReportTo, now: float) -> None:
        if self._is_drain_due():
            self._drain_some(report_to, now)
            return
        batch = self._next_writes()
        report = Report(self._generation)
        try:
            if batch:
                self._commit(batch, report)
            is_fallback_due = self._is_fallback_due(now)
            if batch or self._has_news() or is_fallback_due:
                self._log.read(report.updates, assign_offsets=not batch)
                if is_fallback_due:
                    self._log.check_history()
                    report.lookups = self._log.lookups()
                report.unreadable = self._log.unreadable()
        except HistoryLost as error:
            self._begin_history(report, error)
        finally:
            if not report.is_empty:
                report_to(report)
        self._end_lock()
        self._maintain(report_to, now, wrote=bool(batch))

    def _commit(self, batch: list[Write], report: Report) -> None:
        started = time.perf_counter()
        self._committer.commit(batch, report)
        if len(self.stats.commit_s) < MAX_MEASURED:
            self.stats.commit_s.append(time.perf_counter() - started)
            self.stats.batch_sizes.append(len(batch))

    def _is_drain_due(self) -> bool:
        drain = self._drain
        if drain is None or drain.allowed_upto <= drain.drained_upto or self._is_away:
            return False
        return drain.is_due(self._held_after_seq if self._held else None)

    def _drain_some(self, report_to: ReportTo, now: float) -> None:
        assert self._drain is not None and self._db is not None
        report = self._drain.drain(self._db, self._committer, self._held_after_seq if self._held else None)
        if report is None:
            self._sleep(POLL_S)
            return
        report.generation = self._generation
        try:
            self._log.read(report.updates, assign_offsets=False)
        except HistoryLost as error:
            self._begin_history(report, error)
        finally:
            report_to(report)
        self._end_lock()
        self._maintain(report_to, now, wrote=True)

    def _has_news(self) -> bool:
        if self._log.has_more:
            return True
        was_notified, self._was_notified = self._was_notified, False
        if self._notify and (was_notified or self._database.kind == "sqlite" or not self._held):
            return self._log.has_foreign_changes()
        return False

    def _is_fallback_due(self, now: float) -> bool:
        if now < self._next_fallback:
            return False
        self._next_fallback = now + self._fallback_interval_s
        return True

    def _maintain(self, report_to: ReportTo, now: float, *, wrote: bool) -> None:
        assert self._db is not None
        if wrote and (pages := self._db.maintain(self.stats.commits)) is not None:
            self.stats.wal_pages = pages
        # Here and not where news is looked for: that is not asked while devices keep us busy.
        self._maintenance.run(self._db, self._tables, self._log.positions, now)
        if now >= self._retries.next_at and (tried := self._retries.run(self._db, self._tables, now)) is not None:
            self._log.has_more = True
            tried.generation = self._generation
            report_to(tried)
        if self._maintenance.restored_topics:
            report = Report(self._generation)
            report.restored_topics, self._maintenance.restored_topics = self._maintenance.restored_topics, []
            self._log.has_more = True
            report_to(report)

    # -- away and back ---------------------------------------------------------------------------------------------

    def _fail(self, error: Exception, report_to: ReportTo) -> None:
        """Let go of everything, and come back later."""
        fault = self._database.fault(error)
        if fault is Fault.BROKEN:
            raise StorageBroken(f"{self._database.name}: {error}") from error
        now = self._clock.now()
        if fault is not Fault.BUSY:
            self._locked_since = None
        elif self._locked_since is None:
            self._locked_since = now
        self._note_trouble(fault, error)
        self.stats.failures += 1
        self._held = []
        self._later.clear()
        self._close_unless_usable(fault)
        self._backoff.reset()
        self._is_away = True
        self._next_try = now + self._pause_s()
        over, self._generation = self._generation, self._generation + 1
        report_to(Report(over, fault=fault))

    @property
    def _is_briefly_locked(self) -> bool:
        return self._locked_since is not None and self._clock.now() - self._locked_since <= LATE_S

    def _pause_s(self) -> float:
        """Return how long to wait before the next try."""
        return LOCK_RETRY_S if self._is_briefly_locked else self._backoff.next_s()

    def _note_trouble(self, fault: Fault, error: Exception) -> None:
        """Tell people why nothing is stored, once; a lock of a moment is no news."""
        if self._is_briefly_locked:
            return
        text = f"{fault.value}: {' '.join(str(error).split())}" if fault is not Fault.BUSY else fault.value
        if self.stats.trouble != text:
            logger.error("cannot store in %s: %s", self._database.name, text, extra={"action": "store_trouble"})
        self.stats.trouble = text

    def _close_unless_usable(self, fault: Fault) -> None:
        if self._db is not None and (fault is Fault.AWAY or not self._rolled_back(self._db)):
            self._db.close()
            self._db = None

    def _rolled_back(self, db: DbConnection) -> bool:
        try:
            db.rollback()
        except self._database.errors:
            return False
        return True

    def _come_back(self, report_to: ReportTo) -> bool:
        """Try to write again; return whether that works."""
        if self._clock.now() < self._next_try:
            return False
        report = Report(self._generation, recovered=True)
        try:
            db = self._db or self._database.open_writer()
            if self._db is None:
                self._use(db)
                self._log.use(db)
            db.begin()
            if self._locked_since is None:
                write_meta(db, "written_at", times.to_text(self._clock.wall()))  # a disk with room, a database that commits
                db.commit()
            else:
                db.rollback()  # nothing else was the matter than the lock, and that is free
            if self._drain is not None:
                report.drained = self._drain.read_mark(db)
            try:  # last: what it finds must be told, and not fall to another error
                self._log.check_history()
            except HistoryLost as error:
                self._begin_history(report, error)
        except self._database.errors as error:
            self._stay_away(error)
            return False
        except (StorageUnavailable, StorageBroken, DataOwned, ConfigError) as error:
            if self._database.kind == "sqlite" or isinstance(error, FilesReplaced):
                raise
            if isinstance(error, DataOwned | ConfigError):  # a database that is just being restored does not exist
                self.stats.trouble = str(error)
            self.stats.lock_lost = str(error) if isinstance(error, DataOwned) else ""
            self._stay_away(error)
            return False
        self._is_away = False
        self.stats.lock_lost = ""
        if self._locked_since is None:
            self._end_trouble()
        self._log.has_more = True
        report_to(report)
        return True

    def _end_lock(self) -> None:
        """Note that a cycle got through: only then is a lock over, which may have let a transaction begin (on Postgres)."""
        if self._locked_since is not None:
            self._locked_since = None
            self._end_trouble()

    def _end_trouble(self) -> None:
        if self.stats.trouble:
            logger.info("%s can be written again", self._database.name, extra={"action": "store_recovered"})
        self.stats.trouble = ""

    def _stay_away(self, error: Exception) -> None:
        fault = self._database.fault(error)
        if isinstance(error, self._database.errors) and fault is Fault.BROKEN:
            raise StorageBroken(f"{self._database.name}: {error}") from error
        if fault is Fault.BUSY:
            self._note_trouble(fault, error)
        else:
            self._locked_since = None
        self._close_unless_usable(fault)
        self._next_try = self._clock.now() + self._pause_s()

    def _begin_history(self, report: Report, loss: HistoryLost) -> None:
        """The database is not the one that was read before: a new history begins, so that no client goes on from the old one
        (SPEC section 6). Where another node has renewed the epoch already, its history is taken over."""
        assert self._db is not None
        stored, epochs = self._history.stored, read_epochs(self._db)
        if epochs[-1] == stored:
            renew_epoch(self._db, stored)
        elif stored not in epochs:
            renew_epoch(self._db, epochs[-1])  # another database: clients of its own history know nothing of ours
        report.updates = self._log.snapshots()
        self._history.stored = report.epoch = read_epochs(self._db)[-1]
        self.stats.regressions += 1
        logger.error(
            "%s lost changes that it had confirmed (%s): new epoch %s", self._database.name, loss, report.epoch,
            extra={"action": "data_regressed"},
        )  # fmt: skip

    # -- backup ----------------------------------------------------------------------------------------------------

    def _take_backup(self, request: BackupRequest) -> None:
        if self._backup is not None:
            request.done(StorageUnavailable("a backup is being made already"))
            return
        self._backup = request

    def _run_backup(self, report_to: ReportTo) -> None:
        assert self._backup is not None and self._db is not None

        def cycle() -> str:
            self.fetch(wait=True)
            self.cycle(report_to)
            return self.stats.trouble if self._is_away else ""

        error = copy_between_cycles(self._database, self._db, self._backup, cycle=cycle)
        done, self._backup = self._backup.done, None
        done(error)
