"""A backup in time, the newest few kept, and nothing that a person may still need deleted."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.intake.backup_schedule import AGAIN_S, FIRST_S, BackupSchedule, remove_leftovers
from robodyne_rt.testing.clock import HandClock

HOUR_S = 3600.0


class Over(Exception):
    pass


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.database = folder / "robodyne.db"
        self.database.write_bytes(b"x" * 1000)
        self.folder = folder / "backups"
        self.folder.mkdir()
        self.slept: list[float] = []
        self.made = 0
        self.fails: Callable[[], None] = lambda: None
        self.schedule = BackupSchedule(
            self.make, database=self.database, folder=self.folder, every_h=24, keep=7, clock=self.clock, sleep=self.sleep
        )

    async def make(self) -> Any:
        self.fails()
        self.made += 1
        return {"path": str(self.backup(f"robodyne-{self.made:03d}-new.db", age_h=0))}

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)
        if len(self.slept) > 4:
            raise Over

    def backup(self, name: str, *, age_h: float) -> Path:
        return self.file(self.folder / name, age_h=age_h)

    def file(self, path: Path, *, age_h: float) -> Path:
        path.write_bytes(b"backup")
        at = self.clock.wall_at - age_h * HOUR_S
        os.utime(path, (at, at))
        return path

    async def run(self) -> list[float]:
        with pytest.raises(Over):
            await self.schedule.run()
        return self.slept


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_first_is_made_soon_and_then_one_a_day(bench: Bench) -> None:
    assert await bench.run() == [FIRST_S, *[24 * HOUR_S] * 4]
    assert bench.made == 4


async def test_after_a_restart_it_waits_for_the_rest_of_the_day(bench: Bench) -> None:
    bench.backup("robodyne-a.db", age_h=50)
    bench.backup("robodyne-b.db", age_h=10)
    assert (await bench.run())[0] == pytest.approx(14 * HOUR_S)


async def test_one_made_by_a_clock_that_was_ahead_says_nothing(bench: Bench) -> None:
    bench.backup("robodyne-a.db", age_h=-5000)
    assert (await bench.run())[0] == FIRST_S


async def test_without_twice_the_room_it_is_skipped_and_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1999, 2000]
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free.pop(0) if free else 10**9))
    assert (await bench.run())[:3] == [FIRST_S, AGAIN_S, 24 * HOUR_S]


async def test_one_that_fails_is_tried_again_and_deletes_nothing(bench: Bench) -> None:
    def fails() -> None:
        raise StorageUnavailable("the disk is full")

    bench.fails = fails
    for number in range(20):
        bench.backup(f"robodyne-{number}.db", age_h=number + 30)
    assert (await bench.run())[:3] == [FIRST_S, AGAIN_S, AGAIN_S]
    assert len(list(bench.folder.iterdir())) == 20


def test_the_newest_are_kept(bench: Bench) -> None:
    files = [bench.backup(f"robodyne-{number}.db", age_h=number) for number in range(10)]
    mine = bench.backup("before-the-party.db", age_h=5000)
    beside = {
        name: bench.file(bench.database.with_name(f"robodyne.db{name}"), age_h=age)
        for name, age in (
            (".replaced-a", 1), (".replaced-b", 2), (".replaced-c", 3), (".replaced-d", 4), (".replaced-d-wal", 4),
            (".before-v2", 9), (".before-v3", 8), (".before-v4", 7), (".rescued-1", 9000), (".aside-1", 9000),
        )
    }  # fmt: skip
    bench.schedule.clean_up(files[0])
    assert [file for file in files if file.exists()] == files[:7] and mine.exists()
    gone = {name for name, path in beside.items() if not path.exists()}
    assert gone == {".replaced-d", ".replaced-d-wal", ".before-v2"}
    assert bench.database.exists()


def test_backups_of_a_clock_that_was_ahead_do_not_push_out_the_new_one(bench: Bench) -> None:
    ahead = [bench.backup(f"robodyne-ahead-{number}.db", age_h=-5000 - number) for number in range(7)]
    made = bench.backup("robodyne-made.db", age_h=0)
    bench.schedule.clean_up(made)
    assert made.exists() and sum(file.exists() for file in ahead) == 6


def test_what_a_copy_that_was_broken_off_left_is_removed(bench: Bench) -> None:
    left = [
        bench.file(bench.database.with_name("robodyne.db.restored"), age_h=1),
        bench.file(bench.database.with_name("robodyne.db.before-v4.part"), age_h=1),
        bench.backup("robodyne-x.db.part", age_h=1),
    ]
    others = [
        bench.file(bench.database.with_name("till.part"), age_h=1),
        bench.file(bench.database.with_name("robodyne.db.rescued-1.part"), age_h=1),
    ]
    remove_leftovers(bench.database, bench.folder)
    assert not any(file.exists() for file in left) and all(file.exists() for file in others)


async def test_why_none_was_made_is_known_until_one_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError(28, "No space left on device")

    bench.fails = fails
    assert not await bench.schedule._make_one() and "No space" in bench.schedule.trouble
    bench.fails = lambda: None
    assert await bench.schedule._make_one() and bench.schedule.trouble == ""
    with monkeypatch.context() as full:
        full.setattr("robodyne_rt.store.intake.backup_schedule.shutil.disk_usage", lambda path: SimpleNamespace(free=1999))
        assert not await bench.schedule._make_one() and "are wanted" in bench.schedule.trouble
