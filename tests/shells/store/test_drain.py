"""The spool's rows reach the database in order, each once, with the mark of how far it is in the same transaction."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.protocol.device_messages import parse
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.engine.database import Fault, read_meta
from robodyne_rt.store.intake import writes
from robodyne_rt.store.intake.commit import Committer
from robodyne_rt.store.intake.drain import SpoolDrain
from robodyne_rt.store.intake.letter_retries import LetterRetries
from robodyne_rt.store.intake.spool import SpooledRow
from robodyne_rt.store.intake.writes import MessageWrite
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from robodyne_rt.testing.clock import HandClock
from robodyne_rt.testing.database import MemoryDatabase, ScriptedError


class Rows:
    """A spool that can be read."""

    name = "spool-1"

    def __init__(self) -> None:
        self.kept: list[SpooledRow] = []
        self.forgotten: list[int] = []
        self.is_readable = True
        self.is_repair_due = False

    def rows(self, after: int, limit: int) -> list[SpooledRow]:
        if not self.is_readable:
            raise StorageUnavailable("torn")
        return [row for row in self.kept if row.seq > after][:limit]

    def forget(self, upto: int) -> None:
        self.forgotten.append(upto)

    def close_reader(self) -> None:
        pass


class Bench:
    def __init__(self, batch_max: int = 3) -> None:
        self.database = MemoryDatabase()
        self.stats = WriterStats()
        self.spool = Rows()
        self.clock = HandClock()
        self.connect()
        self.drain = SpoolDrain(
            self.spool,  # type: ignore[arg-type]
            batch_max=batch_max,
            ids=IdGenerator(wall=self.clock.wall(), now=self.clock.now()),
            stats=self.stats,
            clock=self.clock,
        )

    def connect(self) -> None:
        self.db = self.database.open_writer()
        tables = DeviceMessageWriter(self.db)
        retries = LetterRetries(self.database, max_attempts=3, stats=self.stats, clock=self.clock)
        self.committer = Committer(
            self.database, self.db, tables, retries=retries, max_attempts=3, stats=self.stats, clock=self.clock
        )

    def spooled(self, seq: int, text: str = "", **more: Any) -> None:
        body = {"msg_type": "Event", "type": "INFO", "description": text or f"n-{seq}", "id": f"id-{seq}", **more}
        message, digest = parse(orjson.dumps(body))
        write = MessageWrite(message, "d", digest, "2026-11-21T00:00:00.000000Z", [seq])
        self.spool.kept.append(SpooledRow(seq, writes.dump(write).decode()))

    def some(self, after_seq: int | None = None) -> Any:
        return self.drain.drain(self.db, self.committer, after_seq)

    def stored(self) -> list[str]:
        return [text for (text,) in self.database.ask("SELECT description FROM event ORDER BY id")]

    def mark(self) -> str | None:
        return read_meta(self.db, "spool:spool-1")


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    for seq in range(1, 6):
        bench.spooled(seq)
    return bench


def test_rows_are_stored_in_order_up_to_what_is_allowed(bench: Bench) -> None:
    assert not bench.drain.is_due(None)
    bench.drain.allow(4)
    assert bench.drain.is_due(None)
    assert bench.some().drained == 3
    assert bench.some().drained == 4
    assert not bench.drain.is_due(None)
    assert bench.stored() == ["n-1", "n-2", "n-3", "n-4"]
    assert bench.spool.forgotten == [3, 4]
    assert bench.stats.drained == 4


def test_a_batch_that_waits_behind_a_row_waits_for_no_more(bench: Bench) -> None:
    bench.drain.allow(5)
    assert bench.some(after_seq=2).drained == 2
    assert not bench.drain.is_due(2) and bench.drain.is_due(None)
    assert bench.stored() == ["n-1", "n-2"]


def test_the_mark_is_written_inside_the_transaction_of_its_rows(bench: Bench) -> None:
    bench.drain.allow(5)
    bench.some()
    statements = bench.db.statements
    marks = [index for index, statement in enumerate(statements) if statement.startswith("INSERT INTO meta")]
    begin, commit = statements.index("BEGIN IMMEDIATE"), statements.index("COMMIT")
    assert marks and all(begin < index < commit for index in marks)
    assert bench.mark() == "3"


@pytest.mark.parametrize(("step", "is_stored"), [("commit", False), ("commit unheard", True)])
def test_a_commit_without_an_answer_stores_rows_and_mark_or_neither(bench: Bench, step: Any, is_stored: bool) -> None:
    bench.drain.allow(5)
    bench.database.fail(step, Fault.AWAY)
    with pytest.raises(ScriptedError):
        bench.some()
    assert bench.stored() == (["n-1", "n-2", "n-3"] if is_stored else [])
    assert bench.spool.forgotten == []
    bench.connect()
    assert bench.drain.read_mark(bench.db) == (3 if is_stored else 0)
    while bench.drain.is_due(None):
        bench.some()
    assert bench.stored() == ["n-1", "n-2", "n-3", "n-4", "n-5"]


def test_numbers_without_rows_are_passed_over(bench: Bench) -> None:
    """Their append had failed, or another life stored them."""
    bench.spool.kept.clear()
    bench.drain.allow(9)
    assert bench.some().drained == 9
    assert not bench.drain.is_due(None)


def test_a_row_that_is_refused_becomes_a_dead_letter_beside_its_neighbours(bench: Bench) -> None:
    bench.spool.kept.clear()
    bench.spooled(1)
    bench.spooled(2, "other body", id="id-1")  # a conflict nobody could see while the database was away
    bench.spooled(3)
    bench.drain.allow(3)
    report = bench.some()
    assert bench.stored() == ["n-1", "n-3"]
    assert bench.database.ask("SELECT attempts, message_id FROM dead_letter") == [(1, None)]
    assert len(report.dead_letters) == 1
    assert [write.keys for write in report.reverted] == [[("events", 2)]]
    assert report.done == []  # they were answered when they came into the spool


def test_a_row_that_cannot_be_read_becomes_a_dead_letter_as_it_is(bench: Bench) -> None:
    bench.spool.kept[1] = SpooledRow(2, '{"kind":"of a later version"}')
    bench.drain.allow(3)
    bench.some()
    assert bench.stored() == ["n-1", "n-3"]
    assert bench.database.ask("SELECT kind, payload FROM dead_letter") == [("unreadable", '{"kind":"of a later version"}')]


def test_a_spool_that_cannot_be_read_is_said_and_nothing_is_lost(bench: Bench) -> None:
    bench.drain.allow(3)
    bench.spool.is_readable = False
    assert bench.some() is None
    assert (bench.stats.trouble, bench.stats.spool_unreadable) == ("torn", True)
    bench.spool.is_readable = True
    assert bench.some().drained == 3
    assert (bench.stats.trouble, bench.stats.spool_unreadable) == ("", False)


def test_a_spool_that_cannot_be_read_for_five_seconds_is_given_up(bench: Bench) -> None:
    bench.drain.allow(3)
    bench.spool.is_readable = False
    assert bench.some() is None
    bench.clock.advance(4.9)
    assert bench.some() is None
    bench.clock.advance(0.2)
    report = bench.some()
    assert report.drain_failed and not report.is_empty and not report.drained
    assert not bench.drain.is_due(None)  # a healthy database does not wait for them
    bench.spool.is_readable, bench.spool.kept, bench.spool.name = True, [], "spool-2"
    bench.spooled(4, "of the new file")
    bench.drain.allow(4)
    assert bench.some().drained == 4 and read_meta(bench.db, "spool:spool-2") == "4"


def test_patience_begins_anew_with_each_trouble(bench: Bench) -> None:
    bench.drain.allow(3)
    bench.spool.is_readable = False
    assert bench.some() is None
    bench.spool.is_readable = True
    bench.some()
    bench.spooled(4)
    bench.drain.allow(4)
    bench.clock.advance(60)
    bench.spool.is_readable = False
    assert bench.some() is None


def test_each_row_alone_brings_its_own_mark(bench: Bench) -> None:
    bench.drain.allow(3)
    honest: Callable[[], None] = bench.db.commit
    marks: list[str | None] = []

    def commit() -> None:
        rows = bench.db.execute("SELECT count(*) FROM event WHERE description = 'n-2'").fetchone()
        if rows[0]:
            bench.db.rollback()
            raise ScriptedError(Fault.WRITE)
        marks.append(bench.mark())
        honest()

    bench.db.commit = commit  # type: ignore[method-assign]
    bench.some()
    assert marks == ["1", "2", "3"]
    assert bench.stored() == ["n-1", "n-3"]
    assert bench.database.ask("SELECT count(*) FROM dead_letter") == [(1,)]
