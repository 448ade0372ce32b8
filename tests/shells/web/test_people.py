"""Users, logins, tokens, screens and devices over HTTP, on a server in this process."""

from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.core import login_limits
from tests.shells.web.app import PASSWORD, Running, running


async def add_user(server: Running, admin: str, name: str = "kim", *roles: str) -> dict[str, Any]:
    body = {"name": name, "roles": list(roles) or ["staff"], "password": PASSWORD}
    added: dict[str, Any] = await server.do("POST", "/api/users", body, token=admin)
    return added


async def login(server: Running, name: str = "kim", password: str = PASSWORD) -> dict[str, Any]:
    given: dict[str, Any] = await server.do("POST", "/api/auth/login", {"user": name, "password": password})
    return given


async def test_a_user_is_added_changed_and_removed(server: Running, admin: str) -> None:
    added = await add_user(server, admin, "kim", "kitchen")
    assert (added["name"], added["roles"], added["disabled"]) == ("kim", ["kitchen"], False)
    status, problem = await server.ask("POST", "/api/users", {"name": "kim", "roles": ["staff"]}, token=admin)
    assert (status, problem["code"]) == (409, "CONFLICT")
    changed = await server.do("PATCH", "/api/users/kim", {"roles": ["manager"], "disabled": True}, token=admin)
    assert (changed["roles"], changed["disabled"]) == (["manager"], True)
    assert [user["name"] for user in (await server.do("GET", "/api/users", token=admin))["users"]] == ["kim"]
    assert (await server.do("DELETE", "/api/users/kim", token=admin))["removed"] is True
    assert (await server.ask("DELETE", "/api/users/kim", token=admin))[0] == 404


async def test_a_login_is_refreshed_used_and_ended(server: Running, admin: str) -> None:
    await add_user(server, admin, "kim", "kitchen")
    given = await login(server)
    assert given["user"] == "kim" and given["roles"] == ["kitchen"]
    me = await server.do("GET", "/api/auth/me", token=given["access_token"])
    assert me["user"] == "kim"
    renewed = await server.do("POST", "/api/auth/refresh", {"refresh_token": given["refresh_token"]})
    assert renewed["refresh_token"] != given["refresh_token"]
    assert (await server.do("POST", "/api/auth/logout", token=renewed["access_token"]))["logged_out"] is True
    assert (await server.ask("POST", "/api/auth/refresh", {"refresh_token": renewed["refresh_token"]}))[0] == 401
    assert (await server.ask("GET", "/api/chat", token=renewed["access_token"]))[0] == 401


@pytest.mark.parametrize(("name", "password"), [("kim", "wrong"), ("nobody", PASSWORD), ("kim", "")])
async def test_a_wrong_password_and_an_unknown_user_look_alike(server: Running, admin: str, name: str, password: str) -> None:
    await add_user(server, admin)
    status, problem = await server.ask("POST", "/api/auth/login", {"user": name, "password": password})
    assert (status, problem["code"]) in ((401, "INVALID_CREDENTIALS"), (422, "VALIDATION_ERROR"))


async def test_who_guesses_again_and_again_has_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_limits, "ADDRESS_LIMIT", 2)  # a password takes long to hash, on purpose
    async with running(tmp_path) as server:
        await add_user(server, server.token("root", "admin"))
        for expected in (401, 401, 429):
            status, problem = await server.ask("POST", "/api/auth/login", {"user": "kim", "password": "guess"})
            assert status == expected
        assert problem["code"] == "RATE_LIMITED" and problem["retry_after_s"] > 0


async def test_a_login_of_a_browser_is_a_cookie_that_is_taken_away(server: Running, admin: str) -> None:
    await add_user(server, admin)
    given = await server.do("POST", "/api/auth/login", {"user": "kim", "password": PASSWORD, "cookie": True}, Origin=server.url)
    assert not given.get("refresh_token")
    renewed = await server.do("POST", "/api/auth/refresh", {}, Origin=server.url)
    assert renewed["user"] == "kim"
    assert (await server.do("POST", "/api/auth/logout", Origin=server.url))["logged_out"] is True
    assert (await server.ask("POST", "/api/auth/refresh", {}, Origin=server.url))[0] == 401


async def test_a_disabled_user_is_out_at_once(server: Running, admin: str) -> None:
    await add_user(server, admin)
    given = await login(server)
    socket = await server.socket("/ws", token=given["access_token"])
    await socket.next("connected")
    await server.do("PATCH", "/api/users/kim", {"disabled": True}, token=admin)
    assert await socket.closed() == 4001
    assert (await server.ask("POST", "/api/auth/login", {"user": "kim", "password": PASSWORD}))[0] == 401


async def test_a_ticket_opens_one_socket(server: Running, admin: str) -> None:
    await add_user(server, admin, "kim", "kitchen")
    given = await login(server)
    ticket = (await server.do("POST", "/api/auth/ticket", token=given["access_token"]))["ticket"]
    socket = await server.socket(f"/ws/orders?ticket={ticket}")
    assert (await socket.next("update"))["snapshot"] is True
    again = await server.socket(f"/ws/orders?ticket={ticket}")
    assert await again.closed() == 4001


async def test_a_token_is_given_out_listed_and_taken_back(server: Running, admin: str) -> None:
    body = {"user": "till", "roles": ["staff"], "label": "the till", "days": 2}
    given = await server.do("POST", "/api/tokens", body, token=admin)
    assert (await server.do("GET", "/api/auth/me", token=given["token"]))["user"] == "till"
    (listed,) = (await server.do("GET", "/api/tokens", token=admin))["tokens"]
    assert (listed["user"], listed["label"], "token" in listed) == ("till", "the till", False)
    assert (await server.do("DELETE", f"/api/tokens/{listed['id']}", token=admin))["revoked"] is True
    assert (await server.ask("GET", "/api/chat", token=given["token"]))[0] == 401
    assert (await server.ask("DELETE", f"/api/tokens/{listed['id']}", token=admin))[0] == 404


async def test_a_screen_is_paired_by_its_code(server: Running, admin: str) -> None:
    asked = await server.do("POST", "/api/pairings", {})
    assert len(asked["code"]) == 6
    assert len((await server.do("GET", "/api/pairings", token=admin))["pairings"]) == 1
    assert (await server.do("GET", f"/api/pairings/{asked['pairing']}"))["status"] == "waiting"
    wrong = {"code": f"{(int(asked['code']) + 1) % 1_000_000:06d}", "label": "wall", "roles": ["display"]}
    assert (await server.ask("POST", "/api/pairings/approve", wrong, token=admin))[0] == 404
    await server.do("POST", "/api/pairings/approve", wrong | {"code": asked["code"]}, token=admin)
    paired = await server.do("GET", f"/api/pairings/{asked['pairing']}")
    assert paired["status"] == "approved" and paired["token"]
    assert (await server.ask("GET", f"/api/pairings/{asked['pairing']}"))[0] == 404  # its token is told once


async def test_a_device_has_keys_that_are_rotated_and_revoked(server: Running, admin: str) -> None:
    first = await server.do("POST", "/api/devices", {"device_id": "alba-1", "robots": ["alba-1"]}, token=admin)
    assert len(bytes.fromhex(first["key"])) == 32
    assert (await server.ask("POST", "/api/devices", {"device_id": "alba-1"}, token=admin))[0] == 409
    second = await server.do("POST", "/api/devices/alba-1/rotate", {}, token=admin)
    assert second["key"] != first["key"]
    assert (await server.do("POST", "/api/devices/alba-1/rotate", {"finish": True}, token=admin))["keys"] == 1
    (listed,) = (await server.do("GET", "/api/devices", token=admin))["devices"]
    assert listed["keys"] == 1
    assert (await server.do("DELETE", "/api/devices/alba-1", token=admin))["revoked"] is True
    assert (await server.ask("DELETE", "/api/devices/alba-1", token=admin))[0] == 404


@pytest.mark.parametrize("path", ["/api/users", "/api/tokens", "/api/devices", "/api/pairings", "/api/sessions"])
async def test_who_may_not_is_told_so(server: Running, path: str) -> None:
    assert (await server.ask("GET", path))[0] == 401
    assert (await server.ask("GET", path, token=server.token("kim", "kitchen")))[0] == 403
    assert (await server.ask("GET", path, token="rubbish"))[0] == 401
