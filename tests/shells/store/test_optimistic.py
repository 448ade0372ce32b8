"""What is shown before it is stored is predicted by the code that stores it, then confirmed or taken back."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.model.changes import Update
from robodyne_rt.protocol.device_messages import parse
from robodyne_rt.protocol.errors import InvalidPayload
from robodyne_rt.store.intake.optimistic import OptimisticOverlay
from robodyne_rt.store.intake.prediction import Predictor
from robodyne_rt.store.intake.writes import MessageWrite, TelemetryWrite
from robodyne_rt.store.tables.device_writes import ids_needed
from robodyne_rt.testing.store import RecordingSink
from tests.stores import WINDOWS

ROBOT = {"id": 1, "robot_id": "a", "type": "ALBABOT", "name": "a", "status": "IDLE", "battery_level": 50, "link": "ONLINE"}
HEARD_AT = "2026-11-21T00:00:00.000000Z"


class Bench:
    def __init__(self, folder: Path) -> None:
        self.marker = folder / "spool.foretold"
        self.sink = RecordingSink()
        self.predictor = Predictor(windows=WINDOWS)
        self.overlay = OptimisticOverlay(sink=self.sink, predictor=self.predictor, marker=self.marker, lookups={})
        self.number = 0

    def write(self, **fields: Any) -> MessageWrite:
        self.number += 1
        message, digest = parse(json.dumps(fields).encode())
        ids = [1000 + self.number * 10 + index for index in range(ids_needed(message))]
        write = MessageWrite(message, "d", digest, HEARD_AT, ids)
        write.number = self.number
        return write

    def event(self, text: str = "x") -> MessageWrite:
        return self.write(msg_type="Event", type="INFO", description=text, id=text)

    def apply(self, *writes: MessageWrite) -> None:
        for write in writes:
            self.overlay.apply(write)

    def told(self) -> list[tuple[str, str, list[int]]]:
        told, self.sink.told = self.sink.told, []
        return told


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.overlay.close()


def test_a_write_is_shown_and_its_answer_predicted(bench: Bench) -> None:
    event = bench.event()
    bench.apply(event)
    assert bench.told() == [("show", "events", [event.ids[0]])]
    assert event.expected == ({"event_id": event.ids[0]}, None)
    assert not bench.overlay.is_empty


def test_a_marker_exists_while_screens_show_what_no_disk_has(bench: Bench) -> None:
    assert not bench.marker.exists()
    bench.apply(bench.event())
    bench.overlay.end_if_empty()
    assert bench.marker.exists()
    bench.overlay.confirm(1, [])
    bench.overlay.end_if_empty()
    assert not bench.marker.exists()


def test_what_the_database_brought_is_confirmed_and_what_it_did_not_bring_is_taken_back(bench: Bench) -> None:
    first, second, third = bench.event("1"), bench.event("2"), bench.event("3")
    bench.apply(first, second, third)
    bench.told()
    brought = Update("events", 0, 1, {first.ids[0]: {"id": first.ids[0]}})
    bench.overlay.confirm(2, [brought])
    assert bench.told() == [("confirm", "events", [first.ids[0]]), ("revert", "events", [second.ids[0]])]
    assert not bench.overlay.is_empty  # the third is still on its way
    bench.overlay.confirm(3, [])
    assert bench.overlay.is_empty


def test_an_entity_stays_until_its_newest_write_is_at_its_end(bench: Bench) -> None:
    bench.sink.entities["robots"] = {1: ROBOT}
    low, lower = (bench.write(msg_type="Albabot", robot_id="a", battery_level=level) for level in (40, 30))
    bench.apply(low, lower)
    bench.told()
    bench.overlay.confirm(1, [Update("robots", 0, 1, {1: ROBOT | {"battery_level": 40}})])
    assert bench.told() == []
    bench.overlay.confirm(2, [Update("robots", 1, 2, {1: ROBOT | {"battery_level": 30}})])
    assert bench.told() == [("confirm", "robots", [1])]


def test_what_is_stored_nowhere_is_taken_back_and_nothing_else(bench: Bench) -> None:
    first, second = bench.event("1"), bench.event("2")
    bench.apply(first, second)
    bench.told()
    bench.overlay.revert([second])
    assert bench.told() == [("revert", "events", [second.ids[0]])]
    assert not bench.overlay.is_empty
    bench.overlay.revert_entities([("events", first.ids[0])])
    assert bench.overlay.is_empty


def test_a_prediction_builds_on_what_is_shown_and_on_those_before(bench: Bench) -> None:
    bench.sink.entities["robots"] = {1: ROBOT}
    bench.overlay.lookups = {"menu_item": [{"id": 3, "name": "kimchi", "station": "stew"}]}
    placed = bench.write(msg_type="Order", table_number=4, items=[{"name": "kimchi"}], id="a")
    moved = bench.write(msg_type="Order", order_id=placed.ids[0], status="READY", id="b")
    bench.apply(placed, moved)
    assert placed.expected == moved.expected == ({"order_id": placed.ids[0]}, None)
    unknown = bench.write(msg_type="Order", order_id=99, status="READY", id="c")
    bench.apply(unknown)
    assert unknown.expected is not None and isinstance(unknown.expected[1], InvalidPayload)


def test_a_late_word_about_an_order_shows_nothing_and_is_answered_as_the_database_would(bench: Bench) -> None:
    bench.overlay.lookups = {"menu_item": [{"id": 3, "name": unicodedata.normalize("NFD", "김치"), "station": "stew"}]}
    placed = bench.write(msg_type="Order", table_number=4, items=[{"name": "김치"}], id="a")
    served = bench.write(msg_type="Order", order_id=placed.ids[0], status="SERVED", id="b")
    bench.apply(placed, served)
    bench.told()
    late = bench.write(msg_type="Order", order_id=placed.ids[0], status="READY", id="c")
    bench.apply(late)
    assert late.expected == ({"ignored": "stale", "current": "SERVED"}, None)
    assert bench.told() == []


def test_a_row_in_another_form_is_predicted_as_the_same_robot(bench: Bench) -> None:
    stored = unicodedata.normalize("NFD", "알바-1")
    bench.sink.entities["robots"] = {1: ROBOT | {"robot_id": stored}}
    low = bench.write(msg_type="Albabot", robot_id="알바-1", battery_level=5, world_x="?")
    bench.apply(low)
    assert bench.told() == [("show", "robots", [1])]
    assert low.expected == ({"left_out": ["world_x"]}, None)


def test_what_may_be_lost_is_not_shown(bench: Bench) -> None:
    telemetry = TelemetryWrite("a", {"x": 1.0}, HEARD_AT)
    bench.overlay.apply(telemetry)
    assert telemetry.expected == (None, None) and bench.told() == []
    assert not bench.marker.exists()


def test_it_can_be_predicted_without_being_shown(bench: Bench) -> None:
    event = bench.event()
    bench.overlay.apply(event, show=False)
    assert event.expected == ({"event_id": event.ids[0]}, None)
    assert bench.told() == [] and bench.overlay.is_empty
