"""Wires share the loop's time."""

from robodyne_rt.devices.turns import PAUSE_S, READING_BURST_S, READING_SHARE, TURN_S, ReadingTurns
from robodyne_rt.testing.clock import HandClock, HandLoop


class PretendWire:
    """Has so many budgets of input, each of which takes so long."""

    def __init__(self, log: list[str], clock: HandClock, name: str, *, budgets: int = 1, takes_s: float = 0.0) -> None:
        self.breaks = self.waits_for_store = False
        self.log, self.clock, self.name, self.budgets, self.takes_s = log, clock, name, budgets, takes_s

    def take_turn(self) -> bool:
        self.clock.advance(self.takes_s)
        self.log.append(self.name)
        self.budgets -= 1
        if self.breaks:
            raise ZeroDivisionError
        return self.budgets > 0

    def cut(self) -> None:
        self.log.append(f"{self.name} is cut")


class Bench:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.loop = HandLoop(self.clock)
        self.turns = ReadingTurns(self.loop)  # type: ignore[arg-type]
        self.log: list[str] = []

    def wire(self, name: str, **options: float) -> PretendWire:
        return PretendWire(self.log, self.clock, name, **options)  # type: ignore[arg-type]


def test_a_wire_is_served_at_once() -> None:
    bench = Bench()
    bench.turns.ask(bench.wire("a"))
    assert bench.log == ["a"]


def test_what_one_wire_has_left_waits_for_the_next_turn_of_the_loop_and_others_go_between() -> None:
    bench = Bench()
    bench.turns.ask(bench.wire("flood", budgets=3))
    bench.turns.ask(bench.wire("bell"))
    assert bench.log == ["flood", "bell"]
    bench.loop.turn_once()
    assert bench.log == ["flood", "bell", "flood"]
    bench.loop.turn()
    assert bench.log == ["flood", "bell", "flood", "flood"]


def test_two_that_flood_take_turns() -> None:
    bench = Bench()
    for name in ("a", "b"):
        bench.turns.ask(bench.wire(name, budgets=2))
    bench.loop.turn()
    assert bench.log == ["a", "b", "a", "b"]


def test_wires_that_took_their_part_of_the_time_rest_and_a_new_one_does_not_wait_for_them() -> None:
    bench = Bench()
    bench.turns.ask(bench.wire("flood", budgets=100, takes_s=READING_BURST_S))
    served = len(bench.log)
    bench.loop.turn()
    while len(bench.log) > served:  # until it rests
        served = len(bench.log)
        bench.loop.turn()
    assert served <= 3
    bench.turns.ask(bench.wire("bell"))
    assert bench.log[-1] == "bell"
    bench.loop.turn()
    assert len(bench.log) == served + 1
    bench.loop.advance(READING_BURST_S * 2 / READING_SHARE)
    assert len(bench.log) > served + 1


def test_in_the_long_run_reading_takes_its_share_of_the_time_only() -> None:
    bench = Bench()
    started = bench.clock.now()
    flood = bench.wire("flood", budgets=1_000_000, takes_s=0.0004)
    bench.turns.ask(flood)
    bench.loop.advance(10.0)
    worked_s = len(bench.log) * 0.0004
    share = worked_s / (bench.clock.now() - started)
    assert READING_SHARE * 0.8 < share < READING_SHARE * 1.1


def test_a_wire_that_was_served_waits_for_the_end_of_the_rest() -> None:
    bench = Bench()
    flood = bench.wire("flood", budgets=1, takes_s=READING_BURST_S * 4)
    bench.turns.ask(flood)
    flood.budgets = 1
    bench.turns.ask(flood)
    assert bench.log == ["flood"]
    bench.loop.advance(READING_BURST_S * 5 / READING_SHARE)
    assert bench.log == ["flood", "flood"]


def test_those_whose_turn_did_not_come_before_the_rest_come_first_after_it() -> None:
    bench = Bench()
    for name in ("a", "b", "c"):
        bench.turns.ask(bench.wire(name, budgets=5))
    for wire in list(bench.turns._waiting):
        wire.takes_s = READING_BURST_S * 2  # type: ignore[attr-defined]
    bench.log.clear()
    bench.loop.turn()
    assert bench.log == ["a"]
    bench.loop.advance(READING_BURST_S * 3 / READING_SHARE)
    assert bench.log[1] == "b"


def test_of_a_crowd_that_comes_at_once_so_many_are_served_in_a_turn_as_time_allows() -> None:
    bench = Bench()
    for number in range(100):
        bench.turns.ask(bench.wire(str(number), takes_s=TURN_S / 10))
    served = len(bench.log)
    assert 9 <= served <= 11
    bench.loop.advance(1.0)
    assert bench.log == [str(number) for number in range(100)]


def test_what_comes_after_a_pause_is_served_at_once_again() -> None:
    bench = Bench()
    bench.turns.ask(bench.wire("long", takes_s=TURN_S * 2))
    bench.turns.ask(bench.wire("same turn"))
    assert bench.log == ["long"]
    bench.clock.advance(PAUSE_S * 1.1)
    bench.turns.ask(bench.wire("later"))
    assert bench.log == ["long", "later"]


def test_a_wire_whose_turn_fails_is_cut_and_takes_nobody_along() -> None:
    bench = Bench()
    wires = [bench.wire(name, budgets=2) for name in ("a", "broken", "c")]
    for wire in wires:
        bench.turns.ask(wire)
    bench.log.clear()
    wires[1].breaks = True
    bench.loop.turn()
    assert bench.log == ["a", "broken", "broken is cut", "c"]


def test_what_waits_for_the_store_is_bounded_there_and_does_not_rest() -> None:
    bench = Bench()
    device = bench.wire("device", takes_s=READING_BURST_S * 4)
    device.waits_for_store = True
    for _ in range(5):
        bench.turns.ask(device)
        bench.clock.advance(PAUSE_S * 1.1)
    assert bench.log == ["device"] * 5


def test_a_wire_that_is_gone_gets_no_turn() -> None:
    bench = Bench()
    flood = bench.wire("flood", budgets=2)
    bench.turns.ask(flood)
    bench.turns.forget(flood)
    bench.loop.turn()
    assert bench.log == ["flood"]


def test_who_was_not_served_since_the_last_rest_does_not_wait_for_this_one() -> None:
    bench = Bench()
    bell = bench.wire("bell")
    bench.turns.ask(bell)
    bench.turns.ask(bench.wire("flood", takes_s=READING_BURST_S * 4))
    bench.loop.advance(READING_BURST_S * 5 / READING_SHARE)
    bench.turns.ask(bench.wire("another flood", takes_s=READING_BURST_S * 1.9))
    bell.budgets = 1
    bench.turns.ask(bell)
    assert bench.log == ["bell", "flood", "another flood", "bell"]
