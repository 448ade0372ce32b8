"""Time as the server tells it: stamps that differ, a clock that is put back, and one that cannot be meant."""

import time

import anyio
import pytest

from robodyne_rt.model import times
from robodyne_rt.ports import Clock

NOW = 1_796_000_000.0


class Machine:
    """A machine's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = NOW
        self.now = 50.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "time_ns", lambda: int(self.wall * 1e9))
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_two_stamps_never_bear_the_same_time(machine: Machine) -> None:
    clock = Clock()
    stamps = [clock.stamp() for _ in range(100)]
    assert stamps == sorted(set(stamps))


def test_a_clock_that_is_put_back_is_followed(machine: Machine) -> None:
    clock = Clock()
    before = clock.stamp()
    machine.wall -= 3600
    after = clock.stamp()
    assert times.to_epoch_s(before) - times.to_epoch_s(after) == pytest.approx(3600)
    machine.wall += 5
    assert times.to_epoch_s(clock.stamp()) - times.to_epoch_s(after) == pytest.approx(5)


def test_a_little_back_is_no_reason_for_two_that_are_alike(machine: Machine) -> None:
    clock = Clock()
    stamps = [clock.stamp()]
    for _ in range(5):
        machine.wall -= 0.1
        stamps.append(clock.stamp())
    assert stamps == sorted(set(stamps))


def test_a_time_before_this_program_was_made_goes_on_from_the_note(machine: Machine) -> None:
    machine.wall = 5.0
    clock = Clock(noted_at=NOW)
    machine.now += 60
    assert clock.wall() == NOW + 60
    assert times.to_epoch_s(clock.stamp()) == pytest.approx(NOW + 60)
    machine.wall = NOW + 7000  # somebody set it
    assert clock.wall() == NOW + 7000
    assert times.to_epoch_s(clock.stamp()) == pytest.approx(NOW + 7000)


def test_without_a_note_it_is_what_the_machine_says(machine: Machine) -> None:
    machine.wall = 5.0
    assert Clock().wall() >= 5.0


async def test_ticks_of_several_tasks_fall_together(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        machine.now += seconds + 0.004

    monkeypatch.setattr(anyio, "sleep", sleep)
    clock = Clock()
    machine.now = 50.037
    assert await clock.tick(0.1) == pytest.approx(0.004)
    assert machine.now == pytest.approx(50.104)
    machine.now = 50.199  # a sleep that ended a little early is no tick of its own
    await clock.tick(0.1)
    assert machine.now == pytest.approx(50.304)
    machine.now = 70.0
    assert await clock.tick(0.5) == pytest.approx(0.004)
    assert machine.now == pytest.approx(70.504)
