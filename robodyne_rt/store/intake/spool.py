"""The spool: messages that are durable here while the database is away, in order (SPEC section 6).

A SQLite file of its own with FULL commits, written by one thread. The intake appends, a device is told "success" after the
commit; the writer reads the rows in order once the database is back, applies them together with the mark of how far it came,
and has them forgotten. Full, or failing itself, it says so and the device keeps its message: nothing is half taken.

After each append the file is still the one that its path names; one that is damaged, deleted or replaced is repaired at once:
its rows go to a new file, as far as they can be read (`spool_repair.py`).
"""

import asyncio
import contextlib
import logging
import os
import queue
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.engine.database import closed_on_error
from robodyne_rt.store.engine.file_identity import FileIdentity
from robodyne_rt.store.engine.sqlite import sync, wal_of
from robodyne_rt.store.errors import FilesReplaced
from robodyne_rt.store.intake import spool_repair
from robodyne_rt.store.intake.spool_repair import SpoolDamage

logger = logging.getLogger(__name__)

PAGE_BYTES = 4096

LOOK_S = 1.0
"""How often the file is looked at while messages wait in it and none comes."""

RETRY_AFTER_S = 5

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS spool (seq INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS spool_name (name TEXT NOT NULL) STRICT",
)


class SpooledRow(NamedTuple):
    """One write."""

    seq: int
    payload: str


class _Append(NamedTuple):
    rows: list[SpooledRow]
    done: Callable[[StorageUnavailable | None], None]


class _Forget(NamedTuple):
    upto: int


class _Repair(NamedTuple):
    why: str
    incarnation: int | None = None
    """Of the file that it is about."""


class _Discard(NamedTuple):
    lost: int


ReportDamage = Callable[[SpoolDamage], None]


class Spool:
    """One file. `append`, `forget` and `discard` are for any thread, `run` is the thread, `rows` is for one thread at a time:
    the loop's at start, then the writer's.

    Args:
        max_bytes: size of the file at most; beyond it an append fails.
    Attributes:
        name: random; another file has another one.
        last_seq: newest row number that it gave before this start; `rows_at_start`: rows that it held then.
        damage_at_start: what was wrong with the file that was found.
    Raises:
        sqlite3.Error, OSError: the file can neither be opened nor be set aside (no rights, no room).
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = Path(os.path.realpath(path))  # SQLite keeps its log beside the file itself, not beside a link
        self.trouble = ""
        self.damage_at_start: SpoolDamage | None = None
        self._max_pages = max(16, max_bytes // PAGE_BYTES)
        self.fill = 0.0
        """Part of the room that is taken."""
        self._queue: queue.SimpleQueue[_Append | _Forget | _Repair | _Discard | None] = queue.SimpleQueue()
        self._forgotten_upto = self._newest_seq = 0
        self._is_loaded = False
        self._incarnation = 0  # counts the files that took the place of another
        self.is_repair_due = False
        self._reader: sqlite3.Connection | None = None
        self._read_incarnation = 0
        self._connection: sqlite3.Connection | None = None
        self.last_seq = self.rows_at_start = 0
        self.name = ""
        with closed_on_error(self):
            try:
                self._load()
            except (sqlite3.Error, FilesReplaced) as error:
                if not spool_repair.is_damage(error, self.path):
                    raise
                self.damage_at_start = self._repair(str(error))
                self._load()

    def close(self) -> None:
        """Let go of the file; for when no thread uses it."""
        self.close_reader()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _load(self) -> None:
        """Open the file, or make one, and see what it holds."""
        connection = self._connection = self._connection or self._open(self.path)
        self._files = FileIdentity([self.path, wal_of(self.path)])
        self.name = connection.execute("SELECT name FROM spool_name").fetchone()[0]
        (self.last_seq,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
        self._newest_seq = max(self._newest_seq, self.last_seq)
        self._forgotten_upto = max(self._forgotten_upto, _first_seq(connection) - 1)
        (self.rows_at_start,) = connection.execute("SELECT count(*) FROM spool").fetchone()
        self._measure(connection)
        self._is_loaded = True

    def _open(self, path: Path, *, name: str = "", journal: str = "WAL") -> sqlite3.Connection:
        """Open a spool's file; `name` is for a new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with closed_on_error(connection):
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA busy_timeout = 2000")
            connection.execute(f"PRAGMA max_page_count = {self._max_pages}")
            for statement in _SCHEMA:
                connection.execute(statement)
            if not connection.execute("SELECT 1 FROM spool_name").fetchone():
                connection.execute("INSERT INTO spool_name VALUES (?)", (name or secrets.token_hex(6),))
        return connection

    # -- the loop's side -----------------------------------------------------------------------------------------

    def append(
        self, loop: asyncio.AbstractEventLoop, rows: list[SpooledRow], done: Callable[[StorageUnavailable | None], None]
    ) -> None:
        """Have rows stored, all or none; `done` is called on the loop with None, or with why it was not possible."""

        def tell(error: StorageUnavailable | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to be told
                loop.call_soon_threadsafe(done, error)

        self._queue.put(_Append(rows, tell))

    def forget(self, upto: int) -> None:
        """Drop the rows up to a number: the database has them."""
        self._queue.put(_Forget(upto))

    def discard(self, lost: int) -> None:
        """Set the file aside and begin a new one: its rows, `lost` at most, cannot be had in time."""
        self._queue.put(_Discard(lost))

    def stop(self) -> None:
        """Ask the thread to finish what is queued and end."""
        self._queue.put(None)

    # -- the thread's side ---------------------------------------------------------------------------------------

    def run(self, report_damage: ReportDamage) -> None:
        """Append and forget until `stop`.

        Args:
            report_damage: called in this thread with what became of the file.
        """
        is_ending = False
        while not is_ending:
            appends: list[_Append] = []
            upto = 0
            repair: _Repair | _Discard | None = None
            try:
                item = self._queue.get(timeout=LOOK_S)
            except queue.Empty:
                self._look(report_damage)
                continue
            while True:
                if item is None:
                    is_ending = True
                elif isinstance(item, _Append):
                    appends.append(item)
                elif isinstance(item, _Forget):
                    upto = max(upto, item.upto)
                else:
                    repair = item
                    break  # what was queued before it goes to the file that it is about
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if appends:
                self._append(appends, report_damage)
            if upto:
                self._forget(upto)
            if repair is not None:
                self._do_repair(repair, report_damage)
        if self._connection is not None:
            self._connection.close()

    def _look(self, report_damage: ReportDamage) -> None:
        """See whether what waits in the file is still there for who comes after us."""
        if self._newest_seq <= self._forgotten_upto:
            return
        try:
            self._files.check()
        except FilesReplaced as error:
            self._do_repair(_Repair(str(error)), report_damage)

    def _append(self, appends: list[_Append], report_damage: ReportDamage) -> None:
        error = self._try_append(appends)
        if error is not None and spool_repair.is_damage(error, self.path):
            self._do_repair(_Repair(str(error)), report_damage)
            error = self._try_append(appends)
        if error is not None:
            self._after(error)
        refused = None
        if error is not None:
            text = f"storage and its spool cannot take it now ({error}); keep the message"
            refused = StorageUnavailable(text, retry_after_s=RETRY_AFTER_S)
        for append in appends:
            append.done(refused)

    def _try_append(self, appends: list[_Append]) -> Exception | None:
        """Commit rows; return why they are not where somebody finds them again."""
        try:
            connection = self._connection = self._connection or self._open(self.path)
            connection.execute("BEGIN IMMEDIATE")
            for append in appends:
                # A repair may have brought them along: they were committed before it was seen that the file is another one.
                verb = "INSERT OR IGNORE" if append.rows[-1].seq <= self._newest_seq else "INSERT"
                connection.executemany(f"{verb} INTO spool(seq, payload) VALUES (?, ?)", append.rows)
            connection.execute("COMMIT")
            self._newest_seq = max(self._newest_seq, appends[-1].rows[-1].seq)
            self._files.check()
            self._measure(connection)
        except (sqlite3.Error, OSError, FilesReplaced) as error:
            return error
        self.trouble = ""
        return None

    def _measure(self, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):  # nothing hangs on it
            pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
            self.fill = (pages - free) / self._max_pages

    def _after(self, error: Exception) -> None:
        """A commit that failed is unknown: with a fresh connection the file says what it has, and the rows are put again
        under new numbers only if their device sends them again."""
        is_full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        trouble = f"{self.path} is full" if is_full else f"{self.path}: {error}"
        if trouble != self.trouble:
            logger.error("the spool cannot take messages: %s", trouble, extra={"action": "spool_failed"})
        self.trouble = trouble
        if self._connection is None:
            return
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        if not is_full:
            with contextlib.suppress(sqlite3.Error, OSError, FilesReplaced):
                self._files.check()
                fresh = self._open(self.path)
                self._connection.close()
                self._connection = fresh

    def _forget(self, upto: int) -> None:
        if self._connection is None:
            return
        try:
            self._connection.execute("DELETE FROM spool WHERE seq <= ?", (upto,))
            self._forgotten_upto = max(self._forgotten_upto, upto)
            if not self._connection.execute("SELECT 1 FROM spool LIMIT 1").fetchone():
                self._connection.execute("PRAGMA incremental_vacuum").fetchall()
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._measure(self._connection)
            self.trouble = ""
        except sqlite3.Error as error:
            # They are skipped by their mark in the database, and dropped together with the next ones.
            logger.warning("drained rows stay in the spool for now: %s", error, extra={"action": "spool_kept"})

    # -- repair ----------------------------------------------------------------------------------------------------

    def _do_repair(self, repair: _Repair | _Discard, report_damage: ReportDamage) -> None:
        try:
            if isinstance(repair, _Discard):
                damage = self._begin_anew(repair.lost)
            elif repair.incarnation not in (None, self._incarnation):
                return  # another repair came first
            else:
                damage = self._repair(repair.why)
            self._load()
        except (sqlite3.Error, OSError, FilesReplaced) as error:
            self._after(error)
            return
        finally:
            self.is_repair_due = False
        report_damage(damage)

    def _repair(self, why: str) -> SpoolDamage:
        """Bring to a new file what can be read, and put it in the place of the old one, which stays open until that is done.

        Raises:
            sqlite3.Error, OSError: the new file cannot be written; everything is as it was.
        """
        old = self._connection
        if old is None:
            with contextlib.suppress(sqlite3.Error):  # else what lies there is no database at all
                old = sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, isolation_level=None)
        part = self.path.with_name(self.path.name + ".part")
        part.unlink(missing_ok=True)
        try:
            lost = self._salvage(old, part)
            sync(part)
            aside = spool_repair.set_aside(self.path, now=time.time())
            part.replace(self.path)
            sync(self.path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            if old is not None and old is not self._connection:
                old.close()
            raise
        if old is not None:
            old.close()  # before the new one is open: with the last connection SQLite removes the log beside the path
        self._connection = None
        self._incarnation += 1
        text = "the spool's file was damaged, deleted or replaced"
        text += ": all that waited in it was saved" if lost == 0 else f": {lost_text(lost)} that were acknowledged are lost"
        logger.log(
            logging.WARNING if lost == 0 else logging.CRITICAL, "%s (%s); the old file: %s", text, why, aside or "gone",
            extra={"action": "spool_repaired"},
        )  # fmt: skip
        return SpoolDamage(text, lost, aside)

    def _salvage(self, old: sqlite3.Connection | None, part: Path) -> int | None:
        """Copy the rows to a new file; return how many are lost, None where nobody can know.

        The new file keeps the name, by which the database knows how far it was drained, only where its numbers go on.
        """
        if self._is_loaded:
            known: spool_repair.Known | None = spool_repair.Known(self.name, self._newest_seq, self._forgotten_upto)
        else:  # at start nothing is known of the file but what it says itself
            known = None if old is None else spool_repair.read_known(old)
        new = self._open(part, name=known.name if known else "", journal="DELETE")
        try:
            if known is None or old is None:
                return None
            if old.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    old.execute("ROLLBACK")
            new.execute("DELETE FROM sqlite_sequence")
            new.execute("INSERT INTO sqlite_sequence(name, seq) VALUES ('spool', ?)", (known.last_seq,))  # never given again
            return spool_repair.salvage(old, new, after=known.forgotten_upto, last_seq=known.last_seq)
        finally:
            new.close()

    def _begin_anew(self, lost: int) -> SpoolDamage:
        """Begin an empty file, under a new name: of this one nothing is wanted any more."""
        aside = spool_repair.set_aside(self.path, now=time.time())
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._incarnation += 1
        text = f"the spool cannot be read: {lost_text(lost)} that were acknowledged are lost"
        logger.critical("%s; the old file: %s", text, aside or "gone", extra={"action": "spool_lost"})
        return SpoolDamage(text, lost, aside)

    # -- the writer's side ---------------------------------------------------------------------------------------

    def rows(self, after: int, limit: int) -> list[SpooledRow]:
        """Return the next rows after a number, in order; for one thread.

        Raises:
            StorageUnavailable: the file cannot be read; where it is damaged its repair has begun.
        """
        if self.is_repair_due:
            raise StorageUnavailable(f"{self.path} is being repaired")
        incarnation = self._incarnation
        try:
            if self._read_incarnation != incarnation:
                self.close_reader()
                self._read_incarnation = incarnation
            reader = self._reader = self._reader or self._open_reader()
            if not self._is_current:
                raise FilesReplaced(f"{self.path} is another file by now")
            found = reader.execute(
                "SELECT seq, payload FROM spool WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
            ).fetchall()
        except (sqlite3.Error, FilesReplaced) as error:
            self.close_reader()
            if incarnation == self._incarnation and spool_repair.is_damage(error, self.path):
                self.is_repair_due = True
                self._queue.put(_Repair(str(error), incarnation))
            raise StorageUnavailable(f"{self.path}: {error}") from error
        return [SpooledRow(*row) for row in found]

    def _open_reader(self) -> sqlite3.Connection:
        # Read-only in the eyes of SQLite: one that may write would remove the log of the file that took its file's place.
        reader = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        with closed_on_error(reader):
            reader.execute("PRAGMA busy_timeout = 2000")
            self._read_file = FileIdentity([self.path])
        return reader

    @property
    def _is_current(self) -> bool:
        """Whether what is read is what is written, and what the path names."""
        return self._read_file.is_same(self.path) and self._files.known(self.path) == self._read_file.known(self.path)

    def close_reader(self) -> None:
        """End the writer's reading."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def lost_text(lost: int | None) -> str:
    """Return how many messages, for people."""
    return "messages" if lost is None else f"up to {lost} messages"


def _first_seq(connection: sqlite3.Connection) -> int:
    first: int = connection.execute("SELECT coalesce(min(seq), 1) FROM spool").fetchone()[0]
    return first
