"""The server's own warnings and errors become system logs: bounded, without waiting, and never a loop."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from robodyne_rt.app.server_log import LINES_A_MINUTE, MAX_UNDER_WAY, MAX_WAITING, SAME_A_MINUTE, ServerLog
from robodyne_rt.logs import storing_lines
from robodyne_rt.ports import Outcome
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.testing.clock import HandClock

logger = logging.getLogger("robodyne_rt.some.part")


class Bench:
    """A server log, and a store that answers at once or not at all."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.log = ServerLog(clock=self.clock)
        self.lines: list[tuple[str, str, dict[str, Any], str]] = []
        self.open: list[Outcome] = []
        self.answers = True
        self.error: Exception | None = None

    def store_server_line(self, level: str, message: str, data: Any, at: str, outcome: Outcome) -> None:
        self.lines.append((level, message, json.loads(json.dumps(data)), at))
        if self.answers:
            outcome(None, self.error)
        else:
            self.open.append(outcome)

    def store(self) -> list[str]:
        """Store what waits; return the messages."""
        self.lines.clear()
        self.log.store_waiting(self)
        return [message for _, message, _, _ in self.lines]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    logging.getLogger().addHandler(made.log)
    yield made
    logging.getLogger().removeHandler(made.log)


def other_place(number: int, text: str = "line %d") -> None:
    """Log as if from a place in the code of its own."""
    logger.handle(logger.makeRecord(logger.name, logging.WARNING, "elsewhere.py", number, text, (number,), None))


def test_a_warning_and_an_error_are_stored_with_what_they_say(bench: Bench) -> None:
    logger.info("not this one")
    logger.warning("%s: %s; trying again", "serial port /dev/x", "no such port", extra={"action": "port_lost", "tries": 3})
    try:
        raise KeyError("robot")
    except KeyError:
        logger.exception("an outcome failed")
    bench.store()
    at = bench.lines[0][3]
    assert at.endswith("Z")
    assert bench.lines == [
        (
            "WARNING",
            "serial port /dev/x: no such port; trying again",
            {"logger": logger.name, "action": "port_lost", "tries": 3},
            at,
        ),
        ("ERROR", "an outcome failed", {"logger": logger.name, "error": "KeyError: 'robot'"}, at),
    ]


def test_of_other_peoples_loggers_errors_count_only(bench: Bench) -> None:
    logging.getLogger("asyncio").warning("Executing took 0.2 seconds")
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    assert bench.store() == ["Task exception was never retrieved"]


@pytest.mark.parametrize("text", ["a\0b", "a\x1b[2Jb", "\udcff", "x" * 100_000, "token=abc.def", ""])
def test_every_text_can_be_stored(bench: Bench, text: str) -> None:
    # Not by the logger: pytest would keep it, and cannot send a lone surrogate to another process.
    record = logger.makeRecord(
        logger.name,
        logging.ERROR,
        "x.py",
        1,
        "%s",
        (text,),
        None,
        extra={"action": text, "count": 10**400, "what": object()},
    )
    bench.log.handle(record)
    (message,) = bench.store()
    assert len(message) <= 2000 and "\0" not in message and "abc" not in message
    message.encode(), json.dumps(bench.lines[0][2]).encode()


def test_what_cannot_be_said_takes_nobody_along(bench: Bench) -> None:
    class Bad:
        def __str__(self) -> str:
            raise ZeroDivisionError

    was, logging.raiseExceptions = logging.raiseExceptions, False
    logger.handle(logger.makeRecord(logger.name, logging.ERROR, "x.py", 1, "%s", (Bad(),), None))
    logging.raiseExceptions = was
    assert bench.store() == []


def test_the_rate_is_bounded_and_what_is_skipped_is_counted_and_told(bench: Bench) -> None:
    for number in range(LINES_A_MINUTE + 7):
        other_place(number)
    assert len(bench.store()) == LINES_A_MINUTE and bench.log.skipped == 7
    bench.clock.advance(61)
    other_place(1)
    assert bench.store() == ["line 1"]
    assert bench.lines[0][2]["skipped"] == 7
    other_place(2)
    bench.store()
    assert "skipped" not in bench.lines[0][2]


def test_what_comes_again_and_again_leaves_room_for_what_comes_once(bench: Bench) -> None:
    for number in range(50):
        logger.warning("again %d", number)
    logger.error("once")
    assert bench.store() == [f"again {number}" for number in range(SAME_A_MINUTE)] + ["once"]


def test_nothing_piles_up_before_the_store_is_there(bench: Bench) -> None:
    for number in range(MAX_WAITING + 10):
        other_place(number)
    assert len(bench.log._waiting) == MAX_WAITING and bench.log.skipped == 10


def test_nothing_piles_up_where_the_store_does_not_answer(bench: Bench) -> None:
    bench.answers = False
    for number in range(MAX_UNDER_WAY + 5):
        other_place(number)
    assert len(bench.store()) == MAX_UNDER_WAY and bench.log.skipped == 5
    for outcome in bench.open:
        outcome(None, None)
    other_place(900)
    assert bench.store() == ["line 900"]


def test_what_the_store_refuses_is_not_tried_again(bench: Bench) -> None:
    bench.error = StorageUnavailable("away", retry_after_s=1)
    other_place(1)
    bench.store()
    assert bench.log.skipped == 1 and bench.store() == []


def test_a_line_that_storing_a_line_causes_is_not_stored(bench: Bench) -> None:
    with storing_lines(True):
        logger.error("cannot store")
    with storing_lines(False):
        logger.error("of others")
    assert bench.store() == ["of others"]
