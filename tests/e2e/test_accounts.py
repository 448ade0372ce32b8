"""Logging in, staying in, getting out; cookies, tickets, screens that pair; the commands; and what must stand nowhere
(SPEC section 8; PITFALLS H10 to H12, W2, A7, O1)."""

import contextlib
import json
import re
import secrets
import socket
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.e2e.people import (
    OUTSIDE,
    User,
    add_device,
    add_user,
    call,
    control,
    cookie_of,
    do,
    ended,
    give_token,
    is_alive,
    log_in,
    proof,
    sign,
    stamp,
    told,
    unique,
    until,
    watch,
)
from tests.e2e.raw import Answer, Wire, ask, head, open_socket, others_are_served, stays_well, upgrade, wait_until
from tests.e2e.server import Server

COMMAND = [sys.executable, "-m", "robodyne_rt"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Behind a proxy of this machine: each test comes from addresses of its own, because failures are counted by them."""
    settings = {"SERVER__TRUSTED_PROXIES": '["127.0.0.1/32"]', "SERVER__ALLOWED_ORIGINS": '["https://good.example"]'}
    with Server(tmp_path_factory.mktemp("accounts"), AUTH__MODE="local", **settings) as running:
        yield running
        assert running.is_running, running.log()


@pytest.fixture(autouse=True)
def well(server: Server) -> Iterator[None]:
    with stays_well(server):
        yield


_numbers = iter(range(1, 60000))


def somewhere() -> str:
    """Return an address that nobody else comes from."""
    number = next(_numbers)
    return f"100.64.{number // 250}.{number % 250 + 1}"


def post(server: Server, path: str, body: Any = None, *, address: str | None = None, **headers: str) -> Answer:
    token = headers.pop("token", None)
    return call(server, "POST", path, body, token=token, X_Forwarded_For=address or somewhere(), **headers)


def login(server: Server, name: str, password: str, **options: Any) -> Answer:
    return post(server, "/api/auth/login", {"user": name, "password": password}, **options)


def refresh(server: Server, token: Any, **options: Any) -> Answer:
    return post(server, "/api/auth/refresh", {"refreshToken": token}, **options)


def own_origin(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


# -- logging in --------------------------------------------------------------------------------------------------------


def test_a_user_logs_in_and_uses_what_is_given(server: Server) -> None:
    user = add_user(server, "staff")
    given = log_in(server, user)
    assert given["user"] == user.name and given["roles"] == ["staff"] and given["expiresIn"] <= 3600
    assert call(server, "GET", "/api/customers", token=given["accessToken"]).status == 200
    assert call(server, "GET", "/api/users", token=given["accessToken"]).status == 403
    assert call(server, "GET", "/api/robots", token=given["refreshToken"]).status == 401, "it is for one purpose only"


def test_every_failed_login_looks_the_same(server: Server) -> None:
    user, gone, off = add_user(server, "staff"), add_user(server, "staff"), add_user(server, "staff")
    do(server, "DELETE", f"/api/users/{gone.name}")
    do(server, "PATCH", f"/api/users/{off.name}", {"disabled": True})
    token_only = unique("token-only")
    do(server, "POST", "/api/users", {"name": token_only, "roles": ["staff"]})
    answers = [
        login(server, name, password)
        for name, password in (
            (user.name, "wrong password"),
            (user.name, user.password + " "),
            (user.name, user.password.upper()),
            (user.name.upper(), user.password),
            (user.name + " ", user.password),
            ("nobody", user.password),
            (gone.name, gone.password),
            (off.name, off.password),
            (token_only, "None"),
            (token_only, "nobody has this password"),
            ("nobody", "nobody has this password"),
            ("' OR 1=1 --", "x"),
            ("local", "x"),
        )
    ]
    assert {answer.status for answer in answers} == {401}
    assert len({answer.body for answer in answers}) == 1
    assert all("www-authenticate" in answer.headers and "set-cookie" not in answer.headers for answer in answers)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user": "x"},
        {"user": 5, "password": 5},
        {"user": None, "password": None},
        {"user": ["x"], "password": {"$ne": 1}},
        {"user": "x" * 101, "password": "y"},
        {"user": "x", "password": "y" * 501},
        {"user": "x\0", "password": "y"},
        {"user": "", "password": ""},
        {"user": "x", "password": "y", "admin": True},
        {"user": "x", "password": "y", "device": 5},
        [],
        "x",
        None,
        b"{",
        b"\xff",
        b"[" * 10000,
    ],
    ids=lambda body: str(body)[:30],
)
def test_a_login_that_is_none_is_refused(server: Server, body: Any) -> None:
    assert 400 <= post(server, "/api/auth/login", body).status < 429


def test_a_hundred_wrong_passwords_slow_the_guesser_down_and_not_its_victim_for_ever(server: Server) -> None:
    victim, address = add_user(server, "staff"), somewhere()
    statuses = []
    for number in range(100):
        answer = login(server, victim.name, f"guess number {number}", address=address)
        statuses.append(answer.status)
        if answer.status == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert statuses[0] == 401 and statuses[-1] == 429 and statuses.count(401) <= 25
    assert login(server, victim.name, victim.password, address=address).status == 429, "the guess may be right by now"
    elsewhere = login(server, victim.name, victim.password)
    assert elsewhere.status == 200, "one guesser alone must not lock somebody out"
    other = add_user(server, "staff")
    assert login(server, other.name, other.password).status == 200


def test_many_addresses_guessing_at_one_user_in_any_form_of_the_name_are_slowed_down_too(server: Server) -> None:
    victim = add_user(server, "staff", name=f"김민수-{unique('u')}", password="비밀번호 열두자리")
    for form in ("NFD", "NFC"):
        password = unicodedata.normalize(form, victim.password)
        assert login(server, unicodedata.normalize("NFD", victim.name), password).status == 200
    names = [unicodedata.normalize(("NFC", "NFD")[number % 2], victim.name) for number in range(68)]
    statuses = [login(server, name, f"guess number {number}").status for number, name in enumerate(names)]
    assert statuses[-1] == 429 and statuses.count(401) <= 65


def test_guessing_refresh_tokens_and_tickets_is_slowed_down(server: Server) -> None:
    address = somewhere()
    statuses = [refresh(server, f"{number}.guess", address=address).status for number in range(30)]
    assert statuses[0] == 401 and statuses[-1] == 429
    address = somewhere()
    line = f"X-Forwarded-For: {address}"
    answers = [ask(server, upgrade(server, f"/ws/robots?ticket=guess{number}", line)) for number in range(30)]
    assert answers[0].status == 101 and answers[-1].status == 429 and int(answers[-1].headers["retry-after"]) >= 1


def test_a_failed_login_is_in_the_log_but_nothing_that_may_be_a_password(server: Server) -> None:
    user, address = add_user(server, "staff"), somewhere()
    typed = unique("my-password-in-the-wrong-field")
    assert login(server, user.name, "wrong words", address=address).status == 401
    assert login(server, typed, "wrong words", address=address).status == 401

    def logged() -> list[str]:
        return [line for line in server.log().splitlines() if "login_failed" in line and address in line]

    deadline = time.monotonic() + 5
    while len(lines := logged()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(lines) == 2 and user.name in lines[0] and "unknown user" in lines[1]
    assert typed not in server.log() and "wrong words" not in server.log()


def test_a_storm_of_logins_does_not_keep_others_waiting(server: Server) -> None:
    user = add_user(server, "staff")
    with others_are_served(server), ThreadPoolExecutor(15) as pool:
        statuses = list(pool.map(lambda number: login(server, user.name, user.password).status, range(15)))
    assert set(statuses) <= {200, 429} and 200 in statuses


# -- staying in --------------------------------------------------------------------------------------------------------


def test_a_refresh_token_is_replaced_each_time(server: Server) -> None:
    given = log_in(server, add_user(server, "staff"))
    seen = {given["refreshToken"]}
    for _ in range(3):
        given = told(refresh(server, given["refreshToken"]))
        assert given["refreshToken"] not in seen
        seen.add(given["refreshToken"])
        assert call(server, "GET", "/api/robots", token=given["accessToken"]).status == 200


def test_a_refresh_whose_answer_was_lost_may_be_asked_again_for_a_moment(server: Server) -> None:
    first = log_in(server, add_user(server, "staff"))["refreshToken"]
    seconds = {told(refresh(server, first))["refreshToken"] for _ in range(5)}
    assert len(seconds) == 1
    third = told(refresh(server, seconds.pop()))
    assert refresh(server, third["refreshToken"]).status == 200
    # One that was replaced twice cannot be a lost answer.
    assert refresh(server, first).status == 401
    assert refresh(server, third["refreshToken"]).status == 401


def row_of(refresh_token: str) -> int:
    return int(refresh_token.partition(".")[0])


def rotated_long_ago(server: Server, refresh_token: str, *, at: str = "") -> None:
    """Let the time pass in which a replaced token may be used again; return when the server knows."""
    server.sql("UPDATE token SET rotated_at = ? WHERE id = ?", at or stamp(-300), row_of(refresh_token))
    mark, row = give_token(server, unique("mark"), "staff")  # changes of one topic are seen in their order
    server.sql("UPDATE token SET revoked_at = ? WHERE id = ?", stamp(), row)
    assert wait_until(lambda: call(server, "GET", "/api/robots", token=mark).status == 401, within_s=10)


def test_an_old_refresh_token_that_comes_again_ends_the_login(server: Server) -> None:
    given = log_in(server, add_user(server, "staff"))
    newer = told(refresh(server, given["refreshToken"]))
    rotated_long_ago(server, given["refreshToken"])
    with watch(server, "/ws/robots", newer["accessToken"]) as topic:
        assert topic.message()["snapshot"]
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: refresh(server, given["refreshToken"]).status, range(6)))
        assert answers == [401] * 6
        assert topic.close_frame() == (4001, "token_invalid")
    assert refresh(server, newer["refreshToken"]).status == 401
    assert call(server, "GET", "/api/robots", token=newer["accessToken"]).status == 401


def test_a_moment_of_refresh_that_another_program_garbled_was_long_ago(server: Server) -> None:
    given = log_in(server, add_user(server, "staff"))
    newer = told(refresh(server, given["refreshToken"]))
    rotated_long_ago(server, given["refreshToken"], at="2026-13-01T00:00:00Z")
    assert [refresh(server, token["refreshToken"]).status for token in (given, newer)] == [401, 401]


def test_a_thief_who_refreshes_twice_is_found_out_as_well(server: Server) -> None:
    """Whoever stole a token and replaced it twice must not keep the login when its owner comes with the old one."""
    given = log_in(server, add_user(server, "staff"))
    stolen = told(refresh(server, told(refresh(server, given["refreshToken"]))["refreshToken"]))
    rotated_long_ago(server, given["refreshToken"])
    assert refresh(server, given["refreshToken"]).status == 401
    assert call(server, "GET", "/api/robots", token=stolen["accessToken"]).status == 401
    assert refresh(server, stolen["refreshToken"]).status == 401


def test_who_knows_only_the_number_of_a_login_cannot_end_it(server: Server) -> None:
    given = log_in(server, add_user(server, "staff"))
    rotated_long_ago(server, given["refreshToken"])
    for secret in ("", "x", "A" * 43):
        assert refresh(server, f"{row_of(given['refreshToken'])}.{secret}").status in (401, 422)
    assert refresh(server, given["refreshToken"]).status == 200


@pytest.mark.parametrize(
    "token", ["", ".", "x", "1", "1.", "-1.x", "²", "²³.x", "٣.x", "9" * 18 + ".x", "9" * 30 + ".x", " 1.x", "1.x\n", "x" * 200]
)
def test_what_is_no_refresh_token_is_refused(server: Server, token: str) -> None:
    assert refresh(server, token).status in (401, 422)


@pytest.mark.parametrize("token", [5, None, [], {}, True, "x" * 300])
def test_what_cannot_be_a_refresh_token_is_refused(server: Server, token: Any) -> None:
    assert refresh(server, token).status in (401, 422)


def test_refreshing_at_the_same_moment_never_fails_an_honest_client(server: Server) -> None:
    given = log_in(server, add_user(server, "staff"))
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: refresh(server, given["refreshToken"]), range(6)))
    (newer,) = {told(answer)["refreshToken"] for answer in answers}
    assert refresh(server, newer).status == 200


def test_a_changed_password_and_a_disabled_user_end_all_logins(server: Server) -> None:
    for change in ({"password": "another horse"}, {"disabled": True}):
        user = add_user(server, "staff")
        given = log_in(server, user)
        with watch(server, "/ws/robots", given["accessToken"]) as topic:
            assert topic.message()["snapshot"]
            do(server, "PATCH", f"/api/users/{user.name}", change)
            assert topic.close_frame() == (4001, "token_invalid")
        assert refresh(server, given["refreshToken"]).status == 401
        assert login(server, user.name, user.password).status == 401


def test_logging_out_ends_this_login_and_no_other(server: Server) -> None:
    user = add_user(server, "staff")
    one, two = log_in(server, user), log_in(server, user)
    with (
        watch(server, "/ws/robots", one["accessToken"]) as topic,
        watch(server, "/ws", one["accessToken"]) as session,
        watch(server, "/ws/robots", two["accessToken"]) as other,
    ):
        assert topic.message()["snapshot"] and session.message()["type"] == "connected"
        assert post(server, "/api/auth/logout", token=one["accessToken"]).status == 200
        assert topic.close_frame() == (4001, "token_invalid")
        assert session.close_frame() == (4001, "token_invalid")
        assert is_alive(other, "robots")
    assert refresh(server, one["refreshToken"]).status == 401
    assert call(server, "GET", "/api/robots", token=one["accessToken"]).status == 401
    assert refresh(server, two["refreshToken"]).status == 200


# -- what a short key must not become -----------------------------------------------------------------------------------


def test_an_access_token_does_not_turn_into_a_long_one(server: Server) -> None:
    """It is good for an hour: whoever finds one must not make a month of it by asking for a cookie."""
    access = log_in(server, add_user(server, "staff"))["accessToken"]
    answer = post(server, "/api/auth/refresh", token=access)
    assert "set-cookie" not in answer.headers
    till, _ = give_token(server, unique("till"), "staff")
    assert "set-cookie" not in post(server, "/api/auth/refresh", token=till).headers


def test_a_ticket_opens_one_websocket_and_nothing_else(server: Server) -> None:
    token = log_in(server, add_user(server, "admin"))["accessToken"]

    def ticket() -> str:
        return str(told(post(server, "/api/auth/ticket", token=token))["ticket"])

    more = post(server, f"/api/auth/ticket?ticket={ticket()}")
    assert more.status in (400, 401, 403), "a ticket that buys tickets is good for ever"
    longer = post(server, f"/api/auth/refresh?ticket={ticket()}")
    assert "set-cookie" not in longer.headers and b"accessToken" not in longer.body
    assert call(server, "GET", f"/api/users?ticket={ticket()}").status in (400, 401, 403)
    pretended = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert call(server, "GET", f"/api/users?ticket={ticket()}", **pretended).status in (400, 401, 403)
    assert post(server, f"/api/auth/ticket?ticket={ticket()}", **pretended).status in (400, 401, 403)


# -- tickets -------------------------------------------------------------------------------------------------------------


def test_a_ticket_is_good_once_and_for_the_page_that_asked(server: Server) -> None:
    token = sign(server, unique("kim"), "staff")

    def ticket(**headers: str) -> str:
        return str(told(post(server, "/api/auth/ticket", token=token, **headers))["ticket"])

    own, good = f"Origin: {own_origin(server)}", "Origin: https://good.example"
    address = f"X-Forwarded-For: {somewhere()}"
    once = ticket()
    with watch(server, f"/ws/robots?ticket={once}", None, address) as socket:
        assert socket.message()["snapshot"]
        assert ended(server, f"/ws/robots?ticket={once}", None, address) == (4001, "token_invalid")
        assert is_alive(socket, "robots")
    bound = ticket(Origin=own_origin(server))
    assert ended(server, f"/ws/robots?ticket={bound}", None, address, good) == (4001, "token_invalid")
    assert ended(server, f"/ws/robots?ticket={bound}", None, address, own) == (4001, "token_invalid"), "tried once is used"
    assert ended(server, f"/ws/robots?ticket={ticket(Origin=own_origin(server))}", None, address) == (4001, "token_invalid")
    for origin, line in ((own_origin(server), own), ("https://good.example", good)):
        with watch(server, f"/ws?ticket={ticket(Origin=origin)}", None, address, line) as socket:
            assert socket.message()["userId"].startswith("kim")


def test_a_flood_of_tickets_by_one_does_not_keep_the_others_out(server: Server) -> None:
    flooder, other = sign(server, unique("display"), "display"), sign(server, unique("kim"), "staff")
    with Wire(server.port) as wire:
        statuses = []
        for _ in range(1500):
            wire.send(head(server, "POST /api/auth/ticket", f"Authorization: Bearer {flooder}", "Content-Length: 0"))
            answer = wire.answer()
            statuses.append(answer.status)
    assert set(statuses) == {201, 429}, "bounded"
    assert "retry-after" in answer.headers
    assert post(server, "/api/auth/ticket", token=other).status == 201


# -- cookies and pages -----------------------------------------------------------------------------------------------


def page_login(server: Server, user: User, origin: str = "") -> Answer:
    body = {"user": user.name, "password": user.password, "cookie": True}
    answer = post(server, "/api/auth/login", body, Origin=origin or own_origin(server))
    assert answer.status == 200, answer
    return answer


def test_the_cookie_is_for_this_server_s_pages_alone(server: Server) -> None:
    answer = page_login(server, add_user(server, "manager"))
    said = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= said and not any(part.startswith("domain") for part in said)
    # A page behind a proxy that ends the TLS for us.
    behind_tls = page_login(server, add_user(server, "staff"), own_origin(server).replace("http:", "https:"))
    assert "secure" not in said and "; secure" in behind_tls.headers["set-cookie"].lower()
    assert "refreshToken" not in told(answer)
    cookie = cookie_of(answer)
    assert call(server, "GET", "/api/customers", Cookie=cookie).status == 200
    message = {"recipient": "role:kitchen", "message": "hello"}
    own, foreign = own_origin(server), "http://evil.example"
    assert post(server, "/api/messages", message, Cookie=cookie).status == 403
    assert post(server, "/api/messages", message, Cookie=cookie, Origin="null").status == 403
    assert post(server, "/api/messages", message, Cookie=cookie, Origin=foreign).status == 403
    assert post(server, "/api/messages", message, Cookie=cookie, Sec_Fetch_Site="cross-site").status == 403
    assert post(server, "/api/messages", message, Cookie=cookie, Origin=own).status == 201
    for method, path in (("DELETE", "/api/tokens/1"), ("PATCH", "/api/users/x"), ("POST", "/api/auth/logout")):
        assert call(server, method, path, Cookie=cookie).status == 403
    line = f"Cookie: {cookie}"
    assert ask(server, upgrade(server, "/ws/robots", line)).status == 403
    assert ask(server, upgrade(server, "/ws", line, f"Origin: {foreign}")).status == 403
    with open_socket(server, "/ws/customers", line, f"Origin: {own}") as socket:
        assert socket.message()["snapshot"]
        assert call(server, "POST", "/api/auth/logout", Cookie=cookie, Origin=own).status == 200
        assert socket.close_frame() == (4001, "token_invalid")
    outside = f"X-Forwarded-For: {OUTSIDE}"
    assert ended(server, "/ws/robots", None, line, f"Origin: {own}", outside) == (1008, "token_missing"), (
        "an old cookie is none"
    )
    assert call(server, "GET", "/api/customers", Cookie=cookie, X_Forwarded_For=OUTSIDE).status == 401


def test_a_page_gets_a_short_token_beside_its_cookie(server: Server) -> None:
    user = add_user(server, "staff")
    cookie = cookie_of(page_login(server, user))
    assert call(server, "POST", "/api/auth/refresh", Cookie=cookie).status == 403
    given = call(server, "POST", "/api/auth/refresh", Cookie=cookie, Origin=own_origin(server))
    access = told(given)["accessToken"]
    assert call(server, "GET", "/api/robots", token=access).status == 200
    do(server, "PATCH", f"/api/users/{user.name}", {"disabled": True})
    assert call(server, "GET", "/api/robots", token=access).status == 401
    assert call(server, "POST", "/api/auth/refresh", Cookie=cookie, Origin=own_origin(server)).status == 401


def test_a_page_in_use_stays_logged_in_and_one_that_is_not_does_not(server: Server) -> None:
    """A login ends 30 days after its last refresh: here with 20 of them gone, as the database tells."""
    cookie = cookie_of(page_login(server, add_user(server, "staff")))

    def refreshed() -> tuple[Answer, str]:
        answer = call(server, "POST", "/api/auth/refresh", Cookie=cookie, Origin=own_origin(server))
        ((expires_at,),) = server.sql("SELECT expires_at FROM token WHERE kind = 'LOGIN' ORDER BY id DESC LIMIT 1")
        return answer, expires_at

    _, at_first = refreshed()
    assert refreshed()[1] == at_first, "not for each hour"
    server.sql("UPDATE token SET expires_at = ? WHERE expires_at = ?", stamp(10 * 86400), at_first)
    assert wait_until(lambda: refreshed()[1] >= at_first, within_s=10)
    answer, prolonged = refreshed()
    assert "max-age=259" in answer.headers["set-cookie"].lower()
    assert call(server, "GET", "/api/robots", Cookie=cookie_of(answer)).status == 200
    server.sql("UPDATE token SET expires_at = ? WHERE expires_at = ?", stamp(-1), prolonged)
    assert wait_until(lambda: refreshed()[0].status == 401, within_s=10)


def test_an_old_cookie_keeps_nobody_from_logging_in(server: Server) -> None:
    user = add_user(server, "staff")
    for cookie in ("robodyne=nonsense", "robodyne=", "robodyne=a.b.c; robodyne=d", "robodyne=" + "x" * 4000, "robodyne=é"):
        body = {"user": user.name, "password": user.password}
        assert post(server, "/api/auth/login", body, Cookie=cookie, Origin=own_origin(server)).status == 200
        assert call(server, "GET", "/api/robots", Cookie=cookie, X_Forwarded_For=OUTSIDE).status == 401


ORIGINS = (
    "null",
    "http://evil.example",
    "https://good.example.evil",
    "http://good.example",
    "https://good.example:444",
    "https://evil-good.example",
    "https://good.example@evil.example",
    "https://good.example/",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://127.0.0.1:{port}.evil.example",
    "http://evil.example:{port}",
    "file://127.0.0.1:{port}",
    "ws://127.0.0.1:{port}",
    "127.0.0.1:{port}",
    "http://127.0.0.1:{port}/",
    "http://127.0.0.1:{port} http://evil.example",
    "http://localhost:{port}",
    "",
)


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_page_of_another_site_is_turned_away(server: Server, origin: str) -> None:
    line = f"Origin: {origin.format(port=server.port)}"
    cookie = f"Cookie: robodyne={sign(server, 'boss', 'admin')}"
    for lines in ([line], [line, cookie], [line, cookie, "Sec-Fetch-Site: same-origin"]):
        for path in ("/ws", "/ws/robots"):
            assert ask(server, upgrade(server, path, *lines)).status == 403
        for start in ("GET /api/robots", "GET /metrics", "GET /", "POST /api/auth/login", "POST /api/auth/ticket"):
            answer = ask(server, head(server, start, *lines, "Content-Length: 0"))
            assert (answer.status, answer.problem["code"]) == (403, "PERMISSION_DENIED")
            assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "x" * 300,
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
    ],
)
def test_a_name_that_is_not_ours_is_not_answered_for(server: Server, host: str) -> None:
    token = sign(server, "boss", "admin")
    for start in ("GET /api/robots", "GET /livez", "GET /"):
        assert ask(server, head(server, start, f"Authorization: Bearer {token}", host=host)).status in (400, 421)


def test_the_target_s_host_wins_over_the_header_for_hosts_and_for_origins(server: Server) -> None:
    token = sign(server, "boss", "admin")
    line = f"Authorization: Bearer {token}"
    assert ask(server, head(server, "GET http://evil.example/api/robots", line)).status in (400, 421)
    assert ask(server, head(server, "GET http://127.0.0.1:80@evil.example/api/robots", line)).status in (400, 421)
    assert ask(server, head(server, "GET http://localhost/api/robots", line, host="evil.example")).status in (200, 400, 421)
    cookie = cookie_of(page_login(server, add_user(server, "staff")))
    started = f"POST http://127.0.0.1:{server.port}/api/auth/logout"
    lines = ["Origin: http://evil.example", f"Cookie: {cookie}", "Content-Length: 0"]
    assert ask(server, head(server, started, *lines, host="evil.example")).status in (400, 403, 421)


# -- screens that pair ---------------------------------------------------------------------------------------------------


def test_a_screen_pairs_with_the_code_that_it_shows(server: Server) -> None:
    boss = sign(server, "boss", "admin")
    screen = told(post(server, "/api/pairings", {}))
    assert re.fullmatch(r"\d{6}", screen["code"]) and screen["code"] not in screen["pairing"]
    path = f"/api/pairings/{screen['pairing']}"
    assert told(call(server, "GET", path))["status"] == "waiting"
    listed = call(server, "GET", "/api/pairings", token=boss)
    assert screen["code"].encode() not in listed.body and screen["pairing"].encode() not in listed.body
    wrong = f"{(int(screen['code']) + 1) % 10**6:06d}"
    assert post(server, "/api/pairings/approve", {"code": wrong, "label": "wall"}, token=boss).status == 404
    for bad in ("", "12345", "1234567", "abcdef", "１２３４５６", 123456, None):
        assert post(server, "/api/pairings/approve", {"code": bad, "label": "wall"}, token=boss).status in (404, 422)
    for role in ("manager", "display", "technician"):
        said = {"code": screen["code"], "label": "wall"}
        assert post(server, "/api/pairings/approve", said, token=sign(server, "x", role)).status == 403
    user = add_user(server, "kitchen")
    refused = post(server, "/api/pairings/approve", {"code": screen["code"], "label": user.name}, token=boss)
    assert refused.status == 409, "a screen of that name would show the user's messages"
    label = unique("kitchen wall")
    assert post(server, "/api/pairings/approve", {"code": screen["code"], "label": label}, token=boss).status == 201
    body = {"name": label, "roles": ["staff"], "password": "long enough"}
    assert control(server, "POST", "/api/users", body)[0] == 409
    assert post(server, "/api/pairings/approve", {"code": screen["code"], "label": label}, token=boss).status == 404
    got = told(call(server, "GET", path))
    assert got["status"] == "approved"
    assert call(server, "GET", path).status == 404, "the token is told once"
    me = told(call(server, "GET", "/api/auth/me", token=got["token"]))
    assert (me["user"], me["roles"]) == (label, ["display"])
    assert call(server, "GET", "/api/orders", token=got["token"]).status == 200
    assert call(server, "GET", "/api/customers", token=got["token"]).status == 403


def test_a_screen_may_take_its_token_as_a_cookie(server: Server) -> None:
    screen = told(post(server, "/api/pairings", {}))
    label = unique("hall")
    do(server, "POST", "/api/pairings/approve", {"code": screen["code"], "label": label})
    answer = call(server, "GET", f"/api/pairings/{screen['pairing']}?cookie=1")
    assert "token" not in told(answer) and "httponly" in answer.headers["set-cookie"].lower()
    line = f"Cookie: {cookie_of(answer)}"
    with open_socket(server, "/ws/orders", line, f"Origin: {own_origin(server)}") as wall:
        assert wall.message()["snapshot"]
        rows = [item for item in do(server, "GET", "/api/tokens")["tokens"] if item["user"] == label]
        do(server, "DELETE", f"/api/tokens/{rows[0]['id']}")
        assert wall.close_frame() == (4001, "token_invalid")


def test_a_screen_of_any_name_gets_a_token_that_works(server: Server) -> None:
    for label in ("Ku\u0308che", "주방", unicodedata.normalize("NFD", "주방 화면"), "<script>alert(1)</script>", "a/b?c#d%e"):
        screen = told(post(server, "/api/pairings", {}))
        do(server, "POST", "/api/pairings/approve", {"code": screen["code"], "label": label})
        token = told(call(server, "GET", f"/api/pairings/{screen['pairing']}"))["token"]
        assert call(server, "GET", "/api/orders", token=token).status == 200, label


def test_ten_thousand_pairings_are_bounded_and_end_nobody(server: Server) -> None:
    boss = sign(server, "boss", "admin")
    address = somewhere()
    statuses = [post(server, "/api/pairings", {}, address=address).status for _ in range(30)]
    assert statuses[0] == 201 and statuses[-1] == 429
    statuses = []
    with Wire(server.port) as wire:
        for number in range(10_000):
            where = f"X-Forwarded-For: 100.{65 + number // 62500}.{number // 250 % 250}.{number % 250}"
            wire.send(head(server, "POST /api/pairings", where, "Content-Length: 0"))
            answer = wire.answer()
            statuses.append(answer.status)
            if answer.status == 429 and number > 2000:
                break
    assert statuses[-1] == 429 and int(answer.headers["retry-after"]) >= 1
    waiting = told(call(server, "GET", "/api/pairings", token=boss))["pairings"]
    assert len(waiting) <= 1000


# -- names in paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b?c#d%2Fe;f&g=h<b>O'Brien</b>", ".."])
def test_a_user_of_any_name_can_be_removed_by_command(server: Server, name: str) -> None:
    add_user(server, "staff", name=name)
    done = run("user", "remove", name, cwd=server.folder)
    assert done.returncode == 0, done.stderr
    assert name not in {user["name"] for user in do(server, "GET", "/api/users")["users"]}


@pytest.mark.parametrize(
    "name", ["", " ", " x", "x ", "x\n", "\x1b[31mred", "a\0b", "role:admin", "x" * 101, "\u202ereversed", 5, None, []]
)
def test_a_name_that_would_mislead_is_refused(server: Server, name: Any) -> None:
    assert control(server, "POST", "/api/users", {"name": name, "roles": ["staff"]})[0] == 422
    assert control(server, "POST", "/api/tokens", {"user": name, "roles": ["staff"]})[0] in (404, 422)
    assert control(server, "POST", "/api/devices", {"device_id": name})[0] == 422


@pytest.mark.parametrize("name", ["anonymous", "local"])
def test_nobody_is_called_like_those_who_have_no_name(server: Server, name: str) -> None:
    """Messages for `anonymous` would go to every guest, and what `local` did is what the machine's owner did."""
    status, _ = control(server, "POST", "/api/users", {"name": name, "roles": ["staff"]})
    with contextlib.suppress(AssertionError):
        do(server, "DELETE", f"/api/users/{name}")
    assert status in (409, 422)


# -- commands ----------------------------------------------------------------------------------------------------------------


def run(*arguments: str | bytes, cwd: Path, said: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return processes.run(arguments, folder=cwd, environment=environment, said=said)


def assert_commands_work(folder: Path) -> None:
    """With and without a server: the same commands, the same answers."""
    arguments = ("user", "add", "kim", "--role", "kitchen", "--role", "staff", "--password-stdin", "--json")
    added = run(*arguments, cwd=folder, said="long enough\n")
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["roles"] == ["kitchen", "staff"]
    listed = run("user", "list", "--json", cwd=folder).stdout
    assert "kim" in listed and "argon2" not in listed
    plain = run("token", "create", "--user", "kim", cwd=folder)
    assert plain.returncode == 0 and len(plain.stdout.splitlines()) == 1, "the token alone, so that it can be copied"
    assert plain.stdout.count(".") == 2
    device = run("device", "add", "alba-1", "--robot", "alba-1", "--json", cwd=folder)
    assert device.returncode == 0 and len(bytes.fromhex(json.loads(device.stdout)["key"])) == 32
    rotated = run("device", "rotate", "alba-1", "--json", cwd=folder)
    assert json.loads(rotated.stdout)["key"] != json.loads(device.stdout)["key"]
    twice = run("device", "rotate", "alba-1", cwd=folder)
    assert twice.returncode == 1 and "--again" in twice.stderr
    again = run("device", "rotate", "alba-1", "--again", "--json", cwd=folder)
    assert json.loads(again.stdout)["key"] not in (json.loads(rotated.stdout)["key"], json.loads(device.stdout)["key"])
    table = run("device", "list", cwd=folder).stdout.splitlines()
    assert table[0].split()[0] == "device" and table[1].split()[0] == "alba-1" and len(table) == 2
    assert run("device", "revoke", "alba-1", cwd=folder).returncode == 0


def test_a_command_in_the_wrong_folder_makes_nothing_there(tmp_path: Path) -> None:
    for words in (("user", "add", "lee", "--password-stdin"), ("token", "list"), ("dlq", "list"), ("device", "add", "r7")):
        done = run(*words, cwd=tmp_path, said="long enough\n")
        assert done.returncode == 2 and str(tmp_path / "robodyne.db") in done.stderr and "relative" in done.stderr, done
    done = run("token", "approve", "123 456", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "robodyne-rt.sock" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_commands_that_cannot_be_done_say_so_and_why(tmp_path: Path) -> None:
    run("init", cwd=tmp_path)
    refused = (
        (1, ("user", "add", "lee", "--password-stdin")),
        (2, ("user", "add", "lee", "--role", "root")),
        (1, ("token", "create", "--user", "nobody-known")),
        (1, ("token", "revoke", "1")),
        (1, ("device", "rotate", "nothing")),
        (2, ("token", "create", "--user", "till", "--role", "staff", "--days", "0")),
        (1, ("token", "create", "--user", "admin", "--role", "staff")),
    )
    for code, words in refused:
        done = run(*words, cwd=tmp_path, said="short\n")
        assert done.returncode == code and done.stderr and "Traceback" not in done.stderr, (words, done)


def test_the_commands_work_without_a_server_and_with_one(tmp_path: Path) -> None:
    made = run("init", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    said = json.loads(made.stdout)
    assert said["admin_made"] and len(said["password"]) >= 12
    assert (tmp_path / "secret.key").stat().st_mode & 0o077 == 0
    assert (tmp_path / "robodyne.db").stat().st_mode & 0o007 == 0
    again = run("init", "--json", cwd=tmp_path)
    assert again.returncode == 0 and not json.loads(again.stdout)["admin_made"] and "password" not in json.loads(again.stdout)
    assert_commands_work(tmp_path)
    lasting = run("token", "create", "--user", "wall", "--role", "display", cwd=tmp_path).stdout.strip()
    key = bytes.fromhex(json.loads(run("device", "add", "alba-9", "--json", cwd=tmp_path).stdout)["key"])
    with Server(tmp_path, AUTH__MODE="local") as server:
        given = told(call(server, "POST", "/api/auth/login", {"user": "admin", "password": said["password"]}))
        assert call(server, "GET", "/api/users", token=given["accessToken"]).status == 200
        assert call(server, "GET", "/api/robots", token=lasting).status == 200
        with server.dial() as sock, sock.makefile("rb") as lines:
            mine = secrets.token_hex(16)
            sock.sendall(json.dumps({"msg_type": "Hello", "device_id": "alba-9", "client_nonce": mine}).encode() + b"\n")
            nonce = json.loads(lines.readline())["nonce"]
            proven = {"msg_type": "Hello", "device_id": "alba-9", "proof": proof(key, "alba-9", nonce, mine)}
            sock.sendall(json.dumps(proven).encode() + b"\n")
            assert json.loads(lines.readline())["status"] == "success"
        screen = told(call(server, "POST", "/api/pairings", {}))
        shown = f"{screen['code'][:3]} {screen['code'][3:]}"
        assert run("token", "approve", shown, "--label", "hall", cwd=tmp_path).returncode == 0
    # A secret that is gone is made anew, and what that costs is said.
    (tmp_path / "secret.key").unlink()
    with Server(tmp_path, AUTH__MODE="local") as server:
        assert call(server, "GET", "/api/robots", token=lasting).status == 401
        assert "put the copy of the old file there" in server.log() and '"action":"secret_lost"' in server.log()
    (tmp_path / "secret.key").chmod(0o644)
    assert run("token", "create", "--user", "x", "--role", "display", cwd=tmp_path).returncode == 2


def test_the_commands_work_with_a_server(tmp_path: Path) -> None:
    with Server(tmp_path, AUTH__MODE="local"):
        assert_commands_work(tmp_path)


def test_a_name_that_is_no_text_is_refused_in_one_line(server: Server) -> None:
    bad = run("user", "add", b"\xff\xfe", "--password-stdin", cwd=server.folder, said="long enough\n")
    assert bad.returncode in (1, 2) and "Traceback" not in bad.stderr, bad.stderr


def test_every_command_explains_itself(tmp_path: Path) -> None:
    for words in (["user"], ["token", "create"]):
        done = run(*words, "--help", cwd=tmp_path)
        assert done.returncode == 0 and "usage:" in done.stdout, words
    assert run("user", cwd=tmp_path).returncode == 2


def test_only_this_user_may_open_the_control_socket(server: Server) -> None:
    assert (server.folder / "robodyne-rt.sock").stat().st_mode & 0o077 == 0
    assert (server.folder / "secret.key").stat().st_mode & 0o077 == 0


# -- what must stand nowhere -------------------------------------------------------------------------------------------------


def test_no_secret_stands_in_log_answers_metrics_or_database(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", LOG__LEVEL="DEBUG", DEVICES__TRUSTED_NETWORKS="[]")
    canary = "CANARY" + secrets.token_hex(8)
    hidden: dict[str, str] = {"canary": canary}
    shown = bytearray()

    def see(answer: Answer) -> Answer:
        shown.extend(repr(answer.headers).encode() if answer.status >= 400 else b"")
        shown.extend(answer.body if answer.status >= 400 else b"")
        return answer

    user = add_user(server, "admin", password=f"{canary}-password")
    hidden["password"] = user.password
    given = log_in(server, user)
    hidden |= {"access": given["accessToken"], "refresh": given["refreshToken"]}
    newer = told(call(server, "POST", "/api/auth/refresh", {"refreshToken": given["refreshToken"]}))
    hidden |= {"access 2": newer["accessToken"], "refresh 2": newer["refreshToken"]}
    hidden["secret"] = (server.folder / "secret.key").read_text().strip()
    hidden["ticket"] = told(call(server, "POST", "/api/auth/ticket", token=newer["accessToken"]))["ticket"]
    with watch(server, f"/ws/robots?ticket={hidden['ticket']}") as topic:
        assert topic.message()["snapshot"]
    with watch(server, f"/ws?token={newer['accessToken']}") as session:
        hidden["session"] = session.message()["sessionToken"]
        session.say({"type": "token", "token": newer["accessToken"]})
        session.say({"type": "token", "token": canary})
        session.say({"type": canary, "token": canary})
        until(session, "error")
    cookie = cookie_of(call(server, "POST", "/api/auth/login", {"user": user.name, "password": user.password, "cookie": True}))
    hidden["cookie"] = cookie.partition("=")[2]
    call(server, "GET", "/api/robots", Cookie=cookie)
    screen = told(call(server, "POST", "/api/pairings", {}))
    hidden["pairing"] = screen["pairing"]
    do(server, "POST", "/api/pairings/approve", {"code": screen["code"], "label": "wall"})
    hidden["display"] = told(call(server, "GET", f"/api/pairings/{screen['pairing']}"))["token"]
    # Bad ones, in all places.
    for path in (
        f"/api/robots?token={canary}",
        f"/api/robots?ticket={canary}",
        f"/api/robots?token={canary}&token={canary}",
        f"/livez?token={canary}",
        f"/nowhere?token={canary}",
        f"/api/robots?x=%zz&token={canary}",
        f"/api/pairings/{canary * 2}",
        f"/ws/robots?token={canary}",
        f"/api/robots?token={canary}" + "x" * 9000,
    ):
        see(call(server, "GET", path))
    ended(server, f"/ws/robots?token={canary}")
    ended(server, f"/ws/nowhere?token={newer['accessToken']}")
    see(call(server, "GET", "/api/robots", token=canary))
    see(call(server, "GET", "/api/robots", Authorization=f"Basic {canary}"))
    see(call(server, "GET", "/api/robots", Cookie=f"robodyne={canary}"))
    see(call(server, "POST", "/api/auth/ticket", Cookie=f"robodyne={canary}"))
    for body in (
        {"user": user.name, "password": f"{canary}-wrong"},
        {"user": user.name, "password": canary * 100},
        {"user": user.name, "password": [canary]},
        b'{"user":"x","password":"' + canary.encode(),
        b'{"password":"' + canary.encode() + b'\xff"}',
    ):
        see(call(server, "POST", "/api/auth/login", body))
    see(call(server, "POST", "/api/auth/refresh", {"refreshToken": f"1.{canary}"}))
    see(call(server, "POST", "/api/auth/refresh", {"refreshToken": [canary]}))
    see(call(server, "POST", "/api/users", {"name": "x", "roles": [canary], "password": canary}, token=newer["accessToken"]))
    # Requests that cannot be parsed: the library puts what it read into its errors.
    for raw in (
        head(server, "GET /api/robots", f"Authorization: Bearer {canary}" + "x" * 9000),
        head(server, "GET /api/robots", f"Authorization: Bearer {canary}\0"),
        head(server, f"GET /api/robots?token={canary}\0"),
        head(server, f"GET /api/robots?token={canary} x"),
        head(server, "GET /api/robots", f"Authorization : Bearer {canary}"),
        head(server, "GET /api/robots", f"Cookie: robodyne={canary}\x01"),
        head(server, f"GET http://[/?token={canary}"),
        f"{canary} / HTTP/1.1\r\n\r\n".encode(),
    ):
        with Wire(server.port) as wire:
            wire.send(raw)
            with contextlib.suppress(EOFError):
                see(wire.answer())
    # One line a second is logged of them: these shall be the ones.
    for raw in (
        head(server, "GET /api/robots", f"Authorization: Bearer {canary}" + "x" * 9000),
        head(server, "GET /api/robots", f"Cookie: robodyne={canary}" + "x" * 9000),
        head(server, f"GET http://[/?ticket={canary}"),
    ):
        seen = server.log().count("malformed requests")

        def is_logged(raw: bytes = raw, seen: int = seen) -> bool:
            with Wire(server.port) as wire:
                wire.send(raw)
                wire.rest()
            return server.log().count("malformed requests") > seen

        assert wait_until(is_logged, within_s=10, every_s=0.1)
    # Devices, with the database and with the spool in its stead.
    device = add_device(server)
    hidden["key"] = device.key.hex()
    lock = sqlite3.connect(server.database, isolation_level=None)
    for number, locked in enumerate((False, True)):
        if locked:
            lock.execute("BEGIN EXCLUSIVE")
        with server.dial() as sock, sock.makefile("rb") as lines:

            def tell(message: dict[str, Any], sock: socket.socket = sock, lines: Any = lines) -> Any:
                sock.sendall(json.dumps(message).encode() + b"\n")
                return json.loads(lines.readline())

            mine = secrets.token_hex(16)
            nonce = tell({"msg_type": "Hello", "device_id": device.id, "client_nonce": mine})["nonce"]
            said = proof(device.key, device.id, nonce, mine)
            hidden[f"proof {number}"] = said
            assert tell({"msg_type": "Hello", "device_id": device.id, "proof": said, "id": f"h{number}"})["status"] == "success"
        if locked:
            lock.execute("ROLLBACK")
    lock.close()
    with server.dial() as sock, sock.makefile("rb") as lines:
        for message in ({"proof": canary * 40}, {"client_nonce": canary}, {"proof": canary}):
            sock.sendall(json.dumps({"msg_type": "Hello", "device_id": device.id, **message}).encode() + b"\n")
            shown.extend(lines.readline())
    metrics = see(call(server, "GET", "/metrics")).body
    assert len(metrics) > 1000
    places = {"metrics": metrics, "answers": bytes(shown), "log": server.log().encode()}
    server.stop()
    for file in server.folder.iterdir():
        if file.is_file() and file.name not in ("secret.key", "server.log"):
            places[file.name] = file.read_bytes()
    assert "spool.db" in places and "robodyne.db" in places
    found = [(name, place) for name, text in hidden.items() for place, data in places.items() if text.encode() in data]
    assert not found


def test_a_log_line_stays_one_whatever_people_and_robots_are_called(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", LOG__LEVEL="DEBUG")
    nasty = '<script>alert(1)</script>\x1b[31m\n{"level":"ERROR","message":"forged"}\r\n'
    do(server, "POST", "/api/messages", {"recipient": "kim", "message": nasty})
    server.tell(
        {"msg_type": "Albabot", "robot_id": "alba-1", "name": nasty},
        {"msg_type": "Albabot", "robot_id": "<script>alert(1)</script>"},
        {"msg_type": nasty},
        {"msg_type": "Log", "level": "ERROR", "message": nasty},
        {"msg_type": "Event", "type": "INFO", "description": nasty},
        {"msg_type": "Hello", "device_id": nasty, "client_nonce": "a" * 32},
        {"msg_type": "Hello", "device_id": "x", "proof": nasty},
    )
    server.sql("UPDATE robot SET name = ?", nasty)
    for name in ("<script>x</script>", nasty):
        control(server, "POST", "/api/users", {"name": name, "roles": ["staff"], "password": "correct horse"})
        call(server, "POST", "/api/auth/login", {"user": name, "password": "correct horse"})
    call(server, "GET", "/api/%0A%1B%5B31mrobots%0D%0A")
    call(server, "GET", "/api/users/%0A%1B", token=sign(server, "x", "admin"))
    assert call(server, "GET", "/").headers["content-security-policy"]
    for line in server.log().splitlines():
        assert line.startswith("{"), line
        assert json.loads(line)["message"] != "forged"
        assert "\x1b" not in line


def test_the_largest_header_that_is_taken_and_the_one_after(server: Server) -> None:
    token = sign(server, "x", "staff")
    padded = "x" * 7000
    assert call(server, "GET", "/api/robots", token=token, X_Padding=padded).status == 200
    with Wire(server.port) as wire:
        wire.send(head(server, "GET /api/robots", f"Authorization: Bearer {token}", "X-Padding: " + "x" * 9000))
        assert wire.answer().status in (400, 431)
        assert wire.rest() == b""
