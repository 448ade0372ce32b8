"""The intake: takes what is to be written, and carries out what the ledger decides (SPEC section 6).

`core/spooling.py` knows where every write stands and what is due next; here is what it cannot touch: the loop, the writer's
and the spool's threads, the screens. Implements `ports.MessageStore`. All methods are for the loop's thread.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from robodyne_rt.core import spooling
from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.core.spooling import Answered, Decision, SpoolingLedger
from robodyne_rt.logs import storing_lines
from robodyne_rt.model.changes import Update
from robodyne_rt.ports import ChangeSink, Clock
from robodyne_rt.protocol.errors import StorageTimeout, StorageUnavailable
from robodyne_rt.store.engine.database import Fault
from robodyne_rt.store.intake import writes
from robodyne_rt.store.intake.acknowledged import Acknowledged
from robodyne_rt.store.intake.admission import RETRY_AFTER_S, Admission
from robodyne_rt.store.intake.optimistic import OptimisticOverlay
from robodyne_rt.store.intake.publisher import Publisher
from robodyne_rt.store.intake.reports import Report
from robodyne_rt.store.intake.spool import Spool, SpooledRow
from robodyne_rt.store.intake.submissions import Submissions
from robodyne_rt.store.intake.writer import Writer
from robodyne_rt.store.intake.writes import Write, are_server_lines
from robodyne_rt.store.log.history import History

logger = logging.getLogger(__name__)


class Intake(Submissions):
    """The shell around the ledger, to which nobody else speaks; `spool` is None where there is none."""

    def __init__(
        self,
        *,
        ledger: SpoolingLedger[Write],
        writer: Writer,
        spool: Spool | None,
        overlay: OptimisticOverlay,
        acknowledged: Acknowledged,
        history: History,
        sink: ChangeSink,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        ids: IdGenerator,
    ) -> None:
        super().__init__(clock=clock, ids=ids)
        self._ledger = ledger
        self._writer = writer
        self._spool = spool
        self._overlay = overlay
        self._acknowledged = acknowledged
        self._admission = Admission(acknowledged=acknowledged, overlay=overlay)
        self._publisher = Publisher(history=history, sink=sink, overlay=overlay, ids=ids, clock=clock)
        self._sink = sink
        self._loop = loop
        self._resumes: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._earlier_run_is_drained = anyio.Event()
        self._obey(ledger.start())

    @property
    def queued(self) -> int:
        """Writes that wait for their commit, in the database or in the spool."""
        return self._ledger.waiting

    @property
    def spool_backlog(self) -> int:
        """Rows of the spool that are not drained, at most."""
        return self._ledger.spool_backlog

    @property
    def spooled_upto(self) -> int:
        """Number of the spool's newest row."""
        return self._ledger.spooled_upto

    @property
    def state(self) -> spooling.State:
        """`ok`, `late`, `spooling`, `draining`, or `refusing`."""
        return self._ledger.state(self._clock.now())

    @property
    def told_state(self) -> spooling.State:
        """The same as people are told it: a lock of a moment is no news."""
        return self._ledger.told_state(self._clock.now())

    @property
    def is_behind(self) -> bool:
        return self._ledger.is_behind

    def when_caught_up(self, resume: Callable[[], None]) -> None:
        self._resumes.append(resume)

    async def wait_until_drained(self, within_s: float) -> None:
        """Wait until what an earlier run left in the spool is in the database: before that nobody knows what is stored.

        Raises:
            StorageUnavailable: it takes longer.
        """
        if not self._ledger.rows_left or self._writer.stats.spool_unreadable:
            return  # what cannot be read at all is nothing to wait for
        with anyio.move_on_after(0.0 if self._ledger.is_away else within_s):
            await self._earlier_run_is_drained.wait()
            return
        raise StorageUnavailable("what an earlier run left is being stored", retry_after_s=RETRY_AFTER_S)

    def submit(self, write: Write) -> None:
        """Queue one write; what is submitted in one turn of the loop leaves together."""
        if self._ledger.submitted(write, self._clock.now()):
            self._loop.call_soon(self._end_turn)

    def stop(self) -> None:
        """Hand over what was submitted; nothing is submitted afterwards."""
        self._end_turn()
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Let go of what answers were read from and predicted with; for when the writer's last report was taken."""
        self._acknowledged.close()
        self._overlay.close()

    def report_from_thread(self, report: Report) -> None:
        """Take a report; called in the writer's thread."""
        self._loop.call_soon_threadsafe(self._take, report)

    def _end_turn(self) -> None:
        self._obey(self._ledger.turn_ended(self._clock.now()))

    def _tick(self) -> None:
        self._timer = None
        self._obey(self._ledger.tick(self._clock.now()))

    def _appended(self, upto: int, error: StorageUnavailable | None) -> None:
        if error is None:
            self._obey(self._ledger.appended(upto))
        else:
            self._obey(self._ledger.append_failed(upto, error, self._clock.now()))

    def _take(self, report: Report) -> None:
        """Tell the ledger what the writer did and saw, updates to the screens first."""
        ledger, updates = self._ledger, report.updates
        if updates or report.epoch:
            with storing_lines(are_server_lines(write for write, _, _ in report.done)):
                self._publisher.publish(report)
        if report.reverted:
            self._overlay.revert_entities([key for write in report.reverted for key in write.keys])
        if report.done:
            self._obey(ledger.committed(report.generation, report.done), updates)
        if report.drained:
            self._obey(ledger.drained(report.drained), updates)
        if report.drain_failed:
            self._obey(ledger.drain_failed(None, self._clock.now()), updates)
        if (report.drained or report.drain_failed) and not ledger.rows_left:
            self._earlier_run_is_drained.set()
        if report.fault is not None:
            may_be_stored, is_locked = report.fault is Fault.AWAY, report.fault is Fault.BUSY
            failed = ledger.failed(report.generation, self._clock.now(), may_be_stored=may_be_stored, is_locked=is_locked)
            self._obey(failed, updates)
        if report.recovered:
            self._obey(ledger.recovered(), updates)
        if report.lookups is not None:
            self._overlay.lookups = report.lookups
        if report.dead_letters:
            self._sink.touch_status()  # where it is an event that could not be stored, nothing else shows that
        for text, data in report.error_events():
            self.store_error_event(text, data)

    # -- what the ledger decides -----------------------------------------------------------------------------------

    def _obey(self, decisions: list[Decision[Write]], updates: Sequence[Update] = ()) -> None:
        if self._timer is None and (delay_s := self._ledger.next_tick_s(self._clock.now())) is not None:
            # Before the writer is woken: its thread would wait for ours to let go of the interpreter.
            self._timer = self._loop.call_later(delay_s, self._tick)
        may_end = False  # whether predictions may not be needed any more
        for decision in decisions:
            match decision:
                case spooling.Acknowledge(answers):
                    for answered in answers:
                        self._answer(*answered)
                case spooling.Give():
                    self._writer.give(decision)
                case spooling.Check(entries):
                    self._check(entries)
                case spooling.Append(first_seq, rows):
                    self._append(first_seq, rows)
                case spooling.Drain(upto):
                    self._writer.drain(upto)
                case spooling.Refuse(entries, reason, fault):
                    error = fault or StorageUnavailable("storage is away; keep the message", retry_after_s=RETRY_AFTER_S)
                    if reason is spooling.Reason.TIMEOUT:
                        text = "storage did not answer: it may be stored; send it again with the same id"
                        error = StorageTimeout(text, retry_after_s=RETRY_AFTER_S)
                    for write in entries:
                        self._answer(write, None, error)
                case spooling.Show(entries):
                    for write in entries:
                        self._admission.show(write)
                case spooling.Confirm(upto):
                    self._overlay.confirm(upto, updates)
                    may_end = True
                case spooling.Revert(entries):
                    self._overlay.revert(entries)
                    may_end = True
                case spooling.Interrupt():
                    self._writer.interrupt()
                case spooling.EndOutage():
                    self._acknowledged.close()
                    may_end = True
                case spooling.Resume():
                    resumes, self._resumes = self._resumes, []
                    for resume in resumes:
                        resume()
                case spooling.SetAside(rows):
                    assert self._spool is not None
                    self._spool.discard(rows)
        if may_end and not self._ledger.is_spooling:
            self._overlay.end_if_empty()

    def _answer(self, write: Write, result: Any, error: BaseException | None) -> None:
        if write.outcome is None:
            return
        if error is None:
            self._acknowledged.note(write, result)
        try:
            write.outcome(result, error)
        except Exception:
            logger.exception("an outcome failed", extra={"action": "outcome_failed"})

    def _check(self, entries: Sequence[Write]) -> None:
        # Screens need not see what a spool in trouble will hardly take.
        accepted, answered = self._admission.check(entries, show=self._ledger.spool_fault is None)
        for answer in answered:
            self._answer(*answer)
        self._obey(self._ledger.checked(accepted))

    def _append(self, first_seq: int, entries: Sequence[Answered[Write]]) -> None:
        assert self._spool is not None
        rows = [SpooledRow(seq, writes.dump(write).decode()) for seq, (write, _, _) in enumerate(entries, first_seq)]
        last_seq = rows[-1].seq
        self._spool.append(self._loop, rows, lambda error: self._appended(last_seq, error))
