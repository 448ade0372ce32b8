"""What a client says in a session, and what it is told, as bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.protocol import session_messages, topic_messages
from robodyne_rt.protocol.session_messages import CLIENT_TYPES, CallbackKind
from robodyne_rt.protocol.topic_messages import BadMessage


def parse(**message: Any) -> session_messages.SessionMessage:
    return session_messages.parse(json.dumps(message).encode())


def refusal(text: bytes) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        session_messages.question(session_messages.parse(text))
    return caught.value


@pytest.mark.parametrize("type", CLIENT_TYPES)
def test_every_type_is_understood(type: str) -> None:
    message = parse(type=type, requestId="r", data=[1])
    assert (message.type, message.request_id, message.data, message.dialect) == (type, "r", [1], "session")


def test_the_desktops_words_are_a_query() -> None:
    message = parse(action="sendMessage", requestId="r", userId="anna", message="hi", timestamp=1)
    assert (message.type, message.dialect, session_messages.question(message)) == ("query", "desktop", "hi")
    assert parse(action="sendMessage", type="pong", requestId="r", message="x").type == "query"
    assert refusal(b'{"action":"SENDMESSAGE"}').word == "INVALID_MESSAGE"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "INVALID_MESSAGE"),
        (b"{", "INVALID_MESSAGE"),
        (b"[]", "INVALID_MESSAGE"),
        (b'"query"', "INVALID_MESSAGE"),
        (b"{}", "INVALID_MESSAGE"),
        (b'{"type":7}', "INVALID_MESSAGE"),
        (b'{"type":null}', "INVALID_MESSAGE"),
        (b'{"type":["query"]}', "INVALID_MESSAGE"),
        (b'{"type":"Query"}', "UNKNOWN_TYPE"),
        (b'{"type":"connected"}', "UNKNOWN_TYPE"),
        (b'{"type":"\\ud800"}', "INVALID_MESSAGE"),
        (b'{"type":"query","message":"\xff"}', "INVALID_MESSAGE"),
        (b"[" * 10_000, "INVALID_MESSAGE"),
        (b'{"type":"query","x":' + b"[" * 200 + b"]" * 200 + b"}", "INVALID_MESSAGE"),
        (b'{"type":"query","message":"hi"}', "INVALID_MESSAGE"),
        (b'{"type":"query","requestId":7,"message":"hi"}', "INVALID_MESSAGE"),
        (b'{"type":"query","requestId":"","message":"hi"}', "INVALID_MESSAGE"),
        (b'{"type":"query","requestId":"a\\u0000b","message":"hi"}', "INVALID_MESSAGE"),
        (b'{"type":"query","requestId":"r"}', "INVALID_MESSAGE"),
        (b'{"type":"query","requestId":"r","message":" "}', "INVALID_MESSAGE"),
        (b'{"type":"query","requestId":"r","message":7}', "INVALID_MESSAGE"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_taken_is_refused_with_a_word(text: bytes, word: str) -> None:
    assert refusal(text).word == word


def test_a_refusal_names_the_request_it_is_about() -> None:
    assert refusal(b'{"type":"query","requestId":"r","message":""}').details == {"requestId": "r"}
    assert refusal(b'{"type":"dance","requestId":"r"}').details == {"requestId": "r"}
    assert refusal(b'{"type":"dance","requestId":"' + b"r" * 201 + b'"}').details == {}
    assert len(refusal(b'{"type":"' + b"d" * 5000 + b'"}').text) < 500


def test_limits_of_a_question() -> None:
    assert len(session_messages.question(parse(type="query", requestId="r" * 200, message="x" * 4000))) == 4000
    assert session_messages.question(parse(type="query", requestId="r", message="a\0b")) == "ab"
    for message in ({"requestId": "r" * 201, "message": "x"}, {"requestId": "r", "message": "x" * 4001}):
        with pytest.raises(BadMessage):
            session_messages.question(parse(type="query", **message))


def test_a_question_of_nothing_but_nul_is_no_question() -> None:
    with pytest.raises(BadMessage):
        session_messages.question(parse(type="query", requestId="r", message="\0"))


@given(st.binary(max_size=60))
def test_no_bytes_break_the_parser(text: bytes) -> None:
    try:
        message = session_messages.parse(text)
    except BadMessage as error:
        assert error.word in ("INVALID_MESSAGE", "UNKNOWN_TYPE")
    else:
        assert message.type in CLIENT_TYPES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["type", "action", "requestId", "message", "data", "seq"]), JSON))
def test_no_message_breaks_the_parser(message: dict[str, Any]) -> None:
    try:
        text = session_messages.question(session_messages.parse(json.dumps(message).encode()))
    except BadMessage:
        return
    assert 0 < len(text) <= 4000


def test_a_final_answer_in_both_dialects() -> None:
    session = json.loads(session_messages.response("session", "r", "hi", remaining=9, seq=3))
    assert session == {
        **{"type": "response", "requestId": "r", "response": "hi", "status": "completed"},
        **{"seq": 3, "remaining": 9},
    }
    desktop = json.loads(session_messages.response("desktop", "r", "hi", remaining=None, seq=3))
    assert desktop == {"action": "messageResponse", "requestId": "r", "response": "hi", "status": "completed", "seq": 3}


def test_a_failure_in_both_dialects() -> None:
    session = json.loads(session_messages.failure("session", "r", "TIMEOUT", "late", seq=3, retry_after=1.5))
    assert session["type"] == "error" and session["topic"] == "session"
    assert session["data"] == {"code": "TIMEOUT", "message": "late", "requestId": "r", "retry_after": 1.5}
    assert (session["requestId"], session["seq"]) == ("r", 3)
    desktop = json.loads(session_messages.failure("desktop", "r", "TIMEOUT", "late"))
    assert desktop == {
        **{"action": "messageResponse", "requestId": "r", "response": "late"},
        **{"status": "error", "code": "TIMEOUT"},
    }


def test_a_question_to_the_client_names_both_ids() -> None:
    fields = {"api": "menu", "params": {}}
    names = {"type": "request_api", "requestId": "c", "queryId": "q"}

    def asked(left_s: float) -> Any:
        return json.loads(session_messages.ask(CallbackKind.API, id="c", query_id="q", left_s=left_s, fields=fields))

    assert asked(10.0) == {**names, "timeout": 10.0, **fields}
    assert asked(2.2504) == {**names, "timeout": 2.25, **fields}
    assert asked(-1.0)["timeout"] == 0.0


@pytest.mark.parametrize("data", [None, 7, "7", [7], {}, {"seq": "7"}, {"seq": 7.0}, {"seq": True}, {"seq": None}], ids=str)
def test_a_pong_that_names_no_number_proves_nothing(data: Any) -> None:
    assert session_messages.proven(data) is None


def test_a_pong_proves_the_number_of_the_ping_behind_an_answer() -> None:
    ping = json.loads(topic_messages.ping(123.5, seq=7))
    assert ping == {"type": "ping", "topic": "status", "data": {"timestamp": 123.5, "seq": 7}}
    assert session_messages.proven(ping["data"]) == 7
