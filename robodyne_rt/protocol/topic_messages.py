"""Messages on `/ws/{topic}` as JSON text, both ways (SPEC section 3); `frames.py` makes them bytes."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import orjson
from pydantic import BeforeValidator, Field

from robodyne_rt.model.changes import Entity
from robodyne_rt.model.topics import STATUS
from robodyne_rt.protocol.checking import SocketQuery
from robodyne_rt.protocol.errors import RobodyneError
from robodyne_rt.protocol.json_depth import MAX_DEPTH, is_too_deep

MAX_INTERVAL_S = 3600.0


def _seconds(value: Any) -> Any:
    try:
        return float(value)
    except ValueError:
        return None


class TopicSocketQuery(SocketQuery):
    """Keys of `/ws/{topic}`: from which position on, at most how often."""

    since: str | None = None
    epoch: str | None = None
    interval: Annotated[
        float,
        BeforeValidator(_seconds),
        Field(ge=0, le=MAX_INTERVAL_S, description=f"seconds from 0 to {MAX_INTERVAL_S:.0f}"),
    ] = 0.0
    mode: Annotated[Literal["full"] | None, Field(description='"full", or nothing')] = None


PART_BYTES = 1 << 20
"""What is larger than this comes in parts; each has at most so many bytes and one entity more."""


def update(topic: str, entities: Sequence[bytes], rest: Entity) -> bytes:
    """Return the JSON of an update, a snapshot, the answer to `?since=`, or a part of one.

    Args:
        entities: JSON of each, in the order to show them.
        rest: all other fields, at least one; `snapshot_fields` and `change_fields` make them.
    """
    return b'{"type":"update","topic":"%b","data":[%b],%b' % (topic.encode(), b",".join(entities), orjson.dumps(rest)[1:])


def snapshot_fields(offset: int, epoch: str, *, first: bool = True, last: bool = True) -> Entity:
    """Return the fields of a part of a snapshot; only the last one has the position that it stands for."""
    fields: Entity = {"snapshot": True} if first else {"prev": -1}
    return fields | ({"offset": offset, "epoch": epoch} if last else {"offset": -1, "more": True})


def change_fields(removed: list[int], prev: int, offset: int, recovered_epoch: str = "", *, last: bool = True) -> Entity:
    """Return the fields of an update, or of a part of a catch-up; only the last one has an offset.

    Args:
        recovered_epoch: where this answers a client that named its position.
    """
    fields: Entity = {"removed": removed} if removed else {}
    fields["prev"] = prev
    fields |= {"offset": offset} if last else {"more": True}
    if recovered_epoch:
        fields |= {"recovered": True, "epoch": recovered_epoch}
    return fields


def status(data: Entity, *, offset: int, epoch: str) -> bytes:
    """Return the JSON of the topic `status`: one object, always a snapshot."""
    message = {"type": "update", "topic": "status", "data": data, "snapshot": True, "offset": offset, "epoch": epoch}
    return orjson.dumps(message)


def volatile(topic: str, entities: list[Entity]) -> bytes:
    """Return the JSON of live telemetry: whole entities, no offset."""
    return orjson.dumps({"type": "update", "topic": topic, "data": entities, "volatile": True})


def ping(timestamp: float, **more: Any) -> bytes:
    """Return the JSON of a ping; `timestamp` is server time in epoch seconds, `more` comes back in the pong as well."""
    return orjson.dumps({"type": "ping", "topic": STATUS, "data": {"timestamp": timestamp, **more}})


def answered_ping(data: Any) -> float | None:
    """Return the timestamp of the ping that a pong answers, from its `data` or a protocol pong's bytes; None where it names
    none."""
    if isinstance(data, bytes):
        try:
            return float(data)
        except ValueError:
            return None
    timestamp = data.get("timestamp") if isinstance(data, dict) else None
    return float(timestamp) if isinstance(timestamp, int | float) and not isinstance(timestamp, bool) else None


def pong(topic: str, data: Any) -> bytes:
    """Return the JSON of the answer to a client's ping: the same `data`."""
    return orjson.dumps({"type": "pong", "topic": topic, "data": data})


def shutdown(reason: str) -> bytes:
    """Return the JSON of the notice before close 1001."""
    return orjson.dumps({"type": "shutdown", "topic": STATUS, "data": {"reason": reason}})


def error(topic: str, code: str, text: str, details: Entity | None = None) -> bytes:
    """Return the JSON of an error to a living connection."""
    return orjson.dumps({"type": "error", "topic": topic, "data": {"code": code, "message": text, **(details or {})}})


class Message(Protocol):
    """What all messages of clients have."""

    @property
    def type(self) -> str: ...

    @property
    def data(self) -> Any: ...


class ClientMessage(NamedTuple):
    """What a client says on `/ws/{topic}`."""

    type: str
    data: Any
    request_id: str | None


CLIENT_TYPES = ("pong", "ping", "pause", "resume", "token")


class BadMessage(RobodyneError):
    """A client message that cannot be taken; `code` goes into the error answer."""

    def __init__(self, word: str, text: str, **details: Any) -> None:
        super().__init__(text, **details)
        self.word = word


def parse_client(text: bytes) -> ClientMessage:
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
    details = {"requestId": request_id} if isinstance(request_id, str) and len(request_id) <= 200 else {}
    kind = message.get("type")
    if not isinstance(kind, str):
        raise BadMessage("INVALID_MESSAGE", 'expected {"type": ...}', **details)
    if kind not in CLIENT_TYPES:
        raise BadMessage("UNKNOWN_TYPE", f"unknown type {kind[:64]!r}; known: {', '.join(CLIENT_TYPES)}", **details)
    return ClientMessage(kind, message.get("data"), details.get("requestId"))
