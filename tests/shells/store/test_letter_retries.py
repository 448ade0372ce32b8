"""What failed by its own fault is tried again after 2 s and 30 s, beside everything else, also over a restart."""

from typing import Any

import orjson
import pytest

from robodyne_rt.protocol.device_messages import parse
from robodyne_rt.protocol.errors import DeadLettered
from robodyne_rt.store.engine.database import Fault
from robodyne_rt.store.intake.commit import Committer
from robodyne_rt.store.intake.letter_retries import MAX_PER_CYCLE, LetterRetries, retry_in_s
from robodyne_rt.store.intake.reports import Report
from robodyne_rt.store.intake.writes import MessageWrite
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from robodyne_rt.testing.clock import HandClock
from robodyne_rt.testing.database import MemoryDatabase, ScriptedError

HEARD_AT = "2026-11-21T00:00:10.000000Z"
RULE = "CREATE TRIGGER rule BEFORE INSERT ON event WHEN NEW.description = 'bad' BEGIN SELECT RAISE(ABORT, 'rule'); END"


class Bench:
    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.db = self.database.open_writer()
        self.clock = HandClock()
        self.stats = WriterStats()
        self.tables = DeviceMessageWriter(self.db)
        self.begin()

    def begin(self) -> None:
        self.retries = LetterRetries(self.database, max_attempts=3, stats=self.stats, clock=self.clock)
        self.retries.load(self.db)
        self.committer = Committer(
            self.database, self.db, self.tables, retries=self.retries, max_attempts=3, stats=self.stats, clock=self.clock
        )

    def say(self, id: str, heard_at: str = HEARD_AT, **body: Any) -> Any:
        """Return what the device is told."""
        message, digest = parse(orjson.dumps({"id": id, **body}))
        report = Report()
        self.committer.commit([MessageWrite(message, "d", digest, heard_at, [int(id)])], report)
        ((_, result, error),) = report.done
        return error or result

    def bad(self, id: str = "7") -> Any:
        return self.say(id, msg_type="Event", type="CALL", description="bad")

    def after(self, seconds: float) -> Report | None:
        self.clock.advance(seconds)
        self.tables.age_s += int(seconds)
        return self.retries.run(self.db, self.tables, self.clock.now())

    def letters(self) -> list[tuple[str, int]]:
        return self.database.ask("SELECT state, attempts FROM dead_letter ORDER BY id")


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.database.ask(RULE)
    return bench


@pytest.mark.parametrize(("attempts", "delay_s"), [(1, 2), (2, 30), (3, None), (4, None)])
def test_the_pauses(attempts: int, delay_s: int | None) -> None:
    assert retry_in_s(attempts, 3) == delay_s
    assert retry_in_s(1, 1) is None


def test_a_fault_that_is_gone_after_a_second_costs_nothing(bench: Bench) -> None:
    assert bench.bad().details == {"dead_letter": 7, "state": "RETRYING", "retry_in_s": 2}
    bench.database.ask("DROP TRIGGER rule")
    assert bench.after(1.9) is None
    report = bench.after(0.2)
    assert report is not None and report.dead_letters == []
    assert bench.letters() == []
    assert bench.database.ask("SELECT id, description FROM event") == [(7, "bad")]
    assert bench.bad() == {"event_id": 7}  # its id answers success from there on
    assert bench.after(60) is None


def test_one_that_lasts_is_tried_twice_more_and_parked(bench: Bench) -> None:
    bench.bad()
    report = bench.after(2)
    assert report is not None and report.dead_letters == [] and bench.letters() == [("RETRYING", 2)]
    assert bench.bad().details == {"dead_letter": 7, "state": "RETRYING", "retry_in_s": 30}
    assert bench.after(29.9) is None
    report = bench.after(0.2)
    assert report is not None and [letter.id for letter in report.dead_letters] == [7]
    assert bench.letters() == [("PARKED", 3)]
    ((text, _),) = report.error_events()
    assert "kept as a dead letter" in text and "rule" in text
    assert (bench.stats.dead_letters, bench.stats.parked_letters) == (1, 1)
    assert bench.bad().details == {"dead_letter": 7, "state": "PARKED"}
    assert bench.after(3600) is None and bench.database.ask("SELECT count(*) FROM event") == [(0,)]


def test_it_goes_on_after_a_restart(bench: Bench) -> None:
    bench.bad()
    bench.after(2)
    bench.begin()
    assert bench.after(1.9) is None
    assert bench.after(0.2) is not None and bench.letters() == [("PARKED", 3)]


def test_neighbours_are_tried_by_themselves_and_not_all_at_once(bench: Bench) -> None:
    for id in range(1, MAX_PER_CYCLE + 6):
        bench.bad(str(id))
    bench.database.ask("DROP TRIGGER rule")
    bench.database.ask(RULE.replace("NEW.description = 'bad'", "NEW.id = 3"))
    bench.after(2)
    assert len(bench.letters()) == 5 + 1
    bench.after(0)
    assert bench.letters() == [("RETRYING", 2)]
    assert bench.database.ask("SELECT count(*) FROM event") == [(MAX_PER_CYCLE + 4,)]


def test_a_database_that_fails_meanwhile_is_another_matter(bench: Bench) -> None:
    bench.bad()
    bench.database.ask("DROP TRIGGER rule")
    bench.database.fail("commit", Fault.AWAY)
    with pytest.raises(ScriptedError):
        bench.after(2)
    bench.db.rollback()
    assert bench.letters() == [("RETRYING", 1)]
    assert bench.after(0) is not None and bench.letters() == []


def test_what_an_operator_dropped_is_not_tried(bench: Bench) -> None:
    bench.bad()
    bench.database.ask("DELETE FROM dead_letter")
    report = bench.after(2)
    assert report is not None and report.is_empty
    assert bench.after(60) is None


def test_a_letter_that_cannot_be_loaded_is_parked_like_any_other(bench: Bench) -> None:
    bench.bad()
    bench.database.ask("UPDATE dead_letter SET payload = 'torn'")
    bench.after(2)
    report = bench.after(30)
    assert report is not None and bench.letters() == [("PARKED", 3)]
    assert report.error_events()


STATE = [
    ({"msg_type": "Albabot", "robot_id": "alba-1"}, "battery_level", 50, 40, "robot", "battery_level"),
    ({"msg_type": "Table", "table_number": 3}, "customer_count", 4, 2, "table_", "customer_count"),
    ({"msg_type": "Inventory", "name": "rice"}, "count", 9, 5, "inventory", "count"),
    ({"msg_type": "Ingredient", "name": "rice"}, "count", 9, 5, "inventory", "count"),
]


@pytest.mark.parametrize(("body", "field", "old", "new", "table", "column"), STATE)
@pytest.mark.parametrize("newer", ["stored", "the same again", "none", "before"])
def test_a_report_of_state_is_dropped_where_newer_state_was_stored(
    bench: Bench, body: dict[str, Any], field: str, old: float, new: float, table: str, column: str, newer: str
) -> None:
    bench.database.ask("INSERT INTO ingredient(id, name) VALUES (1, 'rice')")
    bench.database.ask("INSERT INTO inventory(id, ingredient_id, name, count) VALUES (1, 1, 'rice', 5)")
    assert not isinstance(bench.say("1", "2026-11-21T00:00:00.000000Z", **body, **{field: new}), DeadLettered)
    bench.database.ask(
        f"CREATE TRIGGER stuck BEFORE UPDATE ON {table} WHEN NEW.{column} = {old} BEGIN SELECT RAISE(ABORT, 'x'); END"
    )
    assert isinstance(bench.say("2", HEARD_AT, **body, **{field: old}), DeadLettered)
    bench.database.ask("DROP TRIGGER stuck")
    if newer == "stored":
        bench.say("3", "2026-11-21T00:00:11.000000Z", **body, **{field: new + 1})
    elif newer == "the same again":
        bench.say("3", "2026-11-21T00:00:11.000000Z", **body, **{field: new})
    elif newer == "before":
        bench.say("3", "2026-11-21T00:00:09.000000Z", **body, **{field: new})
    assert bench.after(2) is not None and bench.letters() == []
    stored = {"stored": new + 1, "the same again": new}.get(newer, old)
    assert bench.database.ask(f"SELECT {column} FROM {table}") == [(stored,)]
    assert not isinstance(bench.say("2", HEARD_AT, **body, **{field: old}), DeadLettered)  # it is told success either way


def test_what_was_overtaken_meanwhile_is_dropped_and_answered_success(bench: Bench) -> None:
    bench.database.ask(
        "CREATE TRIGGER low BEFORE INSERT ON robot WHEN NEW.battery_level = 13 BEGIN SELECT RAISE(ABORT, 'unlucky'); END"
    )
    older: dict[str, Any] = {"msg_type": "Albabot", "robot_id": "a", "battery_level": 13, "ts": "2026-11-21T00:00:01Z"}
    assert isinstance(bench.say("7", **older), DeadLettered)
    bench.say("8", msg_type="Albabot", robot_id="a", battery_level=50, ts="2026-11-21T00:00:02Z")
    report = bench.after(2)
    assert report is not None and report.dead_letters == [] and bench.letters() == []
    assert bench.database.ask("SELECT battery_level FROM robot") == [(50.0,)]
    assert not isinstance(bench.say("7", **older), Exception)  # its id answers success from there on
