"""A server that is broken on purpose: `python -m tests.faults.sabotage NAME serve`.

Each breaks one rule of the store; the rig must find it out, or it could not find out the same fault in an honest server.
Most of them sit between the server and SQLite, so that they hold whatever the server's own code looks like.
"""

import functools
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

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


def _through(connection: type[sqlite3.Connection]) -> None:
    sqlite3.connect = functools.partial(sqlite3.connect, factory=connection)  # type: ignore[assignment]


def _hasty() -> None:
    """Answer when a message is heard, and store it afterwards."""
    from robodyne_rt.ingest.receiver import Receiver

    honest: Callable[..., bool] = Receiver.take

    def take(self: Receiver, body: bytes, peer: Any, answer: Callable[[bytes, bool], None]) -> bool:
        id = json.loads(body).get("id")
        if id is None:
            return honest(self, body, peer, answer)
        answer(json.dumps({"status": "success", "message": "stored", "id": id}).encode(), True)
        honest(self, body, peer, lambda text, success: None)
        return True

    Receiver.take = take  # type: ignore[method-assign,assignment]


def _wall_clock_ids() -> None:
    """Number what is stored by the wall clock alone, which does not always go forward."""
    from robodyne_rt.core.ids import IdGenerator

    honest = IdGenerator.next

    def next(self: IdGenerator, now_ms: int) -> int:
        self._last_ms = min(self._last_ms, now_ms)
        return honest(self, now_ms)

    IdGenerator.next = next  # type: ignore[method-assign]


SABOTAGE: dict[str, Callable[[], None]] = {
    "late-commit": lambda: _through(_LateCommit),
    "normal-sync": lambda: _through(_NormalSync),
    "no-checkpoint": lambda: _through(_NoCheckpoint),
    "no-memory": lambda: _through(_NoMemory),
    "hasty": _hasty,
    "wall-clock-ids": _wall_clock_ids,
}


if __name__ == "__main__":
    SABOTAGE[sys.argv[1]]()
    from robodyne_rt.cli import main

    sys.exit(main(sys.argv[2:]))
