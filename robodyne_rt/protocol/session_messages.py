"""The wire of a session: flat JSON messages, and the desktop's dialect of a query (SPEC section 4)."""

from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, TypeVar

import orjson
from pydantic import BeforeValidator, Field, StringConstraints, ValidationError

from robodyne_rt.model.changes import Entity
from robodyne_rt.protocol.checking import OpenModel, SocketQuery, digits, fault
from robodyne_rt.protocol.json_depth import MAX_DEPTH, is_too_deep
from robodyne_rt.protocol.topic_messages import MAX_INTERVAL_S, BadMessage

M = TypeVar("M", bound=OpenModel)


class CallbackKind(StrEnum):
    """What may be asked; each is answered by one type of message."""

    DATA = "request_available_data"
    API = "request_api"
    CLARIFICATION = "clarification_request"


CAPABILITIES = frozenset({"available_data", "api", "clarification"})
"""What a client may say that it can be asked."""

ANSWERED_BY = {
    "available_data": CallbackKind.DATA,
    "api_result": CallbackKind.API,
    "human_response": CallbackKind.CLARIFICATION,
}


LABEL = "session"
"""Stands where messages of section 3 name a topic."""

MAX_ID = 200
MAX_TEXT = 4000
"""Characters of a question."""

Dialect = Literal["session", "desktop"]


class SessionSocketQuery(SocketQuery):
    """Keys of `/ws`: which session is resumed, what of it arrived, and what the client can be asked."""

    session: str | None = None
    device: str = ""
    answered: Annotated[int | None, BeforeValidator(digits), Field(description="the number of an answer")] = None
    capabilities: str | None = None


MessageId = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _position(value: Any) -> Any:
    """Return what may be a position; anything else is none, and a snapshot the answer."""
    return value if type(value) in (int, str) else None


class Pong(OpenModel):
    """The answer to a ping: its `data`."""

    data: Any = None


class Ping(OpenModel):
    """Is the server there? The answer repeats `data`."""

    data: Any = None


class Pause(OpenModel):
    """Send me nothing of my topics for now."""


class Resume(OpenModel):
    """Send me what I missed."""


class Token(OpenModel):
    """The same user's newer token."""

    data: dict[str, Any] | None = None
    token: str | None = None


class Subscribe(OpenModel):
    """Send me a topic: from a position on, at most so often."""

    topic: Annotated[str, Field(description="a name")]
    since: Annotated[int | str | None, BeforeValidator(_position)] = None
    epoch: Annotated[str | None, BeforeValidator(lambda value: value if isinstance(value, str) else None)] = None
    interval: Annotated[
        float, Field(ge=0, le=MAX_INTERVAL_S, strict=True, description=f"seconds from 0 to {MAX_INTERVAL_S:.0f}")
    ] = 0.0
    mode: Annotated[Literal["full"] | None, Field(description='"full", or nothing')] = None


class Unsubscribe(OpenModel):
    """Send me no more of a topic."""

    topic: Annotated[str, Field(description="a name")]


class Query(OpenModel):
    """A question to the assistant."""

    request_id: MessageId = Field(alias="requestId")
    message: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
    user_id: Any = Field(default=None, alias="userId")
    capabilities: Any = None
    again: Any = None


class Ack(OpenModel):
    """I have all answers up to this number."""

    seq: Annotated[int, Field(strict=True, description="the number of an answer")]


class MessageRead(OpenModel):
    """My user read a staff message."""

    message_id: Annotated[int, Field(strict=True, gt=0, lt=1 << 53, description="the id of a staff message")] = Field(
        alias="messageId"
    )


class CallbackAnswer(OpenModel):
    """The answer to a question of the server."""

    request_id: MessageId = Field(alias="requestId")


class AvailableData(CallbackAnswer):
    """Data of the client."""

    data: Any = None


class ApiResult(CallbackAnswer):
    """What an interface of the client said."""

    result: Any = None


class HumanResponse(CallbackAnswer):
    """What a person said."""

    response: str | None = None


CLIENT_MESSAGES: dict[str, type[OpenModel]] = {
    "pong": Pong,
    "ping": Ping,
    "pause": Pause,
    "resume": Resume,
    "token": Token,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "query": Query,
    "ack": Ack,
    "message_read": MessageRead,
    "available_data": AvailableData,
    "api_result": ApiResult,
    "human_response": HumanResponse,
}
"""What a client may say in a session, by `type`."""

CLIENT_TYPES = tuple(CLIENT_MESSAGES)


def fields_of(model: type[M], message: "SessionMessage") -> M:
    """Return the fields of a message as its model.

    Raises:
        BadMessage: they are not what the model says.
    """
    fields = {name: value for name, value in message.fields.items() if name != "type"}
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise BadMessage("INVALID_MESSAGE", fault(model, error)) from None


class SessionMessage(NamedTuple):
    """What a client says in a session; `fields` are the flat keys, `data` what ping, pong and token carry."""

    type: str
    data: Any
    request_id: str | None
    fields: Entity
    dialect: Dialect


def parse(text: bytes) -> SessionMessage:
    """Return a client's message.

    Raises:
        BadMessage: not JSON, not an object, no known type.
    """
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadMessage("INVALID_MESSAGE", "not JSON") from None
    if not isinstance(message, dict) or is_too_deep(message):
        raise BadMessage("INVALID_MESSAGE", f"expected a JSON object, nested at most {MAX_DEPTH} levels deep")
    request_id = message.get("requestId")
    known_id = request_id if _is_id(request_id) else None
    details = {"requestId": known_id} if known_id else {}
    if message.get("action") == "sendMessage":
        return SessionMessage("query", None, known_id, message, "desktop")
    kind = message.get("type")
    if not isinstance(kind, str):
        raise BadMessage("INVALID_MESSAGE", 'expected {"type": ...}', **details)
    if kind not in CLIENT_TYPES:
        raise BadMessage("UNKNOWN_TYPE", f"unknown type {kind[:64]!r}; known: {', '.join(CLIENT_TYPES)}", **details)
    return SessionMessage(kind, message.get("data"), known_id, message, "session")


def _is_id(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isprintable()


def question(message: SessionMessage) -> str:
    """Return what a query asks.

    Raises:
        BadMessage: no requestId, or no question.
    """
    if message.request_id is None:
        raise BadMessage("INVALID_MESSAGE", f"requestId: expected 1 to {MAX_ID} printable characters")
    text = message.fields.get("message")
    text = text.replace("\0", "") if isinstance(text, str) else ""  # Postgres stores no NUL
    if not text.strip() or len(text) > MAX_TEXT:
        raise BadMessage(
            "INVALID_MESSAGE", f"message: expected a text of 1 to {MAX_TEXT} characters", requestId=message.request_id
        )
    return text


def connected(*, session_id: str, session_token: str, user: str, server_time: str, resumed: bool, **more: Any) -> bytes:
    """Return the JSON of a session's first message."""
    return orjson.dumps(
        {
            "type": "connected",
            "sessionId": session_id,
            "sessionToken": session_token,
            "userId": user,
            "serverTime": server_time,
            "resumed": resumed,
            **more,
        }
    )


def response(dialect: Dialect, request_id: str, text: str, *, remaining: int | None, seq: int | None) -> bytes:
    """Return the JSON of a final answer; `remaining` is how many more may be asked now."""
    body: Entity = {"requestId": request_id, "response": text, "status": "completed"}
    if seq is not None:
        body["seq"] = seq
    if remaining is not None:
        body["remaining"] = remaining
    return orjson.dumps({"action": "messageResponse", **body} if dialect == "desktop" else {"type": "response", **body})


def failure(dialect: Dialect, request_id: str, code: str, text: str, *, seq: int | None = None, **details: Any) -> bytes:
    """Return the JSON of a final answer that is an error."""
    numbered = {} if seq is None else {"seq": seq}
    if dialect == "desktop":
        body = {"requestId": request_id, "response": text, "status": "error", "code": code, **numbered, **details}
        return orjson.dumps({"action": "messageResponse", **body})
    data = {"code": code, "message": text, "requestId": request_id, **details}
    return orjson.dumps({"type": "error", "topic": LABEL, "data": data, "requestId": request_id, **numbered})


def progress(request_id: str, text: str) -> bytes:
    """Return the JSON that tells that a request is being worked on."""
    return orjson.dumps({"type": "progress", "requestId": request_id, "message": text})


def ask(kind: CallbackKind, *, id: str, query_id: str, left_s: float, fields: Entity) -> bytes:
    """Return the JSON of a question to the client.

    Args:
        query_id: the request that it is for.
        left_s: seconds that are left to answer.
        fields: what is asked.
    """
    names = {"type": kind.value, "requestId": id, "queryId": query_id, "timeout": round(max(0.0, left_s), 3)}
    return orjson.dumps(names | fields)


def told(type: str, **fields: Any) -> bytes:
    """Return the JSON of a notice."""
    return orjson.dumps({"type": type, **fields})


def proven(data: Any) -> int | None:
    """Return the number of the answer that a pong proves to have arrived."""
    seq = data.get("seq") if isinstance(data, dict) else None
    return seq if type(seq) is int else None


def staff_message(columns: Entity) -> Entity:
    """Return a staff message as clients see it."""
    return {
        "id": columns["id"],
        "sender": columns["sender"],
        "recipient": columns["recipient"],
        "message": columns["message"],
        "messageType": columns["message_type"],
        "audioUrl": columns["audio_url"],
        "websocketSent": bool(columns["websocket_sent"]),
        "timestamp": columns["timestamp"],
    }
