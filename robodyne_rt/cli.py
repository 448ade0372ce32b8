"""The command `robodyne-rt`. Exit codes: 0 done, 1 failed while running, 2 wrong usage, configuration or schema version,
3 storage broken, 4 another process owns the data.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import orjson

from robodyne_rt import __version__, demo
from robodyne_rt.admin import access, backup, dlq, doctor, init, migrate
from robodyne_rt.admin.control import Refused
from robodyne_rt.app import lifecycle
from robodyne_rt.client import tail
from robodyne_rt.errors import DataOwned, RobodyneError, SchemaMismatch, StorageBroken, StorageUnavailable
from robodyne_rt.serve import serve
from robodyne_rt.settings import ConfigError, Settings, load, shown
from robodyne_rt.sim import command as sim

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STORAGE = 3
EXIT_OWNED = 4
EXIT_INTERRUPTED = 130

VERSION = f"robodyne-rt {__version__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    os.umask(os.umask(0o077) | 0o077)  # what stands in the database is not for everybody on this machine
    try:
        for name, value in vars(options).items():
            if isinstance(value, str) and not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value):
                raise ConfigError(f"{name}: the text is not UTF-8")
        code: int = options.run(options)
        return code
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except SchemaMismatch as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except (StorageBroken, StorageUnavailable) as error:
        print(error, file=sys.stderr)
        return EXIT_STORAGE
    except DataOwned as error:
        print(error, file=sys.stderr)
        return EXIT_OWNED
    except (Refused, RobodyneError) as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:  # a folder that is not there, a file that may not be read or written
        print(f"{error.filename}: {error.strerror}" if error.filename else error or type(error).__name__, file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robodyne-rt",
        description="The real-time server of a robot restaurant.",
        epilog="Exit codes: 0 done, 1 failed while running, 2 wrong usage, configuration or schema version, 3 storage broken, "
        "4 another process owns the data.",
    )
    parser.add_argument("--version", action="version", version=VERSION)
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

    for command in (demo, sim, tail):
        command.add_command(commands)
    for administration in (init, access, dlq, backup, migrate, doctor):
        administration.add_command(commands, _common_options, lambda options: _settings(options)[1])
    return parser


def _common_options(parser: argparse.ArgumentParser) -> None:
    _config_option(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration file (default: config.toml in the working directory where there is one)",
    )


def _settings(
    options: argparse.Namespace, *, check: Callable[[Settings], Iterable[str]] = lambda settings: ()
) -> tuple[Path | None, Settings]:
    path: Path | None = options.config
    if path is None and Path("config.toml").exists():
        path = Path("config.toml")
    return path, load(path, check=check)


def _serve(options: argparse.Namespace) -> int:
    path, settings = _settings(options, check=lifecycle.problems)
    serve(settings, config=path)
    return 0


def _check_config(options: argparse.Namespace) -> int:
    path, settings = _settings(options, check=lifecycle.problems)
    if options.json:
        print(shown(settings, indent=2))
    else:
        print(f"{path or 'no file, defaults only'}: ok")
    return 0


def _version(options: argparse.Namespace) -> int:
    print(orjson.dumps({"version": __version__}).decode() if options.json else VERSION)
    return 0
