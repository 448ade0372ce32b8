"""Whatever opens a file and raises leaves nothing open: a database that stays open keeps its locks and its files."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.cli import backup
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.settings import Database, Settings
from robodyne_rt.store import opening
from robodyne_rt.store.engine import sqlite
from robodyne_rt.store.engine.file_identity import FileIdentity
from robodyne_rt.store.engine.ownership import Ownership
from robodyne_rt.store.engine.sqlite import SqliteConnection, SqliteDatabase
from robodyne_rt.store.errors import FilesReplaced, StorageBroken
from robodyne_rt.store.intake.spool import Spool
from robodyne_rt.store.intake.writer import Writer
from robodyne_rt.store.log.history import History
from robodyne_rt.store.log.reader_pool import ReaderPool


def open_files(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(link)
        except FileNotFoundError:  # that of the listing itself
            continue
        if target.startswith(f"{folder}/"):
            found.append(target)
    return found


def fail(*_: Any, **__: Any) -> Any:
    raise sqlite3.OperationalError("disk I/O error")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database of ours, closed."""
    path = tmp_path / "robodyne.db"
    database = SqliteDatabase(f"sqlite:///{path}")
    db = database.open_writer()
    database.prepare(db)
    db.close()
    return path


def refuses_pragma(file: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sqlite.PRAGMAS, "synchronous", 77)
    SqliteDatabase(f"sqlite:///{file}").open_writer()


def is_no_database(file: Path, patch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"no database" * 1000)
    SqliteDatabase(f"sqlite:///{file}").open_writer()


def is_replaced_meanwhile(file: Path, patch: pytest.MonkeyPatch) -> None:
    def replaced(self: FileIdentity, path: bytes) -> tuple[int, int]:
        raise FilesReplaced(os.fsdecode(path))

    patch.setattr(FileIdentity, "_look", replaced)
    SqliteDatabase(f"sqlite:///{file}").open_writer()


def cannot_be_looked_at(file: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteConnection, "has_foreign_changes", fail)
    SqliteDatabase(f"sqlite:///{file}").open_writer()


def reader_fails(file: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteConnection, "limit_reads", fail)
    SqliteDatabase(f"sqlite:///{file}").open_reader()


def reader_without_a_log(file: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("robodyne_rt.store.log.reader_pool.ChangeLog", fail)
    database = SqliteDatabase(f"sqlite:///{file}")
    ReaderPool(database, history=History("first"), windows={})._in_thread(lambda reader: None, [])


def spool_fails(file: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("robodyne_rt.store.intake.spool._first_seq", fail)
    Spool(file.with_name("spool.db"), max_bytes=1 << 20)


def spool_cannot_be_repaired(file: Path, patch: pytest.MonkeyPatch) -> None:
    path = file.with_name("spool.db")
    path.write_bytes(b"no database" * 1000)
    patch.setattr(Spool, "_salvage", fail)
    Spool(path, max_bytes=1 << 20)


def spool_cannot_be_read(file: Path, patch: pytest.MonkeyPatch) -> None:
    spool = Spool(file.with_name("spool.db"), max_bytes=1 << 20)
    if spool._connection:
        spool._connection.close()
    patch.setattr("robodyne_rt.store.intake.spool.FileIdentity", fail)
    spool.rows(0, 1)


def store_fails(file: Path, patch: pytest.MonkeyPatch) -> None:
    """After the database and the spool are open."""
    settings = Settings(database=Database(url=f"sqlite:///{file}", spool_path=str(file.with_name("spool.db"))))
    patch.setattr(Writer, "_use", fail)
    opening._open(SqliteDatabase(f"sqlite:///{file}"), settings, Clock(noted_at=0.0), lambda: True, Ownership([]))


@pytest.mark.parametrize(
    "open_and_fail",
    [
        refuses_pragma,
        is_no_database,
        is_replaced_meanwhile,
        cannot_be_looked_at,
        reader_fails,
        reader_without_a_log,
        spool_fails,
        spool_cannot_be_repaired,
        spool_cannot_be_read,
        store_fails,
    ],
)
def test_an_opener_that_raises_leaves_nothing_open(
    file: Path, monkeypatch: pytest.MonkeyPatch, open_and_fail: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    with pytest.raises((sqlite3.Error, StorageBroken, StorageUnavailable)) as caught:
        open_and_fail(file, monkeypatch)
    # The traceback holds what the opener had in hand: nothing here is closed by chance.
    assert open_files(file.parent) == [], caught.value


def test_a_broken_database_that_is_set_aside_is_not_left_open(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[SqliteConnection] = []
    open_writer = SqliteDatabase.open_writer

    def remembered(self: SqliteDatabase) -> SqliteConnection:
        opened.append(open_writer(self))
        opened[-1].execute = fail
        return opened[-1]

    monkeypatch.setattr(SqliteDatabase, "open_writer", remembered)
    assert backup._set_aside(SqliteDatabase(f"sqlite:///{file}")) is not None
    assert opened and open_files(file.parent) == []


def test_a_store_that_is_never_run_is_let_go(file: Path) -> None:
    settings = Settings(database=Database(url=f"sqlite:///{file}", spool_path=str(file.with_name("spool.db"))))
    opened = opening._open(SqliteDatabase(f"sqlite:///{file}"), settings, Clock(noted_at=0.0), lambda: True, Ownership([]))
    assert open_files(file.parent)
    opened.release()
    assert open_files(file.parent) == []
