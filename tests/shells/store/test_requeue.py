"""Dead letters: whatever they hold, people can look at them, try them again, and drop them."""

import pytest

from robodyne_rt.protocol.errors import ResourceNotFound
from robodyne_rt.store.intake import requeue
from robodyne_rt.store.tables import dead_letters
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from robodyne_rt.testing.database import MemoryDatabase

LETTER = {"kind": "message", "device": None, "message_id": None, "error": "e", "attempts": 3}
LETTER |= {"first_at": "2026-01-01T00:00:00Z", "last_at": "2026-01-01T00:00:00Z"}


@pytest.fixture
def tables() -> DeviceMessageWriter:
    tables = DeviceMessageWriter(MemoryDatabase().open_writer())
    tables.store_dead_letter(LETTER | {"id": 1, "payload": '{"kind":"torn'}, "")
    tables.store_dead_letter(LETTER | {"id": 2, "payload": '{"kind":"of a later version"}'}, "")
    return tables


def test_a_payload_that_is_no_json_is_shown_as_it_is(tables: DeviceMessageWriter) -> None:
    assert dead_letters.shown(tables.db, 1)["payload"] == '{"kind":"torn'
    assert dead_letters.shown(tables.db, 2)["payload"] == {"kind": "of a later version"}


def test_what_cannot_be_read_stays_with_one_attempt_more_and_keeps_no_other_from_its_turn(tables: DeviceMessageWriter) -> None:
    results = requeue.act(tables, "requeue", None, 0.0)
    assert [result["stored"] for result in results] == [False, False]
    assert [dead_letters.shown(tables.db, id)["attempts"] for id in (1, 2)] == [4, 4]


def test_what_cannot_be_read_can_be_dropped(tables: DeviceMessageWriter) -> None:
    requeue.act(tables, "drop", [1], 0.0)
    assert dead_letters.ids(tables.db) == [2]
    with pytest.raises(ResourceNotFound):
        dead_letters.shown(tables.db, 1)
