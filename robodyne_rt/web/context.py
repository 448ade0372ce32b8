"""What handlers reach: the parts, handed over once by `app/lifecycle.py` under one typed key."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from robodyne_rt.core.rate_limit import SlidingWindow
from robodyne_rt.devices.receiver import Receiver
from robodyne_rt.hub.manager import ConnectionManager
from robodyne_rt.model.access import AccessPolicy, Principal
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Clock
from robodyne_rt.sessions.manager import SessionManager
from robodyne_rt.store.intake.requeue import DeadLetters
from robodyne_rt.web.accounts import Accounts
from robodyne_rt.web.authenticator import Authenticator
from robodyne_rt.web.connections import HttpConnections
from robodyne_rt.work.requests import RequestDesk
from robodyne_rt.work.staff_messages import StaffMessages


@dataclass(slots=True, kw_only=True)
class Context:
    """Parts and plain values for the handlers.

    `health_report` returns whether the server is ready, and each check as `/readyz?verbose` shows it; `back_up` copies the
    database and returns where to; `history` returns a user's questions and answers.
    """

    hub: ConnectionManager
    sessions: SessionManager
    desk: RequestDesk
    messages: StaffMessages
    history: Callable[[str, int | None, int], Awaitable[list[Entity]]]
    dead_letters: DeadLetters
    back_up: Callable[[], Awaitable[Entity]]
    receiver: Receiver
    access: AccessPolicy
    auth_mode: str
    authenticator: Authenticator
    accounts: Accounts
    pairing_limit: SlidingWindow
    clock: Clock
    metrics: Callable[[], bytes]
    health_report: Callable[[], tuple[bool, list[Entity]]]
    max_sessions: int
    max_client_message_bytes: int
    max_device_message_bytes: int
    allowed_hosts: frozenset[str]
    connections: HttpConnections


CONTEXT = web.AppKey("context", Context)
PRINCIPAL = web.RequestKey("principal", Principal)
"""Who sends the request; set by the guard before a handler runs."""
