"""`robodyne-rt user`: people who log in; through the running server, or in the database without one."""

import argparse
import getpass
import sys
import time
from collections.abc import Callable
from typing import Any

from robodyne_rt.cli import control
from robodyne_rt.cli.actions import ROLE, Common, Load, add_action, argument, ask, known_roles
from robodyne_rt.model.changes import Entity
from robodyne_rt.settings import ConfigError, Settings
from robodyne_rt.store.tables import users

_ROLE_NEEDED = argument(*ROLE[0], **ROLE[1], required=True)
_PASSWORD = argument("--password-stdin", action="store_true", help="read the password from standard input")


def add_command(commands: Any, common: Common, load: Load) -> None:
    """Add it to the command line."""
    parser = commands.add_parser(
        "user",
        help="look after users",
        description="People who log in. A change counts at once, also in connections that are open.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    name = argument("name")
    add_action(actions, "list", "list them", _list_users, common, load)
    add_action(actions, "add", "add one", _add_one_user, common, load, name, ROLE, _PASSWORD)
    add_action(
        actions, "passwd", "give one a new password, which ends all their logins", _passwd, common, load, name, _PASSWORD
    )
    add_action(actions, "roles", "give one other roles", _roles, common, load, name, _ROLE_NEEDED)
    add_action(actions, "disable", "let one in no more", _disable(True), common, load, name)
    add_action(actions, "enable", "let one in again", _disable(False), common, load, name)
    add_action(actions, "remove", "remove one, and all their tokens", _remove, common, load, name)


def _list_users(options: argparse.Namespace, settings: Settings) -> Any:
    return ask(settings, lambda path: control.do(path, "GET", "/api/users")["users"], users.list_users)


def user_names(settings: Settings, *, make: bool = False) -> list[str]:
    """Return who may log in."""
    found = ask(settings, lambda path: control.do(path, "GET", "/api/users")["users"], users.list_users, make=make)
    return [user["name"] for user in found]


def _add_one_user(options: argparse.Namespace, settings: Settings) -> Any:
    password = read_password(options, f"Password for {options.name}: ")
    roles = options.role or ["staff"]
    return add_user(settings, options.name, roles, password)


def add_user(settings: Settings, name: str, roles: list[str], password: str, *, make: bool = False) -> Entity:
    """Add a user, through the server where one runs.

    Args:
        make: whether the database may be a new one.
    Raises:
        InvalidPayload, Conflict, Refused: it cannot be added.
    """
    from robodyne_rt.web import passwords

    passwords.check(password)
    body = {"name": name, "roles": roles, "password": password}
    added: Entity = ask(
        settings,
        lambda path: control.do(path, "POST", "/api/users", body),
        lambda db: users.add_user(
            db,
            name=name,
            roles=roles,
            password_hash=passwords.hashed(password),
            known_roles=known_roles(settings),
            now=time.time(),
        ),
        make=make,
    )
    return added


def _passwd(options: argparse.Namespace, settings: Settings) -> Any:
    from robodyne_rt.web import passwords

    password = passwords.check(read_password(options, f"New password for {options.name}: "))
    return _change(settings, options.name, {"password": password}, lambda: {"password_hash": passwords.hashed(password)})


def _roles(options: argparse.Namespace, settings: Settings) -> Any:
    changes = {"roles": options.role}
    return _change(settings, options.name, changes, lambda: changes)


def _disable(disabled: bool) -> Callable[[argparse.Namespace, Settings], Any]:
    return lambda options, settings: _change(settings, options.name, {"disabled": disabled}, lambda: {"disabled": disabled})


def _change(settings: Settings, name: str, body: Entity, columns: Callable[[], Entity]) -> Any:
    return ask(
        settings,
        lambda path: control.do(path, "PATCH", f"/api/users/{control.quoted(name)}", body),
        lambda db: users.change_user(db, name, now=time.time(), known_roles=known_roles(settings), **columns()),
    )


def _remove(options: argparse.Namespace, settings: Settings) -> Any:
    return ask(
        settings,
        lambda path: control.do(path, "DELETE", f"/api/users/{control.quoted(options.name)}"),
        lambda db: users.remove_user(db, options.name, now=time.time()),
    )


def read_password(options: argparse.Namespace, prompt: str) -> str:
    """Return a password: typed twice at a terminal, or one line of standard input."""
    if options.password_stdin or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    try:
        while True:
            password = getpass.getpass(prompt)
            if getpass.getpass("Once more: ") == password:
                return password
            print("They differ.", file=sys.stderr)
    except EOFError:
        raise ConfigError("no password was given") from None
