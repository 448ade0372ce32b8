"""Answers over HTTP have names in snake_case; the older ones stand beside them for one more version."""

import pytest

from robodyne_rt.protocol import http
from robodyne_rt.protocol.checking import checked
from robodyne_rt.protocol.names import snake_case, with_both_names


@pytest.mark.parametrize(
    ("name", "snake"), [("expiresIn", "expires_in"), ("messageType", "message_type"), ("x2Y", "x2_y"), ("user_id", "user_id")]
)
def test_a_name_in_snake_case(name: str, snake: str) -> None:
    assert snake_case(name) == snake


def test_both_names_stand_in_an_answer_and_in_its_lists() -> None:
    body = {"expiresIn": 3, "messages": [{"messageType": "TEXT", "readBy": [{"userId": "kim"}]}], "none": None}
    assert with_both_names(body) == {
        "expiresIn": 3,
        "expires_in": 3,
        "messages": [
            {
                **{"messageType": "TEXT", "message_type": "TEXT"},
                **{name: [{"userId": "kim", "user_id": "kim"}] for name in ("readBy", "read_by")},
            }
        ],
        "none": None,
    }


def test_what_others_said_is_repeated_as_it_was_said() -> None:
    assert with_both_names({"payload": [{"someKey": 1}]}) == {"payload": [{"someKey": 1}]}


@pytest.mark.parametrize("name", ["refresh_token", "refreshToken"])
def test_a_body_may_have_either_name(name: str) -> None:
    assert checked(http.Refresh, {name: "x"}).refresh_token == "x"
