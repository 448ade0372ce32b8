"""The server under test and its store: what a fault can start, stop, kill and look into.

`Store` is the database behind the server; a fault asks nothing else of it, so that the same faults run on another one.
`Victim` is the server's process, also in the sabotaged form of a negative control (`sabotage.py`).
"""

import contextlib
import functools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests import processes
from tests.e2e.server import OPEN, Server
from tests.faults.load import DISH, ROOT
from tests.ports import free_port


class Store(Protocol):
    """The database of one server under test."""

    name: str
    """As the table of results calls it."""

    wrapper: Sequence[str]
    """Command that the server's command is given to, so that it finds its files; mostly empty."""

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings for the server's environment, as `SECTION__KEY`."""
        ...

    def start(self) -> None:
        """Have the schema and `MENU` ready, and a database process where there is one."""
        ...

    def stop(self) -> None:
        """End what `start` started."""
        ...

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query in plain SQL."""
        ...

    def damage(self) -> str:
        """Return what the database's own check finds broken; empty: nothing."""
        ...


MENU = f"INSERT INTO menu_item(name) VALUES ('{DISH}')"
"""Orders must find their dish."""


class Sqlite:
    """A file `robodyne.db` in `folder`. `start` copies it from one that a server made once; there is nothing to stop."""

    name = "sqlite"
    wrapper: Sequence[str] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "robodyne.db"
        self.settings: Mapping[str, str] = {}

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(_database_with_menu())

    def stop(self) -> None:
        return None

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path, timeout=20)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def damage(self) -> str:
        found = self.rows("PRAGMA integrity_check")
        return "" if found == [("ok",)] else f"integrity_check: {found[:3]}"


class StoreFactory(Protocol):
    """Makes the store of one trial in its folder: the class of a store."""

    name: str

    def __call__(self, folder: Path) -> Store: ...


@functools.cache
def _database_with_menu() -> bytes:
    """Return a database as an untouched server makes it, with `MENU`."""
    with tempfile.TemporaryDirectory(prefix="robodyne-faults-") as name:
        folder = Path(name)
        with Server(folder) as server:
            server.sql(MENU)
            server.stop()
        return (folder / "robodyne.db").read_bytes()


class Died(Exception):
    """The server ended before it was ready."""


class Victim(Server):
    """The server under test, on the same ports at every start.

    Args:
        folder: its working directory.
        log: its log's file.
        settings: as `SECTION__KEY`.
        environment: further variables, such as the shim's.
        sabotage: name of what is broken on purpose; empty: nothing.
        wrapper: command that the server's command is given to, such as `nsenter`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        log: Path,
        settings: Mapping[str, str],
        environment: Mapping[str, str],
        sabotage: str = "",
        wrapper: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, **settings)
        self.log_path = log
        self.port, self.devices_port = free_port(), free_port()
        python_path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
        ports = {"ROBODYNE_RT__SERVER__PORT": str(self.port), "ROBODYNE_RT__DEVICES__PORT": str(self.devices_port)}
        # Made before, and elsewhere: the faults are the store's.
        secret = log.with_name("secret.key")
        secret.touch(mode=0o600)
        secret.write_text("0123456789abcdef" * 4)
        ports["ROBODYNE_RT__AUTH__SECRET_FILE"] = str(secret)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ROBODYNE_RT__")}
        self._environment = kept | OPEN | ports | self._settings | {"PYTHONPATH": python_path} | dict(environment)
        self._seen_bytes = 0
        module = ["tests.faults.sabotage", sabotage] if sabotage else ["robodyne_rt"]
        self._program = [*wrapper, sys.executable, "-m", *module] if wrapper or sabotage or environment else []

    def start(self, *, wait_s: float = 20.0) -> "Victim":
        """Start it and wait until it says that it is ready.

        Raises:
            Died: it ended first.
            AssertionError: it neither ended nor became ready in time.
        """
        self.launch()
        return self.until_ready(wait_s=wait_s)

    def launch(self) -> None:
        """Start it, and do not wait."""
        self._seen_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = processes.start(
                ["serve"], folder=self.folder, environment=self._environment, log=log, program=self._program
            )

    def until_ready(self, *, wait_s: float = 20.0) -> "Victim":
        """Wait until the launched process says that it is ready; errors as `start`."""
        assert self.process is not None
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if b'"server_ready"' in self.log_path.read_bytes()[self._seen_bytes :]:
                return self
            if self.process.poll() is not None:
                raise Died(f"exit code {self.process.returncode}: {self.log()[-1000:]}")
            time.sleep(0.01)
        raise AssertionError(f"the server did not become ready:\n{self.log()[-3000:]}")

    def spooled(self) -> int:
        """Return how many messages a killed server has left in its spool."""
        # A copy: who opens the file itself and closes it as the last would bring its log in order.
        with tempfile.TemporaryDirectory(prefix="robodyne-faults-") as name:
            for path in self.folder.glob("spool.db*"):
                shutil.copy(path, name)
            if not (Path(name) / "spool.db").exists():
                return 0
            with contextlib.closing(sqlite3.connect(Path(name) / "spool.db")) as connection:
                ((rows,),) = connection.execute("SELECT count(*) FROM spool").fetchall()
                return int(rows)

    def post(self, path: str, body: object) -> tuple[int, Any]:
        """POST JSON; return the status and what came back."""
        request = urllib.request.Request(
            self.url(path), json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def checks(self) -> tuple[int, list[dict[str, Any]]]:
        """Return the status of `/readyz` and the checks that it names as failing."""
        status, _, body = self.get("/readyz?verbose")
        return status, [check for check in json.loads(body)["checks"] if not check["ok"]]


class Tmpfs:
    """A small file system in a mount namespace of its own, which needs no rights where the kernel lets users have those.

    `wrapper` runs a command inside, where the files lie in `inside`; from outside they are seen in `outside`, but SQLite
    must not open them there: it follows the link in that path to the wrong place.
    """

    def __init__(self, mount_point: Path, size: str) -> None:
        mount_point.mkdir(parents=True)
        script = f'mount -t tmpfs -o size={size} tmpfs "$0" && echo mounted && exec sleep infinity'
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(mount_point)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._holder.stdout is not None
        told = self._holder.stdout.readline().decode().strip()
        if told != "mounted":
            self.close()
            raise OSError(f"no small file system can be mounted here: {told}")
        pid = str(self._holder.pid)
        self.inside = mount_point
        self.outside = Path(f"/proc/{pid}/root{mount_point}")
        self.wrapper = ("nsenter", "--target", pid, "--user", "--mount", "--preserve-credentials")

    def close(self) -> None:
        """Unmount, and forget the files."""
        self._holder.kill()
        self._holder.wait(10)
        assert self._holder.stdout is not None
        self._holder.stdout.close()


class SqliteOnTmpfs(Sqlite):
    """The file on a small file system of 8 MiB; the judge reads a copy."""

    def __init__(self, folder: Path, size: str = "8M") -> None:
        super().__init__(folder / "copy")
        self.disk = Tmpfs(folder / "disk", size)
        self.wrapper = self.disk.wrapper
        inside = self.disk.inside
        self.settings = {
            "DATABASE__URL": f"sqlite:///{inside}/robodyne.db",
            "DATABASE__SPOOL_PATH": f"{inside}/spool.db",
        }

    def start(self) -> None:
        self.folder.mkdir(parents=True)
        (self.disk.outside / "robodyne.db").write_bytes(_database_with_menu())

    def stop(self) -> None:
        self.disk.close()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        for path in self.folder.iterdir():
            path.unlink()
        for path in self.disk.outside.glob("robodyne.db*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, self.folder)
        return super().rows(sql)
