"""Wrong passwords slow guessers down and lock no known person out (SPEC section 8). core/login_limits.py decides;
bad refresh tokens count as wrong passwords of their address do, and need no hashing."""

import http.cookies
import json
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.people import User, add_user, call, do, give_token, told, unique
from tests.e2e.raw import Answer, ask, upgrade
from tests.e2e.server import Server

PROXY = {"AUTH__MODE": "local", "SERVER__TRUSTED_PROXIES": '["127.0.0.0/8"]'}

_numbers = iter(range(1, 60000))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), **PROXY) as running:
        yield running
        assert running.is_running and "Traceback" not in running.log(), running.log()


def somewhere() -> str:
    number = next(_numbers)
    return f"100.64.{number // 250}.{number % 250 + 1}"


def login(server: Server, user: User, address: str, cookie: str = "", password: str = "") -> Answer:
    headers = {"X_Forwarded_For": address} | ({"Cookie": cookie} if cookie else {})
    body = {"user": user.name, "password": password or user.password}
    return call(server, "POST", "/api/auth/login", body, **headers)


def refresh(server: Server, token: str, address: str) -> Answer:
    return call(server, "POST", "/api/auth/refresh", {"refreshToken": token}, X_Forwarded_For=address)


def exhaust(server: Server, address: str) -> None:
    """Guess from an address until it is slowed down."""
    assert [refresh(server, f"{number}.guess", address).status for number in range(21)] == [401] * 20 + [429]


def cookies_of(server: Server, user: User, **more: bool) -> dict[str, "http.cookies.Morsel[str]"]:
    """Log in from somewhere; return the cookies that are set, by name."""
    request = urllib.request.Request(
        server.url("/api/auth/login"),
        data=json.dumps({"user": user.name, "password": user.password, **more}).encode(),
        headers={"Content-Type": "application/json", "X-Forwarded-For": somewhere()},
    )
    found: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
    with urllib.request.urlopen(request, timeout=60) as response:
        for line in response.headers.get_all("Set-Cookie") or []:
            found.load(line)
    return dict(found)


def device_cookie(server: Server, user: User) -> str:
    (cookie,) = cookies_of(server, user).values()
    return f"{cookie.key}={cookie.value}"


def device_name(server: Server, user: User) -> str:
    ((id,),) = server.sql("SELECT id FROM user_ WHERE name = ?", user.name)
    return f"robodyne-device-{id}"


def test_who_is_known_gets_in_from_where_a_stranger_guessed(server: Server) -> None:
    user, other, shared = add_user(server, "staff"), add_user(server, "staff"), somewhere()
    cookie = device_cookie(server, other)
    given = told(login(server, user, shared))
    token, _ = give_token(server, unique("till"), "staff")
    ticket = told(call(server, "POST", "/api/auth/ticket", token=token))["ticket"]
    exhaust(server, shared)
    assert login(server, other, shared).status == 429, "the guess may be right by now"
    assert login(server, user, shared).status == 200, "the place is known to this account"
    assert login(server, other, shared, cookie).status == 200, "and the device to that one"
    assert refresh(server, given["refreshToken"], shared).status == 200, "nobody guesses a refresh token"
    line = f"X-Forwarded-For: {shared}"
    assert ask(server, upgrade(server, f"/ws/robots?ticket={ticket}", line)).status == 101
    assert ask(server, upgrade(server, "/ws/robots?ticket=guess", line)).status == 429


def test_a_device_cookie_is_good_for_its_own_account_only(server: Server) -> None:
    user, other, shared = add_user(server, "staff"), add_user(server, "staff"), somewhere()
    name, _, value = device_cookie(server, user).partition("=")
    at, _, seal = value.partition(".")
    own = device_name(server, other)
    exhaust(server, shared)
    for forged in (
        f"{name}={value}",
        f"{own}={value}",
        f"{own}={int(at) + 1}.{seal}",
        f"{own}=",
        f"{own}=x.y",
        f"{own}={at}",
        f"{own}={at}.{'0' * len(seal)}",
        f"{own}={'9' * 30}.{seal}",
    ):
        assert login(server, other, shared, forged).status == 429, forged


def test_all_device_cookies_of_an_account_share_ten_wrong_ones(server: Server) -> None:
    user = add_user(server, "staff")
    first = device_cookie(server, user)
    second = device_cookie(server, user)
    assert {login(server, user, somewhere(), first).status for _ in range(11)} == {200}, "only wrong ones count"
    answers = [login(server, user, somewhere(), (first, second)[number % 2], "guess") for number in range(11)]
    assert [answer.status for answer in answers] == [401] * 10 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 600
    assert login(server, user, somewhere()).status == 200


def test_a_device_cookie_is_hidden_from_scripts_and_sent_to_logins_only(server: Server) -> None:
    user = add_user(server, "staff")
    found = cookies_of(server, user, cookie=True)
    assert list(found) == [device_name(server, user), "robodyne"]
    cookie = found[device_name(server, user)]
    assert (cookie["path"], cookie["samesite"], cookie["httponly"]) == ("/api/auth", "Strict", True)
    assert int(cookie["max-age"]) > 300 * 86400
    assert call(server, "GET", "/api/robots", Cookie=f"{cookie.key}={cookie.value}", X_Forwarded_For=somewhere()).status == 401
    assert "set-cookie" not in login(server, user, somewhere(), password="wrong").headers


def test_a_known_place_outlives_a_restart_and_is_a_whole_network(start_server: Callable[..., Server]) -> None:
    server = start_server(**PROXY)
    user, other = add_user(server, "staff"), add_user(server, "staff")
    assert login(server, user, "2001:db8:7:7::1").status == 200
    server.restart()
    exhaust(server, "2001:db8:7:7:8::3")
    assert login(server, user, "2001:db8:7:7:ffff::2").status == 200
    assert login(server, other, "2001:db8:7:7::1").status == 429
    assert login(server, other, "2001:db8:7:8::1").status == 200, "another network"


def test_a_port_and_another_form_make_no_other_address(server: Server) -> None:
    address = somewhere()
    for number in range(5):
        for form in (address, f"{address}:{1000 + number}", f"::ffff:{address}", f"[::ffff:{address}]:{number + 1}"):
            assert refresh(server, "guess", form).status == 401
    assert refresh(server, "guess", f"{address}:443").status == 429
    network = f"2001:db8:{next(_numbers):x}:1"
    for number in range(10):
        for form in (f"{network}::{number:x}", f"[{network}:1::{number:x}]:{1000 + number}"):
            assert refresh(server, "guess", form).status == 401
    assert refresh(server, "guess", f"[{network}:ffff::]:1").status == 429
    assert refresh(server, "guess", network[:-1] + "2::1").status == 401


def test_ten_addresses_do_not_hold_all_places_for_pairing(start_server: Callable[..., Server]) -> None:
    server = start_server(**PROXY)

    def begin(address: str) -> Answer:
        return call(server, "POST", "/api/pairings", {}, X_Forwarded_For=address)

    statuses = [begin(f"100.66.0.{number % 10}").status for number in range(110)]
    assert statuses.count(201) == 100, "ten a minute of each address"
    network = [begin(f"2001:db8:9:9::{number:x}").status for number in range(1, 13)]
    assert network == [201] * 10 + [429] * 2
    screen = told(begin("100.66.1.1"))
    assert told(call(server, "GET", f"/api/pairings/{screen['pairing']}"))["status"] == "waiting"
    assert len(do(server, "GET", "/api/pairings")["pairings"]) == 111
