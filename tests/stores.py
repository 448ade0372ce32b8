"""The databases that tests run on: a SQLite file, or a database of a Postgres server that the tests start themselves."""

import itertools
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from robodyne_rt.settings import Database as DatabaseSettings
from robodyne_rt.sim.cluster import Cluster
from robodyne_rt.store.engine.database import Database, open_database

KINDS = ("sqlite", "postgres")

WINDOWS = {"events_window": 20, "systemlogs_window": 30, "orders_finished_minutes": 60}

_numbers = itertools.count(1)


class Foreign:
    """Another program's connection: the database's own driver with its defaults, every statement its own transaction unless
    BEGIN is said. Parameters are written as `?`."""

    def __init__(self, connection: Any, kind: str) -> None:
        self.connection = connection
        self.kind = kind

    def execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> Any:
        if self.kind == "postgres":
            statement = statement.replace("?", "%s")
        return self.connection.execute(statement, *([parameters] if parameters else []))

    def ask(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.execute(statement, parameters).fetchall()]

    def close(self) -> None:
        self.connection.close()


class Store:
    """One fresh database."""

    def __init__(self, kind: str, url: str, path: Path) -> None:
        self.kind = kind
        self.url = url
        self.path = path

    def database(self, **options: Any) -> Database:
        return open_database(DatabaseSettings(url=self.url, **options))

    def connect(self) -> Foreign:
        if self.kind == "sqlite":
            return Foreign(sqlite3.connect(self.path, isolation_level=None, timeout=20), self.kind)
        return Foreign(psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True), self.kind)

    def ask(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the database as another program would."""
        foreign = self.connect()
        try:
            return foreign.ask(statement, *parameters)
        finally:
            foreign.close()

    @contextmanager
    def foreign(self) -> Iterator[Foreign]:
        """A foreign connection, closed at the end."""
        connection = self.connect()
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A Postgres server in a folder that its user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="robodyne-pg-"))
    folder.chmod(0o755)
    server = Cluster(folder / "cluster", "max_connections=200")
    try:
        yield server.start()
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


def make_store(kind: str, folder: Path, cluster_of: Callable[[], Cluster]) -> Store:
    """Return a fresh, empty database."""
    if kind == "sqlite":
        path = folder / "robodyne.db"
        return Store(kind, f"sqlite:///{path}", path)
    server = cluster_of()
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.libpq_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return Store(kind, server.url.rsplit("/", 1)[0] + f"/{name}", folder)
