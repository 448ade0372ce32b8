"""People, what lets them and devices in, what they ask and tell each other."""

from sqlalchemy import ForeignKey, Index
from sqlmodel import Field, SQLModel

from robodyne_rt.model.entities.columns import (
    BOOLEAN,
    INTEGER,
    JSON,
    MAX_NAME,
    MAX_TEXT,
    TEXT,
    TIME,
    at_most,
    column,
    given_identity,
    identity,
    is_time,
    one_of,
    table_args,
    within,
)
from robodyne_rt.model.enums import TokenKind


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
