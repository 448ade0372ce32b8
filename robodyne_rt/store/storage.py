"""The store as a whole: opened, run and stopped as one.

The loop's side is `Intake`; behind it are threads: the writer, the spool's, and one that waits for the doorbell.
"""

import asyncio
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup

from robodyne_rt import systemd
from robodyne_rt.errors import StorageBroken, StorageUnavailable
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import ChangeSink, Clock
from robodyne_rt.settings import Settings
from robodyne_rt.store.engine.database import DbConnection, open_database, renew_epoch
from robodyne_rt.store.engine.sqlite import finish_copy, part_of
from robodyne_rt.store.intake.acknowledged import Acknowledged
from robodyne_rt.store.intake.intake import Intake
from robodyne_rt.store.intake.spool import Spool
from robodyne_rt.store.intake.writer import Writer
from robodyne_rt.store.log import high_water
from robodyne_rt.store.log.change_log import ReaderPool
from robodyne_rt.store.log.high_water import HighWaterMark

logger = logging.getLogger(__name__)

WRITER_SILENT_S = 10.0
"""The writer turns every 100 ms; silent for longer than this it hangs (a slow disk included)."""

SPOOL_STOP_S = 2.0
"""How long a stop waits for what is on its way into the spool."""

NOTE_INTERVAL_S = 1.0
"""How often the newest offsets are noted outside the database, where they moved."""

AWAIT_S = (0.2, 5.0)
"""First and longest pause between two tries to reach a database that is away at start."""


class Storage:
    """Database, spool, and the threads that serve them.

    `intake`, `writer`, `readers` and `was_cut_off` (an earlier run ended while screens showed what no disk had) are there
    once it is open.
    """

    intake: Intake
    writer: Writer
    readers: ReaderPool
    left_unconfirmed: bool

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._database = open_database(settings.database)
        self._spool_path = Path(settings.database.spool_path).absolute()
        self._note_path = high_water.note_path(self._spool_path)
        self._lost: dict[str, int] = {}
        self.kind = self._database.kind
        self.windows = {
            "events_window": settings.topics.events_window,
            "systemlogs_window": settings.topics.systemlogs_window,
            "orders_finished_minutes": settings.topics.orders_finished_minutes,
        }

    # -- opening -----------------------------------------------------------------------------------------------------

    async def open(self, *, stop: anyio.Event) -> bool:
        """Open the database, waiting for one that is away; False when asked to stop meanwhile.

        Raises:
            StorageBroken, SchemaTooNew: it cannot be used.
        """
        pause_s = AWAIT_S[0]
        while True:
            try:
                await anyio.to_thread.run_sync(self._open)
                return True
            except StorageUnavailable as error:
                logger.error("waiting for the database: %s", error, extra={"action": "store_awaited"})
                systemd.notify(f"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=waiting for the database: {error}")
            with anyio.move_on_after(pause_s):
                await stop.wait()
                return False
            pause_s = min(AWAIT_S[1], 2 * pause_s)

    def _open(self) -> None:
        settings, database = self._settings, self._database
        db = database.open_writer()
        try:
            epoch = database.prepare(db)
            marker = self._spool_path.with_suffix(".foretold")
            self.left_unconfirmed = marker.exists()
            epoch = self._check_history(db, epoch)
            spool = self._open_spool()
            self.intake = Intake(
                acknowledged=Acknowledged(database),
                spool=spool,
                marker=marker,
                batch_max=settings.database.batch_max,
                push_deadline_s=settings.database.push_deadline_ms / 1000,
                windows=self.windows,
                clock=self._clock,
            )
            self.writer = Writer(
                database,
                db,
                epoch=epoch,
                spool=spool,
                windows=self.windows,
                batch_max=settings.database.batch_max,
                changes_retained=settings.database.changes_retained,
                fallback_interval_s=settings.hub.fallback_interval_s,
                notify=settings.database.notify,
                attempts=settings.queue.max_attempts,
                retention_days=settings.queue.retention_days,
                clock=self._clock,
                report=self.intake.on_report,
            )
        except database.errors as error:
            db.close()
            raise StorageBroken(f"{database.name}: {error}") from error
        except BaseException:
            db.close()
            raise
        self._spool = spool
        self._doorbell = database.change_listener(self.writer.notify)
        self.readers = ReaderPool(database, epoch=epoch, windows=self.windows)

    def _open_spool(self) -> Spool | None:
        if not self._settings.database.spool_max_bytes:
            return None
        try:
            return Spool(self._spool_path, max_bytes=self._settings.database.spool_max_bytes)
        except (sqlite3.Error, OSError) as error:
            # It may hold messages that were acknowledged: going on without it could lose them.
            raise StorageBroken(f"[database] spool_path {self._spool_path}: cannot be opened: {error}") from error

    # -- running -----------------------------------------------------------------------------------------------------

    def start(self, tasks: TaskGroup, screens: ChangeSink) -> None:
        """Start the threads; updates go to `screens` from now on."""
        self.intake.start(asyncio.get_running_loop(), self.writer, screens)
        self._writer_ended = anyio.Event()
        tasks.start_soon(self._run_writer)
        if self._spool is not None:
            tasks.start_soon(_run_in_thread, self._spool.run)
        if self._doorbell is not None:
            tasks.start_soon(_run_in_thread, self._doorbell.run)
        tasks.start_soon(self._note_head)

    async def _run_writer(self) -> None:
        try:
            await _run_in_thread(self.writer.run)
        finally:
            self._writer_ended.set()

    async def stop(self) -> None:
        """End the threads in order, whatever went wrong before: what the writer cannot take goes to the spool."""
        self.intake.stop()
        self.writer.stop()
        await self._writer_ended.wait()
        await anyio.lowlevel.checkpoint()  # its last report
        if self._doorbell is not None:
            self._doorbell.stop()
        if self._spool is not None:
            with anyio.move_on_after(SPOOL_STOP_S):
                while self.intake.queued:
                    await anyio.sleep(0.01)
            self._spool.stop()

    def is_stuck(self, patience_s: float = WRITER_SILENT_S) -> bool:
        """Return whether the writer has not turned for so long."""
        return time.monotonic() - self.writer.stats.turned_at > min(patience_s, WRITER_SILENT_S)

    @property
    def state(self) -> tuple[str, str]:
        """`ok`, `late`, `spooling`, `draining`, `refusing` or `stalled`, and what is the matter."""
        stats, intake = self.writer.stats, self.intake
        if self.is_stuck():
            return "stalled", f"the writer has not turned for {time.monotonic() - stats.turned_at:.0f} s"
        details = [stats.trouble, self._spool.trouble if self._spool else "", self._doorbell.trouble if self._doorbell else ""]
        state = intake.state
        if state in ("spooling", "draining"):
            details.append(f"{intake.spool_backlog} messages in {self._settings.database.spool_path}")
        if state == "late":
            details.append("a commit takes over a second")
        return state, "; ".join(detail for detail in details if detail)

    # -- history -----------------------------------------------------------------------------------------------------

    def _check_history(self, db: DbConnection, epoch: str) -> str:
        """Return the epoch; a new one where the database is older than the note beside it."""
        heads = dict(db.execute('SELECT topic, "offset" FROM topic_head').fetchall())
        note = high_water.read(self._note_path)
        self._lost = note.lost(self._database.name, epoch, heads) if note else {}
        if self._lost:
            epoch = renew_epoch(db, epoch)
            logger.error(
                "%s lacks changes that were confirmed (%s): new epoch %s",
                self._database.name,
                ", ".join(f"{topic} {count}" for topic, count in self._lost.items()),
                epoch,
                extra={"action": "data_regressed"},
            )
        return epoch

    def tell_lost(self) -> None:
        """Store an ERROR event, where the database came back older than it was."""
        if self._lost:
            self.writer.stats.regressions += 1
            self.intake.tell("the database came back older than it was: changes that were confirmed are lost", self._lost)

    async def _note_head(self) -> None:
        """Note outside the database how far its log has come."""
        noted: HighWaterMark | None = None
        told = False
        while True:
            heads = dict(self.writer.positions)
            note = HighWaterMark(self._database.name, self.readers.epoch, heads, time.time())
            if noted is None or (noted.heads, noted.epoch) != (heads, note.epoch):
                try:
                    await anyio.to_thread.run_sync(high_water.write, self._note_path, note)
                    noted, told = note, False
                except OSError as error:
                    if not told:
                        logger.warning("%s cannot be written: %s", self._note_path, error, extra={"action": "note_failed"})
                    told = True
            await anyio.sleep(NOTE_INTERVAL_S)

    # -- backup ------------------------------------------------------------------------------------------------------

    async def back_up(self) -> Entity:
        """Copy the database beside itself; return the copy's path and size.

        Raises:
            StorageUnavailable: it is away, or of a kind with tools of its own.
        """
        folder = self._note_path.parent / "backups"
        name = time.strftime("robodyne-%Y%m%dT%H%M%S", time.gmtime())
        target = folder / f"{name}-{secrets.token_hex(3)}.db"
        started = self._clock.now()
        try:
            await anyio.to_thread.run_sync(lambda: folder.mkdir(mode=0o700, parents=True, exist_ok=True))
            await self._copied(part_of(target))
            await anyio.to_thread.run_sync(finish_copy, part_of(target), target)
            size = target.stat().st_size
        except (OSError, sqlite3.Error, StorageBroken) as error:
            raise StorageUnavailable(f"no backup was made: {error}") from error
        logger.info("backup: %s", target, extra={"action": "database_backed_up"})
        return {"path": str(target), "bytes": size, "seconds": round(self._clock.now() - started, 3)}

    async def _copied(self, target: Path) -> None:
        """Let the writer's thread copy the database."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def settle_from_thread(error: BaseException | None) -> None:
            loop.call_soon_threadsafe(settle, error)

        self.writer.back_up(target, settle_from_thread)
        await done


async def _run_in_thread(function: Callable[[], None]) -> None:
    """Run what lasts as long as the server in a thread of its own."""
    await anyio.to_thread.run_sync(function, limiter=anyio.CapacityLimiter(1))
