"""What `user`, `token` and `device` share: options of an action, the server or the database asked, the result shown."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import orjson

from robodyne_rt.cli import offline
from robodyne_rt.cli.control import NoServer
from robodyne_rt.model.changes import Entity
from robodyne_rt.protocol.errors import RobodyneError
from robodyne_rt.settings import Settings, control_socket
from robodyne_rt.store.engine.database import DbConnection

Load = Callable[[argparse.Namespace], Settings]
Common = Callable[[argparse.ArgumentParser], None]


def add_action(  # noqa: PLR0917
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    run: Callable[[argparse.Namespace, Settings], Any],
    common: Common,
    load: Load,
    *arguments: tuple[tuple[str, ...], dict[str, Any]],
) -> None:
    """Add one action of a command; what `run` returns is printed, as JSON or for people."""
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    for names, options in arguments:
        parser.add_argument(*names, **options)
    common(parser)

    def run_it(options: argparse.Namespace) -> int:
        settings = load(options)
        if unknown := sorted({*(getattr(options, "role", None) or ())} - {*known_roles(settings)}):
            parser.error(f"argument --role: no role {unknown[0]!r}; known: {', '.join(known_roles(settings))}")
        result = run(options, settings)
        if options.json:
            print(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
        else:
            _show(result)
        return 0

    parser.set_defaults(run=run_it)


def argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return an argument for `add_action`, as `add_argument` takes it."""
    return names, options


def known_roles(settings: Settings) -> list[str]:
    """Return the roles that `[rights]` names."""
    return list(settings.rights.model_dump())


ROLE = argument("--role", action="append", metavar="ROLE", help="one of [rights]; may be given several times")


def ask(
    settings: Settings, of_server: Callable[..., Any], of_database: Callable[[DbConnection], Any], *, make: bool = False
) -> Any:
    """Ask the server that runs here; without one, change the database itself, in one transaction."""
    try:
        return of_server(control_socket(settings))
    except NoServer:
        with offline.opened(settings, make=make) as db:
            db.begin()
            try:
                result = of_database(db)
            except RobodyneError:
                db.rollback()
                raise
            db.assign_offsets()
            db.commit()
            return result


def _show(result: Any) -> None:
    """Print a result for people: what is shown once stands alone on its line, so that it can be copied."""
    if isinstance(result, list):
        _show_table(result)
        return
    shown_once = result.get("token") or result.get("key")
    if shown_once:
        print(shown_once)
        rest = {name: value for name, value in result.items() if name not in ("token", "key")}
        print("  ".join(f"{name}: {_cell(value)}" for name, value in rest.items()), file=sys.stderr)
    else:
        print("  ".join(f"{name}: {_cell(value)}" for name, value in result.items()))


def _show_table(rows: list[Entity]) -> None:
    if not rows:
        print("none")
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[name.replace("_", " ") for name in names], *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
