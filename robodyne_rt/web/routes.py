"""The one table of routes, and the aiohttp application built from it."""

import ipaddress

from aiohttp import web

from robodyne_rt.model.topics import TOPIC_NAMES
from robodyne_rt.web import api, pages, sockets
from robodyne_rt.web.context import CONTEXT, Context
from robodyne_rt.web.middleware import guard

ROUTES: tuple[tuple[str, str, object], ...] = (
    ("GET", "/livez", api.livez),
    ("GET", "/healthz", api.livez),
    ("GET", "/readyz", api.readyz),
    ("GET", "/metrics", api.metrics),
    ("POST", "/api/device-messages", api.post_device_message),
    ("GET", "/api/dead-letters", api.list_dead_letters),
    ("GET", r"/api/dead-letters/{id:\d{1,18}}", api.show_dead_letter),
    ("POST", "/api/dead-letters", api.act_on_dead_letters),
    ("POST", "/api/backups", api.post_backup),
    ("GET", f"/api/{{topic:{'|'.join(TOPIC_NAMES)}}}", api.get_topic),
    ("GET", "/ws/{topic}", sockets.topic_socket),
)

KEEPALIVE_S = 15.0
"""Idle HTTP connections, and headers that come a byte at a time, are closed after this long."""

BODY_LIMIT_BYTES = 1 << 20


def build(context: Context) -> web.Application:
    """Return the application; its parts are in `context`."""
    app = web.Application(middlewares=[guard], client_max_size=BODY_LIMIT_BYTES)
    app[CONTEXT] = context
    app.on_response_prepare.append(_name_server)
    for method, path, handler in ROUTES:
        app.router.add_route(method, path, handler)  # type: ignore[arg-type]
    for path, page in pages.handlers().items():
        app.router.add_route("GET", path, page)
    return app


async def _name_server(request: web.Request, response: web.StreamResponse) -> None:
    """Do not tell strangers which versions run here."""
    response.headers["Server"] = "robodyne-rt"


def own_hosts(host: str, name: str, hostname: str, allowed: list[str]) -> frozenset[str]:
    """Return the Host names that this server answers for, besides IP addresses."""
    names = {"localhost", name, f"{name}.local", hostname, f"{hostname}.local", *allowed}
    try:
        ipaddress.ip_address(host)
    except ValueError:
        names.add(host)
    return frozenset(item.lower() for item in names if item)
