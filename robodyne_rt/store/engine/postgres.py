"""Postgres: the same tables and code above the seam, noted changes that get their offsets here, and a listener (SPEC section
6).

Foreign writers' triggers only note what they changed (triggers/postgres.py): pending changes. The server assigns offsets inside
its own write transactions and whenever it is notified or looks: under the lock of one row it moves what is committed into
`change` with the next offsets. `NOTIFY` is a hint; whoever misses one looks again within 100 ms.
"""

import contextlib
import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import psycopg
from psycopg import sql

from robodyne_rt.protocol.errors import StorageUnavailable
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
    read_meta,
    renew_epoch,
    schema_version,
    write_meta,
)
from robodyne_rt.store.engine.postgres_listener import PostgresChangeListener
from robodyne_rt.store.errors import DataOwned, FilesReplaced, StorageBroken
from robodyne_rt.store.migrations import MIGRATIONS
from robodyne_rt.store.migrations.migration import Migration
from robodyne_rt.store.migrations.runner import PostgresRunner

logger = logging.getLogger(__name__)

OLDEST_VERSION = 130000
"""Postgres 13 brought `xid8`."""

CONNECT_TIMEOUT_S = 3
READ_DEADLINE_MS = 2000
MAX_ASSIGNED = 500
"""Pending changes that get their offsets in one transaction, besides its own: about 5 ms, for which devices wait."""

OWNER_LOCK = 0x526F6265
"""First half of the advisory lock of whoever writes; the second is the schema's name."""

LOCK_PATIENCE_MS = 100
"""How long a commit, or maintenance, waits for the locks of others, which may hold a row or a table for hours; what waits for a
commit is in the spool then (SPEC section 6)."""

OWN_RETRY_S = (0.05, 0.1, 0.2)

SCHEMA_LOCK = 0x526F626F
"""Advisory lock of whoever creates or migrates the schema."""

_OPTIONS = {
    "application_name": f"robodyne-rt, process {os.getpid()} on {socket.gethostname()}"[:63],
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "client_encoding": "utf8",
}

# All that we ask is found by an index or is small; a table that was never analysed must not be read through for it, and a
# plan of a few rows not be compiled.
_SESSION_SETTINGS = ("SET timezone = 'UTC'", "SET datestyle = 'ISO, YMD'", "SET enable_seqscan = off", "SET jit = off")
# A holder of the lock whose machine is gone must not hold it for two hours: its connection ends within 30 s.
_WRITER_SETTINGS = (
    "SET synchronous_commit = on",
    "SET robodyne.quiet = 'on'",
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 25000",
)

_LOCK_EPOCH = "SELECT value FROM meta WHERE key = 'epoch' FOR UPDATE"

_ASSIGN_OFFSETS = f"""WITH taken AS (
    DELETE FROM inbox WHERE ctid = ANY (ARRAY(
        (SELECT ctid FROM inbox ORDER BY id LIMIT {MAX_ASSIGNED})
        UNION SELECT ctid FROM inbox WHERE xid = pg_current_xact_id()
    ))
    RETURNING id, xid, at, topic, key, op, native
), grouped AS (
    SELECT topic, key, min(id) AS first, max(at) AS at, (array_agg(op ORDER BY native DESC, id DESC))[1] AS op
    FROM taken GROUP BY topic, key, xid
), numbered AS (
    SELECT topic, key, at, op, row_number() OVER (PARTITION BY topic ORDER BY first) AS n FROM grouped
), heads AS (
    UPDATE topic_head h SET "offset" = h."offset" + counted.n
    FROM (SELECT topic, count(*) AS n FROM grouped GROUP BY topic) counted WHERE h.topic = counted.topic
    RETURNING h.topic, h."offset" - counted.n AS base
), assigned AS (
    INSERT INTO change(topic, "offset", key, op, at)
    SELECT topic, base + n, key, op, at FROM numbered JOIN heads USING (topic)
)
SELECT count(*) FROM taken"""

_IDENTITY = """SELECT system_identifier::text, (SELECT oid FROM pg_database WHERE datname = current_database())::bigint,
    left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system()"""
"""The timeline is the one that is written now: that of the last checkpoint would still be the one before a promotion."""

_AWAY_CLASSES = ("08", "57", "58", "53", "25")
_YIELDED_STATES = ("40001", "40P01", "57014")
_BUSY_STATES = (*_YIELDED_STATES, "55P03")
_HOPELESS_STATES = ("28000", "28P01", "3D000", "3F000", "42501", "0A000")


class PostgresConnection(DbConnection):
    """One connection to a server."""

    commit_may_be_unknown = True

    def __init__(self, connection: "psycopg.Connection[Any]", *, has_doorbell: bool = True) -> None:
        self.connection = connection
        self._has_doorbell = has_doorbell
        self._lock_timeout_ms = 0
        connection.prepare_threshold = 3
        connection.prepared_max = 500
        adapters = connection.adapters
        # What loads text, in C where the driver has that.
        text_loader = adapters.get_loader(adapters.types["text"].oid, psycopg.pq.Format.TEXT)
        assert text_loader is not None
        for name in ("timestamptz", "jsonb", "json"):
            adapters.register_loader(name, text_loader)
        self._translated: dict[str, str] = {}
        self._cursor = connection.cursor()
        self._run = self._cursor.execute
        self.execute = self._execute

    def _execute(self, query: str, parameters: Sequence[Any] | None = None) -> Any:
        if not parameters:
            return self._run(query)
        translated = self._translated.get(query)
        if translated is None:
            translated = self._translated[query] = query.replace("%", "%%").replace("?", "%s")
        return self._run(translated, parameters)

    @property
    def in_transaction(self) -> bool:
        return self.connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE

    def begin(self) -> None:
        self._run("BEGIN ISOLATION LEVEL READ COMMITTED")

    def begin_reading(self) -> None:
        self._run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    @contextlib.contextmanager
    def silently(self) -> Iterator[None]:
        self.begin()
        try:
            self._run("SET LOCAL robodyne.silent = 'on'")
            yield
            self.commit()
        except BaseException:
            self.rollback()
            raise

    def limit_lock_waits(self) -> None:
        self._lock_timeout_ms = LOCK_PATIENCE_MS
        self._run(f"SET lock_timeout = {LOCK_PATIENCE_MS}")

    @contextlib.contextmanager
    def impatiently(self) -> Iterator[None]:
        self._run(f"SET lock_timeout = {LOCK_PATIENCE_MS}")
        try:
            yield
        finally:
            with contextlib.suppress(psycopg.Error):  # where the connection is gone the error that says so is on its way
                self.rollback()
                self._run(f"SET lock_timeout = {self._lock_timeout_ms}")

    def rollback(self) -> None:
        if self.connection.closed or self.connection.broken:
            return
        super().rollback()

    def assign_offsets(self) -> None:
        self._run(_LOCK_EPOCH)
        self._run(_ASSIGN_OFFSETS)

    def assign_foreign_offsets(self) -> bool:
        self.begin()
        self._run(_LOCK_EPOCH)
        row = self._run(_ASSIGN_OFFSETS).fetchone()
        self.commit()
        return row is not None and row[0] >= MAX_ASSIGNED

    def has_foreign_changes(self, positions: dict[str, int]) -> bool:
        row = self._run('SELECT EXISTS (SELECT FROM inbox), (SELECT sum("offset") FROM topic_head)').fetchone()
        return row is not None and (row[0] or int(row[1] or 0) != sum(positions.values()))

    def present_columns(self) -> set[tuple[str, str]]:
        query = (
            "SELECT c.relname, a.attname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE n.nspname = current_schema() AND a.attnum > 0 AND NOT a.attisdropped"
        )
        return {(table, column) for table, column in self.execute(query).fetchall()}

    def missing_triggers(self) -> list[str]:
        rows = self._run(
            "SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE c.relnamespace = current_schema()::regnamespace AND t.tgenabled = 'A' AND NOT t.tgisinternal"
        ).fetchall()
        present = {name for (name,) in rows}
        return [name for name in wanted_triggers(doorbell=False) if name not in present]

    def make_triggers(self) -> None:
        (name,) = self._run("SELECT current_schema()").fetchone() or ("",)
        quoted = '"' + name.replace('"', '""') + '"'
        place: Callable[[str], str] = lambda statement: statement.replace(schema.SCHEMA, quoted)  # noqa: E731
        for statement in schema.load("postgres").functions:
            self._run(place(statement))
        for trigger, table in _triggers(self).items():
            self._run(f'DROP TRIGGER "{trigger}" ON {quoted}."{table}"')
        for trigger, statement in wanted_triggers(doorbell=self._has_doorbell).items():
            self._run(place(statement))
            table = statement.partition(" ON ")[2].split()[0]
            self._run(place(f'ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{trigger}"'))

    def log_unknown_changes(self, topic: str) -> None:
        self.execute("INSERT INTO inbox(topic, key, op, native) VALUES (?, 0, 'truncate', true)", (topic,))
        self.assign_offsets()

    def columns(self, table: str) -> list[Column]:
        return [Column(name, _decoder(name, type_)) for name, type_ in schema.load("postgres").columns[table].items()]

    def is_in(self, column: str, keys: list[int]) -> tuple[str, Any]:
        return f"{column} = ANY(?)", keys

    def time_text(self, value: Any) -> str | None:
        try:
            return None if value is None else time_text(value)
        except ValueError:
            return None

    def repair_sequences(self) -> None:
        """Bring the sequences of ids up to what foreign programs inserted with ids of their own."""
        rows = self._run(
            "SELECT c.relname, pg_get_serial_sequence(format('%I', c.relname), 'id') FROM pg_class c"
            " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND EXISTS"
            " (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'id')"
        ).fetchall()
        for table, sequence in rows:
            if sequence and table != "inbox":
                query = sql.SQL("SELECT setval({}, greatest((SELECT max(id) FROM {}), (SELECT last_value FROM {})))").format(
                    sql.Literal(sequence), sql.Identifier(table), sql.SQL(sequence)
                )
                self._run(query)

    def maintain(self, commits: int) -> int | None:
        return None  # autovacuum and the server's checkpointer do it

    def checkpoint(self) -> None:
        return None

    def copy(self, target: Path, *, pages: int, between: Callable[[], object]) -> None:
        self.copy_snapshot(target, pages=pages, between=between)

    def copy_snapshot(self, target: Path, *, pages: int, between: Callable[[], object]) -> None:
        raise StorageUnavailable("a Postgres database is backed up by its own tools: pg_dump --format=custom")

    def check_files(self) -> None:
        return None  # they are the Postgres server's

    def remove_orphans(self) -> None:
        return None

    def interrupt(self) -> None:
        """Cut the connection: a call that waits for a server that hangs fails at once."""
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=_duplicate(self.connection.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error, OSError):
            self.connection.close()


class PostgresDatabase(Database):
    """One database of a server, in the first schema of its search path.

    Args:
        url: `postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME?OPTION=VALUE`, as libpq takes it.
        notify: whether to listen at all.
        doorbell: whether foreign transactions notify; each then takes a lock of the whole server while it commits.
    """

    kind = "postgres"
    errors = (psycopg.Error,)

    def __init__(
        self, url: str, *, notify: bool = True, doorbell: bool = True, migrations: Sequence[Migration] = MIGRATIONS
    ) -> None:
        scheme, _, rest = url.partition("://")
        if scheme not in ("postgresql+psycopg", "postgresql", "postgres") or not rest:
            raise ConfigError(f"[database] url {scheme!r}: expected sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")
        self._conninfo = f"postgresql://{rest}"
        parts = urlsplit(self._conninfo)
        self.name = f"{parts.hostname or 'local socket'}{f':{parts.port}' if parts.port else ''}{parts.path}"
        self._notify = notify
        self._has_doorbell = notify and doorbell
        self._migrations = migrations
        # Process and start time of the newest connection that wrote.
        self._backend: tuple[int, str] | None = None
        self._identity: tuple[str, int, str] | None = None
        self._facts: list[tuple[str, str]] = []

    @property
    def schema_version(self) -> int:
        return 1 + len(self._migrations)

    def stored_version(self, db: DbConnection) -> int:
        (exists,) = db.execute("SELECT to_regclass('meta') IS NOT NULL").fetchone()
        return schema_version(db) if exists else 0

    def fault(self, error: BaseException) -> Fault:
        state = getattr(error, "sqlstate", None)
        if state is None:
            return Fault.AWAY if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else Fault.WRITE
        if state in _BUSY_STATES:
            return Fault.BUSY
        if state == "53100":
            return Fault.FULL
        return Fault.AWAY if state[:2] in _AWAY_CLASSES else Fault.WRITE

    def has_yielded(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) in _YIELDED_STATES

    def _connect(self) -> "psycopg.Connection[Any]":
        try:
            return psycopg.connect(self._conninfo, autocommit=True, **_OPTIONS)  # type: ignore[arg-type]
        except psycopg.ProgrammingError as error:
            raise ConfigError(f"[database] url: {error}") from error

    def open_writer(self) -> PostgresConnection:
        try:
            connection = self._connect()
        except psycopg.OperationalError as error:
            text = str(error).strip()
            # libpq gives no state for a refused login; its words are translated only where the server's are.
            if error.sqlstate in _HOPELESS_STATES or any(word in text for word in _HOPELESS_WORDS):
                raise ConfigError(f"[database] url: {self.name}: {text}") from error
            raise StorageUnavailable(f"{self.name}: {text}") from error
        try:
            with closed_on_error(connection):
                if connection.info.server_version < OLDEST_VERSION:
                    raise ConfigError(
                        f"[database] url: {self.name} is Postgres {connection.info.server_version // 10000}; 13 is needed"
                    )
                self._refuse_pooler(connection)
                db = PostgresConnection(connection, has_doorbell=self._has_doorbell)
                for setting in (*_SESSION_SETTINGS, *_WRITER_SETTINGS):
                    db.execute(setting)
                self._replace_backend(db)
                self._own(db)
                self._read_back(db)
                self._check_identity(db)
        except psycopg.Error as error:
            if self.fault(error) is Fault.WRITE:
                raise ConfigError(f"[database] url: {self.name}: {error}") from error
            raise StorageUnavailable(f"{self.name}: {error}") from error
        return db

    def _replace_backend(self, db: PostgresConnection) -> None:
        """End what our last connection left on the server: behind a broken link it would hold its locks for minutes."""
        if self._backend is not None:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ? AND backend_start = ?::timestamptz",
                self._backend,
            )
        self._backend = db.execute(
            "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchone()

    def _read_back(self, db: PostgresConnection) -> None:
        """Success means durable: refuse a server that may forget what it said is committed."""
        self._facts = [("database", self.name), ("Postgres", str(db.execute("SHOW server_version").fetchone()[0]))]
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            (value,) = db.execute(f"SHOW {setting}").fetchone()
            self._facts.append((setting, value))
            if value == "off":
                raise ConfigError(
                    f"[database] url: {self.name} runs with {setting} = {value}: what it calls committed may be lost. "
                    f"Set {setting} = on there"
                )
        (read_only,) = db.execute("SELECT pg_is_in_recovery()").fetchone()
        if read_only:
            raise StorageUnavailable(f"{self.name} is a standby: it takes no writes now")

    def _check_identity(self, db: PostgresConnection) -> None:
        """Check that it is the database that was served before: another server, or one that was put back to an earlier time,
        holds other rows under the same name.

        Raises:
            FilesReplaced: it is another one.
        """
        identity = db.execute(_IDENTITY).fetchone()
        if self._identity is not None and identity != self._identity:
            was, now = (f"system {system}, database {oid}, timeline {line}" for system, oid, line in (self._identity, identity))
            raise FilesReplaced(f"{self.name} is another database than the one that was served: it is {now}; it was {was}")
        self._identity = identity

    def _refuse_pooler(self, connection: "psycopg.Connection[Any]") -> None:
        """Refuse a pooler that hands each transaction another connection: locks and settings of ours would be lost with it.

        Raises:
            ConfigError: there is one (PITFALLS P4).
        """
        connection.prepare_threshold = None
        try:
            backend = connection.execute("SELECT pg_backend_pid()").fetchone()
            # The key that we were given at login is not the server's, or what we listen to is forgotten at once.
            is_pooled = backend is not None and backend[0] != connection.info.backend_pid
            if not is_pooled:
                connection.execute("LISTEN robodyne_probe")
                heard = connection.execute("SELECT count(*) FROM pg_listening_channels()").fetchone()
                connection.execute("UNLISTEN *")
                is_pooled = heard is None or heard[0] == 0
        except psycopg.NotSupportedError:
            is_pooled = True
        if is_pooled:
            raise ConfigError(
                f"[database] url: {self.name} is behind a pooler in transaction mode, where the lock that makes this server "
                "the only one that writes would be lost: name the Postgres server itself, or a pooler in session mode"
            )

    def _own(self, db: PostgresConnection) -> None:
        """Take the lock of whoever writes in this schema; it lasts as long as the connection.

        Raises:
            DataOwned: another one has it; the text says which.
        """
        for pause_s in (*OWN_RETRY_S, None):
            (is_ours,) = db.execute("SELECT pg_try_advisory_lock(?, hashtext(current_schema()))", (OWNER_LOCK,)).fetchone()
            if is_ours:
                return
            if pause_s is not None:
                time.sleep(pause_s)  # a backend of ours that was ended lets go in a moment
        row = db.execute(
            "SELECT a.application_name, a.pid, coalesce(host(a.client_addr), 'the same machine'), a.backend_start"
            " FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted"
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND l.classid = ? AND l.objid::bigint = (hashtext(current_schema())::bigint & 4294967295) AND l.objsubid = 2",
            (OWNER_LOCK,),
        ).fetchone()
        owner = "another process"
        if row is not None:
            owner = f"{row[0] or 'another program'} (backend {row[1]}, from {row[2]}), since {db.time_text(row[3])}"
        raise DataOwned(f"{self.name} is in use by {owner}")

    def open_reader(self) -> PostgresConnection:
        with closed_on_error(self._connect()) as connection:
            db = PostgresConnection(connection)
            for setting in (*_SESSION_SETTINGS, f"SET statement_timeout = {READ_DEADLINE_MS}"):
                db.execute(setting)
        return db

    def prepare(self, db: DbConnection, *, progress: Progress = no_progress) -> str:
        assert isinstance(db, PostgresConnection)
        db.begin()
        try:
            db.execute("SELECT pg_advisory_xact_lock(?)", (SCHEMA_LOCK,))
            (name,) = db.execute("SELECT current_schema()").fetchone()
            if name is None:
                raise ConfigError(f"[database] url: {self.name}: its search_path names no schema that exists")
            version = self.stored_version(db)
            if version > self.schema_version:
                self.check_schema(db)
            self._make(db, name, version)
            epoch = begin_history(db, secrets.token_hex(6))
            if 0 < version < self.schema_version:
                epoch = renew_epoch(db, epoch)  # rows have other columns: what clients hold of them is not whole
            db.commit()
        except psycopg.Error as error:
            db.rollback()
            if self.fault(error) is Fault.WRITE:
                raise StorageBroken(f"{self.name}: the schema cannot be made: {error}") from error
            raise StorageUnavailable(f"{self.name}: {error}") from error
        except BaseException:
            db.rollback()
            raise
        return epoch

    def _make(self, db: PostgresConnection, name: str, version: int) -> None:
        shipped = schema.load("postgres")
        quoted = '"' + name.replace('"', '""') + '"'
        place: Callable[[str], str] = lambda statement: statement.replace(schema.SCHEMA, quoted)  # noqa: E731
        if version == 0:
            for statement in shipped.creation:
                db.execute(place(statement))
            logger.info("created the schema in %s", self.name, extra={"action": "database_created"})
        elif version < self.schema_version:
            PostgresRunner(db.execute).run(self._migrations[version - 1 :])
        self.check_columns(db)
        if version < self.schema_version:
            write_meta(db, "schema_version", str(self.schema_version))
        wanted = wanted_triggers(doorbell=self._has_doorbell)
        digest = f"{hash_of(shipped.functions, wanted)}"
        unwanted = set(_triggers(db)) - set(wanted)
        if digest == read_meta(db, "triggers") and not db.missing_triggers() and not unwanted:
            return
        db.make_triggers()
        write_meta(db, "triggers", digest)

    def change_listener(self, notify: Callable[[], None]) -> PostgresChangeListener | None:
        if not self._notify:
            return None
        return PostgresChangeListener(self._connect, notify)

    def facts(self) -> list[tuple[str, str]]:
        return list(self._facts)


_HOPELESS_WORDS = ("password authentication failed", "does not exist", "no password supplied", "no pg_hba.conf entry")


def wanted_triggers(*, doorbell: bool) -> dict[str, str]:
    """Return the triggers that should be there."""
    triggers = schema.load("postgres").triggers
    return triggers if doorbell else {name: text for name, text in triggers.items() if not name.endswith("_ring")}


def _decoder(name: str, type_: str) -> Callable[[Any], Any] | None:
    if type_.startswith("TIMESTAMP"):
        return time_text
    if type_.startswith("DOUBLE"):
        return finite
    return exact if type_.startswith("BIG") and name != "id" else None


def hash_of(functions: Sequence[str], triggers: dict[str, str]) -> str:
    """Return what tells one set of triggers and functions from another."""
    return hashlib.blake2b(orjson.dumps([*functions, *triggers.items()]), digest_size=12).hexdigest()


def _triggers(db: DbConnection) -> dict[str, str]:
    rows = db.execute(
        "SELECT t.tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " WHERE c.relnamespace = current_schema()::regnamespace AND NOT t.tgisinternal AND starts_with(t.tgname, ?)",
        (schema.TRIGGER_PREFIX,),
    ).fetchall()
    return dict(rows)


def time_text(value: str) -> str:
    """Return Postgres' text of a time, `2026-11-21 19:42:00.5+00`, as clients see it.

    Raises:
        ValueError: a time that has no such form (infinity, years before 1 or after 9999).
    """
    if value.endswith("+00") and 22 <= len(value) <= 29 and value[10] == " ":
        moment, _, fraction = value[:-3].partition(".")
        return f"{moment[:10]}T{moment[11:]}.{fraction:0<6}Z"
    # Behind a pooler the connection's time zone may be anybody's.
    return datetime.fromisoformat(value).astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _duplicate(descriptor: int) -> int:
    return os.dup(descriptor)
