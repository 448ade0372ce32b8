"""The store as a whole, run and stopped as one.

The loop's side is `Intake`; behind it are threads: the writer, the spool's, and one that listens for foreign changes.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup

from robodyne_rt.core.spooling import SpoolingLedger
from robodyne_rt.ports import ChangeSink, Clock
from robodyne_rt.settings import Settings
from robodyne_rt.store.engine.database import ChangeListener
from robodyne_rt.store.intake.acknowledged import Acknowledged
from robodyne_rt.store.intake.backup import Backups
from robodyne_rt.store.intake.backup_schedule import BackupSchedule, remove_leftovers
from robodyne_rt.store.intake.intake import Intake
from robodyne_rt.store.intake.optimistic import OptimisticOverlay
from robodyne_rt.store.intake.prediction import Predictor
from robodyne_rt.store.intake.spool_repair import SpoolDamage
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.log.high_water import HighWaterMarkWriter, mark_path
from robodyne_rt.store.opening import OpenStore
from robodyne_rt.supervision import Supervisor

logger = logging.getLogger(__name__)

WRITER_SILENT_S = 10.0
"""The writer cycles every 100 ms; silent for longer than this it hangs (a slow disk included)."""

SPOOL_STOP_S = 2.0
"""How long a stop waits for what is on its way into the spool."""

MUCH_BATCHES = 50
"""Batches left in the spool by an earlier run that are drained before new messages are answered: about ten seconds."""


def build_intake(opened: OpenStore, *, sink: ChangeSink, batch_max: int, push_deadline_s: float, clock: Clock) -> Intake:
    """Return the intake of an open store, whose ledger knows what earlier runs left in the spool; for the loop's thread."""
    spool, writer = opened.spool, opened.writer
    acknowledged = Acknowledged(opened.database)
    if spool is not None and spool.rows_at_start:
        acknowledged.note_spooled(spool)
    ledger: SpoolingLedger[Write] = SpoolingLedger(
        has_spool=spool is not None,
        batch_max=batch_max,
        last_seq=spool.last_seq if spool else 0,
        rows_left=spool.rows_at_start if spool else 0,
        drained_upto=writer.drained_at_start,
        wait_above_rows=MUCH_BATCHES * batch_max,
        push_deadline_s=push_deadline_s,
    )
    return Intake(
        ledger=ledger,
        writer=writer,
        spool=spool,
        overlay=OptimisticOverlay(
            sink=sink, predictor=Predictor(windows=opened.windows), marker=opened.marker, lookups=writer.lookups
        ),
        acknowledged=acknowledged,
        history=opened.history,
        sink=sink,
        loop=asyncio.get_running_loop(),
        clock=clock,
        ids=opened.ids,
    )


class Storage:
    """The running store: `intake` takes what is to be written, `readers` read, `backups` copy.

    Args:
        sink: where updates go.
        believed_at: the wall clock, as far as it can be believed.
    """

    def __init__(
        self, opened: OpenStore, *, settings: Settings, sink: ChangeSink, believed_at: Callable[[], float], clock: Clock
    ) -> None:
        self.kind = opened.database.kind
        self.stats = opened.writer.stats
        self.readers = opened.readers
        self._opened = opened
        self._writer = opened.writer
        self._spool = opened.spool
        self._spool_path = settings.database.spool_path
        self._clock = clock
        path = Path(self._spool_path).absolute()
        self.backups = Backups(opened.writer, folder=path.parent / "backups", clock=clock)
        self._listener = opened.database.change_listener(opened.writer.notify)
        self.intake = build_intake(
            opened,
            sink=sink,
            batch_max=settings.database.batch_max,
            push_deadline_s=settings.database.push_deadline_ms / 1000,
            clock=clock,
        )
        self._backup_schedule: BackupSchedule | None = None
        if opened.database.files and settings.backup.every_h:
            (file,) = opened.database.files
            folder = path.parent / "backups"
            remove_leftovers(file, folder)
            self._backup_schedule = BackupSchedule(
                self.backups.make,
                database=file,
                folder=folder,
                every_h=settings.backup.every_h,
                keep=settings.retention.backups,
                clock=clock,
            )
        self._high_water = HighWaterMarkWriter(
            mark_path(path),
            database=opened.database.name,
            history=opened.history,
            spooled=self._spooled,
            believed_at=believed_at,
        )
        self._writer_ended = anyio.Event()

    def start(self, tasks: TaskGroup, supervisor: Supervisor) -> None:
        """Start the threads."""
        tasks.start_soon(supervisor.vital, "writer", self._run_writer)
        if self._spool is not None:
            spool, loop = self._spool, asyncio.get_running_loop()
            report = self.intake.report_damage
            run_spool = partial(spool.run, lambda damage: _call(loop, report, damage))
            tasks.start_soon(supervisor.vital, "spool", partial(_run_in_thread, run_spool))
        if self._listener is not None:
            tasks.start_soon(supervisor.keep, "change listener", partial(self._listen, self._listener))
        if self._backup_schedule is not None:
            tasks.start_soon(supervisor.keep, "backups", self._backup_schedule.run)
        tasks.start_soon(supervisor.keep, "high-water mark", partial(self._high_water.run, lambda: self._writer.positions))

    async def _listen(self, listener: ChangeListener) -> None:
        await _run_in_thread(listener.run)
        await anyio.sleep_forever()  # it was stopped

    def _spooled(self) -> tuple[str, int]:
        return (self._spool.name, self.intake.spooled_upto) if self._spool is not None else ("", 0)

    async def _run_writer(self) -> None:
        try:
            await _run_in_thread(lambda: self._writer.run(self.intake.report_from_thread))
        finally:
            self._writer_ended.set()

    async def stop(self) -> None:
        """End the threads in order, whatever went wrong before: what the writer cannot take goes to the spool."""
        self.intake.stop()
        self._writer.stop()
        await self._writer_ended.wait()
        await anyio.lowlevel.checkpoint()  # its last report
        if self._listener is not None:
            self._listener.stop()
        if self._spool is not None:
            with anyio.move_on_after(SPOOL_STOP_S):
                while self.intake.queued:
                    await anyio.sleep(0.01)
            self._spool.stop()
        self.intake.close()

    def is_stuck(self, patience_s: float = WRITER_SILENT_S) -> bool:
        """Return whether the writer has not finished a cycle for so long."""
        return self._clock.now() - self.stats.cycled_at > min(patience_s, WRITER_SILENT_S)

    @property
    def state(self) -> tuple[str, str]:
        """`ok`, `late`, `spooling`, `draining`, `refusing` or `stalled`, and what is the matter."""
        stats, intake = self.stats, self.intake
        if self.is_stuck():
            return "stalled", f"the writer has not turned for {self._clock.now() - stats.cycled_at:.0f} s"
        details = [stats.trouble, self._spool.trouble if self._spool else "", self._listener.trouble if self._listener else ""]
        state = intake.told_state
        if state in ("spooling", "draining"):
            details.append(f"{intake.spool_backlog} messages in {self._spool_path}")
        if state == "late":
            details.append("a commit takes over a second")
        return state, "; ".join(detail for detail in details if detail)

    @property
    def spool_path(self) -> str:
        """The spool's file, as the settings name it."""
        return self._spool_path

    @property
    def spool_fill(self) -> tuple[int, float]:
        """How many messages wait in the spool, at most, and which part of the room that it may have is taken."""
        return self.intake.spool_backlog, self._spool.fill if self._spool is not None else 0.0

    @property
    def lock_trouble(self) -> str:
        """What is wrong with the lock on the data; empty where it is held."""
        if self.stats.lock_lost:
            return self.stats.lock_lost
        gone = [str(path) for path in self._opened.ownership.lost]
        return f"deleted or replaced: {', '.join(gone)}" if gone else ""

    @property
    def backup_trouble(self) -> str:
        """Why the last backup by the clock was not made; empty where it was."""
        return self._backup_schedule.trouble if self._backup_schedule is not None else ""

    def report_losses(self) -> None:
        """Store an ERROR event, where the database came back older than it was, or the spool without what it held."""
        for damage in self._opened.spool_damage:
            self.intake.report_damage(damage)
        if (loss := self._opened.loss) is not None:
            self.stats.regressions += 1
            text = f"the database lost changes that were confirmed: {loss.text}"
            self.intake.store_error_event(text, dict(loss.changes))


def _call(loop: asyncio.AbstractEventLoop, report: Callable[[SpoolDamage], None], damage: SpoolDamage) -> None:
    """Call on the loop, from another thread."""
    loop.call_soon_threadsafe(report, damage)


async def _run_in_thread(function: Callable[[], None]) -> None:
    """Run what lasts as long as the server in a thread of its own."""
    await anyio.to_thread.run_sync(function, limiter=anyio.CapacityLimiter(1))
