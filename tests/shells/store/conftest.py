"""A store on a fresh file, and its change log read as the feed reads it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from robodyne_rt.model.topics import TOPICS
from robodyne_rt.store.engine.sqlite import SqliteConnection, SqliteDatabase
from robodyne_rt.store.log.change_log import ChangeLog
from tests.stores import WINDOWS


class LogReader:
    """Reads what is new per topic, and checks on the way that offsets have no gaps."""

    def __init__(self, db: SqliteConnection) -> None:
        self.log = ChangeLog(db, windows=WINDOWS)
        self.positions = dict.fromkeys(TOPICS, 0)
        self._connection = db.connection

    def news(self, topic: str) -> tuple[list[int], list[int]]:
        """Return (ids of changed entities, removed ids) since the last call."""
        update = self.log.after(topic, self.positions[topic], 10_000)
        assert update.offset == self.log.heads()[topic]
        self.positions[topic] = update.offset
        return sorted(update.entities), sorted(update.removed)

    def lines(self, topic: str) -> list[tuple[int, str]]:
        """Return (key, op) of the lines since the last call."""
        start = self.positions[topic]
        rows = self._connection.execute(
            'SELECT "offset", key, op FROM change WHERE topic = ? AND "offset" > ? ORDER BY "offset"', (topic, start)
        ).fetchall()
        assert [row[0] for row in rows] == list(range(start + 1, start + 1 + len(rows)))
        self.positions[topic] += len(rows)
        return [(key, op) for _, key, op in rows]


@pytest.fixture
def database(tmp_path: Path) -> SqliteDatabase:
    return SqliteDatabase(f"sqlite:///{tmp_path / 'robodyne.db'}")


@pytest.fixture
def db(database: SqliteDatabase) -> Iterator[SqliteConnection]:
    """The writer's session on a prepared file."""
    db = database.open_writer()
    database.prepare(db)
    yield db
    db.close()


@pytest.fixture
def writer(db: SqliteConnection) -> sqlite3.Connection:
    """The writer's connection to a prepared file."""
    return db.connection


@pytest.fixture
def foreign(database: SqliteDatabase, writer: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Another program's connection, with SQLite's defaults: foreign keys off, no recursive triggers."""
    connection = sqlite3.connect(database.path, isolation_level=None)
    yield connection
    connection.close()


@pytest.fixture
def reader(db: SqliteConnection) -> LogReader:
    return LogReader(db)
