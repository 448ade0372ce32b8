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
