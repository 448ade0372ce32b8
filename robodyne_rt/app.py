"""The composition root: builds every part from the settings, starts them in order, stops them in reverse.

Start: store, hub, ingest, web; "ready" when the ports are bound. Stop: take no new events, answer what was taken, tell the
clients, close; the listeners of clients close last, so that who connects meanwhile is told 1001.
"""

import asyncio
import logging
import platform
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread
from aiohttp import web

from robodyne_rt import __version__, systemd
from robodyne_rt.core import times
from robodyne_rt.errors import StorageBroken
from robodyne_rt.hub.manager import ConnectionManager
from robodyne_rt.ingest.receiver import Receiver
from robodyne_rt.ingest.serial import SerialLink
from robodyne_rt.ingest.tcp import DeviceServer
from robodyne_rt.model.access import AccessPolicy, Networks
from robodyne_rt.model.changes import Entity, Update
from robodyne_rt.ports import Clock
from robodyne_rt.settings import ConfigError, Settings
from robodyne_rt.store.apply import MENTIONED_AT_MOST
from robodyne_rt.store.changes import ChangeLog, Readers
from robodyne_rt.store.database import Database
from robodyne_rt.store.writer import Writer
from robodyne_rt.web import routes
from robodyne_rt.web.context import Context
from robodyne_rt.web.metrics import Metrics
from robodyne_rt.web.middleware import peer_fault_logger

logger = logging.getLogger(__name__)

WRITER_SILENT_S = 10.0
"""The writer turns every 50 ms; silent for longer than this it hangs (a slow disk included)."""

WATCHDOG_CHECK_S = 1.0


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
        await anyio.to_thread.run_sync(self._open_store)
        self._hub = ConnectionManager(
            settings=settings.hub,
            reader=self._readers,
            store=self._writer,
            positions=self._writer.positions,
            robots=self._robots,
            windows=self._windows,
            offline_after_s=settings.devices.offline_after_s,
            robots_limit=MENTIONED_AT_MOST,
            clock=self._clock,
            health=self._health,
        )
        self._receiver = Receiver(store=self._writer, live=self._hub, clock=self._clock)
        self._devices = DeviceServer(
            receiver=self._receiver,
            trusted_networks=Networks(settings.devices.trusted_networks),
            max_message_bytes=settings.devices.max_message_bytes,
            max_connections=settings.devices.max_connections,
        )
        self._serial = [
            SerialLink(port, receiver=self._receiver, max_message_bytes=settings.devices.max_message_bytes)
            for port in settings.serial
        ]
        runner = self._web_runner()
        self._writer.start(asyncio.get_running_loop())
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run_writer)
                try:
                    await tasks.start(self._hub.run)
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
                        self._writer.stop()  # its thread is waited for, whatever went wrong before
                        tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            self._readers.close()

    def _open_store(self) -> None:
        settings = self._settings
        database = Database(settings.database.url)
        connection = database.open_writer()
        try:
            epoch = database.prepare(connection)
            self._windows = {
                "events_window": settings.topics.events_window,
                "systemlogs_window": settings.topics.systemlogs_window,
                "orders_finished_minutes": settings.topics.orders_finished_minutes,
            }
            self._writer = Writer(
                database,
                connection,
                windows=self._windows,
                batch_max=settings.database.batch_max,
                changes_retained=settings.database.changes_retained,
                fallback_interval_s=settings.hub.fallback_interval_s,
                notify=settings.database.notify,
                clock=self._clock,
                on_updates=self._publish,
            )
            self._robots = list(ChangeLog(connection, windows=self._windows).snapshot("robots").entities.values())
        except sqlite3.Error as error:
            raise StorageBroken(f"{database.path}: {error}") from error
        self._readers = Readers(database, epoch=epoch, windows=self._windows)

    def _publish(self, updates: list[Update]) -> None:
        self._hub.publish(updates)

    def _web_runner(self) -> web.AppRunner:
        settings = self._settings
        server = settings.server
        metrics = Metrics(hub=self._hub, receiver=self._receiver.stats, writer=self._writer)
        context = Context(
            hub=self._hub,
            receiver=self._receiver,
            access=AccessPolicy(
                mode=settings.auth.mode,
                anonymous_topics=settings.auth.anonymous_topics,
                anonymous_networks=settings.auth.anonymous_networks,
            ),
            device_networks=Networks(settings.devices.trusted_networks),
            trusted_proxies=Networks(server.trusted_proxies),
            clock=self._clock,
            metrics=metrics.render,
            checks=self._checks,
            max_client_message_bytes=settings.hub.max_client_message_bytes,
            max_device_message_bytes=settings.devices.max_message_bytes,
            allowed_hosts=routes.own_hosts(server.host, server.name, socket.gethostname(), server.allowed_hosts),
            allowed_origins=frozenset(server.allowed_origins),
        )
        return web.AppRunner(
            routes.build(context),
            access_log=None,  # it would log tokens in query strings
            logger=peer_fault_logger(),
            auto_decompress=False,  # nothing compressed is taken, so nothing is unpacked
            keepalive_timeout=routes.KEEPALIVE_S,
            lingering_time=1.0,
            shutdown_timeout=1.0,
        )

    async def _listen(self, runner: web.AppRunner) -> Ports:
        settings = self._settings
        given = systemd.listen_sockets()
        await runner.setup()
        try:
            tls = _tls(settings.server.tls_cert, settings.server.tls_key)
            site: web.BaseSite
            if given:  # systemd/robodyne-rt.socket: first the port for browsers, then the one for devices
                site = web.SockSite(runner, given[0], ssl_context=tls)
            else:
                site = web.TCPSite(runner, settings.server.host, settings.server.port, backlog=4096, ssl_context=tls)
            await site.start()
            http: int = runner.addresses[0][1]
            devices = await self._devices.start(
                host=settings.devices.host, port=settings.devices.port, sock=given[1] if len(given) > 1 else None
            )
        except OSError as error:
            raise ConfigError(f"cannot listen: {error}; another server may be running, or the address is not ours") from error
        self._listening = True
        return Ports(http=http, devices=devices)

    async def _run_writer(self) -> None:
        await anyio.to_thread.run_sync(self._writer.run, limiter=anyio.CapacityLimiter(1))

    async def _feed_watchdog(self) -> None:
        """Tell systemd that loop and writer work, only while they do."""
        interval_s = systemd.watchdog_interval_s()
        while interval_s is not None:
            with anyio.move_on_after(interval_s):
                await self._probe_writer()
                systemd.notify("WATCHDOG=1")
            await anyio.sleep(min(WATCHDOG_CHECK_S, interval_s / 3))

    async def _probe_writer(self) -> None:
        """Wait until the writer has committed an empty transaction."""
        probed = anyio.Event()
        self._writer.submit(lambda applier: None, lambda result, error: probed.set())
        await probed.wait()

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
        await runner.cleanup()

    # -- health ----------------------------------------------------------------------------------------------------

    def _storage_state(self) -> tuple[str, str]:
        stats = self._writer.stats
        if stats.trouble:
            return "failing", stats.trouble
        if stats.turned_at and time.monotonic() - stats.turned_at > WRITER_SILENT_S:
            return "stalled", f"the writer has not turned for {time.monotonic() - stats.turned_at:.0f} s"
        return "ok", ""

    def _health(self) -> Entity:
        state, detail = self._storage_state()
        storage: Entity = {"kind": "sqlite", "state": state}
        if detail:
            storage["detail"] = detail
        started_at = times.to_text(self._started_at)
        server = {"name": self._settings.server.name, "version": __version__, "started_at": started_at}
        return {"server": server, "storage": storage}

    def _checks(self) -> list[tuple[str, bool, str]]:
        state, detail = self._storage_state()
        missing = self._writer.stats.missing_triggers
        return [
            ("loop", self._hub.stats.loop_lag_s < 1.0, f"lag {self._hub.stats.loop_lag_s * 1000:.0f} ms"),
            ("writer", state == "ok", detail or f"{self._writer.stats.commits} commits, {self._writer.queued} waiting"),
            (
                "change log",
                not missing,
                f"triggers are gone, restart: {', '.join(missing)}" if missing else "all triggers are there",
            ),
            ("listeners", self._listening, "bound" if self._listening else "not bound yet"),
            ("running", not self._hub.draining, "shutting down" if self._hub.draining else "serving"),
        ]


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
    logger.info("settings: %s", settings.model_dump_json(exclude={"redis": {"url"}}), extra={"action": "settings"})


def _tls(cert: str, key: str) -> ssl.SSLContext | None:
    if not cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[server] tls_cert {cert}: {error}") from error
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
