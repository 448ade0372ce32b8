"""What people say, as writes: sessions, their requests and answers, staff messages (SPEC sections 4 and 6).

The writes go the way of device messages: one queue, one commit, the spool where the database is away, a dead letter where
they can never be stored.
"""

from typing import Any

from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Outcome
from robodyne_rt.protocol.errors import ResourceNotFound
from robodyne_rt.store.engine.database import insert
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from robodyne_rt.store.tables.requests import find_request


class FieldsWrite(Write):
    """A write that is a set of columns, and little else."""

    __slots__ = ("columns",)

    def __init__(self, columns: Entity, outcome: Outcome | None = None) -> None:
        super().__init__(outcome)
        self.columns = columns

    def fields(self) -> Entity:
        return {"columns": self.columns}

    @property
    def row_id(self) -> int:
        id: int = self.columns["id"]
        return id


class RequestWrite(FieldsWrite):
    """A request is taken. Its result is None, or what is stored of the first request with this id."""

    __slots__ = ()
    kind = "request"

    def apply(self, tables: DeviceMessageWriter) -> Any:
        columns = self.columns
        db = tables.db
        known = find_request(db, columns["user_name"], columns["request_id"])
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
        first = find_request(db, columns["user_name"], columns["request_id"])
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
    def row_id(self) -> int:
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
    def claim_key(self) -> tuple[str, str] | None:
        return (f"user:{self.columns['sender']}", self.key) if self.key else None

    def fields(self) -> Entity:
        return {"columns": self.columns, "key": self.key, "digest": self._digest}

    def dead_letter_columns(self) -> Entity:
        named = {"device": self.claim_key[0], "message_id": self.claim_key[1]} if self.claim_key else {}
        return super().dead_letter_columns() | named

    def apply(self, tables: DeviceMessageWriter) -> Any:
        id = self.columns["id"]
        db = tables.db
        if self.claim_key is not None:
            first = tables.claim(*self.claim_key, self._digest, id)
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
