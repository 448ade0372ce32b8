"""The spool's file: on the disk when it says so, in order, bounded, and named so that nobody takes it for another one."""

import queue
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.errors import StorageUnavailable
from robodyne_rt.store.intake.spool import Spool, SpooledRow


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
        self.thread = threading.Thread(target=self.spool.run, daemon=True)
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
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: NORMAL loses commits with the power
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_so_is_a_commit_of_the_connection_that_replaces_a_failed_one(bench: Bench) -> None:
    assert bench.append((1, "a"), (1, "again")) is not None  # a row number twice: the append fails as a whole
    assert bench.append((2, "b")) is None
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
    again._connection.close(), other._connection.close()


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


def test_a_file_that_cannot_be_read_says_so(bench: Bench) -> None:
    bench.append((1, "a"))
    sqlite3.connect(bench.path).execute("DROP TABLE spool")
    with pytest.raises(StorageUnavailable):
        bench.spool.rows(0, 10)
