"""What is sent is checked exactly, and the first fault is told in one sentence."""

from typing import Annotated, Any

import pytest
from pydantic import BeforeValidator, Field

from robodyne_rt.protocol import http
from robodyne_rt.protocol.checking import Model, Name, Query, checked, digits, known_part
from robodyne_rt.protocol.errors import InvalidPayload
from robodyne_rt.protocol.session_messages import SessionSocketQuery
from robodyne_rt.protocol.topic_messages import MAX_INTERVAL_S, TopicSocketQuery


class Thing(Model):
    """For these tests."""

    name: Name
    count: Annotated[int, Field(ge=1, description="a number from 1")] = 1


class Page(Query):
    """For these tests."""

    limit: Annotated[int, BeforeValidator(digits), Field(ge=1, le=10, description="a number from 1 to 10")] = 5


def fault(model: type[Model], values: Any) -> str:
    with pytest.raises(InvalidPayload) as caught:
        checked(model, values)
    return caught.value.text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "name: expected a text of 1 to 100 characters"),
        ({"name": ""}, "name: expected a text of 1 to 100 characters"),
        ({"name": "x" * 101}, "name: expected a text of 1 to 100 characters"),
        ({"name": "a\0b"}, "name: expected a text of 1 to 100 characters"),
        ({"name": 7}, "name: expected a text of 1 to 100 characters"),
        ({"name": "a", "count": "1"}, "count: expected a number from 1"),
        ({"name": "a", "count": True}, "count: expected a number from 1"),
        ({"name": "a", "count": 0}, "count: expected a number from 1"),
        ({"other": 1}, "unknown field 'other'; known: name, count"),
        ([], "expected a JSON object"),
        (None, "expected a JSON object"),
    ],
)
def test_the_first_fault_is_told(values: Any, text: str) -> None:
    assert fault(Thing, values) == text


def test_a_long_unknown_name_is_cut() -> None:
    assert len(fault(Thing, {"x" * 5000: 1})) < 200


@pytest.mark.parametrize("text", ["", "0", "11", "-1", "+1", " 1", "1.0", "1_0", "१", "9" * 17, "0" * 17 + "1"])
def test_a_number_in_a_query_is_digits_in_range(text: str) -> None:
    assert fault(Page, {"limit": text}) == "limit: expected a number from 1 to 10"


def test_a_number_in_a_query_is_read() -> None:
    assert (checked(Page, {"limit": "7"}).limit, checked(Page, {}).limit) == (7, 5)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({}, ""),
        ({"interval": "3600"}, ""),
        ({"interval": "3600.1"}, f"interval: expected seconds from 0 to {MAX_INTERVAL_S:.0f}"),
        ({"interval": "-1"}, f"interval: expected seconds from 0 to {MAX_INTERVAL_S:.0f}"),
        ({"interval": "nan"}, f"interval: expected seconds from 0 to {MAX_INTERVAL_S:.0f}"),
        ({"interval": "soon"}, f"interval: expected seconds from 0 to {MAX_INTERVAL_S:.0f}"),
        ({"mode": "half"}, 'mode: expected "full", or nothing'),
        ({"colour": "red"}, "unknown query key 'colour'; known: token, ticket, heartbeat, since, epoch, interval, mode"),
    ],
)
def test_a_socket_is_served_by_the_good_part_of_its_query(query: dict[str, str], problem: str) -> None:
    served, told = known_part(TopicSocketQuery, query | {"since": "41"})
    assert told == problem and served.since == "41"
    assert served.interval == (3600.0 if query.get("interval") == "3600" else 0.0)


@pytest.mark.parametrize(
    ("answered", "expected"), [("7", 7), ("-7", None), ("9" * 16, int("9" * 16)), ("9" * 17, None), ("", None)]
)
def test_the_newest_answer_that_arrived_is_a_number(answered: str, expected: int | None) -> None:
    assert known_part(SessionSocketQuery, {"answered": answered})[0].answered == expected


@pytest.mark.parametrize(
    ("model", "values", "text"),
    [
        (http.Login, {"user": "kim", "password": "x", "cookie": "yes"}, "cookie: expected true or false"),
        (http.Approval, {"code": "12345x", "label": "wall"}, "code: expected the six digits that the screen shows"),
        (http.Approval, {"code": "１２３４５６", "label": "wall"}, "code: expected the six digits that the screen shows"),
        (http.NewToken, {"user": "till", "days": 401}, "days: expected a number up to 400"),
        (http.NewToken, {"user": "till", "days": 0}, "days: expected a number up to 400"),
        (http.NewToken, {"user": "till", "days": True}, "days: expected a number up to 400"),
        (http.UserChange, {}, "expected roles, password or disabled (true or false)"),
        (http.DeadLetterAction, {"action": "eat", "ids": "all"}, 'action: expected "requeue" or "drop"'),
        (http.DeadLetterAction, {"action": "drop", "ids": []}, 'ids: expected a list of ids, or "all"'),
        (http.DeadLetterAction, {"action": "drop", "ids": [True]}, 'ids: expected a list of ids, or "all"'),
        (http.NewMessage, {"recipient": "kim", "message": " "}, "message: expected a text of 1 to 4000 characters"),
        (http.NewMessage, {"recipient": "kim", "message": "x" * 4001}, "message: expected a text of 1 to 4000 characters"),
        (
            http.NewMessage,
            {"recipient": "kim", "message": "x", "audio_url": "javascript:x"},
            "audio_url: expected an address of at most 2000 characters",
        ),
    ],
)
def test_bodies_say_what_they_expect(model: type[Model], values: Any, text: str) -> None:
    assert fault(model, values) == text
