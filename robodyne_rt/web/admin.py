"""`/api/users`, `/api/tokens`, `/api/devices`: who may come in, for an administrator."""

from aiohttp import web

from robodyne_rt.protocol.errors import InvalidPayload
from robodyne_rt.store.tables import devices, tokens, users
from robodyne_rt.web.accounts import API_S
from robodyne_rt.web.body import json_answer, read_object, text_field
from robodyne_rt.web.context import CONTEXT


async def list_users(request: web.Request) -> web.Response:
    """Return all users."""
    return json_answer({"users": await request.app[CONTEXT].accounts.read(users.list_users)})


async def add_user(request: web.Request) -> web.Response:
    """Add a user: `{name, roles, password?}`."""
    body = await read_object(request, ("name", "roles", "password"))
    user = await request.app[CONTEXT].accounts.add_user(
        text_field(body, "name", 100), body.get("roles", []), body.get("password")
    )
    return json_answer(user, status=201)


async def change_user(request: web.Request) -> web.Response:
    """Change a user: `{roles?, password?, disabled?}`; it counts at once, in living connections too."""
    body = await read_object(request, ("roles", "password", "disabled"))
    if not body or not isinstance(body.get("disabled", False), bool):
        raise InvalidPayload("expected roles, password or disabled (true or false)")
    return json_answer(await request.app[CONTEXT].accounts.change_user(request.match_info["name"], body))


async def remove_user(request: web.Request) -> web.Response:
    """Remove a user and all their tokens."""
    context = request.app[CONTEXT]
    return json_answer(await context.accounts.change(users.remove_user, request.match_info["name"], now=context.clock.wall()))


async def list_tokens(request: web.Request) -> web.Response:
    """Return the tokens that were given out, newest first; never the tokens themselves."""
    return json_answer({"tokens": await request.app[CONTEXT].accounts.read(tokens.list_tokens)})


async def create_token(request: web.Request) -> web.Response:
    """Give a program a token: `{user, roles?, label?, days?}`."""
    body = await read_object(request, ("user", "roles", "label", "days"))
    days = body.get("days", API_S / 86400)
    if not isinstance(days, int | float) or isinstance(days, bool) or not 0 < days <= 400:
        raise InvalidPayload("days: expected a number up to 400")
    given = await request.app[CONTEXT].accounts.give(
        "API",
        text_field(body, "user", 100),
        body.get("roles"),
        label=text_field(body, "label", 100, default="") or None,
        lifetime_s=days * 86400,
    )
    return json_answer(given, status=201)


async def revoke_token(request: web.Request) -> web.Response:
    """Take a token back; its connections end at once."""
    context = request.app[CONTEXT]
    id = int(request.match_info["id"])
    return json_answer(await context.accounts.change(tokens.revoke_token, id, now=context.clock.wall()))


async def list_devices(request: web.Request) -> web.Response:
    """Return all devices; never their keys."""
    return json_answer({"devices": await request.app[CONTEXT].accounts.read(devices.list_devices)})


async def add_device(request: web.Request) -> web.Response:
    """Add a device: `{device_id, robots?}`; its key is told this once."""
    context = request.app[CONTEXT]
    body = await read_object(request, ("device_id", "robots"))
    device_id, robots = text_field(body, "device_id", 100), body.get("robots")
    if robots is not None and not (isinstance(robots, list) and all(isinstance(robot, str) for robot in robots)):
        raise InvalidPayload("robots: expected a list of robot ids")
    key_id = await context.accounts.change(devices.add_device, device_id, robots=robots, now=context.clock.wall())
    return json_answer({"device_id": device_id, "key": context.accounts.key_of(device_id, key_id)}, status=201)


async def rotate_device(request: web.Request) -> web.Response:
    """Give a device a second key; the first is good until `{"finish": true}`. `{"again": true}` replaces the second."""
    context = request.app[CONTEXT]
    body = await read_object(request, ("finish", "again"))
    device_id = request.match_info["device_id"]
    if body.get("finish") is True:
        return json_answer(await context.accounts.change(devices.finish_rotation, device_id))
    key_id = await context.accounts.change(devices.rotate_device, device_id, again=body.get("again") is True)
    return json_answer({"device_id": device_id, "key": context.accounts.key_of(device_id, key_id)})


async def revoke_device(request: web.Request) -> web.Response:
    """Let a device speak no more; its wire is cut."""
    return json_answer(await request.app[CONTEXT].accounts.change(devices.revoke_device, request.match_info["device_id"]))
