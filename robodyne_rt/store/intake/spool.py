"""The spool: messages that are durable here while the database is away, in order (SPEC section 6).

A SQLite file of its own with FULL commits, written by one thread. The intake appends, a device is told "success" after the
commit; the writer reads the rows in order once the database is back, applies them together with the mark of how far it came,
and has them forgotten. Full, or failing itself, it says so and the device keeps its message: nothing is half taken.
"""

import asyncio
import contextlib
import logging
import queue
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from robodyne_rt.errors import StorageUnavailable

logger = logging.getLogger(__name__)

PAGE_BYTES = 4096
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


class Spool:
    """One file. `append` and `forget` are for any thread, `run` is the thread, `rows` is for one thread at a time: the loop's
    at start, then the writer's.

    Args:
        max_bytes: size of the file at most; beyond it an append fails.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self.trouble = ""
        self._max_pages = max(16, max_bytes // PAGE_BYTES)
        self._queue: queue.SimpleQueue[_Append | int | None] = queue.SimpleQueue()
        self._connection = self._open()
        self._reader: sqlite3.Connection | None = None
        self.name = self._name()
        (self.last_seq,) = self._connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
        (self.rows_at_start,) = self._connection.execute("SELECT count(*) FROM spool").fetchone()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 2000")
        connection.execute(f"PRAGMA max_page_count = {self._max_pages}")
        for statement in _SCHEMA:
            connection.execute(statement)
        if not connection.execute("SELECT 1 FROM spool_name").fetchone():
            connection.execute("INSERT INTO spool_name VALUES (?)", (secrets.token_hex(6),))
        return connection

    def _name(self) -> str:
        name: str = self._connection.execute("SELECT name FROM spool_name").fetchone()[0]
        return name

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
        self._queue.put(upto)

    def stop(self) -> None:
        """Ask the thread to finish what is queued and end."""
        self._queue.put(None)

    # -- the thread's side ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Append and forget until `stop`."""
        ending = False
        while not ending:
            appends: list[_Append] = []
            upto = 0
            item = self._queue.get()
            while True:
                if item is None:
                    ending = True
                elif isinstance(item, int):
                    upto = max(upto, item)
                else:
                    appends.append(item)
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if appends:
                self._append(appends)
            if upto:
                self._forget(upto)
        self._connection.close()

    def _append(self, appends: list[_Append]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for append in appends:
                self._connection.executemany("INSERT INTO spool(seq, payload) VALUES (?, ?)", append.rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._after(error)
            refused = StorageUnavailable(
                f"storage and its spool cannot take it now ({error}); keep the message", retry_after_s=RETRY_AFTER_S
            )
            for append in appends:
                append.done(refused)
            return
        self.trouble = ""
        for append in appends:
            append.done(None)

    def _after(self, error: sqlite3.Error) -> None:
        """A commit that failed is unknown: with a fresh connection the file says what it has, and the rows are put again
        under new numbers only if their device sends them again."""
        is_full = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL if hasattr(error, "sqlite_errorcode") else False
        trouble = f"{self.path} is full" if is_full else f"{self.path}: {error}"
        if trouble != self.trouble:
            logger.error("the spool cannot take messages: %s", trouble, extra={"action": "spool_failed"})
        self.trouble = trouble
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        if not is_full:
            with contextlib.suppress(sqlite3.Error):
                fresh = self._open()
                self._connection.close()
                self._connection = fresh

    def _forget(self, upto: int) -> None:
        try:
            self._connection.execute("DELETE FROM spool WHERE seq <= ?", (upto,))
            if not self._connection.execute("SELECT 1 FROM spool LIMIT 1").fetchone():
                self._connection.execute("PRAGMA incremental_vacuum").fetchall()
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.trouble = ""
        except sqlite3.Error as error:
            # They are skipped by their mark in the database, and dropped together with the next ones.
            logger.warning("drained rows stay in the spool for now: %s", error, extra={"action": "spool_kept"})

    # -- the writer's side ---------------------------------------------------------------------------------------

    def rows(self, after: int, limit: int) -> list[SpooledRow]:
        """Return the next rows after a number, in order; for one thread.

        Raises:
            StorageUnavailable: the file cannot be read.
        """
        try:
            if self._reader is None:
                self._reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
                self._reader.execute("PRAGMA query_only = ON")
                self._reader.execute("PRAGMA busy_timeout = 2000")
            found = self._reader.execute(
                "SELECT seq, payload FROM spool WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
            ).fetchall()
        except sqlite3.Error as error:
            raise StorageUnavailable(f"{self.path}: {error}") from error
        return [SpooledRow(*row) for row in found]

    def close_reader(self) -> None:
        """End the writer's reading."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
