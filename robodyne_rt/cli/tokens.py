"""`robodyne-rt token`: what programs and screens come in with; through the running server, or in the database without one."""

import argparse
import time
from typing import Any

from robodyne_rt import secret
from robodyne_rt.cli import control
from robodyne_rt.cli.actions import ROLE, Common, Load, add_action, argument, ask, known_roles
from robodyne_rt.cli.control import NoServer, Refused
from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.model.changes import Entity
from robodyne_rt.settings import Settings, control_socket
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.tables import tokens
from robodyne_rt.store.tables.given_ids import newest_id

COMMAND_NODE = 29
"""Node number of the ids that commands give without a server."""


def add_command(commands: Any, common: Common, load: Load) -> None:
    """Add it to the command line."""
    parser = commands.add_parser(
        "token",
        help="give programs and screens tokens",
        description="Tokens for programs (a till, a printer) and for screens on the wall. A token is shown once.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_action(actions, "list", "list those that were given out", _list_tokens, common, load)
    add_action(
        actions,
        "create",
        "give out a token and print it",
        _create_token,
        common,
        load,
        argument("--user", required=True, help="for whom; where it is no user, name a role"),
        ROLE,
        argument("--label", help="what it is for"),
        argument("--days", type=_days, default=90.0, help="how long it is good (default: %(default)g, at most 400)"),
    )
    add_action(actions, "revoke", "take one back; its connections end", _revoke_token, common, load, argument("id", type=int))
    add_action(
        actions,
        "approve",
        "let the screen that shows a code be a display",
        _approve,
        common,
        load,
        argument("code", help="the six digits on the screen"),
        argument("--label", default="display", help="what it is called, e.g. 'kitchen wall' (default: %(default)s)"),
        ROLE,
    )


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 400:
        raise argparse.ArgumentTypeError("expected a number above 0, at most 400")
    return days


def _list_tokens(options: argparse.Namespace, settings: Settings) -> Any:
    return ask(settings, lambda path: control.do(path, "GET", "/api/tokens")["tokens"], tokens.list_tokens)


def _create_token(options: argparse.Namespace, settings: Settings) -> Any:
    body = {"user": options.user, "roles": options.role, "label": options.label, "days": options.days}

    def in_database(db: DbConnection) -> Entity:
        from robodyne_rt.web.accounts import give_out
        from robodyne_rt.web.jwt_tokens import LOCAL_NAME, sign

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
            known_roles=known_roles(settings),
            now=now,
        )

    return ask(
        settings,
        lambda path: control.do(path, "POST", "/api/tokens", {name: value for name, value in body.items() if value}),
        in_database,
    )


def _revoke_token(options: argparse.Namespace, settings: Settings) -> Any:
    return ask(
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
