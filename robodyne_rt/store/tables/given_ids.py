"""The newest of the ids that the server gives before storing: new ones must lie above all of them (SPEC section 2)."""

from robodyne_rt.store.engine.database import DbConnection

GIVEN = (
    "event", "order_", "order_item", "system_log", "chat_message", "token", "staff_message", "command_report", "dead_letter",
)  # fmt: skip
"""The tables whose ids they are."""

HIGHEST = 2**53 - 1


def newest_id(db: DbConnection) -> int:
    """Return the newest one that any table holds, 0 where there is none."""
    queries = " UNION ALL ".join(f"SELECT max(id) AS id FROM {table}" for table in GIVEN)
    (newest,) = db.execute(f"SELECT max(id) FROM ({queries}) AS newest").fetchone()
    return max(0, min(int(newest or 0), HIGHEST))
