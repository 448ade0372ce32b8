"""Opening, settings read back, schema versions and their backups."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from robodyne_rt.settings import ConfigError
from robodyne_rt.store.engine.database import Fault
from robodyne_rt.store.engine.sqlite import SqliteConnection, SqliteDatabase, fault
from robodyne_rt.store.errors import SchemaTooNew, StorageBroken
from robodyne_rt.store.migrations.migration import AddColumn, Migration, both


def test_the_writers_settings_hold(writer: sqlite3.Connection) -> None:
    for name, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "wal_autocheckpoint": 0}.items():
        assert writer.execute(f"PRAGMA {name}").fetchone() == (value,)


def test_readers_cannot_write(database: SqliteDatabase, writer: sqlite3.Connection) -> None:
    reader = database.open_reader()
    with pytest.raises(sqlite3.OperationalError):
        reader.execute("INSERT INTO robot(robot_id) VALUES ('a')")
    reader.close()


def test_the_epoch_stays_over_restarts(database: SqliteDatabase) -> None:
    epochs = set()
    for _ in range(3):
        connection = database.open_writer()
        epochs.add(database.prepare(connection))
        connection.close()
    assert len(epochs) == 1


def test_what_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, and long enough to be taken for one " * 100)
    for path in (tmp_path / "text.db", tmp_path):
        with pytest.raises(StorageBroken, match=str(path)):
            SqliteDatabase(f"sqlite:///{path}").open_writer()


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite://x"])
def test_another_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///FILE"):
        SqliteDatabase(url)


def test_an_older_schema_is_backed_up_and_brought_forward(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'robodyne.db'}"
    old = SqliteDatabase(url, migrations=())
    connection = old.open_writer()
    epoch = old.prepare(connection)
    connection.execute("INSERT INTO robot(robot_id) VALUES ('a')")
    connection.close()

    steps = (AddColumn("robot", "colour", "text"), both("UPDATE robot SET colour = 'blue'"))
    new = SqliteDatabase(url, migrations=(Migration(2, steps),))
    connection = new.open_writer()
    assert new.prepare(connection) != epoch
    assert connection.execute("SELECT robot_id, colour FROM robot").fetchall() == [("a", "blue")]
    assert connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == ("2",)
    assert connection.missing_triggers() == []
    connection.close()
    backup = tmp_path / "robodyne.db.before-v2"
    copy = sqlite3.connect(backup)
    assert copy.execute("SELECT robot_id FROM robot").fetchall() == [("a",)]
    assert copy.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == ("1",)
    copy.close()

    connection = old.open_writer()
    with pytest.raises(SchemaTooNew, match="schema version 2"):
        old.prepare(connection)
    connection.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'robodyne.db'}"
    old = SqliteDatabase(url, migrations=())
    connection = old.open_writer()
    old.prepare(connection)
    connection.close()
    broken = SqliteDatabase(url, migrations=(Migration(2, (AddColumn("robot", "colour", "text"), both("NONSENSE"))),))
    connection = broken.open_writer()
    with pytest.raises(StorageBroken, match="as it was"):
        broken.prepare(connection)
    assert "colour" not in [row[1] for row in connection.execute("PRAGMA table_info(robot)").fetchall()]
    connection.close()
    connection = old.open_writer()
    old.prepare(connection)
    connection.close()


def test_a_second_program_can_write_with_plain_sqlite3(database: SqliteDatabase, writer: sqlite3.Connection) -> None:
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()"
    statement = "INSERT INTO robot(robot_id) VALUES ('x')"
    subprocess.run([sys.executable, "-c", script, str(database.path), statement], check=True)
    assert writer.execute("SELECT topic, key FROM change").fetchall() == [("robots", 1)]


def test_a_commit_waits_ten_milliseconds_for_another_programs_lock_and_maintenance_not_at_all(
    db: SqliteConnection, foreign: sqlite3.Connection
) -> None:
    def patience_ms() -> int:
        return int(db.execute("PRAGMA busy_timeout").fetchone()[0])

    assert patience_ms() == 5000  # at start
    db.limit_lock_waits()
    assert patience_ms() == 10
    with db.impatiently():
        assert patience_ms() == 0
    assert patience_ms() == 10
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as raised:
        db.begin()
    assert fault(raised.value) is Fault.BUSY
