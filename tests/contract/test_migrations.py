"""A database of the version before becomes one of this version, and keeps what it held."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from robodyne_rt.sim.cluster import Cluster
from robodyne_rt.store.engine.database import Database, read_meta
from tests import stores
from tests.stores import Store

NEW_TABLES = ("staff_message_receipt", "staff_message", "session", "device", "token", "user_")
NEW_COLUMNS = ("user_name", "session_id", "request_id", "dialect", "status", "code", "seq", "answered_at")
NEW_INDEXES = ("chat_message_by_request", "chat_message_by_session", "chat_message_by_status")


def prepared(store: Store) -> Database:
    database = store.database()
    db = database.open_writer()
    database.prepare(db)
    db.close()
    return database


def columns(store: Store) -> dict[str, set[str]]:
    database = store.database()
    db = database.open_writer()
    try:
        return {table: {column.name for column in db.columns(table)} for table in (*NEW_TABLES, "chat_message", "event")}
    finally:
        db.close()


def indexes(store: Store) -> set[tuple[Any, ...]]:
    if store.kind == "sqlite":
        return set(store.ask("SELECT name, tbl_name FROM sqlite_master WHERE type = 'index'"))
    return set(store.ask("SELECT indexname, tablename FROM pg_indexes WHERE schemaname = 'public'"))


def test_version_2_becomes_version_3(store: Store, tmp_path: Path, cluster_of: Callable[[], Cluster]) -> None:
    prepared(store)
    with store.foreign() as foreign:
        for name in NEW_INDEXES:
            foreign.execute(f"DROP INDEX {name}")
        for name in NEW_TABLES:
            foreign.execute(f"DROP TABLE {name}")
        if store.kind == "postgres":
            for name in NEW_COLUMNS:
                foreign.execute(f"ALTER TABLE chat_message DROP COLUMN {name}")
        else:  # SQLite drops no column that a constraint names
            foreign.execute("DROP TABLE chat_message")
            foreign.execute(
                "CREATE TABLE chat_message (id INTEGER NOT NULL, msg_id TEXT, robot_id TEXT, robot_task TEXT, question TEXT, "
                "response TEXT, timestamp TEXT NOT NULL, PRIMARY KEY (id)) STRICT"
            )
        foreign.execute("DELETE FROM topic_head WHERE topic IN ('users', 'tokens', 'devices')")
        foreign.execute("INSERT INTO chat_message(id, question, timestamp) VALUES (7, 'q', '2026-11-21T00:00:00Z')")
        foreign.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    prepared(store)
    (tmp_path / "fresh").mkdir()
    fresh = stores.make_store(store.kind, tmp_path / "fresh", cluster_of)
    prepared(fresh)
    assert columns(store) == columns(fresh)
    assert indexes(store) == indexes(fresh)
    assert store.ask("SELECT id, question, user_name FROM chat_message") == [(7, "q", None)]
    db = store.database().open_writer()
    try:
        assert db.missing_triggers() == []
        assert read_meta(db, "schema_version") == "3"
        db.execute("INSERT INTO user_(name) VALUES ('kim')")
        db.assign_foreign_offsets()
        assert dict(db.execute('SELECT topic, "offset" FROM topic_head').fetchall())["users"] == 1
    finally:
        db.close()
