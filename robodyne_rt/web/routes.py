"""The one table of routes, and the aiohttp application built from it."""

import ipaddress

from aiohttp import web
from aiohttp.typedefs import Handler

from robodyne_rt.model.topics import TOPIC_NAMES
from robodyne_rt.web import admin, api, auth, pages, people, sockets
from robodyne_rt.web.context import CONTEXT, Context
from robodyne_rt.web.middleware import add_headers, guard, guarded

ID = r"{id:\d{1,18}}"

ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("GET", "/livez", "public", api.livez),
    ("GET", "/healthz", "public", api.livez),
    ("GET", "/readyz", "public", api.readyz),
    ("GET", "/metrics", "look", api.metrics),
    ("POST", "/api/auth/login", "public", auth.login),
    ("POST", "/api/auth/refresh", "public", auth.refresh),
    ("POST", "/api/auth/logout", "user", auth.logout),
    ("POST", "/api/auth/ticket", "user", auth.ticket),
    ("GET", "/api/auth/me", "public", auth.me),
    ("POST", "/api/pairings", "public", auth.begin_pairing),
    ("GET", "/api/pairings", "administer", auth.list_pairings),
    ("POST", "/api/pairings/approve", "administer", auth.approve_pairing),
    ("GET", r"/api/pairings/{pairing:[\w-]{20,100}}", "public", auth.look_at_pairing),
    ("GET", "/api/users", "administer", admin.list_users),
    ("POST", "/api/users", "administer", admin.add_user),
    ("PATCH", "/api/users/{name}", "administer", admin.change_user),
    ("DELETE", "/api/users/{name}", "administer", admin.remove_user),
    ("GET", "/api/tokens", "administer", admin.list_tokens),
    ("POST", "/api/tokens", "administer", admin.create_token),
    ("DELETE", f"/api/tokens/{ID}", "administer", admin.revoke_token),
    ("GET", "/api/devices", "administer", admin.list_devices),
    ("POST", "/api/devices", "administer", admin.add_device),
    ("POST", "/api/devices/{device_id}/rotate", "administer", admin.rotate_device),
    ("DELETE", "/api/devices/{device_id}", "administer", admin.revoke_device),
    ("GET", "/api/sessions", "sessions", people.list_sessions),
    ("GET", "/api/chat", "query", people.list_chat),
    ("POST", "/api/messages", "message", people.send_message),
    ("GET", "/api/messages", "user", people.list_messages),
    ("POST", f"/api/messages/{ID}/read", "user", people.read_message),
    ("POST", "/api/device-messages", "send_device_messages", api.post_device_message),
    ("GET", "/api/dead-letters", "operate", api.list_dead_letters),
    ("GET", f"/api/dead-letters/{ID}", "operate", api.show_dead_letter),
    ("POST", "/api/dead-letters", "operate", api.act_on_dead_letters),
    ("POST", "/api/backups", "operate", api.post_backup),
    ("GET", f"/api/{{topic:{'|'.join(TOPIC_NAMES)}}}", "read", api.get_topic),
    ("GET", "/ws", "socket", sockets.session_socket),
    ("GET", "/ws/copilot", "socket", sockets.session_socket),
    ("GET", "/ws/{topic}", "socket", sockets.topic_socket),
)
"""Method, path, right (see `middleware.guarded`), handler."""

KEEPALIVE_S = 15.0
"""Idle HTTP connections, and headers that come a byte at a time, are closed after this long."""

BODY_LIMIT_BYTES = 1 << 20


def build(context: Context) -> web.Application:
    """Return the application; its parts are in `context`."""
    app = web.Application(middlewares=[guard], client_max_size=BODY_LIMIT_BYTES)
    app[CONTEXT] = context
    app.on_response_prepare.append(add_headers)
    handlers = [(method, path, guarded(right, handler)) for method, path, right, handler in ROUTES]
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
