"""Databases of every earlier version, made by its own code and filled, become what a new database is, and lose nothing."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from robodyne_rt.sim.cluster import Cluster
from robodyne_rt.store.engine import schema
from robodyne_rt.store.engine.database import read_epochs, read_meta
from robodyne_rt.store.engine.sqlite import SqliteConnection, SqliteDatabase
from robodyne_rt.store.errors import StorageBroken
from robodyne_rt.store.migrations.runner import SqliteRunner
from tests import stores
from tests.stores import Store

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = {kind: sorted(path.name.split(".")[0] for path in FIXTURES.glob(f"*.{kind}.sql")) for kind in ("sqlite", "postgres")}
CASES = [(kind, name) for kind, names in NAMES.items() for name in names]


def load(store: Store, name: str) -> None:
    """Make the old database."""
    text = (FIXTURES / f"{name}.{store.kind}.sql").read_text(encoding="utf-8")
    if store.kind == "sqlite":
        link = sqlite3.connect(store.path)
        link.executescript(text)
        link.execute("PRAGMA journal_mode = wal")
        link.close()
        return
    with psycopg.connect(store.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(text.encode())


def upgrade(store: Store) -> None:
    database = store.database()
    db = database.open_writer()
    try:
        database.prepare(db)
        assert db.missing_triggers() == []
    finally:
        db.close()


def tables(store: Store) -> list[str]:
    if store.kind == "sqlite":
        rows = store.ask("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name")
    else:
        rows = store.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    return [name for (name,) in rows]


def contents(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table, as (column: value)."""
    found = {}
    for table in tables(store):
        if store.kind == "sqlite":
            names = [row[1] for row in store.ask(f"PRAGMA table_xinfo({table})")]
        else:
            names = [
                name
                for (name,) in store.ask(
                    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
                    " ORDER BY attnum",
                    f"public.{table}",
                )
            ]
        columns = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
        rows = store.ask(f"SELECT {columns} FROM {table}")
        found[table] = sorted((dict(zip(names, row, strict=True)) for row in rows), key=repr)
    return found


def shape(store: Store) -> dict[str, Any]:
    """Return tables with columns in order, types, defaults, constraints, indexes and triggers, however they came to be."""
    if store.kind == "sqlite":
        return {
            name: _sqlite_shape(store, name, sql)
            for name, sql in store.ask("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        } | {
            "indexes and triggers": sorted(
                (name, " ".join(sql.split()))
                for name, sql in store.ask("SELECT name, sql FROM sqlite_master WHERE type IN ('index', 'trigger')")
                if sql
            )
        }
    return {
        "columns": store.ask(
            "SELECT c.relname, attnum - (SELECT count(*) FROM pg_attribute d WHERE d.attrelid = a.attrelid AND d.attisdropped"
            " AND d.attnum BETWEEN 1 AND a.attnum), attname, format_type(atttypid, atttypmod), attnotnull, attgenerated,"
            " pg_get_expr(adbin, adrelid) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid AND relkind = 'r'"
            " AND relnamespace = 'public'::regnamespace LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
            " WHERE attnum > 0 AND NOT attisdropped ORDER BY 1, 2"
        ),
        "constraints": store.ask(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), condeferrable, convalidated"
            " FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
        ),
        "indexes": store.ask("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"),
        "triggers": store.ask(
            "SELECT tgname, tgenabled, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid"
            " WHERE relnamespace = 'public'::regnamespace AND NOT tgisinternal ORDER BY 1"
        ),
        "functions": store.ask(
            "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
        ),
        "storage": store.ask(
            "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
        ),
    }


def _sqlite_shape(store: Store, table: str, sql: str) -> dict[str, Any]:
    constraints = sorted(
        " ".join(found.split()) for found in re.findall(r"CONSTRAINT \w+ CHECK \((?:[^()]|\([^()]*\))*\)", sql)
    )
    return {
        "columns": store.ask(f"PRAGMA table_xinfo({table})"),
        "keys": sorted(row[2:] for row in store.ask(f"PRAGMA foreign_key_list({table})")),
        "indexes": sorted(row[2:] for row in store.ask(f"PRAGMA index_list({table})") if row[3] != "c"),
        "constraints": constraints,
        "options": sorted(re.split(r"[\s,]+", sql[sql.rindex(")") + 1 :].strip())),
    }


@pytest.fixture
def old(request: pytest.FixtureRequest, tmp_path: Path, cluster_of: Callable[[], Cluster]) -> tuple[Store, str]:
    kind, name = request.param
    (tmp_path / "old").mkdir()
    store = stores.make_store(kind, tmp_path / "old", cluster_of)
    load(store, name)
    return store, name


@pytest.mark.parametrize("old", CASES, indirect=True, ids="-".join)
def test_an_old_database_becomes_what_a_new_one_is_and_keeps_every_row(
    old: tuple[Store, str], tmp_path: Path, cluster_of: Callable[[], Cluster]
) -> None:
    store, name = old
    before = contents(store)
    assert before["order_"] and before["order_item"] and before["event"] and (name[:2] != "v3" or before["token"])
    upgrade(store)
    (tmp_path / "fresh").mkdir()
    fresh = stores.make_store(store.kind, tmp_path / "fresh", cluster_of)
    upgrade(fresh)
    wanted, got = shape(fresh), shape(store)
    assert "id_in_range" in str(wanted) and "status_is_known" in str(wanted)
    for part, value in wanted.items():
        assert got[part] == value, part
    assert set(got) == set(wanted)
    after = contents(store)
    for table, rows in before.items():
        if table in ("meta", "topic_head", "change", "inbox"):
            continue
        kept = [{column: row[column] for column in row if not rows or column in rows[0]} for row in after[table]]
        aged = {"at": 0} if table == "device_message" and name == "v1" else {}  # from version 2 on by the database's age
        assert sorted(kept, key=repr) == sorted((row | aged for row in rows), key=repr), table


@pytest.mark.parametrize("old", CASES, indirect=True, ids="-".join)
def test_clients_get_a_snapshot_after_it_and_the_old_history_is_remembered(old: tuple[Store, str]) -> None:
    store, _ = old
    ((epoch,),) = store.ask("SELECT value FROM meta WHERE key = 'epoch'")
    upgrade(store)
    db = store.database().open_writer()
    try:
        assert read_epochs(db)[-2:] == [epoch, read_meta(db, "epoch")]
        assert read_meta(db, "epoch") != epoch
    finally:
        db.close()


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_postgres_triggers_can_be_restored_from_what_pg_dump_prints(store: Store) -> None:
    upgrade(store)
    printed = shape(store)["triggers"]
    with store.foreign() as foreign:
        for name, _, definition in printed:
            (table,) = re.findall(r" ON (\S+)", definition)[:1]
            foreign.execute(f'DROP TRIGGER "{name}" ON {table}')
            foreign.execute(definition)
    assert [definition for _, _, definition in shape(store)["triggers"]] == [definition for _, _, definition in printed]


# -- SQLite's rebuild ----------------------------------------------------------------------------------------------


@pytest.fixture
def v3(tmp_path: Path) -> Store:
    store = stores.make_store("sqlite", tmp_path, lambda: pytest.fail("no Postgres here"))
    load(store, "v3")
    return store


def test_what_others_added_stays(v3: Store) -> None:
    for statement in (
        "ALTER TABLE order_ ADD COLUMN till_no TEXT",
        "UPDATE order_ SET till_no = 'T-1'",
        "CREATE INDEX till_orders ON order_ (till_no)",
        "CREATE TABLE till (n INTEGER)",
        "CREATE TRIGGER till_counts AFTER INSERT ON order_ BEGIN INSERT INTO till VALUES (NEW.id); END",
        "CREATE VIEW open_orders AS SELECT id, till_no FROM order_ WHERE status <> 'SERVED'",
    ):
        v3.ask(statement)
    upgrade(v3)
    assert {row[0] for row in v3.ask("SELECT till_no FROM order_")} == {"T-1"}
    names = {row[0] for row in v3.ask("SELECT name FROM sqlite_master")}
    assert {"till_orders", "till_counts", "open_orders"} <= names
    v3.ask("INSERT INTO order_(id, timestamp) VALUES (5, '2026-11-27T00:00:00Z')")
    assert v3.ask("SELECT n FROM till") == [(5,)]
    assert (5, None) in v3.ask("SELECT * FROM open_orders")


@pytest.mark.parametrize("name", ["[event]", "`event`", '"event"', '"Event"', "EVENT"])
def test_a_table_that_somebody_rebuilt_under_another_spelling_of_its_name_is_rebuilt(v3: Store, name: str) -> None:
    ((sql,),) = v3.ask("SELECT sql FROM sqlite_master WHERE name = 'event'")
    body = sql[sql.index("(") :]
    before = contents(v3)["event"]
    for statement in (
        "CREATE TABLE kept AS SELECT * FROM event",
        "DROP TABLE event",
        f"CREATE TABLE {name} {body}",
        f"INSERT INTO {name} SELECT * FROM kept",
        "DROP TABLE kept",
        'CREATE TRIGGER "till""s own" AFTER INSERT ON event BEGIN SELECT 1; END',
        'ALTER TABLE event ADD COLUMN "no ""one\'s" TEXT',
    ):
        v3.ask(statement)
    upgrade(v3)
    assert [{key: row[key] for key in before[0]} for row in contents(v3)["event"]] == before
    assert v3.ask("SELECT 1 FROM sqlite_master WHERE name = 'till\"s own'") == [(1,)]


def test_references_that_led_nowhere_before_are_no_reason_to_fail(v3: Store) -> None:
    v3.ask("UPDATE order_ SET robot_id = 999")  # a foreign program runs without foreign keys
    upgrade(v3)
    assert {row[0] for row in v3.ask("SELECT robot_id FROM order_")} == {999}


def test_ids_that_no_client_can_read_get_others_and_what_refers_to_them_follows(
    tmp_path: Path, cluster_of: Callable[[], Cluster]
) -> None:
    for kind in NAMES:
        (tmp_path / kind).mkdir()
        store = stores.make_store(kind, tmp_path / kind, cluster_of)
        load(store, "v3")
        huge = 1795768850724123457
        with store.foreign() as foreign:
            foreign.execute(f"INSERT INTO order_(id, timestamp, note) VALUES ({huge}, '2026-11-27T00:00:00Z', 'far')")
            foreign.execute(f"INSERT INTO order_item(id, order_id, name) VALUES ({huge}, {huge}, 'x')")
            foreign.execute("INSERT INTO event(id, type, timestamp) VALUES (-7, 'INFO', '2026-11-27T00:00:00Z')")
        upgrade(store)
        ((order, item),) = store.ask(
            "SELECT o.id, i.id FROM order_ o JOIN order_item i ON i.order_id = o.id WHERE o.note = 'far'"
        )
        assert 0 < order < 2**53 and 0 < item < 2**53
        assert store.ask("SELECT count(*) FROM event WHERE id < 1") == [(0,)]
        assert store.ask("SELECT count(*) FROM event WHERE timestamp = '2026-11-27T00:00:00Z'") == [(1,)]


class Killed(Exception):
    pass


def test_killed_at_any_statement_it_is_the_old_one_or_the_new_one(v3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(v3)
    old_shape = shape(v3)
    total = 0

    def run(until: int) -> int:
        """Migrate, and die before statement number `until`."""
        database = SqliteDatabase(v3.url)
        db = database.open_writer()
        count, honest = 0, db.execute

        def execute(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == until:
                raise Killed
            return honest(*arguments)

        db.execute = execute
        try:
            database.prepare(db)
        except Killed:
            pass
        finally:
            db.execute = honest
            db.connection.close()
        return count

    for until in range(1, 2000, 31):
        run(until)
        now = shape(v3)
        if now != old_shape:
            total = until
            break
        assert contents(v3) == before
    assert total > 100
    assert read_version(v3) == SqliteDatabase(v3.url).schema_version


def read_version(store: Store) -> int:
    return int(store.ask("SELECT value FROM meta WHERE key = 'schema_version'")[0][0])


def test_the_copy_before_it_is_made_once_and_is_the_old_database(v3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    from robodyne_rt.store.engine import sqlite as module

    honest = module.finish_copy

    def finish(part: Path, target: Path, **options: Any) -> None:
        made.append(target)
        honest(part, target, **options)

    monkeypatch.setattr(module, "finish_copy", finish)
    monkeypatch.setattr(SqliteRunner, "run", lambda self, migrations: (_ for _ in ()).throw(StorageBroken("no")))
    for _ in range(2):
        with pytest.raises(StorageBroken):
            upgrade(v3)
    assert len(made) == 1
    copy = Store("sqlite", f"sqlite:///{made[0]}", made[0])
    assert contents(copy)["order_item"] == contents(v3)["order_item"] and read_version(copy) == 3
    v3.ask("INSERT INTO event(id, type, timestamp) VALUES (77, 'INFO', '2026-11-27T00:00:00Z')")
    with pytest.raises(StorageBroken):
        upgrade(v3)
    assert len(made) == 2  # what it holds is another state by now


def test_without_room_for_the_copy_nothing_is_done(v3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from robodyne_rt.store.engine import sqlite as module

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: module.shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    with pytest.raises(StorageBroken, match="no room"):
        upgrade(v3)
    assert read_version(v3) == 3


def test_long_work_says_that_it_goes_on(v3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from robodyne_rt.store.engine import sqlite as module

    monkeypatch.setattr(module, "PROGRESS_S", 0.0)
    monkeypatch.setattr(module, "VERIFY_STEPS", 100)
    told: list[str] = []
    database = v3.database()
    db = database.open_writer()
    database.prepare(db, progress=told.append)
    assert isinstance(db, SqliteConnection)
    assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)
    db.close()
    assert sum("copying" in text for text in told) > 1 and sum("migrating" in text for text in told) > 1


def test_the_steps_lead_to_the_version_that_the_models_have() -> None:
    assert SqliteDatabase("sqlite:///x.db").schema_version == 5
    assert list(schema.load("sqlite").columns["topic_head"]) == ["topic", "offset", "next_id", "is_silent"]
