"""Orders carry the number of their table, also when another program gives the table another one; on both stores."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.model.changes import Entity
from tests.contract.running import Running
from tests.stores import Store


@pytest.fixture
async def running(store: Store, tmp_path: Path) -> AsyncIterator[Running]:
    run = Running(store, tmp_path)
    yield run
    await run.stop()
    assert run.failure is None


async def place(running: Running, store: Store) -> int:
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO menu_item(name) VALUES ('noodles')")
    told = await running.tell(msg_type="Order", table_number=14, items=[{"name": "noodles"}])
    return int(told["order_id"])


def shown(running: Running) -> list[Entity]:
    return list(running.screens.entities["orders"].values())


async def test_an_order_carries_the_number_of_its_table(running: Running, store: Store) -> None:
    id = await place(running, store)
    (order,) = shown(running)
    assert (order["id"], order["table_number"], list(order)[1:4]) == (id, 14, ["table_id", "table_number", "customer_id"])
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO order_(timestamp, note) VALUES ('2026-11-27T00:00:00Z', 'to go')")
    await running.until(lambda: len(shown(running)) == 2)
    assert [order["table_number"] for order in shown(running)] == [14, None]


@pytest.mark.parametrize(
    ("statements", "number"),
    [
        (["UPDATE table_ SET table_number = 15"], 15),
        (["UPDATE order_ SET table_id = NULL"], None),
        (["DELETE FROM table_"], None),
        (["INSERT INTO table_(id, table_number) VALUES (99, 16)", "UPDATE order_ SET table_id = 99"], 16),
    ],
)
async def test_a_number_that_changes_is_announced(
    running: Running, store: Store, statements: list[str], number: int | None
) -> None:
    await place(running, store)
    with store.foreign() as foreign:
        for statement in statements:
            foreign.execute(statement)
    await running.until(lambda: [order["table_number"] for order in shown(running)] == [number])


async def test_a_table_that_is_read_in_anew_is_announced_where_references_are_not_enforced(
    running: Running, store: Store
) -> None:
    """A script at `sqlite3`, which enforces none, replaces the tables."""
    await place(running, store)
    if store.kind == "postgres":
        return  # which lets nobody
    with store.foreign() as foreign:
        ((id,),) = foreign.ask("SELECT id FROM table_")
        foreign.execute("DELETE FROM table_")
        await running.until(lambda: [order["table_number"] for order in shown(running)] == [None])
        foreign.execute("INSERT INTO table_(id, table_number) VALUES (?, 21)", (id,))
        await running.until(lambda: [order["table_number"] for order in shown(running)] == [21])
        foreign.execute("INSERT OR REPLACE INTO table_(id, table_number) VALUES (?, 22)", (id,))
        await running.until(lambda: [order["table_number"] for order in shown(running)] == [22])


async def test_what_changes_at_a_table_announces_no_orders(running: Running, store: Store) -> None:
    await place(running, store)
    before = store.ask("SELECT \"offset\" FROM topic_head WHERE topic = 'orders'")
    with store.foreign() as foreign:
        foreign.execute("UPDATE table_ SET table_number = 14, status = 'RESERVED'")
        foreign.execute("INSERT INTO table_(table_number) VALUES (3)")
        foreign.execute("DELETE FROM table_ WHERE table_number = 3")
    tables: dict[int, Any] = running.screens.entities["tables"]
    await running.until(lambda: [table["status"] for table in tables.values()] == ["RESERVED"])
    assert store.ask("SELECT \"offset\" FROM topic_head WHERE topic = 'orders'") == before
