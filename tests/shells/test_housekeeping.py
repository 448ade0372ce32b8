"""Once an hour what is over is forgotten, and never by a clock that may be wrong."""

from typing import Any

import pytest

from robodyne_rt.app.housekeeping import INTERVAL_S, Housekeeping
from robodyne_rt.core.clock_watch import ClockWatch
from robodyne_rt.store.tables import tokens
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from robodyne_rt.testing.clock import HandClock
from robodyne_rt.testing.database import MemoryDatabase

DAY_S = 86400.0


class Over(Exception):
    pass


class Bench:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.watch = ClockWatch(noted_at=self.clock.wall_at, wall=self.clock.wall_at, now=self.clock.at)
        self.tables = DeviceMessageWriter(MemoryDatabase().open_writer())
        self.before: list[float] = []
        self.hours = 0
        self.jump_s = 0.0
        self.fails = False
        self.kept = Housekeeping(
            sessions=self, call=self.call, session_ttl_s=DAY_S, clock=self.clock, clock_watch=self.watch, sleep=self.sleep
        )

    def forget(self, before: float) -> None:
        self.before.append(before)

    async def call(self, function: Any) -> Any:
        if self.fails:
            raise OSError("away")
        return function(self.tables)

    async def sleep(self, seconds: float) -> None:
        if self.hours == 0:
            raise Over
        self.hours -= 1
        self.clock.advance(seconds + 1)
        self.clock.wall_at += self.jump_s
        self.jump_s = 0.0
        self.watch.tick(wall=self.clock.wall_at, now=self.clock.at, is_synchronised=False)

    async def run(self, hours: int) -> None:
        self.hours = hours
        with pytest.raises(Over):
            await self.kept.run()

    def add_token(self, *, days: float) -> None:
        self.tables.db.execute(
            "INSERT INTO token(kind, user_name, created_at, expires_at) VALUES ('API', 'k', '2026-01-01T00:00:00Z', ?)",
            (f"20{26 + int(days // 365)}-12-31T00:00:00Z",),
        )

    def tokens(self) -> int:
        return int(self.tables.db.execute("SELECT count(*) FROM token").fetchone()[0])


async def test_it_forgets_once_an_hour() -> None:
    bench = Bench()
    await bench.run(3)
    assert len(bench.before) == 3 and bench.before[0] == bench.clock.wall_at - 2 * (INTERVAL_S + 1) - DAY_S


async def test_a_clock_that_jumps_by_500_days_costs_no_screen_its_token() -> None:
    bench = Bench()
    bench.add_token(days=0)
    assert tokens.forget_expired(bench.tables.db, now=bench.clock.wall_at) == 0
    bench.jump_s = 500 * DAY_S
    await bench.run(5)
    assert bench.tokens() == 1 and bench.before == []


async def test_a_failure_is_no_reason_to_stop() -> None:
    bench = Bench()
    bench.fails = True
    await bench.run(2)
    assert len(bench.before) == 2
