"""Frame -> device message, checked; and the answer to it (SPEC section 5).

Used by every shell that devices speak to (TCP, serial, HTTP). Which rows a message makes is the store's business.

    >>> parse(b'{"msg_type":"Albabot","robot_id":7,"status":"BUSY","battery_level":81,"id":"1"}')
    Parsed(message=Albabot(...robot_id='7', status='SERVING'...), digest='...')
"""

import hashlib
import json
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity
from robodyne_rt.model.enums import LogLevel, OrderStatus, RobotStatus, Severity, TableStatus
from robodyne_rt.model.names import nfc
from robodyne_rt.protocol.errors import BadRequest, InvalidPayload, RobodyneError, UnknownMessageType
from robodyne_rt.protocol.json_depth import MAX_DEPTH, is_too_deep

CLOCK_AHEAD_S = 60.0
CLOCK_BEHIND_S = 86400.0
"""A `ts` further ahead or behind is a clock fault and ignored."""

OLDER_WORDS = {"BUSY": "SERVING"}
"""Words of the older robot managers."""

POSE = ("x", "y", "z", "roll", "pitch", "yaw")


def _one_of(words: Iterable[str]) -> StringConstraints:
    """Return the constraint to one of these words, of either case; checked by pydantic's own code, not by Python's."""
    return StringConstraints(strip_whitespace=True, to_upper=True, pattern=f"(?i)^({'|'.join(words)})$")


def _time(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected epoch seconds or ISO 8601")
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("expected epoch seconds or ISO 8601") from None
    try:
        return times.to_epoch_s(value)
    except (ValueError, OverflowError):
        return math.inf  # a time that no clock shows: a clock fault, not a bad message


def _text_id(value: Any) -> Any:
    """Return the digits of a whole number, and anything else as it is; a fraction's digits are known to its frame only."""
    if isinstance(value, float):
        raise PydanticCustomError(_INEXACT, "expected a text or a whole number")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _name(value: Any) -> Any:
    return nfc(value) if isinstance(value, str) else _text_id(value)


_INEXACT = "inexact"

TextId = Annotated[str, StringConstraints(min_length=1, max_length=200), BeforeValidator(_text_id)]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"),
    BeforeValidator(_name),
]
Text = Annotated[str, StringConstraints(max_length=20000)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Battery = Annotated[float, Field(allow_inf_nan=False, ge=0, le=100)]
TableNumber = Annotated[int, Field(ge=1, le=9999)]
Quantity = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e9)]
RowId = Annotated[int, Field(ge=1, lt=2**53)]
EventType = Annotated[str, StringConstraints(strip_whitespace=True, to_upper=True, pattern=r"(?i)^[A-Z][A-Z0-9_]{0,63}$")]
RobotWord = Annotated[str, _one_of([*RobotStatus, *OLDER_WORDS])]
TableWord = Annotated[str, _one_of(TableStatus)]
OrderWord = Annotated[str, _one_of(OrderStatus)]
SeverityWord = Annotated[str, _one_of(Severity)]
LevelWord = Annotated[str, _one_of(LogLevel)]


class DeviceMessage(BaseModel):
    """What every message may carry. Further keys are ignored: old managers send many."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)
    answered: ClassVar[bool] = True

    left_out: ClassVar[tuple[str, ...]] = ()
    """Optional numbers of a robot's state that could not be taken; `check` lays them over it in the message itself."""

    msg_type: str
    id: TextId | None = None
    ts: Annotated[float | None, BeforeValidator(_time)] = None

    def device(self, said_hello: str | None, peer: str) -> str:
        """Return the name under which `id` counts: Hello's, else the robot's, else the table's, else the peer's."""
        if said_hello:
            return said_hello
        fields = self.__dict__  # asking pydantic for a field that a message lacks is slow
        if robot_id := fields.get("robot_id"):
            return str(robot_id)
        if (table := fields.get("table_number") or fields.get("table_id")) is not None:
            return f"table:{table}"
        return peer


class Hello(DeviceMessage):
    """Who is speaking, for which robots."""

    device_id: Name
    robots: list[Name] = Field(default=[], max_length=500)
    client_nonce: str | None = Field(default=None, max_length=512)
    proof: str | None = Field(default=None, max_length=512)


class Bye(DeviceMessage):
    """Leaves in order."""

    robot_id: Name | None = None


class RobotReport(DeviceMessage):
    """State of one robot; `robot_type` names its kind."""

    robot_type: ClassVar[str] = "ALBABOT"
    pose_prefixes: ClassVar[tuple[str, ...]] = ()

    robot_id: Name
    status: RobotWord | None = None
    battery_level: Battery | None = None
    name: Name | None = None
    mac_address: Annotated[str, StringConstraints(max_length=64)] | None = None
    ip_address: Annotated[str, StringConstraints(max_length=64)] | None = None

    def fields(self) -> dict[str, Any]:
        """Return the columns of `robot` that this report sets."""
        found: dict[str, Any] = {}
        for field in ("status", "battery_level", "name", "mac_address", "ip_address"):
            value = getattr(self, field)
            if value is not None:
                found[field] = OLDER_WORDS.get(value, value) if field == "status" else value
        for prefix in self.pose_prefixes:
            pose = {axis: value for axis in POSE if (value := getattr(self, prefix + axis)) is not None}
            if "x" in pose and "y" in pose:
                found |= pose
                break
        return found


class Albabot(RobotReport):
    """A serving robot. Its pose is in the world's frame, else the global one, else its base's (`pinky`)."""

    pose_prefixes: ClassVar[tuple[str, ...]] = ("world_", "global_", "pinky_")

    world_x: Number | None = None
    world_y: Number | None = None
    world_z: Number | None = None
    world_roll: Number | None = None
    world_pitch: Number | None = None
    world_yaw: Number | None = None
    global_x: Number | None = None
    global_y: Number | None = None
    global_z: Number | None = None
    global_roll: Number | None = None
    global_pitch: Number | None = None
    global_yaw: Number | None = None
    pinky_x: Number | None = None
    pinky_y: Number | None = None
    pinky_z: Number | None = None
    pinky_roll: Number | None = None
    pinky_pitch: Number | None = None
    pinky_yaw: Number | None = None


class Cookbot(RobotReport):
    """A cooking arm: six joint angles (rad) and where its hand is."""

    robot_type: ClassVar[str] = "COOKBOT"
    pose_prefixes: ClassVar[tuple[str, ...]] = ("endpoint_",)

    angle_1: Number | None = None
    angle_2: Number | None = None
    angle_3: Number | None = None
    angle_4: Number | None = None
    angle_5: Number | None = None
    angle_6: Number | None = None
    endpoint_x: Number | None = None
    endpoint_y: Number | None = None
    endpoint_z: Number | None = None
    endpoint_roll: Number | None = None
    endpoint_pitch: Number | None = None
    endpoint_yaw: Number | None = None

    def fields(self) -> dict[str, Any]:
        found = super().fields()
        angles = [getattr(self, f"angle_{joint}") for joint in range(1, 7)]
        if None not in angles:
            found["joints"] = orjson.dumps(angles).decode()
        return found


class Telemetry(DeviceMessage):
    """A pose on the way: pushed at once, stored at most once per second, not answered."""

    answered: ClassVar[bool] = False

    robot_id: Name
    x: Number | None = None
    y: Number | None = None
    z: Number | None = None
    roll: Number | None = None
    pitch: Number | None = None
    yaw: Number | None = None
    battery_level: Battery | None = None

    def fields(self) -> dict[str, Any]:
        """Return the columns of `robot` that this sets."""
        return {key: value for key in (*POSE, "battery_level") if (value := getattr(self, key)) is not None}


class TableReport(DeviceMessage):
    """State of a table."""

    table_number: TableNumber
    status: TableWord | None = None
    customer_count: Annotated[int, Field(ge=0, le=1000)] | None = None


_SEVERITIES = {"EMERGENCY": "CRITICAL", "ERROR": "ERROR"}


class EventReport(DeviceMessage):
    """Something happened. Without a severity the type decides."""

    type: EventType
    severity: SeverityWord | None = None
    table_number: TableNumber | None = None
    robot_id: Name | None = None
    description: Text | None = None
    data: Any = None

    def severity_word(self) -> str:
        """Return the severity, given or by type."""
        return self.severity or _SEVERITIES.get(self.type, "INFO")


class OrderLine(BaseModel):
    """One dish of an order, by id or by name."""

    model_config = ConfigDict(extra="ignore")

    menu_item_id: RowId | None = None
    name: Name | None = None
    quantity: Annotated[int, Field(ge=1, le=1000)] = 1
    options: Any = None
    note: Text | None = None

    @model_validator(mode="after")
    def _named(self) -> "OrderLine":
        if self.menu_item_id is None and self.name is None:
            raise ValueError("needs menu_item_id or name")
        return self


class OrderReport(DeviceMessage):
    """Place an order (`table_number`, `items`) or move one on (`order_id`, `status`)."""

    table_number: TableNumber | None = None
    items: list[OrderLine] = Field(default=[], max_length=100)
    note: Text | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    order_id: RowId | None = None
    status: OrderWord | None = None
    robot_id: Name | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "OrderReport":
        if self.order_id is None and not (self.table_number and self.items):
            raise ValueError("needs table_number and items, or order_id and status")
        if self.order_id is not None and self.status is None:
            raise ValueError("order_id needs status")
        return self


class StockReport(DeviceMessage):
    """Stock of an ingredient or an inventory place, by its id (a number) or name."""

    key: RowId | None = None
    name: Name | None = None
    count: Quantity
    position: Any = None

    @model_validator(mode="before")
    @classmethod
    def _key(cls, values: Any) -> Any:
        # `id` names the message when it is text, and the thing counted when it is a number (SPEC section 5, "id or name").
        if isinstance(values, dict):
            values = dict(values)
            for name in ("ingredient_id", "inventory_id"):
                if name in values:
                    values["key"] = values[name]
            if isinstance(values.get("id"), int) and not isinstance(values["id"], bool):
                values.setdefault("key", values["id"])
                del values["id"]
        return values

    @model_validator(mode="after")
    def _named(self) -> "StockReport":
        if self.key is None and self.name is None:
            raise ValueError("needs id or name")
        return self


class Face(DeviceMessage):
    """What the camera over a table sees."""

    table_id: TableNumber
    exist: bool
    nowdetected: Annotated[int, Field(ge=0, le=1000)] | bool | None = None
    reliability: Annotated[float, Field(allow_inf_nan=False, ge=0, le=100)] = 1.0
    history: Any = None


class Chatbot(DeviceMessage):
    """What a guest asked a robot, and what it said."""

    msg_id: Name | None = None
    question: Text
    robot_id: Name | None = None
    robot_task: Text | None = None
    response: Text | None = None


class Log(DeviceMessage):
    """A line for the technician."""

    level: LevelWord = str(LogLevel.INFO)
    message: Annotated[str, StringConstraints(min_length=1, max_length=20000)]
    data: Any = None
    robot_id: Name | None = None


class CommandReport(DeviceMessage):
    """A robot about a command: taken, or done."""

    command_id: Name
    robot_id: Name | None = None
    status: Annotated[str, StringConstraints(max_length=64)] | None = None
    progress: Annotated[float, Field(allow_inf_nan=False, ge=0, le=100)] | None = None
    result: Any = None


MESSAGES: dict[str, type[DeviceMessage]] = {
    "Hello": Hello,
    "Bye": Bye,
    "Albabot": Albabot,
    "Cookbot": Cookbot,
    "Telemetry": Telemetry,
    "Table": TableReport,
    "Event": EventReport,
    "Order": OrderReport,
    "Ingredient": StockReport,
    "Inventory": StockReport,
    "Face": Face,
    "Chatbot": Chatbot,
    "Log": Log,
    "CommandAck": CommandReport,
    "CommandResult": CommandReport,
}


_OPTIONAL_NUMBERS: dict[type[DeviceMessage], frozenset[str]] = {
    model: frozenset(
        name
        for name, field in model.model_fields.items()
        if any(kind in (Number, Battery) for kind in get_args(field.annotation))
    )
    for model in (Albabot, Cookbot, Telemetry)
}
"""What is left out of a robot's state where it cannot be taken, so that one broken sensor does not hide the robot."""


class Parsed(NamedTuple):
    """A message and the digest of its body without `id` and `ts`; the digest is empty where there is no id."""

    message: DeviceMessage
    digest: str


def parse(frame: bytes) -> Parsed:
    """Return the message that a frame holds.

    Raises:
        BadRequest: no JSON object.
        UnknownMessageType: a `msg_type` that section 5 does not list.
        InvalidPayload: a field is missing or wrong; the text names it. `details["id"]` is the message's id where it had one.
    """
    try:
        body = orjson.loads(frame)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequest("expected a JSON object")
    if rb"\u0000" in frame and _has_nul(_without_numbers(body)):
        raise _with_id(InvalidPayload("a text holds the character U+0000, which databases cannot keep"), body)
    # Counting brackets is cheap, and hardly any message has so many that its depth must be looked at.
    may_be_deep = frame.count(b"[") + frame.count(b"{") > MAX_DEPTH
    return _check(body, frame, may_be_deep=may_be_deep)


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_nul(item) for item in value)


def check(body: dict[str, Any], *, may_be_deep: bool = True) -> Parsed:
    """Return the message of a decoded JSON object; errors as in `parse`."""
    return _check(body, b"", may_be_deep=may_be_deep)


def _check(body: dict[str, Any], frame: bytes, *, may_be_deep: bool) -> Parsed:
    model = _model_of(body)
    if model is None:
        known = ", ".join(MESSAGES)
        raise _with_id(UnknownMessageType(f"unknown msg_type {str(body.get('msg_type'))[:64]!r}; known: {known}"), body)
    if may_be_deep and is_too_deep(_without_numbers(body)):
        raise _with_id(InvalidPayload(f"nested more than {MAX_DEPTH} levels deep"), body)
    left_out: tuple[str, ...] = ()
    try:
        message: DeviceMessage = model.__pydantic_validator__.validate_python(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        try:
            body, left_out = _repaired(model, body, errors, frame)
            message = model.__pydantic_validator__.validate_python(body)
        except ValidationError as again:
            raise _with_id(_refusal(again.errors(include_url=False, include_input=False)), body) from again
        except InvalidPayload as refusal:
            raise _with_id(refusal, body) from error
    if left_out:
        message.__dict__["left_out"] = left_out
    return Parsed(message, digest(body) if message.id is not None else "")


def _model_of(body: dict[str, Any]) -> type[DeviceMessage] | None:
    name = body.get("msg_type")
    return MESSAGES.get(name) if isinstance(name, str) else None


def _repaired(
    model: type[DeviceMessage], body: dict[str, Any], errors: list[ErrorDetails], frame: bytes
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a body that may pass, and what is left out of it; SPEC sections 2 ("never rounded") and 5 (`left_out`).

    Raises:
        InvalidPayload: it will not pass.
    """
    numbers = _OPTIONAL_NUMBERS.get(model, frozenset())
    left_out: dict[str, None] = {}
    inexact: list[ErrorDetails] = []
    for error in errors:
        field = error["loc"][0] if error["loc"] else ""
        if field in numbers:
            left_out[str(field)] = None
        elif error["type"] == _INEXACT and frame:
            inexact.append(error)
        else:
            raise _refusal([error])
    body = {name: value for name, value in body.items() if name not in left_out}
    if inexact:
        try:
            sent = json.loads(frame, parse_float=str, parse_int=str)
        except RecursionError:  # what is left out may be nested as deeply as orjson reads
            raise _refusal(inexact) from None
        for error in inexact:
            _copy(sent, body, error["loc"])
    return body, tuple(left_out)


def _copy(source: Any, target: Any, place: tuple[int | str, ...]) -> None:
    for step in place[:-1]:
        source, target = source[step], target[step]
    target[place[-1]] = source[place[-1]]


def _without_numbers(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without the optional numbers: whatever stands there, it need not be looked at."""
    model = _model_of(body)
    numbers = _OPTIONAL_NUMBERS.get(model) if model is not None else None
    return {name: value for name, value in body.items() if name not in numbers} if numbers else body


def _refusal(errors: list[ErrorDetails]) -> InvalidPayload:
    first = errors[0]
    field = ".".join(str(part) for part in first["loc"])
    return InvalidPayload(f"{field}: {first['msg']}" if field else first["msg"])


def _with_id(error: RobodyneError, body: dict[str, Any]) -> RobodyneError:
    if isinstance(body.get("id"), str) and len(body["id"]) <= 200:
        error.details["id"] = body["id"]
    return error


def robot_named_in(frame: bytes) -> str | None:
    """Return the robot that a message tells of which cannot be taken; None where it tells of none, or somebody else speaks."""
    try:
        body = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict) or body.get("msg_type") == "Order":
        return None
    try:
        return Bye.model_validate({"msg_type": "Bye", "robot_id": body.get("robot_id")}).robot_id
    except ValidationError:
        return None


def digest(body: dict[str, Any]) -> str:
    """Return what tells two bodies apart: a hash over sorted keys, without `id` and `ts`."""
    rest = {key: value for key, value in body.items() if key not in ("id", "ts")}
    return hashlib.blake2b(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS), digest_size=12).hexdigest()


def clock_is_off(ts: float, now: float) -> bool:
    """Return whether a device's `ts` cannot be meant: more than 60 s ahead of or a day behind the server."""
    return not now - CLOCK_BEHIND_S <= ts <= now + CLOCK_AHEAD_S


def success(message: str, id: str | None, details: Entity | None = None) -> bytes:
    """Return the answer to a message that is stored (SPEC section 5: success means durable)."""
    answer: dict[str, Any] = {"status": "success", "message": message}
    if details:
        answer["details"] = details
    if id is not None:
        answer["id"] = id
    return orjson.dumps(answer)


def challenge(nonce: str, id: str | None) -> bytes:
    """Return the answer to a Hello with a nonce (SPEC section 5, "Device authentication")."""
    answer: dict[str, Any] = {"status": "challenge", "nonce": nonce}
    if id is not None:
        answer["id"] = id
    return orjson.dumps(answer)


def failure(error: RobodyneError, id: str | None = None) -> bytes:
    """Return the answer to a message that was refused."""
    return problem(error.device_code, error.text, id or error.details.get("id"), error.details)


ErrorCode = Literal[
    "INVALID_PAYLOAD",
    "UNKNOWN_TYPE",
    "UNAUTHORIZED",
    "CONFLICT",
    "TOO_LARGE",
    "RATE_LIMITED",
    "STORAGE_UNAVAILABLE",
    "TIMEOUT",
    "SERVER_ERROR",
]


def problem(code: str, text: str, id: str | None = None, details: Entity | None = None) -> bytes:
    """Return an error answer with one of the codes of section 5."""
    answer: dict[str, Any] = {"status": "error", "message": text, "error_code": code}
    if details and (rest := {key: value for key, value in details.items() if key != "id"}):
        answer["details"] = rest
    if id is not None:
        answer["id"] = id
    return orjson.dumps(answer)
