"""Topics, sessions, questions, messages, letters and backups, on a server in this process."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.client import Change, Client, Refused, RequestFailed, StaffMessage
from robodyne_rt.client.follow import follow
from tests.shells.web.app import Running, running

ROBOT = {"msg_type": "Albabot", "robot_id": "alba-1", "status": "IDLE", "battery_level": 80}


async def tell(server: Running, admin: str, **message: Any) -> Any:
    return await server.do("POST", "/api/device-messages", message, token=admin)


async def test_a_topic_is_polled_and_watched(server: Running, admin: str) -> None:
    watching = await server.socket("/ws/robots", token=admin)
    assert (await watching.next("update"))["data"] == []
    assert (await tell(server, admin, id="1", **ROBOT))["status"] == "success"
    while not (update := await watching.next("update"))["data"]:
        pass
    assert update["data"][0]["robot_id"] == "alba-1"
    polled = await server.do("GET", "/api/robots", token=admin)
    assert [robot["battery_level"] for robot in polled["data"]] == [80]
    later = await server.do("GET", f"/api/robots?since={polled['offset']}&epoch={polled['epoch']}", token=admin)
    assert later["data"] == [] and later["offset"] == polled["offset"]
    await watching.say(type="fly")
    assert (await watching.next("error"))["data"]["code"] == "UNKNOWN_TYPE"


async def test_follow_yields_what_happens_to_a_topic(server: Running, admin: str) -> None:
    seen = []
    async with asyncio.timeout(10):
        async for message in follow(server.url, "events", token=admin):
            seen.append(message)
            if len(seen) == 1:
                await tell(server, admin, msg_type="Event", type="CALL", table_number=3, id="1")
            if message["type"] == "update" and message["data"]:
                break
    assert seen[0]["snapshot"] is True and seen[-1]["data"][0]["type"] == "CALL"
    with pytest.raises(Refused):
        async for _ in follow(server.url, "nothing", token=admin):
            pass


async def test_a_session_watches_asks_and_is_asked(server: Running, admin: str) -> None:
    for number in (1, 2):
        await tell(server, admin, **ROBOT | {"robot_id": f"alba-{number}", "id": str(number)})

    async def choose(question: str, options: list[str]) -> str:
        return options[0]

    progress: list[str] = []
    async with Client(server.url, token=server.token("kim", "staff"), on_clarification=choose) as client:
        robots = await client.subscribe("robots")
        assert {robot["robot_id"] for robot in robots.entities.values()} == {"alba-1", "alba-2"}
        status = await client.subscribe("status", interval_s=0.1)
        assert status.status["robots"]["by_status"] == {"IDLE": 2}
        answer = await client.request("how many robots are idle?", on_progress=progress.append)
        assert "2" in answer.text and answer.remaining == 9
        await client.request("where is the serving robot?")
        changes: list[Change] = []

        async def read() -> None:
            async for change in robots:
                changes.append(change)

        reading = asyncio.create_task(read())
        await tell(server, admin, **ROBOT | {"battery_level": 12, "id": "9"})
        async with asyncio.timeout(10):
            while not any(robot["battery_level"] == 12 for robot in robots.entities.values()):
                await asyncio.sleep(0.01)
        await client.unsubscribe("robots")
        await reading
        assert changes[0].snapshot
        with pytest.raises(Refused):
            await client.subscribe("nothing")
    listed = await server.do("GET", "/api/chat", token=server.token("kim", "staff"))
    assert len(listed["messages"]) == 2


async def test_the_eleventh_question_of_a_minute_is_refused(server: Running) -> None:
    async with Client(server.url, token=server.token("kim", "staff")) as client:
        remaining = [(await client.request("which tables are free?")).remaining for _ in range(10)]
        assert remaining == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
        with pytest.raises(RequestFailed) as refused:
            await client.request("and now?")
        assert refused.value.code == "RATE_LIMITED" and refused.value.details["retry_after"] > 0


async def test_a_message_reaches_who_is_there_and_who_comes_later(server: Running, admin: str) -> None:
    await server.do("POST", "/api/users", {"name": "lee", "roles": ["kitchen"], "password": "a long password"}, token=admin)
    heard: list[StaffMessage] = []

    async def hear(message: StaffMessage) -> None:
        heard.append(message)

    lee, kim = server.token("lee", "kitchen"), server.token("kim", "staff")
    async with Client(server.url, token=kim) as sender, Client(server.url, token=lee, on_staff_message=hear) as there:
        await there.ready()
        stored = await sender.send_message("role:kitchen", "table 3 waits", message_type="ALERT")
        async with asyncio.timeout(10):
            while not heard:
                await asyncio.sleep(0.01)
    assert (heard[0].id, heard[0].message, heard[0].sender) == (stored["id"], "table 3 waits", "kim")
    await server.do("POST", "/api/messages", {"recipient": "lee", "message": "come"}, token=kim)
    async with Client(server.url, token=lee, on_staff_message=hear) as later:
        async with asyncio.timeout(10):
            while len(heard) < 3:
                await asyncio.sleep(0.01)
        await later.mark_read(heard[-1].id)
        async with asyncio.timeout(10):
            while len((await server.do("GET", "/api/messages?unread=1", token=lee))["messages"]) != 1:
                await asyncio.sleep(0.01)
    sent = (await server.do("GET", "/api/messages", token=kim))["messages"]
    assert [message["message"] for message in sent] == ["come", "table 3 waits"]
    assert sent[0]["read_by"][0]["user_id"] == "lee"
    await server.do("POST", f"/api/messages/{stored['id']}/read", token=lee)


async def test_sessions_are_listed_and_shown(server: Running, admin: str) -> None:
    async with Client(server.url, token=server.token("kim", "staff"), device="till") as client:
        await client.subscribe("tables")
        (session,) = (await server.do("GET", "/api/sessions", token=admin))["sessions"]
        assert (session["user_id"], session["device"], session["presence"]) == ("kim", "till", "online")
        assert session["topics"] == ["tables"]


async def test_a_session_goes_on_where_it_was(server: Running) -> None:
    token = server.token("kim", "staff")
    first = await server.socket("/ws?device=till", token=token)
    greeting = await first.next("connected")
    assert greeting["resumed"] is False
    await first.say(type="query", requestId="q1", message="which tables are free?")
    answer = await first.next("response")
    await first.link.close()
    second = await server.socket(f"/ws?session={greeting['sessionToken']}&answered=0", token=token)
    again = await second.next("connected")
    assert again["resumed"] is True and again["sessionId"] == greeting["sessionId"]
    assert await second.next("response") == answer
    third = await server.socket(f"/ws?session={greeting['sessionToken']}", token=token)
    await third.next("connected")
    assert await second.closed() == 4004
    for message, code in (
        ({"type": "query"}, "INVALID_MESSAGE"),
        ({"type": "human_response", "requestId": "x", "response": "y"}, "INVALID_REQUEST_ID"),
        ({"type": "subscribe", "topic": "nothing"}, "NOT_FOUND"),
    ):
        await third.say(**message)
        assert (await third.next("error"))["data"]["code"] == code
    await third.say(action="sendMessage", requestId="q2", userId="kim", message="?", timestamp="now")
    async with asyncio.timeout(10):
        while '"messageResponse"' not in (await third.link.receive()).data:
            pass


async def test_letters_backups_health_and_metrics(server: Running, admin: str, tmp_path: Path) -> None:
    assert (await server.do("GET", "/api/dead-letters", token=admin))["dead_letters"] == []
    assert (await server.ask("GET", "/api/dead-letters/7", token=admin))[0] == 404
    assert (await server.do("POST", "/api/dead-letters", {"action": "drop", "ids": "all"}, token=admin))["results"] == []
    made = await server.do("POST", "/api/backups", token=admin)
    assert Path(made["path"]).is_relative_to(tmp_path) and Path(made["path"]).stat().st_size > 0
    assert (await server.ask("GET", "/livez"))[0] == 200
    status, report = await server.ask("GET", "/readyz?verbose", token=admin)
    assert status == 200 and report["checks"]
    async with Client(server.url, token=server.token("kim", "staff")) as client:
        await client.subscribe("robots")
        text = await server.do("GET", "/metrics", token=admin)
    assert "robodyne_event_loop_lag_seconds" in text and "robodyne_hub_io_uring" in text


async def test_a_device_message_over_http_is_answered_like_on_a_wire(server: Running, admin: str) -> None:
    assert (await tell(server, admin, msg_type="Event", type="CALL", id="1"))["status"] == "success"
    status, answer = await server.ask("POST", "/api/device-messages", {"msg_type": "Fly"}, token=admin)
    assert (status, answer["error_code"]) == (422, "UNKNOWN_TYPE")
    status, answer = await server.ask(
        "POST", "/api/device-messages", {"msg_type": "Event", "type": "OTHER", "id": "1"}, token=admin
    )
    assert status == 409


async def test_what_is_open_to_a_network_needs_no_token(tmp_path: Path) -> None:
    opened = {"anonymous_topics": ["robots"], "anonymous_networks": ["127.0.0.0/8"]}
    async with running(tmp_path, auth=opened) as server:
        assert (await server.do("GET", "/api/robots"))["data"] == []
        assert (await server.ask("GET", "/api/orders"))[0] == 401
        socket = await server.socket("/ws/robots")
        assert (await socket.next("update"))["snapshot"] is True
