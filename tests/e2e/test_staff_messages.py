"""Staff messages from outside: pushed at once, stored once, brought to who was away, lost never.

`ROBODYNE_KILL_ROUNDS=20 scripts/test tests/e2e/test_staff_messages.py` runs the long version.
"""

import asyncio
import contextlib
import http.client
import json
import os
import random
import sqlite3
import threading
import urllib.error
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.e2e.server import Server
from tests.e2e.session_client import Message, SessionClient, call, control, faults_logged, mint, older_names
from tests.faults.shim import Shim
from tests.faults.store import Victim
from tests.ports import free_port
from tests.stores import Store

ROUNDS = int(os.environ.get("ROBODYNE_KILL_ROUNDS", "5"))


@pytest.fixture(scope="module")
def rt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server; each test has people of its own."""
    folder = tmp_path_factory.mktemp("messages")
    with Server(folder, AUTH__MODE="local", SERVER__PORT=str(free_port())) as running:
        yield running
        assert running.is_running, running.log()
        assert not faults_logged(running)


@pytest.fixture
def usual_role() -> str:
    return "staff"


class Sender:
    """Somebody who writes over HTTP."""

    def __init__(self, server: Server, name: str, *roles: str) -> None:
        self.server = server
        self.token = mint(server.folder, name, *(roles or ("manager",)))

    async def post(self, recipient: str, message: Any, *, key: str = "", **more: Any) -> tuple[int, Any]:
        headers = {"Idempotency_Key": key} if key else {}
        body = {"recipient": recipient, "message": message, **more}
        return await asyncio.to_thread(call, self.server.port, "POST", "/api/messages", body, token=self.token, **headers)

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        return call(self.server.port, method, path, token=self.token)


def got(app: SessionClient) -> list[Message]:
    """Return the staff messages that an app was brought."""
    return [message for message in app.heard if message["type"] == "staff_message"]


def texts(app: SessionClient) -> list[str]:
    return [message["message"] for message in got(app)]


# -- at once -------------------------------------------------------------------------------------------------------------


async def test_a_message_arrives_long_before_a_slow_commit_is_done(tmp_path: Path) -> None:
    """To a user and to a role; the answer (201) comes when it is stored, and then it was sent and is stored once."""
    folder = tmp_path / "data"
    folder.mkdir()
    shim = Shim(folder, shadow=tmp_path / "shadow", control=tmp_path / "control")
    server = Victim(
        folder,
        log=tmp_path / "log",
        settings={"AUTH__MODE": "local", "AUTH__SECRET_FILE": "secret.key"},
        environment=shim.environment,
    )
    loop = asyncio.get_running_loop()
    try:
        server.start()
        anna = SessionClient(server.port, token=mint(folder, "anna", "kitchen"))
        bert = SessionClient(server.port, token=mint(folder, "bert", "staff"))
        cora = SessionClient(server.port, token=mint(folder, "cora", "staff"))
        for app in (anna, bert, cora):
            await app.connect()
            await app.settled()
        chef = Sender(server, "chef")
        shim.control.fsync_delay_ms = 500
        arrived: dict[str, float] = {}

        def arrive(message: dict[str, Any]) -> None:
            arrived.setdefault(message.get("message", ""), loop.time())

        anna.on_message = arrive
        bert.on_message = cora.on_message = anna.on_message
        ids = set()
        for number, recipient in enumerate(("anna", "role:staff", "anna")):
            text = f"come {number}"
            status, stored = await chef.post(recipient, text)
            answered_at = loop.time()
            assert status == 201 and stored["websocketSent"] is True
            assert arrived[text] < answered_at - 0.25, "the push waited for storage"
            ids.add(stored["id"])
        shim.control.fsync_delay_ms = 0
        assert texts(anna) == ["come 0", "come 2"] and texts(bert) == texts(cora) == ["come 1"]
        assert {message["id"] for app in (anna, bert, cora) for message in got(app)} == ids
        rows = server.sql("SELECT message, websocket_sent FROM staff_message ORDER BY id")
        assert rows == [("come 0", 1), ("come 1", 1), ("come 2", 1)]
        for app in (anna, bert, cora):
            await app.close()
    finally:
        server.__exit__()
        shim.close()


async def test_a_message_has_all_its_fields_on_every_way(come: Callable[..., Any], rt: Server) -> None:
    anna = await come("anna")
    chef = Sender(rt, "chef")
    status, stored = await chef.post("anna", "호출 3번", message_type="VOICE", audio_url="/audio/1.ogg")
    pushed = await anna.of_type("staff_message")
    assert stored["message_type"] == "VOICE" and stored["recipient_known"] is True
    stored = older_names(stored)
    assert status == 201 and stored.pop("recipientKnown") is True
    assert stored == {
        "id": stored["id"],
        "sender": "chef",
        "recipient": "anna",
        "message": "호출 3번",
        "messageType": "VOICE",
        "audioUrl": "/audio/1.ogg",
        "websocketSent": True,
        "timestamp": stored["timestamp"],
    }
    assert pushed == {"type": "staff_message", **stored}
    (listed,) = [m for m in chef.ask("GET", "/api/messages")[1]["messages"] if m["recipient"] == "anna"]
    assert older_names(listed) == {**stored, "readBy": []}


async def test_a_role_means_all_who_have_it_but_the_sender(come: Callable[..., Any], rt: Server) -> None:
    anna, bert, tech, tab = (
        await come("anna-r", "kitchen"),
        await come("bert-r", "kitchen", "staff"),
        await come("tech-r", "technician"),
        await come("anna-r", "kitchen", device="tab"),
    )
    await Sender(rt, "anna-r", "kitchen").post("role:kitchen", "to the kitchen")
    assert (await bert.of_type("staff_message"))["sender"] == "anna-r"
    for app in (anna, tab, tech):
        await app.settled()
        assert not got(app)
    await Sender(rt, "chef").post("anna-r", "to both")
    await anna.of_type("staff_message")
    await tab.of_type("staff_message")


# -- who was away ----------------------------------------------------------------------------------------------------------


async def test_who_was_away_gets_it_at_the_next_connect_until_it_is_read(come: Callable[..., Any], rt: Server) -> None:
    chef = Sender(rt, "chef-a")
    writer = await come("chef-a", "manager")
    stored = [(await chef.post("away", f"number {number}"))[1] for number in range(3)]
    assert [message["websocketSent"] for message in stored] == [False] * 3
    assert rt.sql("SELECT websocket_sent FROM staff_message WHERE recipient = 'away'") == [(0,)] * 3
    app = await come("away")
    await app.until(lambda: len(got(app)) == 3)
    assert [message["id"] for message in got(app)] == [message["id"] for message in stored]
    while rt.sql("SELECT DISTINCT websocket_sent FROM staff_message WHERE recipient = 'away'") != [(1,)]:
        await asyncio.sleep(0.01)
    # One is read over the WebSocket, one over HTTP; the last one comes again.
    await app.send(type="message_read", messageId=stored[0]["id"])
    await writer.message(lambda m: m["type"] == "message_read" and m["messageId"] == stored[0]["id"])
    reader = Sender(rt, "away", "staff")
    assert reader.ask("POST", f"/api/messages/{stored[1]['id']}/read") == (200, {"read": True})
    receipt = await writer.message(lambda m: m["type"] == "message_read" and m["messageId"] == stored[1]["id"])
    assert receipt["userId"] == "away" and receipt["readAt"].endswith("Z")
    assert [m["message"] for m in reader.ask("GET", "/api/messages?unread=1")[1]["messages"]] == ["number 2"]
    app.abort()
    await app.ended()
    heard = len(app.heard)
    await app.connect()
    again = await app.of_type("staff_message", after=heard)
    assert again["message"] == "number 2"
    # Told once, however often it is read.
    await app.send(type="message_read", messageId=stored[0]["id"])
    await app.settled()
    assert [m for m in app.heard[heard:] if m["type"] == "staff_message"] == [again]
    assert len([m for m in writer.heard if m["type"] == "message_read"]) == 2
    # The reader's own sessions learn it too.
    phone = await come("away", device="phone")
    await phone.of_type("staff_message")
    await app.send(type="message_read", messageId=stored[2]["id"])
    for session in (app, phone, writer):
        receipt = await session.message(lambda m: m["type"] == "message_read" and m["messageId"] == stored[2]["id"])
        assert receipt["userId"] == "away"
    (first,) = [m for m in chef.ask("GET", "/api/messages")[1]["messages"] if m["id"] == stored[0]["id"]]
    assert [receipt["userId"] for receipt in first["readBy"]] == ["away"]


async def test_what_one_of_a_role_read_still_comes_to_the_others(come: Callable[..., Any], rt: Server) -> None:
    _, stored = await Sender(rt, "chef-t").post("role:technician", "look after cook-1")
    one = await come("tech-1", "technician")
    await one.of_type("staff_message")
    await one.send(type="message_read", messageId=stored["id"])
    await one.settled()
    two = await come("tech-2", "technician")
    assert (await two.of_type("staff_message"))["id"] == stored["id"]
    tab = await come("tech-1", "technician", device="tab")
    await tab.settled()
    assert Sender(rt, "tech-1", "technician").ask("GET", "/api/messages?unread=1") == (200, {"messages": []})
    assert not got(tab)


async def test_more_than_fits_a_page_comes_at_the_next_connect_in_order(come: Callable[..., Any], rt: Server) -> None:
    columns = "sender, recipient, message, timestamp"
    at = "2026-01-01T00:00:00.000000Z"
    values = ", ".join(f"('chef', 'long-away', 'm{number}', '{at}')" for number in range(450))
    rt.sql(f"INSERT INTO staff_message ({columns}) VALUES {values}")
    app = await come("long-away")
    await app.until(lambda: len(got(app)) == 450)
    assert texts(app) == [f"m{number}" for number in range(450)]
    page, before = Sender(rt, "long-away", "staff"), ""
    found: list[str] = []
    while messages := page.ask("GET", f"/api/messages?unread=1&limit=200{before}")[1]["messages"]:
        found = [message["message"] for message in messages] + found
        before = f"&before={messages[0]['id']}"
    assert found == texts(app)


async def test_a_note_to_oneself_arrives_and_nobody_writes_to_nobody(come: Callable[..., Any], rt: Server) -> None:
    desk, phone = await come("noter", "staff", "admin"), await come("noter", device="phone")
    noter = Sender(rt, "noter", "staff")
    assert (await noter.post("noter", "bring keys"))[1]["websocketSent"] is True
    for app in (desk, phone):
        assert (await app.of_type("staff_message"))["message"] == "bring keys"
    await noter.post("role:admin", "to the others")
    await desk.settled()
    assert texts(desk) == ["bring keys"]
    for name, is_known in (("noter", True), ("role:admin", True), ("notre", False)):
        assert (await noter.post(name, "x"))[1]["recipientKnown"] is is_known
    for nobody in ("anonymous", ""):
        assert (await noter.post(nobody, "hello"))[0] in (404, 422)


async def test_where_nobody_logs_in_every_screen_gets_what_anyone_writes(start_server: Callable[..., Server]) -> None:
    server = start_server()
    screens = [SessionClient(server.port, device=name) for name in "ab"]
    for screen in screens:
        await screen.connect()
    for recipient in ("role:kitchen", "local"):
        body = {"recipient": recipient, "message": f"for {recipient}"}
        status, stored = await asyncio.to_thread(call, server.port, "POST", "/api/messages", body)
        assert (status, stored["websocketSent"]) == (201, True)
    late = SessionClient(server.port, device="c")
    await late.connect()

    def has_both(screen: SessionClient) -> bool:
        return texts(screen) == ["for role:kitchen", "for local"]

    for screen in (*screens, late):
        await screen.until(partial(has_both, screen))
    await late.send(type="message_read", messageId=got(late)[0]["id"])
    for screen in screens:
        await screen.of_type("message_read")
        await screen.close()
    await late.close()


async def test_nobody_reads_what_was_not_sent_to_them(come: Callable[..., Any], rt: Server) -> None:
    _, stored = await Sender(rt, "chef-n").post("somebody", "private")
    spy = await come("spy", "manager")
    await spy.send(type="message_read", messageId=stored["id"])
    assert (await spy.of_type("error"))["data"]["code"] == "NOT_FOUND"
    http_spy = Sender(rt, "spy")
    assert http_spy.ask("POST", f"/api/messages/{stored['id']}/read")[0] == 404
    assert http_spy.ask("POST", "/api/messages/1/read")[0] == 404
    assert http_spy.ask("GET", "/api/messages")[1] == {"messages": []}
    assert not got(spy)
    for bad in (None, "1", 0, -1, 2**53, 1.5, True):
        heard = len(spy.heard)
        await spy.send(type="message_read", messageId=bad)
        assert (await spy.of_type("error", after=heard))["data"]["code"] == "INVALID_MESSAGE", bad


# -- once ------------------------------------------------------------------------------------------------------------------


async def test_a_key_stores_a_message_once(come: Callable[..., Any], rt: Server) -> None:
    anna = await come("anna-k")
    chef = Sender(rt, "chef-k")
    first = await chef.post("anna-k", "once", key="k1")
    again = await chef.post("anna-k", "once", key="k1")
    assert (first[0], again[0], again[1]["id"]) == (201, 201, first[1]["id"])
    status, problem = await chef.post("anna-k", "other", key="k1")
    assert (status, problem["code"]) == (409, "CONFLICT")
    assert (await Sender(rt, "chef-k2").post("anna-k", "mine", key="k1"))[1]["id"] != first[1]["id"]  # a key is its sender's
    await anna.settled()
    assert texts(anna) == ["once", "mine"]
    await asyncio.to_thread(rt.restart)
    assert (await chef.post("anna-k", "once", key="k1"))[1]["id"] == first[1]["id"]
    assert (await chef.post("anna-k", "other", key="k1"))[0] == 409
    assert rt.sql("SELECT message FROM staff_message WHERE recipient = 'anna-k' ORDER BY id") == [("once",), ("mine",)]
    for bad in ("x" * 201, "\x07"):
        with contextlib.suppress(ValueError):  # urllib itself refuses some
            assert (await chef.post("anna-k", "x", key=bad))[0] in (400, 422)


async def test_the_same_message_sent_twice_at_once_is_pushed_once(come: Callable[..., Any], rt: Server) -> None:
    """An impatient sender: the second one must not reach the screen under an id that is stored nowhere."""
    anna, chef = await come("anna-c"), Sender(rt, "chef-c")
    stored = set()
    for number in range(8):
        answers = await asyncio.gather(*(chef.post("anna-c", f"n{number}", key=f"k{number}") for _ in range(4)))
        assert {status for status, _ in answers} == {201}
        (id,) = {message["id"] for _, message in answers}
        stored.add(id)
    await anna.settled()
    assert rt.sql("SELECT count(*) FROM staff_message WHERE recipient = 'anna-c'") == [(8,)]
    ghosts = [message["id"] for message in got(anna) if message["id"] not in stored]
    assert not ghosts, f"{len(ghosts)} messages were pushed that exist nowhere"
    assert len(got(anna)) == 8


async def test_a_repeated_message_is_returned_as_it_is_stored(come: Callable[..., Any], rt: Server) -> None:
    await come("anna-s")
    chef = Sender(rt, "chef-s")
    _, first = await chef.post("anna-s", "once", key="k")
    _, again = await chef.post("anna-s", "once", key="k")
    assert again == first


# -- refused ---------------------------------------------------------------------------------------------------------------

BAD: list[tuple[Any, int]] = [
    ({}, 422),
    ([], 422),
    (b"{", 400),
    (b"", 422),
    ({"recipient": "anna"}, 422),
    ({"message": "x"}, 422),
    ({"recipient": "", "message": "x"}, 422),
    ({"recipient": "a" * 101, "message": "x"}, 422),
    ({"recipient": "a\nb", "message": "x"}, 422),
    ({"recipient": 7, "message": "x"}, 422),
    ({"recipient": ["anna"], "message": "x"}, 422),
    ({"recipient": "anna", "message": ""}, 422),
    ({"recipient": "anna", "message": "  "}, 422),
    ({"recipient": "anna", "message": "a\0b"}, 422),
    ({"recipient": "anna", "message": "x" * 4001}, 422),
    ({"recipient": "anna", "message": 7}, 422),
    ({"recipient": "anna", "message": "x", "message_type": "SHOUT"}, 422),
    ({"recipient": "anna", "message": "x", "message_type": ["TEXT"]}, 422),
    ({"recipient": "anna", "message": "x", "message_type": None}, 422),
    ({"recipient": "anna", "message": "x", "audio_url": "javascript:alert(1)"}, 422),
    ({"recipient": "anna", "message": "x", "audio_url": 7}, 422),
    ({"recipient": "anna", "message": "x", "id": 7}, 422),
    ({"recipient": "anna", "message": "x", "sender": "boss"}, 422),
    ({"recipient": "role:chef", "message": "x"}, 404),
    ({"recipient": "role:", "message": "x"}, 404),
]


@pytest.mark.parametrize(("body", "status"), BAD, ids=[str(body)[:60] for body, _ in BAD])
def test_a_bad_message_is_refused(rt: Server, body: Any, status: int) -> None:
    found, problem = call(rt.port, "POST", "/api/messages", body, token=mint(rt.folder, "chef-b", "manager"))
    assert found == status, problem
    assert problem["code"] == {400: "BAD_REQUEST", 404: "RESOURCE_NOT_FOUND", 422: "VALIDATION_ERROR"}[status]


async def test_who_has_no_right_to_message_is_refused(come: Callable[..., Any], rt: Server) -> None:
    for role in ("display", "nonsense"):
        status, problem = await Sender(rt, f"wall-{role}", role).post("anna", "x")
        assert (status, problem["code"]) == (403, "PERMISSION_DENIED"), role
    assert call(rt.port, "POST", "/api/messages", {"recipient": "anna", "message": "x"})[0] == 401
    # A screen on the wall still shows what is written to it.
    wall = await come("wall-d", "display")
    await Sender(rt, "chef-d").post("role:display", "closing in ten minutes")
    assert (await wall.of_type("staff_message"))["message"] == "closing in ten minutes"


async def test_a_role_that_is_taken_away_ends_its_messages(come: Callable[..., Any], rt: Server) -> None:
    assert control(rt.folder, "POST", "/api/users", {"name": "mover", "roles": ["kitchen"]})[0] == 201
    status, given = control(rt.folder, "POST", "/api/tokens", {"user": "mover"})
    assert status == 201
    app = await come("mover")
    await app.close()
    app.token = given["token"]
    await app.connect()
    assert app.greeting["roles"] == ["kitchen"]
    chef = Sender(rt, "chef-m")
    await chef.post("role:kitchen", "before")
    await app.of_type("staff_message")
    assert control(rt.folder, "PATCH", "/api/users/mover", {"roles": ["staff"]})[0] == 200
    await chef.post("role:kitchen", "after")
    await chef.post("role:staff", "to staff")
    await app.message(lambda m: m.get("message") == "to staff")
    assert [text for text in texts(app) if text in ("before", "after", "to staff")] == ["before", "to staff"]


async def test_the_sixty_first_message_in_a_minute_is_refused(rt: Server) -> None:
    chef = Sender(rt, "chatterbox")
    answers = [await chef.post("nobody", f"{number}") for number in range(61)]
    assert [status for status, _ in answers] == [201] * 60 + [429]
    assert answers[-1][1]["code"] == "RATE_LIMITED" and answers[-1][1]["retry_after"] > 0
    _, page = chef.ask("GET", "/api/messages?limit=7")
    assert [m["message"] for m in page["messages"]] == [str(number) for number in range(59, 52, -1)]
    _, older = chef.ask("GET", f"/api/messages?limit=2&before={page['messages'][-1]['id']}")
    assert [m["message"] for m in older["messages"]] == ["52", "51"]


# -- storing fails -----------------------------------------------------------------------------------------------------------


async def test_a_message_that_cannot_be_stored_is_parked_and_can_be_stored_later(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local")
    anna = SessionClient(server.port, token=mint(server.folder, "anna", "staff"))
    await anna.connect()
    server.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON staff_message WHEN NEW.message LIKE 'bad%'"
        " BEGIN SELECT RAISE(ABORT, 'poisoned'); END"
    )
    chef = Sender(server, "chef")
    status, problem = await chef.post("anna", "bad news", key="k1")
    assert status >= 500 and problem["code"], problem
    assert (await chef.post("anna", "good news"))[0] == 201  # nobody else is held up
    assert (await anna.of_type("staff_message"))["message"] == "bad news"  # it was pushed at once
    status, letters = control(server.folder, "GET", "/api/dead-letters")
    (letter,) = letters["dead_letters"] if "dead_letters" in letters else letters["letters"]
    assert letter["kind"] == "staff_message" and "poisoned" in json.dumps(letter)
    still = control(server.folder, "POST", "/api/dead-letters", {"action": "requeue", "ids": [letter["id"]]})
    assert "poisoned" in json.dumps(still)
    server.sql("DROP TRIGGER poison")
    status, done = control(server.folder, "POST", "/api/dead-letters", {"action": "requeue", "ids": [letter["id"]]})
    assert status == 200, done
    rows = server.sql("SELECT id, message, sender, recipient, websocket_sent FROM staff_message WHERE message LIKE 'bad%'")
    assert rows == [(got(anna)[0]["id"], "bad news", "chef", "anna", 1)]
    assert server.sql("SELECT count(*) FROM dead_letter") == [(0,)]
    again = await chef.post("anna", "bad news", key="k1")
    assert (again[0], again[1]["id"]) == (201, rows[0][0])
    heard = len(anna.heard)
    anna.abort()
    await anna.ended()
    await anna.connect()
    await anna.message(lambda m: m.get("message") == "bad news", after=heard)
    await anna.close()


async def test_recipients_who_vanish_at_that_moment_cost_the_sender_nothing(rt: Server) -> None:
    """A push to a line that just broke must not fail the message, nor keep it from the others."""
    rng = random.Random(2)
    token = mint(rt.folder, "crowd", "technician")
    stop = asyncio.Event()

    async def come_and_go(number: int) -> None:
        app = SessionClient(rt.port, token=token, device=str(number))
        while not stop.is_set():
            with contextlib.suppress(OSError, EOFError):
                await app.connect()
                await asyncio.sleep(rng.uniform(0, 0.01))
                app.abort()
                await app.ended()

    crowd = [asyncio.create_task(come_and_go(number)) for number in range(12)]
    steady = SessionClient(rt.port, token=mint(rt.folder, "steady", "technician"))
    await steady.connect()
    senders = [Sender(rt, f"caller-{number}") for number in range(4)]
    sent: list[tuple[int, int, str]] = []
    failed: list[tuple[int, int, str]] = []
    for number in range(100):
        status, answer = await senders[number % 4].post("role:technician", f"m{number}")
        (sent if status == 201 else failed).append((number, status, answer.get("detail", "")))
    stop.set()
    await asyncio.gather(*crowd)
    assert not failed, failed[:3]
    await steady.message(lambda m: m.get("message") == "m99")
    assert [text for text in texts(steady) if text.startswith("m")] == [f"m{number}" for number, *_ in sent]
    await steady.close()


# -- kill -9 -----------------------------------------------------------------------------------------------------------------


class Ledger(threading.Thread):
    """A sender that writes down what was accepted, and what it sent without an answer; it repeats that under the same key."""

    def __init__(self, server: Server, name: str, recipient: str) -> None:
        super().__init__(daemon=True)
        self.server, self.name_, self.recipient = server, name, recipient
        self.token = mint(server.folder, name, "manager")
        self.accepted: dict[str, int] = {}
        self.number = 0
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            text = f"{self.name_}-{self.number}"
            body = {"recipient": self.recipient, "message": text}
            try:
                status, answer = call(self.server.port, "POST", "/api/messages", body, token=self.token, Idempotency_Key=text)
            except (urllib.error.URLError, OSError, http.client.HTTPException, json.JSONDecodeError):
                threading.Event().wait(0.02)
                continue
            if status == 201:
                self.accepted[text] = answer["id"]
                self.number += 1
            elif status == 429:  # an own limit for each sender
                return


@pytest.mark.timeout(60 + 6 * ROUNDS)
async def test_kill_loses_no_message_that_was_accepted(store: Store, tmp_path: Path) -> None:
    rng = random.Random(4)
    server = Server(tmp_path, AUTH__MODE="local", SERVER__PORT=str(free_port()), DATABASE__URL=store.url).start()
    anna = SessionClient(server.port, token=mint(tmp_path, "anna", "staff"))
    accepted: dict[str, int] = {}
    try:
        for round in range(ROUNDS):
            await anna.connect()
            senders = [Ledger(server, f"s{round}-{number}", "anna" if number else "role:staff") for number in range(3)]
            for sender in senders:
                sender.start()
            goal = rng.randint(3, 40)
            while sum(len(sender.accepted) for sender in senders) < goal:
                await asyncio.sleep(0.001)
            server.kill()
            await asyncio.to_thread(server.start)
            await anna.ended()
            for sender in senders:
                sender.stopped = True
                await asyncio.to_thread(sender.join, 20)
                accepted |= sender.accepted
        await anna.connect()
        assert len(accepted) > 10 * ROUNDS
        rows = store.ask("SELECT message, id FROM staff_message")
        assert len(rows) == len(dict(rows)), "stored twice"
        stored = dict(rows)
        assert {text: stored.get(text) for text in accepted} == accepted
        unread = call(server.port, "GET", "/api/messages?unread=1&limit=200", token=anna.token)[1]["messages"]
        assert len(unread) == min(200, len(stored))
        newest = set(sorted(stored.items(), key=lambda item: item[1])[-200:])
        await anna.until(lambda: newest <= {(message["message"], message["id"]) for message in got(anna)})
        # Everything accepted was brought, if not by a push then at a connect; each under its one id.
        heard: dict[str, set[int]] = {}
        for message in got(anna):
            heard.setdefault(message["message"], set()).add(message["id"])
        assert accepted.keys() <= heard.keys(), sorted(accepted.keys() - heard.keys())[:5]
        ghosts = {text: ids for text, ids in heard.items() if text in accepted and accepted[text] not in ids}
        assert not ghosts
    finally:
        await anna.close()
        server.__exit__()


async def test_much_unread_reaches_who_reads_slowly_and_ends_nobody_s_connection(start_server: Callable[..., Server]) -> None:
    """More than may wait unsent for one connection: it is sent as fast as it is taken."""
    server = start_server(AUTH__MODE="local", HUB__SEND_BUFFER_LIMIT_BYTES="20000", SERVER__PORT=str(free_port()))
    with contextlib.closing(sqlite3.connect(server.database)) as connection, connection:
        connection.executemany(
            "INSERT INTO staff_message(id, sender, recipient, message, timestamp) VALUES (?, 'lee', 'anna', ?, ?)",
            [(number, f"{number} {'가' * 2000}", "2026-01-01T00:00:00.000000Z") for number in range(1, 1001)],
        )
    connection.close()
    token = mint(server.folder, "anna", "staff")
    url = f"ws://127.0.0.1:{server.port}/ws?token={token}"
    async with websockets.connect(url, max_size=None, compression=None, ping_interval=None, max_queue=1) as link:
        seen: list[int] = []
        async with asyncio.timeout(30):
            while len(seen) < 1000:
                message = json.loads(await link.recv())
                if message["type"] == "staff_message":
                    seen.append(message["id"])
                    await asyncio.sleep(0.001 if len(seen) < 300 else 0)
        assert seen == list(range(1, 1001))
        await link.send('{"type":"ping","data":1}')
        async with asyncio.timeout(10):
            while json.loads(await link.recv())["type"] != "pong":
                pass
    async with asyncio.timeout(10):
        while server.sql("SELECT count(*) FROM staff_message WHERE websocket_sent = 1") != [(1000,)]:
            await asyncio.sleep(0.05)
