"""Pings leave in time, misses count in a row, and an answer, also a late one, clears them."""

import pytest

from robodyne_rt.core.heartbeat import Heartbeat

WALL = 1_800_000_000.0
"""What a server's clock shows at second 0 of these tests."""


def heartbeat(interval_s: float = 30, timeout_s: float = 10, max_missed: int = 3) -> Heartbeat:
    return Heartbeat(0.0, interval_s=interval_s, timeout_s=timeout_s, max_missed=max_missed)


def run(beat: Heartbeat, until: float, *, answers_after: float | None = None) -> list[tuple[float, str]]:
    """Follow `due` until the time is over; each ping is answered `answers_after` seconds later."""
    decided: list[tuple[float, str]] = []
    pongs: list[tuple[float, float]] = []
    while True:
        if pongs and pongs[0][0] <= beat.due:
            now, timestamp = pongs.pop(0)
            beat.pong(now, timestamp)
            continue
        now = beat.due
        if now > until:
            return decided
        if decision := beat.tick(now, WALL + now):
            decided.append((now, decision))
        if decision == "expired":
            return decided
        if decision == "ping" and answers_after is not None:
            pongs.append((now + answers_after, WALL + now))


def test_silence_ends_it_after_two_minutes() -> None:
    assert run(heartbeat(), 300) == [(30, "ping"), (70, "ping"), (110, "ping"), (120, "expired")]


def test_with_5_and_3_silence_ends_it_after_24_seconds() -> None:
    assert run(heartbeat(5, 3), 60) == [(5, "ping"), (13, "ping"), (21, "ping"), (24, "expired")]


def test_a_timeout_longer_than_the_interval_counts_misses_as_well() -> None:
    assert run(heartbeat(5, 12, max_missed=2), 60) == [(5, "ping"), (22, "ping"), (34, "expired")]


def test_the_next_ping_leaves_an_interval_after_the_answer() -> None:
    assert run(heartbeat(), 100, answers_after=4) == [(30, "ping"), (64, "ping"), (98, "ping")]


@pytest.mark.parametrize("late_s", [9.9, 12, 39, 45, 75])
def test_who_answers_each_ping_late_lives(late_s: float) -> None:
    assert {what for _, what in run(heartbeat(), 5000, answers_after=late_s)} == {"ping"}


def test_who_answers_later_than_three_misses_take_does_not() -> None:
    assert run(heartbeat(), 5000, answers_after=95)[-1] == (120, "expired")


def test_a_late_answer_clears_the_misses_and_the_next_ping_waits_for_an_interval() -> None:
    beat = heartbeat()
    beat.tick(30, 1)
    beat.tick(40, 0)
    beat.tick(70, 2)
    beat.tick(80, 0)
    beat.pong(85, 1)
    assert beat.due == 115
    assert [beat.tick(*at) for at in ((115, 3), (125, 0), (155, 4), (165, 0), (195, 5))] == ["ping", None, "ping", None, "ping"]
    assert beat.tick(205, 0) == "expired"


def test_the_pong_of_a_ping_before_the_last_three_does_not_count() -> None:
    beat = heartbeat(max_missed=9)
    pings: list[float] = []
    while len(pings) < 4:
        now = beat.due
        if beat.tick(now, now) == "ping":
            pings.append(now)
    due = beat.due
    beat.pong(due - 1, pings[0])
    assert beat.due == due
    beat.pong(due - 1, pings[1])
    assert beat.due == due - 1 + 30


@pytest.mark.parametrize("timestamp", [29.0, 0.0, float("nan"), float("inf"), -1.0])
def test_a_pong_that_names_no_ping_of_ours_does_not_count(timestamp: float) -> None:
    beat = heartbeat(max_missed=1)
    beat.tick(30, 30.0)
    beat.pong(31, timestamp)
    assert beat.tick(40, 0) == "expired"


def test_one_ping_is_answered_once_and_an_older_pong_after_a_newer_one_is_none() -> None:
    beat = heartbeat()
    beat.tick(30, 1)
    beat.tick(40, 0)
    beat.tick(70, 2)
    beat.pong(72, 2)
    assert beat.due == 102
    for timestamp in (2, 1, None):
        beat.pong(90, timestamp)
        assert beat.due == 102


def test_a_pong_without_a_timestamp_stands_for_the_newest_ping() -> None:
    beat = heartbeat()
    beat.pong(10, None)
    assert beat.due == 30
    beat.tick(30, 1)
    beat.pong(33, None)
    assert beat.due == 63


def test_a_peer_may_print_fewer_digits() -> None:
    beat = heartbeat()
    beat.tick(30, 1764265200.123456)
    beat.pong(31, 1764265200.123)
    assert beat.due == 61


def test_nothing_is_decided_before_it_is_due() -> None:
    beat = heartbeat()
    assert beat.tick(29.9, 0) is None
    assert beat.tick(30, 0) == "ping"
    assert beat.tick(39.9, 0) is None
    assert beat.due == 40
