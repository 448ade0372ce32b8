"""When and how fast a SQLite file is copied: backups while writing goes on, and what is saved when the file is taken away
(SPEC section 6). `store/engine/sqlite.py` copies it.

A backup is made by the writer's thread, in small steps between its cycles, of one state of the database: a copy that followed
what is committed meanwhile would begin anew whenever another program commits. Until it is made the write-ahead log cannot be
reused. Verifying it and bringing it to the disk is done elsewhere, when nobody else wants the processor.
"""

import asyncio
import logging
import os
import secrets
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import anyio
import anyio.to_thread

from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.engine.database import Database, DbConnection
from robodyne_rt.store.engine.sqlite import finish_copy, part_of
from robodyne_rt.store.errors import StorageBroken

logger = logging.getLogger(__name__)

BACKUP_PAGES = 64
"""Pages copied between two cycles: 256 KiB, a fraction of a millisecond, for which devices wait."""

BACKUP_PAUSE_S = 0.003
"""How long the writer waits for devices between two steps: a copy of 280 MB takes four or five seconds."""

LOWEST_PRIORITY = 19

RESCUED = ".rescued-"
"""Between the name of a database and the time at which its open file was saved."""


class BackupRequest(NamedTuple):
    """A copy to be made; `done` is called in the writer's thread with what went wrong."""

    target: Path
    done: Callable[[BaseException | None], None]


def copy_between_cycles(
    database: Database, db: DbConnection, request: BackupRequest, *, cycle: Callable[[], str]
) -> BaseException | None:
    """Copy the database to `request.target`; return what went wrong.

    Args:
        cycle: lets the writer work between two steps; returns why the copy must end, or an empty text.
    Raises:
        StorageBroken: `cycle` found that the database cannot be trusted: that is the writer's end, and not the copy's alone.
    """
    broken: StorageBroken | None = None

    def between() -> None:
        nonlocal broken
        try:
            trouble = cycle()
        except StorageBroken as error:
            broken = error
            raise
        if trouble:
            raise StorageUnavailable(f"the backup was broken off: {trouble}")

    try:
        db.copy_snapshot(request.target, pages=BACKUP_PAGES, between=between)
    except (StorageBroken, StorageUnavailable, OSError) as error:
        if error is broken:
            raise
        return error
    except database.errors as error:
        return error
    return None


def rescue(file: Path, db: DbConnection, *, now: float, between: Callable[[], object]) -> Path:
    """Copy what is still open of a file that was deleted or replaced to a new file beside it; return its path.

    Args:
        now: epoch seconds, for its name.
        between: called now and then: this may take minutes.
    Raises:
        OSError, sqlite3.Error, StorageBroken: it cannot be saved (no room, no such folder, a damaged file).
    """
    time_text = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    target = file.with_name(f"{file.name}{RESCUED}{time_text}.{int(now % 1 * 1e6):06d}")
    try:
        db.rollback()
        db.copy(part_of(target), pages=BACKUP_PAGES, between=between)
        finish_copy(part_of(target), target, between=between)
    except BaseException:
        part_of(target).unlink(missing_ok=True)
        raise
    return target


async def _in_background(function: Callable[[], object]) -> None:
    """Run what takes long and nobody waits for in a thread of its own, to which every other one is preferred."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            if sys.platform == "linux":  # where a thread has a priority
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
            function()
        except BaseException as error:
            failed.append(error)

    def run_and_wait() -> None:
        thread = threading.Thread(target=run, name="background")  # not one of a pool: its priority stays with it
        thread.start()
        thread.join()

    await anyio.to_thread.run_sync(run_and_wait)
    if failed:
        raise failed[0]


class CopyingWriter(Protocol):
    """What a backup needs of the writer."""

    def back_up(self, request: BackupRequest) -> None:
        """Queue a copy."""
        ...


class Backups:
    """Makes backups into one folder; for the loop."""

    def __init__(self, writer: CopyingWriter, *, folder: Path, clock: Clock) -> None:
        self._writer = writer
        self._folder = folder
        self._clock = clock

    async def make(self) -> Entity:
        """Copy the database, verified; return the copy's path, its size in bytes and how many seconds it took.

        Raises:
            StorageUnavailable: it is away, or of a kind with tools of its own.
        """
        name = time.strftime("robodyne-%Y%m%dT%H%M%S", time.gmtime())
        target = self._folder / f"{name}-{secrets.token_hex(3)}.db"
        started = self._clock.now()
        try:
            await anyio.to_thread.run_sync(lambda: self._folder.mkdir(mode=0o700, parents=True, exist_ok=True))
            await self._copy(part_of(target))
            await _in_background(lambda: finish_copy(part_of(target), target))
            size = target.stat().st_size
        except (OSError, sqlite3.Error, StorageBroken) as error:
            raise StorageUnavailable(f"no backup was made: {error}") from error
        logger.info("backup: %s", target, extra={"action": "database_backed_up"})
        return {"path": str(target), "bytes": size, "seconds": round(self._clock.now() - started, 3)}

    async def _copy(self, target: Path) -> None:
        """Let the writer's thread copy the database."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def finish_from_thread(error: BaseException | None) -> None:
            loop.call_soon_threadsafe(finish, error)

        self._writer.back_up(BackupRequest(target, finish_from_thread))
        await done
