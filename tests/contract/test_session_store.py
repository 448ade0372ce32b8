"""Presence: one suite for every place where it is kept."""

from collections.abc import Callable

import pytest

from robodyne_rt.ports import Presence, SessionStore
from robodyne_rt.sessions.memory import MemorySessions

STORES: dict[str, Callable[[], SessionStore]] = {"memory": MemorySessions}


@pytest.fixture(params=STORES)
def sessions(request: pytest.FixtureRequest) -> SessionStore:
    return STORES[request.param]()


def presence(id: str, *, user: str = "kim", at: str = "2026-11-21T19:00:00Z", state: str = "online") -> Presence:
    return Presence(id, user, ["kitchen"], "", "node-0", at, at, state, ["orders"], 3600.0)


async def test_who_came_first_stands_first(sessions: SessionStore) -> None:
    await sessions.put(presence("b", at="2026-11-21T19:02:00Z"))
    await sessions.put(presence("a", at="2026-11-21T19:01:00Z"))
    assert [one.session_id for one in await sessions.all()] == ["a", "b"]


async def test_the_newest_state_counts(sessions: SessionStore) -> None:
    await sessions.put(presence("a"))
    await sessions.put(presence("a", state="away"))
    assert [one.presence for one in await sessions.all()] == ["away"]


async def test_who_is_removed_is_gone_and_removing_twice_is_no_error(sessions: SessionStore) -> None:
    await sessions.put(presence("a"))
    await sessions.remove("a")
    await sessions.remove("a")
    assert await sessions.all() == []
