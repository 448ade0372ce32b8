"""The writer commits what queued up as one transaction, and a write that fails costs nobody else anything."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.protocol.errors import Conflict, InvalidPayload
from robodyne_rt.store.errors import StorageBroken
from robodyne_rt.store.intake.writes import CallWrite, ServerLineWrite
from robodyne_rt.store.log import maintenance
from robodyne_rt.store.log.reader import MAX_LINES_PER_UPDATE
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from tests.contract.running import Running
from tests.stores import Store


@pytest.fixture
async def running(store: Store, tmp_path: Path) -> AsyncIterator[Running]:
    run = Running(store, tmp_path)
    yield run
    await run.stop()
    assert run.failure is None


@pytest.fixture
def look(store: Store) -> Any:
    """Ask the database as another program would."""
    return store.ask


def insert(number: int) -> Any:
    return lambda tables: tables._execute("INSERT INTO table_(table_number) VALUES (?)", (number,)) and number


async def test_what_is_submitted_in_one_turn_is_one_transaction(running: Running, look: Any) -> None:
    before = running.writer.stats.commits
    assert await running.do(*(insert(number) for number in range(100))) == list(range(100))
    assert running.writer.stats.commits == before + 1
    assert look("SELECT count(*) FROM table_") == [(100,)]


async def test_a_write_that_fails_is_refused_alone(running: Running, look: Any) -> None:
    results = await running.do(insert(1), insert(2), insert(1), lambda tables: 1 / 0, insert(3))
    assert [isinstance(result, Exception) for result in results] == [False, False, True, True, False]
    assert look("SELECT table_number FROM table_ ORDER BY 1") == [(1,), (2,), (3,)]


async def test_updates_come_before_outcomes(running: Running) -> None:
    (number,) = await running.do(insert(7))
    assert number == 7
    assert [next(iter(update.entities.values()))["table_number"] for update in running.updates] == [7]


async def test_the_same_id_is_taken_once_and_answered_alike(running: Running, look: Any) -> None:
    first = await running.tell(msg_type="Event", type="CALL", table_number=3, id="1", ts=1_795_000_000)
    again = await running.tell(msg_type="Event", type="CALL", table_number=3, id="1", ts=1_795_000_009)
    other_device = await running.tell("other", msg_type="Event", type="CALL", table_number=3, id="1")
    assert first == again != other_device
    assert look("SELECT count(*) FROM event") == [(2,)]


async def test_what_is_left_out_of_a_robots_state_is_told_again_and_the_rest_is_stored(running: Running, look: Any) -> None:
    report: dict[str, Any] = {"msg_type": "Albabot", "robot_id": "a", "battery_level": 100.4}
    report |= {"world_x": 1, "world_y": 2, "id": "1"}
    for _ in range(2):
        assert await running.tell(**report) == {"left_out": ["battery_level"]}
    assert await running.tell(msg_type="Cookbot", robot_id="c", angle_1="?") == {"left_out": ["angle_1"]}
    assert look("SELECT robot_id, battery_level, x FROM robot ORDER BY id") == [("a", None, 1), ("c", None, None)]


async def test_the_same_id_with_another_body_is_a_conflict_and_changes_nothing(running: Running, look: Any) -> None:
    await running.tell(msg_type="Event", type="CALL", table_number=3, id="1")
    assert isinstance(await running.tell(msg_type="Event", type="CALL", table_number=4, id="1"), Conflict)
    assert look("SELECT count(*) FROM event") == [(1,)]
    assert look("SELECT table_number FROM table_") == [(3,)]


async def test_a_refused_message_leaves_no_trace_and_may_be_repaired_under_its_id(running: Running, look: Any) -> None:
    order: dict[str, Any] = {"msg_type": "Order", "table_number": 9, "items": [{"name": "kimchi"}], "id": "1"}
    assert isinstance(await running.tell(**order), InvalidPayload)
    assert look("SELECT (SELECT count(*) FROM device_message), (SELECT count(*) FROM table_)") == [(0, 0)]
    await running.do(lambda tables: tables._execute("INSERT INTO menu_item(name) VALUES ('kimchi')") and None)
    assert "order_id" in await running.tell(**order)


@pytest.mark.parametrize(
    "fields",
    [
        {"msg_type": "Order", "order_id": 5, "status": "READY"},
        {"msg_type": "Ingredient", "name": "nothing", "count": 1},
        {"msg_type": "Inventory", "id": 77, "count": 1},
        {"msg_type": "Bye", "robot_id": "nobody"},
    ],
)
async def test_what_is_unknown_is_refused(running: Running, fields: dict[str, Any]) -> None:
    assert isinstance(await running.tell(**fields), InvalidPayload)


async def test_five_hundred_robots_and_tables_are_made_by_mention_and_no_more(running: Running, look: Any) -> None:
    results = [running.tell(msg_type="Albabot", robot_id=f"r{number}") for number in range(505)]
    refused = [result for result in await asyncio.gather(*results) if result is not None]
    assert [type(error) for error in refused] == [InvalidPayload] * 5
    assert look("SELECT count(*) FROM robot") == [(500,)]


async def test_a_call_marks_its_table_and_a_face_brings_guests(running: Running, look: Any) -> None:
    await running.tell(msg_type="Event", type="CALL", table_number=2)
    assert look("SELECT status FROM table_") == [("CALLING",)]
    await running.tell(msg_type="Face", table_id=5, exist=True, nowdetected=3, reliability=0.9)
    assert look("SELECT status, customer_count FROM table_ WHERE table_number = 5") == [("OCCUPIED", 3)]
    assert look("SELECT count, left_at IS NULL FROM customer") == [(3, 1)]
    await running.tell(msg_type="Face", table_id=5, exist=False, reliability=0.2)
    assert look("SELECT count(*) FROM customer WHERE left_at IS NULL") == [(1,)]
    await running.tell(msg_type="Face", table_id=5, exist=False, reliability=0.9)
    assert look("SELECT status, customer_count FROM table_ WHERE table_number = 5") == [("AVAILABLE", 0)]
    assert look("SELECT count(*) FROM customer WHERE left_at IS NULL") == [(0,)]


async def test_last_seen_alone_is_stored_seldom_and_announces_nothing(running: Running, look: Any) -> None:
    await running.tell(msg_type="Albabot", robot_id="a", battery_level=5)
    ((seen,),) = look("SELECT last_seen FROM robot")
    for _ in range(5):
        await running.tell(msg_type="Albabot", robot_id="a", battery_level=5)
    assert look("SELECT last_seen FROM robot") == [(seen,)]
    assert look("SELECT \"offset\" FROM topic_head WHERE topic = 'robots'") == [(1,)]


@pytest.mark.parametrize("notify", [True, False])
async def test_foreign_commits_are_noticed_by_their_own_and_by_the_fallback(store: Store, tmp_path: Path, notify: bool) -> None:
    running = Running(store, tmp_path, notify=notify)
    foreign = store.connect()
    for number in range(1, 4):
        foreign.execute("INSERT INTO table_(table_number) VALUES (?)", (number,))
        async with asyncio.timeout(5):
            while sum(len(update.entities) for update in running.updates) < number:
                await asyncio.sleep(0.01)
    foreign.close()
    await running.stop()
    assert [(update.prev, update.offset) for update in running.updates] == [(0, 1), (1, 2), (2, 3)]


async def test_a_bulk_load_comes_in_pieces_without_gaps(running: Running, store: Store) -> None:
    foreign = store.connect()
    foreign.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) "
        "INSERT INTO table_(table_number) SELECT i FROM n"
    )
    foreign.close()
    async with asyncio.timeout(20):
        while not running.updates or running.updates[-1].offset < 12000:
            await asyncio.sleep(0.02)
    assert all(later.prev == earlier.offset for earlier, later in zip(running.updates, running.updates[1:], strict=False))
    assert all(len(update.entities) <= MAX_LINES_PER_UPDATE for update in running.updates)


async def test_the_log_is_pruned_to_what_is_retained(running: Running, look: Any) -> None:
    for start in range(0, 3000, 500):
        await running.do(*(insert(number) for number in range(start, start + 500)))
    async with asyncio.timeout(20):
        while look('SELECT count(*), min("offset"), max("offset") FROM change WHERE topic = \'tables\'') != [
            (1000, 2001, 3000)
        ]:
            await asyncio.sleep(0.05)


async def test_message_ids_are_forgotten_after_seven_days(running: Running, look: Any) -> None:
    await running.tell(msg_type="Event", type="CALL", id="old")
    await running.tell(msg_type="Event", type="CALL", id="new")
    old = "UPDATE device_message SET at = at - 8 * 86400 WHERE id = 'old'"
    await running.do(lambda tables: tables._execute(old) and None)
    async with asyncio.timeout(10):
        while look("SELECT id FROM device_message") != [("new",)]:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_the_wal_stays_below_a_foreign_programs_automatic_checkpoint(running: Running) -> None:
    newest = 0
    for start in range(0, 6000, 20):
        await running.do(*(insert(number) for number in range(start, start + 20)))
        newest = max(newest, running.writer.stats.wal_pages)
    # Small commits that touch many pages each: an id, a row, an index, the log, for devices in no order.
    for number in range(400):
        device = f"d{number * 7919 % 400}"
        await asyncio.gather(
            running.tell(
                device, msg_type="Event", type="CALL", table_number=1 + number * 31 % 500, id=f"{number}", data="x" * 900
            ),
            running.tell(device, msg_type="Albabot", robot_id=f"r{number % 90}", battery_level=number % 100),
        )
        newest = max(newest, running.writer.stats.wal_pages)
    assert 0 < newest < 600


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_deleted_lines_of_the_log_bring_a_snapshot_instead_of_a_gap(running: Running, store: Store) -> None:
    await running.do(insert(1))
    foreign = store.connect()
    foreign.execute("BEGIN IMMEDIATE")
    foreign.execute("INSERT INTO table_(table_number) VALUES (2), (3)")
    foreign.execute('DELETE FROM change WHERE "offset" = 2')
    foreign.execute("COMMIT")
    foreign.close()
    async with asyncio.timeout(10):
        while not running.updates[-1].snapshot:
            await asyncio.sleep(0.02)
    assert len(running.updates[-1].entities) == 3


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_corrupt_file_ends_the_writer_and_acknowledges_nothing(store: Store, tmp_path: Path) -> None:
    running = Running(store, tmp_path)
    await running.do(insert(1))

    def corrupt(tables: DeviceMessageWriter) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    told = []
    running.intake.submit(CallWrite(corrupt, lambda result, error: told.append(result)))
    await asyncio.to_thread(running.thread.join, 10)
    await running.stop()
    assert isinstance(running.failure, StorageBroken)
    assert told == []


async def test_behind_and_caught_up_are_told(running: Running) -> None:
    gate = threading.Event()
    running.intake.submit(CallWrite(lambda tables: gate.wait(10)))
    await asyncio.sleep(0.05)
    resumed = asyncio.Event()
    for number in range(400):
        running.intake.submit(CallWrite(insert(number)))
    assert running.intake.is_behind
    running.intake.when_caught_up(resumed.set)
    gate.set()
    await asyncio.wait_for(resumed.wait(), 10)
    assert not running.intake.is_behind


async def test_a_clock_that_jumps_by_years_makes_nobody_forget_ids(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(store, tmp_path)
    await running.tell(msg_type="Event", type="CALL", id="1")
    for wall in (10 * 365 * 86400, -(10**9)):
        monkeypatch.setattr("time.time", lambda wall=wall: 1_795_000_000 + wall)
        await running.tell(msg_type="Event", type="CALL", id=str(wall))
        await asyncio.sleep(0.6)  # it prunes four times a second
    monkeypatch.undo()
    for id in ("1", str(10 * 365 * 86400), str(-(10**9))):
        assert isinstance(await running.tell(msg_type="Event", type="CALL", id=id), dict)
        assert isinstance(await running.tell(msg_type="Event", type="PARTY", id=id), Conflict)
    assert store.ask("SELECT count(*) FROM event") == [(3,)]
    await running.stop()


async def test_the_databases_age_is_kept_over_restarts(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "NOTE_AGE_S", 0.0)
    ages = []
    for _ in range(2):
        running = Running(store, tmp_path)
        running.writer._maintenance.started_at -= 1000
        await running.until(lambda: bool(store.ask("SELECT 1 FROM meta WHERE key = 'age_s' AND length(value) > 3")))
        await running.stop()
        ages.append(running.writer._tables.age_s)
    assert ages[0] >= 1000 and ages[1] >= 2000


async def test_a_lock_of_another_program_holds_up_no_device_and_refuses_nobody(running: Running, store: Store) -> None:
    """On SQLite it is the file's, on Postgres that of a table."""
    lock = store.connect()
    lock.execute("BEGIN IMMEDIATE" if store.kind == "sqlite" else "BEGIN")
    if store.kind == "postgres":
        lock.execute("LOCK TABLE event, table_ IN SHARE ROW EXCLUSIVE MODE")
    call = asyncio.create_task(running.do(insert(7)))
    await asyncio.sleep(0)
    for number in range(5):
        result = await running.tell(msg_type="Event", type="INFO", description=f"n-{number}", id=f"n-{number}")
        assert isinstance(result, dict), result
    assert not call.done()
    assert store.ask("SELECT count(*) FROM event") == [(0,)]
    assert running.intake.spooled_upto == 5
    lock.execute("COMMIT")
    lock.close()
    await call
    assert store.ask("SELECT table_number FROM table_") == [(7,)]
    await running.until(lambda: store.ask("SELECT description FROM event ORDER BY id") == [(f"n-{n}",) for n in range(5)])


async def test_a_line_of_the_servers_own_log_is_stored_once_and_shown(store: Store, tmp_path: Path) -> None:
    running = Running(store, tmp_path)
    for data in ({"action": "port_lost", "skipped": 2}, None):
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        running.intake.store_server_line(
            "WARNING",
            "'; a port \u2028 \ufffd",
            data,
            "2026-11-27T18:00:00.000000Z",
            lambda result, error, done=done: done.set_result(error),
        )
        assert await asyncio.wait_for(done, 20) is None
    first, second = running.screens.entities["systemlogs"].values()
    assert first["source"] == "server" and first["data"] == {"action": "port_lost", "skipped": 2} and second["data"] is None
    assert first["message"] == "'; a port \u2028 \ufffd" and second["id"] > first["id"]
    again: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    running.intake.submit(
        ServerLineWrite(first["id"], "ERROR", "again", None, first["timestamp"], lambda result, error: again.set_result(error))
    )
    assert await asyncio.wait_for(again, 20) is None
    assert running.screens.entities["systemlogs"][first["id"]]["level"] == "WARNING"
    await running.stop()
