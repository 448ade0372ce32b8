"""Device messages are checked field by field, and answered in the words of the protocol."""

import json
import unicodedata
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.protocol import device_messages
from robodyne_rt.protocol.device_messages import clock_is_off, failure, parse, success
from robodyne_rt.protocol.errors import BadRequest, InvalidPayload, RobodyneError, StorageUnavailable, UnknownMessageType


def read(data: bytes) -> Any:
    return parse(data).message


def message(**fields: Any) -> Any:
    return read(json.dumps(fields).encode())


def test_an_albabots_pose_is_the_worlds_else_the_global_else_the_pinkys() -> None:
    both = message(msg_type="Albabot", robot_id="a", world_x=1, world_y=2, world_yaw=0.5, pinky_x=9, pinky_y=9)
    assert both.fields() == {"x": 1, "y": 2, "yaw": 0.5}
    assert message(msg_type="Albabot", robot_id="a", global_x=3, global_y=4, pinky_x=9, pinky_y=9).fields() == {"x": 3, "y": 4}
    assert message(msg_type="Albabot", robot_id="a", pinky_x=5, pinky_y=6, world_x=1).fields() == {"x": 5, "y": 6}


def test_a_cookbots_joints_count_only_when_all_six_are_there() -> None:
    angles = {f"angle_{joint}": joint / 10 for joint in range(1, 7)}
    assert json.loads(message(msg_type="Cookbot", robot_id="c", **angles).fields()["joints"]) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    del angles["angle_6"]
    assert "joints" not in message(msg_type="Cookbot", robot_id="c", **angles).fields()


def test_the_older_words_of_the_managers_are_understood() -> None:
    old = message(msg_type="Albabot", robot_id=7, status="busy")
    assert (old.robot_id, old.fields()["status"]) == ("7", "SERVING")


def test_a_number_under_id_names_the_ingredient_and_a_text_the_message() -> None:
    assert (message(msg_type="Ingredient", id=3, count=4).key, message(msg_type="Ingredient", id=3, count=4).id) == (3, None)
    named = message(msg_type="Inventory", id="m1", name="rice", count=4)
    assert (named.key, named.id, named.name) == (None, "m1", "rice")


@pytest.mark.parametrize(
    ("kind", "fields", "severity"),
    [("CALL", {}, "INFO"), ("EMERGENCY", {}, "CRITICAL"), ("ERROR", {}, "ERROR"), ("ERROR", {"severity": "info"}, "INFO")],
)
def test_an_events_severity_is_given_or_follows_its_type(kind: str, fields: dict[str, str], severity: str) -> None:
    assert message(msg_type="Event", type=kind, **fields).severity_word() == severity


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"msg_type": "Albabot"}, "robot_id"),
        ({"msg_type": "Albabot", "robot_id": ""}, "robot_id"),
        ({"msg_type": "Albabot", "robot_id": "a\nb"}, "robot_id"),
        ({"msg_type": "Albabot", "robot_id": "a", "status": "FLYING"}, "status"),
        ({"msg_type": "Albabot", "robot_id": True}, "robot_id"),
        ({"msg_type": "Albabot", "robot_id": "a", "status": "FLYING", "battery_level": 101}, "status"),
        ({"msg_type": "Albabot", "battery_level": 101}, "robot_id"),
        ({"msg_type": "Albabot", "robot_id": 7.0, "status": "FLYING"}, "status"),
        ({"msg_type": "Albabot", "robot_id": "a", "ts": "yesterday"}, "ts"),
        ({"msg_type": "Albabot", "robot_id": "a", "ts": True}, "ts"),
        ({"msg_type": "Table", "table_number": 0}, "table_number"),
        ({"msg_type": "Event"}, "type"),
        ({"msg_type": "Event", "type": "no good"}, "type"),
        ({"msg_type": "Event", "type": "CALL", "id": ""}, "id"),
        ({"msg_type": "Event", "type": "CALL", "id": True}, "id"),
        ({"msg_type": "Event", "type": "CALL", "id": "x" * 201}, "id"),
        ({"msg_type": "Order", "table_number": 1, "items": []}, "table_number and items"),
        ({"msg_type": "Order", "table_number": 1, "items": [{"quantity": 1}]}, "menu_item_id or name"),
        ({"msg_type": "Order", "order_id": 5}, "status"),
        ({"msg_type": "Ingredient", "count": 1}, "id or name"),
        ({"msg_type": "Ingredient", "count": 1, "id": True}, "id"),
        ({"msg_type": "Face", "table_id": 1, "exist": True, "reliability": "NaN"}, "reliability"),
        ({"msg_type": "CommandAck", "command_id": "c", "progress": "NaN"}, "progress"),
        ({"msg_type": "Ingredient", "name": "rice", "count": -1}, "count"),
        ({"msg_type": "Log", "message": ""}, "message"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidPayload, match=field):
        message(**fields)


@pytest.mark.parametrize("frame", [b"", b"{", b"[]", b"7", b'"x"', b"\xff\xfe{}", b'{"a":NaN}', b"[" * 60_000])
def test_what_is_no_object_is_a_bad_request(frame: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(frame)


@pytest.mark.parametrize("kind", ["", "albabot", 7, None, [], "X" * 10_000])
def test_an_unknown_type_is_named_shortly(kind: Any) -> None:
    with pytest.raises(UnknownMessageType) as error:
        message(msg_type=kind, id="m1")
    assert len(error.value.text) < 400
    assert error.value.details == {"id": "m1"}


def test_bodies_are_compared_without_id_and_ts_and_whatever_their_order() -> None:
    first = parse(b'{"msg_type":"Event","type":"CALL","id":"1","ts":1795000000,"data":{"a":1,"b":2}}')
    again = parse(b'{"data":{"b":2,"a":1},"id":"2","type":"CALL","msg_type":"Event"}')
    other = parse(b'{"msg_type":"Event","type":"CALL","id":"1","data":{"a":1,"b":3}}')
    assert first.digest == again.digest != other.digest


def test_the_device_is_hellos_else_the_robots_else_the_tables_else_the_peers() -> None:
    robot = message(msg_type="Albabot", robot_id="a")
    assert (robot.device("me", "peer"), robot.device(None, "peer")) == ("me", "a")
    assert message(msg_type="Table", table_number=4).device(None, "peer") == "table:4"
    assert message(msg_type="Log", message="x").device(None, "peer") == "peer"


@pytest.mark.parametrize(("ahead", "off"), [(0, False), (59, False), (61, True), (-86000, False), (-86500, True)])
def test_a_ts_far_from_the_servers_time_is_a_clock_fault(ahead: float, off: bool) -> None:
    assert clock_is_off(1_795_000_000 + ahead, 1_795_000_000) is off


@pytest.mark.parametrize("ts", [-1, 1e300, "1970-01-01T00:00:00Z", "2026-11-21T19:00:00+09:00", 0])
def test_an_impossible_ts_is_no_bad_message(ts: Any) -> None:
    assert message(msg_type="Albabot", robot_id="a", ts=ts).ts is not None


def test_answers_carry_the_words_of_the_protocol() -> None:
    assert json.loads(success("stored", "1", {"event_id": 5})) == {
        "status": "success",
        "message": "stored",
        "details": {"event_id": 5},
        "id": "1",
    }
    assert json.loads(failure(StorageUnavailable("full", retry_after_s=5), "1")) == {
        "status": "error",
        "message": "full",
        "error_code": "STORAGE_UNAVAILABLE",
        "details": {"retry_after_s": 5},
        "id": "1",
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)
FIELDS = """id ts robot_id status type table_number items order_id name count message data table_id exist question
command_id"""
field_names = st.sampled_from(FIELDS.split())


@given(st.sampled_from([*device_messages.MESSAGES]), st.dictionaries(field_names, json_values, max_size=6))
def test_any_json_is_taken_or_refused_by_meaning(kind: str, fields: dict[str, Any]) -> None:
    try:
        device_messages.check({"msg_type": kind, **fields})
    except RobodyneError as error:
        assert error.device_code in ("INVALID_PAYLOAD", "UNKNOWN_TYPE")
        json.loads(failure(error))


def test_the_character_that_no_database_keeps_is_refused() -> None:
    for text in (rb'"a\u0000b"', rb'["x", {"k\u0000": 1}]'):
        with pytest.raises(InvalidPayload, match="U\\+0000"):
            parse(b'{"msg_type":"Event","type":"CALL","id":"7","data":' + text + b"}")
    assert read(rb'{"msg_type":"Event","type":"CALL","description":"\\u0000"}').description == "\\u0000"


@pytest.mark.parametrize("kind", ["Albabot", "Cookbot", "Telemetry"])
@pytest.mark.parametrize("value", [100.4, -1, "abc", "NaN", "inf", "\0", 1e9, {}, ["9"], 10**30])
def test_an_optional_number_that_cannot_be_taken_is_left_out_and_named(kind: str, value: Any) -> None:
    report = message(msg_type=kind, robot_id="a", id="1", battery_level=value)
    assert (report.left_out, report.battery_level) == (("battery_level",), None)
    assert message(msg_type=kind, robot_id="a", battery_level=100).left_out == ()


def test_what_is_left_out_takes_nothing_else_along() -> None:
    pose = {"world_x": 1e9, "world_y": 2, "global_x": 3, "global_y": 4, "global_yaw": "north"}
    report = message(msg_type="Albabot", robot_id="a", status="IDLE", battery_level=81, **pose)
    assert report.left_out == ("world_x", "global_yaw")
    assert report.fields() == {"status": "IDLE", "battery_level": 81, "x": 3, "y": 4}
    arm = message(msg_type="Cookbot", robot_id="c", angle_1=0, angle_2="bent", endpoint_x=1, endpoint_y=None)
    assert (arm.left_out, arm.endpoint_x) == (("angle_2",), 1)


def test_what_is_left_out_may_be_nested_as_deeply_as_json_is_read() -> None:
    deep = b"[" * 900 + b"]" * 900
    assert parse(b'{"msg_type":"Albabot","robot_id":"a","id":"1","battery_level":' + deep + b"}").message.left_out
    deeper = b"[" * 1000 + b"]" * 1000
    try:  # how deep Python's own decoder goes, which reads a number's digits, depends on its version
        assert parse(b'{"msg_type":"Albabot","robot_id":7.0,"battery_level":' + deeper + b"}").message.left_out
    except InvalidPayload as error:
        assert "robot_id" in error.text
    with pytest.raises(InvalidPayload, match="nested"):
        parse(b'{"msg_type":"Albabot","robot_id":"a","more":' + deep + b"}")
    with pytest.raises(InvalidPayload, match="U\\+0000"):
        parse(b'{"msg_type":"Albabot","robot_id":"a","battery_level":"\\u0000","more":"\\u0000"}')


def test_nobody_tells_us_what_is_left_out_but_ourselves() -> None:
    report = message(msg_type="Albabot", robot_id="a", left_out=["status"])
    assert report.left_out == () and "left_out" not in report.model_dump()


@pytest.mark.parametrize(
    ("digits", "text"),
    [
        (b"7", "7"),
        (b"-7", "-7"),
        (b"12345678901234567890", "12345678901234567890"),
        (b"123456789012345678901", "123456789012345678901"),
        (b"-12345678901234567890", "-12345678901234567890"),
        (b"7.0", "7.0"),
        (b"7.10", "7.10"),
        (b"1e3", "1e3"),
        (b"1795000000.1234567", "1795000000.1234567"),
    ],
)
def test_a_number_where_a_text_is_due_counts_by_its_digits(digits: bytes, text: str) -> None:
    report = read(b'{"msg_type":"Albabot","id":%s,"robot_id":%s,"battery_level":101}' % (digits, digits))
    assert (report.id, report.robot_id, report.left_out) == (text, text, ("battery_level",))
    hello = read(b'{"msg_type":"Hello","device_id":%s,"robots":["a",%s]}' % (digits, digits))
    assert (hello.device_id, hello.robots) == (text, ["a", text])
    order = read(b'{"msg_type":"Order","table_number":1,"items":[{"name":"a"},{"name":%s}]}' % digits)
    assert [line.name for line in order.items] == ["a", text]


@pytest.mark.parametrize("number", [7.0, 1e3, True, 1.5])
def test_digits_that_are_not_known_any_more_are_refused(number: Any) -> None:
    with pytest.raises(InvalidPayload, match="robot_id"):
        device_messages.check({"msg_type": "Albabot", "robot_id": number})


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_one_name_in_every_form(form: Literal["NFC", "NFD"]) -> None:
    said = unicodedata.normalize(form, "서빙-1호")
    bodies: list[dict[str, Any]] = [
        {"msg_type": "Albabot", "robot_id": said, "name": said},
        {"msg_type": "Telemetry", "robot_id": said},
        {"msg_type": "Hello", "device_id": said, "robots": [said]},
        {"msg_type": "Ingredient", "name": said, "count": 1},
        {"msg_type": "Order", "table_number": 1, "items": [{"name": said}]},
        {"msg_type": "Event", "type": "CALL", "robot_id": said},
    ]
    for body in bodies:
        assert "서빙-1호" in str(device_messages.check(body).message.model_dump())
    assert message(msg_type="Albabot", robot_id=said).device(None, "peer") == "서빙-1호"


def test_a_names_length_counts_in_the_form_in_which_it_is_compared() -> None:
    assert message(msg_type="Albabot", robot_id=unicodedata.normalize("NFD", "한" * 200)).robot_id == "한" * 200
    with pytest.raises(InvalidPayload, match="robot_id"):
        message(msg_type="Albabot", robot_id="\ufb2c" * 100)  # three characters each, composed or not


def test_a_text_that_is_no_name_stays_as_it_was_sent() -> None:
    said = unicodedata.normalize("NFD", "주문")
    assert message(msg_type="Event", type="INFO", description=said, data=[said], id=said).model_dump(
        include={"description", "data", "id"}
    ) == {"description": said, "data": [said], "id": said}
