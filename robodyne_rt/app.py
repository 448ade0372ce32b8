"""The composition root: builds every part from the settings, starts them in order, stops them in reverse.

Start: store, hub, ingest, web; "ready" when the ports are bound. Stop: take no new events, answer what was taken, tell the
clients, close; the listeners of clients close last, so that who connects meanwhile is told 1001.
"""

import asyncio
import contextlib
import logging
import os
import platform
import secrets
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
from aiohttp import web
from anyio.abc import TaskGroup

from robodyne_rt import __version__, secret, systemd
from robodyne_rt.core import times
from robodyne_rt.core.device_auth import ALL_ROBOTS, DeviceAuth, Identity, Known
from robodyne_rt.core.directory import Directory
from robodyne_rt.core.ratelimit import SlidingWindow
from robodyne_rt.errors import StorageBroken, StorageUnavailable
from robodyne_rt.hub.manager import ConnectionManager
from robodyne_rt.ingest.receiver import Receiver
from robodyne_rt.ingest.serial import SerialLink
from robodyne_rt.ingest.tcp import DeviceServer
from robodyne_rt.model.access import AccessPolicy, Networks, Principal
from robodyne_rt.model.changes import Entity, Update
from robodyne_rt.ports import Clock
from robodyne_rt.sessions.manager import Session as UserSession
from robodyne_rt.sessions.manager import SessionManager
from robodyne_rt.sessions.memory import MemorySessions
from robodyne_rt.settings import ConfigError, Settings, control_socket, shown
from robodyne_rt.store import accounts, highwater
from robodyne_rt.store.apply import MENTIONED_AT_MOST
from robodyne_rt.store.changes import Readers
from robodyne_rt.store.database import Session, open_database, renew_epoch
from robodyne_rt.store.dead_letters import DeadLetters
from robodyne_rt.store.highwater import HighWater
from robodyne_rt.store.intake import Intake
from robodyne_rt.store.records import MessageRecords, RequestRecords, SessionRecords
from robodyne_rt.store.spool import Spool
from robodyne_rt.store.sqlite import finish_copy, part_of
from robodyne_rt.store.writer import Writer
from robodyne_rt.web import routes
from robodyne_rt.web.accounts import Accounts
from robodyne_rt.web.auth import PAIRINGS_PER_MINUTE
from robodyne_rt.web.context import Context
from robodyne_rt.web.gate import Gate
from robodyne_rt.web.jwks import KeySet
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

WRITER_SILENT_S = 10.0
"""The writer turns every 100 ms; silent for longer than this it hangs (a slow disk included)."""

SPOOL_STOP_S = 2.0
"""How long a stop waits for what is on its way into the spool."""

WATCHDOG_CHECK_S = 1.0

HOUSEKEEPING_S = 3600.0
SESSIONS_SHOWN = 100
PRESENCE_SHOWN = ("userId", "roles", "device", "connectedAt", "presence", "topics")

NOTE_INTERVAL_S = 1.0
"""How often the newest offsets are noted outside the database, where they moved."""

SOCKET_PATH_BYTES = 107
"""What Linux takes as the path of a socket."""

STORE_WAIT_S = (0.2, 5.0)
"""First and longest pause between two tries to reach a database that is away at start."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens, as bound (port 0 in the settings takes a free one)."""

    http: int
    devices: int


class App:
    """One server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = Clock()
        self._started_at = time.time()
        self._listening = False
        self._lost: dict[str, int] = {}
        self._keys: KeySet | None = None
        self._stop = anyio.Event()
        self._stop_reason = "stopped"

    def stop(self, reason: str) -> None:
        """Ask `run` to shut down; `reason` is told to the clients."""
        self._stop_reason = reason
        self._stop.set()

    async def run(self, *, on_ready: Callable[[Ports], None]) -> None:
        """Serve until `stop`.

        Raises:
            StorageBroken, SchemaTooNew: the database cannot be used.
            ConfigError: a port cannot be bound, or a certificate not be read.
        """
        settings = self._settings
        policy = access_policy(settings)
        self._secret = secret.load(settings.auth.secret_file)
        if not await self._open_store():
            return  # stopped while the database was away
        self._directory = Directory(policy, self._writer.snapshots)
        self._hub = ConnectionManager(
            settings=settings.hub,
            reader=self._readers,
            store=self._intake,
            snapshots=self._writer.snapshots,
            was_cut_off=self._was_cut_off,
            windows=self._windows,
            offline_after_s=settings.devices.offline_after_s,
            robots_limit=MENTIONED_AT_MOST,
            clock=self._clock,
            health=self._health,
            on_private=self._take_private,
        )
        self._receiver = Receiver(store=self._intake, live=self._hub, auth=DeviceAuth(self._known_device), clock=self._clock)
        self._devices = DeviceServer(
            receiver=self._receiver,
            trusted_networks=Networks(settings.devices.trusted_networks),
            keys=settings.devices.auth == "key",
            identity_of=lambda device_id: self._known_device(device_id).identity,
            max_message_bytes=settings.devices.max_message_bytes,
            max_connections=settings.devices.max_connections,
        )
        self._serial = [
            SerialLink(port, receiver=self._receiver, max_message_bytes=settings.devices.max_message_bytes)
            for port in settings.serial
        ]
        self._build_work()
        runner = self._web_runner(policy)
        self._intake.start(asyncio.get_running_loop(), self._writer, self._hub)
        try:
            async with anyio.create_task_group() as tasks:
                self._start_threads(tasks)
                try:
                    await tasks.start(self._hub.run)
                    tasks.start_soon(self._sessions.run)
                    await tasks.start(self._desk.run)
                    tasks.start_soon(self._keep_house)
                    if self._keys is not None:
                        tasks.start_soon(self._keys.run)
                    self._tasks = tasks
                    tasks.start_soon(self._note_head)
                    if self._lost:
                        self._tell_lost(self._lost)
                    ports = await self._listen(runner)
                    for link in self._serial:
                        tasks.start_soon(link.run)
                    tasks.start_soon(self._feed_watchdog)
                    on_ready(ports)
                    systemd.notify(f"READY=1\nSTATUS=serving on port {ports.http}, devices on {ports.devices}")
                    await self._stop.wait()
                finally:
                    try:
                        with anyio.CancelScope(shield=True):
                            await self._shut_down(runner)
                    finally:
                        with anyio.CancelScope(shield=True):
                            await self._stop_threads()
                        tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            self._readers.close()

    async def _open_store(self) -> bool:
        """Open the database, waiting for one that is away; False when asked to stop meanwhile."""
        settings = self._settings
        self._windows = {
            "events_window": settings.topics.events_window,
            "systemlogs_window": settings.topics.systemlogs_window,
            "orders_finished_minutes": settings.topics.orders_finished_minutes,
        }
        self._database = open_database(settings.database)
        pause_s = STORE_WAIT_S[0]
        while True:
            try:
                await anyio.to_thread.run_sync(self._build_store)
                return True
            except StorageUnavailable as error:
                logger.error("waiting for the database: %s", error, extra={"action": "store_awaited"})
                systemd.notify(f"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=waiting for the database: {error}")
            with anyio.move_on_after(pause_s):
                await self._stop.wait()
                return False
            pause_s = min(STORE_WAIT_S[1], 2 * pause_s)

    def _build_store(self) -> None:
        settings, database = self._settings, self._database
        session = database.open_writer()
        try:
            epoch = database.prepare(session)
            spool_path = Path(settings.database.spool_path).absolute()
            self._note_path = highwater.note_path(spool_path)
            marker = spool_path.with_suffix(".foretold")
            self._was_cut_off = marker.exists()
            epoch = self._check_history(session, epoch)
            spool = self._open_spool(spool_path)
            self._intake = Intake(
                spool=spool,
                marker=marker,
                batch_max=settings.database.batch_max,
                push_deadline_s=settings.database.push_deadline_ms / 1000,
                windows=self._windows,
                clock=self._clock,
            )
            self._writer = Writer(
                database,
                session,
                epoch=epoch,
                spool=spool,
                windows=self._windows,
                batch_max=settings.database.batch_max,
                changes_retained=settings.database.changes_retained,
                fallback_interval_s=settings.hub.fallback_interval_s,
                notify=settings.database.notify,
                attempts=settings.queue.max_attempts,
                retention_days=settings.queue.retention_days,
                clock=self._clock,
                report=self._intake.on_report,
            )
        except database.errors as error:
            session.close()
            raise StorageBroken(f"{database.name}: {error}") from error
        except BaseException:
            session.close()
            raise
        self._spool = spool
        self._doorbell = database.doorbell(self._writer.ring)
        self._readers = Readers(database, epoch=epoch, windows=self._windows)
        self._session_records = SessionRecords(readers=self._readers, intake=self._intake)

    def _open_spool(self, path: Path) -> Spool | None:
        if not self._settings.database.spool_max_bytes:
            return None
        try:
            return Spool(path, max_bytes=self._settings.database.spool_max_bytes)
        except (sqlite3.Error, OSError) as error:
            # It may hold messages that were acknowledged: going on without it could lose them.
            raise StorageBroken(f"[database] spool_path {path}: cannot be opened: {error}") from error

    # -- people and devices --------------------------------------------------------------------------------------

    def _build_work(self) -> None:
        settings = self._settings
        self._sessions = SessionManager(
            store=MemorySessions(),
            records=self._session_records,
            ttl_s=settings.sessions.ttl_s,
            stale_after_s=settings.sessions.stale_after_s,
            single=settings.sessions.single_session_per_user,
            clock=self._clock,
            on_presence=self._hub.status.touch,
        )
        restaurant = LiveRestaurant(readers=self._readers, hub=self._hub, clock=self._clock)
        self._request_records = RequestRecords(readers=self._readers, intake=self._intake)
        self._desk = RequestDesk(
            sessions=self._sessions,
            records=self._request_records,
            answerer=RulesAssistant(restaurant),
            limit=SlidingWindow(limit=settings.limits.query_requests, window_s=settings.limits.query_window_s),
            shared=settings.limits.share_rate_limit,
            renewed=self._directory.renewed,
            clock=self._clock,
        )
        self._messages = StaffMessages(
            sessions=self._sessions,
            records=MessageRecords(readers=self._readers, intake=self._intake),
            clock=self._clock,
        )
        self._sessions.on_attached = self._greet_session
        self._sessions.on_gone = self._desk.session_gone

    def _greet_session(self, session: UserSession) -> None:
        """Go on with what it asked, and bring what its user has not read."""
        self._desk.session_attached(session)
        if not session.principal.is_anonymous:
            self._tasks.start_soon(self._messages.deliver_until_done, session)

    def _take_private(self, update: Update) -> None:
        """Let rights follow the database, in living connections too."""
        self._directory.take(update)
        if update.topic == "devices":
            self._receiver.recheck(self._known_device)
        else:
            self._hub.renew_all(self._directory.renewed, concerns=_concerned(update))

    def _known_device(self, device_id: str) -> Known:
        """Return what is known of a device; of a stranger keys that nobody has."""
        device = self._directory.device(device_id)
        # Always two keys, so that everybody takes as long; nobody was ever given those that stand in for a missing one.
        ids = (device["key_id"], device["previous_key_id"] or "-") if device is not None else ("", "-")
        keys = {id: self._secret.device_key(device_id, id) for id in ids}
        if device is None:
            return Known(keys, None)
        # Another program may have written anything there: what is no list names no robot.
        robots = device["robots"] if isinstance(device["robots"], list) else []
        speaks_for = None if ALL_ROBOTS in robots else frozenset(robot for robot in robots if isinstance(robot, str))
        return Known(keys, Identity(device["device_id"], speaks_for))

    async def _keep_house(self) -> None:
        """Forget from time to time what is over."""
        while True:
            await anyio.sleep(HOUSEKEEPING_S)
            now = self._clock.wall()
            self._session_records.forget(now - self._settings.sessions.ttl_s)
            try:
                await self._intake.call(lambda applier, now=now: accounts.forget_expired(applier.session, now=now))  # type: ignore[misc]
            except Exception:
                # Forgotten in an hour then: no reason to stop serving.
                logger.exception("what is over could not be forgotten", extra={"action": "housekeeping_failed"})

    # -- history -----------------------------------------------------------------------------------------------------

    def _check_history(self, session: Session, epoch: str) -> str:
        """Return the epoch; a new one where the database is older than the note beside it."""
        heads = dict(session.execute('SELECT topic, "offset" FROM topic_head').fetchall())
        note = highwater.read(self._note_path)
        self._lost = note.lost(self._database.name, epoch, heads) if note else {}
        if self._lost:
            epoch = renew_epoch(session, epoch)
            logger.error(
                "%s lacks changes that were confirmed (%s): new epoch %s",
                self._database.name,
                ", ".join(f"{topic} {count}" for topic, count in self._lost.items()),
                epoch,
                extra={"action": "data_regressed"},
            )
        return epoch

    def _tell_lost(self, lost: dict[str, int]) -> None:
        self._writer.stats.regressions += 1
        self._intake.tell("the database came back older than it was: changes that were confirmed are lost", lost)

    async def _note_head(self) -> None:
        """Note outside the database how far its log has come."""
        noted: HighWater | None = None
        told = False
        while True:
            heads = dict(self._writer.positions)
            note = HighWater(self._database.name, self._readers.epoch, heads, time.time())
            if noted is None or (noted.heads, noted.epoch) != (heads, note.epoch):
                try:
                    await anyio.to_thread.run_sync(highwater.write, self._note_path, note)
                    noted, told = note, False
                except OSError as error:
                    if not told:
                        logger.warning("%s cannot be written: %s", self._note_path, error, extra={"action": "note_failed"})
                    told = True
            await anyio.sleep(NOTE_INTERVAL_S)

    # -- threads -----------------------------------------------------------------------------------------------------

    def _start_threads(self, tasks: TaskGroup) -> None:
        self._writer_ended = anyio.Event()
        tasks.start_soon(self._run_writer)
        if self._spool is not None:
            tasks.start_soon(_run_in_thread, self._spool.run)
        if self._doorbell is not None:
            tasks.start_soon(_run_in_thread, self._doorbell.run)

    async def _run_writer(self) -> None:
        try:
            await _run_in_thread(self._writer.run)
        finally:
            self._writer_ended.set()

    async def _stop_threads(self) -> None:
        """End the threads in order, whatever went wrong before: what the writer cannot take goes to the spool."""
        self._intake.stop()
        self._writer.stop()
        await self._writer_ended.wait()
        await anyio.lowlevel.checkpoint()  # its last report
        if self._doorbell is not None:
            self._doorbell.stop()
        if self._spool is not None:
            with anyio.move_on_after(SPOOL_STOP_S):
                while self._intake.queued:
                    await anyio.sleep(0.01)
            self._spool.stop()

    def _web_runner(self, policy: AccessPolicy) -> web.AppRunner:
        settings = self._settings
        server = settings.server
        metrics = Metrics(
            hub=self._hub,
            receiver=self._receiver.stats,
            writer=self._writer.stats,
            intake=self._intake,
            sessions=self._sessions,
            desk=self._desk,
        )
        tokens = self._tokens()
        context = Context(
            hub=self._hub,
            sessions=self._sessions,
            desk=self._desk,
            messages=self._messages,
            history=self._request_records.history,
            dead_letters=DeadLetters(readers=self._readers, intake=self._intake, clock=self._clock),
            back_up=self._back_up,
            receiver=self._receiver,
            access=policy,
            auth_mode=settings.auth.mode,
            gate=Gate(policy=policy, tokens=tokens, clock=self._clock),
            accounts=Accounts(
                intake=self._intake,
                readers=self._readers,
                directory=self._directory,
                secret=self._secret,
                tokens=tokens,
                clock=self._clock,
            ),
            pairing_limit=SlidingWindow(limit=PAIRINGS_PER_MINUTE, window_s=60.0),
            trusted_proxies=Networks(server.trusted_proxies),
            clock=self._clock,
            metrics=metrics.render,
            checks=self._checks,
            max_sessions=settings.sessions.max_connections,
            max_client_message_bytes=settings.hub.max_client_message_bytes,
            max_device_message_bytes=settings.devices.max_message_bytes,
            allowed_hosts=routes.own_hosts(server.host, server.name, socket.gethostname(), server.allowed_hosts),
            allowed_origins=frozenset(server.allowed_origins),
        )
        return Runner(
            routes.build(context),
            access_log=None,  # it would log tokens in query strings
            logger=peer_fault_logger(),
            auto_decompress=False,  # nothing compressed is taken, so nothing is unpacked
            keepalive_timeout=routes.KEEPALIVE_S,
            lingering_time=1.0,
            shutdown_timeout=1.0,
        )

    def _tokens(self) -> Tokens:
        auth = self._settings.auth
        if auth.mode == "oidc":
            kept = Path(auth.secret_file).absolute().with_name("jwks.json")
            self._keys = KeySet(auth.jwks_url, kept=kept, clock=self._clock)
        return Tokens(
            secret=self._secret,
            mode=auth.mode,
            issuer=auth.issuer,
            audience=auth.audience,
            keys=self._keys,
            directory=self._directory,
            clock=self._clock,
        )

    async def _listen(self, runner: web.AppRunner) -> Ports:
        settings = self._settings
        given = systemd.listen_sockets()
        await runner.setup()
        try:
            tls = _tls("server", settings.server.tls_cert, settings.server.tls_key)
            site: web.BaseSite
            if given:  # systemd/robodyne-rt.socket: first the port for browsers, then the one for devices
                site = web.SockSite(runner, given[0], ssl_context=tls)
            else:
                site = web.TCPSite(runner, settings.server.host, settings.server.port, backlog=4096, ssl_context=tls)
            await site.start()
            http: int = runner.addresses[0][1]
            await self._listen_locally(runner)
            own = settings.devices
            devices = await self._devices.start(
                host=own.host,
                port=own.port,
                sock=given[1] if len(given) > 1 else None,
                tls=_tls("devices", own.tls_cert, own.tls_key, own.tls_client_ca),
            )
        except OSError as error:
            raise ConfigError(f"cannot listen: {error}; another server may be running, or the address is not ours") from error
        self._listening = True
        return Ports(http=http, devices=devices)

    async def _listen_locally(self, runner: web.AppRunner) -> None:
        """Listen for this machine's own commands (`dlq`, `backup`, `doctor`)."""
        path = control_socket(self._settings)
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
            logger.warning("%s is too long a path for a socket: dlq, backup and doctor cannot reach this server", path)
            return
        try:
            await web.UnixSite(runner, str(path)).start()
            path.chmod(0o600)
        except OSError as error:
            logger.warning("%s: %s: dlq, backup and doctor cannot reach this server", path, error)

    async def _back_up(self) -> Entity:
        """Copy the database beside itself.

        Raises:
            StorageUnavailable: it is away, or of a kind with tools of its own.
        """
        folder = self._note_path.parent / "backups"
        name = time.strftime("robodyne-%Y%m%dT%H%M%S", time.gmtime())
        target = folder / f"{name}-{secrets.token_hex(3)}.db"
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def settle(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def settle_from_thread(error: BaseException | None) -> None:
            loop.call_soon_threadsafe(settle, error)

        started = self._clock.now()
        try:
            await anyio.to_thread.run_sync(lambda: folder.mkdir(mode=0o700, parents=True, exist_ok=True))
            self._writer.back_up(part_of(target), settle_from_thread)
            await done
            await anyio.to_thread.run_sync(finish_copy, part_of(target), target)
            size = target.stat().st_size
        except (OSError, sqlite3.Error, StorageBroken) as error:
            raise StorageUnavailable(f"no backup was made: {error}") from error
        logger.info("backup: %s", target, extra={"action": "database_backed_up"})
        return {"path": str(target), "bytes": size, "seconds": round(self._clock.now() - started, 3)}

    async def _feed_watchdog(self) -> None:
        """Tell systemd that loop and writer work, only while they do."""
        interval_s = systemd.watchdog_interval_s()
        while interval_s is not None:
            if not self._is_writer_stuck(interval_s):
                systemd.notify("WATCHDOG=1")
            await anyio.sleep(min(WATCHDOG_CHECK_S, interval_s / 3))

    def _is_writer_stuck(self, patience_s: float = WRITER_SILENT_S) -> bool:
        return time.monotonic() - self._writer.stats.turned_at > min(patience_s, WRITER_SILENT_S)

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
        await runner.cleanup()
        with contextlib.suppress(OSError):
            control_socket(self._settings).unlink(missing_ok=True)

    # -- health ----------------------------------------------------------------------------------------------------

    def _storage_state(self) -> tuple[str, str]:
        stats, intake = self._writer.stats, self._intake
        details = [stats.trouble, self._spool.trouble if self._spool else "", self._doorbell.trouble if self._doorbell else ""]
        if self._is_writer_stuck():
            return "stalled", f"the writer has not turned for {time.monotonic() - stats.turned_at:.0f} s"
        state = intake.state
        if state in ("spooling", "draining"):
            details.append(f"{intake.spool_backlog} messages in {self._settings.database.spool_path}")
        if state == "late":
            details.append("a commit takes over a second")
        return state, "; ".join(detail for detail in details if detail)

    async def _health(self) -> Entity:
        state, detail = self._storage_state()
        storage: Entity = {"kind": self._database.kind, "state": state}
        if backlog := self._intake.spool_backlog:
            storage["spooled"] = backlog
        if detail:
            storage["detail"] = detail
        started_at = times.to_text(self._started_at)
        server = {"name": self._settings.server.name, "version": __version__, "started_at": started_at}
        present = [presence_fields(presence) for presence in (await self._sessions.present())[:SESSIONS_SHOWN]]
        shown = [{name: session[name] for name in PRESENCE_SHOWN} for session in present]
        return {"server": server, "storage": storage, "sessions": shown}

    def _checks(self) -> list[tuple[str, bool, str]]:
        state, detail = self._storage_state()
        missing = self._writer.stats.missing_triggers
        return [
            ("loop", self._hub.stats.loop_lag_s < 1.0, f"lag {self._hub.stats.loop_lag_s * 1000:.0f} ms"),
            (
                "writer",
                state in ("ok", "draining") and not self._writer.stats.trouble,
                f"{state}: {detail}" if detail else f"{self._writer.stats.commits} commits, {self._intake.queued} waiting",
            ),
            (
                "change log",
                not missing,
                f"triggers are gone, restart: {', '.join(missing)}" if missing else "all triggers are there",
            ),
            ("listeners", self._listening, "bound" if self._listening else "not bound yet"),
            ("running", not self._hub.draining, "shutting down" if self._hub.draining else "serving"),
        ]


def _concerned(update: Update) -> Callable[[Principal], bool]:
    """Return who a change of users or tokens may be about: a login must not cost a look at everybody's rights."""
    if update.topic == "tokens" and not update.snapshot:
        ids = {*update.entities, *update.removed}
        return lambda principal: principal.token in ids
    return lambda principal: principal.is_bearer


async def _run_in_thread(function: Callable[[], None]) -> None:
    """Run what lasts as long as the server in a thread of its own."""
    await anyio.to_thread.run_sync(function, limiter=anyio.CapacityLimiter(1))


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
        raise ConfigError(f"[{section}] tls_cert {cert}: {error}") from error
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
