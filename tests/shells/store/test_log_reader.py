"""What is new in the log becomes updates without a gap; a hole becomes a snapshot."""

import pytest

from robodyne_rt.model.changes import Update
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.store.engine.database import Fault
from robodyne_rt.store.log import change_log as change_log_module
from robodyne_rt.store.log import reader as reader_module
from robodyne_rt.store.log.change_log import ChangeLog, HistoryLost
from robodyne_rt.store.log.history import History
from robodyne_rt.store.log.reader import LogReader
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.testing.clock import HandClock
from robodyne_rt.testing.database import MemoryDatabase, ScriptedError
from tests.stores import WINDOWS


class Bench:
    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.db = self.database.open_writer()
        self.stats = WriterStats()
        self.clock = HandClock()
        self.reader = LogReader(self.db, windows=WINDOWS, history=History("first"), stats=self.stats, clock=self.clock)
        self.reader.snapshots()
        self.log = ChangeLog(self.db, windows=WINDOWS)

    def tables(self, *numbers: int) -> None:
        for number in numbers:
            self.database.ask("INSERT INTO table_(table_number) VALUES (?)", number)

    def read(self) -> list[Update]:
        updates: list[Update] = []
        self.reader.read(updates, assign_offsets=True)
        return updates


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_each_topic_that_moved_gives_an_update_from_where_it_was_read(bench: Bench) -> None:
    bench.tables(1, 2)
    (update,) = bench.read()
    assert (update.topic, update.prev, update.offset, len(update.entities)) == ("tables", 0, 2, 2)
    bench.tables(3)
    (update,) = bench.read()
    assert (update.prev, update.offset) == (2, 3)
    assert bench.read() == []
    assert bench.stats.newest_change_at and bench.stats.published_at


def reading_takes(bench: Bench, seconds: float) -> None:
    honest = bench.reader._log.after

    def after(topic: str, offset: int, limit: int) -> Update:
        bench.clock.advance(seconds)
        return honest(topic, offset, limit)

    bench.reader._log.after = after  # type: ignore[method-assign]


def test_a_bulk_load_comes_in_pieces_over_several_cycles(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices wait for their next commit while the log is read: no piece is begun after 3 ms."""
    monkeypatch.setattr(reader_module, "MAX_LINES_PER_UPDATE", 2)
    reading_takes(bench, 0.00101)
    bench.tables(*range(1, 12))
    assert [(update.prev, update.offset) for update in bench.read()] == [(0, 2), (2, 4), (4, 6)]
    assert bench.reader.has_more
    assert [(update.prev, update.offset) for update in bench.read()] == [(6, 8), (8, 10), (10, 11)]
    assert not bench.reader.has_more


def test_a_piece_is_a_hundred_lines(bench: Bench) -> None:
    bench.tables(*range(1, 202))
    assert [update.offset for update in bench.read()] == [100, 200, 201]


def test_each_cycle_reads_something_however_slow_the_disk_is(bench: Bench) -> None:
    reading_takes(bench, 5.0)
    bench.tables(*range(1, 102))
    assert [[update.offset for update in bench.read()] for _ in range(2)] == [[100], [101]]


def test_what_moved_least_does_not_wait_for_a_bulk_load(bench: Bench) -> None:
    reading_takes(bench, 5.0)
    bench.database.ask(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
        "INSERT INTO inventory(name) SELECT i FROM n"
    )
    bench.tables(1)
    assert [update.topic for update in bench.read()] == ["tables"]
    assert bench.reader.has_more
    assert [update.topic for update in bench.read()] == ["inventory"]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM change WHERE topic = 'tables' AND \"offset\" = 2",
        "DELETE FROM change WHERE topic = 'tables'",
        "UPDATE topic_head SET \"offset\" = 9 WHERE topic = 'tables'",
    ],
)
def test_a_hole_in_the_log_gives_the_whole_state(bench: Bench, damage: str) -> None:
    bench.tables(1, 2, 3)
    bench.database.ask(damage)
    update = bench.read()[-1]
    assert update.snapshot and len(update.entities) == 3
    assert bench.reader.positions["tables"] == update.offset
    assert bench.read() == []


CHANGED_HISTORY = {
    "the head went back": "UPDATE topic_head SET \"offset\" = 2 WHERE topic = 'tables'",
    "another line": "UPDATE change SET at = '2026-01-01T00:00:00.000Z' WHERE topic = 'tables' AND \"offset\" = 3",
    "another key": "UPDATE change SET key = 17 WHERE topic = 'tables' AND \"offset\" = 3",
    "another epoch": "UPDATE meta SET value = 'other' WHERE key = 'epoch'",
}


@pytest.mark.parametrize("what", CHANGED_HISTORY)
def test_a_database_with_another_history_is_found(bench: Bench, what: str) -> None:
    bench.tables(1, 2, 3)
    bench.read()
    bench.reader.check_history()
    bench.database.ask(CHANGED_HISTORY[what])
    with pytest.raises(HistoryLost):
        bench.reader.check_history()


@pytest.mark.parametrize("what", [what for what in CHANGED_HISTORY if what != "another epoch"])  # each cycle reads no epoch
def test_so_it_is_before_anything_after_it_is_read(bench: Bench, what: str) -> None:
    bench.tables(1, 2, 3)
    bench.read()
    bench.database.ask(CHANGED_HISTORY[what])
    if what != "the head went back":
        bench.tables(4)
    with pytest.raises(HistoryLost):
        bench.read()


def test_a_line_that_was_pruned_proves_nothing(bench: Bench) -> None:
    bench.tables(1, 2, 3)
    bench.read()
    bench.database.ask("DELETE FROM change WHERE topic = 'tables' AND \"offset\" = 3")
    bench.reader.check_history()


def test_after_a_snapshot_of_the_new_history_it_is_the_one_that_counts(bench: Bench) -> None:
    bench.tables(1, 2, 3)
    bench.read()
    bench.database.ask(CHANGED_HISTORY["another line"])
    bench.reader.snapshots()
    bench.reader.check_history()


def test_positions_are_behind_what_was_read_also_where_reading_fails_in_the_middle(bench: Bench) -> None:
    bench.tables(1)
    bench.database.ask("INSERT INTO robot(robot_id) VALUES ('a')")
    read_first, fails = [topic for topic in TOPICS if topic in ("robots", "tables")]
    table = "table_" if fails == "tables" else "robot"
    bench.database.fail("execute", Fault.AWAY, when=lambda query: f"FROM {table} " in query)
    updates: list[Update] = []
    with pytest.raises(ScriptedError):
        bench.reader.read(updates, assign_offsets=True)
    told = {update.topic: update.offset for update in updates}
    for topic in (read_first, fails):
        assert bench.reader.positions[topic] == told.get(topic, 0)
    assert {update.topic for update in bench.read()} | set(told) == {"robots", "tables"}


def test_a_value_that_cannot_be_read_is_told_once(bench: Bench) -> None:
    bench.database.ask(
        "INSERT INTO event(id, type, severity, timestamp, data) VALUES (1, 'X', 'INFO', '2026-01-01T00:00:00Z', '{')"
    )
    for _ in range(2):
        bench.database.ask("UPDATE event SET type = type || '!'")
        bench.read()
    texts = [text for _ in range(2) for text in bench.reader.unreadable()]
    assert texts == ["event.data of row 1 cannot be read; shown as null"]


def test_what_changed_is_named_once_and_read_in_its_newest_state(bench: Bench) -> None:
    bench.tables(1, 2)
    bench.database.ask("UPDATE table_ SET customer_count = 4 WHERE table_number = 1")
    bench.database.ask("UPDATE table_ SET customer_count = 5 WHERE table_number = 1")
    changed = bench.log.changed("tables", 2)
    assert changed is not None and changed.offset == 4 and len(changed.keys) == 1
    assert [entity["customer_count"] for entity in bench.log.entities("tables", changed.keys).values()] == [5]


def test_since_over_a_log_with_lines_missing_is_never_a_silent_gap(bench: Bench) -> None:
    bench.tables(1, 2, 3, 4)
    assert bench.log.changed("tables", 1) is not None
    bench.database.ask("DELETE FROM change WHERE topic = 'tables' AND \"offset\" = 3")
    assert bench.log.changed("tables", 1) is None
    assert bench.log.changed("tables", 3) is not None  # what is whole from there on is enough


@pytest.mark.parametrize("offset", [-1, 5, 1000])
def test_since_an_offset_that_the_log_does_not_hold_is_nothing(bench: Bench, offset: int) -> None:
    bench.tables(1, 2, 3, 4)
    assert bench.log.changed("tables", offset) is None


def test_since_an_offset_that_was_pruned_is_nothing(bench: Bench) -> None:
    bench.tables(1, 2, 3, 4)
    bench.database.ask("DELETE FROM change WHERE topic = 'tables' AND \"offset\" <= 2")
    assert bench.log.changed("tables", 1) is None
    assert bench.log.changed("tables", 2) is not None


def test_a_window_too_large_to_hold_is_not_read_but_who_may_come_in_is_always_known(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.tables(1, 2, 3, 4)
    bench.database.ask(
        "INSERT INTO user_(name, roles, password_hash, created_at) VALUES ('kim', '[]', '', '2026-01-01T00:00:00Z')"
    )
    monkeypatch.setattr(reader_module, "WINDOW_BYTES", 1000)
    snapshots = {snapshot.topic: snapshot for snapshot in bench.reader.snapshots()}
    assert (snapshots["tables"].is_whole, snapshots["tables"].entities, snapshots["tables"].offset) == (False, {}, 4)
    assert snapshots["users"].is_whole and len(snapshots["users"].entities) == 1


def test_large_rows_become_several_updates(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log_module, "KEYS_PER_READ", 3)
    monkeypatch.setattr(change_log_module, "UPDATE_BYTES", 2000)
    bench.tables(*range(1, 11))
    bench.database.ask("UPDATE table_ SET customer_count = 2 WHERE id = 2")
    bench.database.ask("DELETE FROM table_ WHERE id = 9")
    offset, seen, removed = 0, set(), []
    while (update := bench.log.after("tables", offset, 500)).offset > offset:
        assert update.prev == offset and len(update.entities) <= 6
        seen |= set(update.entities)
        removed += update.removed
        offset = update.offset
    assert offset == 12 and seen == set(range(1, 11)) - {9} and set(removed) == {9}
