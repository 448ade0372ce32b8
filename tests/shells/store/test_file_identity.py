"""A database whose files are taken away while it is open: nothing more is told, and what was stored is saved beside it."""

import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.core.spooling import Give
from robodyne_rt.store.engine import file_identity, sqlite
from robodyne_rt.store.engine.file_identity import FileIdentity
from robodyne_rt.store.engine.sqlite import SqliteConnection, SqliteDatabase
from robodyne_rt.store.errors import FilesReplaced
from robodyne_rt.store.intake import backup
from robodyne_rt.store.intake.reports import Report
from robodyne_rt.store.intake.writer import Writer
from robodyne_rt.store.log.history import History
from robodyne_rt.store.log.retention import Retention
from robodyne_rt.testing.clock import HandClock
from robodyne_rt.testing.store import ScriptedWrite
from tests.stores import WINDOWS

LOOK_S = 10.0


class Bench:
    """A writer on a real file, turned by hand."""

    def __init__(self, database: SqliteDatabase, db: SqliteConnection) -> None:
        self.path = database.path
        self.clock = HandClock()
        self.reports: list[Report] = []
        self.writer = Writer(
            database,
            db,
            history=History("first"),
            windows=WINDOWS,
            batch_max=3,
            changes_retained=1000,
            fallback_interval_s=LOOK_S,
            notify=True,
            retention=Retention(days={}, windows={}, may_delete=lambda: True, database=database, clock=self.clock),
            ids=IdGenerator(wall=self.clock.wall(), now=self.clock.now()),
            clock=self.clock,
        )

    def give(self, *numbers: int) -> None:
        self.writer.give(Give(0, 0, [table(number) for number in numbers]))

    def cycle(self) -> None:
        self.writer.fetch(wait=False)
        self.writer.cycle(self.reports.append)

    @property
    def told(self) -> list[Any]:
        return [result for report in self.reports for _, result, _ in report.done]

    @property
    def rescued(self) -> list[Path]:
        return sorted(self.path.parent.parent.glob("*/robodyne.db.rescued-*"))


def table(number: int) -> ScriptedWrite:
    return ScriptedWrite(lambda tables: tables.db.execute("INSERT INTO table_(table_number) VALUES (?)", (number,)) and number)


def numbers_in(file: Path) -> list[int]:
    connection = sqlite3.connect(file)
    try:
        return [number for (number,) in connection.execute("SELECT table_number FROM table_ ORDER BY table_number")]
    finally:
        connection.close()


@pytest.fixture
def database(tmp_path: Path) -> SqliteDatabase:
    return SqliteDatabase(f"sqlite:///{tmp_path / 'data' / 'robodyne.db'}")


@pytest.fixture
def bench(database: SqliteDatabase, db: SqliteConnection, tmp_path: Path) -> Iterator[Bench]:
    older = sqlite3.connect(tmp_path / "older.db")
    db.connection.backup(older)
    older.close()
    bench = Bench(database, db)
    bench.give(1)
    bench.cycle()
    assert bench.told == [1]
    yield bench


def delete_all(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        os.unlink(f"{path}{suffix}")


def copy_over(path: Path) -> None:
    """Replace a file by a copy of itself."""
    shutil.copy(path, f"{path}.new")
    os.replace(f"{path}.new", path)


def put_device(path: Path) -> None:
    path.rename(f"{path}.old")
    path.symlink_to("/dev/null")


HURTS: dict[str, Callable[[Path], object]] = {
    "database deleted": lambda path: path.unlink(),
    "WAL deleted": lambda path: os.unlink(f"{path}-wal"),
    "all deleted": delete_all,
    "older copy moved over it": lambda path: (path.parent.parent / "older.db").replace(path),
    "copy of itself moved over it": copy_over,
    "WAL of another file": lambda path: copy_over(Path(f"{path}-wal")),
    "folder moved": lambda path: path.parent.rename(path.parent.parent / "elsewhere"),
    "a device in its place": put_device,
}


@pytest.mark.parametrize("hurt", HURTS)
def test_nothing_is_told_that_nobody_finds_again(bench: Bench, hurt: str) -> None:
    HURTS[hurt](bench.path)
    bench.give(2, 3)
    with pytest.raises(FilesReplaced, match="while it was open"):
        bench.cycle()
    assert bench.told == [1]


@pytest.mark.parametrize("hurt", [hurt for hurt in HURTS if hurt != "folder moved"])
def test_what_was_stored_is_saved_before_the_writer_ends(bench: Bench, hurt: str) -> None:
    HURTS[hurt](bench.path)
    bench.give(2, 3)
    with pytest.raises(FilesReplaced, match=r"is in .*robodyne\.db\.rescued-\d{8}T\d{6}\.\d{6}; stop the server"):
        bench.writer.run(bench.reports.append)
    (rescued,) = bench.rescued
    assert numbers_in(rescued) == [1, 2, 3]
    assert bench.told == [1]


def test_the_copy_in_its_place_stays_whole(bench: Bench, database: SqliteDatabase) -> None:
    """Our WAL lies beside it: SQLite would replay it into a file that it does not belong to."""
    HURTS["older copy moved over it"](bench.path)
    bench.give(2)
    with pytest.raises(FilesReplaced):
        bench.writer.run(bench.reports.append)
    assert numbers_in(bench.path) == []


@pytest.mark.parametrize("hurt", ["WAL deleted", "WAL of another file"])
def test_a_file_that_only_lost_its_log_has_all_in_the_end(bench: Bench, hurt: str) -> None:
    HURTS[hurt](bench.path)
    bench.give(2)
    with pytest.raises(FilesReplaced):
        bench.writer.run(bench.reports.append)
    assert numbers_in(bench.path) == [1, 2]


def test_a_log_that_is_not_ours_is_left_alone(bench: Bench) -> None:
    HURTS["older copy moved over it"](bench.path)
    HURTS["WAL of another file"](bench.path)
    bench.give(2)
    with pytest.raises(FilesReplaced):
        bench.writer.run(bench.reports.append)
    assert Path(f"{bench.path}-wal").exists()


def test_where_nothing_can_be_saved_the_reason_says_so_and_leaves_nothing_half(bench: Bench, tmp_path: Path) -> None:
    HURTS["folder moved"](bench.path)
    bench.give(2)
    with pytest.raises(FilesReplaced, match="could not be saved"):
        bench.writer.run(bench.reports.append)
    assert bench.rescued == [] and not list(tmp_path.glob("*/*.part"))


def test_a_log_in_its_place_is_never_removed(db: SqliteConnection, database: SqliteDatabase) -> None:
    db.remove_orphans()
    assert Path(f"{database.path}-wal").exists()


def test_what_was_not_committed_is_not_saved_as_if_it_were(bench: Bench, db: SqliteConnection) -> None:
    db.begin()
    db.execute("INSERT INTO table_(table_number) VALUES (9)")
    assert numbers_in(backup.rescue(bench.path, db, now=0.0, between=lambda: None)) == [1]


def test_a_copy_that_is_broken_off_leaves_nothing_half(bench: Bench, db: SqliteConnection) -> None:
    def broken_off() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        backup.rescue(bench.path, db, now=0.0, between=broken_off)
    assert bench.rescued == []


def test_a_copy_is_verified_while_the_writer_shows_that_it_lives(
    bench: Bench, db: SqliteConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "VERIFY_STEPS", 10)
    turns = itertools.count(1)
    backup.rescue(bench.path, db, now=0.0, between=lambda: next(turns))
    assert next(turns) > 100


def test_an_idle_writer_looks_too(bench: Bench) -> None:
    HURTS["database deleted"](bench.path)
    bench.cycle()
    bench.clock.advance(LOOK_S)
    with pytest.raises(FilesReplaced):
        bench.cycle()


def test_a_batch_that_is_taken_apart_is_told_to_nobody(bench: Bench) -> None:
    HURTS["database deleted"](bench.path)
    faulty = ScriptedWrite(lambda tables: tables.db.execute("INSERT INTO table_(table_number) VALUES (NULL)"))
    good = table(2)
    bench.writer.give(Give(0, 0, [good, faulty]))
    with pytest.raises(FilesReplaced):
        bench.writer.run(bench.reports.append)
    assert bench.told == [1] and numbers_in(*bench.rescued) == [1, 2]
    assert good.applied == 2  # with its neighbour, and under a savepoint; nothing is tried again in a file that is gone


def test_the_writer_shows_that_it_lives_while_it_saves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []
    HURTS["database deleted"](bench.path)
    bench.give(2)

    def note() -> None:
        bench.clock.advance(1.0)
        turns.append(bench.clock.now())
        bench.writer.stats.cycled_at = bench.clock.now()

    monkeypatch.setattr(bench.writer, "_note_turn", note)
    with pytest.raises(FilesReplaced):
        bench.writer.run(bench.reports.append)
    assert turns and bench.writer.stats.cycled_at == turns[-1]


def test_what_other_programs_may_do_is_no_replacement(bench: Bench) -> None:
    foreign = sqlite3.connect(bench.path, isolation_level=None)
    foreign.execute("INSERT INTO table_(table_number) VALUES (7)")
    foreign.execute("VACUUM")
    foreign.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    foreign.close()
    shutil.copy(bench.path, f"{bench.path}.copy")
    bench.give(2)
    bench.cycle()
    assert bench.told == [1, 2] and numbers_in(bench.path) == [1, 2, 7]


def test_a_database_is_not_opened_again_in_another_files_place(database: SqliteDatabase, db: SqliteConnection) -> None:
    db.close()
    database.open_writer().close()
    database.path.unlink()
    with pytest.raises(FilesReplaced):
        database.open_writer()
    assert not database.path.exists()


@pytest.fixture(params=["statx", "stat"])
def call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call by which files are looked at: a C library may not have the faster one."""
    if request.param == "stat":
        monkeypatch.setattr(file_identity, "_statx", None)


def test_a_file_that_cannot_be_looked_at_proves_nothing(tmp_path: Path, call: None) -> None:
    (tmp_path / "file").touch()
    identity = FileIdentity([tmp_path / "file"])
    identity.check()
    (tmp_path / "file").unlink()
    (tmp_path / "file").symlink_to("file")  # a circle
    with pytest.raises(FilesReplaced, match="taken away"):
        identity.check()
    with pytest.raises(FilesReplaced):
        FileIdentity([tmp_path / "never"])


def test_the_same_number_on_another_device_is_another_file(tmp_path: Path, call: None) -> None:
    """Two file systems of the kernel give the same number to their roots."""
    roots = [Path("/proc"), Path("/sys"), Path("/dev/pts"), Path("/dev/shm"), Path("/run"), Path("/dev/mqueue")]
    found = [path.stat() for path in roots if path.exists()]
    pairs = [(a, b) for a in found for b in found if a.st_ino == b.st_ino and a.st_dev != b.st_dev]
    assert pairs, [(stat.st_dev, stat.st_ino) for stat in found]
    one, other = (next(path for path in roots if path.exists() and path.stat() == stat) for stat in pairs[0])
    link = tmp_path / "link"
    link.symlink_to(one)
    identity = FileIdentity([link])
    identity.check()
    link.unlink()
    link.symlink_to(other)
    with pytest.raises(FilesReplaced, match="replaced"):
        identity.check()
