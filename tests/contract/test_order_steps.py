"""What devices say of an order late or twice never moves it back; on both stores."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.model import times
from robodyne_rt.protocol import device_messages
from robodyne_rt.protocol.errors import InvalidPayload
from tests.contract.running import Running
from tests.stores import Store, make_store

STEPS = ["PLACED", "PREPARING", "READY", "SERVING", "SERVED", "CANCELLED"]


@pytest.fixture
async def running(store: Store, tmp_path: Path) -> AsyncIterator[Running]:
    run = Running(store, tmp_path)
    yield run
    await run.stop()
    assert run.failure is None


@pytest.fixture
async def order(running: Running, store: Store) -> int:
    """An order of two dishes."""
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO menu_item(name) VALUES ('noodles')")
    told = await running.tell(msg_type="Order", table_number=4, items=[{"name": "noodles"}, {"name": "noodles"}])
    return int(told["order_id"])


def look(store: Store) -> tuple[str, list[str]]:
    """Return the step of the order, and those of its items."""
    return store.ask("SELECT status FROM order_")[0][0], [s for (s,) in store.ask("SELECT status FROM order_item ORDER BY id")]


def put(store: Store, order: str, *items: str) -> None:
    """Let another program set steps, as it likes."""
    with store.foreign() as foreign:
        foreign.execute("UPDATE order_ SET status = ?", (order,))
        ids = store.ask("SELECT id FROM order_item ORDER BY id")
        for (id,), status in zip(ids, items or [order] * len(ids), strict=True):
            foreign.execute("UPDATE order_item SET status = ? WHERE id = ?", (status, id))


@pytest.mark.parametrize("current", STEPS)
async def test_a_devices_word_moves_an_order_forwards_or_changes_nothing(
    running: Running, store: Store, order: int, current: str
) -> None:
    for said in STEPS:
        put(store, current)
        before = store.ask("SELECT * FROM order_"), store.ask("SELECT * FROM order_item ORDER BY id")
        told = await running.tell(msg_type="Order", order_id=order, status=said, **({"robot_id": "late"} if said < "R" else {}))
        is_back = said != current and (
            current in ("SERVED", "CANCELLED") or (said != "CANCELLED" and STEPS.index(said) < STEPS.index(current))
        )
        if is_back:
            assert told == {"ignored": "stale", "current": current}
            assert (store.ask("SELECT * FROM order_"), store.ask("SELECT * FROM order_item ORDER BY id")) == before
        else:
            assert told == {"order_id": order}
            assert look(store) == (said, [said, said])
        put(store, "PLACED")
        with store.foreign() as foreign:
            foreign.execute("UPDATE order_ SET robot_id = NULL")


async def test_a_message_sent_again_is_answered_success_and_moves_nothing(running: Running, store: Store, order: int) -> None:
    preparing: dict[str, Any] = {"msg_type": "Order", "order_id": order, "status": "PREPARING", "id": "1"}
    await running.tell(**preparing)
    await running.tell(msg_type="Order", order_id=order, status="SERVED", id="2")
    before = store.ask("SELECT * FROM order_")
    assert await running.tell(**preparing) == {"order_id": order}
    assert await running.tell(**preparing | {"id": "3"}) == {"ignored": "stale", "current": "SERVED"}
    assert await running.tell(msg_type="Order", order_id=order, status="SERVED", robot_id="a") == {"order_id": order}
    assert store.ask("SELECT served_at FROM order_") == [(before[0][store_column(store, "served_at")],)], "only the first time"
    assert isinstance(await running.tell(msg_type="Order", order_id=77, status="READY"), InvalidPayload)


def store_column(store: Store, name: str) -> int:
    query = (
        "SELECT name FROM pragma_table_info('order_') ORDER BY cid"
        if store.kind == "sqlite"
        else "SELECT column_name FROM information_schema.columns WHERE table_name = 'order_' ORDER BY ordinal_position"
    )
    return [column for (column,) in store.ask(query)].index(name)


async def test_items_ahead_stay_those_behind_follow_and_struck_out_ones_stay_out(
    running: Running, store: Store, order: int
) -> None:
    put(store, "PLACED", "READY", "PLACED")
    await running.tell(msg_type="Order", order_id=order, status="PREPARING")
    assert look(store) == ("PREPARING", ["READY", "PREPARING"])
    put(store, "PREPARING", "CANCELLED", "PREPARING")
    await running.tell(msg_type="Order", order_id=order, status="SERVING")
    assert look(store) == ("SERVING", ["CANCELLED", "SERVING"])
    put(store, "SERVING", "SERVED", "READY")
    await running.tell(msg_type="Order", order_id=order, status="CANCELLED")
    assert look(store) == ("CANCELLED", ["SERVED", "CANCELLED"])


async def test_the_last_item_ready_makes_the_order_ready(running: Running, store: Store, order: int) -> None:
    put(store, "PLACED", "READY", "CANCELLED")
    assert await running.tell(msg_type="Order", order_id=order, status="PREPARING") == {"order_id": order}
    assert look(store) == ("READY", ["READY", "CANCELLED"])
    assert store.ask("SELECT preparing_at IS NULL, ready_at IS NULL, served_at IS NULL FROM order_") == [(0, 0, 1)]
    assert await running.tell(msg_type="Order", order_id=order, status="PREPARING") == {"ignored": "stale", "current": "READY"}


async def test_an_item_added_later_moves_nothing_back_and_a_repetition_does_not_take_it_along(
    running: Running, store: Store, order: int
) -> None:
    await running.tell(msg_type="Order", order_id=order, status="READY")
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO order_item(order_id, name) VALUES (?, 'tea')", (order,))
    for more in ({}, {"robot_id": "a"}):
        await running.tell(msg_type="Order", order_id=order, status="READY", **more)
        assert look(store) == ("READY", ["READY", "READY", "PLACED"])


async def test_a_word_from_before_the_newest_step_changes_nothing(running: Running, store: Store, order: int) -> None:
    now = times.to_epoch_s(running.clock.stamp())
    assert await running.tell(msg_type="Order", order_id=order, status="PREPARING", ts=now + 20) == {"order_id": order}
    for late in (now + 19.999, now + 19.999999):
        told = await running.tell(msg_type="Order", order_id=order, status="READY", ts=late)
        assert told == {"ignored": "stale", "current": "PREPARING"}
    assert look(store)[0] == "PREPARING"
    # A fault of the clock is no time, and the same moment is none before.
    for ts, status in ((now + 20, "READY"), (now + 3600, "SERVING"), (now - 90000, "SERVED")):
        assert await running.tell(msg_type="Order", order_id=order, status=status, ts=ts) == {"order_id": order}


async def test_serving_has_a_time_by_its_items(running: Running, store: Store, order: int) -> None:
    now = times.to_epoch_s(running.clock.stamp())
    await running.tell(msg_type="Order", order_id=order, status="SERVING", ts=now + 20)
    assert store.ask("SELECT count(*) FROM order_item WHERE changed_at IS NULL") == [(0,)]
    told = await running.tell(msg_type="Order", order_id=order, status="SERVED", ts=now + 19)
    assert told == {"ignored": "stale", "current": "SERVING"}


async def test_a_recall_is_a_step_and_a_time_that_lies_ahead_is_none(running: Running, store: Store, order: int) -> None:
    now = times.to_epoch_s(running.clock.stamp())
    await running.tell(msg_type="Order", order_id=order, status="SERVED", ts=now + 10)
    with store.foreign() as foreign:
        foreign.execute(
            "UPDATE order_ SET status = 'READY', served_at = NULL, recalled_at = ?, ready_at = '2099-01-01T00:00:00Z'",
            (times.to_text(now + 30),),
        )
    for ts in (now + 11, now + 29):
        told = await running.tell(msg_type="Order", order_id=order, status="SERVED", ts=ts)
        assert told == {"ignored": "stale", "current": "READY"}
    assert await running.tell(msg_type="Order", order_id=order, status="SERVED", ts=now + 31) == {"order_id": order}


async def test_what_was_said_long_before_it_is_stored_is_late_by_the_devices_time(
    running: Running, store: Store, order: int
) -> None:
    """It waited in the spool while another program began the order."""
    said_at = times.to_epoch_s(running.clock.stamp()) - 3600
    with store.foreign() as foreign:
        moment = times.to_text(said_at - 600), times.to_text(said_at + 1800)
        foreign.execute("UPDATE order_ SET status = 'PREPARING', timestamp = ?, preparing_at = ?", moment)
    for ts, told in ((said_at, {"ignored": "stale", "current": "PREPARING"}), (said_at + 1801, {"order_id": order})):
        parsed = device_messages.check({"msg_type": "Order", "order_id": order, "status": "READY", "ts": ts})
        heard_at = times.to_text(ts)
        assert await running.do(lambda tables: tables.message(parsed.message, "d", "", heard_at, [1])) == [told]  # noqa: B023


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_what_another_program_does_meanwhile_is_not_overwritten(running: Running, store: Store, order: int) -> None:
    """Between our look and our write (Postgres: READ COMMITTED; on SQLite the writer is alone) it serves the order."""

    def say(tables: Any) -> Any:
        parsed = device_messages.check({"msg_type": "Order", "order_id": order, "status": "PREPARING"})
        execute = tables._execute

        def meanwhile(query: str, parameters: Any = ()) -> Any:
            if query.startswith("UPDATE order_ "):
                tables._execute = execute
                put(store, "SERVED")
            return execute(query, parameters)

        tables._execute = meanwhile
        try:
            return tables.message(parsed.message, "d", "", running.clock.stamp(), [1])
        finally:
            tables._execute = execute

    assert await running.do(say) == [{"ignored": "stale", "current": "SERVED"}]
    assert look(store) == ("SERVED", ["SERVED", "SERVED"])


async def test_what_was_acknowledged_in_an_outage_moves_no_order_back_when_it_is_stored(tmp_path: Path) -> None:
    """Another program holds the database; what it does to the order happened after what the device said."""
    store = make_store("sqlite", tmp_path, lambda: pytest.fail("no cluster"))
    running = Running(store, tmp_path, push_deadline_s=0.02)
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO menu_item(name) VALUES ('noodles')")
    order = (await running.tell(msg_type="Order", table_number=4, items=[{"name": "noodles"}]))["order_id"]
    with store.foreign() as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        told = [
            await running.tell(msg_type="Order", order_id=order, status=status, id=str(number))
            for number, status in enumerate(("READY", "PREPARING", "SERVING", "READY"))
        ]
        assert told == [
            {"order_id": order},
            {"ignored": "stale", "current": "READY"},
            {"order_id": order},
            {"ignored": "stale", "current": "SERVING"},
        ]
        assert running.state == "spooling"
        foreign.execute("UPDATE order_ SET status = 'CANCELLED'")
        foreign.execute("UPDATE order_item SET status = 'CANCELLED'")
        foreign.execute("COMMIT")
    await running.until(lambda: running.state == "ok")
    assert look(store) == ("CANCELLED", ["CANCELLED"])
    shown = [
        change.entity["status"]
        for topic, changes in running.screens.optimistic
        if topic == "orders"
        for change in changes.values()
    ]
    assert shown == ["READY", "SERVING"], "never back"
    await running.until(lambda: running.screens.entities["orders"][order]["status"] == "CANCELLED")
    await running.stop()
    assert running.failure is None
