"""The tables of a restaurant (SPEC section 2), as SQLModel.

Foreign programs write here too, so enums, ranges and references are constraints of the database. On SQLite the tables are
STRICT: a column holds its type or the write fails. (JSON text is not checked there: SQLite 3.40 counts `json_valid` as
unsafe in a schema; what is no JSON is shown as null.) Rows are read and written as plain SQL (store/); the models give the
columns, the constraints and the documentation. The schema that a server creates is generated from here (`scripts/schema`),
so that serving does not have to load all this.
"""

from enum import StrEnum
from typing import Any

from sqlalchemy import REAL as SHORT_REAL
from sqlalchemy import BigInteger, CheckConstraint, Computed, DateTime, Double, ForeignKey, Index, Integer, Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine
from sqlmodel import Field, SQLModel

from robodyne_rt.model.enums import (
    LetterState,
    Link,
    LogLevel,
    OrderStatus,
    RobotStatus,
    Severity,
    TableStatus,
    TokenKind,
    VideoSource,
    VideoStatus,
)

# Types that SQLite's STRICT tables know, and their Postgres twins. Times are ISO 8601 text with Z on SQLite: what a
# foreign `sqlite3` shows is what clients see.
TEXT = Text()
INTEGER: TypeEngine[Any] = BigInteger().with_variant(Integer(), "sqlite")
REAL: TypeEngine[Any] = Double().with_variant(SHORT_REAL(), "sqlite")
TIME: TypeEngine[Any] = DateTime(timezone=True).with_variant(Text(), "sqlite")
JSON: TypeEngine[Any] = postgresql.JSONB().with_variant(Text(), "sqlite")
BOOLEAN: TypeEngine[Any] = Integer()

MAX_NAME = 200
MAX_TEXT = 20000


def one_of(column: str, enum: type[StrEnum]) -> CheckConstraint:
    """Return the constraint that a column holds a member of `enum`."""
    # A chain of OR, not IN: SQLite builds a table of the words for each statement, which costs as much as the insert.
    words = " OR ".join(f"{column} = '{member.value}'" for member in enum)
    return CheckConstraint(words, name=f"{column}_is_known")


def within(column: str, low: float, high: float) -> CheckConstraint:
    """Return the constraint that a column lies in [low, high]."""
    return CheckConstraint(f"{column} BETWEEN {low} AND {high}", name=f"{column}_in_range")


def at_most(column: str, length: int) -> CheckConstraint:
    """Return the constraint that a text is at most `length` characters: one row must never fill a screen's memory."""
    return CheckConstraint(f"length({column}) <= {length}", name=f"{column}_length")


def is_time(column: str) -> Any:
    """Return the constraint that a SQLite text is UTC ISO 8601, as on the wire (Postgres has a type for it)."""
    pattern = "????-??-??T??:??:??*Z"
    return CheckConstraint(f"{column} GLOB '{pattern}'", name=f"{column}_is_utc").ddl_if(dialect="sqlite")


IS_EXACT = "id"
"""Among constraints: the id is one that JavaScript reads as it is."""


def table_args(*constraints: Any, **options: Any) -> Any:
    """Return `__table_args__` of a STRICT table with these constraints."""
    found = [within("id", 1, 2**53 - 1) if constraint is IS_EXACT else constraint for constraint in constraints]
    return (*found, {"sqlite_strict": True, **options})


def column(type_: Any, *, default: Any = None, references: str | None = None, cascade: bool = False, **options: Any) -> Any:
    """Return a SQLModel field of SQL type `type_`; `references` names `table.column`."""
    arguments: list[Any] = []
    if references:
        arguments.append(ForeignKey(references, ondelete="CASCADE" if cascade else "SET NULL"))
    return Field(default=default, sa_type=type_, sa_column_args=arguments, sa_column_kwargs=options)


def identity() -> Any:
    """Return the field of a primary key that the database gives."""
    return Field(default=None, sa_type=INTEGER, primary_key=True)


def given_identity() -> Any:
    """Return the field of a primary key that the server gives before storing (time-ordered, below 2^53)."""
    return Field(default=None, sa_type=INTEGER, primary_key=True, sa_column_kwargs={"info": {"given": True}})


class Robot(SQLModel, table=True):
    """A robot and its newest state. `reported_at` is the newest `ts` that the robot itself gave."""

    __tablename__ = "robot"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("status", RobotStatus),
        one_of("link", Link),
        within("battery_level", 0, 100),
        at_most("robot_id", MAX_NAME),
        at_most("name", MAX_NAME),
        is_time("last_seen"),
        is_time("reported_at"),
    )
    id: int | None = identity()
    robot_id: str = column(TEXT, nullable=False, unique=True)
    type: str = column(TEXT, nullable=False, server_default="ALBABOT")
    name: str | None = column(TEXT)
    status: str = column(TEXT, nullable=False, server_default="IDLE")
    battery_level: float | None = column(REAL)
    x: float | None = column(REAL)
    y: float | None = column(REAL)
    z: float | None = column(REAL)
    roll: float | None = column(REAL)
    pitch: float | None = column(REAL)
    yaw: float | None = column(REAL)
    joints: str | None = column(JSON)
    link: str = column(TEXT, nullable=False, server_default="ONLINE")
    mac_address: str | None = column(TEXT)
    ip_address: str | None = column(TEXT)
    last_seen: str | None = column(TIME)
    reported_at: str | None = column(TIME)


class Table(SQLModel, table=True):
    """A table of the restaurant; `x y width height` are its place on the floor plan in metres."""

    __tablename__ = "table_"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("status", TableStatus),
        within("customer_count", 0, 1000),
        within("max_customer", 0, 1000),
        is_time("updated_at"),
    )
    id: int | None = identity()
    table_number: int = column(INTEGER, nullable=False, unique=True)
    max_customer: int = column(INTEGER, nullable=False, server_default="4")
    status: str = column(TEXT, nullable=False, server_default="AVAILABLE")
    customer_count: int = column(INTEGER, nullable=False, server_default="0")
    x: float | None = column(REAL)
    y: float | None = column(REAL)
    width: float | None = column(REAL)
    height: float | None = column(REAL)
    updated_at: str | None = column(TIME)


class Event(SQLModel, table=True):
    """Something that happened and that a person may have to acknowledge."""

    __tablename__ = "event"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("severity", Severity),
        at_most("type", MAX_NAME),
        at_most("description", MAX_TEXT),
        is_time("timestamp"),
        is_time("acknowledged_at"),
    )
    id: int | None = given_identity()
    type: str = column(TEXT, nullable=False)
    severity: str = column(TEXT, nullable=False, server_default="INFO")
    related_entity_type: str | None = column(TEXT)
    related_entity_id: int | None = column(INTEGER)
    description: str | None = column(TEXT)
    data: str | None = column(JSON)
    timestamp: str = column(TIME, nullable=False)
    acknowledged_at: str | None = column(TIME)
    acknowledged_by: str | None = column(TEXT)


class Customer(SQLModel, table=True):
    """A group of guests, from arrival to leaving."""

    __tablename__ = "customer"
    __table_args__ = table_args(
        IS_EXACT, within("count", 0, 1000), is_time("arrived_at"), is_time("left_at"), Index("customer_by_left_at", "left_at")
    )
    id: int | None = identity()
    count: int = column(INTEGER, nullable=False, server_default="1")
    table_id: int | None = column(INTEGER, references="table_.id")
    arrived_at: str = column(TIME, nullable=False)
    left_at: str | None = column(TIME)


class Order(SQLModel, table=True):
    """An order of a table; its items are nested in the topic."""

    __tablename__ = "order_"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("status", OrderStatus),
        at_most("note", MAX_TEXT),
        is_time("timestamp"),
        is_time("preparing_at"),
        is_time("ready_at"),
        is_time("served_at"),
        is_time("recalled_at"),
        Index("order_by_status", "status", "timestamp"),
        Index("order_by_served_at", "served_at"),
    )
    id: int | None = given_identity()
    table_id: int | None = column(INTEGER, references="table_.id")
    customer_id: int | None = column(INTEGER, references="customer.id")
    robot_id: int | None = column(INTEGER, references="robot.id")
    status: str = column(TEXT, nullable=False, server_default="PLACED")
    priority: int = column(INTEGER, nullable=False, server_default="0")
    note: str | None = column(TEXT)
    timestamp: str = column(TIME, nullable=False)
    preparing_at: str | None = column(TIME)
    ready_at: str | None = column(TIME)
    served_at: str | None = column(TIME)
    recalled_at: str | None = column(TIME)


class MenuItem(SQLModel, table=True):
    """A dish; `price` in the smallest unit of the currency, `prepare_time` in seconds."""

    __tablename__ = "menu_item"
    __table_args__ = table_args(
        IS_EXACT,
        within("available", 0, 1),
        within("price", 0, 10**12),
        within("prepare_time", 0, 86400),
        at_most("name", MAX_NAME),
    )
    id: int | None = identity()
    name: str = column(TEXT, nullable=False, unique=True)
    name_en: str | None = column(TEXT)
    price: int = column(INTEGER, nullable=False, server_default="0")
    prepare_time: int = column(INTEGER, nullable=False, server_default="600")
    station: str | None = column(TEXT)
    image_url: str | None = column(TEXT)
    available: int = column(BOOLEAN, nullable=False, server_default="1")


class OrderItem(SQLModel, table=True):
    """One line of an order; `name` and `station` are copied from the menu, which may change later."""

    __tablename__ = "order_item"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("status", OrderStatus),
        within("quantity", 1, 1000),
        at_most("note", MAX_TEXT),
        is_time("changed_at"),
        Index("order_item_by_order", "order_id"),
    )
    id: int | None = given_identity()
    order_id: int = column(INTEGER, nullable=False, references="order_.id", cascade=True)
    menu_item_id: int | None = column(INTEGER, references="menu_item.id")
    name: str = column(TEXT, nullable=False)
    quantity: int = column(INTEGER, nullable=False, server_default="1")
    options: str | None = column(JSON)
    note: str | None = column(TEXT)
    station: str | None = column(TEXT)
    status: str = column(TEXT, nullable=False, server_default="PLACED")
    changed_at: str | None = column(TIME)


class Ingredient(SQLModel, table=True):
    """What dishes are made of."""

    __tablename__ = "ingredient"
    __table_args__ = table_args(IS_EXACT, at_most("name", MAX_NAME))
    id: int | None = identity()
    name: str = column(TEXT, nullable=False, unique=True)
    name_en: str | None = column(TEXT)


class MenuItemIngredient(SQLModel, table=True):
    """How much of an ingredient one portion takes."""

    __tablename__ = "menu_item_ingredient"
    __table_args__ = table_args(CheckConstraint("quantity > 0", name="quantity_is_positive"))
    menu_item_id: int = Field(
        sa_type=INTEGER, primary_key=True, sa_column_args=[ForeignKey("menu_item.id", ondelete="CASCADE")]
    )
    ingredient_id: int = Field(
        sa_type=INTEGER, primary_key=True, sa_column_args=[ForeignKey("ingredient.id", ondelete="CASCADE")]
    )
    quantity: float = column(REAL, nullable=False)


class Inventory(SQLModel, table=True):
    """Stock of one ingredient; `status` follows `count` and `threshold` by itself."""

    __tablename__ = "inventory"
    __table_args__ = table_args(
        IS_EXACT, within("count", 0, 10**9), within("max_count", 0, 10**9), within("threshold", 0, 10**9), is_time("updated_at")
    )
    id: int | None = identity()
    ingredient_id: int | None = column(INTEGER, references="ingredient.id", unique=True)
    name: str = column(TEXT, nullable=False)
    count: float = column(REAL, nullable=False, server_default="0")
    max_count: float = column(REAL, nullable=False, server_default="100")
    threshold: float = column(REAL, nullable=False, server_default="10")
    status: str | None = Field(
        default=None,
        sa_type=TEXT,
        sa_column_args=[
            Computed(
                "CASE WHEN count <= 0 THEN 'OUT_OF_STOCK' WHEN count <= threshold THEN 'LOW_STOCK' ELSE 'IN_STOCK' END",
                persisted=True,
            )
        ],
    )
    updated_at: str | None = column(TIME)


class SystemLog(SQLModel, table=True):
    """A line that a device or this server wants a technician to see."""

    __tablename__ = "system_log"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("level", LogLevel),
        at_most("source", MAX_NAME),
        at_most("message", MAX_TEXT),
        is_time("timestamp"),
    )
    id: int | None = given_identity()
    level: str = column(TEXT, nullable=False, server_default="INFO")
    source: str | None = column(TEXT)
    message: str = column(TEXT, nullable=False)
    data: str | None = column(JSON)
    timestamp: str = column(TIME, nullable=False)


class VideoStream(SQLModel, table=True):
    """Where a camera's picture can be fetched."""

    __tablename__ = "video_stream"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("source_type", VideoSource),
        one_of("status", VideoStatus),
        within("recording", 0, 1),
        at_most("name", MAX_NAME),
    )
    id: int | None = identity()
    name: str = column(TEXT, nullable=False)
    source_type: str = column(TEXT, nullable=False)
    url: str = column(TEXT, nullable=False)
    status: str = column(TEXT, nullable=False, server_default="INACTIVE")
    recording: int = column(BOOLEAN, nullable=False, server_default="0")


class ChatMessage(SQLModel, table=True):
    """What was asked, and its answer: by a guest to a robot (`msg_id`, `robot_id`), or by a user in a session.

    A user's request is stored when it is taken (`status` PENDING) and again with its final answer (COMPLETED, ERROR and its
    `code`); `seq` numbers the answers of its session.
    """

    __tablename__ = "chat_message"
    __table_args__ = table_args(
        at_most("question", MAX_TEXT),
        at_most("response", MAX_TEXT),
        is_time("timestamp"),
        is_time("answered_at"),
        Index("chat_message_by_request", "user_name", "request_id", unique=True),
        Index("chat_message_by_session", "session_id", "seq"),
        Index("chat_message_by_status", "status"),
    )
    id: int | None = given_identity()
    msg_id: str | None = column(TEXT)
    robot_id: str | None = column(TEXT)
    robot_task: str | None = column(TEXT)
    question: str | None = column(TEXT)
    response: str | None = column(TEXT)
    timestamp: str = column(TIME, nullable=False)
    user_name: str | None = column(TEXT)
    session_id: str | None = column(TEXT)
    request_id: str | None = column(TEXT)
    dialect: str | None = column(TEXT)
    status: str | None = column(TEXT)
    code: str | None = column(TEXT)
    seq: int | None = column(INTEGER)
    answered_at: str | None = column(TIME)


# -- people, devices and what they may (SPEC section 8) --------------------------------------------------------------


class User(SQLModel, table=True):
    """A person who logs in here; without a password only tokens speak for them.

    An issuer's user is here since they came first: `name` is their id (issuer and subject), and `username`, `full_name`,
    `email` and `company` are what the issuer says of them. What they may is the issuer's to say, but for `disabled`.
    """

    __tablename__ = "user_"
    __table_args__ = table_args(at_most("name", MAX_NAME), within("disabled", 0, 1), is_time("created_at"))
    id: int | None = identity()
    name: str = column(TEXT, nullable=False, unique=True)
    roles: str = column(JSON, nullable=False, server_default="[]")
    password_hash: str | None = column(TEXT)
    disabled: int = column(BOOLEAN, nullable=False, server_default="0")
    created_at: str | None = column(TIME)
    username: str | None = column(TEXT)
    full_name: str | None = column(TEXT)
    email: str | None = column(TEXT)
    company: str | None = column(TEXT)


class Token(SQLModel, table=True):
    """What a token was given out for: a login, a screen on a wall, a program. A token says its row; without it, it is void.

    `roles` is null where the user's own count. Only digests of refresh tokens are kept, the newest and the one before.
    `address` is where somebody logged in: who comes from there is no stranger.
    """

    __tablename__ = "token"
    __table_args__ = table_args(
        one_of("kind", TokenKind),
        at_most("user_name", MAX_NAME),
        at_most("label", MAX_NAME),
        is_time("created_at"),
        is_time("expires_at"),
        is_time("rotated_at"),
        is_time("revoked_at"),
        Index("token_by_expires_at", "expires_at"),
    )
    id: int | None = given_identity()
    kind: str = column(TEXT, nullable=False)
    user_name: str = column(TEXT, nullable=False)
    roles: str | None = column(JSON)
    label: str | None = column(TEXT)
    refresh_digest: str | None = column(TEXT)
    previous_digest: str | None = column(TEXT)
    created_at: str = column(TIME, nullable=False)
    rotated_at: str | None = column(TIME)
    expires_at: str = column(TIME, nullable=False)
    revoked_at: str | None = column(TIME)
    address: str | None = column(TEXT)


class Device(SQLModel, table=True):
    """A robot, kiosk or button with a key. The key is derived from the server's secret and `key_id`, so that no copy of this
    table lets anybody speak; `previous_key_id` is good as well until the rotation is finished."""

    __tablename__ = "device"
    __table_args__ = table_args(at_most("device_id", MAX_NAME), within("revoked", 0, 1), is_time("created_at"))
    id: int | None = identity()
    device_id: str = column(TEXT, nullable=False, unique=True)
    robots: str = column(JSON, nullable=False, server_default="[]")
    key_id: str = column(TEXT, nullable=False)
    previous_key_id: str | None = column(TEXT)
    revoked: int = column(BOOLEAN, nullable=False, server_default="0")
    created_at: str | None = column(TIME)


class UserSession(SQLModel, table=True):
    """What of a session outlives this process: whose it is, and how far its user has its answers."""

    __tablename__ = "session"
    __table_args__ = table_args(is_time("created_at"), is_time("last_seen"), Index("session_by_token", "token_digest"))
    id: str = Field(sa_type=TEXT, primary_key=True)
    token_digest: str = column(TEXT, nullable=False)
    user_name: str = column(TEXT, nullable=False)
    device: str = column(TEXT, nullable=False, server_default="")
    acked: int = column(INTEGER, nullable=False, server_default="0")
    created_at: str = column(TIME, nullable=False)
    last_seen: str = column(TIME, nullable=False)


class StaffMessage(SQLModel, table=True):
    """A message to a user (`recipient` is the name) or to all of a role (`role:kitchen`)."""

    __tablename__ = "staff_message"
    __table_args__ = table_args(
        at_most("message", MAX_TEXT),
        within("websocket_sent", 0, 1),
        is_time("timestamp"),
        Index("staff_message_by_recipient", "recipient", "id"),
    )
    id: int | None = given_identity()
    sender: str = column(TEXT, nullable=False)
    recipient: str = column(TEXT, nullable=False)
    message: str = column(TEXT, nullable=False)
    message_type: str = column(TEXT, nullable=False, server_default="TEXT")
    audio_url: str | None = column(TEXT)
    websocket_sent: int = column(BOOLEAN, nullable=False, server_default="0")
    timestamp: str = column(TIME, nullable=False)


class StaffMessageReceipt(SQLModel, table=True):
    """Who read a staff message, and when."""

    __tablename__ = "staff_message_receipt"
    __table_args__ = table_args(is_time("read_at"))
    message_id: int = Field(
        sa_type=INTEGER, primary_key=True, sa_column_args=[ForeignKey("staff_message.id", ondelete="CASCADE")]
    )
    user_name: str = Field(sa_type=TEXT, primary_key=True)
    read_at: str = column(TIME, nullable=False)


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
