"""`robodyne-rt user`, `token`, `device`: who may come in; through the running server, or in the database without one."""

import argparse
import getpass
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson

from robodyne_rt import secret
from robodyne_rt.admin import control, database
from robodyne_rt.admin.control import NoServer, Refused
from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.errors import RobodyneError
from robodyne_rt.model.changes import Entity
from robodyne_rt.settings import ConfigError, Settings, control_socket
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.tables import devices, tokens, users
from robodyne_rt.store.tables.given_ids import newest_id

Load = Callable[[argparse.Namespace], Settings]
Common = Callable[[argparse.ArgumentParser], None]

COMMAND_NODE = 29
"""Node number of the ids that commands give without a server."""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: Common, load: Load) -> None:
    """Add `user`, `token` and `device` to the command line."""
    _add_user(commands, common, load)
    _add_token(commands, common, load)
    _add_device(commands, common, load)


# -- the command line ------------------------------------------------------------------------------------------------


def _action(  # noqa: PLR0917
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    run: Callable[[argparse.Namespace, Settings], Any],
    common: Common,
    load: Load,
    *arguments: tuple[tuple[str, ...], dict[str, Any]],
) -> None:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    for names, options in arguments:
        parser.add_argument(*names, **options)
    common(parser)

    def run_it(options: argparse.Namespace) -> int:
        settings = load(options)
        if unknown := sorted({*(getattr(options, "role", None) or ())} - {*_known_roles(settings)}):
            parser.error(f"argument --role: no role {unknown[0]!r}; known: {', '.join(_known_roles(settings))}")
        result = run(options, settings)
        if options.json:
            print(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
        else:
            _tell(result)
        return 0

    parser.set_defaults(run=run_it)


def _argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


def _known_roles(settings: Settings) -> list[str]:
    return list(settings.rights.model_dump())


_ROLE = _argument("--role", action="append", metavar="ROLE", help="one of [rights]; may be given several times")
_ROLE_NEEDED = _argument(*_ROLE[0], **_ROLE[1], required=True)
_PASSWORD = _argument("--password-stdin", action="store_true", help="read the password from standard input")


def _add_user(commands: Any, common: Common, load: Load) -> None:
    parser = commands.add_parser(
        "user",
        help="look after users",
        description="People who log in. A change counts at once, also in connections that are open.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    name = _argument("name")
    _action(actions, "list", "list them", _list_users, common, load)
    _action(actions, "add", "add one", _add_one_user, common, load, name, _ROLE, _PASSWORD)
    _action(actions, "passwd", "give one a new password, which ends all their logins", _passwd, common, load, name, _PASSWORD)
    _action(actions, "roles", "give one other roles", _roles, common, load, name, _ROLE_NEEDED)
    _action(actions, "disable", "let one in no more", _disable(True), common, load, name)
    _action(actions, "enable", "let one in again", _disable(False), common, load, name)
    _action(actions, "remove", "remove one, and all their tokens", _remove, common, load, name)


def _add_token(commands: Any, common: Common, load: Load) -> None:
    parser = commands.add_parser(
        "token",
        help="give programs and screens tokens",
        description="Tokens for programs (a till, a printer) and for screens on the wall. A token is shown once.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _action(actions, "list", "list those that were given out", _list_tokens, common, load)
    _action(
        actions,
        "create",
        "give out a token and print it",
        _create_token,
        common,
        load,
        _argument("--user", required=True, help="for whom; where it is no user, name a role"),
        _ROLE,
        _argument("--label", help="what it is for"),
        _argument("--days", type=_days, default=90.0, help="how long it is good (default: %(default)g, at most 400)"),
    )
    _action(actions, "revoke", "take one back; its connections end", _revoke_token, common, load, _argument("id", type=int))
    _action(
        actions,
        "approve",
        "let the screen that shows a code be a display",
        _approve,
        common,
        load,
        _argument("code", help="the six digits on the screen"),
        _argument("--label", default="display", help="what it is called, e.g. 'kitchen wall' (default: %(default)s)"),
        _ROLE,
    )


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 400:
        raise argparse.ArgumentTypeError("expected a number above 0, at most 400")
    return days


def _add_device(commands: Any, common: Common, load: Load) -> None:
    parser = commands.add_parser(
        "device",
        help="give robots, kiosks and buttons their keys",
        description="Devices that prove a key before they may speak. A key is shown once; docs/protocol-devices.md says how it "
        "is used.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    device = _argument("device_id")
    _action(actions, "list", "list them", _list_devices, common, load)
    _action(
        actions,
        "add",
        "add one and print its key",
        _add_one_device,
        common,
        load,
        device,
        _argument("--robot", action="append", metavar="ID", help="a robot it speaks for (default: its own name); '*' for all"),
    )
    _action(
        actions,
        "rotate",
        "print a second key for one; the first is good until --finish",
        _rotate,
        common,
        load,
        device,
        _argument("--finish", action="store_true", help="let the older key be good no more"),
        _argument("--again", action="store_true", help="replace a second key that was lost; the first stays good"),
    )
    _action(actions, "revoke", "let one speak no more; its wire is cut", _revoke_device, common, load, device)


# -- what they do ----------------------------------------------------------------------------------------------------


def _list_users(options: argparse.Namespace, settings: Settings) -> Any:
    return _ask(settings, lambda path: control.do(path, "GET", "/api/users")["users"], users.list_users)


def user_names(settings: Settings, *, make: bool = False) -> list[str]:
    """Return who may log in."""
    found = _ask(settings, lambda path: control.do(path, "GET", "/api/users")["users"], users.list_users, make=make)
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
    added: Entity = _ask(
        settings,
        lambda path: control.do(path, "POST", "/api/users", body),
        lambda db: users.add_user(
            db,
            name=name,
            roles=roles,
            password_hash=passwords.hashed(password),
            known_roles=_known_roles(settings),
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
    return _ask(
        settings,
        lambda path: control.do(path, "PATCH", f"/api/users/{control.quoted(name)}", body),
        lambda db: users.change_user(db, name, now=time.time(), known_roles=_known_roles(settings), **columns()),
    )


def _remove(options: argparse.Namespace, settings: Settings) -> Any:
    return _ask(
        settings,
        lambda path: control.do(path, "DELETE", f"/api/users/{control.quoted(options.name)}"),
        lambda db: users.remove_user(db, options.name, now=time.time()),
    )


def _list_tokens(options: argparse.Namespace, settings: Settings) -> Any:
    return _ask(settings, lambda path: control.do(path, "GET", "/api/tokens")["tokens"], tokens.list_tokens)


def _create_token(options: argparse.Namespace, settings: Settings) -> Any:
    body = {"user": options.user, "roles": options.role, "label": options.label, "days": options.days}

    def in_database(db: DbConnection) -> Entity:
        from robodyne_rt.web.accounts import give_out
        from robodyne_rt.web.tokens import LOCAL_NAME, sign

        auth = settings.auth
        key, now = secret.load(auth.secret_file), time.time()

        def issue(**claims: Any) -> str:
            issuer = LOCAL_NAME if auth.mode == "oidc" else auth.issuer or LOCAL_NAME
            return sign(key, issuer=issuer, audience=auth.audience or LOCAL_NAME, now=now, **claims)

        return give_out(
            db,
            issue,
            id=IdGenerator(node=COMMAND_NODE, wall=now, now=0.0, above=newest_id(db)).next(0.0),
            kind="API",
            user=options.user,
            roles=options.role,
            label=options.label,
            lifetime_s=options.days * 86400,
            known_roles=_known_roles(settings),
            now=now,
        )

    return _ask(
        settings,
        lambda path: control.do(path, "POST", "/api/tokens", {name: value for name, value in body.items() if value}),
        in_database,
    )


def _revoke_token(options: argparse.Namespace, settings: Settings) -> Any:
    return _ask(
        settings,
        lambda path: control.do(path, "DELETE", f"/api/tokens/{options.id}"),
        lambda db: tokens.revoke_token(db, options.id, now=time.time()),
    )


def _approve(options: argparse.Namespace, settings: Settings) -> Any:
    code = "".join(options.code.split())  # screens show it in two groups
    body = {"code": code, "label": options.label, "roles": options.role or ["display"]}
    try:
        return control.do(control_socket(settings), "POST", "/api/pairings/approve", body)
    except NoServer as error:
        raise Refused(f"{error}; the code is known to the server that shows it: run this in its folder") from error


def _list_devices(options: argparse.Namespace, settings: Settings) -> Any:
    return _ask(settings, lambda path: control.do(path, "GET", "/api/devices")["devices"], devices.list_devices)


def _add_one_device(options: argparse.Namespace, settings: Settings) -> Any:
    def in_database(db: DbConnection) -> Entity:
        key_id = devices.add_device(db, options.device_id, robots=options.robot, now=time.time())
        return _with_key(settings, options.device_id, key_id)

    return _ask(
        settings,
        lambda path: control.do(path, "POST", "/api/devices", {"device_id": options.device_id, "robots": options.robot}),
        in_database,
    )


def _rotate(options: argparse.Namespace, settings: Settings) -> Any:
    if options.finish and options.again:
        raise ConfigError("--finish lets the older key go, --again replaces the newer one: choose one of them")

    def in_database(db: DbConnection) -> Entity:
        if options.finish:
            return devices.finish_rotation(db, options.device_id)
        return _with_key(settings, options.device_id, devices.rotate_device(db, options.device_id, again=options.again))

    body = {"finish": options.finish, "again": options.again}
    target = f"/api/devices/{control.quoted(options.device_id)}/rotate"
    return _ask(settings, lambda path: control.do(path, "POST", target, body), in_database)


def _revoke_device(options: argparse.Namespace, settings: Settings) -> Any:
    return _ask(
        settings,
        lambda path: control.do(path, "DELETE", f"/api/devices/{control.quoted(options.device_id)}"),
        lambda db: devices.revoke_device(db, options.device_id),
    )


def _with_key(settings: Settings, device_id: str, key_id: str) -> Entity:
    return {"device_id": device_id, "key": secret.load(settings.auth.secret_file).device_key(device_id, key_id).hex()}


# -- helpers ---------------------------------------------------------------------------------------------------------


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


def _ask(
    settings: Settings, of_server: Callable[..., Any], of_database: Callable[[DbConnection], Any], *, make: bool = False
) -> Any:
    """Ask the server that runs here; without one, change the database itself, in one transaction."""
    try:
        return of_server(control_socket(settings))
    except NoServer:
        with database.opened(settings, make=make) as db:
            db.begin()
            try:
                result = of_database(db)
            except RobodyneError:
                db.rollback()
                raise
            db.assign_offsets()
            db.commit()
            return result


def _tell(result: Any) -> None:
    """Print a result for people: what is shown once stands alone on its line, so that it can be copied."""
    if isinstance(result, list):
        _tell_table(result)
        return
    shown_once = result.get("token") or result.get("key")
    if shown_once:
        print(shown_once)
        rest = {name: value for name, value in result.items() if name not in ("token", "key")}
        print("  ".join(f"{name}: {_cell(value)}" for name, value in rest.items()), file=sys.stderr)
    else:
        print("  ".join(f"{name}: {_cell(value)}" for name, value in result.items()))


def _tell_table(rows: list[Entity]) -> None:
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
