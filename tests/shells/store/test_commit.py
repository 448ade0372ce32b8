"""One batch: together, else one by one, else each alone; a faulty write costs nobody else anything."""

from collections.abc import Callable
from typing import Any

import pytest

from robodyne_rt.protocol.device_messages import parse
from robodyne_rt.protocol.errors import DeadLettered, InvalidPayload
from robodyne_rt.store.engine.database import Fault
from robodyne_rt.store.intake.commit import Committer
from robodyne_rt.store.intake.letter_retries import LetterRetries
from robodyne_rt.store.intake.reports import Report
from robodyne_rt.store.intake.writes import MessageWrite
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from robodyne_rt.testing.clock import HandClock
from robodyne_rt.testing.database import MemoryDatabase, ScriptedError
from robodyne_rt.testing.store import ScriptedWrite


class Bench:
    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.db = self.database.open_writer()
        self.stats = WriterStats()
        self.retries = LetterRetries(self.database, max_attempts=3, stats=self.stats, clock=HandClock())
        self.committer = Committer(
            self.database,
            self.db,
            DeviceMessageWriter(self.db),
            retries=self.retries,
            max_attempts=3,
            stats=self.stats,
            clock=HandClock(),
        )

    def commit(self, *writes: Any, **options: Any) -> Report:
        report = Report()
        self.committer.commit(writes, report, **options)
        return report

    def tables(self) -> list[int]:
        return [number for (number,) in self.database.ask("SELECT table_number FROM table_ ORDER BY id")]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def table(number: int) -> ScriptedWrite:
    return ScriptedWrite(lambda tables: tables.db.execute("INSERT INTO table_(table_number) VALUES (?)", (number,)) and number)


def failing(error: Callable[[], Exception], *, times: int = 99, number: int = 77) -> ScriptedWrite:
    """A write that changes something and then fails, so often."""

    def act(tables: DeviceMessageWriter) -> Any:
        tables.db.execute("INSERT INTO table_(table_number) VALUES (?)", (number,))
        if write.applied <= times:
            raise error()
        return "at last"

    write = ScriptedWrite(act)
    return write


def test_a_batch_is_one_transaction_and_is_told_in_order(bench: Bench) -> None:
    report = bench.commit(table(1), table(2), table(3))
    assert [(result, error) for _, result, error in report.done] == [(1, None), (2, None), (3, None)]
    assert bench.tables() == [1, 2, 3]
    assert bench.db.statements.count("COMMIT") == 1
    assert bench.stats.commits == 1


def test_a_refusal_is_the_writes_own_answer_and_needs_no_second_try(bench: Bench) -> None:
    def refuse(tables: DeviceMessageWriter) -> None:
        raise InvalidPayload("no such dish")

    report = bench.commit(table(1), ScriptedWrite(refuse), table(2))
    assert [type(error) for _, _, error in report.done] == [type(None), InvalidPayload, type(None)]
    assert bench.db.statements.count("COMMIT") == 1
    assert bench.stats.errors == 0


def test_each_write_of_a_batch_that_was_rolled_back_is_told_once(bench: Bench) -> None:
    first, bad, last = table(1), failing(lambda: ValueError("own fault")), table(2)
    report = bench.commit(first, bad, last)
    assert [write for write, _, _ in report.done] == [first, bad, last]
    assert [type(error) for _, _, error in report.done] == [type(None), DeadLettered, type(None)]
    assert bench.tables() == [1, 2]


def test_a_faulty_write_without_an_id_is_parked_at_once(bench: Bench) -> None:
    bad = failing(lambda: ValueError("own fault"))
    report = bench.commit(table(1), bad)
    assert bad.applied == 1 + 2  # with its batch, alone, and with sequences put right
    ((error, attempts, state),) = bench.database.ask("SELECT error, attempts, state FROM dead_letter")
    assert (error, attempts, state) == ("ValueError: own fault", 1, "PARKED")
    (letter,) = report.dead_letters
    assert letter.write is bad and letter.error == "own fault" and report.reverted == [bad]
    assert report.done[1][2].details == {"dead_letter": letter.id, "state": "PARKED"}  # type: ignore[union-attr]
    assert (bench.stats.errors, bench.stats.dead_letters, bench.stats.parked_letters) == (1, 1, 1)


def test_a_faulty_write_with_an_id_is_told_at_once_that_it_will_be_tried_again(bench: Bench) -> None:
    bench.database.ask("CREATE TRIGGER rule BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'rule'); END")
    message, digest = parse(b'{"msg_type": "Event", "type": "CALL", "id": "m"}')
    report = bench.commit(MessageWrite(message, "d", digest, "2026-11-21T00:00:00.000000Z", [4]))
    assert report.dead_letters == [] and len(report.reverted) == 1
    error = report.done[0][2]
    assert isinstance(error, DeadLettered)
    assert error.details == {"dead_letter": 4, "state": "RETRYING", "retry_in_s": 2}
    assert bench.database.ask("SELECT state, attempts, retry_age_s FROM dead_letter") == [("RETRYING", 1, 2)]
    assert (bench.stats.dead_letters, bench.stats.parked_letters) == (0, 0)


def test_an_attempt_that_works_ends_the_trying(bench: Bench) -> None:
    late = failing(lambda: ValueError("not yet"), times=1)
    report = bench.commit(table(1), late)
    assert [result for _, result, _ in report.done] == [1, "at last"]
    assert bench.database.ask("SELECT count(*) FROM dead_letter") == [(0,)]


def test_what_cannot_be_spooled_leaves_no_dead_letter(bench: Bench) -> None:
    bad = failing(lambda: ValueError("own fault"))
    type(bad).spoolable = False
    try:
        report = bench.commit(bad)
    finally:
        type(bad).spoolable = True
    assert isinstance(report.done[0][2], ValueError)
    assert bench.database.ask("SELECT count(*) FROM dead_letter") == [(0,)]


@pytest.mark.parametrize("fault", [Fault.AWAY, Fault.FULL, Fault.BUSY, Fault.BROKEN])
def test_a_fault_of_the_database_goes_upwards_and_nothing_is_a_dead_letter(bench: Bench, fault: Fault) -> None:
    bench.database.fail("commit", fault)
    with pytest.raises(ScriptedError):
        bench.commit(table(1), table(2))
    bench.db.rollback()
    assert bench.tables() == []
    assert bench.database.ask("SELECT count(*) FROM dead_letter") == [(0,)]
    assert bench.stats.commits == 0


def test_a_commit_that_is_refused_is_taken_apart_and_only_the_guilty_one_is_kept_back(bench: Bench) -> None:
    """A deferred constraint shows at the commit only: together, one by one, and alone it is refused each time."""
    bad = table(13)

    def is_guilty() -> bool:
        return bool(bench.db.execute("SELECT 1 FROM table_ WHERE table_number = 13").fetchone())

    honest = bench.db.commit

    def commit() -> None:
        if is_guilty():
            bench.db.rollback()
            raise ScriptedError(Fault.WRITE)
        honest()

    bench.db.commit = commit  # type: ignore[method-assign]
    poison = failing(lambda: ValueError("own fault"))  # a dead letter of the try that was rolled back is none
    report = bench.commit(table(1), bad, poison, table(2))
    assert [type(error) for _, _, error in report.done] == [type(None), DeadLettered, DeadLettered, type(None)]
    assert bench.tables() == [1, 2]
    assert [letter.write for letter in report.dead_letters] == [bad, poison]


def test_a_write_that_yields_to_others_again_and_again_goes_upwards(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Postgres a deadlock or a statement's own time limit: nothing happened, but not for ever."""
    monkeypatch.setattr(bench.database, "has_yielded", lambda error: error.fault is Fault.BUSY)
    bench.database.fail("commit", Fault.WRITE, times=2)  # together, and one by one
    bench.database.fail("commit", Fault.BUSY, times=99)
    with pytest.raises(ScriptedError):
        bench.commit(table(1))
    assert bench.tables() == []


def test_a_lock_of_another_program_goes_upwards_at_once(bench: Bench) -> None:
    """Trying again would wait for it again, while devices wait behind."""
    bench.database.fail("begin", Fault.BUSY)
    with pytest.raises(ScriptedError):
        bench.commit(table(1), table(2))
    assert bench.tables() == []


def test_what_was_noted_beside_the_rows_is_forgotten_with_them(bench: Bench) -> None:
    """The newest `ts` of a robot out of a batch that was rolled back must not make its messages look outdated."""

    def report(ts: int, level: int, id: int) -> MessageWrite:
        body = b'{"msg_type":"Albabot","robot_id":"a","battery_level":%d,"ts":%d}' % (level, ts)
        return MessageWrite(parse(body)[0], "d", "", "2026-11-21T00:00:00.000000Z", [id])

    now = 1_795_219_100  # shortly before `heard_at`
    first, second = report(now + 1, 40, 1), report(now + 2, 30, 2)
    bench.commit(report(now, 50, 3))
    bench.database.fail("commit", Fault.FULL)
    with pytest.raises(ScriptedError):
        bench.commit(first, second)
    bench.commit(first)
    assert bench.database.ask("SELECT battery_level FROM robot") == [(40,)]


def test_the_mark_lives_or_dies_with_its_batch(bench: Bench) -> None:
    marked = []

    def mark(index: int) -> None:
        assert bench.db.in_transaction
        marked.append(index)

    bench.commit(table(1), table(2), mark=mark)
    assert marked == [1]
    marked.clear()
    bench.commit(table(3), failing(lambda: ValueError("own fault")), mark=mark)
    assert marked == [1, 1]  # together, then one by one


def test_a_message_is_named_before_it_is_done_so_that_doing_it_again_changes_nothing(bench: Bench) -> None:
    message, digest = parse(b'{"msg_type":"Event","type":"CALL","id":"1"}')
    write = MessageWrite(message, "d", digest, "2026-11-21T00:00:00.000000Z", [5])
    bench.database.fail("commit unheard", Fault.AWAY)
    with pytest.raises(ScriptedError):
        bench.commit(write)
    report = bench.commit(write)
    assert report.done[0][1] == {"event_id": 5}
    assert bench.database.ask("SELECT count(*) FROM event") == [(1,)]
