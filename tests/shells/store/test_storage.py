"""What people are told of the store as a whole."""

from types import SimpleNamespace
from typing import Any

import pytest

from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.storage import Storage


@pytest.mark.parametrize(("told", "words"), [("ok", ""), ("spooling", "3 messages in spool.db")])
def test_a_lock_of_a_moment_is_no_news(told: str, words: str) -> None:
    store: Any = SimpleNamespace(
        stats=WriterStats(),
        intake=SimpleNamespace(state="spooling", told_state=told, spool_backlog=3),
        is_stuck=lambda: False,
        _spool=SimpleNamespace(trouble=""),
        _listener=None,
        _spool_path="spool.db",
    )
    assert Storage.state.fget(store) == (told, words)  # type: ignore[attr-defined]
