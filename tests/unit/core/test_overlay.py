"""What is shown over the stored state, until it is confirmed or reverted."""

from typing import Any

from robodyne_rt.core.overlay import Overlay
from robodyne_rt.core.robot_presence import RobotPresence
from robodyne_rt.model.changes import OptimisticChange


def change(id: int, **fields: Any) -> OptimisticChange:
    return OptimisticChange({"id": id, "status": "old", "note": "old"} | fields, fields)


def test_only_the_fields_of_a_change_are_laid_over_a_stored_entity() -> None:
    overlay = Overlay(limit=None, robot_presence=None)
    overlay.show({1: change(1, status="new")})
    assert overlay.over({"id": 1, "status": "old", "note": "newer"}) == {"id": 1, "status": "new", "note": "newer"}
    other = {"id": 2, "status": "old"}
    assert overlay.over(other) is other


def test_what_ended_is_laid_over_nothing() -> None:
    overlay = Overlay(limit=None, robot_presence=None)
    overlay.show({1: change(1, status="new"), 2: change(2, status="new")})
    overlay.end([1, 9])
    assert overlay.over({"id": 1, "status": "old"})["status"] == "old"
    assert [*overlay] == [2] and overlay.unconfirmed(1) is None
    assert overlay.unconfirmed(2) == {"id": 2, "status": "new", "note": "old"}


def test_entities_that_are_not_stored_yet_stand_behind_the_stored_ones() -> None:
    overlay = Overlay(limit=None, robot_presence=None)
    overlay.show({3: change(3, status="new"), 1: change(1, status="new")})
    shown = overlay.over_all([{"id": 1, "status": "old"}, {"id": 2, "status": "old"}])
    assert [(entity["id"], entity["status"]) for entity in shown] == [(1, "new"), (2, "old"), (3, "new")]
    assert [entity["id"] for entity in overlay.alone(telemetry=True)] == [3, 1]


def test_in_a_storm_the_newest_are_shown() -> None:
    overlay = Overlay(limit=2, robot_presence=None)
    for id in range(5):
        overlay.show({id: change(id)})
    assert [*overlay] == [3, 4]


def test_every_change_of_what_is_shown_has_a_version_of_its_own() -> None:
    presence = RobotPresence(offline_after_s=10, limit=10)
    overlay = Overlay(limit=None, robot_presence=presence)
    versions = [overlay.version]
    robot = {"id": 1, "robot_id": "alba-1", "link": "ONLINE", "last_seen": "2026-01-01T00:00:00.000000Z", "x": 0.0}
    presence.stored(robot, 0.0)
    overlay.show({1: OptimisticChange(robot | {"x": 1.0}, {"x": 1.0})})
    versions.append(overlay.version)
    presence.telemetry("alba-1", {"x": 2.0}, "2026-01-01T00:00:01.000000Z", 0.1)
    versions.append(overlay.version)
    overlay.end([1])
    versions.append(overlay.version)
    assert versions == sorted(set(versions))


def test_telemetry_lies_over_an_unconfirmed_change() -> None:
    presence = RobotPresence(offline_after_s=10, limit=10)
    overlay = Overlay(limit=None, robot_presence=presence)
    robot = {"id": 1, "robot_id": "alba-1", "link": "ONLINE", "last_seen": "2026-01-01T00:00:00.000000Z", "x": 0.0}
    presence.stored(robot, 0.0)
    presence.telemetry("alba-1", {"x": 2.0}, "2026-01-01T00:00:01.000000Z", 0.1)
    overlay.show({1: OptimisticChange(robot | {"status": "IDLE", "x": 1.0}, {"status": "IDLE", "x": 1.0})})
    seen = overlay.over(robot)
    assert (seen["status"], seen["x"]) == ("IDLE", 2.0)
    assert overlay.alone(telemetry=False) == [seen]
    overlay.end([1])
    assert overlay.alone(telemetry=False) == []
    assert [entity["x"] for entity in overlay.alone(telemetry=True)] == [2.0]
