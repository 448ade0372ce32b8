"""Run the server as a process: logging, signals, and what the console is told.

SIGTERM and SIGINT drain, a second one ends at once. SIGHUP reloads what can be reloaded where there is no terminal; from a
terminal it says that this was closed, and ends the server.
"""

import gc
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import anyio

from robodyne_rt import logs
from robodyne_rt.app import lifecycle
from robodyne_rt.app.lifecycle import Ports
from robodyne_rt.protocol.errors import RobodyneError
from robodyne_rt.settings import ConfigError, Settings, load
from robodyne_rt.store.errors import DataOwned, SchemaMismatch, StorageBroken

logger = logging.getLogger(__name__)

INTERRUPTED = 130

GC_THRESHOLDS = (20_000, 20, 50)

STOP_FORCED = 1

STOP_LIMIT_S = 4.5
"""After the grace; a stop that takes longer is no stop any more (SPEC section 6)."""

LAST_LINES_S = 0.3
"""How long an end at once waits for the last lines of the log."""

IMPATIENCE_S = 1.0
"""A second signal this long after the first is meant; sooner it is the same one, sent to the whole process group."""


def serve(
    settings: Settings,
    *,
    config: Path | None,
    can_reload: bool = True,
    level_until_ready: str | None = None,
    on_ready: Callable[[Ports], None] | None = None,
) -> None:
    """Run the server to its end.

    Args:
        config: file to read again at SIGHUP; None for defaults and environment.
        can_reload: whether SIGHUP may mean that.
        level_until_ready: of the log until `on_ready` was called; None: that of the settings.
        on_ready: called when the ports are bound.
    Raises:
        StorageBroken, SchemaTooNew: the database cannot be used.
        ConfigError: a port cannot be bound, or a certificate not be read.
    """
    log = logs.set_up(level=level_until_ready or settings.log.level, style=settings.log.format)
    lifecycle.log_start(settings)
    server = lifecycle.App(settings, log_lines_lost=lambda: log.lines_lost)

    def end_now(code: int) -> NoReturn:
        log.close(LAST_LINES_S)
        os._exit(code)  # what was acknowledged is on disk

    stop_limit_s = settings.server.shutdown_grace_s + STOP_LIMIT_S
    stays_at_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # nohup(1)
    reloads = can_reload and (stays_at_hangup or not _has_terminal())
    caught = [signal.SIGTERM, signal.SIGINT, *([] if stays_at_hangup and not reloads else [signal.SIGHUP])]

    async def signals() -> None:
        stopping_since = math.inf
        with anyio.open_signal_receiver(*caught) as received:
            async for number in received:
                if number == signal.SIGHUP and reloads:
                    _reload(config, settings)
                elif stopping_since == math.inf:
                    stopping_since = time.monotonic()
                    threading.Thread(target=_end_after, args=(stop_limit_s, end_now), daemon=True).start()
                    server.stop("restart" if number == signal.SIGTERM else "stopped")
                elif time.monotonic() - stopping_since > IMPATIENCE_S:
                    end_now(INTERRUPTED)

    def ready(ports: Ports) -> None:
        if on_ready is not None:
            on_ready(ports)
        logging.getLogger().setLevel(settings.log.level)
        _announce(settings, ports)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(signals)
            await server.run(on_ready=ready)
            tasks.cancel_scope.cancel()

    # Hardly anything here is cyclic garbage, but a burst of messages would set off collections at each hundred of them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        lifecycle.run_in_loop(main)
    except BaseExceptionGroup as group:
        error = lifecycle.first_error(group)
        if isinstance(error, StorageBroken):
            logger.critical("%s", error, extra={"action": "storage_broken"})
        elif not isinstance(error, RobodyneError | ConfigError | DataOwned | SchemaMismatch):
            logger.error("an unforeseen error", exc_info=group, extra={"action": "server_failed"})
        raise error from group


def _has_terminal() -> bool:
    """Return whether a terminal may be closed under us; systemd, containers and cron give none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _end_after(seconds: float, end_now: Callable[[int], NoReturn]) -> None:
    """End the process whatever still hangs, a disk for one: what was acknowledged is on disk."""
    time.sleep(seconds)
    logger.critical("not stopped within %.1f s: something hangs; ending now", seconds, extra={"action": "stop_forced"})
    end_now(STOP_FORCED)


def _announce(settings: Settings, ports: Ports) -> None:
    host = settings.server.host if settings.server.host not in ("0.0.0.0", "::") else "localhost"
    scheme = "https" if settings.server.tls_cert else "http"
    logger.info(
        "ready: %s://%s:%d, devices on port %d",
        scheme,
        host,
        ports.http,
        ports.devices,
        extra={"action": "server_ready", "port": ports.http, "devices_port": ports.devices},
    )


def _reload(config: Path | None, running: Settings) -> None:
    """Take over what can be changed while running, and say what cannot."""
    try:
        wanted = load(config)
    except Exception as error:  # a file that cannot be used is no reason to stop
        logger.error("not reloaded, the old settings stay: %s", error, extra={"action": "reload_failed"})
        return
    logging.getLogger().setLevel(wanted.log.level)
    rest = [name for name in Settings.model_fields if name != "log" and getattr(wanted, name) != getattr(running, name)]
    logger.info(
        "reloaded [log]%s",
        f"; changes of [{'], ['.join(rest)}] need a restart" if rest else "",
        extra={"action": "reloaded"},
    )
