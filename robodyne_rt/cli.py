"""The command `robodyne-rt`. Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration, 3 storage broken."""

import argparse
import importlib
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import orjson

from robodyne_rt import __version__, logs
from robodyne_rt.errors import ConfigError, SchemaTooNew, StorageBroken
from robodyne_rt.settings import Settings, load

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STORAGE = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except (StorageBroken, SchemaTooNew) as error:
        print(error, file=sys.stderr)
        return EXIT_STORAGE
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robodyne-rt",
        description="The real-time server of a robot restaurant.",
        epilog="Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration, 3 storage broken.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the server", description="Run the server until SIGTERM or Ctrl-C.")
    _config_option(serve)
    serve.set_defaults(run=_serve)

    check = commands.add_parser(
        "check-config", help="check the configuration", description="Check config.toml and the environment; say what is wrong."
    )
    _config_option(check)
    check.add_argument("--json", action="store_true", help="print the effective settings as JSON")
    check.set_defaults(run=_check_config)

    version = commands.add_parser("version", help="print the version", description="Print the version.")
    version.add_argument("--json", action="store_true", help="print as JSON")
    version.set_defaults(run=_version)

    for name, module in (("demo", "demo"), ("sim", "sim.command"), ("tail", "client.tail")):
        importlib.import_module(f"robodyne_rt.{module}").add_command(commands)
    return parser


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration file (default: config.toml in the working directory where there is one)",
    )


def _settings(options: argparse.Namespace) -> tuple[Path | None, Settings]:
    path: Path | None = options.config
    if path is None and Path("config.toml").exists():
        path = Path("config.toml")
    return path, load(path)


def _serve(options: argparse.Namespace) -> int:
    path, settings = _settings(options)
    return serve(settings, config=path)


def serve(settings: Settings, *, config: Path | None) -> int:
    """Run the server with signals: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads."""
    from robodyne_rt import app

    logs.set_up(level=settings.log.level, style=settings.log.format)
    app.log_start(settings)
    server = app.App(settings)

    async def signals() -> None:
        stopping = False
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            async for number in received:
                if number == signal.SIGHUP:
                    _reload(config, settings)
                elif stopping:
                    raise KeyboardInterrupt
                else:
                    stopping = True
                    server.stop("restart" if number == signal.SIGTERM else "stopped")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(signals)
            await server.run(on_ready=lambda ports: _announce(settings, ports))
            tasks.cancel_scope.cancel()

    try:
        app.run_in_loop(main)
    except BaseExceptionGroup as group:
        raise app._first(group) from group
    return 0


def _announce(settings: Settings, ports: object) -> None:
    host = settings.server.host if settings.server.host not in ("0.0.0.0", "::") else "localhost"
    scheme = "https" if settings.server.tls_cert else "http"
    http, devices = ports.http, ports.devices  # type: ignore[attr-defined]
    logger.info(
        "ready: %s://%s:%d, devices on port %d", scheme, host, http, devices, extra={"action": "server_ready", "port": http, "devices_port": devices}
    )


def _reload(config: Path | None, running: Settings) -> None:
    """Take over what can be changed while running, and say what cannot."""
    try:
        wanted = load(config)
    except ConfigError as error:
        logger.error("not reloaded, the old settings stay: %s", error, extra={"action": "reload_failed"})
        return
    logging.getLogger().setLevel(wanted.log.level)
    rest = [name for name in Settings.model_fields if name != "log" and getattr(wanted, name) != getattr(running, name)]
    logger.info(
        "reloaded [log]%s",
        f"; changes of [{'], ['.join(rest)}] need a restart" if rest else "",
        extra={"action": "reloaded"},
    )


def _check_config(options: argparse.Namespace) -> int:
    path, settings = _settings(options)
    if options.json:
        print(settings.model_dump_json(indent=2))
    else:
        print(f"{path or 'no file, defaults only'}: ok")
    return 0


def _version(options: argparse.Namespace) -> int:
    print(orjson.dumps({"version": __version__}).decode() if options.json else f"robodyne-rt {__version__}")
    return 0
