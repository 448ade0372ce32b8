"""New ids lie above all that are stored, in whatever table."""

import pytest

from robodyne_rt.model import entities
from robodyne_rt.store.tables import given_ids
from robodyne_rt.testing.database import MemoryDatabase


def test_every_table_whose_ids_are_given_is_looked_at() -> None:
    tables = entities.Robot.metadata.tables.values()
    given = {table.name for table in tables if "id" in table.columns and table.columns["id"].info.get("given")}
    assert given == set(given_ids.GIVEN)


@pytest.mark.parametrize("table", given_ids.GIVEN)
def test_the_newest_id_of_all_tables_counts(table: str) -> None:
    database = MemoryDatabase()
    db = database.open_writer()
    assert given_ids.newest_id(db) == 0
    database.ask("INSERT INTO order_(id, timestamp) VALUES (5, '2026-11-21T00:00:00Z')")
    required = {
        "event": ("type, timestamp", "'INFO', '2026-11-21T00:00:00Z'"),
        "order_": ("timestamp", "'2026-11-21T00:00:00Z'"),
        "order_item": ("order_id, name", "5, 'x'"),
        "system_log": ("message, timestamp", "'x', '2026-11-21T00:00:00Z'"),
        "chat_message": ("timestamp", "'2026-11-21T00:00:00Z'"),
        "token": ("kind, user_name, created_at, expires_at", "'API', 'k', '2026-11-21T00:00:00Z', '2026-11-21T00:00:00Z'"),
        "staff_message": ("sender, recipient, message, timestamp", "'a', 'b', 'c', '2026-11-21T00:00:00Z'"),
        "command_report": ("kind, command_id, device, timestamp", "'a', 'b', 'c', '2026-11-21T00:00:00Z'"),
        "dead_letter": (
            "kind, payload, error, attempts, first_at, last_at",
            "'a', 'b', 'c', 1, '2026-11-21T00:00:00Z', '2026-11-21T00:00:00Z'",
        ),
    }
    columns, values = required[table]
    database.ask(f"INSERT INTO {table}(id, {columns}) VALUES (77, {values})")
    assert given_ids.newest_id(db) == 77
