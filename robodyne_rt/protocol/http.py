"""Bodies, queries and answers of the HTTP API (SPEC section 7). `web/routes.py` names them for each path."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from robodyne_rt.protocol.checking import NEWEST, NO_NUL, Model, Name, Query, digits
from robodyne_rt.protocol.device_messages import ErrorCode

MAX_LISTED = 200
LISTED = 50
MAX_MESSAGE = 4000
MAX_ID_LENGTH = 400
MAX_URL = 2000
MAX_DAYS = 400
MESSAGE_TYPES = ("TEXT", "ALERT", "VOICE", "TASK")

RowId = Annotated[int, Field(gt=0, lt=1 << 63)]
Flag = Annotated[bool, Field(description="true or false")]
Password = Annotated[
    str, StringConstraints(min_length=1, max_length=500, pattern=NO_NUL), Field(description="a text of 1 to 500 characters")
]
Roles = Annotated[list[str], Field(description="a list of roles of [rights]")]
Time = Annotated[str, Field(description="UTC, ISO 8601 with Z")]
Seconds = Annotated[float, Field(description="seconds")]


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "expected a text")
    return value


def _address(value: str) -> str:
    if not value.startswith(("https://", "http://", "/")):
        raise PydanticCustomError("no_address", "expected an address")
    return value


# -- who may come in -------------------------------------------------------------------------------------------------


class Login(Model):
    """A user's name and password. `cookie`: a page keeps the token where no script can read it."""

    user: Name
    password: Password
    cookie: Flag = False
    device: Name | None = Field(default=None, description="a text of 1 to 100 characters")


class Refresh(Model):
    """The refresh token of a login; a page's cookie needs none."""

    refresh_token: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None,
        validation_alias=AliasChoices("refresh_token", "refreshToken"),
        description="a text of 1 to 200 characters",
    )


class Granted(Model):
    """Tokens: a short one, and the refresh token where it is no cookie."""

    access_token: str = Field(alias="accessToken")
    token_type: Literal["Bearer"] = Field(alias="tokenType")
    expires_in: Seconds = Field(alias="expiresIn")
    user: str
    roles: list[str]
    refresh_token: str = Field(default="", alias="refreshToken")


class LoggedOut(Model):
    """Whether a token was voided."""

    logged_out: bool = Field(alias="loggedOut")


class Ticket(Model):
    """Opens one WebSocket as `?ticket=`."""

    ticket: str
    expires_in: Seconds = Field(alias="expiresIn")


class Me(Model):
    """Who sends the request; the names of an issuer's user where one said them."""

    user: str | None
    user_id: str | None = Field(alias="userId")
    roles: list[str]
    rights: list[str]
    mode: Literal["local", "oidc", "off"]
    user_name: str = Field(default="", alias="userName")
    full_name: str = Field(default="", alias="fullName")
    email: str = ""
    company: str = ""


class Empty(Model):
    """Nothing, or `{}`."""


class NewPairing(Model):
    """A secret to ask with, and the six digits to show."""

    pairing: str
    code: str
    expires_in: Seconds = Field(alias="expiresIn")


class PairingQuery(Query):
    """How a screen wants its token."""

    cookie: Annotated[Literal["0", "1"], Field(description="1 for a cookie instead of a token")] = "0"


class PairingState(Model):
    """What became of a pairing; the token is told once."""

    status: Literal["waiting", "approved"]
    code: str = ""
    label: str = ""
    token: str = ""


class WaitingPairing(Model):
    """A screen that waits."""

    address: str
    expires_in: Seconds = Field(alias="expiresIn")


class PairingList(Model):
    """Screens that wait; their codes stand on the screens only."""

    pairings: list[WaitingPairing]


class Approval(Model):
    """The code of a screen, and what the screen is called from now on."""

    code: Annotated[str, StringConstraints(pattern="^[0-9]{6}$"), Field(description="the six digits that the screen shows")]
    label: Name
    roles: Roles = Field(default=["display"])


class Approved(Model):
    """The token that a screen was given; it is told to the screen only."""

    id: int
    user: str
    roles: list[str]
    expires_at: Time


class User(Model):
    """Somebody who may log in; the facts of an issuer's user where it said them."""

    name: str
    roles: list[str] | None
    disabled: bool
    password: bool = Field(description="whether there is one")
    created_at: Time | None = Field(description="null for an issuer's user")
    username: str = ""
    full_name: str = ""
    email: str = ""
    company: str = ""


class RemovedUser(Model):
    """A user who is gone, with all tokens."""

    name: str
    removed: Literal[True]


class UserList(Model):
    """All users."""

    users: list[User]


class NewUser(Model):
    """A user; without a password nobody can log in as them."""

    name: Name
    roles: Roles = Field(default=[])
    password: str | None = Field(default=None, description="a text of 8 to 500 characters")


class UserChange(Model):
    """What is to be different; it counts at once, in living connections too."""

    roles: Roles = Field(default=[])
    password: Annotated[str, Field(description="a text of 8 to 500 characters")] = ""
    disabled: Flag = False

    @model_validator(mode="after")
    def _changes_something(self) -> "UserChange":
        if not self.model_fields_set:
            raise PydanticCustomError("nothing", "expected roles, password or disabled (true or false)")
        return self


class Token(Model):
    """A token that was given out; never the token itself."""

    id: int
    kind: str
    user: str
    roles: list[str] | None
    label: str | None
    created_at: Time
    expires_at: Time
    revoked_at: Time | None


class TokenList(Model):
    """Tokens that were given out, newest first."""

    tokens: list[Token]


class RevokedToken(Model):
    """A token that is good no more."""

    id: int
    revoked: Literal[True]


class NewToken(Model):
    """For whom a token is; `roles` where that is no user."""

    user: Name
    roles: Roles | None = Field(default=None, description="a list of roles of [rights]")
    label: Name | None = Field(default=None, description="a text of 1 to 100 characters")
    days: Annotated[float, Field(gt=0, le=MAX_DAYS, strict=True, description=f"a number up to {MAX_DAYS}")] = 90.0


class GivenToken(Model):
    """A token; it is shown this once."""

    token: str
    id: int
    user: str
    roles: list[str] | None
    expires_at: Time


class Device(Model):
    """A device; `keys` is how many are good."""

    device_id: str
    robots: list[str] | None
    revoked: bool
    created_at: Time
    keys: int


class DeviceList(Model):
    """All devices; never their keys."""

    devices: list[Device]


class NewDevice(Model):
    """A device, and the robots that it speaks for: its own name where none are named, `*` for all."""

    device_id: Name
    robots: list[str] | None = Field(default=None, description="a list of robot ids")


class DeviceKey(Model):
    """A device's key, in hex; it is shown this once."""

    device_id: str
    key: str


class RotationAnswer(RootModel[DeviceKey | Device]):
    """The second key; with `finish` the device."""


class Rotation(Model):
    """`finish` lets the older key go, `again` replaces a second key that was lost."""

    finish: Flag = False
    again: Flag = False


# -- people -----------------------------------------------------------------------------------------------------------


class Page(Query):
    """Which part of a list, newest first: older than an id, so many."""

    before: Annotated[int, BeforeValidator(digits), Field(ge=1, le=NEWEST)] | None = Field(
        default=None, description=f"a number from 1 to {NEWEST}"
    )
    limit: Annotated[
        int, BeforeValidator(digits), Field(ge=1, le=MAX_LISTED, description=f"a number from 1 to {MAX_LISTED}")
    ] = LISTED


class ChatQuery(Page):
    """Whose questions and answers; another one's only for an administrator."""

    user: Annotated[str, StringConstraints(max_length=MAX_ID_LENGTH), Field(description="a name")] | None = Field(
        default=None, description="a name"
    )


class MessageQuery(Page):
    """`unread=1`: what one has not read, oldest first."""

    unread: Annotated[Literal["0", "1"], Field(description="1 for unread ones only")] = "0"


class ChatEntry(Model):
    """A question and its answer."""

    id: int
    request_id: str = Field(alias="requestId")
    question: str
    response: str | None
    status: str
    code: str | None
    timestamp: Time
    answered_at: Time | None


class ChatList(Model):
    """Questions and their answers, newest first."""

    messages: list[ChatEntry]


class Session(Model):
    """Who is there; the names of an issuer's user where it said them."""

    session_id: str = Field(alias="sessionId")
    user_id: str = Field(alias="userId")
    roles: list[str]
    device: str
    node_id: str = Field(alias="nodeId")
    connected_at: Time = Field(alias="connectedAt")
    last_seen: Time = Field(alias="lastSeen")
    presence: Literal["online", "away"]
    topics: list[str]
    ttl: Seconds
    user_name: str = Field(default="", alias="userName")
    full_name: str = Field(default="", alias="fullName")
    email: str = ""
    company: str = ""


class SessionList(Model):
    """Who is there, since when, with which topics and roles."""

    sessions: list[Session]


class NewMessage(Model):
    """A staff message to a user's name or id, or to `role:NAME`."""

    recipient: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MAX_ID_LENGTH),
        Field(description='a user\'s name or id, or "role:NAME"'),
    ]
    message: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MAX_MESSAGE, pattern=NO_NUL),
        AfterValidator(_not_blank),
        Field(description=f"a text of 1 to {MAX_MESSAGE} characters"),
    ]
    message_type: Annotated[
        Literal["TEXT", "ALERT", "VOICE", "TASK"], Field(description=f"one of {', '.join(MESSAGE_TYPES)}")
    ] = "TEXT"
    audio_url: Annotated[str, StringConstraints(max_length=MAX_URL), AfterValidator(_address)] | None = Field(
        default=None, description=f"an address of at most {MAX_URL} characters"
    )


class Receipt(Model):
    """Who read a message, and when."""

    user_id: str = Field(alias="userId")
    read_at: Time = Field(alias="readAt")


class StaffMessage(Model):
    """A staff message as clients see it."""

    id: int
    sender: str
    recipient: str
    message: str
    message_type: str = Field(alias="messageType")
    audio_url: str | None = Field(alias="audioUrl")
    websocket_sent: bool = Field(alias="websocketSent")
    timestamp: Time
    sender_name: str = Field(default="", alias="senderName")
    read_by: list[Receipt] = Field(default=[], alias="readBy")


class SentMessage(StaffMessage):
    """A message that was stored; whether its recipient is known here."""

    recipient_known: bool = Field(alias="recipientKnown")


class MessageList(Model):
    """Staff messages."""

    messages: list[StaffMessage]


class ReadMark(Model):
    """It is noted that one read a message."""

    read: Literal[True]


# -- looking after the server -------------------------------------------------------------------------------------------


class DeadLetterAction(Model):
    """What to do with which dead letters."""

    action: Annotated[Literal["requeue", "drop"], Field(description='"requeue" or "drop"')]
    ids: Annotated[list[RowId], Field(min_length=1)] | Literal["all"] = Field(description='a list of ids, or "all"')


class LetterSummary(Model):
    """A write that could not be stored."""

    id: int
    kind: str
    device: str | None
    message_id: str | None
    error: str
    attempts: int
    first_at: Time
    last_at: Time
    state: Literal["RETRYING", "PARKED"]


class DeadLetter(LetterSummary):
    """The same, with what was to be written."""

    payload: Any


class DeadLetterList(Model):
    """The newest dead letters, without their payload."""

    dead_letters: list[LetterSummary]


class LetterResult(Model):
    """What became of a dead letter."""

    id: int
    stored: bool = False
    error: str | None = None
    dropped: bool = False


class DeadLetterResults(Model):
    """What became of each."""

    results: list[LetterResult]


class Backup(Model):
    """Where the copy lies on the server, and how long it took."""

    path: str
    bytes: int
    seconds: Seconds


class DeviceAnswer(Model):
    """What the device's own connection would read (SPEC section 5)."""

    model_config = ConfigDict(extra="allow")
    status: Literal["success", "error"]
    message: str = ""
    error_code: ErrorCode | None = None
    id: str | None = None
    details: dict[str, Any] = Field(default={})


class HealthQuery(Query):
    """`verbose`: each check."""

    model_config = ConfigDict(extra="ignore")
    verbose: str | None = None


class CheckResult(Model):
    """How one check stands; what is wrong with what it means, and what to do about it."""

    id: str
    name: str
    ok: bool
    severity: str
    detail: str
    since: Time | None
    text: dict[str, str] = Field(default={})
    remedy: dict[str, str] = Field(default={})


class HealthReport(Model):
    """Whether the server can do its work, and each check."""

    ready: bool
    version: str
    checks: list[CheckResult]


class TopicQuery(Query):
    """From which position on, `mode=full` for all of it."""

    since: Annotated[str, Field(description="an offset")] | None = None
    epoch: Annotated[str, Field(description="the epoch of the offset")] | None = None
    mode: Annotated[Literal["full"], Field(description='"full", or nothing')] | None = Field(
        default=None, description='"full", or nothing'
    )


class Problem(Model):
    """An error (RFC 9457): `code` is stable, `detail` is for people. Some carry more, `retry_after` for one."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    code: str
