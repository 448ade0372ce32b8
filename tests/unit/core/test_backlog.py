"""The backlog answers as a log would that forgets its oldest lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.core.backlog import Backlog
from robodyne_rt.model.changes import Update

changes = st.lists(st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=4), max_size=30)


@given(changes, st.integers(1, 10))
def test_since_equals_what_the_whole_log_says(batches: list[list[tuple[int, bool]]], limit: int) -> None:
    backlog = Backlog("robots", offset=100, limit=limit, limit_bytes=10_000)
    log: list[tuple[int, int, bool]] = []
    offset = 100
    for batch in batches:
        start = offset
        for key, exists in batch:
            offset += 1
            log.append((offset, key, exists))
        latest = dict(batch)
        entities = {key: {"id": key, "at": offset} for key, exists in latest.items() if exists}
        removed = [key for key, exists in latest.items() if not exists]
        backlog.add(Update("robots", start, offset, entities, removed), dict.fromkeys(entities, 10))
    assert backlog.changed_since(99) is None
    assert backlog.changed_since(offset + 1) is None
    for position in range(100, offset + 1):
        keys = backlog.changed_since(position)
        if keys is None:
            assert position < backlog.floor
            continue
        expected = {key: exists for at, key, exists in log if at > position}
        # A position inside a batch brings the whole batch: more than asked for is never wrong.
        assert set(expected) <= set(keys)
        assert all((backlog[key] is not None) == expected.get(key, backlog[key] is not None) for key in keys)


def full(limit: int = 100, limit_bytes: int = 10_000) -> Backlog:
    """Five changes of as many entities, 10 bytes each."""
    backlog = Backlog("robots", offset=0, limit=limit, limit_bytes=limit_bytes)
    for number in range(1, 6):
        backlog.add(Update("robots", number - 1, number, {number: {"id": number}}), {number: 10})
    return backlog


@pytest.mark.parametrize("bounds", [{"limit": 2}, {"limit_bytes": 29}])
def test_what_is_forgotten_raises_the_floor(bounds: dict[str, int]) -> None:
    backlog = full(**bounds)
    assert backlog.floor == 3 and backlog.size_bytes == 20
    assert backlog.changed_since(2) is None
    assert backlog.changed_since(3) == [5, 4]


def test_an_entity_that_changes_again_is_counted_once() -> None:
    backlog = full()
    backlog.add(Update("robots", 5, 6, {1: {"id": 1}}), {1: 30})
    assert backlog.size_bytes == 70 and backlog.changed_since(0) == [1, 5, 4, 3, 2]
    backlog.add(Update("robots", 6, 7, {}, [1]), {})
    assert backlog.size_bytes == 40 and backlog[1] is None


def test_what_was_given_up_is_nowhere_and_the_next_change_is_remembered() -> None:
    backlog = full()
    backlog.forget()
    assert backlog.size_bytes == 0 and backlog.changed_since(4) is None and backlog.changed_since(5) == []
    assert 5 not in backlog
    backlog.add(Update("robots", 5, 6, {9: {"id": 9}}), {9: 10})
    assert backlog.changed_since(5) == [9]


def test_a_correction_that_was_given_up_is_not_passed_over() -> None:
    backlog = full()
    backlog.correct(3, {"id": 3})
    assert backlog.changed_since(5) == [3]
    backlog.forget()
    assert backlog.changed_since(5) is None


def test_what_is_forgotten_counts_to_where_the_log_stands() -> None:
    backlog = Backlog("robots", offset=5, limit=10, limit_bytes=10_000)
    backlog.add(Update("robots", 5, 6, {1: {"id": 1}}, []), {1: 10})
    backlog.add(Update("robots", 6, 9, {}, []), {})
    backlog.forget()
    assert backlog.changed_since(6) is None and backlog.changed_since(9) == []
