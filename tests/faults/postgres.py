"""Postgres as the store under test: one server for all, which a fault may stop, freeze and cut off; a database per trial."""

import asyncio
import atexit
import contextlib
import functools
import os
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql

from robodyne_rt.sim.cluster import Cluster
from tests.e2e.server import Server
from tests.faults.proxy import BadNetwork
from tests.faults.store import MENU
from tests.ports import free_port

_BEGUN, _COMMITTED = b"C\x00\x00\x00\x0aBEGIN\x00", b"C\x00\x00\x00\x0bCOMMIT\x00"
"""CommandComplete, as Postgres answers BEGIN and COMMIT (protocol 3.0, "Message Formats")."""


class Machine:
    """A Postgres server that comes and goes."""

    def __init__(self) -> None:
        # In a folder of its own that root's stand-in may enter too.
        self._folder = Path(tempfile.mkdtemp(prefix="robodyne-faults-pg-"))
        self._folder.chmod(0o755)
        self._cluster = Cluster(self._folder / "cluster")
        self.port = self._cluster.port = free_port()
        self._is_up = False
        self._is_frozen = False
        self._frozen: tuple[int, ...] = ()

    def url(self, database: str, port: int = 0) -> str:
        """Return what drivers take."""
        return f"postgresql://robodyne@127.0.0.1:{port or self.port}/{database}"

    def come(self) -> None:
        """Start it where it is away."""
        self.thaw()
        if not self._is_up:
            self._cluster.start()
            self._is_up = True

    def leave(self) -> None:
        """End it at once: what was not committed is gone, as after a crash of its machine."""
        self.thaw()
        if self._is_up:
            self._cluster.stop(signal.SIGQUIT)
            self._is_up = False

    def freeze(self, *pids: int) -> None:
        """Let some of its processes hang, or all."""
        self._frozen = pids
        if pids:
            _signal(pids, signal.SIGSTOP)
        else:
            self._cluster.send(signal.SIGSTOP)
        self._is_frozen = True

    def thaw(self) -> None:
        """Let what hangs go on."""
        if self._is_frozen:
            self._is_frozen = False
            if self._frozen:
                _signal(self._frozen, signal.SIGCONT)
            else:
                self._cluster.send(signal.SIGCONT)

    def do(self, statement: str, *names: str) -> None:
        """Run a statement outside of any trial's database; `{}` stands for a name."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def close(self) -> None:
        """End it, and forget its files."""
        self.leave()
        shutil.rmtree(self._folder, ignore_errors=True)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@functools.cache
def _machine() -> Machine:
    """Return the server, with a database `with_menu` as an untouched server of ours makes it, with `MENU`."""
    machine = Machine()
    atexit.register(machine.close)
    machine.come()
    machine.do("CREATE DATABASE with_menu")
    url = _for_server(machine.url("with_menu"))
    with tempfile.TemporaryDirectory(prefix="robodyne-faults-") as name, Server(Path(name), DATABASE__URL=url) as server:
        server.sql(MENU)
        server.stop()
    return machine


def _for_server(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


class Postgres:
    """A database of the one server; `start` copies it from `with_menu`."""

    name = "postgres"
    wrapper: Sequence[str] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machine = _machine()
        self.database = f"trial_{secrets.token_hex(4)}"
        self.url = self.machine.url(self.database)

    @property
    def settings(self) -> Mapping[str, str]:
        # The judge reads the order from the whole log.
        return {"DATABASE__URL": _for_server(self.url), "DATABASE__CHANGES_RETAINED": "1000000"}

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.machine.come()
        self.machine.do("CREATE DATABASE {} TEMPLATE with_menu", self.database)

    def stop(self) -> None:
        self.machine.come()
        self.machine.do("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.machine.url(self.database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def damage(self) -> str:
        ((waiting,),) = self.rows("SELECT count(*) FROM inbox")
        return f"{waiting} changes have no offset" if waiting else ""

    def backends(self) -> list[int]:
        """Return the processes that serve our server."""
        return [pid for (pid,) in self.rows(f"SELECT pid {_OURS}")]

    def terminate(self) -> int:
        """End every connection of our server; return how many there were."""
        return len(self.rows(f"SELECT pg_terminate_backend(pid) {_OURS}"))


_OURS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class PostgresOnBadLine(Postgres):
    """A database that our server reaches by a line that can be cut at the worst moment."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.line = BadLine(self.machine.port, seed=0)

    def start(self) -> None:
        super().start()
        self.line.__enter__()
        self.url = self.machine.url(self.database, self.line.port)

    def stop(self) -> None:
        if self.line.port:
            self.line.__exit__()
        super().stop()


class BadLine(BadNetwork):
    """Passes everything on, until it is told to cut at once (`cut`), to cut at a COMMIT that has happened (`cut_at_commit`), or
    to hold up a COMMIT on its way (`hold_commit`)."""

    def __init__(self, target_port: int, *, seed: int) -> None:
        super().__init__(target_port, seed=seed)
        self.commits_cut = 0
        self.commits_held = 0
        self._cuts: Literal["", "before", "after"] = ""
        self._holds_s = 0.0

    def cut_at_commit(self, when: Literal["before", "after"]) -> None:
        """Cut the line before, or after, the answer to the next COMMIT reaches our server."""
        self._cuts = when

    def hold_commit(self, seconds: float) -> None:
        """Let the next COMMIT, and what follows it on its connection, arrive so much later."""
        self._holds_s = seconds

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        other: asyncio.StreamWriter,
    ) -> None:
        transaction = _Transaction()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._up(reader, other, transaction))
            tasks.create_task(self._down(answers, writer, transaction))

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transaction: "_Transaction") -> None:
        while chunk := await reader.read(65536):
            if transaction.is_ending(chunk) and transaction.carries_much and self._holds_s:
                seconds, self._holds_s = self._holds_s, 0.0
                self.commits_held += 1
                await asyncio.sleep(seconds)
            writer.write(chunk)
            await writer.drain()
        raise ConnectionAbortedError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transaction: "_Transaction") -> None:
        while chunk := await reader.read(65536):
            if _COMMITTED in chunk and self._cuts and transaction.carries_much:
                when, self._cuts = self._cuts, ""
                self.commits_cut += 1
                if when == "after":
                    writer.write(chunk)
                    await writer.drain()
                raise ConnectionAbortedError
            if _BEGUN in chunk:
                transaction.sent_bytes = 0
            writer.write(chunk)
            await writer.drain()
        raise ConnectionAbortedError


class _Transaction:
    """What a connection has sent since its last BEGIN."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self._commits = {b"Q\x00\x00\x00\x0bCOMMIT\x00"}

    @property
    def carries_much(self) -> bool:
        """Whether there are messages in it: looking for news and marking what was done is shorter."""
        return self.sent_bytes > 2000

    def is_ending(self, chunk: bytes) -> bool:
        """Take what goes up; return whether it has a COMMIT."""
        self.sent_bytes += len(chunk)
        # Sent often, it becomes a prepared statement: Parse tells its name, Bind has that.
        self._commits |= {b"\x00%b\x00" % name for name in re.findall(rb"(\w+)\x00COMMIT\x00", chunk)}
        return any(commit in chunk for commit in self._commits)
