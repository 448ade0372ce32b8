"""The SQLite file: how connections are opened, what their settings must be, and the schema with its version.

The only module that knows which database this is; the rest of store/ speaks plain SQL with `?`. One connection writes
(`open_writer`), all others are read-only and never checkpoint (PITFALLS of WAL mode: a reader that checkpoints can meet
the WAL-reset bug, one that writes can lose its snapshot).
"""

import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from robodyne_rt.errors import SchemaTooNew, StorageBroken
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.settings import ConfigError
from robodyne_rt.store import schema
from robodyne_rt.store.migrations import MIGRATIONS, Migration

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 5000
WAL_LIMIT_BYTES = 64 * 1024 * 1024

_PRAGMAS: dict[str, int | str] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: a commit is on disk when it returns
    "busy_timeout": BUSY_TIMEOUT_MS,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "journal_size_limit": WAL_LIMIT_BYTES,
    "mmap_size": 0,
    "temp_store": 2,
}

Connection = sqlite3.Connection


class Database:
    """One SQLite file.

    Args:
        url: `sqlite:///FILE`; a relative file is relative to the working directory.
        migrations: steps between schema versions, oldest first.
    """

    def __init__(self, url: str, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        if not url.startswith("sqlite:///") or url == "sqlite:///":
            raise ConfigError(f"[database] url {url!r}: expected sqlite:///FILE")
        self.path = Path(url.removeprefix("sqlite:///")).absolute()
        self._migrations = migrations

    @property
    def schema_version(self) -> int:
        """Version that this program writes: 1 is the first schema, each migration adds one."""
        return 1 + len(self._migrations)

    def open_writer(self) -> Connection:
        """Return the one connection that writes, its settings set and read back.

        Raises:
            StorageBroken: the file cannot be opened, or a setting does not hold (an odd build, a network file system).
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=512)
            for name, value in _PRAGMAS.items():
                connection.execute(f"PRAGMA {name} = {value}")
                got = connection.execute(f"PRAGMA {name}").fetchone()
                if got is not None and str(got[0]).lower() != str(value):
                    raise StorageBroken(f"{self.path}: PRAGMA {name} is {got[0]}, not {value}")
            # We checkpoint ourselves, below the 1000 pages at which a foreign program's connection would.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        except (sqlite3.Error, OSError) as error:
            raise StorageBroken(f"{self.path}: cannot be opened: {error}") from error
        return connection

    def open_reader(self) -> Connection:
        """Return a read-only connection for short reads in one thread at a time."""
        connection = sqlite3.connect(
            f"file:{_quoted(self.path)}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    def prepare(self, connection: Connection) -> str:
        """Create the schema, or bring it forward (after a backup of the file); return the epoch.

        Raises:
            SchemaTooNew: a newer program wrote this file.
        """
        version = _version(connection)
        if version > self.schema_version:
            raise SchemaTooNew(
                f"{self.path}: schema version {version}, this program knows up to {self.schema_version}: "
                "install the newer version again, or restore the backup that it made"
            )
        if 0 < version < self.schema_version:
            self._backup(connection, version)
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version == 0:
                for statement in schema.load().tables:
                    connection.execute(statement)
                _set_version(connection, self.schema_version)
                logger.info("created %s", self.path, extra={"action": "database_created"})
            for number in range(max(version, 1), self.schema_version) if version else ():
                logger.info("migrating to schema version %d", number + 1, extra={"action": "database_migrated"})
                for statement in self._migrations[number - 1]:
                    connection.execute(statement)
                _set_version(connection, number + 1)
            schema.install_triggers(connection)
            connection.executemany(
                'INSERT INTO topic_head(topic, "offset") VALUES (?, 0) ON CONFLICT DO NOTHING', [(name,) for name in TOPICS]
            )
            connection.execute(
                "INSERT INTO meta(key, value) VALUES ('epoch', ?) ON CONFLICT DO NOTHING", (secrets.token_hex(6),)
            )
            epoch: str = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return epoch

    def _backup(self, connection: Connection, version: int) -> None:
        """Copy the file beside itself before its schema changes: online, so that the WAL's content is in it, then verified."""
        target = self.path.with_name(f"{self.path.name}.before-v{version + 1}-{time.strftime('%Y%m%dT%H%M%S')}")
        copy = sqlite3.connect(target)
        try:
            connection.backup(copy)
            verdict = copy.execute("PRAGMA quick_check").fetchone()[0]
        finally:
            copy.close()
        if verdict != "ok":
            raise StorageBroken(f"{target}: the backup before the migration is not sound: {verdict}")
        with target.open("rb") as file:
            os.fsync(file.fileno())
        logger.info("backup before migration: %s", target, extra={"action": "database_backed_up"})


def _version(connection: Connection) -> int:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return 0
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    return int(row[0]) if row else 0


def _set_version(connection: Connection, version: int) -> None:
    connection.execute(
        "INSERT INTO meta(key, value) VALUES ('schema_version', ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
        (str(version),),
    )


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
