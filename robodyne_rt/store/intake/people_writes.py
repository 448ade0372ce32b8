"""What people say, in the database: sessions, their requests and answers, staff messages (SPEC sections 4 and 6).

The writes go the way of device messages: one queue, one commit, the spool where the database is away, a dead letter where
they can never be stored.
"""

from typing import Any

from robodyne_rt.core import session_wire, times
from robodyne_rt.errors import ResourceNotFound
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Outcome
from robodyne_rt.store.engine.database import DbConnection, insert
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

MAX_HISTORY = 200
MAX_PENDING = 10_000
MAX_UNDELIVERED = 1000
MAX_UNREAD = 1000


class FieldsWrite(Write):
    """A write that is a set of columns, and little else."""

    __slots__ = ("columns",)

    def __init__(self, columns: Entity, outcome: Outcome | None = None) -> None:
        super().__init__(outcome)
        self.columns = columns

    def fields(self) -> Entity:
        return {"columns": self.columns}

    @property
    def row(self) -> int:
        id: int = self.columns["id"]
        return id


class RequestWrite(FieldsWrite):
    """A request is taken. Its result is None, or what is stored of the first request with this id."""

    __slots__ = ()
    kind = "request"

    def apply(self, tables: DeviceMessageWriter) -> Any:
        columns = self.columns
        db = tables.db
        known = _request(db, columns["user_name"], columns["request_id"])
        if known is not None and known["id"] != columns["id"]:
            return known
        if known is None:
            insert(db, "chat_message", columns | {"status": "PENDING"})
        return None


class AnswerWrite(FieldsWrite):
    """A request has its final answer: the whole row, in case it was not stored before. The first answer stands."""

    __slots__ = ()
    kind = "answer"

    def apply(self, tables: DeviceMessageWriter) -> Any:
        columns, db = self.columns, tables.db
        first = _request(db, columns["user_name"], columns["request_id"])
        if first is None:
            insert(db, "chat_message", columns)
        elif first["id"] == columns["id"] or first["status"] == "PENDING":
            names = ("session_id", "status", "code", "response", "seq", "answered_at")
            sets = ", ".join(f"{name} = ?" for name in names)
            db.execute(f"UPDATE chat_message SET {sets} WHERE id = ?", (*(columns[name] for name in names), first["id"]))


class SessionWrite(Write):
    """A session begins; `row` names it among dead letters."""

    __slots__ = ("_row", "columns")
    kind = "session"

    def __init__(self, columns: Entity, row: int, outcome: Outcome | None = None) -> None:
        super().__init__(outcome)
        self.columns = columns
        self._row = row

    def fields(self) -> Entity:
        return {"columns": self.columns, "row": self._row}

    @property
    def row(self) -> int:
        return self._row

    def apply(self, tables: DeviceMessageWriter) -> Any:
        known = tables.db.execute("SELECT 1 FROM session WHERE id = ?", (self.columns["id"],)).fetchone()
        if known is None:
            insert(tables.db, "session", self.columns)


class StaffMessageWrite(FieldsWrite):
    """A staff message; with a key of its sender's it is stored once. Its result is the id it is stored under."""

    __slots__ = ("_digest", "key")
    kind = "staff_message"

    def __init__(self, columns: Entity, key: str | None, digest: str, outcome: Outcome | None = None) -> None:
        super().__init__(columns, outcome)
        self.key = key
        self._digest = digest

    @property
    def digest(self) -> str:
        return self._digest if self.key else ""

    @property
    def name(self) -> tuple[str, str] | None:
        return (f"user:{self.columns['sender']}", self.key) if self.key else None

    def fields(self) -> Entity:
        return {"columns": self.columns, "key": self.key, "digest": self._digest}

    def letter(self) -> Entity:
        named = {"device": self.name[0], "message_id": self.name[1]} if self.name else {}
        return super().letter() | named

    def apply(self, tables: DeviceMessageWriter) -> Any:
        id = self.columns["id"]
        db = tables.db
        if self.name is not None:
            first = tables.claim(*self.name, self._digest, id)
            if first != id:
                return first
        if db.execute("SELECT 1 FROM staff_message WHERE id = ?", (id,)).fetchone() is None:
            insert(db, "staff_message", self.columns | {"websocket_sent": int(self.columns["websocket_sent"])})
        return id


class ReceiptWrite(Write):
    """Somebody read a staff message. Its result is the message's sender, None where it was read before."""

    __slots__ = ("at", "message_id", "recipients", "user")
    kind = "receipt"
    leaves_dead_letter = False  # without its message it is worth nothing

    def __init__(self, message_id: int, user: str, recipients: list[str], at: str, outcome: Outcome | None = None) -> None:
        super().__init__(outcome)
        self.message_id = message_id
        self.user = user
        self.recipients = recipients
        self.at = at

    def fields(self) -> Entity:
        return {"message_id": self.message_id, "user": self.user, "recipients": self.recipients, "at": self.at}

    def apply(self, tables: DeviceMessageWriter) -> Any:
        db = tables.db
        row = db.execute("SELECT sender, recipient FROM staff_message WHERE id = ?", (self.message_id,)).fetchone()
        if row is None or row[1] not in self.recipients:
            raise ResourceNotFound(f"no message {self.message_id}")
        done = db.execute(
            "INSERT INTO staff_message_receipt(message_id, user_name, read_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (self.message_id, self.user, self.at),
        )
        return row[0] if done.rowcount else None


# -- requests --------------------------------------------------------------------------------------------------------

_REQUEST = ("id", "user_name", "session_id", "request_id", "dialect", "question", "response", "status", "code", "seq")


def _request(db: DbConnection, user: str, request_id: str) -> Entity | None:
    rows = db.select(
        f"SELECT {', '.join(_REQUEST)} FROM chat_message WHERE user_name = ? AND request_id = ?", (user, request_id)
    )
    return dict(zip(_REQUEST, rows[0], strict=True)) if rows else None


def request(db: DbConnection, user: str, request_id: str) -> Entity | None:
    """Return what is stored of a request."""
    return _request(db, user, request_id)


def pending(db: DbConnection) -> list[Entity]:
    """Return the requests that have no answer yet, oldest first."""
    rows = db.select(
        f"SELECT {', '.join(_REQUEST)} FROM chat_message WHERE status = 'PENDING' ORDER BY id LIMIT ?", (MAX_PENDING,)
    )
    return [dict(zip(_REQUEST, row, strict=True)) for row in rows]


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


# -- sessions --------------------------------------------------------------------------------------------------------


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
        f"SELECT {', '.join(_REQUEST)} FROM chat_message WHERE session_id = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
        (found["id"], found["acked"], MAX_UNDELIVERED),
    )
    found["answers"] = [dict(zip(_REQUEST, answer, strict=True)) for answer in reversed(answers)]
    return found


def forget_sessions(db: DbConnection, *, before: float) -> int:
    """Delete sessions that were not in use since `before` (epoch seconds); what they asked and nobody answered is over."""
    db.execute(
        "UPDATE chat_message SET status = 'ERROR', code = 'TIMEOUT' WHERE status = 'PENDING' AND timestamp < ?",
        (times.to_text(before),),
    )
    return int(db.execute("DELETE FROM session WHERE last_seen < ?", (times.to_text(before),)).rowcount)


# -- staff messages --------------------------------------------------------------------------------------------------

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
        (*recipients, before if before is not None else 1 << 53, user, own, user, user, min(limit, MAX_UNREAD)),
    )
    return [_message(db, row) for row in reversed(rows)]


def messages(db: DbConnection, user: str, recipients: list[str], *, before: int | None, limit: int) -> list[Entity]:
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
    return session_wire.staff_message(message | {"timestamp": db.time_text(message["timestamp"])})
