"""People's sessions, in the database: what outlives a connection (SPEC section 4)."""

from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.tables.requests import REQUEST_COLUMNS

MAX_UNDELIVERED = 1000


def refresh_sessions(db: DbConnection, seen: list[tuple[str, int, float]]) -> None:
    """Note of each session (id, number of the newest confirmed answer, epoch seconds) that it is in use."""
    for id, acked, at in seen:
        db.execute("UPDATE session SET acked = ?, last_seen = ? WHERE id = ?", (acked, times.to_text(at), id))


def find_session(db: DbConnection, token_digest: str, *, since: float) -> Entity | None:
    """Return a session that was in use after `since` (epoch seconds): its columns, `seq`, the number of its newest answer, and
    `answers`, those that may not have arrived, oldest first."""
    names = ("id", "user_name", "device", "token_digest", "acked", "created_at")
    row = db.execute(
        f"SELECT {', '.join(names)} FROM session WHERE token_digest = ? AND last_seen >= ?",
        (token_digest, times.to_text(since)),
    ).fetchone()
    if row is None:
        return None
    found: Entity = dict(zip(names, row, strict=True))
    found["created_at"] = db.time_text(found["created_at"])
    (seq,) = db.execute("SELECT max(seq) FROM chat_message WHERE session_id = ?", (found["id"],)).fetchone()
    found["seq"] = seq or 0
    answers = db.select(
        f"SELECT {', '.join(REQUEST_COLUMNS)} FROM chat_message WHERE session_id = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
        (found["id"], found["acked"], MAX_UNDELIVERED),
    )
    found["answers"] = [dict(zip(REQUEST_COLUMNS, answer, strict=True)) for answer in reversed(answers)]
    return found


def forget_sessions(db: DbConnection, *, before: float) -> int:
    """Delete sessions that were not in use since `before` (epoch seconds); what they asked and nobody answered is over."""
    db.execute(
        "UPDATE chat_message SET status = 'ERROR', code = 'TIMEOUT' WHERE status = 'PENDING' AND timestamp < ?",
        (times.to_text(before),),
    )
    return int(db.execute("DELETE FROM session WHERE last_seen < ?", (times.to_text(before),)).rowcount)
