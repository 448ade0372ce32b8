"""The writer's cycle by hand: what it takes, what it drops, how it comes back; no thread, no file, no server."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.core.spooling import Give
from robodyne_rt.logs import is_storing_lines
from robodyne_rt.store.engine.database import DbConnection, Fault
from robodyne_rt.store.errors import DataOwned, StorageBroken
from robodyne_rt.store.intake.backup import BackupRequest
from robodyne_rt.store.intake.commit import Committer
from robodyne_rt.store.intake.reports import Report
from robodyne_rt.store.intake.writer import POLL_S, Writer
from robodyne_rt.store.intake.writes import ServerLineWrite
from robodyne_rt.store.log.history import History
from robodyne_rt.store.log.retention import Retention
from robodyne_rt.testing.clock import HandClock
from robodyne_rt.testing.database import MemoryDatabase, ScriptedError
from robodyne_rt.testing.store import ScriptedWrite
from tests.shells.store.test_drain import Rows
from tests.stores import WINDOWS


class Bench:
    def __init__(self, spool: Any = None, **options: Any) -> None:
        self.database = MemoryDatabase()
        self.clock = HandClock()
        self.slept: list[float] = []
        self.history = History("first")
        settings: dict[str, Any] = {"batch_max": 3, "changes_retained": 1000, "fallback_interval_s": 10.0, "notify": True}
        self.db = self.database.open_writer()
        self.writer = Writer(
            self.database,
            self.db,
            history=self.history,
            spool=spool,
            windows=WINDOWS,
            retention=Retention(days={}, windows={}, may_delete=lambda: True, database=self.database, clock=self.clock),
            ids=IdGenerator(wall=self.clock.wall(), now=self.clock.now()),
            clock=self.clock,
            sleep=self.slept.append,
            **(settings | options),
        )
        self.reports: list[Report] = []
        self.generation = 0

    def give(self, *writes: ScriptedWrite, generation: int | None = None, after_seq: int = 0) -> None:
        generation = self.generation if generation is None else generation
        self.writer.give(Give(generation, after_seq, list(writes)))

    def cycle(self) -> None:
        self.writer.fetch(wait=False)
        self.writer.cycle(self.reports.append)

    def take(self) -> list[Report]:
        reports, self.reports = self.reports, []
        return reports

    def stored(self) -> list[int]:
        return [number for (number,) in self.database.ask("SELECT table_number FROM table_ ORDER BY id")]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.cycle()  # the first look at everything
    bench.take()
    yield bench
    bench.database.close()


def table(number: int) -> ScriptedWrite:
    return ScriptedWrite(lambda tables: tables.db.execute("INSERT INTO table_(table_number) VALUES (?)", (number,)) and number)


def test_what_queued_up_is_one_transaction_up_to_its_size(bench: Bench) -> None:
    bench.give(table(1))
    bench.give(table(2), table(3), table(4))
    bench.cycle()
    (report,) = bench.take()
    assert [result for _, result, _ in report.done] == [1, 2, 3]
    bench.cycle()
    assert [result for report in bench.take() for _, result, _ in report.done] == [4]
    assert bench.writer.stats.commits == 2


def test_updates_come_with_the_outcomes(bench: Bench) -> None:
    bench.give(table(1))
    bench.cycle()
    (report,) = bench.take()
    assert [(update.topic, update.prev, update.offset) for update in report.updates] == [("tables", 0, 1)]
    assert len(report.done) == 1


def test_nothing_new_is_nothing_to_report(bench: Bench) -> None:
    bench.cycle()
    assert bench.take() == []


def test_foreign_commits_are_seen_in_the_next_cycle(bench: Bench) -> None:
    bench.database.ask("INSERT INTO table_(table_number) VALUES (7)")
    bench.cycle()
    (report,) = bench.take()
    assert [update.topic for update in report.updates] == ["tables"] and not report.done


@pytest.mark.parametrize("fault", [Fault.AWAY, Fault.FULL, Fault.BUSY])
def test_a_fault_lets_go_of_everything_and_names_the_generation_that_is_over(bench: Bench, fault: Fault) -> None:
    bench.database.fail("commit", fault)
    bench.give(table(1), table(2), table(3), table(4))
    bench.cycle()
    (report,) = bench.take()
    assert (report.fault, report.generation, report.done) == (fault, 0, [])
    assert bench.writer.stats.failures == 1
    assert bench.writer.stats.trouble.startswith(fault.value) == (fault is not Fault.BUSY)
    bench.clock.advance(1)
    bench.cycle()
    assert bench.stored() == []  # also of the one that had not been tried yet


def test_a_batch_of_a_generation_that_failed_is_dropped_and_the_next_one_is_written(bench: Bench) -> None:
    bench.database.fail("commit", Fault.AWAY)
    bench.give(table(1))
    bench.cycle()
    bench.give(table(2), generation=0)  # given before the failure was heard of
    bench.clock.advance(1)
    bench.cycle()
    bench.give(table(3), generation=0)
    bench.give(table(4), generation=1)
    bench.give(table(5), generation=2)
    bench.cycle()
    bench.cycle()
    assert bench.stored() == [4]
    reports = bench.take()
    assert [report.generation for report in reports if report.done] == [1]


def test_a_batch_behind_the_spool_is_dropped_with_its_generation() -> None:
    bench = Bench(spool=Rows())
    bench.cycle()
    bench.give(table(1), after_seq=0)
    bench.give(table(2), after_seq=4)
    bench.give(table(3), after_seq=5)
    bench.database.fail("commit", Fault.AWAY)
    bench.cycle()
    bench.clock.advance(1)
    bench.writer.drain(5)
    bench.give(table(4), generation=1, after_seq=5)
    for _ in range(6):
        bench.cycle()
    assert bench.stored() == [4]


def test_two_failures_are_two_generations(bench: Bench) -> None:
    for generation in (0, 1):
        bench.database.fail("commit", Fault.AWAY)
        bench.give(table(1), generation=generation)
        bench.cycle()
        assert [report.generation for report in bench.take() if report.fault] == [generation]
        bench.clock.advance(1)
        bench.cycle()
        assert [report.recovered for report in bench.take()] == [True]


def test_no_try_is_made_before_its_pause_is_over(bench: Bench) -> None:
    bench.database.fail("commit", Fault.AWAY)
    bench.give(table(1))
    bench.cycle()
    opened = bench.database.opened
    bench.clock.advance(0.049)
    bench.cycle()
    assert bench.database.opened == opened
    bench.clock.advance(0.002)
    bench.cycle()
    assert bench.database.opened == opened + 1
    assert [report.recovered for report in bench.take()] == [False, True]


def test_pauses_double_up_to_two_seconds_and_begin_anew(bench: Bench) -> None:
    def pauses(failures: int) -> list[float]:
        bench.database.fail("commit", Fault.AWAY)
        bench.database.fail("open", Fault.AWAY, times=failures)
        bench.give(table(1), generation=bench.writer._generation)
        bench.cycle()
        found, last, opened = [], bench.clock.at, bench.database.opened
        while not any(report.recovered for report in bench.reports):
            bench.clock.advance(0.01)
            bench.cycle()
            if bench.database.opened > opened:
                found.append(round(bench.clock.at - last, 2))
                last, opened = bench.clock.at, bench.database.opened
        bench.take()
        return found

    expected = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert pauses(7) == pytest.approx(expected, abs=0.02)
    assert pauses(2) == pytest.approx(expected[:3], abs=0.02)


def test_every_connection_it_writes_with_has_little_patience_for_locks(bench: Bench) -> None:
    for _ in range(2):
        assert bench.writer._db is not None
        assert bench.writer._db.execute("PRAGMA busy_timeout").fetchone() == (10,)
        bench.database.fail("commit", Fault.AWAY)
        bench.give(table(1))
        bench.cycle()
        bench.clock.advance(1)
        bench.cycle()


def locked(bench: Bench, number: int, *, times: int) -> None:
    """Let a write meet a lock that is there for some more tries."""
    bench.database.fail("begin", Fault.BUSY, times=1 + times)
    bench.give(table(number), generation=bench.writer._generation)
    bench.cycle()


def test_a_lock_is_tried_again_at_once_and_no_news(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    locked(bench, 1, times=1)
    bench.clock.advance(0.0019)
    bench.cycle()
    assert [report.recovered for report in bench.take()] == [False]
    for _ in range(2):
        bench.clock.advance(0.00201)
        bench.cycle()
    assert [report.recovered for report in bench.take()] == [True]
    assert not bench.writer.stats.trouble and not caplog.records


def test_a_lock_is_news_after_a_second_and_tried_less_often_then(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    locked(bench, 1, times=999)
    for _ in range(99):
        bench.clock.advance(0.01)
        bench.cycle()
    assert bench.writer.stats.trouble == "" and not caplog.records
    bench.clock.advance(0.02)
    bench.cycle()
    assert bench.writer.stats.trouble == Fault.BUSY.value
    assert [record.action for record in caplog.records] == ["store_trouble"]  # type: ignore[attr-defined]
    bench.clock.advance(0.049)
    met = len(bench.database._faults)
    bench.cycle()
    assert len(bench.database._faults) == met
    bench.clock.advance(0.002)
    bench.cycle()
    assert len(bench.database._faults) == met - 1


def test_a_lock_that_lets_only_the_first_statement_through_is_the_same_lock(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """On Postgres a row is locked, and a transaction begins all the same."""
    caplog.set_level("INFO")
    bench.database.fail("commit", Fault.BUSY, times=999)
    for number in range(40):
        bench.give(table(number), generation=bench.writer._generation)
        bench.cycle()
        bench.clock.advance(0.1)
    assert bench.writer.stats.failures > 10 and bench.writer.stats.trouble == Fault.BUSY.value
    bench.database.work()
    for _ in range(2):
        bench.cycle()
        bench.clock.advance(0.1)
    assert not bench.writer.stats.trouble
    assert [record.action for record in caplog.records] == ["store_trouble", "store_recovered"]  # type: ignore[attr-defined]


def test_a_backup_goes_on_while_another_program_holds_the_lock_for_a_moment(bench: Bench, tmp_path: Any) -> None:
    errors: list[BaseException | None] = []
    honest = bench.db.copy

    def copy(target: Any, *, pages: int, between: Callable[[], object]) -> None:
        locked(bench, 1, times=0)
        honest(target, pages=pages, between=between)

    bench.db.copy = copy  # type: ignore[method-assign]
    bench.writer.back_up(BackupRequest(tmp_path / "copy.db", errors.append))
    bench.writer.stop()
    bench.writer.run(bench.reports.append)
    assert errors == [None]


def test_it_comes_back_only_when_a_write_reaches_the_disk(bench: Bench) -> None:
    bench.database.fail("commit", Fault.FULL, times=3)
    bench.give(table(1))
    bench.cycle()
    for _ in range(2):
        bench.clock.advance(2)
        bench.cycle()
    assert [report.recovered for report in bench.take()] == [False]
    bench.clock.advance(2)
    bench.cycle()
    assert [report.recovered for report in bench.take()] == [True]


def test_a_broken_file_ends_the_thread_and_tells_nobody_anything(bench: Bench) -> None:
    bench.database.fail("commit", Fault.BROKEN)
    bench.give(table(1))
    bench.writer.stop()
    with pytest.raises(StorageBroken):
        bench.writer.run(bench.reports.append)
    assert bench.reports == []


def test_what_was_committed_is_told_also_when_the_log_cannot_be_read_then(bench: Bench) -> None:
    bench.database.fail("execute", Fault.AWAY, when=lambda query: query.startswith('SELECT topic, "offset" FROM topic_head'))
    bench.give(table(1))
    bench.cycle()
    done, failed = bench.take()
    assert [result for _, result, _ in done.done] == [1] and failed.fault
    bench.clock.advance(1)
    bench.cycle()
    bench.cycle()
    assert [update.topic for report in bench.take() for update in report.updates] == ["tables"]


def test_an_older_database_is_a_new_history_with_the_whole_state(bench: Bench) -> None:
    bench.give(table(1), table(2))
    bench.cycle()
    bench.database.fail("commit", Fault.AWAY)
    bench.give(table(3))
    bench.cycle()
    bench.take()
    bench.database.ask("UPDATE topic_head SET \"offset\" = 1 WHERE topic = 'tables'")
    bench.clock.advance(1)
    bench.cycle()
    (report,) = bench.take()[:1]
    assert report.recovered and report.epoch not in ("", "first")
    assert {update.topic for update in report.updates if update.snapshot} >= {"tables", "robots", "orders"}
    assert bench.history.epoch == "first"  # told on the loop, with the snapshots
    assert bench.history.stored == report.epoch == bench.database.prepare(bench.db)
    assert bench.writer.stats.regressions == 1


@pytest.mark.parametrize(
    "change",
    ["UPDATE topic_head SET \"offset\" = 0 WHERE topic = 'tables'", "UPDATE meta SET value = 'other' WHERE key = 'epoch'"],
)
def test_a_new_history_is_told_also_where_the_first_try_to_tell_it_failed(bench: Bench, change: str) -> None:
    bench.give(table(1))
    bench.cycle()
    bench.database.fail("commit", Fault.AWAY)
    bench.give(table(2))
    bench.cycle()
    bench.take()
    bench.database.ask(change)
    bench.database.fail("execute", Fault.AWAY, when=lambda query: query.endswith("FROM robot ORDER BY id"))
    for _ in range(3):
        bench.clock.advance(2)
        bench.cycle()
    reports = bench.take()
    assert [bool(report.epoch) for report in reports if report.recovered] == [True]


def test_the_spool_is_drained_before_the_batch_that_comes_behind_it() -> None:
    rows = Rows()
    bench = Bench(spool=rows)
    bench.cycle()
    bench.take()
    order: list[str] = []
    drain = bench.writer._drain
    assert drain is not None

    def act(db: DbConnection, committer: Committer, after_seq: int | None) -> Report:
        order.append(f"drain up to {after_seq}")
        drain.drained_upto = after_seq or 9
        return Report(drained=after_seq or 9)

    drain.drain = act  # type: ignore[method-assign]
    bench.writer.drain(9)
    bench.give(ScriptedWrite(lambda tables: order.append("batch")), after_seq=5)
    for _ in range(3):
        bench.cycle()
    assert order == ["drain up to 5", "batch", "drain up to None"]


def test_batches_behind_different_rows_are_not_one_transaction() -> None:
    bench = Bench(spool=Rows())
    bench.cycle()
    bench.take()
    bench.give(table(1), after_seq=0)
    bench.give(table(2), after_seq=4)
    bench.give(table(3), after_seq=4)
    bench.writer.drain(4)
    bench.cycle()
    assert bench.stored() == [1]
    bench.cycle()  # passes over rows 1 to 4, which are not there
    bench.cycle()
    assert bench.stored() == [1, 2, 3]
    assert [report.drained for report in bench.take() if report.drained] == [4]


def test_a_spool_that_cannot_be_read_is_asked_again_after_a_rest() -> None:
    rows = Rows()
    rows.is_readable = False
    bench = Bench(spool=rows)
    bench.cycle()
    bench.writer.drain(4)
    for _ in range(3):
        bench.cycle()
    assert bench.slept == [POLL_S] * 3


def test_at_the_end_what_is_queued_is_committed(bench: Bench) -> None:
    bench.give(table(1), table(2), table(3), table(4))
    bench.writer.stop()
    bench.writer.run(bench.reports.append)
    assert bench.stored() == [1, 2, 3, 4]
    assert "PRAGMA wal_checkpoint(PASSIVE)" in bench.db.statements


def test_a_backup_lets_the_writer_work_between_its_steps(bench: Bench, tmp_path: Any) -> None:
    for start in range(0, 3000, 3):
        bench.give(*(table(start + number) for number in range(3)))
        bench.cycle()
    bench.take()
    errors: list[BaseException | None] = []
    steps: list[int] = []
    honest: Callable[..., Any] = bench.writer.cycle

    def cycle(report_to: Any) -> None:
        if bench.writer._backup is not None:
            steps.append(len(bench.stored()))
        honest(report_to)

    bench.writer.cycle = cycle  # type: ignore[method-assign]
    bench.writer.back_up(BackupRequest(tmp_path / "copy.part", errors.append))
    bench.writer.back_up(BackupRequest(tmp_path / "second.part", errors.append))
    bench.writer.stop()
    bench.writer.run(bench.reports.append)
    assert [str(error) for error in errors] == ["a backup is being made already", "None"]
    assert steps and (tmp_path / "copy.part").exists() and not (tmp_path / "second.part").exists()


def test_between_its_steps_the_writer_waits_for_devices(bench: Bench, tmp_path: Any) -> None:
    bench.writer.back_up(BackupRequest(tmp_path / "copy.part", lambda error: None))
    bench.writer.fetch(wait=False)
    waits: list[bool] = []
    bench.writer.fetch = lambda *, wait: waits.append(wait)  # type: ignore[method-assign]
    assert bench.writer._idle_s() == 0.003
    bench.writer._run_backup(bench.reports.append)
    assert waits and all(waits)


def test_a_backup_is_broken_off_when_the_database_fails(bench: Bench, tmp_path: Any) -> None:
    errors: list[BaseException | None] = []
    bench.writer.back_up(BackupRequest(tmp_path / "copy.part", errors.append))
    bench.writer.fetch(wait=False)
    bench.database.fail("commit", Fault.FULL)
    bench.give(table(1))
    bench.writer._run_backup(bench.reports.append)
    assert "broken off: the disk is full" in str(errors[0])
    assert [report.fault for report in bench.take()] == [Fault.FULL]


def test_a_broken_database_ends_the_writer_also_in_the_middle_of_a_backup(bench: Bench, tmp_path: Any) -> None:
    errors: list[BaseException | None] = []
    bench.writer.back_up(BackupRequest(tmp_path / "copy.part", errors.append))
    bench.writer.fetch(wait=False)
    bench.database.fail("commit", Fault.BROKEN)
    bench.give(table(1))
    with pytest.raises(StorageBroken):
        bench.writer._run_backup(bench.reports.append)
    assert bench.take() == []


def test_what_a_batch_taken_apart_had_committed_before_the_database_failed_is_told(bench: Bench) -> None:
    """The commit is refused as a whole, each write gets a transaction of its own, and the third meets a full disk."""
    honest = bench.db.commit
    alone: list[int] = []

    def commit() -> None:
        (count,) = bench.db.execute("SELECT count(*) FROM table_").fetchone()
        if count == 3 and not alone:
            bench.db.rollback()
            raise ScriptedError(Fault.WRITE)
        if count == 3:
            bench.db.rollback()
            raise ScriptedError(Fault.FULL)
        alone.append(count)
        honest()

    bench.db.commit = commit  # type: ignore[method-assign]
    bench.give(table(1), table(2), table(3))
    bench.cycle()
    told, failed = bench.take()
    assert [result for _, result, _ in told.done] == [1, 2] == bench.stored()
    assert failed.fault is Fault.FULL


def test_an_interrupt_reaches_the_connection_that_hangs(bench: Bench) -> None:
    bench.writer.interrupt()
    assert bench.db.interrupted == 1


AT = "2026-11-27T18:00:00.000000Z"


class Heard(logging.Handler):
    """Keeps of each line whether storing lines of the log caused it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.caused: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.caused.append(is_storing_lines())


@pytest.mark.parametrize(
    ("writes", "is_caused"),
    [([1], [True]), ([1, 2], [True]), (["table"], [False]), ([1, "table"], [False])],
)
def test_trouble_that_only_lines_of_the_log_met_is_marked_as_theirs(
    bench: Bench, writes: list[int | str], is_caused: list[bool]
) -> None:
    """A full disk that takes a mark, and no line: told again and again, each line would cause the next."""
    heard = Heard()
    logging.getLogger().addHandler(heard)
    bench.database.fail("commit", Fault.FULL)
    line = [
        table(5) if write == "table" else ServerLineWrite(int(write), "ERROR", "full", None, AT, lambda result, error: None)
        for write in writes
    ]
    bench.give(*line)  # type: ignore[arg-type]
    bench.cycle()
    logging.getLogger().removeHandler(heard)
    assert heard.caused == is_caused


def test_a_line_that_the_database_refuses_beside_others_is_marked_too_and_costs_them_nothing(bench: Bench) -> None:
    heard = Heard()
    logging.getLogger().addHandler(heard)
    bad = ServerLineWrite(1, "ERROR", "x", None, "no time", lambda result, error: None)
    bench.give(table(5), bad)  # type: ignore[arg-type]
    bench.cycle()
    logging.getLogger().removeHandler(heard)
    assert heard.caused == [True] and bench.stored() == [5]


def test_a_lock_that_another_one_took_meanwhile_is_said_until_it_is_ours_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def owned() -> None:
        raise DataOwned("db is in use by process 7")

    monkeypatch.setattr(bench.database, "kind", "postgres")  # on SQLite the writer would end
    bench.database.fail("commit", Fault.AWAY)
    bench.give(table(1))
    bench.cycle()
    with monkeypatch.context() as others:
        others.setattr(bench.database, "open_writer", owned)
        bench.clock.advance(5)
        bench.cycle()
        assert bench.writer.stats.lock_lost == "db is in use by process 7"
    bench.clock.advance(5)
    bench.cycle()
    assert bench.writer.stats.lock_lost == "" == bench.writer.stats.trouble
