"""Questions to clients, from outside: who may answer which, once and in time, and what becomes of the request they are for."""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.server import Server
from tests.e2e.session_client import Message, SessionClient, faults_logged, mint
from tests.ports import free_port

ALL = "available_data,api,clarification"
ASKING = ("request_available_data", "request_api", "clarification_request")
UNKNOWN = "what is the wifi password"
"""A question about nothing that the server knows."""


@pytest.fixture(scope="module")
def rt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server that knows two serving robots and one that cooks."""
    folder = tmp_path_factory.mktemp("callbacks")
    settings = {"AUTH__MODE": "local", "LIMITS__QUERY_REQUESTS": "1000", "DEVICES__OFFLINE_AFTER_S": "3600"}
    with Server(folder, **settings, SERVER__PORT=str(free_port())) as running:
        running.tell(
            {"msg_type": "Albabot", "robot_id": "alba-1", "status": "IDLE", "battery_level": 11},
            {"msg_type": "Albabot", "robot_id": "alba-2", "status": "SERVING", "battery_level": 22},
            {"msg_type": "Cookbot", "robot_id": "cook-1", "status": "COOKING"},
        )
        yield running
        assert running.is_running, running.log()
        assert not faults_logged(running)


@pytest.fixture
def come(come: Callable[..., Any]) -> Callable[..., Any]:
    """Connect an app that can be asked everything."""
    return functools.partial(come, capabilities=ALL)


async def asked(app: SessionClient, type: str, *, for_query: str, after: int = 0) -> Message:
    """Return what the server asks the client."""
    return await app.message(lambda m: m.get("type") == type and m.get("queryId") == for_query, after=after)


async def refused(app: SessionClient, type: str, request_id: Any, **fields: Any) -> None:
    """Answer a question, and see that refused."""
    heard = len(app.heard)
    await app.send(type=type, requestId=request_id, **fields)
    error = await app.of_type("error", after=heard)
    assert error["data"]["code"] == "INVALID_REQUEST_ID", error
    assert error["data"].get("requestId") == (request_id if isinstance(request_id, str) and request_id else None)
    assert "requestId" not in error, "this is no final answer"


# -- the ways it can go ----------------------------------------------------------------------------------------------------


async def test_data_then_api_then_an_answer(come: Callable[..., Any]) -> None:
    app = await come("plain")
    await app.query("q", UNKNOWN)
    ask = await asked(app, "request_available_data", for_query="q")
    assert ask["question"] == UNKNOWN and ask["timeout"] == 10 and len(ask["requestId"]) >= 16
    sources = ["menu", {"name": "wifi", "description": "names and passwords", "keywords": ["password"]}]
    await app.send(type="available_data", requestId=ask["requestId"], data=sources)
    call = await asked(app, "request_api", for_query="q")
    assert call["api"] == "wifi" and call["params"] == {"question": UNKNOWN} and call["requestId"] != ask["requestId"]
    await app.send(type="api_result", requestId=call["requestId"], result={"password": "kimchi-42"})
    final = await app.final("q")
    assert final["status"] == "completed" and "kimchi-42" in final["response"]
    assert len(app.finals) == 1


async def test_a_question_with_two_meanings_is_asked_back_and_answered_for_the_one_meant(come: Callable[..., Any]) -> None:
    app = await come("ambiguous")
    for number, (reply, right, wrong) in enumerate(
        [("alba-2", "22", "11"), ("ALBA 1", "11", "22"), ("1", "11", "22"), ("2번", "22", "11"), ("alba-1 please", "11", "22")]
    ):
        await app.query(f"q{number}", "서빙 로봇 어디 있어?")
        ask = await asked(app, "clarification_request", for_query=f"q{number}")
        assert ask["options"] == ["alba-1", "alba-2"] and ask["timeout"] == 120 and ask["question"]
        await app.send(type="human_response", requestId=ask["requestId"], response=reply)
        text = (await app.final(f"q{number}"))["response"]
        assert right in text and wrong not in text, (reply, text)


@pytest.mark.parametrize("reply", ["the blue one", "", None, 7, ["alba-1"], "x" * 10_000])
async def test_an_answer_that_helps_nobody_still_ends_in_an_answer(come: Callable[..., Any], reply: Any) -> None:
    app = await come("unhelpful")
    id = f"q{str(reply)[:9]}"
    await app.query(id, "서빙 로봇 어디 있어?")
    ask = await asked(app, "clarification_request", for_query=id)
    await app.send(type="human_response", requestId=ask["requestId"], response=reply)
    text = (await app.final(id))["response"]
    assert "alba-1" in text and "alba-2" in text


async def test_empty_data_is_an_answer(come: Callable[..., Any]) -> None:
    app = await come("empty")
    said: list[Any] = [[], None, {}, "wifi", [{}], [[]], [{"name": ""}], [None, 1, {"name": 5}]]
    for number, data in enumerate(said):
        id = f"q{number}"
        await app.query(id, UNKNOWN)
        ask = await asked(app, "request_available_data", for_query=id)
        await app.send(type="available_data", requestId=ask["requestId"], data=data)
        final = await app.final(id)
        assert final["status"] == "completed" and "data" in final["response"], (data, final)
    results: list[Any] = [None, [], {}, ""]
    for number, result in enumerate(results):
        id = f"r{number}"
        await app.query(id, UNKNOWN)
        ask = await asked(app, "request_available_data", for_query=id)
        await app.send(type="available_data", requestId=ask["requestId"], data=["wifi"])
        call = await asked(app, "request_api", for_query=id)
        await app.send(type="api_result", requestId=call["requestId"], result=result)
        final = await app.final(id)
        assert final["status"] == "completed" and "empty" in final["response"], (result, final)


async def test_silence_and_lateness_end_in_an_answer_after_ten_seconds_and_what_comes_late_is_refused(
    come: Callable[..., Any],
) -> None:
    """All at once, because each takes ten seconds: no data, no result, in both dialects; nobody else waits for that."""
    silent, late, half, desktop, other = [await come(name) for name in ("silent", "late", "half", "desk", "other")]
    for app in (silent, late, half):
        await app.query("q", UNKNOWN)
    await desktop.send(action="sendMessage", requestId="q", message=UNKNOWN)
    await silent.query("next", "cook-1")
    asks = [await asked(app, "request_available_data", for_query="q") for app in (silent, late, half, desktop)]
    await half.send(type="available_data", requestId=asks[2]["requestId"], data=["wifi"])
    call = await asked(half, "request_api", for_query="q")
    assert (await other.ask("q", "cook-1"))["status"] == "completed"
    assert not silent.finals and not half.finals
    progress = await silent.of_type("progress")
    assert progress["requestId"] == "q" and progress["message"]
    finals = await asyncio.gather(*(app.final("q", within_s=25) for app in (silent, late, half, desktop)))
    assert [final["status"] for final in finals] == ["completed"] * 4
    assert finals[0]["response"] == finals[1]["response"] == finals[3]["response"]
    assert "nobody answered in time" in finals[0]["response"]
    assert "wifi" in finals[2]["response"] and "in time" in finals[2]["response"]
    assert finals[3]["action"] == "messageResponse" and not [m for m in desktop.heard if m.get("type") == "progress"]
    await silent.final("next")
    assert [final.request_id for final in silent.finals] == ["q", "next"]
    await refused(late, "available_data", asks[1]["requestId"], data=["wifi"])
    await refused(half, "api_result", call["requestId"], result="too late")
    for app in (silent, late, half, desktop):
        assert len(app.answers("q")) == 1 and app.closed is None
        assert (await app.ask("again", "cook-1"))["status"] == "completed"


async def test_who_can_be_asked_nothing_is_asked_nothing(come: Callable[..., Any]) -> None:
    app = await come("mute", capabilities="")
    assert "do not know" in (await app.ask("q", UNKNOWN))["response"]
    assert "모릅니다" in (await app.ask("k", "와이파이 비밀번호 뭐야"))["response"]
    both = (await app.ask("r", "서빙 로봇 어디 있어?"))["response"]
    assert "alba-1" in both and "alba-2" in both
    assert not [message for message in app.heard if message.get("type") in ASKING]
    for junk in ("nonsense", "api", ",,", "AVAILABLE_DATA"):
        other = await come("mute", capabilities=junk, device=junk)
        assert "do not know" in (await other.ask(f"q-{junk}", UNKNOWN))["response"]
    await app.query("told", UNKNOWN, capabilities=["available_data", "nonsense", 7])  # a question may say so as well
    ask = await asked(app, "request_available_data", for_query="told")
    await app.send(type="available_data", requestId=ask["requestId"], data=[])
    await app.final("told")


async def test_who_does_not_say_what_it_can_be_asked_is_asked_where_the_configuration_says_so(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(AUTH__MODE="local", ASSISTANT__ASK_UNDECLARED="true")
    token = mint(server.folder, "anna", "kitchen")
    async with SessionClient(server.port, token=token) as app, SessionClient(server.port, token=token) as mute:
        await app.query("q", UNKNOWN)
        ask = await asked(app, "request_available_data", for_query="q")
        await app.send(type="available_data", requestId=ask["requestId"], data=[])
        assert "data" in (await app.final("q"))["response"]
        await mute.query("r", UNKNOWN, capabilities=[])
        assert "do not know" in (await mute.final("r"))["response"]
    async with SessionClient(server.port, token=token, capabilities="none") as mute:
        assert "do not know" in (await mute.ask("s", UNKNOWN))["response"]


# -- who may answer ----------------------------------------------------------------------------------------------------------


async def test_only_the_session_that_was_asked_may_answer_once_and_in_kind(come: Callable[..., Any]) -> None:
    app, tab, stranger = await come("asked"), await come("asked", device="tab"), await come("stranger")
    await app.query("q", UNKNOWN)
    ask = await asked(app, "request_available_data", for_query="q")
    id = ask["requestId"]
    await refused(stranger, "available_data", id, data=["mine"])
    await refused(tab, "available_data", id, data=["mine"])
    await refused(app, "api_result", id, result=1)
    await refused(app, "human_response", id, response="x")
    for unknown in ("unknown", "", id[:-1], id + "x", 7, None, [id], {"id": id}):
        await refused(app, "available_data", unknown, data=["x"])
    await app.send(type="available_data", requestId=id, data=["wifi"])
    call = await asked(app, "request_api", for_query="q")
    await refused(app, "available_data", id, data=["second"])
    await refused(app, "api_result", id, result="of the first")
    await app.send(type="api_result", requestId=call["requestId"], result="kimchi")
    assert "kimchi" in (await app.final("q"))["response"]
    await refused(app, "api_result", call["requestId"], result="second")
    assert all(client.closed is None for client in (app, tab, stranger))
    assert not [m for client in (tab, stranger) for m in client.heard if m.get("type") in ASKING]
    assert not tab.finals or all(final.seq is None for final in tab.finals)


async def test_fifty_wrong_answers_do_not_end_a_connection(come: Callable[..., Any]) -> None:
    app = await come("stubborn")
    for number in range(50):
        await app.send(type="human_response", requestId=f"x{number}", response="x")
    await app.settled()
    assert app.closed is None


# -- lines that break --------------------------------------------------------------------------------------------------------


async def test_what_is_open_is_asked_again_when_the_session_comes_back(come: Callable[..., Any]) -> None:
    app = await come("returns")
    await app.query("q", "서빙 로봇 어디 있어?")
    ask = await asked(app, "clarification_request", for_query="q")
    app.abort()
    await app.ended()
    heard = len(app.heard)
    await app.connect()
    assert app.greeting["resumed"] is True
    again = await asked(app, "clarification_request", for_query="q", after=heard)
    assert {**again, "timeout": 0} == {**ask, "timeout": 0}
    assert 100 < again["timeout"] < ask["timeout"] == 120
    await app.send(type="human_response", requestId=again["requestId"], response="alba-2")
    assert "22" in (await app.final("q"))["response"]
    await refused(app, "human_response", ask["requestId"], response="alba-1")
    assert [final.request_id for final in app.finals if final.seq] == ["q"]


async def test_who_asks_on_while_an_answer_is_missing_is_told_what_it_waits_for(come: Callable[..., Any]) -> None:
    one, other = await come("patient"), await come("patient", device="phone")
    await one.query("early", "늦은 주문 있어?")
    await one.query("q", "서빙 로봇 어디 있어?")
    await one.query("behind", "늦은 주문 있어?")
    ask = await asked(one, "clarification_request", for_query="q")
    await one.message(lambda m: m["type"] == "progress" and (m["requestId"], m["message"]) == ("behind", "waiting"))
    await other.query("elsewhere", "늦은 주문 있어?")
    await other.message(lambda m: m["type"] == "progress" and (m["requestId"], m["message"]) == ("elsewhere", "waiting"))
    await one.send(type="human_response", requestId=ask["requestId"], response="alba-2")
    assert [(await one.final(id))["status"] for id in ("early", "q", "behind")] == ["completed"] * 3
    assert (await other.final("elsewhere"))["status"] == "completed"
    assert not [m for m in one.heard if m["type"] == "progress" and m["requestId"] != "behind"]


async def test_a_question_that_was_answered_is_not_asked_again(come: Callable[..., Any]) -> None:
    app = await come("returns-later")
    await app.query("q", UNKNOWN)
    ask = await asked(app, "request_available_data", for_query="q")
    await app.send(type="available_data", requestId=ask["requestId"], data=[])
    await app.final("q")
    heard = len(app.heard)
    app.abort()
    await app.ended()
    await app.connect()
    await app.settled()
    assert not [message for message in app.heard[heard:] if message.get("type") in ASKING]


async def test_a_question_to_a_session_that_is_gone_is_over(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", SESSIONS__STALE_AFTER_S="0.5")
    server.tell(*({"msg_type": "Albabot", "robot_id": f"alba-{number}"} for number in (1, 2)))
    token = mint(server.folder, "gone", "kitchen")
    gone = SessionClient(server.port, token=token, capabilities=ALL)
    await gone.connect()
    await gone.query("q", "서빙 로봇 어디 있어?")
    ask = await asked(gone, "clarification_request", for_query="q")
    gone.abort()
    await gone.ended()
    async with SessionClient(server.port, token=token, device="other") as other:
        # In order behind the one that waits for a person who left; not for two minutes.
        assert (await other.ask("next", "alba-1"))["status"] == "completed"
        await refused(other, "human_response", ask["requestId"], response="alba-1")
    await gone.connect()
    final = await gone.final("q")
    assert final["status"] == "completed" and "alba-1" in final["response"] and "alba-2" in final["response"]
    await refused(gone, "human_response", ask["requestId"], response="alba-1")
    await gone.close()


async def test_a_question_to_a_session_that_was_replaced_holds_nobody_up(start_server: Callable[..., Server]) -> None:
    """The replaced app stops (4004): it will not answer, and the newer one must not wait two minutes for it."""
    server = start_server(AUTH__MODE="local", SESSIONS__SINGLE_SESSION_PER_USER="true")
    server.tell(*({"msg_type": "Albabot", "robot_id": f"alba-{number}"} for number in (1, 2)))
    token = mint(server.folder, "busy", "kitchen")
    old = SessionClient(server.port, token=token, capabilities=ALL)
    await old.connect()
    await old.query("q", "서빙 로봇 어디 있어?")
    await asked(old, "clarification_request", for_query="q")
    async with SessionClient(server.port, token=token, capabilities=ALL) as new:
        assert await old.ended() == (4004, "session_replaced")
        await new.query("next", "alba-1")
        with contextlib.suppress(TimeoutError):
            await new.final("next", within_s=3)
        assert new.answers("next"), "the newer session waits for what only the replaced one was asked"


async def test_after_a_restart_the_client_is_asked_what_its_request_needs(start_server: Callable[..., Server]) -> None:
    """A request that waited for its client when the server died is taken up when the client can be asked again, or at least not
    answered with what was never tried: its requestId cannot be used a second time."""
    server = start_server(AUTH__MODE="local", SERVER__PORT=str(free_port()))
    app = SessionClient(server.port, token=mint(server.folder, "anna", "kitchen"), capabilities=ALL)
    await app.connect()
    await app.query("q", UNKNOWN)
    ask = await asked(app, "request_available_data", for_query="q")
    server.kill()
    await asyncio.to_thread(server.start)
    heard = len(app.heard)
    await app.ended()
    await app.connect()
    assert app.greeting["resumed"] is True
    found = await app.message(
        lambda m: m.get("type") in ("request_available_data", "response") and m.get("queryId", "q") == "q", after=heard
    )
    assert found["type"] == "request_available_data", found
    assert found["requestId"] != ask["requestId"]
    await app.send(type="available_data", requestId=found["requestId"], data=[])
    await app.final("q")
    await app.close()
