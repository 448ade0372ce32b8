"""Ids grow with time, whatever the clock does, and fit a JavaScript number."""

from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.core.ids import IdGenerator

NOW_MS = 1_795_000_000_000


@given(st.lists(st.integers(-5000, 5000), min_size=1, max_size=300))
def test_ids_grow_and_stay_below_2_to_the_53(steps: list[int]) -> None:
    generator, now, given_ids = IdGenerator(node=3), NOW_MS, []
    for step in steps:
        now += step
        given_ids.append(generator.next(now))
    assert given_ids == sorted(set(given_ids))
    assert all(0 < id < 2**53 for id in given_ids)


def test_nodes_never_give_the_same_id() -> None:
    first, second = IdGenerator(node=0), IdGenerator(node=1)
    ids = [generator.next(NOW_MS) for _ in range(1000) for generator in (first, second)]
    assert len(set(ids)) == 2000
