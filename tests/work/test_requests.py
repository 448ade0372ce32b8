"""A request's own clock, its callbacks, its rights: the desk with fakes around it (SPEC section 4)."""

import contextlib
from typing import Any

import anyio
import pytest

from robodyne_rt.core.callbacks import TIMEOUT_S
from robodyne_rt.model.access import Principal
from robodyne_rt.ports import CannotAsk
from robodyne_rt.protocol.session_messages import ANSWERED_BY, CallbackKind
from robodyne_rt.work import requests
from robodyne_rt.work.assistant.rules import RulesAssistant
from tests.work.desk import Desk, TwoRobots

UNKNOWN = "what is the wifi password"
"""A question about nothing that the server knows."""


async def test_a_request_has_so_much_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "WORK_S", 0.1)

    async def answer(conversation: Any) -> str:
        if conversation.question == "slow":
            await anyio.sleep_forever()
        return "done"

    desk = Desk(answer)
    async with desk.running() as session:
        await desk.desk.ask(session, "1", "slow", "session")
        await desk.desk.ask(session, "2", "quick", "session")
        assert (await desk.answered(1))["code"] == "TIMEOUT"
        second = await desk.answered(2)
    assert (second["status"], second["response"], second["seq"]) == ("COMPLETED", "done", 2)
    assert any(b'"TIMEOUT"' in payload and b'"requestId":"1"' in payload for payload in desk.link.sent)


async def test_a_requests_clock_stands_while_its_client_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "WORK_S", 0.5)

    async def answer(conversation: Any) -> str:
        for _ in range(2):
            await anyio.sleep(0.1)
            assert await conversation.clarify("which?", ["a", "b"]) == "a"
        return "done"

    desk = Desk(answer)
    async with desk.running() as session:
        await desk.desk.ask(session, "1", "q", "session")
        for _ in range(2):
            while not len(desk.desk.callbacks):
                await anyio.sleep(0.005)
            await anyio.sleep(0.6)  # a person thinks for longer than the request has
            (callback,) = desk.desk.callbacks.of_session(session.id)
            desk.desk.callback_answered(session, "human_response", callback.id, {"response": "a"})
            await anyio.sleep(0)
        stored = await desk.answered()
    assert (stored["status"], stored["response"]) == ("COMPLETED", "done")


async def test_a_requests_clock_goes_on_after_the_client_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "WORK_S", 0.2)

    async def answer(conversation: Any) -> str:
        await conversation.clarify("which?", ["a", "b"])
        await anyio.sleep_forever()
        return "never"

    desk = Desk(answer)
    async with desk.running() as session:
        await desk.desk.ask(session, "1", "q", "session")
        while not len(desk.desk.callbacks):
            await anyio.sleep(0.005)
        (callback,) = desk.desk.callbacks.of_session(session.id)
        desk.desk.callback_answered(session, "human_response", callback.id, {"response": "a"})
        stored = await desk.answered()
    assert stored["code"] == "TIMEOUT"


async def test_a_callback_that_nobody_answers_costs_its_own_time_and_the_request_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "WORK_S", 0.2)
    monkeypatch.setitem(TIMEOUT_S, CallbackKind.DATA, 0.5)

    async def answer(conversation: Any) -> str:
        try:
            await conversation.available_data("?")
        except CannotAsk:
            return "nobody said anything"
        return "wrong"

    desk = Desk(answer)
    async with desk.running() as session:
        await desk.desk.ask(session, "1", "q", "session")
        stored = await desk.answered()
        assert not len(desk.desk.callbacks)
    assert stored["response"] == "nobody said anything"


@pytest.mark.parametrize(
    ("declared", "ask_undeclared", "may_be_asked"),
    [
        (None, False, set()),
        (None, True, {"available_data", "api", "clarification"}),
        (frozenset(), True, set()),
        (frozenset({"api"}), True, {"api"}),
        (frozenset({"api"}), False, {"api"}),
    ],
)
async def test_who_does_not_say_what_it_can_be_asked_is_asked_where_the_setting_says_so(
    declared: frozenset[str] | None, ask_undeclared: bool, may_be_asked: set[str]
) -> None:
    asked: list[str] = []

    async def answer(conversation: Any) -> str:
        assert conversation.capabilities == may_be_asked
        for word, ask in (
            ("available_data", conversation.available_data("?")),
            ("api", conversation.api("x", {})),
            ("clarification", conversation.clarify("?", [])),
        ):
            with contextlib.suppress(CannotAsk):
                await ask
                asked.append(word)
        return "done"

    desk = Desk(answer, ask_undeclared=ask_undeclared)
    async with desk.running(capabilities=declared) as session:
        await desk.desk.ask(session, "1", "q", "session")
        while not desk.records.answers:
            for callback in desk.desk.callbacks.of_session(session.id):
                said = next(word for word, kind in ANSWERED_BY.items() if kind is callback.kind)
                desk.desk.callback_answered(session, said, callback.id, {"response": "x", "data": []})
            await anyio.sleep(0.005)
        stored = await desk.answered()
    assert set(asked) == may_be_asked and stored["response"] == "done"


async def test_the_rights_of_who_asks_are_derived_once_and_again_after_a_wait() -> None:
    derived: list[Principal] = []

    async def answer(conversation: Any) -> str:
        seen = [conversation.may_read(topic) for topic in ("robots", "tables", "robots")]
        await conversation.clarify("which?", [])
        return str([*seen, conversation.may_read("robots"), conversation.may_read("tables")])

    def renewed(principal: Principal, now: float) -> Principal:
        derived.append(principal)
        return principal

    desk = Desk(answer, renewed=renewed)
    async with desk.running() as session:
        await desk.desk.ask(session, "1", "q", "session")
        while not len(desk.desk.callbacks):
            await anyio.sleep(0.005)
        assert len(derived) == 1
        (callback,) = desk.desk.callbacks.of_session(session.id)
        desk.desk.callback_answered(session, "human_response", callback.id, {"response": "a"})
        assert (await desk.answered())["response"] == str([True] * 5)
    assert len(derived) == 2


@pytest.mark.parametrize(
    ("question", "said", "not_said"),
    [
        (UNKNOWN, "nobody answered in time", "do not know"),
        ("와이파이 비밀번호 뭐야", "제때 아무도 답하지 않았습니다", "모릅니다"),
        ("서빙 로봇 어디?", "제때 아무도 답하지 않았습니다", "없습니다"),
        ("where is the serving robot?", "nobody answered in time", "do not know that"),
    ],
)
async def test_an_answer_says_that_nobody_answered_in_time(
    monkeypatch: pytest.MonkeyPatch, question: str, said: str, not_said: str
) -> None:
    for kind in CallbackKind:
        monkeypatch.setitem(TIMEOUT_S, kind, 0.05)
    desk = Desk(RulesAssistant(TwoRobots()).answer)
    async with desk.running() as session:
        await desk.desk.ask(session, "1", question, "session")
        response = (await desk.answered())["response"]
    assert said in response and not_said not in response


async def test_an_answerer_that_fails_is_an_internal_error_and_the_next_request_is_worked() -> None:
    async def answer(conversation: Any) -> str:
        if conversation.question == "bad":
            raise RuntimeError("secret")
        return "done"

    desk = Desk(answer)
    async with desk.running() as session:
        await desk.desk.ask(session, "1", "bad", "session")
        await desk.desk.ask(session, "2", "good", "session")
        first, second = await desk.answered(1), await desk.answered(2)
    assert (first["code"], second["response"]) == ("INTERNAL", "done")
    assert not any(b"secret" in payload for payload in desk.link.sent)
