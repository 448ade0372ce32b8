"""Ids grow with running time, whatever the wall clock does, lie above all that are stored, and fit a JavaScript number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.core.ids import IdGenerator

WALL = 1_795_000_000.0


@given(st.lists(st.floats(0, 5), min_size=1, max_size=300), st.floats(-1e9, 1e11))
def test_ids_grow_and_stay_below_2_to_the_53(steps: list[float], wall: float) -> None:
    now = 100.0
    generator, ids = IdGenerator(node=3, wall=wall, now=now), []
    for step in steps:
        now += step
        ids.append(generator.next(now))
    assert ids == sorted(set(ids))
    assert all(0 < id < 2**53 for id in ids)


def test_nodes_never_give_the_same_id() -> None:
    first, second = (IdGenerator(node=node, wall=WALL, now=0.0) for node in (0, 1))
    ids = [generator.next(0.0) for _ in range(1000) for generator in (first, second)]
    assert len(set(ids)) == 2000


@pytest.mark.parametrize("wall", [0.0, -5.0, 189_302_400.0, 1_672_531_200.0])  # 1970, before it, 1976, 2023
def test_a_clock_before_the_origin_gives_small_ids_that_grow(wall: float) -> None:
    generator = IdGenerator(wall=wall, now=0.0)
    ids = [generator.next(seconds) for seconds in (0.0, 0.001, 5.0)]
    assert ids == sorted(set(ids)) and all(0 < id < 2**40 for id in ids)


def test_a_clock_that_was_years_ahead_is_not_followed_back() -> None:
    ahead = IdGenerator(wall=WALL + 3 * 365 * 86400, now=0.0)
    newest = [ahead.next(seconds) for seconds in range(25)][-1]
    again = IdGenerator(wall=WALL, now=500.0, above=newest)
    assert newest < again.next(500.0) < again.next(501.0)


@pytest.mark.parametrize("year", [2058, 2093, 2099, 9999])
def test_a_clock_in_the_far_future_leaves_room(year: int) -> None:
    newest = 0
    for boot in range(20):
        generator = IdGenerator(wall=(year - 1970) * 365.25 * 86400, now=float(boot), above=newest)
        newest = generator.next(float(boot))
    assert newest < 2**53 - 2**51


def test_a_box_that_was_off_for_years_goes_on_later_than_before() -> None:
    newest = IdGenerator(wall=WALL, now=0.0).next(0.0)
    after = IdGenerator(wall=WALL + 5 * 365 * 86400, now=0.0, above=newest).next(0.0)
    assert newest < after < IdGenerator(wall=WALL + 401 * 86400, now=0.0).next(0.0)


def test_it_stays_above_what_others_gave_and_goes_on_by_running_time() -> None:
    generator = IdGenerator(wall=WALL, now=0.0)
    foreign = generator.next(1.0) + 2**43
    generator.stay_above(foreign, 1.0)
    after = generator.next(1.0)
    assert foreign < after < foreign + (2 << 12)
    assert generator.next(11.0) - after == pytest.approx(10_000 << 12, rel=0.001)
    generator.stay_above(7, 11.0)  # small ones count as old
    assert generator.next(11.0) > after


def test_no_id_lies_below_the_bound() -> None:
    generator = IdGenerator(wall=WALL, now=0.0)
    for now in (0.0, 0.5, 3.0):
        bound = generator.bound(now)
        assert generator.next(now) >= bound
        assert generator.bound(now) >= bound


def test_an_id_that_others_chose_in_this_millisecond_is_passed() -> None:
    generator = IdGenerator(node=0, wall=WALL, now=0.0)
    other = generator.next(0.0) | 0xFFF
    generator.stay_above(other, 0.0)
    assert generator.next(0.0) > other
