"""Live robots: telemetry never makes a robot jump back, silence is noticed once."""

import unicodedata

from robodyne_rt.core.robot_presence import RobotPresence


def robot(**fields: object) -> dict[str, object]:
    return {"id": 1, "robot_id": "a", "link": "ONLINE", "x": 0.0, "battery_level": 50.0, "last_seen": "t1"} | fields


def live() -> RobotPresence:
    return RobotPresence(offline_after_s=10, limit=3)


def test_newer_telemetry_lies_over_the_stored_state_and_older_does_not() -> None:
    robots = live()
    robots.stored(robot(), now=0.0)
    pushed = robots.telemetry("a", {"x": 5.0}, "t3", now=1.0)
    assert pushed is not None and (pushed["x"], pushed["battery_level"], pushed["last_seen"]) == (5.0, 50.0, "t3")
    assert robots.overlay(robot(x=2.0, last_seen="t2"))["x"] == 5.0
    assert robots.overlay(robot(x=7.0, last_seen="t4"))["x"] == 7.0
    robots.stored(robot(x=5.0, last_seen="t3"), now=0.0)
    assert robots.current() == []


def test_telemetry_is_due_once_a_second_and_only_the_newest() -> None:
    robots = live()
    robots.stored(robot(), now=0.0)
    robots.telemetry("a", {"x": 1.0}, "t2", now=1.0)
    assert robots.due(1.0) == [("a", {"x": 1.0}, "t2")]
    robots.telemetry("a", {"x": 2.0}, "t3", now=1.1)
    robots.telemetry("a", {"x": 3.0}, "t4", now=1.2)
    assert robots.due(1.9) == []
    assert robots.due(2.0) == [("a", {"x": 3.0}, "t4")]
    assert robots.due(9.0) == []


def test_a_silent_robot_vanishes_once_and_comes_back() -> None:
    robots = live()
    robots.stored(robot(), now=0.0)
    assert robots.vanished(9.9) == []
    assert robots.vanished(10.0) == ["a"]
    assert robots.vanished(20.0) == []
    robots.stored(robot(link="CONNECTIONBROKEN"), now=0.0)
    robots.telemetry("a", {"x": 1.0}, "t2", now=21.0)
    assert robots.due(21.0) != []
    robots.stored(robot(last_seen="t2"), now=0.0)
    assert robots.vanished(22.0) == []
    assert robots.vanished(31.0) == ["a"]


def test_a_robot_that_said_goodbye_does_not_vanish() -> None:
    robots = live()
    robots.stored(robot(link="OFFLINE"), now=0.0)
    assert robots.vanished(100.0) == []


def test_telemetry_of_an_unknown_robot_is_stored_but_not_pushed_and_bounded() -> None:
    robots = live()
    assert robots.telemetry("new", {"x": 1.0}, "t1", now=0.0) is None
    assert [name for name, _, _ in robots.due(0.0)] == ["new"]
    for name in "bcdef":
        robots.telemetry(name, {"x": 1.0}, "t1", now=0.0)
    assert len(robots.due(0.0)) == 2


def test_silence_is_counted_from_when_a_robot_was_first_known_however_long_the_server_runs() -> None:
    robots = live()
    robots.mark_seen("a", 500.0)
    robots.stored(robot(), now=500.1)
    robots.stored(robot(id=2, robot_id="foreign"), now=501.0)
    assert robots.vanished(509.9) == []
    assert robots.vanished(510.0) == ["a"]
    assert robots.vanished(511.0) == ["foreign"]


def test_time_in_which_we_stood_still_ourselves_is_not_counted() -> None:
    robots = live()
    robots.stored(robot(), now=0.0)
    robots.extend_deadlines(20.0)
    assert robots.vanished(29.0) == []
    assert robots.vanished(30.0) == ["a"]


def test_a_robot_is_one_in_whatever_form_its_row_is_written() -> None:
    name = "알바-1"
    stored = robot(robot_id=unicodedata.normalize("NFD", name))
    robots = live()
    robots.stored(stored, now=0.0)
    pushed = robots.telemetry(name, {"x": 5.0}, "t3", now=1.0)
    assert pushed is not None and (pushed["id"], pushed["robot_id"], pushed["x"]) == (1, stored["robot_id"], 5.0)
    assert robots.overlay(stored)["x"] == 5.0
    robots.mark_seen(name, now=9.0)
    assert robots.vanished(18.9) == []
    assert robots.vanished(19.0) == [name]
    robots.optimistic(stored)
    assert robots.vanished(19.0) == [name], "it spoke again, and is silent again"


def test_of_two_rows_of_one_name_the_composed_one_is_the_robot() -> None:
    composed = robot(id=1, robot_id="알바-1")
    other = robot(id=2, robot_id=unicodedata.normalize("NFD", "알바-1"), link="CONNECTIONBROKEN")
    for rows in ((composed, other), (other, composed)):
        robots = live()
        for row in rows:
            robots.stored(row, now=0.0)
        pushed = robots.telemetry("알바-1", {"x": 5.0}, "t3", now=1.0)
        assert pushed is not None and pushed["id"] == 1
        assert robots.vanished(11.0) == ["알바-1"]
