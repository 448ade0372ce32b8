"""`robodyne-rt demo`: the server on SQLite or Postgres with a simulated restaurant, in one command."""

import argparse
import contextlib
import logging
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from robodyne_rt.app.lifecycle import Ports
from robodyne_rt.app.process import serve
from robodyne_rt.model.topics import TOPIC_NAMES
from robodyne_rt.settings import (
    Auth,
    ConfigError,
    Database,
    Devices,
    Hub,
    Log,
    SerialPort,
    Server,
    Settings,
    owned_files,
)
from robodyne_rt.sim.cluster import Cluster, NoPostgres
from robodyne_rt.store.engine.database import Database as StoreDatabase
from robodyne_rt.store.engine.database import open_database
from robodyne_rt.store.engine.ownership import Ownership
from robodyne_rt.store.tables import users

logger = logging.getLogger(__name__)

PRIVATE_NETWORKS = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
]


USER = "demo"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `demo` to the command line."""
    parser = commands.add_parser(
        "demo",
        help="run the server with a simulated restaurant",
        description="Run the server on a fresh database with a simulated restaurant, and print the links. Ctrl-C ends both.",
    )
    parser.add_argument("--port", type=int, default=8000, help="for browsers (default: %(default)s)")
    parser.add_argument("--devices-port", type=int, default=8001, help="for devices (default: %(default)s)")
    parser.add_argument(
        "--lan", action="store_true", help="let everybody on the LAN read all topics (default: this machine only)"
    )
    parser.add_argument(
        "--postgres",
        nargs="?",
        const="",
        metavar="URL",
        help="store in Postgres instead of SQLite: in the database that URL names, or in a server started for the demo",
    )
    parser.add_argument("--speed", type=float, default=1.0, help="how much faster than life (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same evening (default: %(default)s)")
    parser.add_argument("--robots", type=int, default=6, help="serving robots (default: %(default)s)")
    parser.add_argument("--tables", type=int, default=20, help="tables (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep the database here (default: a temporary folder, removed at the end)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        if options.folder is not None:
            folder = options.folder.absolute()
            folder.mkdir(parents=True, exist_ok=True)
            remains = stack.enter_context(_Remains())
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="robodyne-demo-")))
            remains = stack.enter_context(_Remains(folder))
        url = _database_url(options, folder, stack, remains)
        settings = _settings(options, folder, url)
        simulation = _Simulation(options, folder, url, remains, password=_open_to_one(settings) if options.lan else "")
        stack.callback(simulation.stop)
        # Nothing comes before the links; a terminal that is closed closes the restaurant.
        serve(settings, config=None, can_reload=False, level_until_ready="WARNING", on_ready=simulation.start)
    return 0


class _Remains:
    """Ends what this process started, also when it is killed: a shell waits for the end of a pipe that this process alone
    holds open, whatever ends it. A simulator left behind would join the next demo.

    Args:
        folder: deleted then; None: nothing is.
    """

    _SCRIPT = """
        while read -r pid; do pids="$pids $pid"; done
        for pid in $pids; do kill -INT $pid; done 2>/dev/null
        for pid in $pids; do while kill -0 $pid; do sleep 0.1; done; done 2>/dev/null
        [ -z "$1" ] || rm -rf -- "$1"
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def __enter__(self) -> "_Remains":
        command = ["/bin/sh", "-c", self._SCRIPT, "sh", str(self._folder or "")]
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/", start_new_session=True)
        return self

    def add(self, pid: int) -> None:
        """End that process, too."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(b"%d\n" % pid)
        self._shell.stdin.flush()

    def __exit__(self, *exception: object) -> None:
        self._shell.kill()  # all is ended in order, and the numbers may be others' by now
        self._shell.communicate()


def _database_url(options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack, remains: _Remains) -> str:
    if options.postgres is None:
        return f"sqlite:///{folder / 'robodyne.db'}"
    if options.postgres:
        return str(options.postgres)
    print("Starting a Postgres server for the demo ...", file=sys.stderr)
    folder.chmod(0o755)  # root starts it as another user
    try:
        cluster = stack.enter_context(Cluster(folder / "postgres"))
        remains.add(cluster.pid)
        return cluster.url
    except NoPostgres as error:
        raise ConfigError(str(error)) from error


def _open_to_one(settings: Settings) -> str:
    """Make the user `demo`, who may do everything; return the password."""
    password = secrets.token_urlsafe(6)
    database = open_database(settings.database)
    with Ownership(owned_files(settings)).take("robodyne-rt demo"):
        _add_user(database, password)
    return password


def _add_user(database: StoreDatabase, password: str) -> None:
    from robodyne_rt.web import passwords

    db = database.open_writer()
    try:
        database.prepare(db)
        db.begin()
        now, password_hash = time.time(), passwords.hashed(password)
        if any(user["name"] == USER for user in users.list_users(db)):  # a folder of an earlier demo
            users.change_user(db, USER, now=now, password_hash=password_hash)
        else:
            users.add_user(db, name=USER, roles=["admin"], password_hash=password_hash, now=now)
        db.assign_offsets()
        db.commit()
    finally:
        db.close()


def _settings(options: argparse.Namespace, folder: Path, url: str) -> Settings:
    host = "0.0.0.0" if options.lan else "127.0.0.1"
    secret = str(folder / "secret.key")
    return Settings(
        server=Server(host=host, port=options.port, name="demo"),
        devices=Devices(host="127.0.0.1", port=options.devices_port, auth="none"),
        serial=[SerialPort(port=str(folder / "serial" / name)) for name in ("robot", "buttons")],
        database=Database(url=url, spool_path=str(folder / "spool.db")),
        hub=Hub(),
        auth=Auth(mode="local", secret_file=secret, anonymous_topics=list(TOPIC_NAMES), anonymous_networks=_lan())
        if options.lan
        else Auth(mode="off", secret_file=secret),
        log=Log(level="INFO"),
    )


class _Simulation:
    """The simulator as a process of its own, so that it is as foreign to the server as real devices are."""

    def __init__(self, options: argparse.Namespace, folder: Path, url: str, remains: _Remains, *, password: str) -> None:
        self._options = options
        self._remains = remains
        self._password = password
        self._folder = folder
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, ports: Ports) -> None:
        """Start it, and tell where to look."""
        options = self._options
        command = [sys.executable, "-m", "robodyne_rt", "sim", "--port", str(ports.devices), "--speed", str(options.speed)]
        command += ["--seed", str(options.seed), "--robots", str(options.robots), "--tables", str(options.tables)]
        command += ["--serial-dir", str(self._folder / "serial"), "--furnish", self._url]
        self._process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C is for this process, which ends it
        self._remains.add(self._process.pid)
        hosts = ["localhost", *(_own_addresses() if options.lan else [])]
        lines = [
            "",
            "The restaurant is open. Look at it in a browser:",
            *(f"    http://{host}:{ports.http}/" for host in hosts),
        ]
        if self._password:
            lines.append("Everybody on the LAN may look. To ask questions and to let screens in, log in:")
            lines.append(f"    {USER}, password {self._password}")
        own = sys.argv[0] if Path(sys.argv[0]).name == "robodyne-rt" else f"{sys.executable} -m robodyne_rt"
        robot = '{"msg_type":"Albabot","robot_id":"me","status":"SERVING","battery_level":81,"id":"1"}'
        update = "update robot set battery_level = 7 where robot_id = 'alba-1'"
        lines += [
            "Follow a topic in a terminal:",
            f"    {own} tail robots --url http://localhost:{ports.http}",
            "Be a robot yourself:",
            f"    echo '{robot}' | nc -q1 127.0.0.1 {ports.devices}",
            "Change the database behind the server's back:",
            f'    {_shell(self._url)} "{update}"',
            "Ctrl-C ends it.",
            "",
        ]
        print("\n".join(lines), flush=True)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()


def _shell(url: str) -> str:
    """Return the command line that runs a statement on a database."""
    if url.startswith("sqlite:"):
        return f"sqlite3 {url.removeprefix('sqlite:///')}"
    return f"psql {url.replace('+psycopg', '')} -c"


def _lan() -> list[str]:
    """Return the networks that may look: the private ones, and this machine's own where it is none of them."""
    return [*PRIVATE_NETWORKS, *(f"{address}/24" for address in _own_addresses())]


def _own_addresses() -> Iterator[str]:
    """Return this machine's address on the LAN: where a packet to elsewhere would leave (none is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("192.0.2.1", 9))
        yield sock.getsockname()[0]
