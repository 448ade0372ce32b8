"""A database that lacks a table or a column of this program is refused with what to do, on both kinds of database."""

from collections.abc import Callable

import pytest

from robodyne_rt.store.engine import schema
from robodyne_rt.store.engine.database import Database, DbConnection
from robodyne_rt.store.errors import SchemaMismatch
from tests.stores import Store


def prepare(database: Database, db: DbConnection) -> object:
    return database.prepare(db)


def check_schema(database: Database, db: DbConnection) -> None:
    database.check_schema(db)


ACTS = pytest.mark.parametrize("act", [prepare, check_schema])


def refusal(store: Store, act: Callable[[Database, DbConnection], object]) -> str:
    database = store.database()
    db = database.open_writer()
    try:
        with pytest.raises(SchemaMismatch) as error:
            act(database, db)
        assert not db.in_transaction
    finally:
        db.close()
    return str(error.value)


def make(store: Store) -> None:
    database = store.database()
    db = database.open_writer()
    database.prepare(db)
    database.check_schema(db)
    db.close()


@ACTS
def test_a_new_topic_without_its_migration(
    store: Store, monkeypatch: pytest.MonkeyPatch, act: Callable[[Database, DbConnection], object]
) -> None:
    make(store)
    shipped = schema.load(store.kind)
    head = 'CREATE TRIGGER "zz_recipe_insert" AFTER INSERT ON recipe '
    newer = shipped._replace(
        columns=shipped.columns | {"recipe": {"id": "", "name": ""}}, triggers=shipped.triggers | {"zz_recipe_insert": head}
    )
    monkeypatch.setattr(schema, "load", lambda kind: newer)
    said = refusal(store, act)
    assert "without recipe," in said and "`robodyne-rt migrate`" in said


@ACTS
def test_a_table_or_a_column_that_somebody_deleted(store: Store, act: Callable[[Database, DbConnection], object]) -> None:
    make(store)
    with store.foreign() as foreign:
        foreign.execute("DROP TABLE video_stream" + (" CASCADE" if store.kind == "postgres" else ""))
        foreign.execute("ALTER TABLE customer RENAME COLUMN arrived_at TO came_at")
    said = refusal(store, act)
    assert "without " in said and "video_stream" in said and "customer.arrived_at" in said
    assert "robodyne-rt restore" in said
