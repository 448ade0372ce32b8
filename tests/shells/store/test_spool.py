"""The spool's file: on the disk when it says so, in order, bounded, and named so that nobody takes it for another one."""

import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.intake import spool as spool_module
from robodyne_rt.store.intake import spool_repair
from robodyne_rt.store.intake.spool import Spool, SpooledRow
from robodyne_rt.store.intake.spool_repair import SET_ASIDE, SpoolDamage


class Loop:
    """Calls back at once, in whatever thread."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[StorageUnavailable | None] = queue.SimpleQueue()

    def call_soon_threadsafe(self, done: Any, error: Any) -> None:
        self.answers.put(error)


class Bench:
    def __init__(self, path: Path, max_bytes: int = 1 << 20) -> None:
        self.loop = Loop()
        self.path = path
        self.spool = Spool(path, max_bytes=max_bytes)
        self.damages: list[SpoolDamage] = []
        self.thread = threading.Thread(target=self.spool.run, args=(self.damages.append,), daemon=True)
        self.thread.start()

    def append(self, *rows: tuple[int, str]) -> StorageUnavailable | None:
        self.spool.append(self.loop, [SpooledRow(*row) for row in rows], lambda error: None)  # type: ignore[arg-type]
        return self.loop.answers.get(timeout=10)

    def stop(self) -> None:
        self.spool.stop()
        self.thread.join(10)
        self.spool.close_reader()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "spool.db")
    yield bench
    bench.stop()


def test_a_commit_is_on_the_disk_when_it_returns(bench: Bench) -> None:
    connection = bench.spool._connection
    assert connection is not None
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: NORMAL loses commits with the power
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_so_is_a_commit_of_the_connection_that_replaces_a_failed_one(bench: Bench) -> None:
    assert bench.append((1, "a"), (1, "again")) is not None  # a row number twice: the append fails as a whole
    assert bench.append((2, "b")) is None
    assert bench.spool._connection is not None
    assert bench.spool._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert [row.seq for row in bench.spool.rows(0, 10)] == [2]


def test_rows_come_back_in_order_after_a_number(bench: Bench) -> None:
    assert bench.append((1, "a"), (2, "b")) is None
    assert bench.append((3, "c")) is None
    assert bench.spool.rows(0, 2) == [(1, "a"), (2, "b")]
    assert bench.spool.rows(2, 10) == [(3, "c")]


def test_numbers_are_never_given_again(bench: Bench, tmp_path: Path) -> None:
    assert bench.append((1, "a"), (2, "b")) is None
    bench.spool.forget(2)
    bench.stop()
    again = Bench(tmp_path / "spool.db")
    assert (again.spool.last_seq, again.spool.rows_at_start) == (2, 0)
    again.stop()


def test_it_keeps_its_name_and_another_file_has_another(bench: Bench, tmp_path: Path) -> None:
    again, other = Spool(tmp_path / "spool.db", max_bytes=1 << 20), Spool(tmp_path / "other.db", max_bytes=1 << 20)
    assert bench.spool.name == again.name != other.name
    again._connection.close(), other._connection.close()  # type: ignore[union-attr]


def test_a_full_spool_takes_nothing_of_an_append_and_has_room_again_later(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool.db", max_bytes=100_000)
    seq = 0
    while True:
        seq += 2
        error = bench.append((seq, "x" * 4000), (seq + 1, "y" * 4000))
        if error is not None:
            break
    assert "full" in bench.spool.trouble and error.details["retry_after_s"] > 0
    kept = [row.seq for row in bench.spool.rows(0, 1000)]
    assert kept == list(range(2, seq))
    bench.spool.forget(kept[-1])
    assert bench.append((seq + 2, "z")) is None
    assert bench.spool.trouble == ""
    bench.stop()


# -- a file that is damaged, deleted or replaced -------------------------------------------------------------------


def rows_soon(bench: Bench, after: int = 0) -> list[int]:
    """Return the numbers of the rows that can be read, when the file can be."""
    for _ in range(200):
        try:
            return [row.seq for row in bench.spool.rows(after, 1000)]
        except StorageUnavailable:
            time.sleep(0.02)
    raise AssertionError("the spool was not repaired")


def set_aside(path: Path) -> list[Path]:
    return sorted(file for file in path.parent.glob(f"{path.name}{SET_ASIDE}*") if not file.name.endswith("-wal"))


def take_away(path: Path, how: str) -> None:
    if how in ("deleted", "all deleted"):
        path.unlink()
    if how in ("wal deleted", "all deleted"):
        path.with_name(path.name + "-wal").unlink()
    if how == "replaced":
        other = Spool(path.with_name("other.db"), max_bytes=1 << 20)
        assert other._connection is not None
        other._connection.execute("INSERT INTO spool VALUES (1, 'of another spool')")
        other._connection.close()
        path.with_name("other.db").replace(path)


HOW = ["deleted", "wal deleted", "all deleted", "replaced"]


@pytest.mark.parametrize("how", HOW)
def test_a_file_that_is_taken_away_costs_nothing(bench: Bench, tmp_path: Path, how: str) -> None:
    name = bench.spool.name
    assert bench.append((1, "a"), (2, "b")) is None
    take_away(bench.path, how)
    assert bench.append((3, "c")) is None  # seen after its commit: it is in the new file when its device is told
    assert rows_soon(bench) == [1, 2, 3]
    assert [damage.lost for damage in bench.damages] == [0]
    bench.stop()
    again = Bench(tmp_path / "spool.db")
    assert (again.spool.name, again.spool.last_seq, rows_soon(again)) == (name, 3, [1, 2, 3])
    again.stop()


@pytest.mark.parametrize("how", [how for how in HOW if how != "wal deleted"])  # its rows are read all the same
def test_so_it_does_where_the_drain_sees_it_first(bench: Bench, how: str) -> None:
    assert bench.append((1, "a"), (2, "b")) is None
    assert [row.seq for row in bench.spool.rows(0, 1)] == [1]
    take_away(bench.path, how)
    assert rows_soon(bench) == [1, 2]
    assert bench.append((3, "c")) is None
    assert rows_soon(bench, 2) == [3]


def test_so_it_does_where_nobody_writes_or_reads_for_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "LOOK_S", 0.05)
    assert bench.append((1, "a"), (2, "b")) is None
    take_away(bench.path, "all deleted")
    for _ in range(200):
        if bench.damages:
            break
        time.sleep(0.02)
    assert [damage.lost for damage in bench.damages] == [0]
    with contextlib.closing(sqlite3.connect(bench.path)) as link:
        assert link.execute("SELECT seq FROM spool").fetchall() == [(1,), (2,)]


def overwrite(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * length)


def test_a_damaged_page_costs_only_its_own_rows_and_they_are_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool.db")
    for seq in range(1, 200, 10):
        assert bench.append(*((seq + n, "x" * 300) for n in range(10))) is None
    bench.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "spool.db")) as link:
        pages = link.execute("PRAGMA page_count").fetchone()[0]
    overwrite(tmp_path / "spool.db", (pages - 3) * 4096, 4096)
    bench = Bench(tmp_path / "spool.db")
    kept, damage = rows_soon(bench), bench.spool.damage_at_start
    assert damage is not None
    assert damage.lost and len(kept) == 199 - 199 % 10 + 10 - damage.lost and len(kept) > 150
    assert damage.set_aside is not None and damage.set_aside.exists()
    assert bench.append((1000, "new")) is None and rows_soon(bench, 999) == [1000]
    bench.stop()


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"no database " * 800, b"SQLite format 3\0" + b"\xff" * 8176])
def test_a_file_that_is_no_spool_is_set_aside_at_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spool.db").write_bytes(content)
    bench = Bench(tmp_path / "spool.db")
    if content:
        damage = bench.spool.damage_at_start
        assert damage is not None and damage.lost is None and damage.set_aside is not None
        assert damage.set_aside.read_bytes() == content
    assert bench.append((1, "a")) is None and rows_soon(bench) == [1]
    bench.stop()


def test_a_repair_that_finds_no_room_keeps_the_old_file_and_comes_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.append((1, "a"), (2, "b")) is None
    take_away(bench.path, "all deleted")
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    honest = spool_repair.salvage

    def no_room(*arguments: Any, **options: Any) -> int:
        raise full

    monkeypatch.setattr(spool_repair, "salvage", no_room)
    assert bench.append((3, "c")) is not None
    with pytest.raises(StorageUnavailable):
        bench.spool.rows(0, 10)
    monkeypatch.setattr(spool_repair, "salvage", honest)
    assert bench.append((4, "d")) is None
    assert rows_soon(bench)[:2] == [1, 2] and rows_soon(bench)[-1] == 4


def test_a_repair_is_done_once_however_many_find_the_damage(bench: Bench) -> None:
    assert bench.append((1, "a"), (2, "b")) is None
    assert rows_soon(bench) == [1, 2]  # with a reader that is open
    take_away(bench.path, "deleted")
    assert bench.append((3, "c")) is None
    assert rows_soon(bench) == [1, 2, 3]
    bench.append((4, "d"))
    assert [damage.lost for damage in bench.damages] == [0]


def test_a_damaged_sequence_is_repaired_at_start_under_another_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool.db")
    name = bench.spool.name
    assert bench.append((1, "a"), (2, "b")) is None
    bench.stop()
    connection = sqlite3.connect(tmp_path / "spool.db")
    ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchall()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    overwrite(tmp_path / "spool.db", (page - 1) * 4096, 4096)
    bench = Bench(tmp_path / "spool.db")
    assert bench.spool.damage_at_start is not None and bench.spool.damage_at_start.lost == 0
    assert rows_soon(bench) == [1, 2] and bench.spool.name != name
    bench.stop()


def test_a_link_to_a_spool_elsewhere_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "spool.db").symlink_to(tmp_path / "disk" / "spool.db")
    bench = Bench(tmp_path / "spool.db")
    assert bench.append((1, "a")) is None and rows_soon(bench) == [1]
    bench.stop()
    again = Bench(tmp_path / "spool.db")
    assert rows_soon(again) == [1] and again.damages == [] and (tmp_path / "spool.db").is_symlink()
    again.stop()


def test_numbers_go_on_in_the_file_that_took_the_place_of_a_drained_one(bench: Bench, tmp_path: Path) -> None:
    assert bench.append((1, "a"), (2, "b")) is None
    bench.spool.forget(2)
    assert bench.append((3, "c")) is None
    bench.path.unlink()
    assert bench.append((4, "d")) is None
    bench.spool.forget(4)
    bench.stop()
    again = Bench(tmp_path / "spool.db")
    assert (again.spool.last_seq, again.spool.rows_at_start) == (4, 0)
    again.stop()


def test_a_spool_that_is_given_up_begins_anew_under_another_name(bench: Bench) -> None:
    name = bench.spool.name
    assert bench.append((1, "a")) is None
    bench.spool.discard(1)
    assert bench.append((5, "b")) is None
    assert bench.spool.name != name and [damage.lost for damage in bench.damages] == [1]
    assert len(set_aside(bench.path)) == 1
    bench.spool.close_reader()
    assert rows_soon(bench) == [5]


def test_a_spool_that_cannot_be_repaired_refuses_until_it_can(bench: Bench) -> None:
    assert bench.append((1, "a")) is None
    bench.path.unlink()
    bench.path.mkdir()
    bench.path.joinpath("in the way").touch()
    bench.path.parent.chmod(0o500)
    try:
        refused = bench.append((2, "b"))
    finally:
        bench.path.parent.chmod(0o700)
    if os.geteuid():  # root may write anywhere
        assert refused is not None
    assert bench.append((3, "c")) is None
    assert rows_soon(bench)[0] == 1


def test_a_reader_never_makes_a_file(bench: Bench) -> None:
    bench.path.unlink()
    with pytest.raises(StorageUnavailable):
        bench.spool.rows(0, 10)
    bench.stop()
