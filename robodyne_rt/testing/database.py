"""A database in memory with the real schema, which fails when it is told to."""

import itertools
import sqlite3
import weakref
from collections.abc import Callable
from typing import Any, Literal

from robodyne_rt.store.engine import schema
from robodyne_rt.store.engine.database import Database, DbConnection, Fault, Progress, begin_history, no_progress
from robodyne_rt.store.engine.sqlite import SqliteConnection

_numbers = itertools.count(1)

Step = Literal["open", "begin", "commit", "commit unheard", "execute"]


class ScriptedError(Exception):
    """What the database was told to fail with."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"scripted: {fault.value}")
        self.fault = fault


class MemoryConnection(SqliteConnection):
    """One connection; keeps the statements that it ran."""

    def __init__(self, database: "MemoryDatabase", connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._database = database
        self.statements: list[str] = []
        self.interrupted = 0
        self.execute = self._execute

    def _execute(self, query: str, parameters: Any = ()) -> Any:
        self.statements.append(query)
        self._database.meet("execute", query)
        return self.connection.execute(query, parameters)

    def begin(self) -> None:
        self._database.meet("begin")
        super().begin()

    def commit(self) -> None:
        try:
            self._database.meet("commit")
        except ScriptedError:
            self.rollback()
            raise
        super().commit()
        self._database.meet("commit unheard")

    def interrupt(self) -> None:
        self.interrupted += 1


class MemoryDatabase(Database):
    """Lives as long as this object, and its connections no longer; every connection sees the same rows.

    Attributes:
        opened: how many connections were given out to write.
    """

    kind = "sqlite"
    name = "memory"
    errors = (ScriptedError, sqlite3.Error)

    def __init__(self) -> None:
        self._uri = f"file:robodyne-test-{next(_numbers)}?mode=memory&cache=shared"
        self._connections: list[sqlite3.Connection] = []
        self._end = weakref.finalize(self, _close_all, self._connections)
        self._anchor = self._connect()
        self._faults: list[tuple[Step, Fault, Callable[[str], bool]]] = []
        self.opened = 0
        db = SqliteConnection(self._anchor)
        shipped = schema.load("sqlite")
        for statement in (*shipped.creation, *shipped.triggers.values()):
            db.execute(statement)
        begin_history(db, "first")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._uri, uri=True, isolation_level=None, check_same_thread=False)
        self._connections.append(connection)
        return connection

    def fail(self, step: Step, fault: Fault, *, times: int = 1, when: Callable[[str], bool] = lambda query: True) -> None:
        """Fail the next times that a step is met; `when` chooses among statements."""
        self._faults += [(step, fault, when)] * times

    def work(self) -> None:
        """Fail no more."""
        self._faults.clear()

    def meet(self, step: Step, query: str = "") -> None:
        """Raise what a step was told to fail with."""
        for index, (at, fault, when) in enumerate(self._faults):
            if at == step and when(query):
                del self._faults[index]
                raise ScriptedError(fault)

    def ask(self, query: str, *parameters: Any) -> list[Any]:
        """Return rows as another program would see them."""
        return self._anchor.execute(query, parameters).fetchall()

    def open_writer(self) -> MemoryConnection:
        self.opened += 1
        self.meet("open")
        return MemoryConnection(self, self._connect())

    def open_reader(self) -> MemoryConnection:
        return MemoryConnection(self, self._connect())

    @property
    def schema_version(self) -> int:
        return 1

    def stored_version(self, db: DbConnection) -> int:
        return 1

    def prepare(self, db: DbConnection, *, progress: Progress = no_progress) -> str:
        return str(self.ask("SELECT value FROM meta WHERE key = 'epoch'")[0][0])

    def fault(self, error: BaseException) -> Fault:
        if isinstance(error, ScriptedError):
            return error.fault
        return Fault.WRITE

    def facts(self) -> list[tuple[str, str]]:
        return []

    def close(self) -> None:
        """Let it go, with every connection that is open yet."""
        self._end()


def _close_all(connections: list[sqlite3.Connection]) -> None:
    for connection in connections:
        connection.close()
