"""What is forgotten, and when: days are counted while the server runs, not by a wall clock that may jump."""

import pytest

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.store.engine.database import Fault, read_meta
from robodyne_rt.store.log import maintenance as maintenance_module
from robodyne_rt.store.log.maintenance import Maintenance
from robodyne_rt.store.log.retention import Retention
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from robodyne_rt.testing.clock import HandClock
from robodyne_rt.testing.database import MemoryDatabase, ScriptedError

DAY_S = 86400


class Bench:
    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.db = self.database.open_writer()
        self.clock = HandClock()
        self.stats = WriterStats()
        self.tables = DeviceMessageWriter(self.db)
        self.begin()

    def begin(self) -> None:
        self.maintenance = Maintenance(
            self.database,
            self.db,
            stats=self.stats,
            changes_retained=3,
            look_interval_s=10.0,
            retention_days=14,
            retention=Retention(days={}, windows={}, may_delete=lambda: True, database=self.database, clock=self.clock),
            ids=IdGenerator(wall=self.clock.wall(), now=self.clock.now()),
            clock=self.clock,
        )

    def run(self, positions: dict[str, int] | None = None) -> None:
        self.maintenance.run(self.db, self.tables, positions or {}, self.clock.now())

    def pass_days(self, days: float) -> None:
        """Let the server run for so long; maintenance looks in between as often as it takes to walk everything."""
        self.clock.advance(days * DAY_S)
        for _ in range(3):
            self.run()
            self.clock.advance(0.3)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_ids_are_known_for_seven_days(bench: Bench) -> None:
    bench.run()
    assert bench.tables.claim("d", "1", "body", 5) == 5
    bench.pass_days(6.9)
    assert bench.tables.claim("d", "1", "body", 6) == 5
    bench.pass_days(0.2)
    assert bench.tables.claim("d", "1", "body", 7) == 7


def test_dead_letters_are_kept_for_fourteen_days(bench: Bench) -> None:
    bench.run()
    letter = {"id": 9, "kind": "message", "device": None, "message_id": None, "payload": "{}", "error": "e", "attempts": 3}
    bench.tables.store_dead_letter(letter | {"first_at": "2026-01-01T00:00:00Z", "last_at": "2026-01-01T00:00:00Z"}, "")
    bench.pass_days(13.9)
    assert bench.database.ask("SELECT id FROM dead_letter") == [(9,)]
    bench.pass_days(0.2)
    assert bench.database.ask("SELECT id FROM dead_letter") == []


def test_the_age_of_the_database_outlives_the_process(bench: Bench) -> None:
    bench.pass_days(3)
    assert float(read_meta(bench.db, "age_s") or 0) >= 3 * DAY_S
    bench.begin()
    assert bench.maintenance.age_s >= 3 * DAY_S
    bench.pass_days(1)
    assert bench.tables.age_s >= 4 * DAY_S - 5


def test_the_log_is_pruned_to_what_is_retained_and_not_more_often_than_four_times_a_second(bench: Bench) -> None:
    for number in range(8):
        bench.database.ask("INSERT INTO table_(table_number) VALUES (?)", number)
    bench.run({"tables": 8})
    assert bench.database.ask("SELECT \"offset\" FROM change WHERE topic = 'tables'") == [(6,), (7,), (8,)]
    bench.database.ask("INSERT INTO table_(table_number) VALUES (99)")
    bench.run({"tables": 9})
    assert len(bench.database.ask("SELECT 1 FROM change WHERE topic = 'tables'")) == 4
    bench.clock.advance(0.25)
    bench.run({"tables": 9})
    assert len(bench.database.ask("SELECT 1 FROM change WHERE topic = 'tables'")) == 3


def test_after_a_bulk_load_the_log_is_pruned_in_small_steps_that_follow_each_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices wait while a step is done: one at a time, however much there is, and however many topics."""
    monkeypatch.setattr(maintenance_module, "PRUNE_STEP", 2)
    for number in range(8):
        bench.database.ask("INSERT INTO table_(table_number) VALUES (?)", number)
        bench.database.ask("INSERT INTO robot(robot_id) VALUES (?)", str(number))

    def left() -> list[int]:
        bench.run({"tables": 8, "robots": 8})
        return [
            bench.database.ask(f"SELECT count(*) FROM change WHERE topic = '{topic}'")[0][0] for topic in ("robots", "tables")
        ]

    assert left() == [6, 8] and bench.maintenance.is_behind
    bench.clock.advance(0.0099)
    assert left() == [6, 8]
    bench.clock.advance(0.0002)
    assert left() == [4, 8]
    for expected in ([3, 6], [3, 4], [3, 3]):
        bench.clock.advance(0.0101)
        assert left() == expected
    assert not bench.maintenance.is_behind


def test_a_step_is_two_hundred_lines(bench: Bench) -> None:
    for number in range(300):
        bench.database.ask("INSERT INTO table_(table_number) VALUES (?)", number)
    bench.run({"tables": 300})
    assert bench.database.ask("SELECT count(*) FROM change WHERE topic = 'tables'") == [(100,)]


def test_everything_else_keeps_its_interval_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance_module, "PRUNE_STEP", 1)
    for number in range(90):
        bench.database.ask("INSERT INTO table_(table_number) VALUES (?)", number)
    walks = "SELECT device, id, at FROM device_message"
    for _ in range(60):
        bench.run({"tables": 90})
        bench.clock.advance(0.01)
    assert len([statement for statement in bench.db.statements if statement.startswith(walks)]) == 3


def test_what_was_not_read_yet_is_never_pruned(bench: Bench) -> None:
    for number in range(8):
        bench.database.ask("INSERT INTO table_(table_number) VALUES (?)", number)
    bench.run({"tables": 2})
    assert len(bench.database.ask("SELECT 1 FROM change WHERE topic = 'tables'")) == 8


def test_triggers_that_are_gone_are_put_back_within_seconds_and_their_topics_read_anew(bench: Bench) -> None:
    bench.run()
    bench.database.ask("DROP TRIGGER zz_table__insert")
    bench.database.ask("DROP TRIGGER zz_order_item_insert")
    bench.database.ask("INSERT INTO table_(table_number) VALUES (1)")
    bench.clock.advance(1.7)
    bench.run()
    assert bench.maintenance.restored_topics == []
    bench.clock.advance(0.4)
    bench.run()
    assert bench.maintenance.restored_topics == ["orders", "tables"]
    assert bench.stats.missing_triggers == [] == bench.db.missing_triggers()
    assert bench.database.ask("SELECT topic, key, op FROM change ORDER BY topic") == [
        ("orders", 0, "truncate"),
        ("tables", 0, "truncate"),
    ]
    assert ("tables", 1) in bench.database.ask('SELECT topic, "offset" FROM topic_head')


def test_triggers_that_cannot_be_put_back_are_told(bench: Bench) -> None:
    bench.run()
    bench.database.ask("DROP TRIGGER zz_table__insert")
    bench.database.fail("execute", Fault.WRITE, times=2, when=lambda query: query.startswith("CREATE TRIGGER"))
    for _ in range(2):
        bench.clock.advance(2.1)
        bench.run()
        assert bench.stats.missing_triggers == ["zz_table__insert"] and bench.maintenance.restored_topics == []
    bench.clock.advance(2.1)
    bench.run()
    assert bench.stats.missing_triggers == [] and bench.maintenance.restored_topics == ["tables"]


@pytest.mark.parametrize(
    ("fault", "goes_on"), [(Fault.BUSY, True), (Fault.FULL, True), (Fault.AWAY, False), (Fault.BROKEN, False)]
)
def test_a_lock_or_a_full_disk_puts_off_and_anything_worse_goes_upwards(bench: Bench, fault: Fault, goes_on: bool) -> None:
    for number in range(8):
        bench.database.ask("INSERT INTO table_(table_number) VALUES (?)", number)
    bench.database.fail("execute", fault, when=lambda query: query.startswith("DELETE FROM change"))
    if goes_on:
        before = len(bench.db.statements)
        bench.run({"tables": 8, "robots": 5000})
        assert len(bench.db.statements) == before + 1  # each statement would wait for the lock again
        bench.clock.advance(0.3)
        bench.run({"tables": 8})
        assert len(bench.database.ask("SELECT 1 FROM change WHERE topic = 'tables'")) == 3
    else:
        with pytest.raises(ScriptedError):
            bench.run({"tables": 8})
