"""Questions to clients, from outside: who may answer which, once and in time, and what becomes of the request they are for."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

from robodyne_rt.core.callbacks import TIMEOUT_S
from robodyne_rt.core.rate_limit import SlidingWindow
from robodyne_rt.model.access import Principal
from robodyne_rt.ports import CannotAsk, Clock
from robodyne_rt.protocol.session_messages import ANSWERED_BY, CallbackKind
from robodyne_rt.sessions.manager import SessionManager
from robodyne_rt.sessions.memory import MemorySessions
from robodyne_rt.work import requests
from robodyne_rt.work.assistant.rules import RulesAssistant
from robodyne_rt.work.requests import RequestDesk
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


# -- a request's own clock ---------------------------------------------------------------------------------------------------


class FakeRecords:
    """Stores nothing."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self._id = 0

    def next_id(self) -> int:
        self._id += 1
        return self._id

    async def take(self, columns: Any) -> None:
        return None

    async def answer(self, columns: Any) -> None:
        self.answers.append(columns)

    async def find(self, *names: Any) -> None:
        return None

    async def pending(self) -> list[Any]:
        return []

    def create(self, columns: Any) -> None: ...

    def refresh(self, seen: Any) -> None: ...


class TwoRobots:
    """A restaurant of which nothing else is known; implements `ports.Restaurant`."""

    async def entities(self, topic: str) -> list[dict[str, Any]]:
        unknown = {"name": None, "battery_level": None, "x": None, "y": None, "last_seen": None}
        known = {"type": "ALBABOT", "status": "IDLE", "link": "ONLINE"}
        return [{"robot_id": f"alba-{id}", "id": id, **known, **unknown} for id in (1, 2)] if topic == "robots" else []

    async def events_since(self, epoch_s: float) -> list[dict[str, Any]]:
        return []

    def wall(self) -> float:
        return 0.0


class FakeLink:
    """A connection that writes into a list."""

    principal = Principal("anna", frozenset({"kitchen"}), frozenset({"query", "read:*"}))
    is_gone = False

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.sent: list[bytes] = []

    def send(self, payload: bytes) -> None:
        self.sent.append(payload)

    send_undelivered = send

    async def has_room(self) -> bool:
        return True

    def expect_pong(self) -> None: ...

    def close(self, error: Exception) -> None: ...


class Desk:
    """A desk whose requests have little time, and an answerer that does what the test says."""

    def __init__(
        self, answer: Callable[[Any], Any], *, ask_undeclared: bool = False, renewed: Any = lambda principal, now: principal
    ) -> None:
        self.records, self.link, clock = FakeRecords(), FakeLink(), Clock()
        self.sessions = SessionManager(
            store=MemorySessions(),
            repository=self.records,
            ttl_s=60,
            stale_after_s=60,
            single=False,
            clock=clock,
            on_presence=lambda: None,
            on_gone=lambda session: self.desk.session_gone(session),  # noqa: PLW0108 - it is built on the sessions
        )
        self.answer = answer
        self.desk = RequestDesk(
            sessions=self.sessions,
            repository=self.records,
            answerer=self,
            limit=SlidingWindow(limit=100, window_s=60),
            shared=True,
            renewed=renewed,
            ask_undeclared=ask_undeclared,
            clock=clock,
        )

    @contextlib.asynccontextmanager
    async def running(self, capabilities: frozenset[str] | None = frozenset(ALL.split(","))) -> AsyncIterator[Any]:
        session = await self.sessions.attach(
            self.link,
            device="",
            token=None,
            confirmed=None,
            capabilities=capabilities,
            more={},
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.desk.run)
            with anyio.fail_after(10):
                yield session
            tasks.cancel_scope.cancel()

    async def answered(self, count: int = 1) -> dict[str, Any]:
        while len(self.records.answers) < count:
            await anyio.sleep(0.005)
        return self.records.answers[count - 1]


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
