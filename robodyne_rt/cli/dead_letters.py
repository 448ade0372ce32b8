"""`robodyne-rt dlq`: dead letters seen, tried again, dropped; through the running server, or in the database without one."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import orjson

from robodyne_rt.cli import control, offline
from robodyne_rt.cli.control import NoServer
from robodyne_rt.model.changes import Entity
from robodyne_rt.settings import Settings, control_socket
from robodyne_rt.store.engine.database import DbConnection, read_meta
from robodyne_rt.store.intake import requeue
from robodyne_rt.store.tables import dead_letters
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

Load = Callable[[argparse.Namespace], Settings]


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: Callable[..., Any], load: Load
) -> None:
    """Add `dlq` to the command line."""
    parser = commands.add_parser(
        "dlq",
        help="look after dead letters",
        description="Writes that failed by their own fault, three times, are kept as dead letters. See them, try them again "
        "once the cause is gone, or drop them; dropping lets the device send the message again.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list them, newest first")
    show = actions.add_parser("show", help="show one with its payload")
    show.add_argument("id", type=int)
    for name, text in (("requeue", "store them now"), ("drop", "forget them")):
        action = actions.add_parser(name, help=text)
        chosen = action.add_mutually_exclusive_group(required=True)
        chosen.add_argument("ids", nargs="*", type=int, default=[], metavar="ID")
        chosen.add_argument("--all", action="store_true", help="all of them")
        action.set_defaults(action=name)
        common(action)
        action.set_defaults(run=lambda options: _act(options, load(options)))
    common(listing)
    listing.set_defaults(run=lambda options: _list(options, load(options)))
    common(show)
    show.set_defaults(run=lambda options: _show(options, load(options)))


def _list(options: argparse.Namespace, settings: Settings) -> int:
    letters: list[Entity] = _ask(
        settings,
        lambda path: control.do(path, "GET", "/api/dead-letters")["dead_letters"],
        dead_letters.listed,
    )
    if options.json:
        print(orjson.dumps(letters, option=orjson.OPT_INDENT_2).decode())
        return 0
    for letter in letters:
        sender = f"{letter['device'] or '-'} {letter['message_id'] or ''}".strip()
        tries = f"{letter['attempts']} {'try' if letter['attempts'] == 1 else 'tries'}"
        print(f"{letter['id']}  {letter['last_at'][:19]}Z  {tries}  {letter['kind']}  {sender}: {letter['error']}")
    if not letters:
        print("no dead letters")
    return 0


def _show(options: argparse.Namespace, settings: Settings) -> int:
    letter = _ask(
        settings,
        lambda path: control.do(path, "GET", f"/api/dead-letters/{options.id}"),
        lambda db: dead_letters.shown(db, options.id),
    )
    print(orjson.dumps(letter, option=orjson.OPT_INDENT_2).decode())
    return 0


def _act(options: argparse.Namespace, settings: Settings) -> int:
    wanted = None if options.all else options.ids

    def in_database(db: DbConnection) -> list[Entity]:
        db.begin()
        tables = DeviceMessageWriter(db)
        tables.age_s = int(float(read_meta(db, "age_s") or 0))
        results = requeue.act(tables, options.action, wanted, time.time())
        db.assign_offsets()
        db.commit()
        return results

    results: list[Entity] = _ask(
        settings,
        lambda path: control.do(
            path, "POST", "/api/dead-letters", {"action": options.action, "ids": "all" if wanted is None else wanted}
        )["results"],
        in_database,
    )
    if options.json:
        print(orjson.dumps(results, option=orjson.OPT_INDENT_2).decode())
    else:
        for result in results:
            failed = result.get("error")
            print(f"{result['id']}: {f'still fails: {failed}' if failed else 'dropped' if 'dropped' in result else 'stored'}")
        if not results:
            print("no dead letters")
    return 1 if any(result.get("error") for result in results) else 0


def _ask(settings: Settings, of_server: Callable[..., Any], of_database: Callable[[DbConnection], Any]) -> Any:
    """Ask the server that runs here; without one, the database itself."""
    try:
        return of_server(control_socket(settings))
    except NoServer:
        with offline.opened(settings) as db:
            return of_database(db)
