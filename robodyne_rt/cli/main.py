"""The command `robodyne-rt`. Exit codes: 0 done, 1 failed while running, 2 wrong usage, configuration or schema version,
3 storage broken, 4 another process owns the data.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import orjson

from robodyne_rt import __version__
from robodyne_rt.cli import (
    backup,
    dead_letters,
    demo,
    devices,
    doctor,
    init,
    migrate,
    serve,
    sim,
    tail,
    tokens,
    users,
)
from robodyne_rt.cli.control import Refused
from robodyne_rt.protocol.errors import RobodyneError, StorageUnavailable
from robodyne_rt.settings import ConfigError
from robodyne_rt.store.errors import DataOwned, SchemaMismatch, StorageBroken

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

    serve.add_command(commands)
    version = commands.add_parser("version", help="print the version", description="Print the version.")
    version.add_argument("--json", action="store_true", help="print as JSON")
    version.set_defaults(run=_version)

    for command in (demo, sim, tail):
        command.add_command(commands)
    for command_of_the_data in (init, users, tokens, devices, dead_letters, backup, migrate, doctor):
        command_of_the_data.add_command(commands, _add_common_options, lambda options: serve.load_settings(options)[1])
    return parser


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    serve.add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _version(options: argparse.Namespace) -> int:
    print(orjson.dumps({"version": __version__}).decode() if options.json else VERSION)
    return 0
