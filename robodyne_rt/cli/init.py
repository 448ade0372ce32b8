"""`robodyne-rt init`: everything a new server needs: configuration, secret, database, first administrator."""

import argparse
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from robodyne_rt import secret, shipped_files
from robodyne_rt.cli import users
from robodyne_rt.cli.actions import Common
from robodyne_rt.model.access import normal_name
from robodyne_rt.settings import ConfigError, Settings, load

CONFIG = """\
# Made by `robodyne-rt init`. What is not written here has its default: `robodyne-rt check-config --json` prints all that is in
# force, {reference} explains each setting.

[server]
port = 8000
name = "robodyne"               # robodyne.local is then a name that browsers may use

[devices]
auth = "key"                    # `robodyne-rt device add NAME` prints a key
# trusted_networks = ["127.0.0.0/8", "::1/128", "192.168.10.0/24"]   # devices from here need none

[database]
url = "sqlite:///robodyne.db"

[auth]
mode = "local"                  # people log in here: `robodyne-rt user add NAME --role kitchen`
secret_file = "secret.key"      # whoever has it can be anybody: keep it, and a copy in a safe place
# anonymous_topics = ["robots", "tables", "orders", "status"]        # may be read without logging in ...
# anonymous_networks = ["192.168.0.0/16"]                            # ... from here
"""


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: Common, load: Callable[..., Any]
) -> None:
    """Add `init` to the command line."""
    parser = commands.add_parser(
        "init",
        help="make what a new server needs",
        description="Make config.toml, the secret, the database and the first administrator, where they are not there yet.",
    )
    parser.add_argument("--admin", default="admin", metavar="NAME", help="of the first administrator (default: %(default)s)")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    common(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    path: Path = options.config or Path("config.toml")
    reference = shipped_files.path_of("config.toml") or "the config.toml that comes with the program"
    done: dict[str, Any] = {"config": str(path), "config_made": not path.exists(), "reference": str(reference)}
    if not path.exists():
        try:
            path.write_text(CONFIG.replace("{reference}", str(reference)), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error}") from error
    settings: Settings = load(path)
    secret.load(settings.auth.secret_file)
    generated = not options.password_stdin and not sys.stdin.isatty()
    known = {normal_name(name) for name in users.user_names(settings, make=True)}
    done |= {"admin": options.admin, "admin_made": normal_name(options.admin) not in known}
    if done["admin_made"]:
        password = secrets.token_urlsafe(12) if generated else users.read_password(options, f"Password for {options.admin}: ")
        users.add_user(settings, options.admin, ["admin"], password, make=True)
        done |= {"password": password} if generated else {}
    if options.json:
        print(orjson.dumps(done, option=orjson.OPT_INDENT_2).decode())
        return 0
    print(f"{path}: {'made' if done['config_made'] else 'was there'}")
    print(f"{reference}: explains each setting")
    print(f"{settings.auth.secret_file}: keep a copy in a safe place; device keys and tokens depend on it")
    if done["admin_made"]:
        print(f"administrator {options.admin}: made")
    else:
        print(f"administrator {options.admin}: was there, with its password (`robodyne-rt user passwd {options.admin}`)")
    if "password" in done:
        print(f"password: {done['password']}")
    print("Start the server with: robodyne-rt serve")
    return 0
