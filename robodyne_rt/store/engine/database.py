"""The seam between the store and the database it stands on: what SQLite and Postgres do differently, and nothing else.

A `Database` is a place (a file, a server), a `DbConnection` one connection to it. Everything above speaks plain SQL with `?`
for parameters, and asks the connection for the few things that have no common words. `sqlite.py` and `postgres.py` implement
both; `tests/contract/` runs one suite on each.
"""

import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import orjson

from robodyne_rt.model.changes import Entity
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.settings import ConfigError
from robodyne_rt.settings import Database as DatabaseSettings
from robodyne_rt.store.engine import schema
from robodyne_rt.store.errors import SchemaMismatch, SchemaTooNew

Row = tuple[Any, ...]

MAX_EXACT = 2**53 - 1

EPOCHS_KEPT = 20
"""Names of earlier histories that a database remembers: one that follows a known one has lost nothing that was not told."""


class Fault(Enum):
    """What an error of the database means for the write that met it (SPEC section 6, PITFALLS S7 and P5)."""

    BUSY = "another program holds the database locked"
    """Nothing was written; try again."""
    AWAY = "the database cannot be reached"
    """A commit under way may or may not have happened; come back later."""
    FULL = "the disk is full"
    """Nothing was written; come back later."""
    BROKEN = "the database cannot be trusted"
    """An I/O error or corruption: the process ends and is started again."""
    WRITE = "the write is refused"
    """A constraint, a type, a value: this one write is at fault, its neighbours are not."""


class Column(NamedTuple):
    """A column as it is read: `decode` turns what the driver gives into what clients see, None where that is the same."""

    name: str
    decode: Callable[[Any], Any] | None


class Closable(Protocol):
    """What is open until it is closed."""

    def close(self) -> object: ...


C = TypeVar("C", bound=Closable)


@contextmanager
def closed_on_error(opened: C) -> Iterator[C]:
    """Hand on what was just opened, and close it where the block raises: whoever opens and raises leaves nothing open."""
    try:
        yield opened
    except BaseException:
        opened.close()
        raise


def finite(value: float) -> float:
    """Return a number as it is.

    Raises:
        ValueError: infinite or none at all: JSON has no word for it.
    """
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def exact(value: int) -> int:
    """Return a whole number as it is.

    Raises:
        ValueError: JavaScript would read another one.
    """
    if not -MAX_EXACT <= value <= MAX_EXACT:
        raise ValueError("beyond 2^53 - 1")
    return value


class Cursor(Protocol):
    """What `DbConnection.execute` returns."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Any: ...


class DbConnection(ABC):
    """One connection, for one thread at a time; outside of `begin`/`commit` every statement stands for itself."""

    execute: Callable[..., Any]
    """Run one statement with `?` for parameters; return a `Cursor`."""

    commit_may_be_unknown: bool = False
    """Whether a commit may take place without our hearing of it: then every message gets a name, so that it is done once."""

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction that writes."""

    @abstractmethod
    def begin_reading(self) -> None:
        """Begin a transaction whose reads all see one state."""

    @abstractmethod
    def silently(self) -> AbstractContextManager[None]:
        """Return a transaction whose changes the triggers do not log: for what no screen needs to hear. Others who write at the
        same time are logged as ever."""

    @abstractmethod
    def limit_lock_waits(self) -> None:
        """Let nothing wait for the lock of another program for longer than devices may wait for their answers: from now on it
        fails as busy."""

    @abstractmethod
    def impatiently(self) -> AbstractContextManager[None]:
        """Return a block in which nothing waits for the lock of another program: what is met there fails at once as busy."""

    @abstractmethod
    def assign_offsets(self) -> None:
        """Give the changes of this transaction, and some others that are committed, their offsets."""

    @abstractmethod
    def has_foreign_changes(self, positions: dict[str, int]) -> bool:
        """Return whether other programs committed changes since the last call; cheap."""

    @abstractmethod
    def assign_foreign_offsets(self) -> bool:
        """Give some of what others committed its offsets, where that is ours to do; return whether there may be more."""

    @abstractmethod
    def present_columns(self) -> set[tuple[str, str]]:
        """Return the columns that are there, as (table, column)."""

    @abstractmethod
    def missing_triggers(self) -> list[str]:
        """Return the names of triggers that are gone, changed or switched off: somebody writes past the log."""

    @abstractmethod
    def make_triggers(self) -> None:
        """Make the triggers what they should be, inside the caller's transaction."""

    @abstractmethod
    def log_unknown_changes(self, topic: str) -> None:
        """Add a line to the log after which anything of a topic may be different: readers answer it with a snapshot."""

    @abstractmethod
    def columns(self, table: str) -> list[Column]:
        """Return the columns of a table."""

    @abstractmethod
    def is_in(self, column: str, keys: list[int]) -> tuple[str, Any]:
        """Return the condition that `column` is one of `keys`, and its parameter."""

    @abstractmethod
    def time_text(self, value: Any) -> str | None:
        """Return a time that was read as clients see it."""

    def select(self, query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """Return the rows of a query; text of a foreign program that is in no encoding stops nobody."""
        try:
            rows: list[Any] = self.execute(query, parameters).fetchall()
        except Exception as error:
            if "decode" not in str(error):
                raise
            rows = self.read_leniently(query, parameters)
        return rows

    def read_leniently(self, query: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Read rows whose text is not in the encoding that it should be in; what cannot be decoded is replaced."""
        rows: list[Any] = self.execute(query, parameters).fetchall()
        return rows

    @abstractmethod
    def repair_sequences(self) -> None:
        """Put right what makes good writes fail (id sequences left behind by foreign programs); before a retry."""

    @abstractmethod
    def maintain(self, commits: int) -> int | None:
        """Do what is due after writing; return the size of the write-ahead log in pages where there is one and it was
        looked at. `commits` is how many there were so far."""

    @abstractmethod
    def checkpoint(self) -> None:
        """Bring what is in a write-ahead log of our own into place, before we leave."""

    @abstractmethod
    def copy_snapshot(self, target: Path, *, pages: int, between: Callable[[], object]) -> None:
        """Copy the database as it is now to a new file, which is to be verified elsewhere, whoever writes meanwhile.

        Args:
            pages: copied between two calls of `between`.
        Raises:
            StorageUnavailable: this kind is backed up by its own tools; the text names them.
        """

    @abstractmethod
    def copy(self, target: Path, *, pages: int, between: Callable[[], object]) -> None:
        """Copy what this connection has open to a new file, also where its path leads elsewhere; what it commits meanwhile is
        in the copy, and what another program commits makes it begin anew.

        Args:
            pages: copied between two calls of `between`.
        Raises:
            StorageUnavailable: this kind is backed up by its own tools; the text names them.
        """

    @abstractmethod
    def check_files(self) -> None:
        """Check that what we write is what others would open; nothing to check where a server of its own keeps the rows.

        Raises:
            FilesReplaced: the path leads elsewhere by now.
        """

    @abstractmethod
    def remove_orphans(self) -> None:
        """After `check_files` failed: remove what is left of our files and would damage those in their place."""

    @abstractmethod
    def interrupt(self) -> None:
        """From another thread: make a call that hangs fail."""

    @abstractmethod
    def close(self) -> None:
        """End it; never fails."""

    def commit(self) -> None:
        """Commit; an error with `Fault.AWAY` leaves open whether it happened.

        Raises:
            FilesReplaced: it went to files that nobody finds again.
        """
        self.execute("COMMIT")
        self.check_files()  # after it: what was replaced before the commit is seen, and nobody was told yet

    def rollback(self) -> None:
        """Undo the open transaction, if there is one."""
        if self.in_transaction:
            self.execute("ROLLBACK")


Progress = Callable[[str], object]


def no_progress(text: str) -> None:
    """Tell nobody."""


class Database(ABC):
    """Where the rows are."""

    kind: str
    name: str
    """For people: the file, or host and database; no password."""
    errors: tuple[type[Exception], ...]
    """What its driver raises."""

    @abstractmethod
    def open_writer(self) -> DbConnection:
        """Return the one connection that writes, its settings set and read back.

        Raises:
            DataOwned: another process writes there (where the database has a lock for that).
            FilesReplaced: it was opened before, and other files are in its place.
            StorageBroken: it cannot be opened, or a setting does not hold.
            StorageUnavailable: it is away now and may come back.
            ConfigError: it can never be reached like this (password, name, version).
        """

    @abstractmethod
    def open_reader(self) -> DbConnection:
        """Return a read-only connection for short reads in one thread at a time; errors as `errors`."""

    def open_instant_reader(self) -> DbConnection | None:
        """Return a read-only connection for lookups that neither wait nor fail because nobody can write; None where reading
        goes over a network."""
        return None

    @abstractmethod
    def prepare(self, db: DbConnection, *, progress: Progress = no_progress) -> str:
        """Create the schema, or bring it forward; return the epoch.

        Args:
            progress: told now and then, at least every few seconds, what is being done: a big file takes minutes.
        Raises:
            SchemaTooNew: a newer program wrote it.
            StorageBroken: it cannot be brought forward; it is as it was before.
        """

    @property
    def files(self) -> list[Path]:
        """The files of ours that nobody else may write; none where a server of its own keeps the rows."""
        return []

    @property
    @abstractmethod
    def schema_version(self) -> int:
        """Version of the schema that this program writes: 1 is the first, each migration adds one."""

    @abstractmethod
    def stored_version(self, db: DbConnection) -> int:
        """Return the version of the schema that is there; 0 where there is none."""

    def check_schema(self, db: DbConnection) -> None:
        """Check that the schema is this program's.

        Raises:
            SchemaMismatch: it is older, or none; SchemaTooNew where it is newer.
        """
        version = self.stored_version(db)
        if version > self.schema_version:
            raise SchemaTooNew(
                f"{self.name}: schema version {version}, this program knows up to {self.schema_version}: "
                "install the newer version again, or restore the backup that it made"
            )
        if version < self.schema_version:
            found = f"schema version {version}" if version else "no tables of this server"
            raise SchemaMismatch(
                f"{self.name}: {found}, this program needs {self.schema_version}: start the server or run `robodyne-rt migrate`"
            )
        self.check_columns(db)

    def check_columns(self, db: DbConnection) -> None:
        """Check that all tables and columns of the schema are there, whatever version it says that it has.

        Raises:
            SchemaMismatch: some are not: a new topic came without its migration, or somebody deleted them.
        """
        present = db.present_columns()
        tables = {table for table, _ in present}
        missing = [
            table if table not in tables else f"{table}.{column}"
            for table, columns in schema.load(self.kind).columns.items()
            for column in columns
            if (table, column) not in present
        ]
        if missing:
            found = f"schema version {self.schema_version} without {', '.join(dict.fromkeys(missing))}"
            raise SchemaMismatch(
                f"{self.name}: {found}, which this program needs: a new topic or column comes with a migration "
                "(robodyne_rt/store/migrations) and `robodyne-rt migrate`; what somebody deleted, with a backup and "
                "`robodyne-rt restore`"
            )

    @abstractmethod
    def fault(self, error: BaseException) -> Fault:
        """Return what an error means."""

    def has_yielded(self, error: BaseException) -> bool:
        """Return whether a busy database undid a transaction for the sake of others, and may take it if it comes again."""
        return False

    def change_listener(self, notify: Callable[[], None]) -> "ChangeListener | None":
        """Return what calls `notify` when another program commits; None where looking is as quick."""
        return None

    @abstractmethod
    def facts(self) -> list[tuple[str, str]]:
        """Return what a technician wants to know about it, as (name, value)."""


class ChangeListener(Protocol):
    """Calls back when another program commits; a hint only, nobody may depend on it."""

    trouble: str

    def run(self) -> None:
        """Listen until `stop`, in a thread of its own."""
        ...

    def stop(self) -> None: ...


def open_database(settings: DatabaseSettings) -> Database:
    """Return the database that a URL names.

    Raises:
        ConfigError: no such kind, or its driver is not installed.
    """
    if settings.url.startswith("sqlite:"):
        from robodyne_rt.store.engine.sqlite import SqliteDatabase

        return SqliteDatabase(settings.url)
    try:
        from robodyne_rt.store.engine.postgres import PostgresDatabase
    except ImportError as error:
        raise ConfigError(
            f"[database] url {settings.url.partition('://')[0]!r} needs the Postgres driver: pip install robodyne-rt[postgres]"
        ) from error
    return PostgresDatabase(settings.url, notify=settings.notify, doorbell=settings.doorbell)


def begin_history(db: DbConnection, epoch: str) -> str:
    """Make the heads of all topics and, in a new database, its epoch; return the epoch it has."""
    for topic in TOPICS:
        db.execute('INSERT INTO topic_head(topic, "offset") VALUES (?, 0) ON CONFLICT DO NOTHING', (topic,))
    db.execute("INSERT INTO meta(key, value) VALUES ('epoch', ?) ON CONFLICT DO NOTHING", (epoch,))
    return read_meta(db, "epoch") or ""


def read_epochs(db: DbConnection) -> list[str]:
    """Return the names of the histories that this database went through, at most `EPOCHS_KEPT`; the last one holds."""
    epoch, before = read_meta(db, "epoch") or "", read_meta(db, "epochs")
    try:
        names = [str(name) for name in orjson.loads(before or "[]")]
    except (ValueError, TypeError):
        names = []  # of a foreign program's making
    return [*(name for name in names if name != epoch), epoch]


def read_meta(db: DbConnection, key: str) -> str | None:
    """Return a fact about this database."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def write_meta(db: DbConnection, key: str, value: str) -> None:
    """Note a fact about this database."""
    db.execute("INSERT INTO meta(key, value) VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value", (key, value))


def renew_epoch(db: DbConnection, old: str) -> str:
    """Name a new history, unless another node has done so already; return its name."""
    write_meta(db, "epochs", orjson.dumps(read_epochs(db)[-EPOCHS_KEPT:]).decode())  # first: the old one must not be forgotten
    db.execute("UPDATE meta SET value = ? WHERE key = 'epoch' AND value = ?", (secrets.token_hex(6), old))
    return read_meta(db, "epoch") or ""


def schema_version(db: DbConnection) -> int:
    """Return the version of a schema that exists."""
    return int(read_meta(db, "schema_version") or 0)


def insert(db: DbConnection, table: str, columns: Entity) -> None:
    """Insert one row."""
    names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
    db.execute(f"INSERT INTO {table}({names}) VALUES ({marks})", tuple(columns.values()))
