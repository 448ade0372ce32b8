"""Many other programs write at once: nothing is missed, offsets have no gap, and none of them fails because of the log.

`ROBODYNE_WRITERS=32 ROBODYNE_TRANSACTIONS=200 scripts/test tests/contract/test_foreign_writers.py` runs the long version.
"""

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.running import Running
from tests.stores import Store

WRITERS = int(os.environ.get("ROBODYNE_WRITERS", "8"))
TRANSACTIONS = int(os.environ.get("ROBODYNE_TRANSACTIONS", "25"))
SCRIPT = Path(__file__).with_name("foreign_writer.py")


async def write(store: Store, seed: int, isolation: str) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), store.url, str(seed), str(TRANSACTIONS), isolation,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return [json.loads(line) for line in out.splitlines()]


def seed_data(store: Store) -> None:
    with store.foreign() as foreign:
        for id in range(1, WRITERS + 1):
            foreign.execute("INSERT INTO robot(id, robot_id) VALUES (?, ?)", (id, f"r{id}"))
            foreign.execute("INSERT INTO table_(id, table_number) VALUES (?, ?)", (id, id))
            foreign.execute("INSERT INTO inventory(id, name) VALUES (?, ?)", (id, f"i{id}"))


@pytest.mark.parametrize(
    ("store", "isolation"),
    [("sqlite", ""), ("postgres", "READ COMMITTED"), ("postgres", "REPEATABLE READ")],
    indirect=["store"],
)
@pytest.mark.timeout(60 + WRITERS * TRANSACTIONS)
async def test_many_foreign_writers_are_all_heard_without_gap_or_deadlock(store: Store, tmp_path: Path, isolation: str) -> None:
    running = Running(store, tmp_path, changes_retained=100_000)
    seed_data(store)
    own = asyncio.create_task(write_ourselves(running))
    ledgers = await asyncio.gather(*(write(store, seed, isolation) for seed in range(1, WRITERS + 1)))
    own.cancel()
    await running.until(lambda: not running.intake.queued and running.intake.state == "ok", within_s=60)
    await running.until(lambda: is_sealed(store))
    heads = store.ask('SELECT topic, "offset" FROM topic_head')
    await running.until(lambda: dict(heads) == running.writer.positions)
    await running.stop()
    assert running.failure is None
    seen = running.screens.entities
    expected: dict[str, int] = {}
    logged = set()
    for ledger in ledgers:
        assert len(ledger) > TRANSACTIONS * 0.6
        for left in ledger:
            logged |= {left.pop("log")} if "log" in left else set()
            expected |= left
    for name, value in expected.items():
        table, _, key = name.partition(":")
        topic, column = {"robot": ("robots", "battery_level"), "table_": ("tables", "customer_count"),
                         "inventory": ("inventory", "count"), "order_": ("orders", "priority")}[table]  # fmt: skip
        assert seen[topic][int(key)][column] == value, name
    assert logged <= {entity["message"] for entity in seen["systemlogs"].values()}
    for topic, head in heads:
        offsets = [offset for (offset,) in store.ask('SELECT "offset" FROM change WHERE topic = ? ORDER BY 1', topic)]
        assert offsets == list(range(1, head + 1)), topic
        updates = [update for update in running.updates if update.topic == topic]
        assert all(later.prev == earlier.offset for earlier, later in itertools.pairwise(updates))


async def write_ourselves(running: Running) -> None:
    number = 0
    while True:
        number += 1
        await running.tell(msg_type="Event", type="INFO", description=str(number), table_number=1 + number % WRITERS)


def is_sealed(store: Store) -> bool:
    return store.kind == "sqlite" or store.ask("SELECT count(*) FROM inbox") == [(0,)]


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_a_reader_that_takes_notes_as_it_sees_them_would_miss_some(store: Store, tmp_path: Path) -> None:
    """The control: a position over the notes' own numbers skips what commits late; sealing is what prevents it."""
    running = Running(store, tmp_path)
    await running.stop()
    seed_data(store)
    writers = asyncio.gather(*(write(store, seed, "READ COMMITTED") for seed in range(1, WRITERS + 1)))
    position, met = 0, 0
    with store.foreign() as foreign:
        while not writers.done():
            rows = foreign.ask("SELECT id FROM inbox WHERE id > ? ORDER BY id", position)
            met += len(rows)
            position = rows[-1][0] if rows else position
            await asyncio.sleep(0.001)
        await writers
        rows = foreign.ask("SELECT id FROM inbox WHERE id > ? ORDER BY id", position)
        ((whole,),) = foreign.ask("SELECT count(*) FROM inbox")
    assert met + len(rows) < whole


@pytest.mark.parametrize("doorbell", [True, False])
@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_foreign_commits_are_heard_with_and_without_the_doorbell(
    store: Store, tmp_path: Path, doorbell: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(store, tmp_path, doorbell=doorbell, fallback_interval_s=30)
    triggers = {name for (name,) in store.ask("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'zz%ring'")}
    assert bool(triggers) == doorbell
    with store.foreign() as foreign:
        for number in range(1, 11):
            foreign.execute("INSERT INTO table_(table_number) VALUES (?)", (number,))
            await running.until(lambda number=number: len(running.screens.entities["tables"]) == number, within_s=5)
    await running.stop()


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_pending_changes_get_their_offsets_five_hundred_at_a_time_and_our_own_at_once(store: Store) -> None:
    """Devices wait while it is done: a bulk load must not be done in one go, nor hold up what we wrote ourselves."""
    database = store.database()
    db = database.open_writer()
    try:
        database.prepare(db)
        with store.foreign() as foreign:
            foreign.execute("INSERT INTO table_(table_number) SELECT * FROM generate_series(1, 1200)")
        assert db.assign_foreign_offsets()
        heads = "SELECT topic, \"offset\" FROM topic_head WHERE topic IN ('robots', 'tables') ORDER BY topic"
        assert store.ask(heads) == [("robots", 0), ("tables", 500)]
        db.begin()
        db.execute("INSERT INTO robot(robot_id) VALUES ('a')")
        db.assign_offsets()
        db.commit()
        assert store.ask(heads) == [("robots", 1), ("tables", 1000)]
        assert not db.assign_foreign_offsets()
        assert store.ask(heads) == [("robots", 1), ("tables", 1200)]
        db.limit_lock_waits()
        assert db.execute("SHOW lock_timeout").fetchone() == ("100ms",)
        with db.impatiently():
            assert db.execute("SHOW lock_timeout").fetchone() == ("100ms",)
        assert db.execute("SHOW lock_timeout").fetchone() == ("100ms",)
    finally:
        db.close()
