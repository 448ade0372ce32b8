"""`/api/users`, `/api/tokens`, `/api/devices`: who may come in, for an administrator."""

from aiohttp import web

from robodyne_rt.protocol import http
from robodyne_rt.protocol.checking import Query
from robodyne_rt.store.tables import devices, tokens, users
from robodyne_rt.web.body import json_answer
from robodyne_rt.web.context import CONTEXT


async def list_users(request: web.Request, query: Query) -> web.Response:
    """Return all users."""
    return json_answer({"users": await request.app[CONTEXT].accounts.read(users.list_users)})


async def add_user(request: web.Request, body: http.NewUser) -> web.Response:
    """Add a user."""
    return json_answer(await request.app[CONTEXT].accounts.add_user(body.name, body.roles, body.password), status=201)


async def change_user(request: web.Request, body: http.UserChange) -> web.Response:
    """Change a user; it counts at once, in living connections too."""
    changes = body.model_dump(exclude_unset=True)
    return json_answer(await request.app[CONTEXT].accounts.change_user(request.match_info["name"], changes))


async def remove_user(request: web.Request) -> web.Response:
    """Remove a user and all their tokens."""
    context = request.app[CONTEXT]
    return json_answer(await context.accounts.change(users.remove_user, request.match_info["name"], now=context.clock.wall()))


async def list_tokens(request: web.Request, query: Query) -> web.Response:
    """Return the tokens that were given out, newest first; never the tokens themselves."""
    return json_answer({"tokens": await request.app[CONTEXT].accounts.read(tokens.list_tokens)})


async def create_token(request: web.Request, body: http.NewToken) -> web.Response:
    """Give a program a token."""
    given = await request.app[CONTEXT].accounts.give(
        "API", body.user, body.roles, label=body.label, lifetime_s=body.days * 86400
    )
    return json_answer(given, status=201)


async def revoke_token(request: web.Request) -> web.Response:
    """Take a token back; its connections end at once."""
    context = request.app[CONTEXT]
    id = int(request.match_info["id"])
    return json_answer(await context.accounts.change(tokens.revoke_token, id, now=context.clock.wall()))


async def list_devices(request: web.Request, query: Query) -> web.Response:
    """Return all devices; never their keys."""
    return json_answer({"devices": await request.app[CONTEXT].accounts.read(devices.list_devices)})


async def add_device(request: web.Request, body: http.NewDevice) -> web.Response:
    """Add a device; its key is told this once."""
    accounts, now = request.app[CONTEXT].accounts, request.app[CONTEXT].clock.wall()
    key_id = await accounts.change(devices.add_device, body.device_id, robots=body.robots, now=now)
    return json_answer({"device_id": body.device_id, "key": accounts.key_of(body.device_id, key_id)}, status=201)


async def rotate_device(request: web.Request, body: http.Rotation) -> web.Response:
    """Give a device a second key; the first is good until `finish`. `again` replaces the second."""
    context = request.app[CONTEXT]
    device_id = request.match_info["device_id"]
    if body.finish:
        return json_answer(await context.accounts.change(devices.finish_rotation, device_id))
    key_id = await context.accounts.change(devices.rotate_device, device_id, again=body.again)
    return json_answer({"device_id": device_id, "key": context.accounts.key_of(device_id, key_id)})


async def revoke_device(request: web.Request) -> web.Response:
    """Let a device speak no more; its wire is cut."""
    return json_answer(await request.app[CONTEXT].accounts.change(devices.revoke_device, request.match_info["device_id"]))
