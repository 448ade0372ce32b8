"""When a client comes back, what it was asked already, what it heard: without a server."""

from typing import Any

import pytest

from robodyne_rt.client import core
from robodyne_rt.client.core import AskedOnce, End, Heard, Reconnection, Wait
from robodyne_rt.client.errors import Refused, Unreachable


def reconnection(*, tries: int | None = None, renews: bool = False, jitter: float = 1.0) -> Reconnection:
    return Reconnection("http://kds", tries=tries, renews=renews, jitter=lambda: jitter)


def tried(one: Reconnection, now: float, *, opened_for_s: float | None = None, polled: bool = False) -> Wait | End:
    """Return what follows a try that was not answered, or a connection that lasted for so long."""
    one.begin(now)
    if opened_for_s is not None:
        one.opened()
    return one.lost("away", now + (opened_for_s or 0.0), polled=polled)


def waits(one: Reconnection, count: int) -> list[float]:
    found = [tried(one, 0.0) for _ in range(count)]
    assert all(isinstance(wait, Wait) for wait in found)
    return [wait.seconds for wait in found if isinstance(wait, Wait)]


def test_waits_double_up_to_half_a_minute() -> None:
    assert waits(reconnection(), 8) == [1, 2, 4, 8, 16, 30, 30, 30]


def test_each_wait_is_jittered() -> None:
    assert waits(reconnection(jitter=0.5), 3) == [0.5, 1, 2]
    drawn = [core.jitter() for _ in range(200)]
    assert 0.5 <= min(drawn) < 0.6 and 0.9 < max(drawn) <= 1.0


@pytest.mark.parametrize(("lasted_s", "next_wait_s"), [(9.9, 8), (10.0, 1)])
def test_only_a_steady_connection_ends_the_backoff(lasted_s: float, next_wait_s: float) -> None:
    one = reconnection()
    waits(one, 3)
    assert tried(one, 0.0, opened_for_s=lasted_s) == Wait(next_wait_s)


def test_a_long_try_that_was_never_answered_is_not_steady() -> None:
    one = reconnection()
    waits(one, 3)
    one.begin(0.0)
    assert one.lost("away", 60.0) == Wait(8, polls=True)


def test_it_gives_up_after_its_tries_in_a_row() -> None:
    one = reconnection(tries=3)
    waits(one, 2)
    assert isinstance(tried(one, 0.0, opened_for_s=20.0), Wait)  # that was none of them
    waits(one, 2)
    end = tried(one, 0.0)
    assert isinstance(end, End) and isinstance(end.error, Unreachable)
    assert "http://kds" in str(end.error) and "3 tries" in str(end.error) and "away" in str(end.error)


def test_a_short_connection_counts_as_a_try() -> None:
    one = reconnection(tries=2)
    assert isinstance(tried(one, 0.0, opened_for_s=1.0), Wait)
    assert isinstance(tried(one, 0.0, opened_for_s=1.0), End)


def test_while_topics_get_through_over_http_it_never_gives_up() -> None:
    one = reconnection(tries=2)
    assert all(isinstance(tried(one, 0.0, polled=True), Wait) for _ in range(10))


def test_topics_are_polled_after_three_handshakes_in_vain() -> None:
    one = reconnection()
    polls = [wait.polls for wait in (tried(one, 0.0) for _ in range(4)) if isinstance(wait, Wait)]
    assert polls == [False, False, True, True]
    assert tried(one, 0.0, opened_for_s=1.0) == Wait(16)  # the handshake was answered: no proxy is in the way


@pytest.mark.parametrize(
    ("code", "reason", "comes_back"),
    [
        (1001, "shutting_down", True),
        (1006, "", True),
        (1013, "slow", True),
        (1011, "internal", True),
        (None, "silent", True),
        (4003, "forbidden", False),
        (4001, "token_invalid", False),
        (4408, "session_replaced", False),
    ],
)
def test_what_the_server_says_decides_whether_it_comes_back(code: int | None, reason: str, comes_back: bool) -> None:
    refused = reconnection().closed(code, reason)
    if comes_back:
        assert refused is None
    else:
        assert isinstance(refused, Refused)
        assert (refused.code, refused.reason) == (code, reason)


def test_a_token_that_ended_is_renewed_once() -> None:
    one = reconnection(renews=True)
    assert one.closed(4001, "token_expired") is None
    assert one.wants_fresh
    assert isinstance(one.closed(4001, "token_expired"), Refused)  # the fresh one was no better
    one.greeted()
    assert not one.wants_fresh
    assert one.closed(4001, "token_expired") is None


def test_who_cannot_renew_a_token_is_refused() -> None:
    assert isinstance(reconnection(renews=False).closed(4001, "token_expired"), Refused)


# -- what it was asked -------------------------------------------------------------------------------------------------


def question(request_id: str, *, query_id: str = "q1", timeout: float = 60.0, text: str = "Which?") -> dict[str, Any]:
    return {
        "type": "clarification_request", "requestId": request_id, "queryId": query_id, "timeout": timeout, "question": text
    }  # fmt: skip


def test_a_question_that_comes_again_after_a_broken_link_is_not_asked_again() -> None:
    asked = AskedOnce()
    first, is_new = asked.take(question("a"), connection=1, now=0.0)
    assert is_new and first.deadline == 60.0
    again, is_new = asked.take(question("a", timeout=30.0), connection=2, now=50.0)
    assert again is first and not is_new
    assert again.deadline == 80.0


def test_after_a_restart_of_the_server_the_same_has_another_id() -> None:
    asked = AskedOnce()
    first, _ = asked.take(question("a"), connection=1, now=0.0)
    first.answer = {"type": "human_response", "response": "the second"}
    again, is_new = asked.take(question("b"), connection=2, now=5.0)
    assert again is first and not is_new
    assert again.request_id == "b"  # its answer is for this id now


def test_the_same_words_asked_twice_on_one_connection_are_two_questions() -> None:
    asked = AskedOnce()
    first, _ = asked.take(question("a"), connection=1, now=0.0)
    second, is_new = asked.take(question("b"), connection=1, now=1.0)
    assert is_new and second is not first


def test_another_question_for_the_same_request_is_asked() -> None:
    asked = AskedOnce()
    asked.take(question("a"), connection=1, now=0.0)
    _, is_new = asked.take(question("b", text="Where?"), connection=2, now=1.0)
    assert is_new


def test_what_is_answered_may_be_asked_anew() -> None:
    asked = AskedOnce()
    asked.take(question("a"), connection=1, now=0.0)
    asked.over("q1")
    asked.over("unknown")
    _, is_new = asked.take(question("a"), connection=2, now=1.0)
    assert is_new


# -- what it heard -----------------------------------------------------------------------------------------------------


def test_the_newest_answer_counts_whatever_order_they_come_in() -> None:
    heard = Heard()
    for seq in (1, 3, None, 2):
        heard.final(seq)
    assert heard.answered == 3


def test_a_new_session_counts_from_one_and_a_resumed_one_goes_on() -> None:
    heard = Heard()
    heard.connected(resumed=False)
    heard.final(7)
    heard.connected(resumed=True)
    assert (heard.answered, heard.connections) == (7, 2)
    heard.connected(resumed=False)
    assert (heard.answered, heard.connections) == (0, 3)


def test_a_staff_message_is_told_once_and_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "MAX_SEEN", 3)
    heard = Heard()
    assert [heard.is_new(id) for id in (1, 1, 2, 3, 3)] == [True, False, True, True, False]
    assert heard.is_new(4)
    assert not heard.is_new(2)
    assert heard.is_new(1)
