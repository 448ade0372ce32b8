"""People's requests and their answers, in the database (SPEC section 4)."""

from typing import Any, cast

from robodyne_rt.model.changes import Entity
from robodyne_rt.model.rows import RequestRow
from robodyne_rt.store.engine.database import DbConnection

MAX_HISTORY = 200
MAX_PENDING = 10_000

REQUEST_COLUMNS = ("id", "user_name", "session_id", "request_id", "dialect", "question", "response", "status", "code", "seq")


def request_row(row: tuple[Any, ...]) -> RequestRow:
    """Return the values of `REQUEST_COLUMNS` by name."""
    return cast(RequestRow, dict(zip(REQUEST_COLUMNS, row, strict=True)))


def find_request(db: DbConnection, user: str, request_id: str) -> RequestRow | None:
    """Return what is stored of a request."""
    rows = db.select(
        f"SELECT {', '.join(REQUEST_COLUMNS)} FROM chat_message WHERE user_name = ? AND request_id = ?", (user, request_id)
    )
    return request_row(rows[0]) if rows else None


def pending(db: DbConnection) -> list[RequestRow]:
    """Return the requests that have no answer yet, oldest first."""
    rows = db.select(
        f"SELECT {', '.join(REQUEST_COLUMNS)} FROM chat_message WHERE status = 'PENDING' ORDER BY id LIMIT ?", (MAX_PENDING,)
    )
    return [request_row(row) for row in rows]


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
