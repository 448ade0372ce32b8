"""`robodyne-rt migrate`: bring the database to this program's schema, without a server."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import orjson

from robodyne_rt.cli import offline
from robodyne_rt.settings import Settings
from robodyne_rt.store.engine.database import open_database

Load = Callable[[argparse.Namespace], Settings]


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: Callable[..., Any], load: Load
) -> None:
    """Add `migrate` to the command line."""
    parser = commands.add_parser(
        "migrate",
        help="bring the database to this version's schema",
        description="Bring the database to the schema of this version; `serve` does the same at its start. A SQLite file is "
        "copied beside itself first. The server must be stopped: exit code 4 while another process owns the database.",
    )
    common(parser)
    parser.set_defaults(run=lambda options: _run(options, load(options)))


def _run(options: argparse.Namespace, settings: Settings) -> int:
    known = open_database(settings.database)
    with offline.opened(settings, any_schema=True) as db:
        before = known.stored_version(db)
        known.prepare(db, progress=lambda text: print(text, file=sys.stderr))
        result = {"database": known.name, "before": before, "after": known.stored_version(db)}
    if options.json:
        print(orjson.dumps(result).decode())
    elif before == result["after"]:
        print(f"{known.name}: has schema version {before} already")
    else:
        print(f"{known.name}: schema version {before or 'none'} -> {result['after']}")
    return 0
