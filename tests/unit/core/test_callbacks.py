"""A question to a client is answered once, by the session that was asked, in kind and in time."""

from typing import Any

import pytest

from robodyne_rt.core.callbacks import TIMEOUT_S, PendingCallbacks
from robodyne_rt.protocol.errors import InvalidRequestId
from robodyne_rt.protocol.session_messages import ANSWERED_BY, CallbackKind

NOW = 1000.0
ASKED: dict[str, Any] = {"query_id": "q", "fields": {"question": "which?"}}
ANNA: dict[str, Any] = {"session": "s1", "user": "anna"}
ANSWER = {kind: answer for answer, kind in ANSWERED_BY.items()}


def opened(kind: CallbackKind = CallbackKind.DATA) -> tuple[PendingCallbacks, str]:
    pending = PendingCallbacks()
    return pending, pending.open(kind, **ASKED, **ANNA, now=NOW).id


@pytest.mark.parametrize("kind", list(CallbackKind))
def test_the_right_answer_matches_once(kind: CallbackKind) -> None:
    pending, id = opened(kind)
    callback = pending.answer(id, answer=ANSWER[kind], **ANNA, now=NOW + 1)
    assert (callback.id, callback.kind) == (id, kind) and len(pending) == 0
    with pytest.raises(InvalidRequestId):
        pending.answer(id, answer=ANSWER[kind], **ANNA, now=NOW + 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"session": "s2"},
        {"user": "bert"},
        {"session": "s2", "user": "bert"},
        {"answer": "api_result"},
        {"answer": "human_response"},
        {"now": NOW + TIMEOUT_S[CallbackKind.DATA]},
        {"now": NOW + 1e9},
    ],
    ids=str,
)
def test_a_wrong_answer_is_refused_and_the_right_one_still_counts(wrong: dict[str, Any]) -> None:
    pending, id = opened()
    right: dict[str, Any] = {**ANNA, "answer": "available_data", "now": NOW + 9.99}
    with pytest.raises(InvalidRequestId) as caught:
        pending.answer(id, **right | wrong)
    texts = {caught.value.text}
    with pytest.raises(InvalidRequestId) as unknown:
        pending.answer("unknown", **right)
    assert texts == {unknown.value.text}, "a stranger learns nothing from the words"
    assert pending.answer(id, **right).id == id


@pytest.mark.parametrize("id", [None, 7, "", "x", [], {}, ["x"], 1.5, True], ids=str)
def test_what_is_no_id_is_refused(id: Any) -> None:
    pending, _ = opened()
    with pytest.raises(InvalidRequestId):
        pending.answer(id, answer="available_data", **ANNA, now=NOW)
    assert len(pending) == 1


def test_programs_have_ten_seconds_and_people_two_minutes() -> None:
    assert {kind.value: TIMEOUT_S[kind] for kind in CallbackKind} == {
        "request_available_data": 10.0,
        "request_api": 10.0,
        "clarification_request": 120.0,
    }
    pending, id = opened(CallbackKind.CLARIFICATION)
    assert pending.answer(id, answer="human_response", **ANNA, now=NOW + 119.9).id == id


def test_a_session_is_told_what_it_is_asked_oldest_first() -> None:
    pending = PendingCallbacks()
    first = pending.open(CallbackKind.CLARIFICATION, **ASKED, **ANNA, now=NOW)
    pending.open(CallbackKind.DATA, **ASKED, session="s2", user="anna", now=NOW)
    second = pending.open(CallbackKind.DATA, **ASKED, **ANNA, now=NOW + 1)
    assert pending.of_session("s1") == [first, second]
    pending.close(first.id)
    pending.close(first.id)
    assert pending.of_session("s1") == [second] and len(pending) == 2


def test_ids_cannot_be_guessed() -> None:
    pending = PendingCallbacks()
    ids = {pending.open(CallbackKind.DATA, **ASKED, **ANNA, now=NOW).id for _ in range(1000)}
    assert len(ids) == 1000 and min(map(len, ids)) >= 20
