"""Writes survive being kept as JSON: what comes out of the spool or a dead letter does what went in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.protocol import device_messages
from robodyne_rt.store.intake import write_registry as write_registry
from robodyne_rt.store.intake import writes
from robodyne_rt.store.intake.writes import EventWrite, MessageWrite, VanishedWrite

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
MESSAGES: dict[str, dict[str, Any]] = {
    "Hello": {"device_id": TEXT, "robots": st.lists(TEXT, max_size=2)},
    "Bye": {"robot_id": TEXT},
    "Albabot": {
        "robot_id": TEXT,
        "status": st.sampled_from(["IDLE", "busy"]),
        "battery_level": st.floats(0, 100),
        "world_x": st.floats(-9, 9),
        "world_y": st.floats(-9, 9),
    },
    "Cookbot": {"robot_id": TEXT, **{f"angle_{joint}": st.floats(-3, 3) for joint in range(1, 7)}},
    "Table": {"table_number": st.integers(1, 99), "customer_count": st.integers(0, 9)},
    "Event": {"type": st.just("CALL"), "table_number": st.integers(1, 99), "data": JSON},
    "Order": {
        "table_number": st.integers(1, 99),
        "items": st.lists(st.fixed_dictionaries({"name": TEXT, "options": JSON}), min_size=1, max_size=3),
    },
    "Ingredient": {"id": st.integers(1, 99), "count": st.floats(0, 99)},
    "Inventory": {"name": TEXT, "count": st.floats(0, 99)},
    "Face": {"table_id": st.integers(1, 99), "exist": st.booleans(), "nowdetected": st.integers(0, 5)},
    "Chatbot": {"question": TEXT, "response": TEXT, "robot_id": TEXT},
    "Log": {"message": TEXT, "data": JSON},
    "CommandResult": {"command_id": TEXT, "progress": st.floats(0, 100), "result": JSON},
}  # fmt: skip


@pytest.mark.parametrize("kind", MESSAGES)
@given(st.data())
def test_a_message_comes_back_as_it_was(kind: str, data: st.DataObject) -> None:
    body = data.draw(st.fixed_dictionaries({}, optional=MESSAGES[kind]))
    body |= {name: data.draw(strategy) for name, strategy in MESSAGES[kind].items() if name not in body}
    body |= data.draw(st.fixed_dictionaries({}, optional={"ts": st.sampled_from([1.8e9, 9e99, "2026-11-21T00:00:00Z"])}))
    if kind not in ("Ingredient",):
        body["id"] = data.draw(TEXT)
    parsed = device_messages.check({"msg_type": kind, **body})
    write = MessageWrite(parsed.message, "d", parsed.digest, "2026-11-21T00:00:00.000000Z", [5, 6, 7])
    again = write_registry.load(writes.dump(write))
    assert isinstance(again, MessageWrite)
    assert type(again.message) is type(write.message)
    before, after = write.message.model_dump(), again.message.model_dump()
    if before["ts"] == float("inf"):  # a clock fault is ignored either way
        before["ts"] = after["ts"]
    assert before == after
    assert (again.device, again.digest, again.heard_at, list(again.ids)) == ("d", parsed.digest, write.heard_at, [5, 6, 7])


def test_every_kind_of_message_is_tried_above() -> None:
    assert {*MESSAGES, "Telemetry", "CommandAck"} == set(device_messages.MESSAGES)


@pytest.mark.parametrize(
    "write",
    [VanishedWrite("alba-1", "2026-11-21T00:00:00.000000Z", 9), EventWrite(4, "ERROR", "ERROR", "text", {"a": [1]}, "now")],
)
def test_the_servers_own_writes_come_back_as_they_were(write: writes.Write) -> None:
    assert write_registry.load(writes.dump(write)).fields() == write.fields()
