"""The parts of a server: built once from the settings and the opened store, handed over by keyword, never set anew.

`lifecycle.py` starts and stops them. Reading order for a newcomer: `model/`, this file, then the package of your task.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robodyne_rt import __version__
from robodyne_rt.app import descriptors
from robodyne_rt.app.health import ServerHealth
from robodyne_rt.app.housekeeping import Housekeeping
from robodyne_rt.app.server_log import ServerLog
from robodyne_rt.app.server_probes import DiskWatch, server_probes
from robodyne_rt.core.clock_watch import ClockWatch
from robodyne_rt.core.device_auth import DeviceAuth, Known, known
from robodyne_rt.core.identity_registry import IdentityRegistry
from robodyne_rt.core.origins import Origins
from robodyne_rt.core.rate_limit import SlidingWindow
from robodyne_rt.core.robot_presence import RobotPresence
from robodyne_rt.devices.receiver import Receiver
from robodyne_rt.devices.serial import SerialLink
from robodyne_rt.devices.tcp import DeviceServer
from robodyne_rt.devices.turns import ReadingTurns
from robodyne_rt.hub.io_uring import Ring, open_ring
from robodyne_rt.hub.manager import ConnectionManager
from robodyne_rt.hub.robot_monitor import RobotMonitor
from robodyne_rt.model import times
from robodyne_rt.model.access import AccessPolicy, Networks, Principal
from robodyne_rt.model.changes import Entity, Update
from robodyne_rt.ports import Clock
from robodyne_rt.secret import Secret
from robodyne_rt.sessions.manager import Session, SessionManager
from robodyne_rt.sessions.memory import MemorySessions
from robodyne_rt.settings import Settings
from robodyne_rt.store.intake.requeue import DeadLetters
from robodyne_rt.store.opening import OpenStore
from robodyne_rt.store.repositories import MessageRepository, RequestRepository, SessionRepository
from robodyne_rt.store.storage import Storage
from robodyne_rt.store.tables.device_writes import MAX_MENTIONED
from robodyne_rt.supervision import Supervisor
from robodyne_rt.web import routes
from robodyne_rt.web.accounts import Accounts
from robodyne_rt.web.authenticator import Authenticator
from robodyne_rt.web.connections import HttpConnections
from robodyne_rt.web.context import Context
from robodyne_rt.web.jwks import KeySet
from robodyne_rt.web.jwt_tokens import Tokens
from robodyne_rt.web.login import PAIRINGS_PER_MINUTE
from robodyne_rt.web.metrics import Metrics
from robodyne_rt.web.middleware import peer_fault_logger
from robodyne_rt.web.people import presence_fields
from robodyne_rt.web.runner import Runner
from robodyne_rt.work.assistant.rules import RulesAssistant
from robodyne_rt.work.requests import RequestDesk
from robodyne_rt.work.restaurant import LiveRestaurant
from robodyne_rt.work.staff_messages import StaffMessages

SESSIONS_SHOWN = 100
PRESENCE_SHOWN = ("userId", "userName", "roles", "device", "connectedAt", "presence", "topics")

Spawn = Callable[[str, Callable[..., Awaitable[Any]], Any], None]
"""Start a task that nobody waits for: `spawn(name, function, argument)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is there before the store is opened.

    Attributes:
        is_listening: whether the ports are bound.
        spawn: in the server's task group.
        log_lines_lost: how many lines of the log nobody will read.
    """

    settings: Settings
    policy: AccessPolicy
    secret: Secret
    clock: Clock
    clock_watch: ClockWatch
    supervisor: Supervisor
    server_log: ServerLog
    is_listening: Callable[[], bool]
    spawn: Spawn
    log_lines_lost: Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that a server is made of; `lifecycle.py` says in which order it starts."""

    storage: Storage
    ring: Ring | None
    hub: ConnectionManager
    robot_monitor: RobotMonitor
    devices: DeviceServer
    serial: list[SerialLink]
    identities: IdentityRegistry
    sessions: SessionManager
    desk: RequestDesk
    keys: KeySet | None
    disks: DiskWatch
    health: ServerHealth
    housekeeping: Housekeeping
    runner: Runner


def build(ground: Ground, opened: OpenStore) -> Parts:
    """Return the parts of a server on an opened store; nothing runs yet.

    What two parts want of each other one of them is told by a function that reads the other when it is called.
    """
    settings, clock, supervisor = ground.settings, ground.clock, ground.supervisor
    started_at = time.time()
    robot_presence = RobotPresence(offline_after_s=settings.devices.offline_after_s, limit=MAX_MENTIONED)
    identities = IdentityRegistry(ground.policy, opened.snapshots)

    def known_device(device_id: str) -> Known:
        return known(identities.device(device_id), lambda key_id: ground.secret.device_key(device_id, key_id))

    def take_private(update: Update) -> None:
        """Let rights follow the database, in living connections too."""
        gone = identities.take(update)
        if update.topic == "devices":
            receiver.recheck(known_device)
        else:
            hub.renew_all(identities.renewed, concerns=_concerned(update))
        if update.topic == "users":
            for name in gone:
                sessions.forget_user(name)

    def greet(session: Session) -> None:
        """Go on with what it asked, and bring what its user has not read."""
        desk.session_attached(session)
        if not session.principal.is_anonymous:
            ground.spawn("unread messages", messages.deliver_until_done, session)

    async def facts() -> Entity:
        """Return the facts about server and storage that the topic `status` shows."""
        shown: Entity = {"kind": storage.kind, "state": storage.state[0]}
        if backlog := storage.intake.spool_backlog:
            shown["spooled"] = backlog
        if detail := storage.state[1]:
            shown["detail"] = detail
        server = {"name": settings.server.name, "version": __version__, "started_at": times.to_text(started_at)}
        return {"server": server, "storage": shown, "problems": health.problems(), "sessions": await _present(sessions)}

    ring = open_ring(settings.server.io_uring)
    hub = ConnectionManager(
        settings=settings.hub,
        reader=opened.readers,
        snapshots=opened.snapshots,
        left_unconfirmed=opened.left_unconfirmed,
        windows=opened.windows,
        robot_presence=robot_presence,
        clock=clock,
        health=facts,
        on_private=take_private,
        ring=ring,
        supervisor=supervisor,
    )
    storage = Storage(
        opened,
        settings=settings,
        sink=hub,
        believed_at=lambda: ground.clock_watch.believed_at(wall=clock.wall(), now=clock.now()),
        clock=clock,
    )
    receiver = Receiver(store=storage.intake, telemetry=hub, auth=DeviceAuth(known_device), clock=clock)
    turns = ReadingTurns(asyncio.get_running_loop())
    serial = [
        SerialLink(
            port,
            receiver=receiver,
            turns=turns,
            max_message_bytes=settings.devices.max_message_bytes,
            supervisor=supervisor,
        )
        for port in settings.serial
    ]
    disks = DiskWatch(settings)
    probes = server_probes(
        storage,
        hub,
        clock=ground.clock_watch,
        is_listening=ground.is_listening,
        ports=lambda: serial,
        disks=disks,
        supervisor=supervisor,
        log_lines_lost=ground.log_lines_lost,
    )
    health = ServerHealth(probes, wall=clock.wall)
    session_repository = SessionRepository(readers=storage.readers, intake=storage.intake)
    sessions = SessionManager(
        store=MemorySessions(),
        repository=session_repository,
        ttl_s=settings.sessions.ttl_s,
        stale_after_s=settings.sessions.stale_after_s,
        single=settings.sessions.single_session_per_user,
        clock=clock,
        on_presence=hub.status.touch,
        on_attached=greet,
        on_gone=lambda session: desk.session_gone(session),  # noqa: PLW0108 - the desk is built on the sessions
    )
    requests = RequestRepository(readers=storage.readers, intake=storage.intake)
    desk = RequestDesk(
        sessions=sessions,
        repository=requests,
        answerer=RulesAssistant(LiveRestaurant(readers=storage.readers, live=hub, clock=clock)),
        limit=SlidingWindow(limit=settings.limits.query_requests, window_s=settings.limits.query_window_s),
        shared=settings.limits.share_rate_limit,
        renewed=identities.renewed,
        ask_undeclared=settings.assistant.ask_undeclared,
        supervisor=supervisor,
        clock=clock,
    )
    messages = StaffMessages(
        sessions=sessions,
        repository=MessageRepository(readers=storage.readers, intake=storage.intake),
        resolve=identities.resolve,
        label=identities.label,
        roles=ground.policy.roles,
        clock=clock,
    )
    keys = _issuers_keys(settings, clock)
    connections = HttpConnections(
        limit=descriptors.http_share(descriptors.raise_limit(), devices=settings.devices.max_connections),
        trusted_proxies=Networks(settings.server.trusted_proxies),
        now=clock.now,
    )
    metrics = Metrics(
        hub=hub,
        receiver=receiver.stats,
        writer=storage.stats,
        intake=storage.intake,
        sessions=sessions,
        desk=desk,
        http=connections,
        task_failures=supervisor.failures,
        log_lines_lost=ground.log_lines_lost,
        log_lines_skipped=lambda: ground.server_log.skipped,
    )
    tokens = _tokens(ground, identities, keys)
    accounts = Accounts(
        intake=storage.intake,
        readers=storage.readers,
        identities=identities,
        secret=ground.secret,
        tokens=tokens,
        roles=ground.policy.roles,
        clock=clock,
    )
    context = Context(
        hub=hub,
        sessions=sessions,
        desk=desk,
        messages=messages,
        history=requests.history,
        dead_letters=DeadLetters(readers=storage.readers, submissions=storage.intake, clock=clock),
        back_up=storage.backups.make,
        receiver=receiver,
        access=ground.policy,
        auth_mode=settings.auth.mode,
        authenticator=Authenticator(
            policy=ground.policy,
            tokens=tokens,
            trusted_proxies=Networks(settings.server.trusted_proxies),
            origins=Origins(settings.server.allowed_origins),
            remember=accounts.remember,
            clock=clock,
        ),
        accounts=accounts,
        pairing_limit=SlidingWindow(limit=PAIRINGS_PER_MINUTE, window_s=60.0),
        clock=clock,
        metrics=metrics.render,
        health_report=health.report,
        max_sessions=settings.sessions.max_connections,
        max_client_message_bytes=settings.hub.max_client_message_bytes,
        max_device_message_bytes=settings.devices.max_message_bytes,
        allowed_hosts=routes.own_hosts(
            settings.server.host, settings.server.name, socket.gethostname(), settings.server.allowed_hosts
        ),
        connections=connections,
    )
    return Parts(
        storage=storage,
        ring=ring,
        hub=hub,
        robot_monitor=RobotMonitor(robot_presence, store=storage.intake, clock=clock),
        devices=DeviceServer(
            receiver=receiver,
            turns=turns,
            trusted_networks=Networks(settings.devices.trusted_networks),
            keys=settings.devices.auth == "key",
            identity_of=lambda device_id: known_device(device_id).identity,
            max_message_bytes=settings.devices.max_message_bytes,
            max_connections=settings.devices.max_connections,
        ),
        serial=serial,
        identities=identities,
        sessions=sessions,
        desk=desk,
        keys=keys,
        disks=disks,
        health=health,
        housekeeping=Housekeeping(
            sessions=session_repository,
            call=storage.intake.call,
            session_ttl_s=settings.sessions.ttl_s,
            clock=clock,
            clock_watch=ground.clock_watch,
        ),
        runner=_runner(context, connections, name=settings.server.name),
    )


async def _present(sessions: SessionManager) -> list[dict[str, object]]:
    """Return who is there, as the topic `status` shows it: who came last first, and who is away after all others."""
    present = reversed(await sessions.present())
    first = sorted(present, key=lambda presence: presence.presence != "online")[:SESSIONS_SHOWN]
    return [{name: fields[name] for name in PRESENCE_SHOWN if name in fields} for fields in map(presence_fields, first)]


def _runner(context: Context, connections: HttpConnections, *, name: str) -> Runner:
    return Runner(
        routes.build(context, name=name),
        connections=connections,
        access_log=None,  # it would log tokens in query strings
        logger=peer_fault_logger(),
        auto_decompress=False,  # nothing compressed is taken, so nothing is unpacked
        keepalive_timeout=routes.KEEPALIVE_S,
        lingering_time=1.0,
        shutdown_timeout=1.0,
    )


def _issuers_keys(settings: Settings, clock: Clock) -> KeySet | None:
    if settings.auth.mode != "oidc":
        return None
    kept = Path(settings.auth.secret_file).absolute().with_name("jwks.json")
    return KeySet(settings.auth.jwks_url, kept=kept, clock=clock)


def _tokens(ground: Ground, identities: IdentityRegistry, keys: KeySet | None) -> Tokens:
    auth = ground.settings.auth
    return Tokens(
        secret=ground.secret,
        mode=auth.mode,
        issuer=auth.issuer,
        audience=auth.audience,
        clients=auth.clients,
        roles=ground.policy.roles,
        role_map=auth.role_map,
        keys=keys,
        identities=identities,
        clock=ground.clock,
    )


def _concerned(update: Update) -> Callable[[Principal], bool]:
    """Return who a change of users or tokens may be about: a login must not cost a look at everybody's rights."""
    if update.topic == "tokens" and not update.snapshot:
        ids = {*update.entities, *update.removed}
        return lambda principal: principal.token in ids
    return lambda principal: principal.is_bearer


def access_policy(settings: Settings) -> AccessPolicy:
    """Return the table of rights.

    Raises:
        ConfigError: it names what does not exist.
    """
    return AccessPolicy(
        mode=settings.auth.mode,
        rights=settings.rights.model_dump(),
        anonymous_topics=settings.auth.anonymous_topics,
        anonymous_networks=settings.auth.anonymous_networks,
        device_networks=settings.devices.trusted_networks,
    )
