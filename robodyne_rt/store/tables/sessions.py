"""People's sessions, in the database: what outlives a connection (SPEC section 4)."""

from robodyne_rt.model import times
from robodyne_rt.model.rows import SessionRow
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.tables.requests import REQUEST_COLUMNS, request_row

MAX_UNDELIVERED = 1000


def refresh_sessions(db: DbConnection, seen: list[tuple[str, int, float]]) -> None:
    """Note of each session (id, number of the newest confirmed answer, epoch seconds) that it is in use."""
    for id, acked, at in seen:
        db.execute("UPDATE session SET acked = ?, last_seen = ? WHERE id = ?", (acked, times.to_text(at), id))


def find_session(db: DbConnection, token_digest: str, *, since: float) -> SessionRow | None:
    """Return a session that was in use after `since` (epoch seconds): its columns, `seq`, the number of its newest answer, and
    `answers`, those that may not have arrived, oldest first."""
    row = db.execute(
        "SELECT id, user_name, device, token_digest, acked, created_at FROM session WHERE token_digest = ? AND last_seen >= ?",
        (token_digest, times.to_text(since)),
    ).fetchone()
    if row is None:
        return None
    id, user_name, device, digest, acked, created_at = row
    (seq,) = db.execute("SELECT max(seq) FROM chat_message WHERE session_id = ?", (id,)).fetchone()
    answers = db.select(
        f"SELECT {', '.join(REQUEST_COLUMNS)} FROM chat_message WHERE session_id = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
        (id, acked, MAX_UNDELIVERED),
    )
    return SessionRow(
        id=id,
        user_name=user_name,
        device=device,
        token_digest=digest,
        acked=acked,
        created_at=db.time_text(created_at) or "",
        seq=seq or 0,
        answers=[request_row(answer) for answer in reversed(answers)],
    )


def forget_sessions(db: DbConnection, *, before: float) -> int:
    """Delete sessions that were not in use since `before` (epoch seconds); what they asked and nobody answered is over."""
    db.execute(
        "UPDATE chat_message SET status = 'ERROR', code = 'TIMEOUT' WHERE status = 'PENDING' AND timestamp < ?",
        (times.to_text(before),),
    )
    return int(db.execute("DELETE FROM session WHERE last_seen < ?", (times.to_text(before),)).rowcount)
