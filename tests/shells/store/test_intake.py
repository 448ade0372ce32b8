"""The intake around its ledger, with neighbours that keep what they are told and time that is moved by hand."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.core.spooling import SpoolingLedger
from robodyne_rt.logs import is_storing_lines
from robodyne_rt.model.changes import Update
from robodyne_rt.ports import ReceivedMessage
from robodyne_rt.protocol.device_messages import parse
from robodyne_rt.protocol.errors import Conflict, InvalidPayload, StorageTimeout, StorageUnavailable
from robodyne_rt.store.engine.database import Fault
from robodyne_rt.store.intake.acknowledged import Acknowledged
from robodyne_rt.store.intake.intake import Intake
from robodyne_rt.store.intake.optimistic import OptimisticOverlay
from robodyne_rt.store.intake.prediction import Predictor
from robodyne_rt.store.intake.reports import DeadLetter, Report
from robodyne_rt.store.intake.spool_repair import SpoolDamage
from robodyne_rt.store.intake.writes import CallWrite, EventWrite, Write
from robodyne_rt.store.log.history import History
from robodyne_rt.testing.clock import HandClock, HandLoop
from robodyne_rt.testing.database import MemoryDatabase
from robodyne_rt.testing.store import FakeSpool, FakeWriter, RecordingSink
from tests.stores import WINDOWS


class Bench:
    def __init__(self, folder: Path, *, has_spool: bool = True, **options: Any) -> None:
        self.clock = HandClock()
        self.loop = HandLoop(self.clock)
        self.writer = FakeWriter()
        self.spool = FakeSpool()
        self.sink = RecordingSink()
        self.history = History("first")
        self.told: list[tuple[str, Any]] = []
        ledger: SpoolingLedger[Write] = SpoolingLedger(has_spool=has_spool, batch_max=3, push_deadline_s=0.05, **options)
        self.overlay = OptimisticOverlay(
            sink=self.sink, predictor=Predictor(windows=WINDOWS), marker=folder / "marker", lookups={}
        )
        self.intake = Intake(
            ledger=ledger,
            writer=self.writer,  # type: ignore[arg-type]
            spool=self.spool if has_spool else None,  # type: ignore[arg-type]
            overlay=self.overlay,
            acknowledged=Acknowledged(MemoryDatabase()),
            history=self.history,
            sink=self.sink,
            loop=self.loop,  # type: ignore[arg-type]
            ids=IdGenerator(wall=self.clock.wall(), now=self.clock.now()),
            clock=self.clock,
        )

    @property
    def state(self) -> str:
        """The intake's; of no Literal, which mypy would take for settled once it was compared."""
        return self.intake.state

    def say(self, text: str, **fields: Any) -> None:
        body = {"msg_type": "Event", "type": "INFO", "description": text, "id": text} | fields
        message, digest = parse(json.dumps(body).encode())

        def outcome(result: Any, error: BaseException | None) -> None:
            self.told.append((text, type(error) if error else "success"))

        self.intake.store_messages([ReceivedMessage(message, "d", digest, self.clock.stamp(), outcome)])

    def given(self) -> list[Write]:
        """Return what the writer was given since the last call."""
        batches, self.writer.batches = self.writer.batches, []
        return [write for batch in batches for write in batch.entries]

    def commit(self, *, generation: int = 0, updates: list[Update] | None = None) -> None:
        done = [(write, {"event_id": write.row_id}, None) for write in self.given()]
        self.report(generation=generation, updates=updates or [], done=done)

    def report(self, **fields: Any) -> None:
        report = Report()
        for name, value in fields.items():
            setattr(report, name, value)
        self.intake.report_from_thread(report)
        self.loop.turn()

    def heard(self) -> list[tuple[str, Any]]:
        told, self.told = self.told, []
        return told


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make an intake with options of the test's own."""
    with contextlib.ExitStack() as made:

        def make(**options: Any) -> Bench:
            bench = Bench(tmp_path, **options)
            made.callback(bench.intake.close)
            return bench

        yield make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def test_what_is_submitted_in_one_turn_leaves_together_and_is_told_after_its_commit(bench: Bench) -> None:
    bench.say("a")
    bench.say("b")
    assert bench.writer.batches == []
    bench.loop.turn()
    (batch,) = bench.writer.batches
    assert (batch.generation, batch.after_seq, len(batch.entries)) == (0, 0, 2)
    assert bench.heard() == []
    bench.commit()
    assert bench.heard() == [("a", "success"), ("b", "success")]


def test_screens_are_shown_before_devices_are_told(bench: Bench) -> None:
    bench.say("a")
    bench.loop.turn()
    honest = bench.sink.publish

    def publish(updates: list[Update]) -> None:
        bench.told.append(("screens", ""))
        honest(updates)

    bench.sink.publish = publish  # type: ignore[method-assign]
    bench.commit(updates=[Update("events", 0, 1)])
    assert bench.heard() == [("screens", ""), ("a", "success")]


def test_screens_that_fail_keep_nobody_from_being_told(bench: Bench) -> None:
    bench.say("a")
    bench.loop.turn()
    bench.sink.publish = lambda updates: 1 / 0  # type: ignore[assignment]
    bench.commit(updates=[Update("events", 0, 1)])
    assert bench.heard() == [("a", "success")]


def test_a_late_commit_is_shown_after_the_push_deadline_and_confirmed_when_it_comes(bench: Bench) -> None:
    bench.say("a")
    bench.loop.advance(0.04)
    assert bench.sink.told == []
    bench.loop.advance(0.02)
    assert [what for what, _, _ in bench.sink.told] == ["show"]
    id = bench.writer.batches[0].entries[0].row_id
    assert id is not None
    bench.commit(updates=[Update("events", 0, 1, {id: {"id": id}})])
    assert [what for what, _, _ in bench.sink.told] == ["show", "publish", "confirm"]
    assert bench.overlay.is_empty


def test_a_database_that_hangs_is_interrupted_after_five_seconds(bench: Bench) -> None:
    bench.say("a")
    bench.loop.advance(4.9)
    assert bench.writer.interrupts == 0
    bench.loop.advance(0.3)
    assert bench.writer.interrupts > 0


def test_a_failure_sends_everything_to_the_spool_and_success_comes_after_its_commit(bench: Bench) -> None:
    bench.say("a")
    bench.say("b")
    bench.loop.turn()
    bench.report(generation=0, fault=Fault.AWAY)
    assert bench.intake.state == "spooling"
    (rows,) = bench.spool.appends
    assert [row.seq for row in rows] == [1, 2]
    assert bench.heard() == []
    bench.spool.answer()
    assert bench.heard() == [("a", "success"), ("b", "success")]
    assert bench.writer.allowed_upto == 2
    assert bench.intake.spool_backlog == 2


def test_the_way_back_drains_first_and_gives_under_the_next_generation(bench: Bench) -> None:
    bench.say("a")
    bench.loop.turn()
    bench.report(generation=0, fault=Fault.AWAY)
    bench.spool.answer()
    bench.given()
    bench.report(generation=1, recovered=True)
    assert bench.state == "draining"
    bench.say("b")
    bench.loop.turn()
    (batch,) = bench.writer.batches
    assert (batch.generation, batch.after_seq) == (1, 1)
    bench.report(generation=1, drained=1)
    assert bench.state == "ok"


def test_a_repetition_is_answered_like_the_first_and_goes_nowhere(bench: Bench) -> None:
    bench.say("a")
    bench.loop.turn()
    bench.commit()
    bench.heard()
    bench.report(generation=0, fault=Fault.AWAY)
    bench.say("a")
    bench.say("a", severity="ERROR")
    bench.loop.turn()
    assert bench.heard() == [("a", "success"), ("a", Conflict)]
    assert bench.spool.appends == []


def test_what_cannot_be_checked_without_the_database_is_kept_by_its_device(bench: Bench) -> None:
    bench.report(generation=0, fault=Fault.AWAY)
    bench.say("a", msg_type="Order", order_id=77, status="READY")
    bench.say("b")
    bench.loop.turn()
    bench.spool.answer()
    assert bench.heard() == [("a", StorageUnavailable), ("b", "success")]


def test_what_must_not_outlive_the_process_is_refused_while_the_database_is_away(bench: Bench) -> None:
    bench.report(generation=0, fault=Fault.AWAY)
    bench.intake.submit(CallWrite(lambda tables: None, lambda result, error: bench.told.append(("call", type(error)))))
    bench.loop.turn()
    assert bench.heard() == [("call", StorageUnavailable)]


def test_a_spool_that_fails_refuses_takes_back_what_was_shown_and_is_left_alone_for_a_second(bench: Bench) -> None:
    bench.report(generation=0, fault=Fault.AWAY)
    bench.say("a")
    bench.loop.turn()
    bench.spool.answer(StorageUnavailable("full", retry_after_s=5))
    assert bench.heard() == [("a", StorageUnavailable)]
    assert [what for what, _, _ in bench.sink.told] == ["show", "revert"]
    assert bench.state == "refusing"
    bench.loop.advance(0.9)
    bench.say("b")
    bench.loop.turn()
    assert bench.heard() == [("b", StorageUnavailable)] and len(bench.spool.appends) == 1
    bench.loop.advance(0.2)
    bench.say("c")
    bench.loop.turn()
    bench.spool.answer()
    assert bench.heard() == [("c", "success")]
    assert bench.state == "spooling"
    assert [what for what, _, _ in bench.sink.told] == ["show", "revert"]  # a spool in trouble: not shown


def test_what_the_spool_refused_is_no_repetition_when_it_comes_again(bench: Bench) -> None:
    """Its device repeats it, as it was told: it gets the id of what is stored, and a repaired body is no conflict."""
    results: list[Any] = []
    bench.report(generation=0, fault=Fault.AWAY)
    bench.say("a")
    bench.say("b")
    bench.loop.turn()
    bench.spool.answer(StorageUnavailable("full", retry_after_s=5))
    bench.loop.advance(1.1)
    bench.heard()
    honest = bench.intake._answer

    def answer(write: Write, result: Any, error: BaseException | None) -> None:
        results.append(result)
        honest(write, result, error)

    bench.intake._answer = answer  # type: ignore[method-assign]
    bench.say("a")
    bench.say("b", severity="ERROR")
    bench.loop.turn()
    bench.spool.answer()
    assert bench.heard() == [("a", "success"), ("b", "success")]
    stored = [json.loads(row.payload)["ids"][0] for row in bench.spool.appends[-1]]
    assert results == [{"event_id": id} for id in stored]


def test_a_prediction_that_fails_costs_nobody_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "begin", lambda self, current, lookups: 1 / 0)
    bench.say("a")
    bench.loop.advance(0.1)
    bench.report(generation=0, fault=Fault.AWAY)
    bench.spool.answer()
    assert bench.heard() == [("a", "success")]


def test_a_full_database_is_no_doubt_and_a_lost_one_is(bench: Bench) -> None:
    for fault, generation in ((Fault.FULL, 0), (Fault.AWAY, 1)):
        bench.say(fault.name)
        bench.loop.turn()
        bench.report(generation=generation, fault=fault)
        assert bool(bench.intake._ledger._in_doubt) == (fault is Fault.AWAY)
        bench.spool.answer()
        bench.report(generation=generation + 1, recovered=True)
        bench.report(drained=9)


@pytest.mark.parametrize(("fault", "told"), [(Fault.FULL, StorageUnavailable), (Fault.AWAY, StorageTimeout)])
def test_without_a_spool_everything_is_refused_and_what_may_be_stored_is_told_so(
    make_bench: Callable[..., Bench], fault: Fault, told: type[Exception]
) -> None:
    bench = make_bench(has_spool=False)
    bench.say("a")
    bench.loop.turn()
    bench.report(generation=0, fault=fault)
    assert bench.heard() == [("a", told)]
    assert bench.intake.state == "refusing"


def test_only_a_locked_database_is_waited_for_by_what_no_spool_takes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, has_spool=False)
    bench.say("a")
    bench.loop.turn()
    bench.given()
    bench.report(generation=0, fault=Fault.BUSY)
    assert bench.heard() == [] and bench.intake.told_state == "ok"
    bench.report(generation=1, recovered=True)
    bench.commit(generation=1)
    assert bench.heard() == [("a", "success")]


def test_a_device_is_answered_within_ten_seconds_whatever_storage_does(bench: Bench) -> None:
    bench.say("given")
    bench.loop.turn()
    bench.loop.advance(9.9)
    assert bench.heard() == []
    bench.loop.advance(0.2)
    assert bench.heard() == [("given", StorageTimeout)]


def test_a_spool_that_cannot_be_read_is_given_up_and_the_database_goes_on(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(rows_left=9, last_seq=9)
    bench.say("new")
    bench.loop.turn()
    assert bench.given() == []
    bench.report(drain_failed=True)
    assert bench.spool.discarded == [9]
    assert [write.number for write in bench.given()] == [1]
    assert bench.intake.state == "ok"


@pytest.mark.parametrize(("lost", "told"), [(0, []), (3, [{"lost": 3}]), (None, [{"lost": None}])])
def test_what_a_damaged_spool_lost_is_told_and_counted(bench: Bench, lost: int | None, told: list[Any]) -> None:
    bench.intake.report_damage(SpoolDamage("damaged", lost))
    bench.loop.turn()
    events = [write for write in bench.given() if isinstance(write, EventWrite)]
    assert [event.data for event in events] == told and all(event.severity == "ERROR" for event in events)
    assert bench.intake.spool_lost == (lost or 0)


def test_devices_are_paused_at_four_batches_and_read_again_below(bench: Bench) -> None:
    resumed: list[int] = []
    for number in range(12):
        assert not bench.intake.is_behind
        bench.say(str(number))
    assert bench.intake.is_behind
    bench.intake.when_caught_up(lambda: resumed.append(1))
    bench.loop.turn()
    bench.commit()
    assert not bench.intake.is_behind and resumed == [1]
    bench.say("more")
    bench.loop.turn()
    bench.commit()
    assert resumed == [1]  # once


def test_a_lost_history_reaches_screens_under_its_new_epoch_and_people_by_an_event(bench: Bench) -> None:
    seen: list[str] = []
    bench.sink.begin_history = lambda snapshots: seen.append(bench.history.epoch)  # type: ignore[method-assign]
    bench.report(generation=1, recovered=True, epoch="second", updates=[Update("events", 0, 0, snapshot=True)])
    assert seen == ["second"]
    (event,) = bench.given()
    assert isinstance(event, EventWrite) and "older than it was" in event.description


def test_a_dead_letter_is_told_by_an_event_but_not_the_one_of_an_event(bench: Bench) -> None:
    bench.say("bad")
    bench.loop.turn()
    (write,) = bench.given()
    own = EventWrite(5, "ERROR", "ERROR", "text", None, "now")
    bench.report(
        done=[(write, None, InvalidPayload("x"))], dead_letters=[DeadLetter(write, 7, "a\0b"), DeadLetter(own, 8, "c")]
    )
    (event,) = bench.given()
    assert isinstance(event, EventWrite)
    assert event.description.endswith("dead letter: a\ufffdb") and event.data["id"] == 7


def test_an_outcome_that_fails_costs_the_others_nothing(bench: Bench) -> None:
    bench.intake.submit(EventWrite(1, "I", "INFO", "t", None, "now"))
    broken = CallWrite(lambda tables: None, lambda result, error: 1 / 0)  # type: ignore[arg-type]
    bench.intake.submit(broken)
    bench.say("a")
    bench.loop.turn()
    bench.commit()
    assert bench.heard() == [("a", "success")]


async def test_waiting_for_what_an_earlier_run_left_ends_with_its_drain(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(last_seq=9, rows_left=2)
    assert bench.writer.allowed_upto == 9
    with pytest.raises(StorageUnavailable):
        await bench.intake.wait_until_drained(0)
    bench.report(drained=9)
    await bench.intake.wait_until_drained(0)


@pytest.mark.parametrize(("others", "is_caused"), [(0, True), (1, False)])
def test_screens_that_fail_over_a_line_of_the_log_are_marked_as_caused_by_it(
    bench: Bench, others: int, is_caused: bool
) -> None:
    """Else the line that tells so would be the next one that they fail over."""
    caused: list[bool] = []
    bench.sink.publish = lambda updates: caused.append(is_storing_lines())  # type: ignore[method-assign]
    for number in range(others):
        bench.say(str(number))
    bench.intake.store_server_line("ERROR", "topic systemlogs failed", None, bench.clock.stamp(), lambda result, error: None)
    bench.loop.turn()
    bench.report(updates=[Update("systemlogs", 0, 1)], done=[(write, None, None) for write in bench.given()])
    assert caused == [is_caused] and not is_storing_lines()


def test_a_line_of_the_log_is_refused_and_not_kept_where_the_database_is_away(bench: Bench) -> None:
    told: list[Any] = []
    bench.report(generation=0, fault=Fault.AWAY)
    bench.intake.store_server_line("ERROR", "away", None, bench.clock.stamp(), lambda result, error: told.append(type(error)))
    bench.loop.turn()
    assert told == [StorageUnavailable] and not bench.intake.queued and not bench.spool.appends
