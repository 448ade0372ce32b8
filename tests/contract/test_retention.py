"""What is older than it is kept goes in small steps that no screen hears, and never what a window shows."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.model import times
from robodyne_rt.store.log import maintenance, retention
from robodyne_rt.store.log.retention import RULES, STEP_ROWS, Retention
from robodyne_rt.testing.clock import HandClock
from tests.contract.running import Running
from tests.stores import WINDOWS, Store

DAY_S = 86400.0


class Bench:
    """Retention turned by hand on a database of each kind."""

    def __init__(self, store: Store, **days: int) -> None:
        self.store = store
        self.database = store.database()
        self.db: Any = self.database.open_writer()
        self.database.prepare(self.db)
        self.may_delete = True
        self.clock = HandClock()
        every = dict.fromkeys((rule.days for rule in RULES), 0) | days
        self.retention = Retention(
            days=every, windows=WINDOWS, may_delete=lambda: self.may_delete, database=self.database, clock=self.clock
        )

    def ago(self, days: float) -> str:
        return times.to_text(self.clock.wall() - days * DAY_S)

    def add(self, table: str, *rows: dict[str, Any]) -> None:
        with self.store.foreign() as foreign:
            for row in rows:
                names, marks = ", ".join(row), ", ".join("?" * len(row))
                foreign.execute(f"INSERT INTO {table}({names}) VALUES ({marks})", tuple(row.values()))

    def steps(self, count: int) -> list[int]:
        """Return how many rows each of the next steps deleted."""
        found = []
        for _ in range(count):
            self.clock.advance(retention.STEP_INTERVAL_S)
            found.append(self.retention.run(self.db, self.clock.at))
        return found

    def ids(self, table: str) -> list[int]:
        return [id for (id,) in self.store.ask(f"SELECT id FROM {table} ORDER BY id")]

    def logged(self) -> int:
        self.db.assign_foreign_offsets()
        return int(self.store.ask('SELECT coalesce(sum("offset"), 0) FROM topic_head')[0][0])


@pytest.fixture
def bench(store: Store, request: pytest.FixtureRequest) -> Any:
    benches: list[Bench] = []

    def make(**days: int) -> Bench:
        benches.append(Bench(store, **days))
        return benches[-1]

    yield make
    for made in benches:
        made.db.close()


def event(id: int, at: str) -> dict[str, Any]:
    return {"id": id, "type": "INFO", "timestamp": at}


def test_old_events_go_step_by_step_and_silently_and_the_window_stays(bench: Any) -> None:
    made = bench(events_days=90)
    old, young = made.ago(91), made.ago(89)
    made.add("event", *(event(id, old) for id in range(1, 2 * STEP_ROWS + 51)), *(event(id, young) for id in range(1000, 1005)))
    lines = made.logged()
    deleted = made.steps(3)
    assert deleted == [STEP_ROWS, STEP_ROWS, 50 + 5 - WINDOWS["events_window"]]
    assert len(made.ids("event")) == WINDOWS["events_window"] and made.ids("event")[-5:] == list(range(1000, 1005))
    assert made.logged() == lines
    assert made.steps(1) == [0]


def test_rows_whose_time_lies_ahead_do_not_hide_the_old_ones_behind_them(bench: Any) -> None:
    made = bench(systemlogs_days=30)

    def line(id: int, at: str) -> dict[str, Any]:
        return {"id": id, "message": "m", "timestamp": at}

    ahead, old, young = made.ago(-1000), made.ago(31), made.ago(1)
    made.add("system_log", *(line(id, ahead) for id in range(1, STEP_ROWS + 11)))
    made.add("system_log", *(line(id, old) for id in range(500, 510)), *(line(id, young) for id in range(600, 640)))
    made.steps(3)
    assert made.ids("system_log") == [*range(1, STEP_ROWS + 11), *range(600, 640)]


def test_the_walk_ends_among_young_rows_and_begins_anew_later(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "IDLE_STEPS", 2)
    made = bench(events_days=90)
    made.add("event", *(event(id, made.ago(1)) for id in range(1, 5 * STEP_ROWS)))
    assert made.steps(2) == [0, 0]
    statements: list[str] = []
    honest = made.db.execute

    def execute(*arguments: Any) -> Any:
        statements.append(arguments[0])
        return honest(*arguments)

    made.db.execute = execute
    made.steps(5)
    assert statements == []  # the next pass is later
    made.clock.advance(retention.PASS_INTERVAL_S)
    made.steps(1)
    assert statements != []
    made.db.execute = honest


def test_finished_orders_go_with_their_items_and_open_ones_stay(bench: Any) -> None:
    made = bench(orders_days=400)
    old, young = made.ago(401), made.ago(399)

    def order(id: int, status: str, at: str, served: str | None = None) -> dict[str, Any]:
        return {"id": id, "status": status, "timestamp": at, "served_at": served}

    made.add(
        "order_",
        order(1, "SERVED", old, old),
        order(2, "CANCELLED", old),
        order(3, "SERVED", old),
        order(4, "PLACED", old),
        order(5, "SERVED", old, young),
        order(6, "CANCELLED", young),
    )
    made.add("order_item", *({"id": id * 10, "order_id": id, "name": "x"} for id in range(1, 7)))
    lines = made.logged()
    made.steps(6)
    assert made.ids("order_") == [4, 5, 6] and made.ids("order_item") == [40, 50, 60]
    assert made.logged() == lines


def test_departed_customers_chats_and_messages_go(bench: Any) -> None:
    made = bench(customers_days=30, chat_days=90, messages_days=90)
    made.add(
        "customer",
        {"id": 1, "arrived_at": made.ago(50), "left_at": made.ago(31)},
        {"id": 2, "arrived_at": made.ago(50), "left_at": None},
        {"id": 3, "arrived_at": made.ago(50), "left_at": made.ago(29)},
    )
    made.add(
        "chat_message",
        {"id": 1, "timestamp": made.ago(91), "status": "COMPLETED"},
        {"id": 2, "timestamp": made.ago(91), "status": "PENDING"},
        {"id": 3, "timestamp": made.ago(91), "status": None},
        {"id": 4, "timestamp": made.ago(1), "status": None},
    )
    made.add(
        "staff_message", *({"id": id, "sender": "a", "recipient": "b", "message": "m", "timestamp": made.ago(days)}
                           for id, days in ((1, 91), (2, 89)))
    )  # fmt: skip
    made.add("staff_message_receipt", {"message_id": 1, "user_name": "b", "read_at": made.ago(90)})
    made.steps(8)
    assert made.ids("customer") == [2, 3]
    assert made.ids("chat_message") == [2, 4]
    assert made.ids("staff_message") == [2] and made.store.ask("SELECT count(*) FROM staff_message_receipt") == [(0,)]


def test_zero_days_keep_for_ever_and_a_doubtful_clock_deletes_nothing(bench: Any) -> None:
    made = bench(events_days=90)
    made.add("event", *(event(id, made.ago(500)) for id in range(1, 60)))
    made.add("system_log", *({"id": id, "message": "m", "timestamp": made.ago(500)} for id in range(1, 60)))
    made.may_delete = False
    assert made.steps(5) == [0] * 5
    made.may_delete = True
    assert sum(made.steps(5)) == 59 - WINDOWS["events_window"]
    assert len(made.ids("system_log")) == 59


@pytest.mark.parametrize(("jump_s", "idle_steps"), [(59, 0), (DAY_S, 40)])
def test_after_a_jump_of_a_minute_nothing_is_deleted_for_ten_seconds(bench: Any, jump_s: float, idle_steps: int) -> None:
    made = bench(events_days=90)
    made.add("event", *(event(id, made.ago(500)) for id in range(1, 60)))
    made.may_delete = False
    assert made.steps(1) == [0]
    made.may_delete = True
    made.clock.wall_at += jump_s
    assert made.steps(idle_steps) == [0] * idle_steps
    assert sum(made.steps(2)) == 59 - WINDOWS["events_window"]


def test_what_another_programs_table_holds_stays_and_stops_nothing_else(bench: Any) -> None:
    made = bench(orders_days=400, events_days=90)
    old = made.ago(500)
    made.add("order_", *({"id": id, "status": "SERVED", "timestamp": old, "served_at": old} for id in range(1, 8)))
    made.add("event", *(event(id, old) for id in range(1, 60)))
    with made.store.foreign() as foreign:
        foreign.execute("CREATE TABLE invoice (order_id BIGINT REFERENCES order_(id))")
        foreign.execute("INSERT INTO invoice VALUES (2), (5)")
    made.steps(12)
    assert made.ids("order_") == [2, 5]
    assert len(made.ids("event")) == WINDOWS["events_window"]
    with made.store.foreign() as foreign:
        foreign.execute("DROP TABLE invoice")


def test_a_clock_that_jumps_between_two_steps_deletes_nothing(bench: Any) -> None:
    made = bench(events_days=90)
    made.add("event", *(event(id, made.ago(1)) for id in range(1, 60)))
    made.steps(1)
    made.clock.wall_at += 500 * DAY_S
    made.clock.advance(retention.STEP_INTERVAL_S)
    assert made.retention.run(made.db, made.clock.at) == 0
    assert made.steps(int(9 / retention.STEP_INTERVAL_S)) == [0] * 36  # by then the watch has said what it thinks
    assert len(made.ids("event")) == 59


def test_small_ids_of_young_foreign_rows_do_not_end_the_walk(bench: Any) -> None:
    made = bench(events_days=90)
    made.add("event", *(event(id, made.ago(1)) for id in range(1, 2 * STEP_ROWS)))
    made.add("event", *(event(id, made.ago(200)) for id in range(5000, 5300)))
    made.steps(10)
    assert not [id for id in made.ids("event") if 5000 <= id < 5300 - WINDOWS["events_window"]]


@pytest.fixture
async def running(store: Store, tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(store, tmp_path)
    yield running
    await running.stop()
    assert running.failure is None


async def test_a_foreign_writer_beside_it_is_logged_as_ever(
    running: Running, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (maintenance, retention):
        monkeypatch.setattr(module, "STEP_INTERVAL_S", 0.0)
    monkeypatch.setattr(retention, "STEP_ROWS", 5)
    old = times.to_text(running.clock.wall() - 200 * DAY_S)
    with store.foreign() as foreign:
        for id in range(1, 401):
            foreign.execute("INSERT INTO event(id, type, timestamp) VALUES (?, 'INFO', ?)", (id, old))
        await running.until(lambda: 400 in running.screens.current("events"))
        running.may_delete = True
        for number in range(1, 60):
            foreign.execute("INSERT INTO table_(table_number) VALUES (?)", (number,))
            foreign.execute("UPDATE table_ SET status = 'CALLING' WHERE table_number = ?", (number,))
            assert isinstance(await running.tell(msg_type="Event", type="CALL", id=str(number)), dict)
    await running.until(lambda: store.ask("SELECT count(*) FROM event WHERE type = 'INFO'") == [(0,)])
    await running.until(lambda: len(running.screens.current("tables")) == 59)
    assert {table["status"] for table in running.screens.current("tables").values()} == {"CALLING"}
    removed = [key for update in running.screens.updates if update.topic == "events" for key in update.removed]
    assert removed == []
    await running.until(lambda: running.writer.stats.rows_expired == 400)
