"""The client for Python against a real server that is killed, away, or refuses."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from robodyne_rt.client import Change, Client, Refused, RequestFailed, StaffMessage, Unreachable, core
from robodyne_rt.client import client as client_session
from robodyne_rt.client.login import Login
from tests.e2e.server import Server
from tests.ports import free_port

KILL_ROUNDS = int(os.environ.get("ROBODYNE_KILL_ROUNDS", "3"))


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backoff of a restaurant is for minutes; a test has seconds."""
    if KILL_ROUNDS < 10:
        monkeypatch.setattr(core, "FIRST_WAIT_S", 0.2)


def token_of(server: Server, name: str, *roles: str, life_s: float = 3600) -> str:
    """A token as another program makes one, with the secret."""
    secret = (server.folder / "secret.key").read_text().strip()
    now = int(time.time())
    claims = {"iss": "robodyne-rt", "aud": "robodyne-rt", "sub": name, "roles": list(roles), "iat": now}
    return jwt.encode(claims | {"exp": now + life_s}, secret, algorithm="HS256")


async def until(fact: Callable[[], Any], *, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not fact():
            await asyncio.sleep(0.02)


async def test_a_topic_is_kept_and_its_changes_are_told(start_server: Callable[..., Server]) -> None:
    server = start_server()
    async with Client(f"http://127.0.0.1:{server.port}") as client:
        robots = await client.subscribe("robots")
        assert dict(robots.entities) == {}
        changes: list[Change] = []

        async def read() -> None:
            async for change in robots:
                changes.append(change)

        reading = asyncio.create_task(read())
        server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING"})
        await until(lambda: any(robot["robot_id"] == "alba-1" for robot in robots.entities.values()))
        await until(lambda: changes and changes[-1].changed)
        status = await client.subscribe("status")
        assert status.status["robots"]["by_status"] == {"SERVING": 1}
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading


async def test_a_question_is_answered_and_callbacks_are_handlers(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.tell(*({"msg_type": "Albabot", "robot_id": f"alba-{n}", "status": "IDLE", "battery_level": 50 + n} for n in (1, 2)))
    asked: list[Any] = []

    async def choose(question: str, options: list[str]) -> str:
        asked.append((question, options))
        return options[1]

    async def have(question: str) -> list[Any]:
        return [{"name": "reservations", "keywords": ["booking"]}]

    async def get(name: str, params: dict[str, Any]) -> Any:
        return {"tonight": 12}

    async with Client(f"http://127.0.0.1:{server.port}", on_clarification=choose, on_available_data=have, on_api=get) as client:
        answer = await client.request("where is alba?")
        assert "alba-2" in answer.text and asked == [("Which robot do you mean?", ["alba-1", "alba-2"])]
        assert answer.remaining == 9
        assert (await client.request("how many bookings tonight?")).text == "reservations: tonight 12"


@pytest.mark.parametrize("breaks", ["the line", "the server"])
async def test_who_is_asked_something_is_asked_once_whatever_breaks_meanwhile(tmp_path: Path, breaks: str) -> None:
    with Server(tmp_path, SERVER__PORT=str(free_port())) as server:
        server.tell(*({"msg_type": "Albabot", "robot_id": f"alba-{n}", "battery_level": 50 + n} for n in (1, 2)))
        asked: list[str] = []
        states: list[str] = []
        decided = asyncio.Event()

        async def choose(question: str, options: list[str]) -> str:
            asked.append(question)
            await decided.wait()
            return options[1]

        on_state = lambda state, why: states.append(state)  # noqa: E731
        url = f"http://127.0.0.1:{server.port}"
        async with Client(url, tries=None, on_clarification=choose, on_state=on_state) as client:
            await client.ready()
            answer = asyncio.create_task(client.request("where is alba?"))
            await until(lambda: asked)
            if breaks == "the line":
                assert client._socket is not None
                connection = client._socket._response.connection
                assert connection is not None and connection.transport is not None
                connection.transport.abort()
            else:
                server.kill()
                decided.set()  # said while nobody hears it
                await asyncio.to_thread(server.start)
            await until(lambda: states.count("connected") == 2)
            decided.set()
            assert "alba-2" in (await answer).text and len(asked) == 1


async def test_what_an_application_does_wrong_does_not_end_its_client(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local")
    url = f"http://127.0.0.1:{server.port}"
    faults: list[Exception] = [OSError("the issuer is away"), ValueError("bug")]

    async def token() -> str:
        if faults:
            raise faults.pop()
        return token_of(server, "anna", "manager")

    def broken(*_: Any) -> None:
        raise KeyError("bug")

    async with Client(url, token=token, on_state=broken) as client:
        await client.ready()
        assert not faults
        assert (await client.request("which robots are online?", on_progress=broken)).text
    async with Client(url, token=Login(url, "nobody", "wrong")) as client:
        with pytest.raises(Refused):
            await client.ready()


async def test_an_application_without_handlers_says_that_it_can_be_asked_nothing(start_server: Callable[..., Server]) -> None:
    server = start_server(ASSISTANT__ASK_UNDECLARED="true")
    async with Client(f"http://127.0.0.1:{server.port}") as client:
        async with asyncio.timeout(9):  # being asked would take ten seconds
            assert "do not know" in (await client.request("what is the wifi password")).text


async def test_an_application_that_gives_no_token_in_time_counts_as_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_session, "TOKEN_S", 0.1)

    async def never() -> str:
        await asyncio.sleep(3600)
        return ""

    async with Client("http://127.0.0.1:9", token=never, tries=2) as client:
        with pytest.raises(Unreachable, match="token"):
            await client.subscribe("robots")


async def test_a_full_topic_that_was_left_can_be_asked_for_again(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_session, "FULL_WAIT_S", 0.2)
    server = start_server(HUB__TOPIC_LIMITS='{"video_streams": 1}')
    url = f"http://127.0.0.1:{server.port}"
    async with Client(url) as first, Client(url) as second:
        await first.subscribe("video_streams")
        waiting = asyncio.create_task(second.subscribe("video_streams"))
        await until(lambda: "video_streams" in second.topics)
        await second.request("robots?")  # by now it was told that there is no room
        await second.unsubscribe("video_streams")
        waiting.cancel()
        again = asyncio.create_task(second.subscribe("video_streams"))
        await second.request("tables?")
        await first.unsubscribe("video_streams")
        async with asyncio.timeout(10):
            assert dict((await again).entities) == {}


async def test_errors_that_end_a_request_are_raised(start_server: Callable[..., Server]) -> None:
    server = start_server(LIMITS__QUERY_REQUESTS="1")
    async with Client(f"http://127.0.0.1:{server.port}") as client:
        await client.request("robots?")
        with pytest.raises(RequestFailed) as failed:
            await client.request("robots?")
        assert failed.value.code == "RATE_LIMITED" and failed.value.details["retry_after"] > 0
        with pytest.raises(Refused):
            await client.subscribe("nonsense")


async def test_who_may_not_come_in_is_told_and_does_not_come_back(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local")
    url = f"http://127.0.0.1:{server.port}"
    for token in (None, "nonsense", Login(url, "nobody", "wrong")):
        async with Client(url, token=token) as client:
            with pytest.raises(Refused):
                await client.subscribe("robots")
            assert client.state == "stopped"


async def test_a_role_that_may_not_read_a_topic_is_refused_for_it_only(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local")
    async with Client(f"http://127.0.0.1:{server.port}", token=token_of(server, "wall", "display")) as client:
        with pytest.raises(Refused):
            await client.subscribe("customers")
        assert dict((await client.subscribe("orders")).entities) == {}


async def test_tokens_are_renewed_in_the_living_connection_and_after_they_ended(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local")
    given: list[str] = []

    async def fresh() -> str:
        # The first one is over at once where the leeway is gone: the client must come back with another one.
        given.append(token_of(server, "kim", "kitchen", life_s=-29 if not given else 3))
        return given[-1]

    states: list[str] = []
    async with Client(
        f"http://127.0.0.1:{server.port}", token=fresh, on_state=lambda state, why: states.append(state)
    ) as client:
        await client.subscribe("robots")
        await until(lambda: len(given) >= 4)
        assert (await client.request("robots?")).text
        assert states[-1] == "connected"


@pytest.mark.parametrize("tries", [1, 3, 8])
async def test_without_a_server_it_gives_up_after_its_tries(monkeypatch: pytest.MonkeyPatch, tries: int) -> None:
    monkeypatch.setattr(core, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(core, "LONGEST_WAIT_S", 0.05)
    async with Client(f"http://127.0.0.1:{free_port()}", tries=tries) as client:
        async with asyncio.timeout(20):
            with pytest.raises(Unreachable, match=f"after {tries} tries"):
                await client.subscribe("robots")
        assert client.state == "stopped"


async def test_a_topic_that_is_full_is_asked_for_again(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_session, "FULL_WAIT_S", 0.2)
    server = start_server(HUB__TOPIC_LIMITS='{"events": 1}')
    url = f"http://127.0.0.1:{server.port}"
    async with Client(url) as first, Client(url) as second:
        events = await first.subscribe("events")
        waiting = asyncio.create_task(second.subscribe("events"))
        changes: list[Change] = []

        async def read() -> None:
            changes.extend([change async for change in events])

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await first.unsubscribe("events")
        assert (await waiting).offset is not None
        async with asyncio.timeout(5):
            await reading  # who reads what nobody watches any more comes to the end
        assert changes and "events" not in first.topics


async def test_messages_reach_a_colleague_once(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local")
    url = f"http://127.0.0.1:{server.port}"
    got: list[StaffMessage] = []

    async def take(message: StaffMessage) -> None:
        got.append(message)

    async with (
        Client(url, token=token_of(server, "kim", "kitchen"), on_staff_message=take) as kim,
        Client(url, token=token_of(server, "lee", "manager")) as lee,
    ):
        await kim.subscribe("robots")
        sent = await lee.send_message("role:kitchen", "table 4 waits")
        assert sent["websocketSent"] is True
        await until(lambda: got)
        await kim.mark_read(got[0].id)
    assert [message.message for message in got] == ["table 4 waits"]


@contextlib.asynccontextmanager
async def http_only(server: Server) -> AsyncIterator[str]:
    """A proxy as some networks have one: HTTP passes, WebSocket does not."""
    import aiohttp

    async def handle(request: web.Request) -> web.Response:
        if "Upgrade" in request.headers:
            return web.Response(status=502)
        headers = {name: value for name, value in request.headers.items() if name == "Authorization"}
        url = f"http://127.0.0.1:{server.port}{request.path_qs}"
        async with aiohttp.ClientSession(headers=headers) as http, http.get(url) as answer:
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as proxy:
        yield str(proxy.make_url("/")).rstrip("/")


async def test_topics_are_polled_where_websocket_does_not_get_through(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(client_session, "POLL_S", 0.1)
    server = start_server()
    async with http_only(server) as url, Client(url, tries=None) as client:
        robots = await client.subscribe("robots")
        assert client.state == "polling"
        server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING"})
        await until(lambda: robots.entities)


async def test_polling_is_refused_like_a_websocket_is(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(client_session, "POLL_S", 0.1)
    server = start_server(AUTH__MODE="local")
    wall = token_of(server, "wall", "display")
    async with asyncio.timeout(20), http_only(server) as url:
        async with Client(url, token=wall, tries=None) as client:
            await client.subscribe("orders")
            for topic, reason in (("customers", "forbidden"), ("nonsense", "unknown_topic")):
                with pytest.raises(Refused) as refused:
                    await client.subscribe(topic)
                assert refused.value.reason == reason
            assert client.state == "polling"
        async with Client(url, token="nonsense", tries=None) as client:
            with pytest.raises(Refused):
                await client.subscribe("orders")
            assert client.state == "stopped"


async def test_a_server_that_is_polled_and_goes_is_given_all_tries(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(core, "LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr(client_session, "POLL_S", 0.05)
    server = start_server()
    async with asyncio.timeout(30), http_only(server) as url, Client(url, tries=8) as client:
        robots = await client.subscribe("robots")
        await asyncio.sleep(1.5)  # far more than eight handshakes fail
        assert client.state == "polling"
        server.kill()
        await until(lambda: client.state == "stopped")
        with pytest.raises(Unreachable, match="after 8 tries"):
            await robots.ready()
            async for _ in robots:
                pass


@pytest.mark.timeout(60 + 25 * KILL_ROUNDS)
async def test_a_server_that_is_killed_again_and_again_costs_nothing(tmp_path: Path) -> None:
    """Under load: the client ends with the state of the database, no gap, no duplicate, every question answered once."""
    port, devices_port = free_port(), free_port()
    settings = {"SERVER__PORT": str(port), "DEVICES__PORT": str(devices_port), "LIMITS__QUERY_REQUESTS": "100000"}
    server = Server(tmp_path, **settings).start()
    replica: dict[int, Any] = {}
    answers: dict[str, int] = {}

    async with Client(f"http://127.0.0.1:{port}", tries=None) as client:
        robots = await client.subscribe("robots")

        async def follow() -> None:
            async for change in robots:
                if change.snapshot:
                    replica.clear()
                for key in change.removed:
                    replica.pop(key, None)
                replica.update(change.changed)

        async def load() -> None:
            number = 0
            while True:
                number += 1
                name = f"alba-{random.randrange(20)}"
                message = {"msg_type": "Albabot", "robot_id": name, "status": "SERVING", "battery_level": number % 100}
                with contextlib.suppress(OSError, ValueError):
                    await asyncio.to_thread(server.tell, message)
                await asyncio.sleep(0.005)

        async def ask() -> None:
            for number in range(10**6):
                answer = await client.request("how are the robots?", request_id=f"q{number}")
                answers[f"q{number}"] = answers.get(f"q{number}", 0) + 1
                assert answer.text
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(work()) for work in (follow, load, ask)]
        for _ in range(KILL_ROUNDS):
            before = len(answers)
            await until(lambda before=before: len(answers) >= before + 5, within_s=60)  # type: ignore[misc]
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        before = len(answers)
        await until(lambda: len(answers) >= before + 5, within_s=60)
        for task in (tasks[1], tasks[2]):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        def stored() -> dict[str, float]:
            return dict(server.sql("SELECT robot_id, battery_level FROM robot"))

        def known(entities: Any) -> dict[str, float]:
            return {robot["robot_id"]: robot["battery_level"] for robot in entities.values()}

        try:
            await until(lambda: known(robots.entities) == stored())
            await until(lambda: known(replica) == stored())
        finally:
            tasks[0].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tasks[0]
    assert set(answers.values()) == {1}
    rows = server.sql("SELECT request_id, count(*) FROM chat_message WHERE status = 'COMPLETED' GROUP BY request_id")
    assert all(count == 1 for _, count in rows) and len(rows) >= len(answers)
    server.__exit__()
