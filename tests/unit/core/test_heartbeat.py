"""Pings leave in time, misses count in a row, and an answer clears them."""

from robodyne_rt.core.heartbeat import Heartbeat


def heartbeat() -> Heartbeat:
    return Heartbeat(0.0, interval_s=30, timeout_s=10, max_missed=3)


def run(beat: Heartbeat, until: float, answers: set[float] = frozenset()) -> list[tuple[float, str]]:  # type: ignore[assignment]
    """Follow `due` until the time is over; answer the pings sent at the times in `answers`."""
    decided: list[tuple[float, str]] = []
    while beat.due <= until:
        now = beat.due
        decision = beat.tick(now)
        if decision:
            decided.append((now, decision))
        if decision == "ping" and now in answers:
            beat.pong()
        if decision == "expired":
            break
    return decided


def test_three_misses_in_a_row_end_it_and_do_not_hurry_the_next_ping() -> None:
    assert run(heartbeat(), 200) == [(30, "ping"), (60, "ping"), (90, "ping"), (100, "expired")]


def test_an_answer_clears_the_misses() -> None:
    decided = run(heartbeat(), 200, answers={90})
    assert decided == [(30, "ping"), (60, "ping"), (90, "ping"), (120, "ping"), (150, "ping"), (180, "ping"), (190, "expired")]


def test_who_answers_lives() -> None:
    assert {what for _, what in run(heartbeat(), 3000, answers={float(at) for at in range(0, 3001, 30)})} == {"ping"}


def test_nothing_is_decided_before_it_is_due() -> None:
    beat = heartbeat()
    assert beat.tick(29.9) is None
    assert beat.tick(30) == "ping"
    assert beat.tick(39.9) is None


def test_a_timeout_longer_than_the_interval_still_counts_misses() -> None:
    beat = Heartbeat(0.0, interval_s=5, timeout_s=12, max_missed=2)
    assert run(beat, 60) == [(at, "ping") for at in range(5, 31, 5)] + [(32, "expired")]
