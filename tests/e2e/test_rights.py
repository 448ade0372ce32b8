"""Who may do what: every route, every topic, every role, written out once more and on its own (SPEC section 8; A6, W9)."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from robodyne_rt.web import routes
from tests.e2e.people import (
    OUTSIDE,
    add_user,
    call,
    do,
    ended,
    give_token,
    is_alive,
    sign,
    stamp,
    told,
    unique,
    until,
    watch,
)
from tests.e2e.raw import Socket, stays_well, wait_until
from tests.e2e.server import Server

ROLES = ("admin", "manager", "kitchen", "staff", "display", "technician")
FROM_OUTSIDE = f"X-Forwarded-For: {OUTSIDE}"

TOPICS = {
    "robots": set(ROLES),
    "tables": set(ROLES),
    "events": set(ROLES),
    "orders": set(ROLES),
    "status": set(ROLES),
    "inventory": set(ROLES),
    "systemlogs": {"admin", "manager", "technician"},
    "customers": {"admin", "manager", "staff"},
    "video_streams": {"admin", "manager", "technician"},
}

EVERYBODY = "everybody"
KNOWN = set(ROLES)  # all that need only say who they are
ADMIN = {"admin"}
OPERATE = {"admin", "technician"}
LOOK = {"admin", "manager", "technician"}

# (method, path of the table) -> who may, and an example of a request that does no harm where it is allowed
ALLOWED: dict[tuple[str, str], tuple[Any, str, Any]] = {
    ("GET", "/livez"): (EVERYBODY, "/livez", None),
    ("GET", "/healthz"): (EVERYBODY, "/healthz", None),
    ("GET", "/readyz"): (EVERYBODY, "/readyz", None),
    ("GET", "/metrics"): (LOOK, "/metrics", None),
    ("POST", "/api/auth/login"): (EVERYBODY, "/api/auth/login", {}),
    ("POST", "/api/auth/refresh"): (EVERYBODY, "/api/auth/refresh", {"refreshToken": 5}),
    ("POST", "/api/auth/logout"): (KNOWN, "/api/auth/logout", None),
    ("POST", "/api/auth/ticket"): (KNOWN, "/api/auth/ticket", None),
    ("GET", "/api/auth/me"): (EVERYBODY, "/api/auth/me", None),
    ("POST", "/api/pairings"): (EVERYBODY, "/api/pairings", {"unknown": 1}),
    ("GET", "/api/pairings"): (ADMIN, "/api/pairings", None),
    ("POST", "/api/pairings/approve"): (ADMIN, "/api/pairings/approve", {}),
    ("GET", r"/api/pairings/{pairing:[\w-]{20,100}}"): (EVERYBODY, "/api/pairings/" + "x" * 43, None),
    ("GET", "/api/openapi.json"): (EVERYBODY, "/api/openapi.json", None),
    ("GET", "/api/asyncapi.json"): (EVERYBODY, "/api/asyncapi.json", None),
    ("GET", "/api/docs"): (EVERYBODY, "/api/docs", None),
    ("GET", r"/api/docs/{asset:[\w.-]{1,40}}"): (EVERYBODY, "/api/docs/start.js", None),
    ("GET", "/api/users"): (ADMIN, "/api/users", None),
    ("POST", "/api/users"): (ADMIN, "/api/users", {}),
    ("PATCH", "/api/users/{name}"): (ADMIN, "/api/users/nobody", {"roles": ["admin"]}),
    ("DELETE", "/api/users/{name}"): (ADMIN, "/api/users/nobody", None),
    ("GET", "/api/tokens"): (ADMIN, "/api/tokens", None),
    ("POST", "/api/tokens"): (ADMIN, "/api/tokens", {}),
    ("DELETE", r"/api/tokens/{id:\d{1,18}}"): (ADMIN, "/api/tokens/1", None),
    ("GET", "/api/devices"): (ADMIN, "/api/devices", None),
    ("POST", "/api/devices"): (ADMIN, "/api/devices", {}),
    ("POST", "/api/devices/{device_id}/rotate"): (ADMIN, "/api/devices/nothing/rotate", None),
    ("DELETE", "/api/devices/{device_id}"): (ADMIN, "/api/devices/nothing", None),
    ("GET", "/api/sessions"): (LOOK, "/api/sessions", None),
    ("GET", "/api/chat"): (KNOWN - {"display"}, "/api/chat", None),
    ("POST", "/api/messages"): (KNOWN - {"display"}, "/api/messages", {}),
    ("GET", "/api/messages"): (KNOWN, "/api/messages", None),
    ("POST", r"/api/messages/{id:\d{1,18}}/read"): (KNOWN, "/api/messages/1/read", None),
    ("POST", "/api/device-messages"): (OPERATE, "/api/device-messages", {"msg_type": "nonsense"}),
    ("GET", "/api/dead-letters"): (OPERATE, "/api/dead-letters", None),
    ("GET", r"/api/dead-letters/{id:\d{1,18}}"): (OPERATE, "/api/dead-letters/1", None),
    ("POST", "/api/dead-letters"): (OPERATE, "/api/dead-letters", {}),
    ("POST", "/api/backups"): (OPERATE, "/api/backups", None),
    ("GET", "/api/{topic}"): ("topic", "", None),
    ("GET", "/ws"): ("socket", "", None),
    ("GET", "/ws/copilot"): ("socket", "", None),
    ("GET", "/ws/{topic}"): ("socket", "", None),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Behind a proxy of this machine, so that a test can come from anywhere; devices need a key."""
    settings = {"SERVER__TRUSTED_PROXIES": '["127.0.0.1/32"]', "DEVICES__TRUSTED_NETWORKS": "[]"}
    with Server(tmp_path_factory.mktemp("rights"), AUTH__MODE="local", **settings) as running:
        yield running
        assert running.is_running, running.log()


@pytest.fixture(autouse=True)
def well(server: Server) -> Iterator[None]:
    with stays_well(server):
        yield


def listed(path: str) -> str:
    """Return a path as the table above names it: the topics have a row of their own."""
    return "/api/{topic}" if path.startswith("/api/{topic:") else path


def test_every_route_stands_in_the_table_of_this_test() -> None:
    served = {(route.method, listed(route.path)) for route in routes.ROUTES}
    assert served == set(ALLOWED), "a route came or went: say here who may use it"
    app = routes.build(None)  # type: ignore[arg-type]
    pages = set()
    count = 0
    for route in app.router.routes():
        assert isinstance(route, web.ResourceRoute)
        path = route.resource.canonical if route.resource else ""
        if route.method == "HEAD":
            assert any(other.method == "GET" and other.handler is route.handler for other in app.router.routes()), path
        elif route.method == "GET" and (path == "/" or path.startswith("/static/")):
            pages.add(path)
        else:
            count += 1
    assert count == len(routes.ROUTES), "something is served that the table of routes does not know"
    assert pages and all(path.count("/") <= 2 and "{" not in path for path in pages)


def test_every_route_is_open_to_those_who_may_and_to_nobody_else(server: Server) -> None:
    wrong = []
    for (method, _), (who, path, body) in ALLOWED.items():
        if who in ("topic", "socket"):
            continue
        for role in (*ROLES, None, "bad"):
            token = None if role is None else "bad" if role == "bad" else sign(server, f"a-{role}", role)
            answer = call(server, method, path, body, token=token, X_Forwarded_For=OUTSIDE)
            if role == "bad" or (role is None and who != EVERYBODY):
                good = answer.status == 401 and "www-authenticate" in answer.headers
            elif who == EVERYBODY or role in who:
                good = answer.status not in (401, 403, 405, 429) and answer.status < 500
            else:
                good = answer.status == 403 and answer.problem["code"] == "PERMISSION_DENIED"
            if not good:
                wrong.append((method, path, role, answer.status, answer.body[:120]))
    assert not wrong


def test_the_pages_are_for_everybody_and_hold_no_secret(server: Server) -> None:
    app = routes.build(None)  # type: ignore[arg-type]
    pages = {resource.canonical for resource in app.router.resources()} & {"/", "/static/app.js"}
    for path in pages:
        assert call(server, "GET", path, X_Forwarded_For=OUTSIDE).status == 200


def test_every_topic_is_read_over_http_by_those_who_may(server: Server) -> None:
    wrong = []
    for topic, who in TOPICS.items():
        for role in (*ROLES, None, "bad"):
            token = None if role is None else "bad" if role == "bad" else sign(server, f"a-{role}", role)
            answer = call(server, "GET", f"/api/{topic}", token=token, X_Forwarded_For=OUTSIDE)
            expected = 200 if role in who else 401 if role in (None, "bad") else 403
            if answer.status != expected or (answer.status == 200) != (b'"snapshot":true' in answer.body):
                wrong.append((topic, role, answer.status))
    assert not wrong


def test_every_topic_is_watched_by_those_who_may(server: Server) -> None:
    wrong: list[tuple[object, ...]] = []
    for topic, who in TOPICS.items():
        for role in (*ROLES, None, "bad"):
            token = None if role is None else "bad" if role == "bad" else sign(server, f"a-{role}", role)
            if role in who:
                with watch(server, f"/ws/{topic}", token, FROM_OUTSIDE) as socket:
                    if not socket.message().get("snapshot"):
                        wrong.append((topic, role, "no snapshot"))
                continue
            expected = {None: (1008, "token_missing"), "bad": (4001, "token_invalid")}.get(role, (1008, "forbidden"))
            if (how := ended(server, f"/ws/{topic}", token, FROM_OUTSIDE)) != expected:
                wrong.append((topic, role, how))
    assert not wrong


@pytest.mark.parametrize("role", ROLES)
def test_in_a_session_one_gets_the_topics_of_ones_role(server: Server, role: str) -> None:
    for path in ("/ws", "/ws/copilot"):
        with watch(server, path, sign(server, f"a-{role}", role), FROM_OUTSIDE) as session:
            greeting = session.message()
            assert greeting["type"] == "connected" and greeting["userId"] == f"a-{role}"
            for topic, who in TOPICS.items():
                session.say({"type": "subscribe", "topic": topic})
                while (message := session.message()).get("topic") != topic:
                    pass
                if role in who:
                    assert message["type"] == "update" and message["snapshot"], (topic, message)
                else:
                    assert message["type"] == "error" and message["data"]["code"] == "FORBIDDEN", (topic, message)
            # A second try is no way in either, nor is another spelling.
            for spelling in ("CUSTOMERS", " customers", "customers\0", "read:customers", "*", "", "customers/"):
                session.say({"type": "subscribe", "topic": spelling})
                assert until(session, "error")["data"]["code"] == "NOT_FOUND", spelling
            assert is_alive(session, "session")


@pytest.mark.parametrize("role", ROLES)
def test_in_a_session_one_may_ask_what_ones_role_may(server: Server, role: str) -> None:
    me, request = unique(f"asks-{role}"), unique("q")
    with watch(server, "/ws", sign(server, me, role), FROM_OUTSIDE) as session:
        session.say({"type": "query", "requestId": request, "message": "how many robots are there?"})
        while (answer := session.message())["type"] not in ("response", "error"):
            pass
        if role == "display":
            assert answer["data"]["code"] == "FORBIDDEN" and answer["requestId"] == request
        else:
            assert answer["type"] == "response" and answer["requestId"] == request
        # The desktop's words are no way around it, and nobody speaks for somebody else.
        session.say(
            {"action": "sendMessage", "requestId": request + "d", "userId": "a-admin", "message": "hi", "timestamp": "x"}
        )
        while (answer := session.message()).get("requestId") != request + "d":
            pass
        assert (answer["action"], answer["status"], answer["code"]) == ("messageResponse", "error", "FORBIDDEN")
        session.say({"type": "message_read", "messageId": 1})
        assert until(session, "error")["data"]["code"] == "NOT_FOUND"
        session.say({"type": "human_response", "requestId": "cb-1", "response": "yes"})
        assert until(session, "error")["data"]["code"] == "INVALID_REQUEST_ID"
        assert is_alive(session, "session")


def test_an_answer_tells_nothing_that_its_asker_may_not_see(server: Server) -> None:
    """The assistant sees everything; whom it tells, it tells by that one's rights."""
    do(server, "POST", "/api/device-messages", {"msg_type": "Log", "level": "ERROR", "message": "secretlog alpha"})
    do(server, "POST", "/api/device-messages", {"msg_type": "Albabot", "robot_id": "alba-77", "status": "SERVING"})
    with watch(server, "/ws", sign(server, unique("nothing"), "admin"), FROM_OUTSIDE) as boss:
        boss.say({"type": "query", "requestId": unique("q"), "message": "where is alba-77?"})
        assert "alba-77" in until(boss, "response")["response"]
    # A role of the config's own that may ask and see nothing.
    with (
        watch(server, "/ws", sign(server, unique("cook"), "kitchen"), FROM_OUTSIDE) as cook,
    ):
        for number, text in enumerate(("show me the logs", "which guests are here?", "customers?", "video streams")):
            cook.say({"type": "query", "requestId": f"{unique('q')}-{number}", "message": text})
            answer = until(cook, "response")
            assert "secretlog" not in json.dumps(answer)


def test_a_question_that_a_restart_interrupted_is_answered_by_its_asker_s_rights(tmp_path: Path) -> None:
    server = Server(tmp_path, AUTH__MODE="local")
    with server.start():
        token = sign(server, "kim", "staff")
        do(server, "POST", "/api/device-messages", {"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING"})
        with watch(server, "/ws", token) as session:
            greeting = session.message()
            session.say({"type": "query", "requestId": "one", "message": "where is alba-1?"})
            expected = until(session, "response")["response"]
            assert "alba-1" in expected
        server.stop()
        columns = "id, user_name, session_id, request_id, dialect, question, status, timestamp"
        row = (7, "kim", greeting["sessionId"], "two", "session", "where is alba-1?", "PENDING", stamp())
        server.sql(f"INSERT INTO chat_message ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row)
        server.start()
        with watch(server, f"/ws?session={greeting['sessionToken']}", sign(server, "kim", "staff")) as session:
            assert session.message()["resumed"]
            assert "may not" not in until(session, "response", requestId="two")["response"]


def test_sessions_cannot_be_taken_over_with_their_token_alone(server: Server) -> None:
    mine, other = sign(server, unique("kim"), "staff"), sign(server, unique("lee"), "admin")
    with watch(server, "/ws", mine) as session:
        greeting = session.message()
        path = f"/ws?session={greeting['sessionToken']}&answered=0"
        with watch(server, path, other) as thief:
            got = thief.message()
            assert not got["resumed"] and got["sessionId"] != greeting["sessionId"]
            assert got["sessionToken"] != greeting["sessionToken"]
        assert ended(server, path, None, FROM_OUTSIDE) == (1008, "token_missing")
        assert is_alive(session, "session")


def test_what_others_asked_and_were_told_is_theirs(server: Server) -> None:
    kim, lee = unique("kim"), unique("lee")
    mine, other = sign(server, kim, "staff"), sign(server, lee, "manager")
    request = unique("q")
    with watch(server, "/ws", mine) as session:
        session.say({"type": "query", "requestId": request, "message": "my secret question about robots"})
        until(session, "response")
    assert "my secret question" in call(server, "GET", "/api/chat", token=mine).body.decode()
    assert call(server, "GET", f"/api/chat?user={kim}", token=other).status == 403
    assert "secret" not in call(server, "GET", "/api/chat", token=other).body.decode()
    with watch(server, "/ws", other) as session:  # the same requestId of another user is another request
        session.say({"type": "query", "requestId": request, "message": "how many tables?"})
        assert "secret" not in json.dumps(until(session, "response"))
    sent = told(call(server, "POST", "/api/messages", {"recipient": kim, "message": "for kim alone"}, token=other))
    third = sign(server, unique("park"), "manager")
    assert "for kim alone" not in call(server, "GET", "/api/messages", token=third).body.decode()
    assert call(server, "POST", f"/api/messages/{sent['id']}/read", token=third).status == 404
    assert call(server, "POST", f"/api/messages/{sent['id']}/read", token=mine).status == 200


def test_the_role_mailbox_is_for_the_role_and_nobody_can_be_called_like_it(server: Server) -> None:
    sender = sign(server, unique("boss"), "manager")
    do_send = call(server, "POST", "/api/messages", {"recipient": "role:kitchen", "message": "fire table 7"}, token=sender)
    assert do_send.status == 201
    assert "fire table 7" in call(server, "GET", "/api/messages", token=sign(server, unique("cook"), "kitchen")).body.decode()
    assert "fire table 7" not in call(server, "GET", "/api/messages", token=sign(server, unique("w"), "staff")).body.decode()
    # A token of an issuer may bear any name.
    answer = call(server, "GET", "/api/messages", token=sign(server, "role:kitchen", "staff"))
    assert "fire table 7" not in answer.body.decode()


# -- what changes while one is connected -----------------------------------------------------------------------------


def by_api(server: Server, name: str, roles: list[str]) -> None:
    do(server, "PATCH", f"/api/users/{name}", {"roles": roles})


def by_sql(server: Server, name: str, roles: list[str]) -> None:
    server.sql("UPDATE user_ SET roles = ? WHERE name = ?", json.dumps(roles), name)


@pytest.mark.parametrize("change", [by_api, by_sql])
def test_a_role_that_is_taken_away_ends_what_it_opened(server: Server, change: Callable[..., None]) -> None:
    user = add_user(server, "manager")
    token, _ = give_token(server, user.name)
    with (
        watch(server, "/ws/customers", token) as customers,
        watch(server, "/ws/orders", token) as orders,
        watch(server, "/ws", token) as session,
    ):
        assert customers.message()["snapshot"] and orders.message()["snapshot"]
        for topic in ("customers", "systemlogs", "orders"):
            session.say({"type": "subscribe", "topic": topic})
            until(session, "update", topic=topic)
        change(server, user.name, ["display"])
        assert customers.close_frame() == (1008, "forbidden")
        lost = {until(session, "error")["topic"] for _ in range(2)}
        assert lost == {"customers", "systemlogs"}
        assert is_alive(orders, "orders")
        # What is written now reaches the topic that stayed, and not the ones that went.
        server.sql("INSERT INTO customer (count, arrived_at) VALUES (3, ?)", stamp())
        do(server, "POST", "/api/device-messages", {"msg_type": "Log", "message": "after"})
        server.sql("INSERT INTO menu_item (name, price) VALUES ('tea', 1) ON CONFLICT DO NOTHING")
        placed = {"msg_type": "Order", "table_number": 5, "items": [{"name": "tea"}]}
        do(server, "POST", "/api/device-messages", placed)
        assert until(session, "update", topic="orders")["data"]
        session.say({"type": "subscribe", "topic": "customers"})
        seen = [session.message()]
        while seen[-1]["type"] != "error":
            seen.append(session.message())
        assert all(message.get("topic") not in ("customers", "systemlogs") for message in seen[:-1])
        assert seen[-1]["data"]["code"] == "FORBIDDEN"
        session.say({"type": "query", "requestId": unique("q"), "message": "robots?"})
        assert until(session, "error")["data"]["code"] == "FORBIDDEN"
        # And back again, without a new connection.
        change(server, user.name, ["manager"])
        assert wait_until(lambda: call(server, "GET", "/api/customers", token=token).status == 200, within_s=5)
        session.say({"type": "subscribe", "topic": "customers"})
        assert until(session, "update", topic="customers")["snapshot"]


@pytest.mark.parametrize("change", [by_api, by_sql])
def test_a_role_that_is_taken_away_counts_on_http_at_once(server: Server, change: Callable[..., None]) -> None:
    user = add_user(server, "admin")
    token, _ = give_token(server, user.name)
    assert call(server, "GET", "/api/users", token=token).status == 200
    change(server, user.name, ["staff"])
    # "At once" is within 250 ms for what another program writes.
    assert wait_until(lambda: call(server, "GET", "/api/users", token=token).status == 403, within_s=5)


def test_a_ticket_opens_no_more_than_its_owner_may_by_now(server: Server) -> None:
    user = add_user(server, "manager")
    token, _ = give_token(server, user.name)
    tickets = [told(call(server, "POST", "/api/auth/ticket", token=token))["ticket"] for _ in range(2)]
    by_api(server, user.name, ["display"])
    assert ended(server, f"/ws/customers?ticket={tickets[0]}") == (1008, "forbidden")
    do(server, "PATCH", f"/api/users/{user.name}", {"disabled": True})
    assert ended(server, f"/ws/robots?ticket={tickets[1]}") == (4001, "token_invalid")


GARBAGE = ["5", '"admin"', '{"admin": true}', '[["admin"], null, 7]', "no json"]


@pytest.mark.parametrize("value", GARBAGE)
def test_roles_that_another_program_garbled_open_nothing_and_stop_nothing(
    start_server: Callable[..., Server], value: str
) -> None:
    server = start_server(AUTH__MODE="local")
    user = add_user(server, "manager")
    token, _ = give_token(server, user.name)
    neighbour, row = give_token(server, unique("till"), "staff")
    with watch(server, "/ws/robots", neighbour) as other, watch(server, "/ws/customers", token) as customers:
        assert other.message()["snapshot"] and customers.message()["snapshot"]
        customers.sock.settimeout(3)
        server.sql("UPDATE user_ SET roles = ? WHERE name = ?", value, user.name)
        wait_until(lambda: call(server, "GET", "/api/customers", token=token).status in (401, 403), within_s=5)
        assert call(server, "GET", "/api/customers", token=token).status in (401, 403)
        assert call(server, "GET", "/api/users", token=token).status in (401, 403)
        assert customers.close_frame()[0] in (1008, 4001)
        # Everything else goes on: updates, and other people's rights.
        do(server, "POST", "/api/device-messages", {"msg_type": "Albabot", "robot_id": "alba-1", "battery_level": len(value)})
        assert is_alive(other, "robots")
        assert call(server, "GET", "/api/users", token=sign(server, "boss", "admin")).status == 200
        server.sql("UPDATE token SET revoked_at = ? WHERE id = ?", stamp(), row)
        assert other.close_frame() == (4001, "token_invalid")
    assert "publish_failed" not in server.log() and "Traceback" not in server.log()


def test_a_name_that_no_database_takes_is_refused(server: Server) -> None:
    boss, _ = give_token(server, add_user(server, "admin").name)
    assert call(server, "GET", "/api/chat?user=%00", token=boss).status == 422
    assert call(server, "PATCH", "/api/users/a%00b", {"disabled": True}, token=boss).status == 404
    assert call(server, "DELETE", "/api/devices/%00", token=boss).status == 404
    with watch(server, "/ws?device=tab%00let", boss) as session:
        assert session.message()["type"] == "connected"
    devices = {row["device"] for row in told(call(server, "GET", "/api/sessions", token=boss))["sessions"]}
    assert "tablet" in devices


def test_an_end_that_another_program_garbled_keeps_nobody_else_s_rights(server: Server) -> None:
    till, row = give_token(server, unique("till"), "staff")
    users = [add_user(server, "staff") for _ in range(4)]
    with contextlib.ExitStack() as stack:
        garbled = stack.enter_context(watch(server, "/ws/robots", till))
        others = [stack.enter_context(watch(server, "/ws/robots", give_token(server, user.name)[0])) for user in users]
        assert all(socket.message()["snapshot"] for socket in (garbled, *others))
        server.sql("UPDATE token SET expires_at = '2026-13-01T00:00:00Z' WHERE id = ?", row)
        assert garbled.close_frame()[0] == 4001
        for user, socket in zip(users, others, strict=True):
            do(server, "PATCH", f"/api/users/{user.name}", {"disabled": True})
            assert socket.close_frame() == (4001, "token_invalid")


def test_who_bears_a_name_after_another_one_inherits_nothing(server: Server) -> None:
    name, boss = unique("kim"), add_user(server, "admin")
    add_user(server, "manager", name=name)
    with watch(server, "/ws", give_token(server, name)[0]) as session:
        greeting = session.message()
        session.say({"type": "query", "requestId": "q", "message": "robot secret-7"})
        until(session, "response")
        letter = {"recipient": name, "message": "your salary is 3000"}
        assert call(server, "POST", "/api/messages", letter, token=give_token(server, boss.name)[0]).status == 201
        until(session, "staff_message")
        do(server, "DELETE", f"/api/users/{name}")
        session.close_frame()
    add_user(server, "manager", name=name)
    token, _ = give_token(server, name)
    for path in ("/api/messages", "/api/messages?unread=1", "/api/chat"):
        assert told(call(server, "GET", path, token=token)) == {"messages": []}
    with watch(server, f"/ws?session={greeting['sessionToken']}", token) as session:
        again = session.message()
        assert again["resumed"] is False and again["sessionId"] != greeting["sessionId"]


def test_text_that_another_program_garbled_takes_nobody_s_messages_away_and_keeps_nothing_from_starting(tmp_path: Path) -> None:
    with Server(tmp_path, AUTH__MODE="local") as server:
        bob = add_user(server, "staff")
        token, _ = give_token(server, bob.name)
        boss, _ = give_token(server, add_user(server, "admin").name)
        assert call(server, "POST", "/api/messages", {"recipient": bob.name, "message": "table 4"}, token=boss).status == 201
        garbled = "CAST(X'ff41' AS TEXT)"
        server.sql(
            "INSERT INTO staff_message(id, sender, recipient, message, timestamp)"
            f" VALUES (5, 'pos', ?, {garbled}, '2100-01-01T00:00:00Z')",
            bob.name,
        )
        server.sql(
            "INSERT INTO chat_message(id, user_name, session_id, request_id, status, question, timestamp)"
            f" VALUES (6, ?, 'x', 'y', 'PENDING', {garbled}, '2100-01-01T00:00:00Z')",
            bob.name,
        )
        server.restart()
        with watch(server, "/ws", token) as session:
            heard = [until(session, "staff_message")["message"] for _ in range(2)]
        assert "table 4" in heard
        for path in ("/api/messages", "/api/messages?unread=1", "/api/chat"):
            assert call(server, "GET", path, token=token).status == 200
        assert "Traceback" not in server.log()


def test_rights_follow_while_many_come_and_go(server: Server) -> None:
    """Whoever connects in the very moment in which a token is taken back must not slip through."""
    for _ in range(15):
        token, row = give_token(server, unique("till"), "staff")
        sockets: list[Socket] = []

        def come(token: str = token, sockets: list[Socket] = sockets) -> None:
            for _ in range(6):
                sockets.append(watch(server, "/ws/robots", token))

        thread = threading.Thread(target=come)
        thread.start()
        server.sql("UPDATE token SET revoked_at = ? WHERE id = ?", stamp(), row)
        thread.join(20)
        for socket in sockets:
            with socket:
                assert socket.close_frame() == (4001, "token_invalid")


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Some topics are open to some networks, and displays have rights of their own."""
    settings = {
        "SERVER__TRUSTED_PROXIES": '["127.0.0.0/8", "10.9.0.0/16"]',
        "AUTH__ANONYMOUS_TOPICS": '["robots", "tables"]',
        "AUTH__ANONYMOUS_NETWORKS": '["198.51.100.0/24", "2001:db8::/32"]',
        "RIGHTS__DISPLAY": '["read:robots"]',
        "RIGHTS__KITCHEN": '["query"]',
    }
    with Server(tmp_path_factory.mktemp("guests"), AUTH__MODE="local", **settings) as running:
        yield running
        assert running.is_running and "Traceback" not in running.log(), running.log()


GUEST, GUEST_V6 = "198.51.100.7", "2001:db8::7"


def test_a_display_may_what_the_configuration_says_and_nothing_else(guests: Server) -> None:
    token = sign(guests, "wall", "display")
    for topic in TOPICS:
        answer = call(guests, "GET", f"/api/{topic}", token=token, X_Forwarded_For=OUTSIDE)
        assert answer.status == (200 if topic == "robots" else 403), topic
    # Where everybody may, one who says who it is may too.
    assert call(guests, "GET", "/api/tables", token=token, X_Forwarded_For=GUEST).status == 200
    assert call(guests, "GET", "/api/orders", token=token, X_Forwarded_For=GUEST).status == 403


def test_one_who_may_ask_but_see_nothing_is_told_nothing(guests: Server) -> None:
    do(guests, "POST", "/api/device-messages", {"msg_type": "Albabot", "robot_id": "alba-55", "battery_level": 12})
    do(guests, "POST", "/api/device-messages", {"msg_type": "Event", "type": "CALL", "table_number": 55, "description": "d55d"})
    with watch(guests, "/ws", sign(guests, "cook", "kitchen"), FROM_OUTSIDE) as cook:
        questions = (
            "where is alba-55?",
            "battery of all robots",
            "which tables call?",
            "what happened in the last hour?",
            "open orders?",
            "stock?",
            "status",
            "help",
        )
        for number, text in enumerate(questions):
            cook.say({"type": "query", "requestId": unique("q"), "message": text})
            answer = json.dumps(until(cook, "response")["response"])
            # Naming what was asked back is no leak; its state is.
            assert "12" not in answer.replace("alba-55", "") and "d55d" not in answer, (number, answer)
            assert "55" not in answer.replace("alba-55", ""), answer


@pytest.mark.parametrize("address", [GUEST, GUEST_V6, f"::ffff:{GUEST}"])
def test_guests_read_what_is_open_and_do_nothing(guests: Server, address: str) -> None:
    for topic in TOPICS:
        answer = call(guests, "GET", f"/api/{topic}", X_Forwarded_For=address)
        assert answer.status == (200 if topic in ("robots", "tables") else 401), topic
    for (method, _), (who, path, body) in ALLOWED.items():
        if isinstance(who, set) and path != "/metrics":
            assert call(guests, method, path, body, X_Forwarded_For=address).status == 401, path
    line = f"X-Forwarded-For: {address}"
    with watch(guests, "/ws/robots", None, line) as socket:
        assert socket.message()["snapshot"]
        socket.say({"type": "token", "data": {"token": sign(guests, "boss", "admin")}})
        assert until(socket, "error")["data"]["code"] == "FORBIDDEN"
    assert ended(guests, "/ws/orders", None, line) == (1008, "token_missing")
    with watch(guests, "/ws", None, line) as session:
        greeting = session.message()
        assert greeting["rights"] and not any(right.startswith("send") for right in greeting["rights"])
        session.say({"type": "subscribe", "topic": "robots"})
        until(session, "update", topic="robots")
        session.say({"type": "subscribe", "topic": "orders"})
        assert until(session, "error", topic="orders")["data"]["code"] == "FORBIDDEN"
        session.say({"type": "query", "requestId": unique("q"), "message": "robots?"})
        assert until(session, "error")["data"]["code"] == "FORBIDDEN"
        token = greeting["sessionToken"]
    with watch(guests, f"/ws?session={token}", None, line) as again:
        assert not again.message()["resumed"], "an anonymous session belongs to nobody"


def test_a_bad_token_is_refused_even_where_none_is_needed(guests: Server) -> None:
    assert call(guests, "GET", "/api/robots", token="bad", X_Forwarded_For=GUEST).status == 401
    assert ended(guests, "/ws/robots", "bad", f"X-Forwarded-For: {GUEST}") == (4001, "token_invalid")


@pytest.mark.parametrize(
    "hops",
    [
        "203.0.113.1",
        f"{GUEST}, 203.0.113.1",
        f"{GUEST}, 203.0.113.1, 10.9.1.1",
        f"203.0.113.1, {OUTSIDE}",
        "127.0.0.1, 203.0.113.1",
        "nonsense",
        f"{GUEST}, nonsense",
        f"{GUEST} 203.0.113.1",
        f"{GUEST}:1234x",
    ],
)
def test_a_forged_hop_opens_nothing(guests: Server, hops: str) -> None:
    """The last hop that is no proxy of ours counts; what stands before it was written by anybody."""
    assert call(guests, "GET", "/api/robots", X_Forwarded_For=hops).status == 401
    assert call(guests, "GET", "/metrics", X_Forwarded_For=hops).status == 401


def test_a_forged_header_line_before_the_one_of_the_proxy_opens_nothing(guests: Server) -> None:
    """HAProxy adds a line of its own; the lines of one name are one list (RFC 9110 section 5.3)."""
    lines = [f"X-Forwarded-For: {GUEST}", f"X-Forwarded-For: {OUTSIDE}"]
    assert ended(guests, "/ws/robots", None, *lines) == (1008, "token_missing")
    lines = ["X-Forwarded-For: 127.0.0.1", f"X-Forwarded-For: {OUTSIDE}"]
    assert ended(guests, "/ws/robots", None, *lines) == (1008, "token_missing")


def test_without_a_trusted_proxy_nobody_is_believed_where_they_come_from(tmp_path: Path) -> None:
    settings = {"AUTH__ANONYMOUS_TOPICS": '["*"]', "AUTH__ANONYMOUS_NETWORKS": '["198.51.100.0/24"]'}
    with Server(tmp_path, AUTH__MODE="local", **settings) as server:
        for name in ("X_Forwarded_For", "X_Real_IP", "Forwarded", "X_Client_IP", "CF_Connecting_IP"):
            value = f"for={GUEST}" if name == "Forwarded" else GUEST
            assert call(server, "GET", "/api/robots", **{name: value}).status == 401, name


def test_all_topics_can_be_opened_with_a_star(tmp_path: Path) -> None:
    """The configuration takes `*` among anonymous_topics: then it must mean something."""
    settings = {"AUTH__ANONYMOUS_TOPICS": '["*"]', "AUTH__ANONYMOUS_NETWORKS": '["127.0.0.0/8"]'}
    with Server(tmp_path, AUTH__MODE="local", **settings) as server:
        assert call(server, "GET", "/api/robots").status == 200
        assert call(server, "GET", "/api/users").status == 401


def test_time_alone_ends_a_token_in_every_connection_it_opened(server: Server) -> None:
    """A token that was made out of another one must not outlive the row both depend on."""
    token, _ = give_token(server, unique("till"), "staff", days=3 / 86400)
    made = told(call(server, "POST", "/api/auth/refresh", token=token))["accessToken"] if can_refresh(server, token) else token
    with watch(server, "/ws/robots", made) as socket:
        assert socket.message()["snapshot"]
        assert socket.close_frame() == (4001, "token_expired"), "its row was over long ago"
    assert call(server, "GET", "/api/robots", token=made).status == 401


def can_refresh(server: Server, token: str) -> bool:
    return call(server, "POST", "/api/auth/refresh", token=token).status == 200
