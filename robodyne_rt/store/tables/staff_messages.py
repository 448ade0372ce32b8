"""Staff messages and who read them, in the database (SPEC section 6)."""

from typing import Any

from robodyne_rt.model.changes import Entity
from robodyne_rt.protocol import session_messages
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.tables import users
from robodyne_rt.store.tables.requests import MAX_HISTORY

MAX_UNREAD = 1000

_MESSAGE = ("id", "sender", "recipient", "message", "message_type", "audio_url", "websocket_sent", "timestamp")


def unread(
    db: DbConnection, user: str, recipients: list[str], *, own: str, before: int | None = None, limit: int = MAX_UNREAD
) -> list[Entity]:
    """Return the newest of what a user was sent and has not read, oldest first.

    Args:
        recipients: the user's name and roles; what a role was told before there was this user is not theirs.
        own: what this one sent to a role is not for them; empty for nobody.
        before: only ids below this.
    """
    marks = ", ".join("?" * len(recipients))
    rows = db.select(
        f"SELECT {', '.join(_MESSAGE)} FROM staff_message WHERE recipient IN ({marks}) AND id < ? AND (recipient = ? OR"
        " (sender <> ? AND timestamp >= coalesce((SELECT created_at FROM user_ WHERE name = ?), timestamp))) AND NOT EXISTS"
        " (SELECT 1 FROM staff_message_receipt WHERE message_id = staff_message.id AND user_name = ?)"
        " ORDER BY id DESC LIMIT ?",
        (
            *recipients,
            before if before is not None else 1 << 53,
            user,
            own,
            users.stored_name(db, user),
            user,
            min(limit, MAX_UNREAD),
        ),
    )
    return [_message(db, row) for row in reversed(rows)]


def list_messages(db: DbConnection, user: str, recipients: list[str], *, before: int | None, limit: int) -> list[Entity]:
    """Return what a user sent, or was sent to any of `recipients`, newest first, each with who read it."""
    marks = ", ".join("?" * len(recipients))
    rows = db.select(
        f"SELECT {', '.join(_MESSAGE)} FROM staff_message WHERE (recipient IN ({marks}) OR sender = ?) AND id < ?"
        " ORDER BY id DESC LIMIT ?",
        (*recipients, user, before if before is not None else 1 << 53, min(limit, MAX_HISTORY)),
    )
    found = [_message(db, row) for row in rows]
    for message in found:
        receipts = db.execute(
            "SELECT user_name, read_at FROM staff_message_receipt WHERE message_id = ? ORDER BY read_at", (message["id"],)
        )
        message["readBy"] = [{"userId": name, "readAt": db.time_text(at)} for name, at in receipts.fetchall()]
    return found


def first_message(db: DbConnection, sender: str, key: str) -> int | None:
    """Return the message that a sender's key was used for."""
    row = db.execute('SELECT "row" FROM device_message WHERE device = ? AND id = ?', (f"user:{sender}", key)).fetchone()
    return row[0] if row else None


def find_message(db: DbConnection, id: int) -> Entity | None:
    """Return a staff message as clients see it."""
    rows = db.select(f"SELECT {', '.join(_MESSAGE)} FROM staff_message WHERE id = ?", (id,))
    return _message(db, rows[0]) if rows else None


def mark_sent(db: DbConnection, ids: list[int]) -> None:
    """Note that messages reached a session of their recipient."""
    for id in ids:
        db.execute("UPDATE staff_message SET websocket_sent = 1 WHERE id = ? AND websocket_sent = 0", (id,))


def _message(db: DbConnection, row: tuple[Any, ...]) -> Entity:
    message = dict(zip(_MESSAGE, row, strict=True))
    return session_messages.staff_message(message | {"timestamp": db.time_text(message["timestamp"])})
