"""The loop's side of the store: what is to be written, in order, wherever it can be written now (SPEC section 6).

- The database works: writes go to the writer, outcomes and updates come back.
- It is late: what is not stored within `push_deadline_ms` is pushed to screens from a forecast, marked `volatile`.
- It is away, locked or full: writes are checked against the forecast, go to the spool, and are acknowledged after the
  spool's commit. When it is back the writer drains the spool; new writes queue behind it there until little is left, then
  in memory, so that the order is kept throughout.
- The spool fails as well: devices are told `STORAGE_UNAVAILABLE` and keep their messages.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio

from robodyne_rt.core.device_messages import DeviceMessage
from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.errors import InvalidPayload, ResourceNotFound, RobodyneError, StorageUnavailable
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.ports import ChangeSink, Clock, Outcome
from robodyne_rt.store.intake import write_registry, writes
from robodyne_rt.store.intake.acknowledged import KEPT, Acknowledged
from robodyne_rt.store.intake.prediction import Predictor
from robodyne_rt.store.intake.reports import Failure, Report
from robodyne_rt.store.intake.spool import Spool, SpooledRow
from robodyne_rt.store.intake.writer import Writer
from robodyne_rt.store.intake.writes import CallWrite, EventWrite, MessageWrite, TelemetryWrite, VanishedWrite, Write
from robodyne_rt.store.log.change_log import Lookups
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter, ids_needed

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""A database that has not answered for so long is taken for away."""

FORETOLD_AT_ONCE = 100
"""Writes forecast in one turn of the loop: about 10 ms."""

RETRY_AFTER_S = 1

MUCH_BATCHES = 50
"""Batches left in the spool by an earlier run that are drained before new messages are answered: about ten seconds."""

T = TypeVar("T")

_Spooling = tuple[SpooledRow, Write]


class Intake:
    """Implements `ports.MessageStore`. All methods are for the loop's thread.

    Args:
        acknowledged: what earlier messages were answered.
        spool: None where there is none (`spool_max_bytes = 0`).
        marker: a file that exists while screens show what no disk has: a server that is killed then tells its next start.
        push_deadline_s: how long a push waits for storage; zero: for as long as it takes.
        windows: numbers of the snapshot windows by setting name.
    """

    def __init__(
        self,
        *,
        acknowledged: Acknowledged,
        spool: Spool | None,
        marker: Path,
        batch_max: int,
        push_deadline_s: float,
        windows: Mapping[str, int],
        clock: Clock,
    ) -> None:
        self._acknowledged = acknowledged
        self._spool = spool
        self._marker = marker
        self._behind_at = 4 * batch_max
        self._little = 2 * batch_max
        self._push_deadline_s = push_deadline_s
        self._clock = clock
        self._ids = IdGenerator()
        self._forecast = Predictor(windows=windows)
        self._lookups: Lookups = {}
        self._writer: Writer | None = None
        self._screens: ChangeSink | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resumes: list[Callable[[], None]] = []
        self._order = 0
        self._generation = 0
        # Given to the writer, or about to be, and not answered; by order.
        self._in_flight: dict[int, Write] = {}
        self._gathered: list[Write] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_away = False
        # What an earlier run left in the spool comes first. Devices wait for that, because only the database knows all ids
        # that were acknowledged before; but they do not wait for very much.
        self._is_spooling = spool is not None and spool.rows_at_start > MUCH_BATCHES * batch_max
        self._next_seq = spool.last_seq + 1 if spool else 1
        self._spooled_upto = spool.last_seq if spool else 0
        self._drained_upto = self._spooled_upto - (spool.rows_at_start if spool else 0)
        self._left_upto = self._spooled_upto
        self._past_stored = asyncio.Event()
        # Where both stood when the database came back.
        self._seq_at_return, self._drained_at_return = self._next_seq, self._drained_upto
        self._spool_gathered: list[_Spooling] = []
        self._spool_waiting = 0
        self._spool_again_at = 0.0
        # (last seq, last order) of each append that is not drained.
        self._marks: deque[tuple[int, int]] = deque()
        self._drained_order = 0
        # (topic, id) -> order of the newest write that changes it and is not stored, oldest first.
        self._unsettled: OrderedDict[tuple[str, int], int] = OrderedDict()

    def start(self, loop: asyncio.AbstractEventLoop, writer: Writer, screens: ChangeSink) -> None:
        """Name the parts that are built after this one."""
        self._loop, self._writer, self._screens = loop, writer, screens
        self._lookups = writer.lookups
        # A crash may have come between the commit of what was drained and its end in the spool.
        self._drained_upto = max(self._drained_upto, min(writer.drained, self._left_upto))
        self._perhaps_go_direct()
        if self._spool is not None and self._spool.rows_at_start:
            self._note_spooled(self._spool)

    def _note_spooled(self, spool: Spool) -> None:
        """Know the ids that an earlier run acknowledged and left in the spool."""
        with contextlib.suppress(StorageUnavailable):
            for row in reversed(spool.rows(0, KEPT)):  # the first with a name is the one that counts
                with contextlib.suppress(ValueError, KeyError, TypeError, RobodyneError):
                    write = write_registry.load(row.payload)
                    if write.row is not None:
                        self._acknowledged.note(write, write.result_of(write.row))

    # -- what comes in -------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Writes that wait for their commit, in the database or in the spool."""
        return len(self._in_flight) + self._spool_waiting + len(self._spool_gathered)

    @property
    def spool_backlog(self) -> int:
        """Rows of the spool that are not drained, at most."""
        return max(0, self._spooled_upto - self._drained_upto)

    @property
    def state(self) -> str:
        """`ok`, `late`, `spooling`, `draining`, or `refusing`."""
        if self._is_away:
            return "spooling" if self._spool is not None and not self._spool.trouble else "refusing"
        if self.spool_backlog:
            return "draining"
        oldest = next(iter(self._in_flight.values()), None)
        return "late" if oldest is not None and self._clock.now() - oldest.since > 1.0 else "ok"

    @property
    def is_behind(self) -> bool:
        """Whether devices should not be read from: four full batches are waiting, or the spool would not run dry."""
        if self._is_spooling and not self._is_away:
            # What comes in while it drains must be less than what goes out, or it would drain for ever.
            since_return = self._next_seq - self._seq_at_return
            if 2 * since_return > self._drained_upto - self._drained_at_return + self._little:
                return True
        return self.queued >= self._behind_at

    async def wait_until_drained(self, within_s: float) -> None:
        """Wait until what an earlier run left in the spool is in the database: before that nobody knows what is stored.

        Raises:
            StorageUnavailable: it takes longer.
        """
        assert self._writer is not None
        if self._drained_upto >= self._left_upto or self._writer.stats.spool_unreadable:
            return  # what cannot be read at all is nothing to wait for
        if self._is_away:
            within_s = 0.0
        with anyio.move_on_after(within_s):
            await self._past_stored.wait()
            return
        raise StorageUnavailable("what an earlier run left is being stored", retry_after_s=RETRY_AFTER_S)

    def when_caught_up(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, on the loop, when `is_behind` is over."""
        self._resumes.append(resume)

    def store_message(self, message: DeviceMessage, *, device: str, digest: str, heard_at: str, outcome: Outcome) -> None:
        now_ms = int(self._clock.wall() * 1000)
        ids = [self._ids.next(now_ms) for _ in range(ids_needed(message))]
        self.submit(MessageWrite(message, device, digest, heard_at, ids, outcome))

    def store_telemetry(self, robot_id: str, fields: dict[str, Any], heard_at: str) -> None:
        self.submit(TelemetryWrite(robot_id, fields, heard_at))

    def store_vanished(self, robot_id: str, heard_at: str) -> None:
        self.submit(VanishedWrite(robot_id, heard_at, self.next_id()))

    def tell(self, description: str, data: Any = None) -> None:
        """Store an ERROR event of the server itself."""
        id = self.next_id()
        self.submit(EventWrite(id, "ERROR", "ERROR", description, data, self._clock.stamp()))

    def submit(self, write: Write) -> None:
        """Queue one write; what is submitted in one turn of the loop leaves together."""
        self._order += 1
        write.order = self._order
        if self._is_spooling:
            self._spool_one(write)
            return
        write.since = self._clock.now()
        if not self._gathered:
            assert self._loop is not None
            self._loop.call_soon(self._hand_over)
        self._gathered.append(write)
        self._in_flight[write.order] = write

    def next_id(self) -> int:
        """Return an id for a row that the server names before storing."""
        return self._ids.next(int(self._clock.wall() * 1000))

    async def call(self, function: Callable[[DeviceMessageWriter], T]) -> T:
        """Run a function in the writer's transaction; return its result when that is durable.

        Raises:
            StorageUnavailable: the database is away; nothing of it will happen.
            RobodyneError: what the function refused.
        """
        result: T = await self.write(lambda outcome: CallWrite(function, outcome))
        return result

    async def write(self, make: Callable[[Outcome], Write]) -> Any:
        """Submit the write that `make` returns for an outcome; return its result when it is durable.

        Raises:
            StorageUnavailable: neither the database nor the spool took it.
            RobodyneError: it was refused.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def outcome(result: Any, error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        self.submit(make(outcome))
        return await done

    def _hand_over(self) -> None:
        # What is still on its way into the spool comes before: the writer must find it there first.
        if self._gathered and not self._spool_waiting and not self._spool_gathered:
            gathered, self._gathered = self._gathered, []
            assert self._writer is not None
            self._writer.give(self._generation, gathered)
        if self._timer is None and self._in_flight:
            assert self._loop is not None
            self._timer = self._loop.call_later(self._push_deadline_s or PATIENCE_S, self._look_after)

    def stop(self) -> None:
        """Hand over what was gathered; nothing is submitted afterwards."""
        self._hand_over()
        if self._timer is not None:
            self._timer.cancel()
        self._acknowledged.close()

    # -- what the writer says ------------------------------------------------------------------------------------

    def on_report(self, report: Report) -> None:
        """Take a report; called in the writer's thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._take, report)

    def _take(self, report: Report) -> None:
        was_behind = self.is_behind
        if report.updates:
            self._publish(report)
        in_flight = self._in_flight
        for write, result, error in report.done:
            in_flight.pop(write.order, None)
            if write.outcome is not None:
                if error is None:
                    self._acknowledged.note(write, result)
                self._answer(write.outcome, result, error)
        if report.drained:
            self._note_drained(report)
        if report.failure is not None:
            self._fail(report.failure)
        if report.recovered:
            self._is_away = False
            self._seq_at_return, self._drained_at_return = self._next_seq, self._drained_upto
            self._perhaps_go_direct()
        if self._unsettled or report.lost:
            self._settle(report)
        if report.lookups is not None:
            self._lookups = report.lookups
        for write, letter, reason in report.parked:
            if write.kind == EventWrite.kind:
                continue  # what tells of it would be refused as well, and told, for ever; the log has it
            self.tell(
                f"a {write.kind} could not be stored and is kept as a dead letter: {reason}".replace("\0", "\ufffd")[:2000],
                write.letter() | {"id": letter, "payload": None},
            )
        for text in report.unreadable:
            self.tell(text)
        if report.epoch:
            self.tell("the database came back older than it was: changes that were confirmed are lost", {"epoch": report.epoch})
        self._perhaps_resume(was_behind)

    def _publish(self, report: Report) -> None:
        assert self._screens is not None
        try:
            if report.epoch:
                self._screens.begin_history(report.epoch, report.updates)
            else:
                self._screens.publish(report.updates)
        except Exception:
            # What is stored must be answered, whatever became of the screens.
            logger.exception("updates could not be published", extra={"action": "publish_failed"})
        if self._forecast.is_active:
            for update in report.updates:
                self._forecast.learn(update)

    def _answer(self, outcome: Outcome, result: Any, error: BaseException | None) -> None:
        try:
            outcome(result, error)
        except Exception:
            logger.exception("an outcome failed", extra={"action": "outcome_failed"})

    def _perhaps_resume(self, was_behind: bool) -> None:
        if was_behind and not self.is_behind:
            resumes, self._resumes = self._resumes, []
            for resume in resumes:
                resume()

    # -- late ----------------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Push what storage holds up; give up on a database that does not answer."""
        self._timer = None
        oldest = next(iter(self._in_flight.values()), None)
        if oldest is None:
            return
        assert self._loop is not None and self._writer is not None
        now = self._clock.now()
        pause_s = PATIENCE_S
        if self._push_deadline_s:
            pause_s = max(0.005, self._foretell_late(now) + self._push_deadline_s - now)
        if now - oldest.since > PATIENCE_S and not self._is_away and not self.spool_backlog:
            self._writer.interrupt()
        self._timer = self._loop.call_later(pause_s, self._look_after)

    def _foretell_late(self, now: float) -> float:
        """Forecast the writes that are over the deadline, in order; return when the next one was submitted."""
        count = 0
        for write in list(self._in_flight.values()):
            if now - write.since < self._push_deadline_s:
                return write.since
            if write.expected is None:
                if count == FORETOLD_AT_ONCE:
                    return write.since
                count += 1
                self._foretell(write)
        return now

    def _foretell(self, write: Write, *, push: bool = True) -> None:
        """Ask the forecast what a write will do, and tell the screens."""
        assert self._screens is not None
        known = self._acknowledged.newest(write)
        write.expected = known or (None, None)
        if not write.kept or known is not None:
            return
        if not self._forecast.is_active:
            with contextlib.suppress(OSError):
                self._marker.touch()
            self._forecast.begin({topic: self._screens.current(topic) for topic in TOPICS}, self._lookups)
        try:
            foresight = self._forecast.apply(write)
        except RobodyneError as refusal:
            write.expected = (None, refusal)
            return
        except Exception as error:  # the write's own fault, which the database will find as well
            logger.debug("no forecast for a %s: %s", write.kind, error, extra={"action": "forecast_failed"})
            return
        write.expected = (foresight.result, None)
        if not push:
            return
        for topic, changes in foresight.changes.items():
            self._screens.show_optimistic(topic, changes)
            for key in changes:
                self._unsettled[topic, key] = write.order
                self._unsettled.move_to_end((topic, key))

    def _settle(self, report: Report) -> None:
        """Take the forecast of what is stored, or never will be, off the screens."""
        assert self._screens is not None
        resolved = self._resolved_order()
        stored: dict[str, list[int]] = {}
        failed: dict[str, list[int]] = {}
        told = {update.topic: {*update.entities, *update.removed} for update in report.updates}
        while self._unsettled:
            (topic, key), order = next(iter(self._unsettled.items()))
            if order > resolved:
                break
            del self._unsettled[topic, key]
            (stored if key in told.get(topic, ()) else failed).setdefault(topic, []).append(key)
        for write in report.lost:
            for topic, key in write.keys:
                self._unsettled.pop((topic, key), None)
                failed.setdefault(topic, []).append(key)
        self._take_off(stored, failed)

    def _take_off(self, stored: dict[str, list[int]], failed: dict[str, list[int]]) -> None:
        assert self._screens is not None
        for topic in {*stored, *failed}:
            self._screens.settle(topic, stored=stored.get(topic, []), failed=failed.get(topic, []))
            if self._forecast.is_active:
                for key in (*stored.get(topic, ()), *failed.get(topic, ())):
                    self._forecast.settle(topic, key)
        if not self._unsettled and not self._is_spooling:
            self._end_forecast()

    def _end_forecast(self) -> None:
        self._forecast.end()
        with contextlib.suppress(OSError):
            self._marker.unlink(missing_ok=True)

    def _resolved_order(self) -> int:
        """Return the order up to which every write is stored, parked or refused."""
        if self._marks or self._spool_gathered:
            return self._drained_order
        if self._in_flight:
            return next(iter(self._in_flight)) - 1
        return self._order

    # -- away ----------------------------------------------------------------------------------------------------

    def _fail(self, failure: Failure) -> None:
        """The database is away: everything the writer had goes to the spool, in order."""
        self._generation = max(self._generation, failure.generation + 1)
        self._is_away = True
        held, self._in_flight, self._gathered = list(self._in_flight.values()), {}, []
        self._is_spooling = True
        for write in held:
            self._spool_one(write)

    def _spool_one(self, write: Write) -> None:
        if self._spool is None or not write.kept or self._clock.now() < self._spool_again_at:
            self._refuse(write, StorageUnavailable("storage is away; keep the message", retry_after_s=RETRY_AFTER_S))
            if write.expected is not None:
                self._give_up({write.order})
            return
        if (known := self._acknowledged.answer(write)) is not None:
            result, conflict = known
            self._refuse(write, conflict, result)  # it is durable already, or refused
            return
        if write.expected is None:
            # Screens need not see what a spool in trouble will hardly take.
            self._foretell(write, push=not self._spool.trouble)
        assert write.expected is not None
        _, refusal = write.expected
        if refusal is not None:
            self._refuse(write, _judged_from_afar(refusal))
            return
        if not self._spool_gathered:
            assert self._loop is not None
            self._loop.call_soon(self._append)
        self._spool_gathered.append((SpooledRow(self._next_seq, writes.dump(write).decode()), write))
        self._next_seq += 1

    def _refuse(self, write: Write, error: RobodyneError | None, result: Any = None) -> None:
        if write.outcome is not None:
            assert self._loop is not None
            # In the next turn, as every other outcome: who submits is not called back before it returns.
            self._loop.call_soon(self._answer, write.outcome, result, error)

    def _append(self) -> None:
        gathered, self._spool_gathered = self._spool_gathered, []
        if not gathered:
            return
        assert self._spool is not None and self._loop is not None
        self._spool_waiting += len(gathered)
        self._marks.append((gathered[-1][0].seq, gathered[-1][1].order))
        self._spool.append(self._loop, [row for row, _ in gathered], lambda error: self._appended(gathered, error))

    def _appended(self, gathered: list[_Spooling], error: StorageUnavailable | None) -> None:
        was_behind = self.is_behind
        self._spool_waiting -= len(gathered)
        seq, order = gathered[-1][0].seq, gathered[-1][1].order
        assert self._writer is not None
        if error is None:
            self._spooled_upto = max(self._spooled_upto, seq)
            self._writer.drain(self._spooled_upto)
        else:
            self._spool_again_at = self._clock.now() + RETRY_AFTER_S
            self._marks.remove((seq, order))
            self._give_up({write.order for _, write in gathered})
        for _, write in gathered:
            if write.outcome is not None:
                result = write.expected[0] if write.expected else None
                if error is None:
                    self._acknowledged.note(write, result)
                self._answer(write.outcome, None if error else result, error)
        self._perhaps_go_direct()
        self._hand_over()
        self._perhaps_resume(was_behind)

    def _give_up(self, orders: set[int]) -> None:
        """These were told to screens and are stored nowhere."""
        failed: dict[str, list[int]] = {}
        for (topic, key), order in list(self._unsettled.items()):
            if order in orders:
                del self._unsettled[topic, key]
                failed.setdefault(topic, []).append(key)
        self._take_off({}, failed)

    def _note_drained(self, report: Report) -> None:
        self._drained_upto = max(self._drained_upto, report.drained)
        if self._drained_upto >= self._left_upto:
            self._past_stored.set()
        while self._marks and self._marks[0][0] <= report.drained:
            self._drained_order = self._marks.popleft()[1]
        self._perhaps_go_direct()

    def _perhaps_go_direct(self) -> None:
        """Stop spooling where the database is back and little is left: the writer drains that first."""
        if self._is_spooling and not self._is_away and self.spool_backlog <= self._little:
            self._is_spooling = False
            self._acknowledged.close()
            if not self._unsettled:
                self._end_forecast()


def _judged_from_afar(refusal: RobodyneError) -> RobodyneError:
    """Return what to tell a device whose message the forecast refuses: a dish or an order that is not at hand may well be in
    the database, so the message must be kept."""
    if isinstance(refusal, InvalidPayload | ResourceNotFound):
        text = f"storage is away, so this cannot be checked now ({refusal.text}); keep the message"
        return StorageUnavailable(text, retry_after_s=RETRY_AFTER_S)
    return refusal
