"""The rehearsed year deletes what is old: where it deletes nothing, `scripts/year` shows nothing."""

from pathlib import Path

import pytest

from robodyne_rt.store.log import maintenance, retention
from tests import stores
from tests.faults import year


async def test_a_short_year_deletes_old_events_and_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (maintenance, "STEP_INTERVAL_S"),
        (retention, "STEP_INTERVAL_S"),
        (retention, "PASS_INTERVAL_S"),
        (retention, "JUMP_S"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    store = stores.make_store("sqlite", tmp_path, lambda: pytest.fail("no cluster is needed"))
    came = await year.run(store, tmp_path, minutes=0.1, per_second=100)
    assert came.deleted > 0
    assert came.kept == came.events - came.deleted
    assert came.kept >= came.events // 5, "90 of 365 days are kept"
