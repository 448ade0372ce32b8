"""A task that fails starts again, later each time; what is vital takes the server along; nothing fails in silence."""

import logging

import anyio
import pytest

from robodyne_rt.supervision import RECENT_S, STEADY_S, Away, Supervisor


class Over(BaseException):
    pass


class Bench:
    """A supervisor whose time is moved by its own waits."""

    def __init__(self, rounds: int) -> None:
        self.at = 100.0
        self.rounds = rounds
        self.waits: list[float] = []
        self.supervisor = Supervisor(sleep=self.sleep, now=lambda: self.at, jitter=lambda: 1.0)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.at += seconds
        if len(self.waits) == self.rounds:
            raise Over

    async def keep(self, *outcomes: Exception | float | None, **options: float) -> None:
        """Keep a task that raises, or runs for some seconds, or ends at once."""
        left = list(outcomes)

        async def run() -> None:
            outcome = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(outcome, Exception):
                raise outcome
            self.at += outcome or 0.0

        with pytest.raises(Over):
            await self.supervisor.keep("task", run, **options)


@pytest.mark.parametrize(
    "error",
    [OSError(5, "I/O"), ValueError("x"), UnicodeError("x"), KeyError("x"), RecursionError(), ExceptionGroup("x", [OSError()])],
)
async def test_a_task_that_fails_starts_again_with_growing_waits(error: Exception) -> None:
    bench = Bench(rounds=7)
    await bench.keep(error)
    assert bench.waits == [1, 2, 4, 8, 16, 30, 30]
    assert bench.supervisor.failures["task"] == 7


async def test_a_task_that_ends_by_itself_is_a_failure_too() -> None:
    bench = Bench(rounds=2)
    await bench.keep(None)
    assert bench.supervisor.failures["task"] == 2


async def test_who_ran_well_for_a_while_starts_over_with_the_short_wait() -> None:
    bench = Bench(rounds=4)
    await bench.keep(OSError(), OSError(), STEADY_S, OSError())
    assert bench.waits == [1, 2, 1, 2]


async def test_a_failure_is_logged_when_it_begins_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    await Bench(rounds=5).keep(ValueError("a"), ValueError("a"), ValueError("b"))
    said = [(record.levelname, record.action, bool(record.exc_info)) for record in caplog.records]  # type: ignore[attr-defined]
    assert said == [("ERROR", "task_failed", True)] * 2


async def test_what_is_away_is_a_warning_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rounds=3)
    await bench.keep(Away("no such port (yet)"))
    assert bench.supervisor.failures == {"task": 0} and bench.supervisor.failing == []
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "task: no such port (yet); trying again")


async def test_who_failed_is_named_for_a_minute() -> None:
    bench = Bench(rounds=1)
    await bench.keep(ValueError())
    assert bench.supervisor.failing == ["task"]
    bench.at += RECENT_S
    assert bench.supervisor.failing == []


async def test_what_is_done_once_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    supervisor, done = Supervisor(), []

    async def fail() -> None:
        raise KeyError("x")

    async def succeed(value: int) -> None:
        done.append(value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.once, "first", fail)
        tasks.start_soon(supervisor.once, "second", succeed, 7)
    assert done == [7] and supervisor.failures == {"first": 1, "second": 0}
    assert caplog.records[0].exc_info


async def test_what_is_vital_takes_the_others_along(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor()

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            tasks.start_soon(supervisor.vital, "writer", fail)
    assert raised.group_contains(ZeroDivisionError)
    assert caplog.records[0].levelno == logging.CRITICAL
