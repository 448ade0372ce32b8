"""Sessions from outside: greeted, resumed, replaced, listed and swept; topics, heartbeats and closes on one socket."""

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import websockets

from robodyne_rt.model.access import Principal
from robodyne_rt.model.rows import SessionRow
from robodyne_rt.ports import Clock
from robodyne_rt.sessions.manager import SessionManager
from robodyne_rt.sessions.memory import MemorySessions
from tests.e2e.server import Replica, Server
from tests.e2e.session_client import Message, SessionClient, call, control, faults_logged, mint, older_names
from tests.ports import free_port


@pytest.fixture(scope="module")
def rt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server; each test has users of its own."""
    folder = tmp_path_factory.mktemp("sessions")
    limits = {"HUB__TOPIC_LIMITS": '{"video_streams": 1}', "LIMITS__QUERY_REQUESTS": "1000"}
    with Server(folder, AUTH__MODE="local", SERVER__PORT=str(free_port()), **limits) as running:
        running.tell({"msg_type": "Albabot", "robot_id": "alba-1", "battery_level": 50})
        yield running
        assert running.is_running, running.log()
        assert not faults_logged(running)


@pytest.fixture
def usual_role() -> str:
    return "manager"


async def listed(server: Server, user: str) -> list[dict[str, Any]]:
    """Return the sessions of a user as the list shows them."""
    token = mint(server.folder, "lister", "manager")
    status, body = await asyncio.to_thread(call, server.port, "GET", "/api/sessions", token=token)
    assert status == 200
    return [session for session in body["sessions"] if session["userId"] == user]


async def until_listed(server: Server, user: str, fact: Callable[[list[dict[str, Any]]], Any], *, within_s: float = 10) -> Any:
    """Wait until the list shows a fact about a user's sessions."""
    async with asyncio.timeout(within_s):
        while not fact(found := await listed(server, user)):
            await asyncio.sleep(0.02)
        return found


# -- greeted, resumed --------------------------------------------------------------------------------------------------------


async def test_the_greeting_says_who_one_is(come: Callable[..., Any], rt: Server) -> None:
    app = await come("greeted", "kitchen")
    greeting = app.greeting
    assert set(greeting) >= {"type", "sessionId", "sessionToken", "userId", "serverTime", "resumed", "roles", "rights"}
    assert (greeting["userId"], greeting["resumed"], greeting["roles"]) == ("greeted", False, ["kitchen"])
    assert "query" in greeting["rights"] and "administer" not in greeting["rights"]
    assert abs(datetime.fromisoformat(greeting["serverTime"]) - datetime.now(UTC)) < timedelta(seconds=30)
    assert len(greeting["sessionToken"]) >= 32 and greeting["sessionId"] not in greeting["sessionToken"]
    # Of the token only a digest is stored.
    async with asyncio.timeout(10):
        while greeting["sessionId"] not in (dump := str(rt.sql("SELECT * FROM session"))):
            await asyncio.sleep(0.01)
    assert greeting["sessionToken"] not in dump


async def test_a_session_resumes_by_its_token_and_by_nothing_else(come: Callable[..., Any]) -> None:
    app = await come("resumes")
    first, token = app.session_id, app.session_token
    app.abort()
    await app.ended()
    await app.connect()
    assert (app.greeting["resumed"], app.session_id, app.session_token) == (True, first, token)
    for wrong in (token[:-1], token + "x", first, "x", "'; --", "0" * 4000):
        other = await come("resumes", device="other")
        await other.close()
        other.session_token = wrong
        await other.connect()
        assert other.greeting["resumed"] is False and other.session_id != first and other.session_token not in (wrong, token)


async def test_another_users_session_is_not_resumed_and_not_disturbed(come: Callable[..., Any]) -> None:
    app, thief = await come("owner", confirm="none"), await come("thief")
    await app.ask("secret", "robot zulu-1")
    await thief.close()
    await thief.connect(session=app.session_token, answered="0")
    assert thief.greeting["resumed"] is False and thief.session_token != app.session_token
    await thief.settled()
    assert not [final for final in thief.finals if final.request_id == "secret"]
    assert (await app.ask("still", "robot zulu-2"))["status"] == "completed" and app.closed is None


async def test_resuming_closes_ones_own_older_socket_and_moves_everything_over(come: Callable[..., Any]) -> None:
    app = await come("moves", confirm="none")
    await app.ask("q", "robot zulu-1")
    newer = SessionClient(app.port, token=app.token, confirm="none", answered=False)
    newer.session_token = app.session_token
    async with await newer.connect():
        assert newer.greeting["resumed"] is True and newer.session_id == app.session_id
        assert await app.ended() == (4004, "session_replaced")
        assert (await newer.final("q"))["seq"] == 1
        assert (await newer.ask("r", "robot zulu-2"))["seq"] == 2
        assert not app.answers("r")


async def test_a_session_resumes_after_a_restart_with_what_was_not_delivered(come: Callable[..., Any], rt: Server) -> None:
    app, idle = await come("survivor", confirm="none", answered=False), await come("idle-survivor")
    for number in range(3):
        await app.ask(f"q{number}", f"robot zulu-{number}")
    await app.send(type="ack", seq=1)
    await idle.ask("q", "robot zulu-9")
    await app.settled()
    await idle.settled()
    ids = app.session_id, idle.session_id
    await asyncio.to_thread(rt.restart)
    assert await app.ended() == (1001, "shutting_down")
    await app.connect()
    await idle.connect()
    assert [app.greeting["resumed"], idle.greeting["resumed"]] == [True, True]
    assert (app.session_id, idle.session_id) == ids
    await app.settled()
    await idle.settled()
    assert [final.request_id for final in app.finals if final.connection == 2 and final.seq] == ["q1", "q2"]
    assert not [final for final in idle.finals if final.connection == 2 and final.seq]
    assert (await app.ask("q3", "robot zulu-3"))["seq"] == 4


async def test_ten_comebacks_at_once_after_a_restart_end_in_one_living_socket(come: Callable[..., Any], rt: Server) -> None:
    app = await come("impatient", confirm="none")
    await app.ask("q", "robot zulu-1")
    await app.close()
    await asyncio.to_thread(rt.restart)
    others = [SessionClient(rt.port, token=app.token, confirm="none", answered=False) for _ in range(10)]
    for other in others:
        other.session_token = app.session_token
    await asyncio.gather(*(other.connect() for other in others))
    assert {other.session_id for other in others} == {app.session_id}
    async with asyncio.timeout(10):
        while len(alive := [other for other in others if other.closed is None]) > 1:
            await asyncio.sleep(0.01)
    assert [other.closed for other in others if other.closed] == [(4004, "session_replaced")] * 9
    assert (await alive[0].ask("r", "robot zulu-2"))["seq"] == 2
    for other in others:
        await other.close()


async def test_who_has_no_rights_or_no_token_gets_no_session(rt: Server) -> None:
    for token, end in (
        ("", (1008, "token_missing")),
        ("x.y.z", (4001, "token_invalid")),
        (mint(rt.folder, "nobody", "nonsense"), (1008, "forbidden")),
        (mint(rt.folder, "past", "manager", lifetime_s=-100), (4001, "token_expired")),
    ):
        app = SessionClient(rt.port, token=token)
        with pytest.raises(websockets.ConnectionClosed):
            await app.connect()
        assert app.closed == end


async def test_a_user_who_is_disabled_loses_the_session_at_once(rt: Server) -> None:
    assert control(rt.folder, "POST", "/api/users", {"name": "leaver", "roles": ["kitchen"]})[0] == 201
    app = SessionClient(rt.port, token=control(rt.folder, "POST", "/api/tokens", {"user": "leaver"})[1]["token"])
    await app.connect()
    assert control(rt.folder, "PATCH", "/api/users/leaver", {"disabled": True})[0] == 200
    assert await app.ended() == (4001, "token_invalid")
    with pytest.raises(websockets.ConnectionClosed):
        await app.connect()


async def test_what_was_said_while_the_database_was_away_is_not_lost_to_anybody(start_server: Callable[..., Server]) -> None:
    """Sessions that began then resume after a restart; messages that were accepted then reach who came then."""
    server = start_server(AUTH__MODE="local", SERVER__PORT=str(free_port()))
    lock = sqlite3.connect(server.database, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    anna = SessionClient(server.port, token=mint(server.folder, "anna", "manager"), confirm="none", answered=False)
    await anna.connect()
    await anna.query("q", "robot zulu-1")  # answered when the server has given up on the database, after five seconds
    body = {"recipient": "bert", "message": "hello"}
    status, stored = await asyncio.to_thread(call, server.port, "POST", "/api/messages", body, token=anna.token)
    assert status == 201
    await anna.final("q")
    bert = SessionClient(server.port, token=mint(server.folder, "bert", "staff"))
    await bert.connect()
    await bert.settled()
    lock.execute("ROLLBACK")
    lock.close()
    async with asyncio.timeout(20):
        while server.sql("SELECT id FROM staff_message") != [(stored["id"],)]:
            await asyncio.sleep(0.02)
    faults = []
    with contextlib.suppress(TimeoutError):
        await bert.of_type("staff_message", within_s=3)
    if not [message for message in bert.heard if message["type"] == "staff_message"]:
        faults.append("a message that was accepted did not reach its recipient, who is there")
    await asyncio.to_thread(server.restart)
    await anna.ended()
    await anna.connect()
    await anna.settled()
    if not anna.greeting["resumed"]:
        faults.append("a session that began while the database was away was not resumed after a restart")
    elif len(anna.answers("q")) != 2:
        faults.append("its answer, which was not confirmed, did not come again")
    await anna.close()
    await bert.close()
    assert not faults, faults


# -- one session for each device ---------------------------------------------------------------------------------------------


async def test_a_newer_session_of_the_same_user_and_device_replaces_the_older(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", SESSIONS__SINGLE_SESSION_PER_USER="device")

    async def come(user: str, device: str = "") -> SessionClient:
        return await SessionClient(server.port, token=mint(server.folder, user, "manager"), device=device).connect()

    old, tablet, other = await come("anna"), await come("anna", "tablet"), await come("bert")
    new = await come("anna")
    assert await old.ended() == (4004, "session_replaced")
    tablet2 = await come("anna", "tablet")
    assert await tablet.ended() == (4004, "session_replaced")
    for app in (new, tablet2, other):
        assert (await app.ask("q", "robot zulu-1"))["response"] and app.closed is None
    there = await until_listed(server, "anna", lambda found: sum(s["presence"] == "online" for s in found) == 2)
    assert sorted(s["device"] for s in there if s["presence"] == "online") == ["", "tablet"]
    # The replaced one may still come back with its token, and replaces in turn.
    await old.connect()
    assert old.greeting["resumed"] is True
    assert await new.ended() == (4004, "session_replaced")
    for app in (old, tablet2, other):
        await app.close()


async def test_a_newer_session_of_the_same_user_replaces_those_of_all_devices(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", SESSIONS__SINGLE_SESSION_PER_USER="true")

    async def come(user: str, device: str = "") -> SessionClient:
        return await SessionClient(server.port, token=mint(server.folder, user, "manager"), device=device).connect()

    old, other = await come("anna", "tablet"), await come("bert", "tablet")
    new = await come("anna", "phone")
    assert await old.ended() == (4004, "session_replaced")
    for app in (new, other):
        assert (await app.ask("q", "robot zulu-1"))["response"] and app.closed is None
        await app.close()


async def test_without_that_setting_nobody_is_replaced(come: Callable[..., Any]) -> None:
    apps = [await come("many") for _ in range(3)]
    for app in apps:
        await app.settled()
    assert [app.closed for app in apps] == [None] * 3 and len({app.session_id for app in apps}) == 3


# -- who is there ------------------------------------------------------------------------------------------------------------


async def test_the_list_shows_who_is_there_with_which_topics(come: Callable[..., Any], rt: Server) -> None:
    app = await come("present", "kitchen", device="bump-bar-2")
    watcher = await come("watcher")
    await watcher.send(type="subscribe", topic="status")
    (mine,) = await listed(rt, "present")
    assert mine == mine | {
        "sessionId": app.session_id,
        "roles": ["kitchen"],
        "device": "bump-bar-2",
        "presence": "online",
        "topics": [],
    }
    assert set(older_names(mine)) == {
        *("sessionId", "userId", "roles", "device", "nodeId"),
        *("connectedAt", "lastSeen", "presence", "topics", "ttl"),
    }
    assert 0 < mine["ttl"] <= 3600 and mine["connectedAt"] <= mine["lastSeen"]

    def shown(presence: str, topics: list[str]) -> Callable[[Message], bool]:
        wanted = {"userId": "present", "presence": presence, "topics": topics}
        return lambda m: (
            m.get("topic") == "status" and any(wanted.items() <= session.items() for session in m["data"].get("sessions", ()))
        )

    await watcher.message(shown("online", []))
    await app.send(type="subscribe", topic="orders")
    await app.send(type="subscribe", topic="tables")
    await watcher.message(shown("online", ["orders", "tables"]), within_s=3)
    await app.send(type="unsubscribe", topic="orders")
    await watcher.message(shown("online", ["tables"]), within_s=3)
    app.abort()
    await app.ended()
    await watcher.message(shown("away", []), within_s=3)
    (mine,) = await listed(rt, "present")
    assert (mine["presence"], mine["topics"]) == ("away", [])
    assert call(rt.port, "GET", "/api/sessions")[0] == 401
    assert call(rt.port, "GET", "/api/sessions", token=mint(rt.folder, "cook", "kitchen"))[0] == 403
    session = next(m for m in reversed(watcher.heard) if m.get("topic") == "status")["data"]["sessions"][0]
    assert "sessionToken" not in session and "sessionId" not in session


async def test_who_came_last_is_seen_however_many_are_away(come: Callable[..., Any], rt: Server) -> None:
    left = [SessionClient(rt.port, token=mint(rt.folder, "passer-by", "kitchen"), device=str(number)) for number in range(101)]
    for app in left:
        await app.connect()
        app.abort()
    await asyncio.gather(*(app.ended() for app in left))
    await come("newest", "kitchen")
    watcher = await come("watcher-2")
    await watcher.send(type="subscribe", topic="status")
    status = await watcher.message(
        lambda m: (
            m.get("topic") == "status" and any(session["userId"] == "newest" for session in m["data"].get("sessions", ()))
        ),
        within_s=5,
    )
    shown = status["data"]["sessions"]
    presence = [session["presence"] for session in shown]
    assert len(shown) == 100 and presence == sorted(presence, reverse=True), "who is online comes first"


CLIENT_PROGRAM = """
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], ping_interval=None) as link:
        print(await link.recv(), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_client_that_is_killed_is_away_at_once_and_swept_when_it_stays_away(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(AUTH__MODE="local", SESSIONS__STALE_AFTER_S="1")
    token = mint(server.folder, "victim", "manager")
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT_PROGRAM, f"ws://127.0.0.1:{server.port}/ws?token={token}"), stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    greeting = json.loads(await program.stdout.readline())
    assert [session["presence"] for session in await listed(server, "victim")] == ["online"]
    stays = await SessionClient(server.port, token=mint(server.folder, "stays", "manager")).connect()
    program.send_signal(signal.SIGKILL)
    await program.wait()
    await until_listed(server, "victim", lambda found: [s["presence"] for s in found] != ["online"], within_s=3)
    await until_listed(server, "victim", lambda found: found == [], within_s=6)
    await asyncio.sleep(1)  # who is there and says nothing is not swept
    assert [session["presence"] for session in await listed(server, "stays")] == ["online"]
    # Swept is not forgotten: its token is good for a day.
    again = SessionClient(server.port, token=token)
    again.session_token = greeting["sessionToken"]
    await again.connect()
    assert again.greeting["resumed"] is True and again.session_id == greeting["sessionId"]
    await again.close()
    await stays.close()


async def test_a_session_past_its_ttl_is_not_resumed(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", SESSIONS__STALE_AFTER_S="0.2", SESSIONS__TTL_S="1")
    app = await SessionClient(server.port, token=mint(server.folder, "old", "manager")).connect()
    first = app.session_id
    app.abort()
    await app.ended()
    await until_listed(server, "old", lambda found: found == [])
    await asyncio.sleep(1.1)
    await app.connect()
    assert app.greeting["resumed"] is False and app.session_id != first
    await app.close()


# -- topics on one socket ------------------------------------------------------------------------------------------------------


def of_topic(app: SessionClient, topic: str) -> list[Message]:
    return [message for message in app.heard if message["type"] == "update" and message["topic"] == topic]


async def test_all_topics_live_on_one_socket_and_each_has_its_own_stream(come: Callable[..., Any], rt: Server) -> None:
    app = await come("all-topics")
    topics = ["robots", "tables", "events", "orders", "status", "systemlogs", "customers", "inventory"]
    for topic in topics:
        await app.send(type="subscribe", topic=topic)
    for topic in topics:
        first = await app.message(lambda m, topic=topic: m.get("topic") == topic)
        assert first["type"] == "update" and first["snapshot"] is True and first["epoch"]
    for number in range(30):
        rt.tell(
            {"msg_type": "Albabot", "robot_id": "alba-9", "battery_level": number},
            {"msg_type": "Table", "table_number": 9, "customer_count": number},
            {"msg_type": "Event", "type": "INFO", "description": f"n{number}"},
        )
    await app.message(lambda m: m.get("topic") == "robots" and any(r["battery_level"] == 29 for r in m["data"]))
    await app.message(lambda m: m.get("topic") == "tables" and any(t["customer_count"] == 29 for t in m["data"]))
    await app.message(lambda m: m.get("topic") == "events" and any(e["description"] == "n29" for e in m["data"]))
    for topic in ("robots", "tables", "events"):
        replica = Replica()
        for message in of_topic(app, topic):
            replica.apply(message)  # raises on a gap
    await app.send(type="unsubscribe", topic="robots")
    await app.settled()
    heard = len(of_topic(app, "robots"))
    rt.tell({"msg_type": "Albabot", "robot_id": "alba-9", "battery_level": 77}, {"msg_type": "Table", "table_number": 10})
    await app.message(lambda m: m.get("topic") == "tables" and any(t["table_number"] == 10 for t in m["data"]))
    assert len(of_topic(app, "robots")) == heard


async def test_a_topic_goes_on_from_a_position(come: Callable[..., Any], rt: Server) -> None:
    app = await come("positions")
    await app.send(type="subscribe", topic="tables")
    first = await app.message(lambda m: m.get("topic") == "tables")
    for number in range(20, 23):
        rt.tell({"msg_type": "Table", "table_number": number})
    await app.message(lambda m: m.get("topic") == "tables" and any(t["table_number"] == 22 for t in m["data"]))
    app.abort()
    await app.ended()
    await app.connect()
    for position, recovered in (
        ({"since": first["offset"], "epoch": first["epoch"]}, True),
        ({"since": str(first["offset"]), "epoch": first["epoch"]}, True),
        ({"since": first["offset"], "epoch": "other"}, False),
        ({"since": first["offset"]}, False),
        ({"since": -1, "epoch": first["epoch"]}, False),
        ({"since": True, "epoch": first["epoch"]}, False),
        ({"since": 10**9, "epoch": first["epoch"]}, False),
        ({"since": [1], "epoch": {}}, False),
    ):
        heard = len(app.heard)
        await app.send(type="subscribe", topic="tables", **position)  # asked again each time
        found = await app.message(lambda m: m.get("topic") == "tables", after=heard)
        assert bool(found.get("recovered")) is recovered and bool(found.get("snapshot")) is not recovered, position
        if recovered:
            assert found["prev"] == first["offset"] and {t["table_number"] for t in found["data"]} == {20, 21, 22}
    await app.settled()
    rt.tell({"msg_type": "Table", "table_number": 23})
    heard = len(app.heard)
    await app.message(lambda m: m.get("topic") == "tables" and any(t["table_number"] == 23 for t in m["data"]))
    await app.settled()
    updates = [m for m in app.heard if m.get("topic") == "tables" and any(t["table_number"] == 23 for t in m["data"])]
    assert len([m for m in updates if not m.get("volatile")]) == 1, "eight subscriptions became one"


async def test_a_paced_and_a_paused_topic_catch_up(come: Callable[..., Any], rt: Server) -> None:
    app = await come("paced")
    await app.send(type="subscribe", topic="tables", interval=1)
    await app.send(type="subscribe", topic="robots")
    await app.message(lambda m: m.get("topic") == "tables")
    await app.message(lambda m: m.get("topic") == "robots")
    for number in range(30):
        rt.tell({"msg_type": "Table", "table_number": 40, "customer_count": number})
    await app.message(lambda m: m.get("topic") == "tables" and any(t["customer_count"] == 29 for t in m["data"]))
    assert len(of_topic(app, "tables")) <= 6
    await app.send(type="pause")
    await app.settled()
    heard = len(app.heard)
    for number in range(5):
        rt.tell({"msg_type": "Albabot", "robot_id": "alba-40", "battery_level": 10 + number})
    assert (await app.ask("paused", "robot zulu-1"))["status"] == "completed"  # only updates pause
    assert not [m for m in app.heard[heard:] if m["type"] == "update"]
    await app.send(type="resume")
    await app.message(lambda m: m.get("topic") == "robots" and m["data"] and m["data"][-1]["battery_level"] == 14, after=heard)
    assert len([m for m in app.heard[heard:] if m.get("topic") == "robots"]) == 1
    replica = Replica()
    for message in of_topic(app, "robots"):
        replica.apply(message)


async def test_what_cannot_be_subscribed_to_is_told_and_the_session_lives(come: Callable[..., Any]) -> None:
    app, rival = await come("picky", "kitchen"), await come("rival")
    await rival.send(type="subscribe", topic="video_streams")
    await rival.of_type("update")
    owner = await come("second")
    cases: list[tuple[SessionClient, dict[str, Any], str]] = [
        (app, {"type": "subscribe", "topic": "nothing"}, "NOT_FOUND"),
        (app, {"type": "subscribe", "topic": "session"}, "NOT_FOUND"),
        (app, {"type": "subscribe", "topic": "users"}, "NOT_FOUND"),
        (app, {"type": "subscribe", "topic": "systemlogs"}, "FORBIDDEN"),
        (app, {"type": "subscribe"}, "INVALID_MESSAGE"),
        (app, {"type": "subscribe", "topic": ["robots"]}, "INVALID_MESSAGE"),
        (app, {"type": "subscribe", "topic": "robots", "interval": -1}, "INVALID_MESSAGE"),
        (app, {"type": "subscribe", "topic": "robots", "interval": True}, "INVALID_MESSAGE"),
        (app, {"type": "subscribe", "topic": "robots", "interval": "1"}, "INVALID_MESSAGE"),
        (app, {"type": "unsubscribe", "topic": "nonsense"}, "NOT_FOUND"),
        (owner, {"type": "subscribe", "topic": "video_streams"}, "TOPIC_FULL"),
        (app, {"type": "dance"}, "UNKNOWN_TYPE"),
        (app, {"type": 7}, "INVALID_MESSAGE"),
        (app, {}, "INVALID_MESSAGE"),
    ]
    for client, message, code in cases:
        heard = len(client.heard)
        await client.send(**message)
        error = await client.of_type("error", after=heard)
        assert error["data"]["code"] == code, (message, error)
        assert error["topic"] == (message["topic"] if code in ("FORBIDDEN", "TOPIC_FULL", "NOT_FOUND") else "session")
    for text in ("{", "[]", '"x"', "7", "null", "[" * 5000, '{"type":"query"'):
        heard = len(app.heard)
        await app.send_raw(text)
        assert (await app.of_type("error", after=heard))["data"]["code"] == "INVALID_MESSAGE", text[:20]
    assert (await app.ask("q", "robot zulu-1"))["status"] == "completed"
    await rival.send(type="unsubscribe", topic="video_streams")
    await rival.settled()
    heard = len(owner.heard)
    await owner.send(type="subscribe", topic="video_streams")
    assert (await owner.of_type("update", after=heard))["snapshot"] is True  # the place was given back
    with contextlib.suppress(websockets.ConnectionClosed):
        for _ in range(30):
            await app.send_raw("{")
    assert await app.ended() == (1008, "abuse")


async def test_a_role_that_is_taken_away_ends_its_topics_and_nothing_else(rt: Server) -> None:
    def about(topic: str) -> Callable[[Message], bool]:
        return lambda m: m.get("topic") == topic

    control(rt.folder, "POST", "/api/users", {"name": "climber", "roles": ["manager"]})
    app = SessionClient(rt.port, token=control(rt.folder, "POST", "/api/tokens", {"user": "climber"})[1]["token"])
    await app.connect()
    for topic in ("systemlogs", "robots"):
        await app.send(type="subscribe", topic=topic)
        await app.message(about(topic))
    control(rt.folder, "PATCH", "/api/users/climber", {"roles": ["kitchen"]})
    error = await app.of_type("error")
    assert (error["topic"], error["data"]["code"]) == ("systemlogs", "FORBIDDEN")
    heard = len(app.heard)
    rt.tell({"msg_type": "Log", "level": "INFO", "message": "secret"}, {"msg_type": "Albabot", "robot_id": "alba-55"})
    await app.message(lambda m: m.get("topic") == "robots" and m["type"] == "update", after=heard)
    await app.settled()
    assert not of_topic(app, "systemlogs")[1:]
    assert [session["topics"] for session in await listed(rt, "climber")] == [["robots"]]
    await app.close()


# -- how it ends ---------------------------------------------------------------------------------------------------------------


async def test_who_answers_no_ping_is_closed_and_comes_back_to_what_waits(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", HUB__PING_INTERVAL_S="0.3", HUB__PONG_TIMEOUT_S="0.2", HUB__MAX_MISSED_PONGS="2")
    token = mint(server.folder, "deaf", "manager")
    deaf = SessionClient(server.port, token=token, confirm="none", answered=False)
    good = SessionClient(server.port, token=mint(server.folder, "good", "manager"))
    protocol = SessionClient(server.port, token=mint(server.folder, "protocol", "manager"), confirm="none")
    await deaf.connect()
    await good.connect()
    await protocol.connect(heartbeat="protocol")
    await deaf.ask("q", "robot zulu-1")
    assert await deaf.ended() == (4003, "heartbeat_lost")
    await until_listed(server, "deaf", lambda found: [s["presence"] for s in found] == ["away"])
    await deaf.connect()
    assert (await deaf.final("q"))["seq"] == 1
    await deaf.until(lambda: len(deaf.answers("q")) == 2)
    assert deaf.greeting["resumed"] is True
    ping = await good.message(lambda m: m["type"] == "ping")
    assert ping["topic"] == "status" and abs(ping["data"]["timestamp"] - datetime.now(UTC).timestamp()) < 30
    assert good.closed is None and protocol.closed is None
    # Its pongs are no messages, but signs of life.
    await until_listed(server, "protocol", lambda found: found[0]["lastSeen"] > found[0]["connectedAt"], within_s=5)
    # At shutdown everybody is told, in words and by the code.
    await asyncio.to_thread(server.stop)
    assert await good.ended() == (1001, "shutting_down") and await protocol.ended() == (1001, "shutting_down")
    notice = good.heard[-1]
    assert notice["type"] == "shutdown" and notice["topic"] == "status" and notice["data"]["reason"]
    for app in (deaf, good, protocol):
        await app.close()


@contextlib.contextmanager
def deaf(server: Server, token: str) -> Iterator[socket.socket]:
    """A session whose client reads nothing unless the test does; little fits on the way to it."""
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        link.settimeout(20)
        link.connect(("127.0.0.1", server.port))
        link.sendall(
            f"GET /ws?token={token} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        yield link


async def turned_away(app: SessionClient) -> tuple[int, str] | None:
    """Return the close code and reason of a client that is not let in."""
    with pytest.raises(websockets.ConnectionClosed):
        await app.connect()
    return app.closed


async def test_who_takes_nothing_any_more_frees_its_place_and_comes_back_to_its_own(
    start_server: Callable[..., Server],
) -> None:
    heartbeat = {"HUB__PING_INTERVAL_S": "1", "HUB__PONG_TIMEOUT_S": "0.5", "HUB__MAX_MISSED_PONGS": "3"}
    server = start_server(
        AUTH__MODE="local",
        SERVER__PORT=str(free_port()),
        SESSIONS__MAX_CONNECTIONS="1",
        HUB__MAX_CONNECTIONS_PER_TOPIC="1",
        **heartbeat,
    )
    token = mint(server.folder, "anna", "manager")
    stranger = SessionClient(server.port, token=mint(server.folder, "bert", "manager"))
    with deaf(server, token):
        await until_listed(server, "anna", lambda found: [s["presence"] for s in found] == ["online"])
        assert await turned_away(stranger) == (1008, "topic_full")
        await until_listed(server, "anna", lambda found: [s["presence"] for s in found] == ["away"], within_s=9)
        app = await SessionClient(server.port, token=token).connect()
        await app.send(type="subscribe", topic="robots")
        await app.of_type("update")
        # The same session again, while all places are taken: its old one is its own.
        again = SessionClient(server.port, token=token)
        again.session_token = app.session_token
        await again.connect()
        assert again.greeting["resumed"] is True
        assert await app.ended() == (4004, "session_replaced")
        await again.send(type="subscribe", topic="robots")
        await again.of_type("update")
        assert await turned_away(stranger) == (1008, "topic_full")
        await again.close()


def masked(text: bytes) -> bytes:
    """Return a short text as a client's frame, under a mask of zeros."""
    return bytes((0x81, 0x80 | len(text))) + bytes(4) + text


async def test_a_session_that_does_not_read_is_closed_as_too_slow_and_costs_nobody_else(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(
        AUTH__MODE="local",
        HUB__SEND_BUFFER_LIMIT_BYTES="2000",
        HUB__SLOW_CLIENT_TIMEOUT_S="0.5",
        SERVER__PORT=str(free_port()),
    )
    token = mint(server.folder, "slow", "manager")
    with deaf(server, token) as link:
        text = b'{"type":"subscribe","topic":"events"}'
        link.sendall(masked(text))
        good = await SessionClient(server.port, token=mint(server.folder, "good", "manager")).connect()
        await good.send(type="subscribe", topic="events")
        await until_listed(server, "slow", lambda found: found and found[0]["topics"] == ["events"])
        big, sent = "x" * 15_000, 0
        async with asyncio.timeout(40):
            while 'reason="too_slow"' not in metrics(server):
                events = [{"msg_type": "Event", "type": "INFO", "description": f"{sent + n} {big}"} for n in range(40)]
                sent += len(events)
                await asyncio.to_thread(server.tell, *events)
        await good.message(
            lambda m: m["type"] == "update" and any(e["description"].startswith(f"{sent - 1} ") for e in m["data"])
        )
        received = b""
        with contextlib.suppress(OSError):
            while b"too_slow" not in received[-200:] and (chunk := await asyncio.to_thread(link.recv, 1 << 16)):
                received += chunk
        # The close is the last thing in what was sent, if the kernel took it; else the line was cut.
        assert (4005).to_bytes(2, "big") + b"too_slow" in received[-200:] or not received.endswith(b"}")
    await until_listed(server, "slow", lambda found: [s["presence"] for s in found] == ["away"])
    await good.close()


async def test_who_asks_on_and_reads_nothing_is_closed_before_its_answers_fill_the_memory(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(AUTH__MODE="local", HUB__SEND_BUFFER_LIMIT_BYTES="2000", SERVER__PORT=str(free_port()))
    token = mint(server.folder, "deaf", "manager")
    app = await SessionClient(server.port, token=token, capabilities="available_data,api", confirm="ack").connect()
    await app.query("long", "what about zulu")
    asked = await app.of_type("request_available_data")
    await app.send(type="available_data", requestId=asked["requestId"], data=["zulu"])
    asked = await app.of_type("request_api")
    await app.send(type="api_result", requestId=asked["requestId"], result=["z" * 1000] * 40)
    await app.final("long")
    await app.close()
    with deaf(server, token) as link:
        text = b'{"type":"query","requestId":"long","message":"again"}'
        async with asyncio.timeout(60):
            while 'reason="too_slow"' not in metrics(server):
                for _ in range(20):
                    with contextlib.suppress(OSError):
                        link.sendall(masked(text))
                await asyncio.sleep(0.4)
    assert 'reason="abuse"' not in metrics(server)


async def test_who_is_there_is_shown_in_status_to_those_only_who_may_know(rt: Server, come: Callable[..., Any]) -> None:
    heard = {}
    for role in ("kitchen", "manager"):
        app = await come(f"watches-{role}", role)
        await app.send(type="subscribe", topic="status")
        first = await app.message(lambda m: m.get("topic") == "status" and m["type"] == "update")
        mark = len(app.heard)
        await come(f"comes-for-{role}", "staff")
        await asyncio.to_thread(rt.tell, {"msg_type": "Albabot", "robot_id": f"new-{role}"})
        later = await app.message(lambda m: m.get("topic") == "status" and m["type"] == "update", after=mark)
        status, polled = await asyncio.to_thread(call, rt.port, "GET", "/api/status", token=app.token)
        heard[role] = ["sessions" in message["data"] for message in (first, later, polled)]
        assert status == 200 and all("robots" in message["data"] for message in (first, later, polled))
        assert later["offset"] > first["offset"]
    assert heard == {"kitchen": [False] * 3, "manager": [True] * 3}


async def test_topics_asked_for_again_and_again_by_who_reads_nothing_are_sent_once_it_has_drained(
    start_server: Callable[..., Server],
) -> None:
    """The first message of a subscription waits like all others, or a client could have any number of them written."""
    server = start_server(AUTH__MODE="local", HUB__SEND_BUFFER_LIMIT_BYTES="2000", SERVER__PORT=str(free_port()))
    big = "x" * 15_000
    await asyncio.to_thread(
        server.tell, *[{"msg_type": "Event", "type": "INFO", "description": f"{n} {big}"} for n in range(20)]
    )
    token = mint(server.folder, "deaf", "manager")
    with deaf(server, token) as link:
        text = b'{"type":"subscribe","topic":"events"}'
        for _ in range(100):
            link.sendall(masked(text))
        received, whole = b"", 20 * 15_000
        while received.count(b'"type":"update"') < 1 or len(received) < whole:
            received += await asyncio.to_thread(link.recv, 1 << 16)
        # Then it reads: the state comes as often as the kernel had room for, not a hundred times, and at the end all is well.
        link.sendall(masked(b'{"type":"ping","data":7}'))
        while b'"type":"pong"' not in received[-(1 << 18) :]:
            received += await asyncio.to_thread(link.recv, 1 << 16)
    assert len(received) < 60 * whole


class SlowRecords:
    """Finds one session, later for who asks first; implements `sessions.manager.Records`."""

    def __init__(self) -> None:
        self.waits_s = [0.2, 0.0]

    async def find(self, token_digest: str, since: float) -> SessionRow:
        await asyncio.sleep(self.waits_s.pop(0))
        return SessionRow(
            id="S",
            user_name="anna",
            device="",
            token_digest=token_digest,
            seq=0,
            acked=0,
            answers=[],
            created_at="2026-01-01T00:00:00Z",
        )

    def create(self, columns: dict[str, Any]) -> None: ...

    def refresh(self, seen: list[Any]) -> None: ...


class Line:
    """A connection that may be gone; implements `sessions.manager.Link`."""

    principal = Principal("anna", frozenset({"staff"}), frozenset({"query"}))
    topics: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.is_gone = False
        self.sent: list[bytes] = []
        self.closed: Any = None

    def send(self, payload: bytes) -> None:
        self.sent.append(payload)

    send_undelivered = send

    async def has_room(self) -> bool:
        return True

    def expect_pong(self) -> None: ...

    def close(self, error: Any) -> None:
        self.closed = error


async def test_a_comeback_that_was_given_up_does_not_stop_the_one_that_stands() -> None:
    manager = SessionManager(
        store=MemorySessions(),
        repository=SlowRecords(),
        ttl_s=9,
        stale_after_s=9,
        single=False,
        clock=Clock(),
        on_presence=lambda: None,
    )
    options: dict[str, Any] = {"device": "", "token": "t", "confirmed": None, "capabilities": frozenset(), "more": {}}
    gone, stands = Line(), Line()
    first = asyncio.create_task(manager.attach(gone, **options))
    await asyncio.sleep(0)
    gone.is_gone = True
    session = await manager.attach(stands, **options)
    assert session is not None and session.link is stands and b'"resumed":true' in stands.sent[0]
    assert await first is None
    assert session.link is stands and stands.closed is None and not gone.sent


async def test_guests_do_not_replace_each_other(start_server: Callable[..., Server]) -> None:
    open_to_all = {"AUTH__ANONYMOUS_TOPICS": '["robots"]', "AUTH__ANONYMOUS_NETWORKS": '["127.0.0.0/8"]'}
    server = start_server(
        AUTH__MODE="local", SERVER__PORT=str(free_port()), SESSIONS__SINGLE_SESSION_PER_USER="true", **open_to_all
    )
    guests = [await SessionClient(server.port, device="wall-1").connect() for _ in range(3)]
    for guest in guests:
        await guest.settled()
        assert guest.closed is None
        await guest.close()


def metrics(server: Server) -> str:
    """Return what the server counts."""
    token = mint(server.folder, "root", "admin")
    status, _, body = server.get("/metrics", Authorization=f"Bearer {token}")
    assert status == 200
    return body.decode()
