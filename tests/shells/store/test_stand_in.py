"""The stand-in answers as if it held everything, and holds only what was asked for."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from robodyne_rt.protocol.device_messages import parse
from robodyne_rt.store.intake.prediction import Predictor
from robodyne_rt.store.intake.stand_in import StandIn, make_template
from robodyne_rt.store.intake.writes import MessageWrite
from robodyne_rt.store.tables.device_writes import ids_needed
from tests.stores import WINDOWS

NOW = "2026-11-21T00:00:00.000000Z"


def order(id: int, status: str = "PLACED", *, items: int = 1) -> dict[str, Any]:
    rows = [{"id": 10 * id + number, "name": "soup", "quantity": 1, "options": {"hot": True}} for number in range(items)]
    return {"id": id, "table_id": id % 3, "status": status, "timestamp": NOW, "items": rows}


class Bench:
    def __init__(self) -> None:
        self.expected: dict[tuple[str, int], dict[str, Any]] = {}
        self.db = StandIn(
            make_template(),
            {
                "robots": {id: {"id": id, "robot_id": f"r{id}", "status": "IDLE"} for id in range(1, 1001)},
                "orders": {id: order(id, items=2) for id in range(1, 1001)},
                "customers": {id: {"id": id, "table_id": id % 3, "arrived_at": NOW, "left_at": None} for id in range(1, 7)},
            },
            {"menu_item": [{"id": 1, "name": "kimchi", "name_en": "cabbage"}, {"id": 2, "name": "bab", "name_en": "rice"}]},
            expected=lambda topic, key: self.expected.get((topic, key), {}),
        )

    def ask(self, query: str, *parameters: Any) -> list[Any]:
        return [tuple(row) for row in self.db.execute(query, parameters).fetchall()]

    def held(self, table: str) -> int:
        (count,) = self.db.raw.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)

    def logged(self) -> int:
        (count,) = self.db.raw.execute("SELECT count(*) FROM change").fetchone()
        return int(count)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.db.close()


def test_only_what_a_statement_names_is_brought_in(bench: Bench) -> None:
    assert bench.ask("SELECT id FROM robot WHERE robot_id = ?", "r7") == [(7,)]
    assert bench.ask("SELECT status FROM order_ WHERE id = ?", 8) == [("PLACED",)]
    assert [bench.held(table) for table in ("robot", "order_", "order_item", "customer")] == [1, 1, 2, 0]


def test_what_is_not_known_is_not_there(bench: Bench) -> None:
    assert bench.ask("SELECT id FROM robot WHERE robot_id = ?", "other") == []
    assert bench.ask("SELECT id FROM order_ WHERE id = ?", 5000) == []
    assert bench.held("robot") == 0


def test_rows_are_found_by_any_column_and_further_conditions_are_the_databases(bench: Bench) -> None:
    query = "SELECT id FROM customer WHERE left_at IS NULL AND table_id = ? ORDER BY id DESC LIMIT 1"
    assert bench.ask(query, 2) == [(5,)]
    assert bench.held("customer") == 2


def test_alternatives_are_brought_in_each(bench: Bench) -> None:
    assert bench.ask("SELECT id FROM menu_item WHERE name = ? OR name_en = ?", "rice", "rice") == [(2,)]
    assert bench.ask("SELECT id FROM menu_item WHERE name = ? OR name_en = ?", "kimchi", "kimchi") == [(1,)]


@pytest.mark.parametrize(
    ("query", "parameters", "found"),
    [
        ("SELECT count(*) FROM robot", (), 1000),
        ("SELECT count(*) FROM robot WHERE lower(robot_id) = ?", ("r7",), 1),
        ("SELECT count(*) FROM robot WHERE robot_id = ? OR status IS NOT NULL", ("r7",), 1000),
        ("SELECT count(*) FROM robot WHERE id > ?", (990,), 10),
        ("SELECT count(*) FROM robot WHERE NOT (id = ?)", (1,), 999),
        ("SELECT count(*) FROM robot WHERE id = (SELECT max(id) FROM robot WHERE id <> ?)", (1000,), 1),
        ("SELECT count(*) FROM order_item WHERE name = ?", ("soup",), 2000),
    ],
)
def test_a_statement_that_names_rows_in_another_way_sees_all(bench: Bench, query: str, parameters: Any, found: int) -> None:
    assert bench.ask(query, *parameters) == [(found,)]


def test_an_update_meets_its_rows_and_those_nested_in_them(bench: Bench) -> None:
    bench.db.execute("UPDATE order_item SET status = ? WHERE order_id = ? AND status <> 'CANCELLED'", ("READY", 3))
    assert bench.db.raw.execute("SELECT id, status, options FROM order_item").fetchall() == [
        (30, "READY", '{"hot":true}'),
        (31, "READY", '{"hot":true}'),
    ]


def test_what_is_brought_in_is_no_change(bench: Bench) -> None:
    bench.ask("SELECT 1 FROM robot")
    bench.ask("SELECT 1 FROM order_ WHERE id = ?", 1)
    bench.db.learn("orders", [(1, order(1, "READY"))])
    assert bench.logged() == 0
    bench.db.execute("UPDATE order_ SET status = ? WHERE id = ?", ("SERVED", 1))
    assert bench.logged() == 1


def test_what_is_learned_costs_nothing_until_it_is_asked_for(bench: Bench) -> None:
    bench.ask("SELECT 1 FROM order_ WHERE id = ?", 2)
    bench.db.learn("orders", [(id, order(id, "READY")) for id in range(1, 501)])
    assert bench.held("order_") == 0
    assert bench.ask("SELECT status FROM order_ WHERE id = ?", 2) == [("READY",)]
    assert bench.ask("SELECT status FROM order_ WHERE id = ?", 900) == [("PLACED",)]


def test_indexes_follow_what_is_learned(bench: Bench) -> None:
    assert bench.ask("SELECT id FROM robot WHERE robot_id = ?", "r7") == [(7,)]
    bench.db.learn("robots", [(7, {"id": 7, "robot_id": "new"}), (8, None)])
    for name, found in (("r7", []), ("new", [(7,)]), ("r8", [])):
        assert bench.ask("SELECT id FROM robot WHERE robot_id = ?", name) == found


def test_what_is_expected_lies_over_what_is_known(bench: Bench) -> None:
    bench.expected["orders", 4] = {"status": "SERVED"}
    assert bench.ask("SELECT status FROM order_ WHERE id = ?", 4) == [("SERVED",)]
    bench.db.learn("orders", [(4, order(4, "READY"))])
    assert bench.ask("SELECT status FROM order_ WHERE id = ?", 4) == [("SERVED",)]
    del bench.expected["orders", 4]
    bench.db.renew("orders", [4])
    assert bench.ask("SELECT status FROM order_ WHERE id = ?", 4) == [("READY",)]


def test_a_row_is_found_by_what_is_expected_of_it(bench: Bench) -> None:
    bench.expected["customers", 1] = {"table_id": 77}
    bench.db.learn("customers", [(1, {"id": 1, "table_id": 1, "arrived_at": NOW, "left_at": None})])
    assert bench.ask("SELECT id FROM customer WHERE table_id = ?", 77) == [(1,)]


def test_a_predicted_row_that_comes_to_nothing_goes(bench: Bench) -> None:
    bench.db.execute("INSERT INTO robot(id, robot_id) VALUES (?, ?)", (2000, "predicted"))
    bench.db.mark_present("robots", 2000)
    bench.db.renew("robots", [2000])
    assert bench.ask("SELECT id FROM robot WHERE robot_id = ?", "predicted") == []


def test_what_does_not_fit_is_left_out(bench: Bench) -> None:
    bench.db.learn("orders", [(1, order(1, "NO SUCH STATUS"))])
    assert bench.ask("SELECT id FROM order_ WHERE id = ?", 1) == []
    assert bench.ask("SELECT id FROM order_ WHERE id = ?", 2) == [(2,)]


@pytest.mark.parametrize(
    "message",
    [
        {"msg_type": "Albabot", "robot_id": "r7", "battery_level": 40},
        {"msg_type": "Event", "type": "CALL", "table_number": 7},
        {"msg_type": "Order", "order_id": 7, "status": "READY", "robot_id": "r7"},
        {"msg_type": "Order", "table_number": 7, "items": [{"name": "dish 7"}]},
        {"msg_type": "Inventory", "name": "rice 7", "count": 3},
        {"msg_type": "Bye", "robot_id": "r7"},
    ],
)
def test_a_message_is_predicted_by_a_handful_of_rows_however_many_are_stored(message: dict[str, Any]) -> None:
    """One late commit must not hold up everybody for as long as it takes to copy a restaurant."""
    many = range(1, 1001)
    predictor = Predictor(windows=WINDOWS)
    predictor.begin(
        {
            "robots": {id: {"id": id, "robot_id": f"r{id}", "link": "ONLINE", "battery_level": 50} for id in many},
            "tables": {id: {"id": id, "table_number": id} for id in many},
            "orders": {id: order(id) for id in many},
            "inventory": {id: {"id": id, "name": f"rice {id}", "count": 9} for id in many},
        },
        {"menu_item": [{"id": id, "name": f"dish {id}"} for id in many]},
    )
    parsed, digest = parse(json.dumps(message).encode())
    prediction = predictor.apply(
        MessageWrite(parsed, "d", digest, NOW, [5000 + number for number in range(ids_needed(parsed))])
    )
    assert prediction.changes
    assert predictor._db is not None
    tables = ("robot", "table_", "order_", "order_item", "customer", "inventory", "menu_item")
    assert sum(predictor._db.raw.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables) <= 5
    predictor.end()
