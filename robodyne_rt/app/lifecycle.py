"""The server's life: starts its parts (`parts.py`) in order, stops them in reverse.

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

import logging
import os
import platform
import socket
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from aiohttp import web
from anyio.abc import TaskGroup

from robodyne_rt import __version__, kernel_clock, secret, systemd
from robodyne_rt.app import tls
from robodyne_rt.app.control_socket import ControlSocket
from robodyne_rt.app.memory_trim import give_back, glibc_trim
from robodyne_rt.app.parts import Ground, Parts, access_policy, build
from robodyne_rt.app.server_log import ServerLog
from robodyne_rt.core.clock_watch import ClockWatch
from robodyne_rt.model import times
from robodyne_rt.model.topics import TOPIC_NAMES
from robodyne_rt.ports import Clock
from robodyne_rt.settings import ConfigError, Settings, control_socket, is_loopback, owned_files, shown
from robodyne_rt.store.engine import private_files
from robodyne_rt.store.log import high_water
from robodyne_rt.store.opening import open_store
from robodyne_rt.supervision import Supervisor
from robodyne_rt.web import listener
from robodyne_rt.web.listener import HttpListener

logger = logging.getLogger(__name__)

WATCHDOG_CHECK_S = 1.0

CLOCK_LOOK_S = 5.0


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
        self._listening = False
        self._control_socket: ControlSocket | None = None
        self._http_listener: HttpListener | None = None
        self._supervisor = Supervisor()
        self._server_log = ServerLog(clock=self._clock)
        self._stop = anyio.Event()
        self._stop_reason = "stopped"
        self._parts: Parts
        self._tasks: TaskGroup

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
        own_secret = secret.load(settings.auth.secret_file)
        opened = await open_store(settings, clock=self._clock, may_delete=lambda: self._clock_watch.may_delete, stop=self._stop)
        if opened is None:
            return  # stopped while the database was away
        _tighten_files(settings, opened.marker)
        ground = Ground(
            settings=settings,
            policy=policy,
            secret=own_secret,
            clock=self._clock,
            clock_watch=self._clock_watch,
            supervisor=self._supervisor,
            server_log=self._server_log,
            is_listening=lambda: self._listening,
            spawn=self._spawn,
            log_lines_lost=self._log_lines_lost,
        )
        try:
            self._parts = build(ground, opened)
            opened.forget_snapshots()
            if own_secret.is_new and (void := self._parts.identities.given_out(self._clock.wall())):
                logger.error(
                    "%s was not there and a new secret was made: %d tokens and device keys given out before are void; to have "
                    "them back, stop the server, put the copy of the old file there, and start again",
                    settings.auth.secret_file,
                    void,
                    extra={"action": "secret_lost"},
                )
            await self._serve(on_ready)
        finally:
            opened.release()

    async def _serve(self, on_ready: Callable[[Ports], None]) -> None:
        parts = self._parts
        storage = parts.storage
        try:
            async with anyio.create_task_group() as tasks:
                keep = self._supervisor.keep
                storage.start(tasks, self._supervisor)
                try:
                    await tasks.start(parts.hub.run)
                    tasks.start_soon(keep, "robot monitor", parts.robot_monitor.run)
                    tasks.start_soon(keep, "sessions", parts.sessions.run)
                    await tasks.start(parts.desk.run)
                    tasks.start_soon(keep, "clock watch", self._watch_clock)
                    tasks.start_soon(keep, "server log", partial(self._server_log.run, storage.intake))
                    tasks.start_soon(keep, "housekeeping", parts.housekeeping.run)
                    if (trim := glibc_trim()) is not None:
                        tasks.start_soon(keep, "memory", partial(give_back, trim))
                    if parts.keys is not None:
                        tasks.start_soon(keep, "issuer's keys", parts.keys.run)
                    self._tasks = tasks
                    storage.report_losses()
                    ports = await self._listen()
                    for link in parts.serial:
                        tasks.start_soon(link.run)
                    tasks.start_soon(keep, "disks", parts.disks.run)
                    tasks.start_soon(keep, "health", partial(parts.health.run, parts.hub.touch_status))
                    tasks.start_soon(keep, "watchdog", self._feed_watchdog)
                    on_ready(ports)
                    systemd.notify(f"READY=1\nSTATUS=serving on port {ports.http}, devices on {ports.devices}")
                    await self._stop.wait()
                finally:
                    try:
                        with anyio.CancelScope(shield=True):
                            await self._shut_down()
                    finally:
                        with anyio.CancelScope(shield=True):
                            await storage.stop()
                        tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_error(group) from group

    def _spawn(self, name: str, function: Callable[..., Awaitable[Any]], argument: Any) -> None:
        self._tasks.start_soon(self._supervisor.once, name, function, argument)

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

    async def _listen(self) -> Ports:
        settings, runner = self._settings, self._parts.runner
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
        encryption = tls.context("devices", own.tls_cert, own.tls_key, own.tls_client_ca)
        try:
            sock = given[1] if len(given) > 1 else None
            devices = await self._parts.devices.start(host=own.host, port=own.port, sock=sock, tls=encryption)
        except OSError as error:
            raise _cannot_listen("devices", own.host, own.port, error) from error
        self._listening = True
        return Ports(http=http, devices=devices)

    def _listen_for_http(self, runner: web.AppRunner, given: list[socket.socket]) -> int:
        """Listen for browsers, on the socket that systemd gave where it did; return the port.

        `systemd/robodyne-rt.socket` names the port for browsers first, then the one for devices.
        """
        server = self._settings.server
        encryption = tls.context("server", server.tls_cert, server.tls_key)
        assert runner.server is not None
        sockets = given or listener.bind(server.host, server.port)
        self._http_listener = HttpListener(sockets, server=runner.server, tls=encryption)
        self._tasks.start_soon(self._http_listener.run)
        return int(sockets[0].getsockname()[1])

    async def _feed_watchdog(self) -> None:
        """Tell systemd that loop and writer work, only while they do."""
        interval_s = systemd.watchdog_interval_s()
        while interval_s is None:
            await anyio.sleep_forever()
        while True:
            if not self._parts.storage.is_stuck(interval_s):
                systemd.notify("WATCHDOG=1")
            await anyio.sleep(min(WATCHDOG_CHECK_S, interval_s / 3))

    async def _shut_down(self) -> None:
        """Stop in reverse within `shutdown_grace_s`."""
        systemd.notify("STOPPING=1")
        grace_s = self._settings.server.shutdown_grace_s
        deadline = self._clock.now() + grace_s
        logger.info("shutting down: %s", self._stop_reason, extra={"action": "server_stopping"})
        parts = self._parts
        parts.hub.draining = True
        for link in parts.serial:
            link.stop()
        await parts.devices.stop(grace_s / 2)
        parts.hub.drain(self._stop_reason)
        await parts.hub.drained(max(0.5, deadline - self._clock.now() - 0.5))
        parts.sessions.flush()
        if self._control_socket is not None:
            self._control_socket.close()
        if self._http_listener is not None:
            self._http_listener.close()
        await parts.runner.cleanup()
        if parts.ring is not None:
            parts.ring.close()


def _tighten_files(settings: Settings, marker: Path) -> None:
    spool = Path(settings.database.spool_path).absolute()
    private_files.tighten([*owned_files(settings), high_water.mark_path(spool), marker], spool.parent / "backups")


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
        lambda: tls.context("server", server.tls_cert, server.tls_key),
        lambda: tls.context("devices", devices.tls_cert, devices.tls_key, devices.tls_client_ca),
    ]
    for check in checks:
        try:
            check()
        except ConfigError as error:
            found += str(error).splitlines()
    if unknown := sorted(settings.hub.topic_limits.keys() - {*TOPIC_NAMES}):
        found.append(f"[hub] topic_limits: unknown topic {unknown[0]!r}; known: {', '.join(TOPIC_NAMES)}")
    return found


def _cannot_listen(section: str, host: str, port: int, error: OSError) -> ConfigError:
    why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror or str(error)
    return ConfigError(
        f"[{section}] cannot listen on {host} port {port}: {why}; another server may be running (set another [{section}] port),"
        " or the address is not this machine's"
    )


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
