"""`robodyne-rt serve` and `check-config`: run the server, and look at its configuration without running it."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robodyne_rt.app import lifecycle
from robodyne_rt.app.process import serve
from robodyne_rt.settings import Settings, load, shown


def add_command(commands: Any) -> None:
    """Add `serve` and `check-config` to the command line."""
    parser = commands.add_parser("serve", help="run the server", description="Run the server until SIGTERM or Ctrl-C.")
    add_config_option(parser)
    parser.set_defaults(run=_serve)
    parser = commands.add_parser(
        "check-config", help="check the configuration", description="Check config.toml and the environment; say what is wrong."
    )
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print the effective settings as JSON")
    parser.set_defaults(run=_check_config)


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add `--config`."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration file (default: config.toml in the working directory where there is one)",
    )


def load_settings(
    options: argparse.Namespace, *, check: Callable[[Settings], Any] = lambda settings: ()
) -> tuple[Path | None, Settings]:
    """Return the file that `--config` means, None where there is none, and what stands in it and the environment.

    Raises:
        ConfigError: something is wrong with them.
    """
    path: Path | None = options.config
    if path is None and Path("config.toml").exists():
        path = Path("config.toml")
    return path, load(path, check=check)


def _serve(options: argparse.Namespace) -> int:
    path, settings = load_settings(options, check=lifecycle.problems)
    serve(settings, config=path)
    return 0


def _check_config(options: argparse.Namespace) -> int:
    path, settings = load_settings(options, check=lifecycle.problems)
    if options.json:
        print(shown(settings, indent=2))
    else:
        print(f"{path or 'no file, defaults only'}: ok")
    return 0
