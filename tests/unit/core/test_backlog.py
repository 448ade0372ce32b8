"""The backlog answers as a log would that forgets its oldest lines."""

from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.core.backlog import Backlog
from robodyne_rt.model.changes import Update

changes = st.lists(st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=4), max_size=30)


@given(changes, st.integers(1, 10))
def test_since_equals_what_the_whole_log_says(batches: list[list[tuple[int, bool]]], limit: int) -> None:
    backlog = Backlog("robots", offset=100, limit=limit)
    log: list[tuple[int, int, bool]] = []
    offset = 100
    for batch in batches:
        start = offset
        for key, exists in batch:
            offset += 1
            log.append((offset, key, exists))
        latest = dict(batch)
        backlog.add(
            Update(
                "robots",
                start,
                offset,
                {key: {"id": key, "at": offset} for key, exists in latest.items() if exists},
                [key for key, exists in latest.items() if not exists],
            )
        )
    assert backlog.since(99) is None
    assert backlog.since(offset + 1) is None
    for position in range(100, offset + 1):
        update = backlog.since(position)
        if update is None:
            assert position < backlog.floor
            continue
        expected = {key: exists for at, key, exists in log if at > position}
        # A position inside a batch brings the whole batch: more than asked for is never wrong.
        assert set(expected) <= set(update.entities) | set(update.removed)
        assert all(expected.get(key, True) for key in update.entities)
        assert (update.prev, update.offset) == (position, offset)


def test_what_is_forgotten_raises_the_floor() -> None:
    backlog = Backlog("robots", offset=0, limit=2)
    for number in range(1, 6):
        backlog.add(Update("robots", number - 1, number, {number: {"id": number}}))
    assert backlog.floor == 3
    assert backlog.since(2) is None
    update = backlog.since(3)
    assert update is not None and sorted(update.entities) == [4, 5]
