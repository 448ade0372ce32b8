"""SQLite: how connections are opened, what their settings must be, and the schema with its version.

One connection writes (`open_writer`), all others are read-only and never checkpoint (PITFALLS of WAL mode: a reader that
checkpoints can meet the WAL-reset bug, one that writes can lose its snapshot). Writers come one at a time, so the triggers
assign offsets themselves.
"""

import contextlib
import logging
import math
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from robodyne_rt.settings import ConfigError
from robodyne_rt.store.engine import schema
from robodyne_rt.store.engine.database import (
    Column,
    Database,
    DbConnection,
    Fault,
    Progress,
    begin_history,
    closed_on_error,
    exact,
    finite,
    no_progress,
    read_epochs,
    renew_epoch,
    schema_version,
    write_meta,
)
from robodyne_rt.store.engine.file_identity import FileIdentity
from robodyne_rt.store.errors import StorageBroken
from robodyne_rt.store.migrations import MIGRATIONS
from robodyne_rt.store.migrations.migration import Migration
from robodyne_rt.store.migrations.runner import SqliteRunner

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 5000
"""At start, and of readers."""

LOCK_PATIENCE_MS = 10
"""How long a commit waits for another program's lock before the spool takes what waits; 100 is the bound (SPEC section 6)."""

WAL_LIMIT_BYTES = 64 * 1024 * 1024

CHECKPOINT_PAGES = 400
"""Below 500, so that a foreign program's automatic checkpoint at 1000 hardly ever runs (SPEC section 6)."""

PAGES_PER_COMMIT = (5.0, 30.0)
"""What is believed of the pages that one commit adds to the WAL."""

LEARN_FROM_COMMITS = 5

READ_DEADLINE_S = 2.0
"""No read transaction lives longer: an open one keeps the WAL from being reset."""

PROGRESS_S = 2.0
"""How often long work before the start says that it goes on."""

WRITE_OUT_BYTES = 1024 * 1024
"""A copy is written to the disk in such pieces, as it grows: all of it at once would hold up the commits of everybody."""

COPY_PAGES = 4096
"""Pages copied between two looks at the clock: 16 MiB."""

VERIFY_STEPS = 100_000
"""Instructions of SQLite's machine between two calls while a copy is verified: some milliseconds."""

PRAGMAS: dict[str, int | str] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: a commit is on disk when it returns
    "busy_timeout": BUSY_TIMEOUT_MS,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "journal_size_limit": WAL_LIMIT_BYTES,
    "mmap_size": 0,
    "temp_store": 2,
}

_FAULTS = {
    sqlite3.SQLITE_BUSY: Fault.BUSY,
    sqlite3.SQLITE_LOCKED: Fault.BUSY,
    sqlite3.SQLITE_INTERRUPT: Fault.BUSY,
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_IOERR: Fault.BROKEN,
    sqlite3.SQLITE_CORRUPT: Fault.BROKEN,
    sqlite3.SQLITE_NOTADB: Fault.BROKEN,
    sqlite3.SQLITE_CANTOPEN: Fault.BROKEN,
    sqlite3.SQLITE_READONLY: Fault.BROKEN,
    sqlite3.SQLITE_PERM: Fault.BROKEN,
    sqlite3.SQLITE_PROTOCOL: Fault.BUSY,
}


def fault(error: BaseException) -> Fault:
    """Return what an error of SQLite means."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return Fault.WRITE
    return _FAULTS.get(code & 0xFF, Fault.WRITE)


class SqliteConnection(DbConnection):
    """One connection to a file.

    Args:
        path: its file, where that and its WAL must stay what they are: on the connection that writes.
    Raises:
        FilesReplaced: they are not there any more.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None = None) -> None:
        self.connection = connection
        self._path = path
        self._files = FileIdentity([path, wal_of(path)]) if path is not None else None
        self.execute = connection.execute
        self._data_version = 0
        self._read_until = math.inf
        self._checkpointed_changes = 0
        self._checkpointed_commits = 0
        self._pages_per_commit = 12.0
        self._busy_timeout_ms = BUSY_TIMEOUT_MS

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def begin(self) -> None:
        self.execute("BEGIN IMMEDIATE")

    def begin_reading(self) -> None:
        self._read_until = time.monotonic() + READ_DEADLINE_S
        self.execute("BEGIN")

    @contextlib.contextmanager
    def silently(self) -> Iterator[None]:
        self.begin()
        try:
            self.execute("UPDATE topic_head SET is_silent = 1")
            yield
            self.execute("UPDATE topic_head SET is_silent = 0")
            self.commit()
        except BaseException:
            self.rollback()
            raise

    def limit_lock_waits(self) -> None:
        self._busy_timeout_ms = LOCK_PATIENCE_MS
        self.connection.execute(f"PRAGMA busy_timeout = {LOCK_PATIENCE_MS}")

    @contextlib.contextmanager
    def impatiently(self) -> Iterator[None]:
        self.connection.execute("PRAGMA busy_timeout = 0")
        try:
            yield
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms}")

    def limit_reads(self) -> None:
        """Interrupt reads that run over the deadline."""
        self.connection.set_progress_handler(lambda: time.monotonic() > self._read_until, 10_000)

    def check_files(self) -> None:
        if self._files is not None:
            self._files.check()

    def remove_orphans(self) -> None:
        if self._files is not None:
            file, wal = self._files.paths
            if self._files.is_same(wal) and not self._files.is_same(file):
                wal.unlink(missing_ok=True)  # SQLite would replay it into the file that took the place of ours

    def assign_offsets(self) -> None:
        return None

    def has_foreign_changes(self, positions: dict[str, int]) -> bool:
        version: int = self.execute("PRAGMA data_version").fetchone()[0]
        has_foreign_changes, self._data_version = version != self._data_version, version
        return has_foreign_changes

    def assign_foreign_offsets(self) -> bool:
        return False

    def present_columns(self) -> set[tuple[str, str]]:
        query = "SELECT m.name, x.name FROM sqlite_master AS m JOIN pragma_table_xinfo(m.name) AS x WHERE m.type = 'table'"
        return {(table, column) for table, column in self.execute(query).fetchall()}

    def missing_triggers(self) -> list[str]:
        present = _triggers(self)
        return [name for name, sql in schema.load("sqlite").triggers.items() if present.get(name) != sql]

    def make_triggers(self) -> None:
        _install_triggers(self)

    def log_unknown_changes(self, topic: str) -> None:
        self.execute('UPDATE topic_head SET "offset" = "offset" + 1 WHERE topic = ?', (topic,))
        self.execute(
            'INSERT INTO change(topic, "offset", key, op, at) SELECT topic, "offset", 0, \'truncate\','
            " strftime('%Y-%m-%dT%H:%M:%fZ', 'now') FROM topic_head WHERE topic = ?",
            (topic,),
        )

    def columns(self, table: str) -> list[Column]:
        return [Column(name, _decoder(name, type_)) for name, type_ in schema.load("sqlite").columns[table].items()]

    def is_in(self, column: str, keys: list[int]) -> tuple[str, Any]:
        return f"{column} IN (SELECT value FROM json_each(?))", orjson.dumps(keys).decode()

    def time_text(self, value: Any) -> str | None:
        return value if value is None or isinstance(value, str) else str(value)

    def repair_sequences(self) -> None:
        return None

    def maintain(self, commits: int) -> int | None:
        if self._pages_written(commits) >= CHECKPOINT_PAGES:
            return self._checkpoint(commits)
        return None

    def _pages_written(self, commits: int) -> float:
        """Return about how many pages the WAL holds: Python's sqlite3 has no hook that tells. A commit touches some pages, and
        one more for every thirty rows (measured); how many, each checkpoint teaches anew."""
        rows = self.connection.total_changes - self._checkpointed_changes
        return self._pages_per_commit * (commits - self._checkpointed_commits) + rows / 30

    def _learn(self, pages: int, commits: int) -> None:
        """Take how many pages there really were: more counts at once, less slowly."""
        since = commits - self._checkpointed_commits
        if since < LEARN_FROM_COMMITS:
            return
        rows = self.connection.total_changes - self._checkpointed_changes
        low, high = PAGES_PER_COMMIT
        seen = min(high, max(low, (pages - rows / 30) / since))
        self._pages_per_commit = max(seen, 0.8 * self._pages_per_commit + 0.2 * seen)

    def checkpoint(self) -> None:
        self._checkpoint(self._checkpointed_commits)

    def _checkpoint(self, commits: int) -> int | None:
        """Bring the WAL into the file; return its size in pages, None where another program is in the way."""
        try:
            row = self.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError as error:
            if fault(error) is Fault.BROKEN:
                raise
            return None  # locked, or the disk is full: the WAL keeps everything until the next time
        if row:
            self._learn(int(row[1]), commits)
        self._checkpointed_changes = self.connection.total_changes
        self._checkpointed_commits = commits
        return int(row[1]) if row else 0

    def copy_snapshot(self, target: Path, *, pages: int, between: Callable[[], object]) -> None:
        if self._path is None:
            self.copy(target, pages=pages, between=between)
            return
        source = sqlite3.connect(f"file:{_quoted(self._path)}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        try:
            source.execute("BEGIN")
            source.execute("SELECT 1 FROM sqlite_master").fetchone()  # from here on it sees one state
            copy_pages(source, target, pages=pages, between=between)
        finally:
            source.close()

    def copy(self, target: Path, *, pages: int, between: Callable[[], object]) -> None:
        copy_pages(self.connection, target, pages=pages, between=between)

    def interrupt(self) -> None:
        return None  # a commit on a slow disk must not be broken off: it would be in doubt

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()

    def read_leniently(self, query: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Read text that a foreign program wrote in another encoding; slow, so only after a strict read failed."""
        self.connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            rows: list[Any] = self.execute(query, parameters).fetchall()
            return rows
        finally:
            self.connection.text_factory = str


class SqliteDatabase(Database):
    """One file.

    Args:
        url: `sqlite:///FILE`; a relative file is relative to the working directory.
        migrations: steps between schema versions, oldest first.
    """

    kind = "sqlite"
    errors = (sqlite3.Error,)

    def __init__(self, url: str, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        if not url.startswith("sqlite:///") or url == "sqlite:///":
            raise ConfigError(f"[database] url {url!r}: expected sqlite:///FILE")
        self.path = Path(url.removeprefix("sqlite:///")).absolute()
        self.name = str(self.path)
        self._migrations = migrations
        self._opened: FileIdentity | None = None

    @property
    def files(self) -> list[Path]:
        return [self.path]

    @property
    def schema_version(self) -> int:
        return 1 + len(self._migrations)

    def stored_version(self, db: DbConnection) -> int:
        return schema_version(db) if _has_schema(db) else 0

    def fault(self, error: BaseException) -> Fault:
        return fault(error)

    def open_writer(self) -> SqliteConnection:
        if self._opened is not None:
            self._opened.check()  # else another file would be taken for ours, or an empty one be made
        with closed_on_error(self._connect_to_write()) as connection:
            self._opened = self._opened or FileIdentity([self.path])
            # SQLite keeps its log beside the file itself, not beside a link.
            db = SqliteConnection(connection, Path(os.path.realpath(self.path)))
            db.has_foreign_changes({})
        return db

    def _connect_to_write(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=512)
            with closed_on_error(connection):
                for name, value in PRAGMAS.items():
                    connection.execute(f"PRAGMA {name} = {value}")
                    got = connection.execute(f"PRAGMA {name}").fetchone()
                    if got is not None and str(got[0]).lower() != str(value):
                        raise StorageBroken(f"{self.path}: PRAGMA {name} is {got[0]}, not {value}")
                # We checkpoint ourselves, below the 1000 pages at which a foreign program's connection would.
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # opens the WAL, which is made where there is none
        except (sqlite3.Error, OSError) as error:
            raise StorageBroken(f"{self.path}: cannot be opened: {error}") from error
        return connection

    def open_reader(self) -> SqliteConnection:
        connection = sqlite3.connect(
            f"file:{_quoted(self.path)}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        with closed_on_error(connection):
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            db = SqliteConnection(connection)
            db.limit_reads()
        return db

    def open_instant_reader(self) -> SqliteConnection:
        with closed_on_error(self.open_reader()) as db:
            db.execute("PRAGMA busy_timeout = 0")
        return db

    def prepare(self, db: DbConnection, *, progress: Progress = no_progress) -> str:
        assert isinstance(db, SqliteConnection)
        version = self.stored_version(db)
        if version > self.schema_version:
            self.check_schema(db)
        # What a crashed process left in the WAL goes to the file and to the disk: after a failed fsync the kernel may call
        # pages written that never were (PITFALLS S7).
        db.checkpoint()
        if 0 < version < self.schema_version:
            self._copy_before(db, version, progress)
            return self._migrate(db, version, progress)
        if version:
            self.check_columns(db)
        db.begin()
        try:
            if version == 0:
                for statement in schema.load("sqlite").creation:
                    db.execute(statement)
                write_meta(db, "schema_version", str(self.schema_version))
                logger.info("created %s", self.path, extra={"action": "database_created"})
            _install_triggers(db)
            epoch = begin_history(db, secrets.token_hex(6))
            db.commit()
        except BaseException:
            db.rollback()
            raise
        return epoch

    def _migrate(self, db: "SqliteConnection", version: int, progress: Progress) -> str:
        """Carry out the steps that are missing, all or none."""
        db.execute("PRAGMA foreign_keys = OFF")  # counts only outside of a transaction
        db.execute("PRAGMA legacy_alter_table = ON")  # a table takes the place of another: nothing that names it is rewritten
        db.connection.set_progress_handler(_ticker(progress, "migrating the database"), VERIFY_STEPS)
        try:
            db.begin()
            SqliteRunner(db.execute).run(self._migrations[version - 1 :])
            self.check_columns(db)
            write_meta(db, "schema_version", str(self.schema_version))
            _install_triggers(db)
            begin_history(db, secrets.token_hex(6))
            epoch = renew_epoch(db, read_epochs(db)[-1])  # rows have other columns: what clients hold of them is not whole
            db.commit()
        except sqlite3.Error as error:
            db.rollback()
            raise StorageBroken(f"{self.path}: the schema cannot be brought forward, and is as it was: {error}") from error
        except BaseException:
            db.rollback()
            raise
        finally:
            db.connection.set_progress_handler(None, 0)
            db.execute("PRAGMA legacy_alter_table = OFF")
            db.execute("PRAGMA foreign_keys = ON")
        return epoch

    def _copy_before(self, db: "SqliteConnection", version: int, progress: Progress) -> None:
        """Copy the file beside itself before its schema changes; once, also where a start was broken off after it.

        Raises:
            StorageBroken: there is no room for it.
        """
        target = self.path.with_name(f"{self.path.name}.before-v{version + 1}")
        if target.exists() and _history_of(target) == _history_of(self.path):
            return
        needed, free = self.path.stat().st_size, shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise StorageBroken(
                f"{self.path}: a copy is made before its schema changes, and the disk has no room for it: "
                f"{needed >> 20} MiB are needed, {free >> 20} MiB are free"
            )
        tick = _ticker(progress, f"copying the database to {target}")
        copy_pages(db.connection, part_of(target), pages=COPY_PAGES, between=tick)
        finish_copy(part_of(target), target, between=tick)
        logger.info("backup before migration: %s", target, extra={"action": "database_backed_up"})

    def facts(self) -> list[tuple[str, str]]:
        return [("database", str(self.path)), ("SQLite", sqlite3.sqlite_version)]


def _ticker(progress: Progress, text: str) -> Callable[[], int]:
    """Return what tells progress every `PROGRESS_S`, however often it is called; it returns 0, as SQLite wants it."""
    started = told = time.monotonic()

    def tick() -> int:
        nonlocal told
        now = time.monotonic()
        if now - told >= PROGRESS_S:
            told = now
            logger.info("%s: for %.0f s so far", text, now - started, extra={"action": "database_busy"})
            progress(text)
        return 0

    progress(text)
    return tick


def _history_of(path: Path) -> list[Any]:
    """Return what two files of the same state agree in."""
    connection = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True)
    try:
        heads = connection.execute('SELECT topic, "offset" FROM topic_head ORDER BY topic').fetchall()
        return [heads, connection.execute("SELECT key, value FROM meta WHERE key <> 'written_at' ORDER BY key").fetchall()]
    except sqlite3.Error as error:
        return [str(path), error]  # like no other
    finally:
        connection.close()


def copy_database(connection: sqlite3.Connection, target: Path) -> None:
    """Copy a database to a new file, online and verified: the WAL's content is in it, and it reaches the disk.

    Raises:
        StorageBroken: the copy is not sound.
    """
    part = part_of(target)
    copy_pages(connection, part, pages=-1, between=None)
    finish_copy(part, target)


def wal_of(file: Path) -> Path:
    """Return where SQLite keeps the write-ahead log of a file."""
    return file.with_name(file.name + "-wal")


def part_of(target: Path) -> Path:
    """Return where a copy is written before it is verified."""
    return target.with_name(target.name + ".part")


def copy_pages(connection: sqlite3.Connection, part: Path, *, pages: int, between: Callable[[], object] | None) -> None:
    """Copy the pages of a database, not verified yet and perhaps not on the disk.

    Args:
        pages: copied at a time; on the connection that writes, commits between two steps go into the copy as well.
        between: called between two steps.
    """
    part.unlink(missing_ok=True)
    copy = sqlite3.connect(part)
    descriptor, written = -1, 0

    def step(*_: int) -> None:
        nonlocal written
        size = os.fstat(descriptor).st_size
        if size - written >= WRITE_OUT_BYTES:
            write_out(descriptor, written, size - written)
            written = size
        if between is not None:
            between()

    try:
        copy.execute("PRAGMA synchronous = OFF")  # what is not written out by then goes to the disk in `finish_copy`
        descriptor = os.open(part, os.O_RDONLY)
        connection.backup(copy, pages=pages, progress=step, sleep=0.001)
    finally:
        copy.close()
        if descriptor >= 0:
            os.close(descriptor)


def write_out(descriptor: int, start: int, size_bytes: int) -> None:
    """Begin to write a part of a file to the disk, and keep no copy of it in memory, where the system can be told so."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, size_bytes, os.POSIX_FADV_DONTNEED)


def finish_copy(part: Path, target: Path, *, between: Callable[[], object] | None = None) -> None:
    """Verify a copy, bring it to the disk and give it its name.

    Args:
        between: called now and then while it is verified.
    Raises:
        StorageBroken: the copy is not sound.
    """
    copy = sqlite3.connect(part)
    if between is not None:
        copy.set_progress_handler(lambda: bool(between()) and False, VERIFY_STEPS)
    try:
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a WAL beside it
        verdict = check(copy)
    finally:
        copy.close()
    if verdict != "ok":
        part.unlink()
        raise StorageBroken(f"{target}: the copy is not sound: {verdict}")
    sync(part)
    part.rename(target)
    sync(target.parent)


def check(connection: sqlite3.Connection) -> str:
    """Return "ok", or what is wrong with a database: its pages, its references, and the change log against its heads."""
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        return str(verdict)
    for topic, head, newest in connection.execute(
        'SELECT topic, h."offset", (SELECT max("offset") FROM change c WHERE c.topic = h.topic) FROM topic_head h'
    ):
        if newest is not None and newest != head:
            return f"the log of {topic} ends at {newest}, its head is {head}"
    return "ok"


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _decoder(name: str, type_: str) -> Callable[[Any], Any] | None:
    if type_.startswith("REAL"):
        return finite
    return exact if type_.startswith("INTEGER") and name != "id" else None


def _has_schema(db: DbConnection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None


def _triggers(db: DbConnection) -> dict[str, str]:
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name GLOB ?"
    return dict(db.execute(query, (schema.TRIGGER_PREFIX + "*",)).fetchall())


def _install_triggers(db: DbConnection) -> None:
    """Make the database's triggers those of the schema, inside the caller's transaction; what fits already is left alone."""
    wanted, present = schema.load("sqlite").triggers, _triggers(db)
    for name, sql in present.items():
        if sql != wanted.get(name):
            db.execute(f'DROP TRIGGER "{name}"')
    for name, sql in wanted.items():
        if present.get(name) != sql:
            db.execute(sql)


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
