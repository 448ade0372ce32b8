"""A backup holds nobody up: small steps of one state, written out as it grows, verified when nobody else has work."""

import os
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.engine import sqlite
from robodyne_rt.store.engine.sqlite import SqliteConnection, SqliteDatabase
from robodyne_rt.store.intake import backup
from robodyne_rt.store.intake.backup import BACKUP_PAGES, BackupRequest, Backups
from robodyne_rt.testing.clock import HandClock

MIB = 1024 * 1024


def fill(db: SqliteConnection, mib: int) -> None:
    db.execute("CREATE TABLE ballast(x)")
    for _ in range(mib):
        db.execute("INSERT INTO ballast VALUES (zeroblob(1000000))")


def count(file: Path) -> int:
    copy = sqlite3.connect(file)
    ((number,),) = copy.execute("SELECT count(*) FROM table_").fetchall()
    copy.close()
    return int(number)


def test_a_copy_is_of_one_state_and_comes_to_its_end_whoever_commits_meanwhile(
    database: SqliteDatabase, db: SqliteConnection, foreign: sqlite3.Connection, tmp_path: Path
) -> None:
    fill(db, 4)
    foreign.execute("INSERT INTO table_(table_number) VALUES (0)")
    steps = 0

    def cycle() -> str:
        nonlocal steps
        steps += 1
        connection = (db.connection, foreign)[steps % 2]
        connection.execute("INSERT INTO table_(table_number) VALUES (?)", (steps,))
        return "it begins anew at each commit" if steps > 100 else ""

    request = BackupRequest(tmp_path / "copy.db", lambda error: None)
    assert backup.copy_between_cycles(database, db, request, cycle=cycle) is None
    assert count(tmp_path / "copy.db") == 1
    pages = (tmp_path / "copy.db").stat().st_size // 4096
    assert steps == pytest.approx(pages / 64, abs=2)  # 256 KiB each


def test_what_is_saved_of_a_file_that_is_gone_is_what_the_connection_has_open(db: SqliteConnection, tmp_path: Path) -> None:
    db.execute("INSERT INTO table_(table_number) VALUES (0)")
    for file in tmp_path.glob("robodyne.db*"):
        file.unlink()
    db.copy(tmp_path / "copy.db", pages=BACKUP_PAGES, between=lambda: None)
    assert count(tmp_path / "copy.db") == 1


def test_it_is_written_out_as_it_grows(db: SqliteConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it at once would keep the disk busy while commits wait for it."""
    pieces: list[tuple[int, int]] = []
    monkeypatch.setattr(sqlite, "write_out", lambda descriptor, start, size: pieces.append((start, size)))
    fill(db, 9)
    db.copy_snapshot(tmp_path / "copy.db", pages=BACKUP_PAGES, between=lambda: None)
    ends = [start + size for start, size in pieces]
    assert [start for start, _ in pieces] == [0, *ends[:-1]]
    assert all(MIB <= size < 2 * MIB for _, size in pieces)
    assert ends[-1] > (tmp_path / "copy.db").stat().st_size - 4 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
async def test_it_is_verified_by_a_thread_that_yields_to_all_others(
    db: SqliteConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered: list[tuple[int, int]] = []
    verified: list[int] = []
    honest = sqlite.finish_copy

    def finish(*arguments: Any) -> None:
        verified.append(threading.get_native_id())
        honest(*arguments)

    monkeypatch.setattr(os, "setpriority", lambda which, who, priority: lowered.append((who, priority)))
    monkeypatch.setattr(backup, "finish_copy", finish)

    class Copying:
        def back_up(self, request: BackupRequest) -> None:
            db.copy_snapshot(request.target, pages=BACKUP_PAGES, between=lambda: None)
            request.done(None)

    made = await Backups(Copying(), folder=tmp_path / "backups", clock=HandClock()).make()
    assert lowered == [(verified[0], 19)]
    assert verified[0] != threading.get_native_id() and count(Path(made["path"])) == 0


async def test_a_copy_that_is_not_sound_is_told(tmp_path: Path) -> None:
    class Copying:
        def back_up(self, request: BackupRequest) -> None:
            request.target.write_bytes(b"no database at all" * 1000)
            request.done(None)

    with pytest.raises(StorageUnavailable, match="no backup was made"):
        await Backups(Copying(), folder=tmp_path / "backups", clock=HandClock()).make()
