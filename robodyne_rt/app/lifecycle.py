"""The composition root: builds every part from the settings, starts them in order, stops them in reverse.

Start: store, hub, devices, web; "ready" when the ports are bound. Stop: take no new events, answer what was taken, tell the
clients, close; the listeners of clients close last, so that who connects meanwhile is told 1001.

Every task of the server, and what becomes of the server where it fails (`supervision.py`; counted by
`robodyne_task_failures_total`). Kept: logged (`task_failed`), started again after 1 s, 2 s ... 30 s (the hub: 0.1 s to 1 s).
Once: logged; whoever waits for it has a deadline. Vital: logged (`task_ended`); the server ends, systemd starts it.

| task | does | where it fails |
|---|---|---|
| writer | stores, reads the change log (a thread) | vital: code 3 where storage is broken, else 1 |
| spool | keeps what cannot be stored (a thread) | vital: code 1; a damaged file is set aside instead |
| change listener | hears Postgres (a thread) | kept; the writer looks by itself every 100 ms |
| backups | makes them by the clock | kept; a full disk or a database that is away is an hour's wait |
| high-water mark | notes the newest offsets | kept; a disk that cannot be written is tried again each second |
| hub | heartbeats, catch-ups, closes, by the clock | kept |
| catch-up | reads for the hub what memory does not reach | once: asked for again at the next tick |
| robot monitor | stores telemetry, finds silent robots | kept |
| sessions | presence, and how far each session is | kept |
| requests | finds what an earlier run did not answer | kept |
| request | stores and works one user's questions | once: each question has an answer, `INTERNAL` where all else fails |
| unread messages | brings them to who comes | once: brought at the next connect |
| clock watch | looks whether the clock can be believed | kept |
| housekeeping | forgets sessions and tokens that are over | kept |
| issuer's keys | fetches the published keys | kept; the last good ones count |
| serial port NAME | opens one port, and serves it | kept; one that is away is looked for (`port_lost`) |
| control socket | makes it again where it vanishes | kept |
| memory | gives back what was freed | kept |
| watchdog | feeds systemd's | kept |
| disks | looks whether there is room | kept |
| health | looks at the checks, for the screens | kept |
| server log | stores warnings and errors as system logs | kept |
| signals | SIGTERM, SIGINT, SIGHUP (`app/process.py`) | vital: nobody could stop the server; a failed reload changes nothing |

Connections are no tasks of a group: what fails in a handler or a protocol of a device ends that one, and is logged. Tasks of
the Python client end with the client, and its caller is told.
"""

import asyncio
import logging
import os
import platform
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
from aiohttp import web

from robodyne_rt import __version__, kernel_clock, secret, systemd
from robodyne_rt.app import descriptors
from robodyne_rt.app.control_socket import ControlSocket
from robodyne_rt.app.health import ServerHealth
from robodyne_rt.app.housekeeping import Housekeeping
from robodyne_rt.app.memory import give_back, glibc_trim
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
from robodyne_rt.hub.manager import ConnectionManager
from robodyne_rt.hub.robot_monitor import RobotMonitor
from robodyne_rt.model import times
from robodyne_rt.model.access import AccessPolicy, Networks, Principal
from robodyne_rt.model.changes import Entity, Update
from robodyne_rt.model.topics import TOPIC_NAMES
from robodyne_rt.ports import Clock
from robodyne_rt.sessions.manager import Session as UserSession
from robodyne_rt.sessions.manager import SessionManager
from robodyne_rt.sessions.memory import MemorySessions
from robodyne_rt.settings import ConfigError, Settings, control_socket, is_loopback, owned_files, shown
from robodyne_rt.store.engine import private_files
from robodyne_rt.store.intake.requeue import DeadLetters
from robodyne_rt.store.log import high_water
from robodyne_rt.store.opening import OpenStore, open_store
from robodyne_rt.store.repositories import MessageRepository, RequestRepository, SessionRepository
from robodyne_rt.store.storage import Storage
from robodyne_rt.store.tables.device_writes import MAX_MENTIONED
from robodyne_rt.supervision import Supervisor
from robodyne_rt.web import listener, routes
from robodyne_rt.web.accounts import Accounts
from robodyne_rt.web.auth import PAIRINGS_PER_MINUTE
from robodyne_rt.web.authenticator import Authenticator
from robodyne_rt.web.connections import HttpConnections
from robodyne_rt.web.context import Context
from robodyne_rt.web.jwks import KeySet
from robodyne_rt.web.listener import HttpListener
from robodyne_rt.web.metrics import Metrics
from robodyne_rt.web.middleware import peer_fault_logger
from robodyne_rt.web.people import presence_fields
from robodyne_rt.web.runner import Runner
from robodyne_rt.web.tokens import Tokens
from robodyne_rt.work.assistant.rules import RulesAssistant
from robodyne_rt.work.messages import StaffMessages
from robodyne_rt.work.requests import RequestDesk
from robodyne_rt.work.restaurant import LiveRestaurant

logger = logging.getLogger(__name__)

WATCHDOG_CHECK_S = 1.0

CLOCK_LOOK_S = 5.0

SESSIONS_SHOWN = 100
PRESENCE_SHOWN = ("userId", "userName", "roles", "device", "connectedAt", "presence", "topics")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens, as bound (port 0 in the settings takes a free one)."""

    http: int
    devices: int


class App:
    """One server.

    Args:
        log_lines_lost: returns how many lines of the log nobody will read.
    """

    def __init__(self, settings: Settings, *, log_lines_lost: Callable[[], int] = lambda: 0) -> None:
        self._settings = settings
        self._log_lines_lost = log_lines_lost
        noted = high_water.read(high_water.mark_path(Path(settings.database.spool_path).absolute()))
        noted_at = noted.at if noted is not None else 0.0
        self._clock = Clock(noted_at=noted_at)
        self._clock_watch = ClockWatch(noted_at=noted_at, wall=self._clock.wall(), now=self._clock.now())
        self._started_at = time.time()
        self._listening = False
        self._keys: KeySet | None = None
        self._control_socket: ControlSocket | None = None
        self._http_listener: HttpListener | None = None
        self._supervisor = Supervisor()
        self._server_log = ServerLog(clock=self._clock)
        self._stop = anyio.Event()
        self._stop_reason = "stopped"

    def stop(self, reason: str) -> None:
        """Ask `run` to shut down; `reason` is told to the clients."""
        self._stop_reason = reason
        self._stop.set()

    async def run(self, *, on_ready: Callable[[Ports], None]) -> None:
        """Serve until `stop`.

        Raises:
            DataOwned: another process owns the data.
            StorageBroken, SchemaMismatch: the database cannot be used.
            ConfigError: a port cannot be bound, or a certificate not be read.
        """
        root = logging.getLogger()
        root.addHandler(self._server_log)
        try:
            await self._run(on_ready)
        finally:
            root.removeHandler(self._server_log)

    async def _run(self, on_ready: Callable[[Ports], None]) -> None:
        settings = self._settings
        policy = access_policy(settings)
        self._secret = secret.load(settings.auth.secret_file)
        opened = await open_store(settings, clock=self._clock, may_delete=lambda: self._clock_watch.may_delete, stop=self._stop)
        if opened is None:
            return  # stopped while the database was away
        _tighten_files(settings, opened.marker)
        try:
            await self._serve(opened, policy, on_ready)
        finally:
            opened.release()

    async def _serve(self, opened: OpenStore, policy: AccessPolicy, on_ready: Callable[[Ports], None]) -> None:
        settings = self._settings
        robot_monitor = self._build_store_and_hub(opened)
        storage = self._storage
        self._session_repository = SessionRepository(readers=storage.readers, intake=storage.intake)
        self._identities = IdentityRegistry(policy, opened.snapshots)
        opened.forget_snapshots()
        if self._secret.is_new and (void := self._identities.given_out(self._clock.wall())):
            logger.error(
                "%s was not there and a new secret was made: %d tokens and device keys given out before are void; to have them "
                "back, stop the server, put the copy of the old file there, and start again",
                settings.auth.secret_file,
                void,
                extra={"action": "secret_lost"},
            )
        self._build_devices()
        self._build_work(policy)
        runner = self._web_runner(policy)
        try:
            async with anyio.create_task_group() as tasks:
                keep = self._supervisor.keep
                storage.start(tasks, self._supervisor)
                try:
                    await tasks.start(self._hub.run)
                    tasks.start_soon(keep, "robot monitor", robot_monitor.run)
                    tasks.start_soon(keep, "sessions", self._sessions.run)
                    await tasks.start(self._desk.run)
                    tasks.start_soon(keep, "clock watch", self._watch_clock)
                    tasks.start_soon(keep, "server log", partial(self._server_log.run, storage.intake))
                    tasks.start_soon(keep, "housekeeping", self._housekeeping().run)
                    if (trim := glibc_trim()) is not None:
                        tasks.start_soon(keep, "memory", partial(give_back, trim))
                    if self._keys is not None:
                        tasks.start_soon(keep, "issuer's keys", self._keys.run)
                    self._tasks = tasks
                    storage.report_losses()
                    ports = await self._listen(runner)
                    for link in self._serial:
                        tasks.start_soon(link.run)
                    tasks.start_soon(keep, "disks", self._disks.run)
                    tasks.start_soon(keep, "health", partial(self._server_health.run, self._hub.touch_status))
                    tasks.start_soon(keep, "watchdog", self._feed_watchdog)
                    on_ready(ports)
                    systemd.notify(f"READY=1\nSTATUS=serving on port {ports.http}, devices on {ports.devices}")
                    await self._stop.wait()
                finally:
                    try:
                        with anyio.CancelScope(shield=True):
                            await self._shut_down(runner)
                    finally:
                        with anyio.CancelScope(shield=True):
                            await storage.stop()
                        tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_error(group) from group

    def _build_store_and_hub(self, opened: OpenStore) -> RobotMonitor:
        settings = self._settings
        robot_presence = RobotPresence(offline_after_s=settings.devices.offline_after_s, limit=MAX_MENTIONED)
        self._hub = ConnectionManager(
            settings=settings.hub,
            reader=opened.readers,
            snapshots=opened.snapshots,
            left_unconfirmed=opened.left_unconfirmed,
            windows=opened.windows,
            robot_presence=robot_presence,
            clock=self._clock,
            health=self._health,
            on_private=self._take_private,
            supervisor=self._supervisor,
        )
        self._storage = Storage(
            opened,
            settings=settings,
            sink=self._hub,
            believed_at=lambda: self._clock_watch.believed_at(wall=self._clock.wall(), now=self._clock.now()),
            clock=self._clock,
        )
        self._disks = DiskWatch(settings)
        probes = server_probes(
            self._storage,
            self._hub,
            clock=self._clock_watch,
            is_listening=lambda: self._listening,
            ports=lambda: self._serial,
            disks=self._disks,
            supervisor=self._supervisor,
            log_lines_lost=self._log_lines_lost,
        )
        self._server_health = ServerHealth(probes, wall=self._clock.wall)
        return RobotMonitor(robot_presence, store=self._storage.intake, clock=self._clock)

    def _build_devices(self) -> None:
        settings = self._settings
        self._receiver = Receiver(
            store=self._storage.intake, telemetry=self._hub, auth=DeviceAuth(self._known_device), clock=self._clock
        )
        turns = ReadingTurns(asyncio.get_running_loop())
        self._devices = DeviceServer(
            receiver=self._receiver,
            turns=turns,
            trusted_networks=Networks(settings.devices.trusted_networks),
            keys=settings.devices.auth == "key",
            identity_of=lambda device_id: self._known_device(device_id).identity,
            max_message_bytes=settings.devices.max_message_bytes,
            max_connections=settings.devices.max_connections,
        )
        self._serial = [
            SerialLink(
                port,
                receiver=self._receiver,
                turns=turns,
                max_message_bytes=settings.devices.max_message_bytes,
                supervisor=self._supervisor,
            )
            for port in settings.serial
        ]

    # -- people and devices --------------------------------------------------------------------------------------

    def _build_work(self, policy: AccessPolicy) -> None:
        settings = self._settings
        self._sessions = SessionManager(
            store=MemorySessions(),
            repository=self._session_repository,
            ttl_s=settings.sessions.ttl_s,
            stale_after_s=settings.sessions.stale_after_s,
            single=settings.sessions.single_session_per_user,
            clock=self._clock,
            on_presence=self._hub.status.touch,
        )
        restaurant = LiveRestaurant(readers=self._storage.readers, live=self._hub, clock=self._clock)
        self._request_repository = RequestRepository(readers=self._storage.readers, intake=self._storage.intake)
        self._desk = RequestDesk(
            sessions=self._sessions,
            repository=self._request_repository,
            answerer=RulesAssistant(restaurant),
            limit=SlidingWindow(limit=settings.limits.query_requests, window_s=settings.limits.query_window_s),
            shared=settings.limits.share_rate_limit,
            renewed=self._identities.renewed,
            ask_undeclared=settings.assistant.ask_undeclared,
            supervisor=self._supervisor,
            clock=self._clock,
        )
        self._messages = StaffMessages(
            sessions=self._sessions,
            repository=MessageRepository(readers=self._storage.readers, intake=self._storage.intake),
            resolve=self._identities.resolve,
            label=self._identities.label,
            roles=policy.roles,
            clock=self._clock,
        )
        self._sessions.on_attached = self._greet_session
        self._sessions.on_gone = self._desk.session_gone

    def _greet_session(self, session: UserSession) -> None:
        """Go on with what it asked, and bring what its user has not read."""
        self._desk.session_attached(session)
        if not session.principal.is_anonymous:
            once = self._supervisor.once
            self._tasks.start_soon(once, "unread messages", self._messages.deliver_until_done, session)

    def _take_private(self, update: Update) -> None:
        """Let rights follow the database, in living connections too."""
        gone = self._identities.take(update)
        if update.topic == "devices":
            self._receiver.recheck(self._known_device)
        else:
            self._hub.renew_all(self._identities.renewed, concerns=_concerned(update))
        if update.topic == "users":
            for name in gone:
                self._sessions.forget_user(name)

    def _known_device(self, device_id: str) -> Known:
        return known(self._identities.device(device_id), lambda key_id: self._secret.device_key(device_id, key_id))

    def _housekeeping(self) -> Housekeeping:
        return Housekeeping(
            sessions=self._session_repository,
            call=self._storage.intake.call,
            session_ttl_s=self._settings.sessions.ttl_s,
            clock=self._clock,
            clock_watch=self._clock_watch,
        )

    async def _watch_clock(self) -> None:
        """Look whether the wall clock can be believed."""
        was_doubtful = False
        while True:
            watch, wall = self._clock_watch, self._clock.wall()
            if watch.tick(wall=wall, now=self._clock.now(), is_synchronised=kernel_clock.is_synchronised()):
                logger.warning("the clock jumped; it shows %s", times.to_text(wall), extra={"action": "clock_jumped"})
            if watch.is_doubtful and not was_doubtful:
                logger.error(
                    "the clock shows %s, far ahead of what was noted before, and nobody keeps it right: nothing is deleted "
                    "for its age. Set it (timedatectl)",
                    times.to_text(wall),
                    extra={"action": "clock_doubtful"},
                )
            was_doubtful = watch.is_doubtful
            await anyio.sleep(CLOCK_LOOK_S)

    def _web_runner(self, policy: AccessPolicy) -> web.AppRunner:
        settings = self._settings
        server = settings.server
        proxies = Networks(server.trusted_proxies)
        connections = HttpConnections(
            limit=descriptors.http_share(descriptors.raise_limit(), devices=settings.devices.max_connections),
            trusted_proxies=proxies,
            now=self._clock.now,
        )
        metrics = Metrics(
            hub=self._hub,
            receiver=self._receiver.stats,
            writer=self._storage.stats,
            intake=self._storage.intake,
            sessions=self._sessions,
            desk=self._desk,
            http=connections,
            task_failures=self._supervisor.failures,
            log_lines_lost=self._log_lines_lost,
            log_lines_skipped=lambda: self._server_log.skipped,
        )
        tokens = self._tokens(policy)
        accounts = Accounts(
            intake=self._storage.intake,
            readers=self._storage.readers,
            identities=self._identities,
            secret=self._secret,
            tokens=tokens,
            roles=policy.roles,
            clock=self._clock,
        )
        context = Context(
            hub=self._hub,
            sessions=self._sessions,
            desk=self._desk,
            messages=self._messages,
            history=self._request_repository.history,
            dead_letters=DeadLetters(readers=self._storage.readers, submissions=self._storage.intake, clock=self._clock),
            back_up=self._storage.backups.make,
            receiver=self._receiver,
            access=policy,
            auth_mode=settings.auth.mode,
            authenticator=Authenticator(
                policy=policy,
                tokens=tokens,
                trusted_proxies=proxies,
                origins=Origins(server.allowed_origins),
                remember=accounts.remember,
                clock=self._clock,
            ),
            accounts=accounts,
            pairing_limit=SlidingWindow(limit=PAIRINGS_PER_MINUTE, window_s=60.0),
            clock=self._clock,
            metrics=metrics.render,
            health_report=self._server_health.report,
            max_sessions=settings.sessions.max_connections,
            max_client_message_bytes=settings.hub.max_client_message_bytes,
            max_device_message_bytes=settings.devices.max_message_bytes,
            allowed_hosts=routes.own_hosts(server.host, server.name, socket.gethostname(), server.allowed_hosts),
            connections=connections,
        )
        return Runner(
            routes.build(context, name=server.name),
            connections=connections,
            access_log=None,  # it would log tokens in query strings
            logger=peer_fault_logger(),
            auto_decompress=False,  # nothing compressed is taken, so nothing is unpacked
            keepalive_timeout=routes.KEEPALIVE_S,
            lingering_time=1.0,
            shutdown_timeout=1.0,
        )

    def _tokens(self, policy: AccessPolicy) -> Tokens:
        auth = self._settings.auth
        if auth.mode == "oidc":
            kept = Path(auth.secret_file).absolute().with_name("jwks.json")
            self._keys = KeySet(auth.jwks_url, kept=kept, clock=self._clock)
        return Tokens(
            secret=self._secret,
            mode=auth.mode,
            issuer=auth.issuer,
            audience=auth.audience,
            clients=auth.clients,
            roles=policy.roles,
            role_map=auth.role_map,
            keys=self._keys,
            identities=self._identities,
            clock=self._clock,
        )

    async def _listen(self, runner: web.AppRunner) -> Ports:
        settings = self._settings
        given = systemd.listen_sockets()
        if given and settings.auth.mode == "off" and not is_loopback(given[0].getsockname()[0]):
            raise ConfigError(
                f'[auth] mode = "off" lets everybody in and is allowed on loopback only, but systemd opened '
                f'{given[0].getsockname()[0]}: set ListenStream=127.0.0.1:... in robodyne-rt.socket, or choose mode = "local"'
            )
        await runner.setup()
        try:
            http = self._listen_for_http(runner, given[:1])
        except OSError as error:
            raise _cannot_listen("server", settings.server.host, settings.server.port, error) from error
        commands = self._control_socket = ControlSocket(runner, control_socket(settings))
        await commands.listen()
        self._tasks.start_soon(self._supervisor.keep, "control socket", commands.run)
        own = settings.devices
        tls = _tls("devices", own.tls_cert, own.tls_key, own.tls_client_ca)
        try:
            sock = given[1] if len(given) > 1 else None
            devices = await self._devices.start(host=own.host, port=own.port, sock=sock, tls=tls)
        except OSError as error:
            raise _cannot_listen("devices", own.host, own.port, error) from error
        self._listening = True
        return Ports(http=http, devices=devices)

    def _listen_for_http(self, runner: web.AppRunner, given: list[socket.socket]) -> int:
        """Listen for browsers, on the socket that systemd gave where it did; return the port.

        `systemd/robodyne-rt.socket` names the port for browsers first, then the one for devices.
        """
        server = self._settings.server
        tls = _tls("server", server.tls_cert, server.tls_key)
        assert runner.server is not None
        sockets = given or listener.bind(server.host, server.port)
        self._http_listener = HttpListener(sockets, server=runner.server, tls=tls)
        self._tasks.start_soon(self._http_listener.run)
        return int(sockets[0].getsockname()[1])

    async def _feed_watchdog(self) -> None:
        """Tell systemd that loop and writer work, only while they do."""
        interval_s = systemd.watchdog_interval_s()
        while interval_s is None:
            await anyio.sleep_forever()
        while True:
            if not self._storage.is_stuck(interval_s):
                systemd.notify("WATCHDOG=1")
            await anyio.sleep(min(WATCHDOG_CHECK_S, interval_s / 3))

    async def _shut_down(self, runner: web.AppRunner) -> None:
        """Stop in reverse within `shutdown_grace_s`."""
        systemd.notify("STOPPING=1")
        grace_s = self._settings.server.shutdown_grace_s
        deadline = self._clock.now() + grace_s
        logger.info("shutting down: %s", self._stop_reason, extra={"action": "server_stopping"})
        self._hub.draining = True
        for link in self._serial:
            link.stop()
        await self._devices.stop(grace_s / 2)
        self._hub.drain(self._stop_reason)
        await self._hub.drained(max(0.5, deadline - self._clock.now() - 0.5))
        self._sessions.flush()
        if self._control_socket is not None:
            self._control_socket.close()
        if self._http_listener is not None:
            self._http_listener.close()
        await runner.cleanup()

    # -- health ----------------------------------------------------------------------------------------------------

    async def _health(self) -> Entity:
        """Return the facts about server and storage that the topic `status` shows."""
        storage: Entity = {"kind": self._storage.kind, "state": self._storage.state[0]}
        if backlog := self._storage.intake.spool_backlog:
            storage["spooled"] = backlog
        if detail := self._storage.state[1]:
            storage["detail"] = detail
        started_at = times.to_text(self._started_at)
        server = {"name": self._settings.server.name, "version": __version__, "started_at": started_at}
        present = reversed(await self._sessions.present())  # who came last first, and who is away after all others
        first = sorted(present, key=lambda presence: presence.presence != "online")[:SESSIONS_SHOWN]
        shown = [{name: fields[name] for name in PRESENCE_SHOWN if name in fields} for fields in map(presence_fields, first)]
        return {"server": server, "storage": storage, "problems": self._server_health.problems(), "sessions": shown}


def _tighten_files(settings: Settings, marker: Path) -> None:
    spool = Path(settings.database.spool_path).absolute()
    private_files.tighten([*owned_files(settings), high_water.mark_path(spool), marker], spool.parent / "backups")


def _concerned(update: Update) -> Callable[[Principal], bool]:
    """Return who a change of users or tokens may be about: a login must not cost a look at everybody's rights."""
    if update.topic == "tokens" and not update.snapshot:
        ids = {*update.entities, *update.removed}
        return lambda principal: principal.token in ids
    return lambda principal: principal.is_bearer


def log_start(settings: Settings) -> None:
    """Open the log: version, platform and the effective settings, secrets hidden."""
    logger.info(
        "robodyne-rt %s on Python %s, SQLite %s, %s",
        __version__,
        platform.python_version(),
        sqlite3.sqlite_version,
        platform.platform(),
        extra={"action": "server_starting"},
    )
    logger.info("settings: %s", shown(settings), extra={"action": "settings"})


def problems(settings: Settings) -> list[str]:
    """Return which topics and certificates that settings name cannot be used, in the form of `Settings.problems`."""
    server, devices = settings.server, settings.devices
    found = []
    checks: list[Callable[[], object]] = [
        lambda: access_policy(settings),
        lambda: _tls("server", server.tls_cert, server.tls_key),
        lambda: _tls("devices", devices.tls_cert, devices.tls_key, devices.tls_client_ca),
    ]
    for check in checks:
        try:
            check()
        except ConfigError as error:
            found += str(error).splitlines()
    if unknown := sorted(settings.hub.topic_limits.keys() - {*TOPIC_NAMES}):
        found.append(f"[hub] topic_limits: unknown topic {unknown[0]!r}; known: {', '.join(TOPIC_NAMES)}")
    return found


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


def _cannot_listen(section: str, host: str, port: int, error: OSError) -> ConfigError:
    why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror or str(error)
    return ConfigError(
        f"[{section}] cannot listen on {host} port {port}: {why}; another server may be running (set another [{section}] port),"
        " or the address is not this machine's"
    )


def _tls(section: str, cert: str, key: str, client_ca: str = "") -> ssl.SSLContext | None:
    if not cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL  # who bears none proves a key
    except (OSError, ssl.SSLError) as error:
        named = f"tls_cert {cert}, tls_key {key}" + (f", tls_client_ca {client_ca}" if client_ca else "")
        raise ConfigError(f"[{section}] {named}: {error}") from error
    return context


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended a task group: the console wants one sentence, the log has the rest."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run_in_loop(main: Callable[[], object]) -> None:
    """Run a coroutine function to its end, on uvloop where it is installed."""
    anyio.run(main, backend_options={"use_uvloop": _has_uvloop()})  # type: ignore[arg-type]


def _has_uvloop() -> bool:
    if sys.platform == "win32":
        return False
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True
