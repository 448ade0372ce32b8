"""The one table of routes, and the aiohttp application built from it."""

import ipaddress
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from robodyne_rt.model.topics import TOPIC_NAMES
from robodyne_rt.protocol import http
from robodyne_rt.protocol.checking import Model, Query
from robodyne_rt.protocol.errors import (
    Conflict,
    DeadLettered,
    Forbidden,
    RateLimited,
    RequestTimeout,
    ResourceNotFound,
    RobodyneError,
    StorageUnavailable,
    TokenInvalid,
    UnsupportedMediaType,
)
from robodyne_rt.web import admin, api, contract, login, pages, people, route, sockets
from robodyne_rt.web.context import CONTEXT, Context
from robodyne_rt.web.middleware import add_headers, guard, guarded
from robodyne_rt.web.route import Route

ID = r"{id:\d{1,18}}"


def _get(path: str, right: str, handler: Any, answer: type[BaseModel] | None = None, **more: Any) -> Route:
    return Route(method="GET", path=path, right=right, handler=handler, answer=answer, **more)


def _post(path: str, right: str, handler: Any, body: type[Model] | None, answer: type[BaseModel] | None, **more: Any) -> Route:
    return Route(method="POST", path=path, right=right, handler=handler, body=body, answer=answer, **more)


def _delete(path: str, right: str, handler: Any, answer: type[BaseModel], *errors: type[RobodyneError]) -> Route:
    return Route(method="DELETE", path=path, right=right, handler=handler, answer=answer, errors=errors)


STORED = (StorageUnavailable,)
"""Where the database is needed."""

MISSING = (ResourceNotFound, *STORED)
TAKEN = (Conflict, *STORED)
LOGIN = (TokenInvalid, RateLimited, Forbidden, *STORED)

ROUTES: tuple[Route, ...] = (
    _get("/livez", "public", api.livez, content_type="text/plain"),
    _get("/healthz", "public", api.livez, content_type="text/plain"),
    _get("/readyz", "public", api.readyz, http.HealthReport, query=http.HealthQuery, errors=STORED),
    _get("/metrics", "look", api.metrics, content_type="text/plain"),
    _post(
        "/api/auth/login",
        "public",
        login.login,
        http.Login,
        http.Granted,
        errors=LOGIN,
    ),
    _post("/api/auth/refresh", "public", login.refresh, http.Refresh, http.Granted, errors=(TokenInvalid, *STORED)),
    _post("/api/auth/logout", "user", login.logout, None, http.LoggedOut, errors=STORED),
    _post("/api/auth/ticket", "user", login.ticket, None, http.Ticket, status=201, errors=(RateLimited,)),
    _get("/api/auth/me", "public", login.me, http.Me, query=Query),
    _post("/api/pairings", "public", login.begin_pairing, http.Empty, http.NewPairing, status=201, errors=(RateLimited,)),
    _get("/api/pairings", "administer", login.list_pairings, http.PairingList, query=Query),
    _post(
        "/api/pairings/approve",
        "administer",
        login.approve_pairing,
        http.Approval,
        http.Approved,
        status=201,
        errors=(ResourceNotFound, Conflict, RateLimited, *STORED),
    ),
    _get(
        r"/api/pairings/{pairing:[\w-]{20,100}}",
        "public",
        login.look_at_pairing,
        http.PairingState,
        query=http.PairingQuery,
        errors=(ResourceNotFound,),
    ),
    _get("/api/users", "administer", admin.list_users, http.UserList, query=Query, errors=STORED),
    _post("/api/users", "administer", admin.add_user, http.NewUser, http.User, status=201, errors=TAKEN),
    Route(
        method="PATCH",
        path="/api/users/{name}",
        right="administer",
        handler=admin.change_user,
        body=http.UserChange,
        answer=http.User,
        errors=(*MISSING, Conflict),
    ),
    _delete("/api/users/{name}", "administer", admin.remove_user, http.RemovedUser, ResourceNotFound, Conflict, *STORED),
    _get("/api/tokens", "administer", admin.list_tokens, http.TokenList, query=Query, errors=STORED),
    _post(
        "/api/tokens",
        "administer",
        admin.create_token,
        http.NewToken,
        http.GivenToken,
        status=201,
        errors=(*MISSING, Conflict),
    ),
    _delete(f"/api/tokens/{ID}", "administer", admin.revoke_token, http.RevokedToken, ResourceNotFound, *STORED),
    _get("/api/devices", "administer", admin.list_devices, http.DeviceList, query=Query, errors=STORED),
    _post("/api/devices", "administer", admin.add_device, http.NewDevice, http.DeviceKey, status=201, errors=TAKEN),
    _post(
        "/api/devices/{device_id}/rotate",
        "administer",
        admin.rotate_device,
        http.Rotation,
        http.RotationAnswer,
        errors=(*MISSING, Conflict),
    ),
    _delete("/api/devices/{device_id}", "administer", admin.revoke_device, http.Device, ResourceNotFound, *STORED),
    _get("/api/sessions", "sessions", people.list_sessions, http.SessionList, query=Query, errors=STORED),
    _get(
        "/api/chat",
        "query",
        people.list_chat,
        http.ChatList,
        query=http.ChatQuery,
        errors=(*MISSING, Conflict),
    ),
    _post(
        "/api/messages",
        "message",
        people.send_message,
        http.NewMessage,
        http.SentMessage,
        status=201,
        errors=(ResourceNotFound, Conflict, RateLimited, *STORED),
    ),
    _get("/api/messages", "user", people.list_messages, http.MessageList, query=http.MessageQuery, errors=STORED),
    _post(f"/api/messages/{ID}/read", "user", people.read_message, None, http.ReadMark, errors=MISSING),
    _post(
        "/api/device-messages",
        "send_device_messages",
        api.post_device_message,
        None,
        http.DeviceAnswer,
        errors=(UnsupportedMediaType, Conflict, RateLimited, DeadLettered, RequestTimeout, *STORED),
    ),
    _get("/api/dead-letters", "operate", api.list_dead_letters, http.DeadLetterList, query=Query, errors=STORED),
    _get(
        f"/api/dead-letters/{ID}",
        "operate",
        api.show_dead_letter,
        http.DeadLetter,
        query=Query,
        errors=MISSING,
    ),
    _post(
        "/api/dead-letters",
        "operate",
        api.act_on_dead_letters,
        http.DeadLetterAction,
        http.DeadLetterResults,
        body_bytes=1 << 20,
        errors=(*MISSING, Conflict),
    ),
    _post("/api/backups", "operate", api.post_backup, None, http.Backup, status=201, errors=TAKEN),
    _get("/api/openapi.json", "public", contract.openapi, query=Query),
    _get("/api/asyncapi.json", "public", contract.asyncapi, query=Query),
    _get("/api/docs", "public", contract.page, content_type="text/html"),
    _get(r"/api/docs/{asset:[\w.-]{1,40}}", "public", contract.asset, content_type="*/*", errors=(ResourceNotFound,)),
    _get(
        f"/api/{{topic:{'|'.join(TOPIC_NAMES)}}}",
        "read",
        api.get_topic,
        None,
        query=http.TopicQuery,
        errors=STORED,
    ),
    _get("/ws", "socket", sockets.session_socket),
    _get("/ws/copilot", "socket", sockets.session_socket),
    _get("/ws/{topic}", "socket", sockets.topic_socket),
)

KEEPALIVE_S = 15.0
"""Idle HTTP connections, and headers that come a byte at a time, are closed after this long."""

BODY_LIMIT_BYTES = 1 << 20


def build(context: Context, *, name: str = "robodyne") -> web.Application:
    """Return the application of the server of this name; its parts are in `context`."""
    app = web.Application(middlewares=[guard], client_max_size=BODY_LIMIT_BYTES)
    app[CONTEXT] = context
    app[route.ROUTES] = ROUTES
    app[contract.DOCUMENTS] = {}
    app[contract.NAME] = name
    app.on_response_prepare.append(add_headers)
    handlers: list[tuple[str, str, Handler]] = [(item.method, item.path, guarded(item)) for item in ROUTES]
    handlers += [("GET", path, page) for path, page in pages.handlers().items()]
    for method, path, handler in handlers:
        app.router.add_route(method, path, handler)
        if method == "GET":
            app.router.add_route("HEAD", path, handler)  # aiohttp leaves the body out
    return app


def own_hosts(host: str, name: str, hostname: str, allowed: list[str]) -> frozenset[str]:
    """Return the Host names that this server answers for, besides IP addresses."""
    names = {"localhost", name, f"{name}.local", hostname, f"{hostname}.local", *allowed}
    try:
        ipaddress.ip_address(host)
    except ValueError:
        names.add(host)
    return frozenset(item.lower() for item in names if item)
