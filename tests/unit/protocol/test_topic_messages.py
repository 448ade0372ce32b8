"""Pings, and which of them a pong answers."""

import json
from typing import Any

import pytest

from robodyne_rt.protocol import frames, topic_messages

AT = 1764265200.1234567


def test_a_ping_and_a_shutdown_are_about_no_topic_but_status() -> None:
    assert json.loads(topic_messages.ping(AT)) == {"type": "ping", "topic": "status", "data": {"timestamp": AT}}
    assert json.loads(topic_messages.ping(AT, seq=7))["data"] == {"timestamp": AT, "seq": 7}
    assert json.loads(topic_messages.shutdown("restart")) == {
        "type": "shutdown",
        "topic": "status",
        "data": {"reason": "restart"},
    }


def test_a_pong_names_its_ping() -> None:
    assert topic_messages.answered_ping(json.loads(topic_messages.ping(AT))["data"]) == AT
    frame = frames.ping_frame(AT)
    assert frame[0] == 0x89 and frame[1] == len(frame) - 2 <= 125
    assert topic_messages.answered_ping(frame[2:]) == AT


@pytest.mark.parametrize(
    "data", [None, {}, [], "x", 7, {"timestamp": None}, {"timestamp": "7"}, {"timestamp": True}, b"", b"x", b"\xff" * 125]
)
def test_a_pong_may_name_none(data: Any) -> None:
    assert topic_messages.answered_ping(data) is None


def test_a_message_that_is_nested_too_deeply_is_refused() -> None:
    deep = "[" * 40 + "]" * 40
    with pytest.raises(topic_messages.BadMessage, match="32 levels"):
        topic_messages.parse_client(f'{{"type":"ping","data":{deep}}}'.encode())


def test_a_request_id_that_nobody_can_use_is_not_repeated() -> None:
    for length, is_known in ((200, True), (201, False)):
        with pytest.raises(topic_messages.BadMessage) as caught:
            topic_messages.parse_client(json.dumps({"type": "dance", "requestId": "x" * length}).encode())
        assert ("requestId" in caught.value.details) == is_known
