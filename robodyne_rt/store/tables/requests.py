"""People's requests and their answers, in the database (SPEC section 4)."""

from robodyne_rt.model.changes import Entity
from robodyne_rt.store.engine.database import DbConnection

MAX_HISTORY = 200
MAX_PENDING = 10_000

REQUEST_COLUMNS = ("id", "user_name", "session_id", "request_id", "dialect", "question", "response", "status", "code", "seq")


def find_request(db: DbConnection, user: str, request_id: str) -> Entity | None:
    """Return what is stored of a request."""
    rows = db.select(
        f"SELECT {', '.join(REQUEST_COLUMNS)} FROM chat_message WHERE user_name = ? AND request_id = ?", (user, request_id)
    )
    return dict(zip(REQUEST_COLUMNS, rows[0], strict=True)) if rows else None


def pending(db: DbConnection) -> list[Entity]:
    """Return the requests that have no answer yet, oldest first."""
    rows = db.select(
        f"SELECT {', '.join(REQUEST_COLUMNS)} FROM chat_message WHERE status = 'PENDING' ORDER BY id LIMIT ?", (MAX_PENDING,)
    )
    return [dict(zip(REQUEST_COLUMNS, row, strict=True)) for row in rows]


def history(db: DbConnection, user: str, *, before: int | None, limit: int) -> list[Entity]:
    """Return a user's requests and answers, newest first."""
    columns = ("id", "request_id", "question", "response", "status", "code", "timestamp", "answered_at")
    rows = db.select(
        f"SELECT {', '.join(columns)} FROM chat_message WHERE user_name = ? AND id < ? ORDER BY id DESC LIMIT ?",
        (user, before if before is not None else 1 << 53, min(limit, MAX_HISTORY)),
    )
    found = []
    for row in rows:
        entry = dict(zip(columns, row, strict=True))
        entry |= {name: db.time_text(entry[name]) for name in ("timestamp", "answered_at")}
        entry["requestId"] = entry.pop("request_id")
        found.append(entry)
    return found
