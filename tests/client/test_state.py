"""A client's state follows the rules of SPEC section 3, whatever comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.client.state import STATUS_KEY, Change, Gap, TopicState


def update(*ids: int, prev: int, offset: int, removed: tuple[int, ...] = ()) -> dict[str, object]:
    message: dict[str, object] = {"type": "update", "topic": "robots", "data": [{"id": id, "at": offset} for id in ids]}
    return message | {"prev": prev, "offset": offset} | ({"removed": list(removed)} if removed else {})


def snapshot(*ids: int, offset: int) -> dict[str, object]:
    return update(*ids, prev=0, offset=offset) | {"snapshot": True, "epoch": "e"}


def test_a_snapshot_replaces_all() -> None:
    state = TopicState()
    state.apply(snapshot(1, 2, offset=4))
    change = state.apply(snapshot(3, offset=2))
    assert set(state.entities) == {3} and state.position() == {"since": 2, "epoch": "e"}
    assert change.snapshot and set(change.changed) == {3}


def test_an_update_lays_over_and_removes() -> None:
    state = TopicState()
    state.apply(snapshot(1, 2, offset=4))
    state.apply(update(2, 3, prev=4, offset=6, removed=(1,)))
    assert {key: entity["at"] for key, entity in state.entities.items()} == {2: 6, 3: 6}


def test_an_update_that_does_not_follow_is_a_gap_and_changes_nothing() -> None:
    state = TopicState()
    with pytest.raises(Gap):
        state.apply(update(1, prev=0, offset=1))
    state.apply(snapshot(1, offset=4))
    with pytest.raises(Gap):
        state.apply(update(2, prev=5, offset=6))
    assert set(state.entities) == {1} and state.offset == 4


def test_what_comes_twice_is_the_same_again() -> None:
    state = TopicState()
    state.apply(snapshot(1, offset=4))
    state.apply(update(2, prev=2, offset=5))
    assert set(state.entities) == {1, 2} and state.offset == 5


def test_volatile_moves_no_offset() -> None:
    state = TopicState()
    state.apply(snapshot(1, offset=4))
    change = state.apply({"type": "update", "topic": "robots", "data": [{"id": 1, "at": 9}], "volatile": True})
    assert change.volatile and state.offset == 4 and state.entities[1]["at"] == 9


def test_status_is_one_object() -> None:
    state = TopicState()
    state.apply({"type": "update", "topic": "status", "data": {"robots": 3}, "snapshot": True, "offset": 1, "epoch": "e"})
    assert state.entities == {STATUS_KEY: {"robots": 3}}


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(1, 5)), st.sets(st.integers(1, 5))), max_size=12))
def test_who_reads_slowly_ends_with_the_same_state(steps: list[tuple[bool, set[int], set[int]]]) -> None:
    state = TopicState()
    state.apply(snapshot(1, 2, offset=0))
    replica = dict(state.entities)
    pending: Change | None = None
    for number, (is_snapshot, changed, removed) in enumerate(steps, start=1):
        if is_snapshot:
            change = state.apply(snapshot(*changed, offset=number))
        else:
            change = state.apply(update(*changed, prev=number - 1, offset=number, removed=tuple(removed - changed)))
        if pending is None:
            pending = Change(dict(change.changed), list(change.removed), change.snapshot, change.volatile)
        else:
            pending.merge(change)
    if pending is not None:
        if pending.snapshot:
            replica.clear()
        for key in pending.removed:
            replica.pop(key, None)
        replica |= pending.changed
    assert replica == state.entities
