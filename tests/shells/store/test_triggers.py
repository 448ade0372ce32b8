"""Whatever writes, and however, the change log has it: each trigger is missed by a test that bears its purpose."""

import sqlite3

import pytest

from robodyne_rt.model.topics import TOPICS
from robodyne_rt.store.engine.sqlite import SqliteConnection, SqliteDatabase
from robodyne_rt.store.engine.triggers import sqlite as triggers
from tests.shells.store.conftest import LogReader

INSERTS = {
    "robots": "INSERT INTO robot(robot_id) VALUES ('a')",
    "tables": "INSERT INTO table_(table_number) VALUES (1)",
    "events": "INSERT INTO event(type, timestamp) VALUES ('CALL', '2026-11-21T00:00:00Z')",
    "orders": "INSERT INTO order_(timestamp) VALUES ('2026-11-21T00:00:00Z')",
    "systemlogs": "INSERT INTO system_log(message, timestamp) VALUES ('m', '2026-11-21T00:00:00Z')",
    "customers": "INSERT INTO customer(arrived_at) VALUES ('2026-11-21T00:00:00Z')",
    "inventory": "INSERT INTO inventory(name) VALUES ('rice')",
    "video_streams": "INSERT INTO video_stream(name, source_type, url) VALUES ('hall', 'GLOBAL_CAM', 'http://x')",
    "users": "INSERT INTO user_(name) VALUES ('kim')",
    "tokens": (
        "INSERT INTO token(kind, user_name, created_at, expires_at)"
        " VALUES ('API', 'kim', '2026-11-21T00:00:00Z', '2026-11-22T00:00:00Z')"
    ),
    "devices": "INSERT INTO device(device_id, key_id) VALUES ('d', 'k')",
}
UPDATES = {
    "robots": "battery_level = 7",
    "tables": "status = 'CALLING'",
    "events": "acknowledged_by = 'kim'",
    "orders": "status = 'READY'",
    "systemlogs": "level = 'ERROR'",
    "customers": "count = 3",
    "inventory": "count = 3",
    "video_streams": "recording = 1",
    "users": "disabled = 1",
    "tokens": "revoked_at = '2026-11-21T00:00:00Z'",
    "devices": "revoked = 1",
}


@pytest.mark.parametrize("topic", TOPICS)
def test_insert_update_and_delete_are_logged(topic: str, foreign: sqlite3.Connection, reader: LogReader) -> None:
    table = TOPICS[topic].table
    foreign.execute(INSERTS[topic])
    assert reader.lines(topic) == [(1, "upsert")]
    foreign.execute(f"UPDATE {table} SET {UPDATES[topic]}")
    assert reader.lines(topic) == [(1, "upsert")]
    foreign.execute(f"UPDATE {table} SET {UPDATES[topic]}")
    assert reader.lines(topic) == []
    foreign.execute(f"DELETE FROM {table}")
    assert reader.lines(topic) == [(1, "delete")]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_changed_primary_key_is_a_delete_and_an_upsert(topic: str, foreign: sqlite3.Connection, reader: LogReader) -> None:
    foreign.execute(INSERTS[topic])
    reader.news(topic)
    foreign.execute(f"UPDATE {TOPICS[topic].table} SET id = 9")
    assert reader.news(topic) == ([9], [1])


def test_last_seen_updated_at_and_reported_at_alone_announce_nothing(foreign: sqlite3.Connection, reader: LogReader) -> None:
    foreign.execute(INSERTS["robots"])
    foreign.execute(INSERTS["tables"])
    reader.news("robots"), reader.news("tables")
    foreign.execute("UPDATE robot SET last_seen = '2026-11-21T00:00:00Z', reported_at = '2026-11-21T00:00:00Z'")
    foreign.execute("UPDATE table_ SET updated_at = '2026-11-21T00:00:00Z'")
    assert reader.lines("robots") == [] and reader.lines("tables") == []


def test_values_are_compared_by_bytes_and_by_type(foreign: sqlite3.Connection, reader: LogReader) -> None:
    foreign.execute("INSERT INTO robot(robot_id, name) VALUES ('a', 'x')")
    reader.news("robots")
    foreign.execute("UPDATE robot SET name = 'X'")
    assert reader.lines("robots") == [(1, "upsert")]
    foreign.execute("UPDATE robot SET name = NULL")
    assert reader.lines("robots") == [(1, "upsert")]


@pytest.mark.parametrize(
    ("topic", "first", "second", "replace"),
    [
        (
            "robots",
            "INSERT INTO robot(id, robot_id) VALUES (1, 'a')",
            "INSERT INTO robot(id, robot_id) VALUES (2, 'b')",
            "INSERT OR REPLACE INTO robot(id, robot_id) VALUES (3, 'a')",
        ),
        (
            "robots",
            "INSERT INTO robot(id, robot_id) VALUES (1, 'a')",
            "INSERT INTO robot(id, robot_id) VALUES (3, 'c')",
            "UPDATE OR REPLACE robot SET robot_id = 'a' WHERE id = 3",
        ),
        (
            "tables",
            "INSERT INTO table_(id, table_number) VALUES (1, 7)",
            "INSERT INTO table_(id, table_number) VALUES (2, 8)",
            "REPLACE INTO table_(id, table_number) VALUES (3, 7)",
        ),
        (
            "tables",
            "INSERT INTO table_(id, table_number) VALUES (1, 7)",
            "INSERT INTO table_(id, table_number) VALUES (3, 9)",
            "UPDATE OR REPLACE table_ SET table_number = 7 WHERE id = 3",
        ),
        (
            "inventory",
            "INSERT INTO inventory(id, ingredient_id, name) VALUES (1, 5, 'rice')",
            "INSERT INTO inventory(id, ingredient_id, name) VALUES (2, 6, 'beef')",
            "REPLACE INTO inventory(id, ingredient_id, name) VALUES (3, 5, 'rice')",
        ),
        (
            "inventory",
            "INSERT INTO inventory(id, ingredient_id, name) VALUES (1, 5, 'rice')",
            "INSERT INTO inventory(id, ingredient_id, name) VALUES (3, 6, 'beef')",
            "UPDATE OR REPLACE inventory SET ingredient_id = 5 WHERE id = 3",
        ),
    ],
)
def test_a_row_that_falls_to_anothers_unique_value_is_removed(
    topic: str, first: str, second: str, replace: str, foreign: sqlite3.Connection, reader: LogReader
) -> None:
    foreign.execute(first)
    foreign.execute(second)
    reader.news(topic)
    foreign.execute(replace)
    assert reader.news(topic) == ([3], [1])


def test_an_upsert_that_changes_nothing_tells_nothing(foreign: sqlite3.Connection, reader: LogReader) -> None:
    foreign.execute(INSERTS["robots"])
    reader.news("robots")
    foreign.execute("INSERT INTO robot(robot_id) VALUES ('a') ON CONFLICT(robot_id) DO UPDATE SET status = 'IDLE'")
    foreign.execute("INSERT OR IGNORE INTO robot(robot_id) VALUES ('a')")
    assert reader.news("robots") == ([], [])
    foreign.execute("INSERT INTO robot(robot_id) VALUES ('a') ON CONFLICT(robot_id) DO UPDATE SET status = 'ERROR'")
    assert reader.news("robots") == ([1], [])


@pytest.fixture
def order(foreign: sqlite3.Connection, reader: LogReader) -> sqlite3.Connection:
    """Two orders; the first has two items."""
    for number in (1, 2):
        foreign.execute("INSERT INTO order_(id, timestamp) VALUES (?, '2026-11-21T00:00:00Z')", (number,))
    for number in (11, 12):
        foreign.execute("INSERT INTO order_item(id, order_id, name) VALUES (?, 1, 'rice')", (number,))
    assert reader.news("orders") == ([1, 2], [])
    return foreign


def test_a_new_item_announces_its_order(order: sqlite3.Connection, reader: LogReader) -> None:
    order.execute("INSERT INTO order_item(id, order_id, name) VALUES (13, 2, 'beef')")
    assert reader.news("orders") == ([2], [])


def test_a_changed_item_announces_its_order(order: sqlite3.Connection, reader: LogReader) -> None:
    order.execute("UPDATE order_item SET status = 'READY' WHERE id = 11")
    assert reader.news("orders") == ([1], [])
    order.execute("UPDATE order_item SET status = 'READY' WHERE id = 11")
    assert reader.news("orders") == ([], [])


def test_a_moved_item_announces_both_orders(order: sqlite3.Connection, reader: LogReader) -> None:
    order.execute("UPDATE order_item SET order_id = 2 WHERE id = 11")
    assert reader.news("orders") == ([1, 2], [])


def test_a_deleted_item_announces_its_order(order: sqlite3.Connection, reader: LogReader) -> None:
    order.execute("DELETE FROM order_item WHERE id = 11")
    assert reader.news("orders") == ([1], [])


def test_an_item_replaced_into_another_order_announces_both(order: sqlite3.Connection, reader: LogReader) -> None:
    order.execute("INSERT OR REPLACE INTO order_item(id, order_id, name) VALUES (11, 2, 'rice')")
    assert reader.news("orders") == ([1, 2], [])


def test_an_item_whose_id_takes_that_of_another_order_announces_both(order: sqlite3.Connection, reader: LogReader) -> None:
    order.execute("INSERT INTO order_item(id, order_id, name) VALUES (13, 2, 'beef')")
    reader.news("orders")
    order.execute("UPDATE OR REPLACE order_item SET id = 13 WHERE id = 11")
    assert reader.news("orders") == ([1, 2], [])


def test_nothing_is_logged_while_the_switch_is_set_and_nobody_else_ever_meets_it(
    writer: sqlite3.Connection, foreign: sqlite3.Connection, reader: LogReader
) -> None:
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE topic_head SET is_silent = 1")
    writer.execute(INSERTS["robots"])
    writer.execute("UPDATE topic_head SET is_silent = 0")
    writer.execute("COMMIT")
    assert reader.lines("robots") == []
    foreign.execute("UPDATE robot SET battery_level = 7")
    assert reader.lines("robots") == [(1, "upsert")]


GIVEN = [table for table in ("event", "order_", "order_item", "system_log", "token")]


@pytest.mark.parametrize("table", GIVEN)
def test_an_id_far_above_the_newest_and_ours_is_refused(
    table: str, foreign: sqlite3.Connection, writer: sqlite3.Connection
) -> None:
    topic = next(topic for topic in TOPICS if TOPICS[topic].table == table or (table == "order_item" and topic == "orders"))
    foreign.execute(INSERTS[topic])
    if table == "order_item":
        foreign.execute("INSERT INTO order_item(order_id, name) VALUES (1, 'rice')")
    leap = 2**44

    def move(id: int) -> None:
        foreign.execute(f"UPDATE {table} SET id = {id} WHERE id = (SELECT max(id) FROM {table})")

    move(2**50)  # nobody has served it yet: nothing is known of what comes next
    move(1)
    foreign.execute("UPDATE topic_head SET next_id = 5000")
    move(5000 + leap)
    with pytest.raises(sqlite3.IntegrityError, match="too far"):
        move(5001 + 2 * leap)
    move(5000 + 2 * leap)  # step by step, as one whose clock is ahead
    copied = ", ".join(row[1] for row in foreign.execute(f"PRAGMA table_info({table})") if row[1] != "id")
    with pytest.raises(sqlite3.IntegrityError, match="too far"):
        foreign.execute(f"INSERT INTO {table}(id, {copied}) SELECT id + {leap} + 1, {copied} FROM {table}")
    foreign.execute(f"INSERT INTO {table}(id, {copied}) SELECT id + {leap}, {copied} FROM {table}")
    foreign.execute(f"INSERT INTO {table}({copied}) SELECT {copied} FROM {table}")  # left out, one is given


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if not TOPICS[topic].private])
@pytest.mark.parametrize("id", [0, -1, 2**53, 1795768850724123457])
def test_an_id_that_no_client_could_name_is_refused(topic: str, id: int, foreign: sqlite3.Connection) -> None:
    foreign.execute(INSERTS[topic])
    with pytest.raises(sqlite3.IntegrityError):
        foreign.execute(f"UPDATE {TOPICS[topic].table} SET id = {id}")


def test_a_deleted_order_is_one_line_and_takes_its_items_along(order: sqlite3.Connection, reader: LogReader) -> None:
    assert order.execute("PRAGMA foreign_keys").fetchone() == (0,)
    order.execute("DELETE FROM order_ WHERE id = 1")
    assert reader.lines("orders") == [(1, "delete")]
    assert order.execute("SELECT count(*) FROM order_item").fetchone() == (0,)


def test_a_bulk_load_is_logged_row_by_row_without_gaps(foreign: sqlite3.Connection, reader: LogReader) -> None:
    foreign.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) "
        "INSERT INTO table_(table_number) SELECT i FROM n"
    )
    assert len(reader.lines("tables")) == 2000


def test_a_rolled_back_write_leaves_no_line_and_no_gap(foreign: sqlite3.Connection, reader: LogReader) -> None:
    foreign.execute("BEGIN")
    foreign.execute(INSERTS["robots"])
    foreign.execute("ROLLBACK")
    foreign.execute(INSERTS["robots"])
    assert reader.lines("robots") == [(1, "upsert")]


def test_triggers_are_made_anew_where_somebody_dropped_or_changed_them(
    database: SqliteDatabase, db: SqliteConnection, writer: sqlite3.Connection
) -> None:
    names = list(triggers.statements())
    writer.execute(f'DROP TRIGGER "{names[0]}"')
    assert db.missing_triggers() == [names[0]]
    writer.execute('CREATE TRIGGER "zz_old" AFTER INSERT ON robot BEGIN SELECT 1; END')
    database.prepare(db)
    assert db.missing_triggers() == []
    assert not writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'zz_old'").fetchone()


@pytest.mark.parametrize("name", triggers.statements())
def test_without_this_trigger_a_change_is_missed(name: str, writer: sqlite3.Connection, foreign: sqlite3.Connection) -> None:
    """The tests above bite: drop one trigger, do everything they do, and the log differs from the whole one."""

    def lines() -> list[tuple[str, int, str]]:
        script = [statement for topic in TOPICS for statement in _everything(topic)] + _EVERYTHING_WITH_ITEMS
        writer.execute("BEGIN")
        try:
            for statement in script:
                writer.execute(statement)
            return writer.execute('SELECT topic, key, op FROM change ORDER BY topic, "offset"').fetchall()
        finally:
            writer.execute("ROLLBACK")

    whole = lines()
    writer.execute(f'DROP TRIGGER "{name}"')
    assert lines() != whole


def _everything(topic: str) -> list[str]:
    table = TOPICS[topic].table
    statements = [INSERTS[topic], f"UPDATE {table} SET {UPDATES[topic]}", f"UPDATE {table} SET id = 9", f"DELETE FROM {table}"]
    unique = {
        "robots": ("robot_id", "'a'", "'c'"),
        "tables": ("table_number", "7", "9"),
        "inventory": ("ingredient_id", "5", "6"),
        "users": ("name", "'a'", "'c'"),
        "devices": ("device_id", "'a'", "'c'"),
    }
    if topic in unique:
        column, first, second = unique[topic]
        more = (", name", ", 'rice'") if topic == "inventory" else ("", "")
        if topic == "devices":
            more = (", key_id", ", 'k'")
        if topic == "inventory":
            statements += ["INSERT INTO ingredient(id, name) VALUES (5, 'rice'), (6, 'beef')"]
        statements += [
            f"INSERT INTO {table}(id, {column}{more[0]}) VALUES (1, {first}{more[1]})",
            f"REPLACE INTO {table}(id, {column}{more[0]}) VALUES (3, {first}{more[1]})",
            f"INSERT INTO {table}(id, {column}{more[0]}) VALUES (4, {second}{more[1]})",
            f"UPDATE OR REPLACE {table} SET {column} = {first} WHERE id = 4",
        ]
    return statements


_EVERYTHING_WITH_ITEMS = [
    "INSERT INTO order_(id, timestamp) VALUES (1, '2026-11-21T00:00:00Z'), (2, '2026-11-21T00:00:00Z')",
    "INSERT INTO order_item(id, order_id, name) VALUES (11, 1, 'rice'), (12, 1, 'beef')",
    "UPDATE order_item SET status = 'READY' WHERE id = 11",
    "UPDATE order_item SET order_id = 2 WHERE id = 11",
    "REPLACE INTO order_item(id, order_id, name) VALUES (11, 1, 'rice')",
    "INSERT INTO order_item(id, order_id, name) VALUES (14, 2, 'soup')",
    "UPDATE OR REPLACE order_item SET id = 14 WHERE id = 12",
    "DELETE FROM order_item WHERE id = 11",
]
