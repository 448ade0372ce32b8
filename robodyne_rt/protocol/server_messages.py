"""What the server says on WebSockets, as models: for the contract, and for the tests that hold every frame against it.

The hub writes its JSON by hand (`topic_messages.py`, `session_messages.py`): one update is encoded once for a thousand screens.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from robodyne_rt.model.read_models import Status, TopicName
from robodyne_rt.protocol.checking import Model
from robodyne_rt.protocol.http import StaffMessage

Time = Annotated[str, Field(description="UTC, ISO 8601 with Z")]
Final = Annotated[int | None, Field(description="number of the answer; `ack` it, or a later pong does")]


class Update(Model):
    """Changed entities of one topic; with `snapshot` all of them."""

    type: Literal["update"]
    topic: TopicName
    data: list[dict[str, Any]] | Status
    removed: list[int] = Field(default=[])
    snapshot: bool = False
    recovered: bool = False
    volatile: bool = Field(default=False, description="live, not stored yet: whole entities, no offset")
    more: bool = Field(default=False, description="a part; the last one has the position")
    prev: int | None = Field(default=None, description="the offset that this one follows")
    offset: int | None = None
    epoch: str | None = None


class ServerPing(Model):
    """Is the client there? It answers `pong` with the same `data`."""

    type: Literal["ping"]
    topic: str
    data: dict[str, Any]


class ServerPong(Model):
    """The answer to a client's ping: the same `data`."""

    type: Literal["pong"]
    topic: str
    data: Any


class Shutdown(Model):
    """The server ends; a close with 1001 follows."""

    type: Literal["shutdown"]
    topic: str
    data: dict[str, Any]


class ErrorData(Model):
    """What is wrong: `code` is stable, `message` is for people."""

    model_config = ConfigDict(extra="allow")
    code: str
    message: str


class ErrorMessage(Model):
    """Something cannot be done; the connection lives. With `requestId` it is the final answer of a request."""

    type: Literal["error"]
    topic: str
    data: ErrorData
    request_id: str | None = Field(default=None, alias="requestId")
    seq: Final = None


class Connected(Model):
    """The first message of a session."""

    model_config = ConfigDict(extra="allow")
    type: Literal["connected"]
    session_id: str = Field(alias="sessionId")
    session_token: str = Field(alias="sessionToken")
    user_id: str | None = Field(alias="userId")
    server_time: Time = Field(alias="serverTime")
    resumed: bool


class Response(Model):
    """The final answer of a request; `remaining` is how many more may be asked now."""

    type: Literal["response"]
    request_id: str = Field(alias="requestId")
    response: str
    status: Literal["completed"]
    seq: Final = None
    remaining: int | None = None


class MessageResponse(Model):
    """The same in the desktop's words; also of what failed."""

    model_config = ConfigDict(extra="allow")
    action: Literal["messageResponse"]
    request_id: str = Field(alias="requestId")
    response: str
    status: Literal["completed", "error"]
    seq: Final = None
    remaining: int | None = None


class Progress(Model):
    """A request is being worked on."""

    type: Literal["progress"]
    request_id: str = Field(alias="requestId")
    message: str


class Question(Model):
    """A question to the client; answered under the same `requestId` within `timeout` seconds."""

    request_id: str = Field(alias="requestId")
    query_id: str = Field(alias="queryId")
    timeout: float


class ClarificationRequest(Question):
    """A question to a person."""

    type: Literal["clarification_request"]
    question: str
    options: list[str] | None = None


class DataRequest(Question):
    """A question to the client's own data."""

    type: Literal["request_available_data"]
    question: str


class ApiRequest(Question):
    """A call of an interface of the client."""

    type: Literal["request_api"]
    api: str
    params: Any


class TokenRenewed(Model):
    """The newer token counts."""

    type: Literal["token"]
    expires_at: Time = Field(alias="expiresAt")


class StaffMessageNotice(StaffMessage):
    """A staff message."""

    type: Literal["staff_message"]


class MessageReadNotice(Model):
    """Somebody read a staff message."""

    type: Literal["message_read"]
    message_id: int = Field(alias="messageId")
    user_id: str = Field(alias="userId")
    read_at: Time = Field(alias="readAt")


TOPIC_MESSAGES: tuple[type[Model], ...] = (Update, ServerPing, ServerPong, ErrorMessage, Shutdown)
"""What is said on `/ws/{topic}`."""

SESSION_MESSAGES: tuple[type[Model], ...] = (
    *TOPIC_MESSAGES,
    Connected,
    Response,
    MessageResponse,
    Progress,
    ClarificationRequest,
    DataRequest,
    ApiRequest,
    TokenRenewed,
    StaffMessageNotice,
    MessageReadNotice,
)
"""What is said in a session."""


def kind_of(model: type[Model]) -> str:
    """Return the `type` (in the desktop's words: `action`) of a message."""
    field = model.model_fields.get("type") or model.model_fields["action"]
    kind: str = field.annotation.__args__[0]  # type: ignore[union-attr]
    return kind
