"""What other programs do to the database's history and shape while the server runs: screens follow, or a new epoch begins."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.engine.database import read_epochs
from tests.contract.running import Running
from tests.stores import Store


@pytest.fixture
async def running(store: Store, tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(store, tmp_path)
    yield running
    await running.stop()
    assert running.failure is None


def event(number: int) -> dict[str, Any]:
    return {"msg_type": "Event", "type": "INFO", "description": f"n-{number}", "id": f"id-{number}"}


async def tell(running: Running, *numbers: int) -> None:
    for number in numbers:
        assert isinstance(await running.tell(**event(number)), dict)


def descriptions(running: Running) -> set[str]:
    return {entity["description"] for entity in running.screens.current("events").values() if entity["type"] == "INFO"}


def go_back(store: Store, copy: Path) -> None:
    """Put the database back to an older state under the server, through SQL."""
    if store.kind == "sqlite":
        source, target = sqlite3.connect(copy), sqlite3.connect(store.path)
        source.backup(target)  # what the shell's `.restore` does
        source.close()
        target.close()
        return
    with store.foreign() as foreign:
        foreign.execute("SET robodyne.quiet = 'on'")
        foreign.execute(
            "BEGIN; ALTER TABLE event DISABLE TRIGGER ALL; DELETE FROM event WHERE description IN ('n-6', 'n-7', 'n-8', 'n-9');"
            "ALTER TABLE event ENABLE ALWAYS TRIGGER zz_event_insert; ALTER TABLE event ENABLE ALWAYS TRIGGER zz_event_update;"
            "ALTER TABLE event ENABLE ALWAYS TRIGGER zz_event_rekey; ALTER TABLE event ENABLE ALWAYS TRIGGER zz_event_delete;"
            "ALTER TABLE event ENABLE ALWAYS TRIGGER zz_event_truncate; ALTER TABLE event ENABLE ALWAYS TRIGGER zz_event_ring;"
            "ALTER TABLE event ENABLE ALWAYS TRIGGER zz_event_guard;"
            "DELETE FROM change WHERE topic = 'events' AND \"offset\" > 5;"
            "UPDATE topic_head SET \"offset\" = 5 WHERE topic = 'events'; COMMIT"
        )


@pytest.mark.parametrize("further", [0, 2, 9])
async def test_a_database_put_back_while_serving_is_a_new_history(
    running: Running, store: Store, tmp_path: Path, further: int
) -> None:
    """Also where another program wrote on, to the offset that was read last and past it."""
    await tell(running, 1, 2, 3, 4, 5)
    if store.kind == "sqlite":
        source, target = sqlite3.connect(store.path), sqlite3.connect(tmp_path / "older.db")
        source.backup(target)
        source.close()
        target.close()
    await tell(running, 6, 7, 8, 9)
    assert running.writer.positions["events"] == 9
    old = running.history.epoch
    go_back(store, tmp_path / "older.db")
    with store.foreign() as foreign:
        for number in range(further):
            foreign.execute(
                "INSERT INTO event(type, description, timestamp) VALUES ('INFO', ?, '2026-11-21T00:00:00Z')",
                (f"till-{number}",),
            )
    await running.until(lambda: running.screens.epochs)
    assert running.history.epoch != old and running.writer.stats.regressions == 1
    wanted = {f"n-{number}" for number in range(1, 6)} | {f"till-{number}" for number in range(further)}
    await running.until(lambda: descriptions(running) == wanted)
    await running.until(lambda: bool(store.ask("SELECT 1 FROM event WHERE type = 'ERROR' AND description LIKE '%older%'")))
    await tell(running, 10)
    await running.until(lambda: "n-10" in descriptions(running))
    db = store.database().open_reader()
    assert old in read_epochs(db) and read_epochs(db)[-1] == running.history.epoch
    db.close()


async def test_a_reader_never_takes_a_client_into_a_history_that_is_gone(
    running: Running, store: Store, tmp_path: Path
) -> None:
    """Between the moment of the change and the moment in which the writer sees it."""
    await tell(running, 1, 2, 3)
    known = dict(running.history.last_lines)
    topic, offset, key, op, at = ("events", *known["events"])
    running.history.last_lines[topic] = (offset, key, op, at.replace("2", "1", 1))
    with pytest.raises(StorageUnavailable, match="lost changes"):
        await running.readers.changed("events", 1)
    running.history.last_lines.update(known)
    changed = await running.readers.changed("events", 1)
    assert changed is not None and len(changed.keys) == 2


async def test_a_table_rebuilt_without_its_triggers_gets_them_back_and_screens_catch_up(running: Running, store: Store) -> None:
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO table_(id, table_number) VALUES (1, 1)")
    await running.until(lambda: 1 in running.screens.current("tables"))
    with store.foreign() as foreign:
        if store.kind == "sqlite":
            ((sql,),) = foreign.ask("SELECT sql FROM sqlite_master WHERE name = 'table_'")
            foreign.execute(sql.replace("table_ (", "rebuilt (", 1).replace('"table_"', "rebuilt", 1))
            foreign.execute("INSERT INTO rebuilt SELECT * FROM table_")
            foreign.execute("DROP TABLE table_")
            foreign.execute("PRAGMA legacy_alter_table = ON")
            foreign.execute("ALTER TABLE rebuilt RENAME TO table_")
        else:
            for (name,) in foreign.ask("SELECT tgname FROM pg_trigger WHERE tgrelid = 'table_'::regclass AND NOT tgisinternal"):
                foreign.execute(f"DROP TRIGGER {name} ON table_")
        foreign.execute("UPDATE table_ SET status = 'CALLING'")
    await running.until(lambda: running.screens.current("tables")[1]["status"] == "CALLING", within_s=10)
    with store.foreign() as foreign:
        foreign.execute("UPDATE table_ SET status = 'CLEANING'")
    await running.until(lambda: running.screens.current("tables")[1]["status"] == "CLEANING", within_s=10)
    assert running.writer.stats.missing_triggers == []
    await running.until(lambda: bool(store.ask("SELECT 1 FROM event WHERE type = 'ERROR' AND description LIKE '%triggers%'")))


async def test_columns_of_others_are_theirs(running: Running, store: Store, tmp_path: Path) -> None:
    with store.foreign() as foreign:
        foreign.execute("ALTER TABLE robot ADD COLUMN pos_ref text")
        foreign.execute("ALTER TABLE customer ADD COLUMN phone text")
    await running.stop()
    again = Running(store, tmp_path / "again")
    await again.tell(msg_type="Albabot", robot_id="alba-1", battery_level=50)
    await again.until(lambda: bool(again.screens.current("robots")))
    (robot,) = again.screens.current("robots").values()
    assert "pos_ref" not in robot
    lines = len(again.screens.updates)
    with store.foreign() as foreign:
        foreign.execute("UPDATE robot SET pos_ref = 'P7'")
        foreign.execute("INSERT INTO customer(arrived_at, phone) VALUES ('2026-11-27T00:00:00Z', '010-1234')")
    await again.until(lambda: bool(again.screens.current("customers")))
    assert "010-1234" not in str(again.screens.current("customers"))
    assert [update.topic for update in again.screens.updates[lines:]] == ["customers"]
    # and what is shown while storage is late is what is always shown
    again.intake._admission._overlay.apply(_robot_write(again))
    ((topic, changes),) = again.screens.optimistic
    assert topic == "robots" and all("pos_ref" not in change.entity for change in changes.values())
    await again.stop()


def _robot_write(running: Running) -> Any:
    from robodyne_rt.protocol.device_messages import parse
    from robodyne_rt.store.intake.writes import MessageWrite

    message, digest = parse(b'{"msg_type":"Albabot","robot_id":"alba-1","battery_level":40}')
    return MessageWrite(message, "alba-1", digest, running.clock.stamp(), [1])


async def test_values_that_json_or_javascript_cannot_hold_are_null_with_one_event(running: Running, store: Store) -> None:
    infinite = "9e999" if store.kind == "sqlite" else "'Infinity'"
    with store.foreign() as foreign:
        foreign.execute(f"INSERT INTO robot(id, robot_id, x, y) VALUES (1, 'a', {infinite}, 2.5)")
        foreign.execute("INSERT INTO table_(id, table_number) VALUES (1, 9007199254740993)")
    await running.until(lambda: 1 in running.screens.current("robots") and 1 in running.screens.current("tables"))
    robot, table = running.screens.current("robots")[1], running.screens.current("tables")[1]
    assert (robot["x"], robot["y"]) == (None, 2.5) and table["table_number"] is None
    told = "SELECT description FROM event WHERE type = 'ERROR' ORDER BY description"
    await running.until(lambda: len(store.ask(told)) == 2)
    assert [text for (text,) in store.ask(told)] == [
        "robot.x of row 1 cannot be read; shown as null",
        "table_.table_number of row 1 cannot be read; shown as null",
    ]


async def test_ids_that_others_choose_are_followed(running: Running, store: Store) -> None:
    await tell(running, 1)
    ((ours,),) = store.ask("SELECT max(id) FROM event")
    with store.foreign() as foreign:
        foreign.execute(
            "INSERT INTO event(id, type, description, timestamp) VALUES (?, 'INFO', 'till', '2026-11-21T00:00:00Z')",
            (ours + 2**43,),
        )
    await running.until(lambda: "till" in descriptions(running))
    await tell(running, 2)
    newest = [text for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id")]
    assert newest == ["n-1", "till", "n-2"]


async def test_ids_far_above_and_those_no_client_can_name_are_refused(running: Running, store: Store) -> None:
    await running.until(lambda: bool(store.ask("SELECT 1 FROM topic_head WHERE next_id > 0")))
    await tell(running, 1)
    ((ours,),) = store.ask("SELECT max(id) FROM event")
    insert = "INSERT INTO event(id, type, timestamp) VALUES (?, 'INFO', '2026-11-21T00:00:00Z')"
    for id in (0, -5, 2**53, ours + 2**44 + 2**30):
        with store.foreign() as foreign, pytest.raises(Exception, match=r"id_in_range|too far"):
            foreign.execute(insert, (id,))
    with store.foreign() as foreign:
        foreign.execute(insert, (7,))  # a small one counts as old
    await running.until(lambda: 7 in running.screens.current("events"))
    assert isinstance(await running.tell(**event(2)), dict)
