"""The one writer: a thread that owns the read-write connection (SPEC section 6).

It takes what has queued up and commits it as one transaction; after each commit, whenever a foreign program committed
(`PRAGMA data_version`) and at the latest every `fallback_interval_s` it reads the change log. Outcomes and updates then
reach the loop in one call, updates first: who was told "success" and connects finds the change in the snapshot.

A write that fails is found by doing its batch again one by one under savepoints, so that it never costs its neighbours.
A commit that fails means "unknown": everyone in it is told to send again, and ids make that safe. After an I/O error the
file is not trusted any more: the thread ends with `StorageBroken` and the process with it.
"""

import asyncio
import logging
import queue
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from robodyne_rt.core import times
from robodyne_rt.core.device_messages import DeviceMessage
from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.errors import Internal, RobodyneError, StorageBroken, StorageUnavailable
from robodyne_rt.model.changes import Update
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.ports import Clock, Outcome
from robodyne_rt.store import schema
from robodyne_rt.store.apply import REMEMBERED_S, Applier, ids_needed
from robodyne_rt.store.changes import ChangeLog, GapInLog
from robodyne_rt.store.database import Database

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How often foreign commits are looked for: 2.5 us each, well inside the 250 ms promised."""

LINES_AT_ONCE = 500
"""Lines of the log that become one update: a bulk load must not become one endless message."""

CHECKPOINT_PAGES = 400
"""Below 500, so that a foreign program's automatic checkpoint at 1000 hardly ever runs (SPEC section 6)."""

UPDATES_AT_ONCE = 10
"""Updates of one topic per turn; the rest waits for the next turn, so that a bulk load does not hold up the devices."""

PRUNE_STEP = 500
PRUNE_INTERVAL_S = 0.25

_FULL = ("database or disk is full",)
_BUSY = ("database is locked", "database table is locked", "database is busy")
_BROKEN = ("disk I/O error", "malformed", "not a database")


class Work(NamedTuple):
    """One write: `apply` runs in the writer's thread and transaction, `outcome` on the loop."""

    apply: Callable[[Applier], Any]
    outcome: Outcome | None


class Delivery(NamedTuple):
    """What one turn of the writer brings to the loop."""

    updates: list[Update]
    outcomes: list[tuple[Outcome, Any, BaseException | None]]


class WriterStats:
    """Plain numbers that `/metrics` reads; written by the writer's thread only."""

    def __init__(self) -> None:
        self.commits = 0
        self.commit_s: list[float] = []
        self.batch_sizes: list[int] = []
        self.errors = 0
        self.wal_pages = 0
        self.newest_change_at = ""
        self.published_at = 0.0
        self.missing_triggers: list[str] = []
        self.turned_at = 0.0
        self.trouble = ""

    @property
    def change_lag_s(self) -> float:
        """Age of the newest change when it left for the screens."""
        if not self.newest_change_at:
            return 0.0
        return max(0.0, self.published_at - times.to_epoch_s(self.newest_change_at))


class Writer:
    """Implements `ports.MessageStore`; all public methods are for the loop's thread, `run` is the thread itself.

    Args:
        database: prepared; the writer opens its own connection.
        connection: read-write, handed over for good.
        changes_retained: lines of the log kept per topic.
        notify: whether foreign commits are looked for between the fallback polls.
        on_updates: called on the loop with what changed, in order.
    """

    def __init__(
        self,
        database: Database,
        connection: sqlite3.Connection,
        *,
        windows: Mapping[str, int],
        batch_max: int,
        changes_retained: int,
        fallback_interval_s: float,
        notify: bool,
        clock: Clock,
        on_updates: Callable[[list[Update]], None],
    ) -> None:
        self.stats = WriterStats()
        self._database = database
        self._connection = connection
        self._applier = Applier(connection)
        self._log = ChangeLog(connection, windows=windows)
        self._batch_max = batch_max
        self._changes_retained = changes_retained
        self._fallback_interval_s = fallback_interval_s
        self._notify = notify
        self._clock = clock
        self._on_updates = on_updates
        self._ids = IdGenerator()
        # None on the queue asks for the end.
        self._queue: queue.SimpleQueue[list[Work] | None] = queue.SimpleQueue()
        self._gathered: list[Work] = []
        self._waiting = 0
        self._resumes: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.positions: dict[str, int] = self._log.heads()
        self._seen_unreadable: set[tuple[str, int, str]] = set()
        self._data_version = self._read_data_version()
        self._more_news = False
        self._next_fallback = 0.0
        self._next_prune = 0.0
        self._next_look = 0.0
        self._checkpointed_changes = connection.total_changes
        self._checkpointed_commits = 0
        self._prune_after: tuple[str, str] = ("", "")

    # -- the loop's side -----------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Writes that wait for their commit."""
        return self._waiting

    @property
    def is_behind(self) -> bool:
        """Whether devices should not be read from: four full batches are waiting."""
        return self._waiting >= 4 * self._batch_max

    def when_caught_up(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, on the loop, when `is_behind` is over."""
        self._resumes.append(resume)

    def submit(self, apply: Callable[[Applier], Any], outcome: Outcome | None = None) -> None:
        """Queue one write; what is submitted in one turn of the loop leaves together."""
        if not self._gathered:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._hand_over)
        self._gathered.append(Work(apply, outcome))
        self._waiting += 1

    def _hand_over(self) -> None:
        works, self._gathered = self._gathered, []
        self._queue.put(works)

    def store_message(self, message: DeviceMessage, *, device: str, digest: str, heard_at: str, outcome: Outcome) -> None:
        ids = [self._ids.next(int(self._clock.wall() * 1000)) for _ in range(ids_needed(message))]
        self.submit(lambda applier: applier.message(message, device, digest, heard_at, ids), outcome)

    def store_telemetry(self, robot_id: str, fields: dict[str, Any], heard_at: str) -> None:
        self.submit(lambda applier: applier.telemetry(robot_id, fields, heard_at))

    def store_vanished(self, robot_id: str, heard_at: str) -> None:
        id = self._ids.next(int(self._clock.wall() * 1000))
        self.submit(lambda applier: applier.vanished(robot_id, heard_at, id))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop that outcomes are delivered on; before `run`."""
        self._loop = loop

    def stop(self) -> None:
        """Ask the thread to commit what is queued and end."""
        if self._gathered:
            self._hand_over()
        self._queue.put(None)

    def _deliver(self, delivery: Delivery, done: int) -> None:
        was_behind = self.is_behind
        self._waiting -= done
        if delivery.updates:
            try:
                self._on_updates(delivery.updates)
            except Exception:
                # What is stored must be answered, whatever became of the screens.
                logger.exception("updates could not be published", extra={"action": "publish_failed"})
        for outcome, result, error in delivery.outcomes:
            try:
                outcome(result, error)
            except Exception:
                logger.exception("an outcome failed", extra={"action": "outcome_failed"})
        if was_behind and not self.is_behind:
            resumes, self._resumes = self._resumes, []
            for resume in resumes:
                resume()

    # -- the thread's side ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Write and read until `stop`; everything queued before is committed.

        Raises:
            StorageBroken: the file cannot be trusted; the process should end and be started again.
        """
        try:
            ending = False
            while not ending:
                batch, ending = self._next_batch()
                self._turn(batch)
            self._checkpoint()
        except sqlite3.Error as error:
            raise StorageBroken(f"{self._database.path}: {error}") from error
        finally:
            self._connection.close()

    def _next_batch(self) -> tuple[list[Work], bool]:
        batch: list[Work] = []
        try:
            works = self._queue.get(timeout=0.001 if self._more_news else POLL_S)
            while True:
                if works is None:
                    return batch, True
                batch += works
                if len(batch) >= self._batch_max:
                    return batch, False
                works = self._queue.get_nowait()
        except queue.Empty:
            return batch, False

    def _turn(self, batch: list[Work]) -> None:
        outcomes: list[tuple[Outcome, Any, BaseException | None]] = []
        for start in range(0, len(batch), self._batch_max):
            outcomes += self._write(batch[start : start + self._batch_max])
        updates = self._read_news() if batch or self._is_news() else []
        if batch or updates:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._deliver, Delivery(updates, outcomes), len(batch))
        self.stats.turned_at = time.monotonic()
        self._upkeep(bool(batch))

    def _write(self, batch: Sequence[Work]) -> list[tuple[Outcome, Any, BaseException | None]]:
        """Commit a batch; return what each of its outcomes is to be told."""
        started = time.perf_counter()
        while True:
            try:
                results = self._transaction(batch, one_by_one=False)
                break
            except sqlite3.OperationalError as error:
                self._rollback()
                text = str(error)
                if text.startswith(_BUSY):
                    self._note_trouble("another program holds the database locked")
                    continue  # transient: wait for as long as it takes
                if text.startswith(_FULL):
                    self._note_trouble("the disk is full")
                    refused = StorageUnavailable("the disk is full; keep the message", retry_after_s=5)
                    return [(work.outcome, None, refused) for work in batch if work.outcome]
                if any(word in text for word in _BROKEN):
                    raise StorageBroken(f"{self._database.path}: {text}") from error
                results = self._one_by_one(batch)
                break
            except sqlite3.DatabaseError as error:
                self._rollback()
                if any(word in str(error) for word in _BROKEN):
                    raise StorageBroken(f"{self._database.path}: {error}") from error
                results = self._one_by_one(batch)
                break
            except Exception:
                self._rollback()
                results = self._one_by_one(batch)
                break
        stats = self.stats
        stats.trouble = ""
        stats.commits += 1
        if len(stats.commit_s) < 10_000:
            stats.commit_s.append(time.perf_counter() - started)
            stats.batch_sizes.append(len(batch))
        return results

    def _one_by_one(self, batch: Sequence[Work]) -> list[tuple[Outcome, Any, BaseException | None]]:
        try:
            return self._transaction(batch, one_by_one=True)
        except sqlite3.Error as error:
            self._rollback()
            logger.error("a batch could not be committed: %s", error, extra={"action": "commit_failed"})
            refused = StorageUnavailable("storage failed; keep the message", retry_after_s=1)
            return [(work.outcome, None, refused) for work in batch if work.outcome]

    def _transaction(self, batch: Sequence[Work], *, one_by_one: bool) -> list[tuple[Outcome, Any, BaseException | None]]:
        execute = self._connection.execute
        results: list[tuple[Outcome, Any, BaseException | None]] = []
        execute("BEGIN IMMEDIATE")
        for apply, outcome in batch:
            result: Any = None
            error: BaseException | None = None
            if one_by_one:
                execute("SAVEPOINT work")
            try:
                result = apply(self._applier)
            except RobodyneError as refusal:
                error = refusal
            except Exception as fault:
                if not one_by_one:
                    raise
                execute("ROLLBACK TO work")
                self.stats.errors += 1
                logger.error("a message could not be stored: %s", fault, extra={"action": "write_failed"}, exc_info=fault)
                error = Internal("the message could not be stored")
            if one_by_one:
                execute("RELEASE work")
            if outcome is not None:
                results.append((outcome, result, error))
        execute("COMMIT")
        return results

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _note_trouble(self, text: str) -> None:
        if self.stats.trouble != text:
            logger.error("cannot store: %s", text, extra={"action": "store_trouble"})
        self.stats.trouble = text
        time.sleep(0.05)

    # -- reading what is new -------------------------------------------------------------------------------------

    def _is_news(self) -> bool:
        now = time.monotonic()
        if self._more_news:
            return True
        if self._notify:
            version = self._read_data_version()
            if version != self._data_version:
                self._data_version = version
                return True
        if now >= self._next_fallback:
            self._next_fallback = now + self._fallback_interval_s
            return True
        return False

    def _look_for_triggers(self) -> None:
        missing = schema.missing_triggers(self._connection)
        if missing and missing != self.stats.missing_triggers:
            logger.error(
                "the change log misses changes: no trigger %s", ", ".join(missing), extra={"action": "trigger_missing"}
            )
        self.stats.missing_triggers = missing

    def _read_data_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _read_news(self) -> list[Update]:
        """Return an update for each topic that moved; a topic whose log has a hole gets a snapshot instead."""
        updates: list[Update] = []
        self._more_news = False
        # No transaction around it: a state that is newer than its position is right, and comes again.
        for topic, head in self._log.heads().items():
            position = self.positions.get(topic)
            if position is None or head == position:
                continue
            try:
                if position > head:
                    raise GapInLog(f"{topic}: the head went back from {position} to {head}")
                for _ in range(UPDATES_AT_ONCE):
                    if position >= head:
                        break
                    update = self._log.after(topic, position, LINES_AT_ONCE)
                    if update.offset == position:
                        raise GapInLog(f"{topic}: nothing after {position}, though the head is {head}")
                    position = update.offset
                    updates.append(update)
            except GapInLog as gap:
                logger.error("%s: sending snapshots", gap, extra={"action": "log_gap"})
                update = self._log.snapshot(topic)
                position = update.offset
                updates.append(update)
            self.positions[topic] = position
            self._more_news |= position < head
        if updates:
            self.stats.newest_change_at = self._log.newest_at
            self.stats.published_at = self._clock.wall()
        if self._log.unreadable:
            self._report_unreadable()
        return updates

    def _report_unreadable(self) -> None:
        """Put one ERROR event on the queue for each value that could not be read, once."""
        found, self._log.unreadable = self._log.unreadable, []
        new = [item for item in dict.fromkeys(found) if item not in self._seen_unreadable]
        self._seen_unreadable.update(new)
        if new and self._loop is not None:
            texts = [f"{table}.{column} of row {id} cannot be read; shown as null" for table, id, column in new]
            self._loop.call_soon_threadsafe(self._submit_error_events, texts)

    def _submit_error_events(self, texts: list[str]) -> None:
        for text in texts:
            self.submit(self._error_event(text))

    def _error_event(self, text: str) -> Callable[[Applier], None]:
        id, at = self._ids.next(int(self._clock.wall() * 1000)), self._clock.stamp()
        return lambda applier: applier.event(id, "ERROR", "ERROR", None, None, text, None, at)

    # -- upkeep --------------------------------------------------------------------------------------------------

    def _upkeep(self, wrote: bool) -> None:
        now = time.monotonic()
        if wrote and self._pages_written() >= CHECKPOINT_PAGES:
            self._checkpoint()
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_INTERVAL_S
            self._prune()
        if now >= self._next_look:  # here and not where news is looked for: that is not asked while devices keep us busy
            self._next_look = now + self._fallback_interval_s
            self._look_for_triggers()

    def _pages_written(self) -> int:
        """Return about how many pages the WAL holds: Python's sqlite3 has no hook that tells. A commit touches about five
        pages, and one more for every thirty rows (measured; the true count is `stats.wal_pages` at each checkpoint)."""
        rows = self._connection.total_changes - self._checkpointed_changes
        return 5 * (self.stats.commits - self._checkpointed_commits) + rows // 30

    def _checkpoint(self) -> None:
        try:
            row = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            return
        self.stats.wal_pages = row[1] if row else 0
        self._checkpointed_changes = self._connection.total_changes
        self._checkpointed_commits = self.stats.commits

    def _prune(self) -> None:
        """Forget old lines of the log and old message ids, in steps that hold up nobody."""
        for topic in TOPICS:
            last = self.positions.get(topic, 0) - self._changes_retained
            for _ in range(20):
                if last <= 0 or not self._prune_step(topic, last):
                    break
        self._prune_messages()

    def _prune_step(self, topic: str, last: int) -> bool:
        try:
            cursor = self._connection.execute(
                'DELETE FROM change WHERE topic = ? AND "offset" <= ? AND "offset" < '
                '(SELECT min("offset") + ? FROM change WHERE topic = ?)',
                (topic, last, PRUNE_STEP, topic),
            )
        except sqlite3.OperationalError:
            return False  # locked or full: the next round is soon
        return cursor.rowcount == PRUNE_STEP

    def _prune_messages(self) -> None:
        """Walk through the remembered ids, a step at a time: no index is needed that every commit would have to keep."""
        oldest = int(self._clock.wall()) - REMEMBERED_S
        rows = self._connection.execute(
            "SELECT device, id, at FROM device_message WHERE (device, id) > (?, ?) ORDER BY device, id LIMIT ?",
            (*self._prune_after, PRUNE_STEP),
        ).fetchall()
        self._prune_after = rows[-1][:2] if len(rows) == PRUNE_STEP else ("", "")
        old = [row[:2] for row in rows if row[2] < oldest]
        if old:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("DELETE FROM device_message WHERE device = ? AND id = ?", old)
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError:
                self._rollback()
