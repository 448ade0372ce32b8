"""`robodyne-rt init`: everything a new server needs: configuration, secret, database, first administrator."""

import argparse
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from robodyne_rt import secret
from robodyne_rt.admin import access
from robodyne_rt.admin.access import Common
from robodyne_rt.admin.control import Refused
from robodyne_rt.errors import Conflict
from robodyne_rt.settings import ConfigError, Settings, load

CONFIG = """\
# Made by `robodyne-rt init`. What is not written here has its default: `robodyne-rt check-config --json` prints all that is in
# force, the config.toml that comes with the program explains each setting.

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
    done: dict[str, Any] = {"config": str(path), "config_made": not path.exists()}
    if not path.exists():
        try:
            path.write_text(CONFIG, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error}") from error
    settings: Settings = load(path)
    secret.load(settings.auth.secret_file)
    generated = not options.password_stdin and not sys.stdin.isatty()
    password = secrets.token_urlsafe(12) if generated else access.read_password(options, f"Password for {options.admin}: ")
    try:
        access.add_user(settings, options.admin, ["admin"], password)
        done |= {"admin": options.admin, "admin_made": True} | ({"password": password} if generated else {})
    except Conflict:
        done |= {"admin": options.admin, "admin_made": False}
    except Refused as error:
        if "already" not in str(error):
            raise
        done |= {"admin": options.admin, "admin_made": False}
    if options.json:
        print(orjson.dumps(done, option=orjson.OPT_INDENT_2).decode())
        return 0
    print(f"{path}: {'made' if done['config_made'] else 'was there'}")
    print(f"{settings.auth.secret_file}: keep a copy in a safe place; device keys and tokens depend on it")
    print(f"administrator {options.admin}: {'made' if done['admin_made'] else 'was there'}")
    if "password" in done:
        print(f"password: {password}")
    print("Start the server with: robodyne-rt serve")
    return 0
