"""What the server notes for itself: the change log, what came already, what could not be stored."""

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from robodyne_rt.model.entities.columns import (
    BOOLEAN,
    INTEGER,
    JSON,
    MAX_NAME,
    REAL,
    TEXT,
    TIME,
    at_most,
    column,
    given_identity,
    is_time,
    one_of,
    table_args,
)
from robodyne_rt.model.enums import LetterState


class CommandReport(SQLModel, table=True):
    """What a robot said about a command (`CommandAck`, `CommandResult`), kept for the operations that will use it."""

    __tablename__ = "command_report"
    __table_args__ = table_args(is_time("timestamp"), at_most("command_id", MAX_NAME))
    id: int | None = given_identity()
    kind: str = column(TEXT, nullable=False)
    command_id: str = column(TEXT, nullable=False)
    device: str = column(TEXT, nullable=False)
    status: str | None = column(TEXT)
    progress: float | None = column(REAL)
    result: str | None = column(JSON)
    timestamp: str = column(TIME, nullable=False)


# -- the change log and what keeps it honest (SPEC section 6) --------------------------------------------------------


class Meta(SQLModel, table=True):
    """Facts about this database: `epoch`, `schema_version`."""

    __tablename__ = "meta"
    __table_args__ = table_args(sqlite_with_rowid=False)
    key: str = Field(sa_type=TEXT, primary_key=True)
    value: str = column(TEXT, nullable=False)


class TopicHead(SQLModel, table=True):
    """The newest offset of each topic, and what the triggers look up beside it.

    `next_id` is about where the server's own ids are: others may not go far above it. While `is_silent` is set the triggers
    write no lines: the server sets it and takes it back in one transaction, so that no foreign writer ever meets it (SQLite;
    Postgres has a setting for that).
    """

    __tablename__ = "topic_head"
    __table_args__ = table_args(sqlite_with_rowid=False)
    topic: str = Field(sa_type=TEXT, primary_key=True)
    offset: int = column(INTEGER, nullable=False, server_default="0")
    next_id: int | None = column(INTEGER)
    is_silent: int = column(BOOLEAN, nullable=False, server_default="0")


class Change(SQLModel, table=True):
    """One line of the change log; written by triggers only. `op` is a hint: `upsert`, `delete` or `replaced`."""

    __tablename__ = "change"
    __table_args__ = table_args(sqlite_with_rowid=False)
    topic: str = Field(sa_type=TEXT, primary_key=True)
    offset: int = Field(sa_type=INTEGER, primary_key=True)
    key: int = column(INTEGER, nullable=False)
    op: str = column(TEXT, nullable=False)
    at: str = column(TIME, nullable=False)


class DeviceMessage(SQLModel, table=True):
    """Which ids of which device were taken, kept for 7 days, so that a message sent again changes nothing.

    `body` is a digest, `row` the id that the message's own row got or would have got, `at` the database's age in seconds
    of service (meta `age_s`).
    """

    __tablename__ = "device_message"
    __table_args__ = table_args(sqlite_with_rowid=False)
    device: str = Field(sa_type=TEXT, primary_key=True)
    id: str = Field(sa_type=TEXT, primary_key=True)
    body: str = column(TEXT, nullable=False)
    row: int = column(INTEGER, nullable=False)
    at: int = column(INTEGER, nullable=False)


class DeadLetter(SQLModel, table=True):
    """A write that failed: what it was (`payload`, see store/intake/writes.py), why it failed, and when.

    `age_s` is the database's age at that time, which is not the wall clock's: retention counts from there. While it is
    RETRYING it is tried again at age `retry_age_s`.
    """

    __tablename__ = "dead_letter"
    __table_args__ = table_args(
        one_of("state", LetterState),
        is_time("first_at"),
        is_time("last_at"),
        Index("dead_letter_by_message", "device", "message_id"),
    )
    id: int | None = given_identity()
    kind: str = column(TEXT, nullable=False)
    device: str | None = column(TEXT)
    message_id: str | None = column(TEXT)
    payload: str = column(TEXT, nullable=False)
    error: str = column(TEXT, nullable=False)
    attempts: int = column(INTEGER, nullable=False)
    first_at: str = column(TIME, nullable=False)
    last_at: str = column(TIME, nullable=False)
    age_s: int = column(INTEGER, nullable=False, server_default="0")
    state: str = column(TEXT, nullable=False, server_default="PARKED")
    retry_age_s: int | None = column(INTEGER)
