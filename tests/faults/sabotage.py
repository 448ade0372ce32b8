"""A server that is broken on purpose: `python -m tests.faults.sabotage NAME serve`.

Each breaks one rule of the store; the rig must find it out, or it could not find out the same fault in an honest server.
Most of them sit between the server and its database, so that they hold whatever the server's own code looks like.
"""

import functools
import sqlite3
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

LATE_S = 0.2


class _LateCommit(sqlite3.Connection):
    """Commits device messages up to 0.2 s after their COMMIT, several batches as one: the answers leave first. A server that
    ends orderly still loses nothing."""

    _held_since: float | None = None
    _carries_messages = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if self._held_since is not None and time.monotonic() - self._held_since > LATE_S:
            self._let_go()
        if self._held_since is not None and sql.startswith(("BEGIN", "COMMIT")):
            return self.cursor()
        if sql == "COMMIT" and self._carries_messages:
            self._held_since = time.monotonic()
            return self.cursor()
        self._carries_messages |= "device_message" in sql and self.in_transaction
        return super().execute(sql, parameters)

    def _let_go(self) -> None:
        self._held_since, self._carries_messages = None, False
        super().execute("COMMIT")

    def close(self) -> None:
        if self._held_since is not None:
            self._let_go()
        super().close()


class _NormalSync(sqlite3.Connection):
    """Says FULL and means NORMAL: a commit is on disk at the next checkpoint only."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "PRAGMA synchronous":
            sql = "SELECT 2"
        elif sql.startswith("PRAGMA synchronous"):
            sql = "PRAGMA synchronous = NORMAL"
        return super().execute(sql, parameters)


class _NoCheckpoint(sqlite3.Connection):
    """Never copies the log back into the file."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql.startswith("PRAGMA wal_checkpoint"):
            sql = "SELECT 0, 0, 0"
        return super().execute(sql, parameters)


class _NoMemory(sqlite3.Connection):
    """Takes every id of a message for a new one."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql.startswith("INSERT INTO device_message"):
            sql = sql.replace("INSERT", "INSERT OR REPLACE", 1).replace("ON CONFLICT DO NOTHING", "")
        return super().execute(sql, parameters)


class _LatePostgres(psycopg.Cursor[Any]):
    """The same on Postgres; what one connection holds back is noted there."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        held = _held.setdefault(self.connection, _Held())
        text = query if isinstance(query, str) else ""
        if held.since is not None and time.monotonic() - held.since > LATE_S:
            held.since, held.carries_messages = None, False
            super().execute("COMMIT")
        if held.since is not None and text.startswith(("BEGIN", "COMMIT")):
            return self
        if text == "COMMIT" and held.carries_messages:
            held.since = time.monotonic()
            return self
        held.carries_messages |= "device_message" in text or "INTO event" in text
        return super().execute(query, params, **options)


@dataclass
class _Held:
    since: float | None = None
    carries_messages: bool = False


_held: "weakref.WeakKeyDictionary[Any, _Held]" = weakref.WeakKeyDictionary()


def _late_commit() -> None:
    _through(_LateCommit)
    psycopg.connect = functools.partial(psycopg.connect, cursor_factory=_LatePostgres)


def _late_spool() -> None:
    """Say that the spool has a message, and write it there 0.2 s later."""
    from robodyne_rt.store.intake.spool import Spool

    honest = Spool._append

    def late(self: Spool, appends: Any, report_damage: Any) -> None:
        for append in appends:
            append.done(None)
        time.sleep(LATE_S)
        honest(self, [append._replace(done=lambda error: None) for append in appends], report_damage)

    Spool._append = late  # type: ignore[method-assign]


def _no_doubt() -> None:
    """Take a COMMIT that was not answered for one that did not happen."""
    from robodyne_rt.store.engine.postgres import PostgresConnection

    PostgresConnection.commit_may_be_unknown = False


def _no_letters() -> None:
    """Forget what the database refuses."""
    from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

    DeviceMessageWriter.store_dead_letter = lambda self, letter, digest: 0  # type: ignore[method-assign]


def _through(connection: type[sqlite3.Connection]) -> None:
    sqlite3.connect = functools.partial(sqlite3.connect, factory=connection)  # type: ignore[assignment]


def _wall_clock_ids() -> None:
    """Number what is stored by the wall clock alone, which does not always go forward."""
    from robodyne_rt.core.ids import _ORIGIN_MS, IdGenerator

    honest = IdGenerator.next

    def next(self: IdGenerator, now: float) -> int:
        wall_ms = max(0, int(time.time() * 1000) - _ORIGIN_MS)
        self._seed_ms = wall_ms - int((now - self._seeded_at) * 1000)
        self._last_ms = min(self._last_ms, wall_ms)
        return honest(self, now)

    IdGenerator.next = next  # type: ignore[method-assign]


def _no_owner() -> None:
    """Take the data whoever has it."""
    from robodyne_rt.store.engine.ownership import Ownership
    from robodyne_rt.store.engine.postgres import PostgresDatabase

    Ownership.take = lambda self, command=None: self  # type: ignore[method-assign]
    PostgresDatabase._own = lambda self, db: None  # type: ignore[method-assign]


def _trusting() -> None:
    """Believe that open files are still where they were."""
    from robodyne_rt.store.engine.file_identity import FileIdentity

    FileIdentity.check = lambda self: None  # type: ignore[method-assign]
    FileIdentity.is_same = lambda self, file: True  # type: ignore[method-assign]


def _no_history() -> None:
    """Go on from whatever the database says."""
    from robodyne_rt.store import opening
    from robodyne_rt.store.intake.writer import Writer

    Writer._begin_history = lambda self, report, loss: report.updates.extend(self._log.snapshots())  # type: ignore[method-assign]
    opening._check_history = lambda database, db, epoch, mark: (epoch, None)


def _piecemeal() -> None:
    """Commit each step of a migration by itself."""
    from robodyne_rt.store.migrations.runner import SqliteRunner

    honest = SqliteRunner._do

    def do(self: Any, step: Any) -> None:
        honest(self, step)
        self._execute("COMMIT")
        self._execute("BEGIN IMMEDIATE")

    SqliteRunner._do = do  # type: ignore[method-assign]


def _patient() -> None:
    """Wait for a database that hangs for as long as it takes."""
    from robodyne_rt.core import spooling

    spooling.PATIENCE_S = 1e6


SABOTAGE: dict[str, Callable[[], None]] = {
    "late-commit": _late_commit,
    "late-spool": _late_spool,
    "no-doubt": _no_doubt,
    "no-letters": _no_letters,
    "normal-sync": lambda: _through(_NormalSync),
    "no-checkpoint": lambda: _through(_NoCheckpoint),
    "no-memory": lambda: _through(_NoMemory),
    "wall-clock-ids": _wall_clock_ids,
    "no-owner": _no_owner,
    "trusting": _trusting,
    "no-history": _no_history,
    "piecemeal": _piecemeal,
    "patient": _patient,
}


if __name__ == "__main__":
    SABOTAGE[sys.argv[1]]()
    from robodyne_rt.cli.main import main

    sys.exit(main(sys.argv[2:]))
