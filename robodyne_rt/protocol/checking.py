"""What people and programs send, checked against a model; and what is wrong with it, in one sentence.

The description of a field says what is expected of it. The same words stand in the errors and in the contract that the server
publishes (`/api/openapi.json`, `/api/asyncapi.json`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from robodyne_rt.protocol.errors import InvalidPayload

M = TypeVar("M", bound="Model")

MAX_NAME = 100


class Model(BaseModel):
    """Base of all: exact types, no unknown fields. Built when it is first needed: a server that starts needs few of them."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True, validate_by_alias=True)


class OpenModel(Model):
    """For messages of clients, which may carry fields of newer versions."""

    model_config = ConfigDict(extra="ignore")


class Query(Model):
    """The query string of a request: all values are text."""

    model_config = ConfigDict(strict=False)


NO_NUL = r"^[^\x00]*$"
"""Postgres stores no NUL."""

NEWEST = 1 << 53
"""Above every id."""

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_NAME, pattern=NO_NUL),
    Field(description="a text of 1 to 100 characters"),
]


def digits(value: Any) -> Any:
    """Return the number that a text of a query says, None where it says none."""
    is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16
    return int(value) if is_number else value if isinstance(value, int) else None


def checked(model: type[M], values: Any, *, noun: str = "field") -> M:
    """Return what was sent as a model.

    Args:
        noun: what the values are called.
    Raises:
        InvalidPayload: they are not what the model says; the text tells of the first fault.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidPayload(fault(model, error, noun=noun)) from None


def fault(model: type[BaseModel], error: ValidationError, *, noun: str = "field") -> str:
    """Return what is wrong, in one sentence: an unknown name first, for it explains a missing one."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
    place = first["loc"]
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    if not place:
        return "expected a JSON object" if first["type"] in ("model_type", "model_attributes_type") else first["msg"]
    name = str(place[0])
    if first["type"] == "extra_forbidden":
        return f"unknown {noun} {name[:100]!r}; known: {', '.join(fields) or 'none'}"
    description = fields[name].description if name in fields else None
    return f"{name}: expected {description}" if description else f"{name}: {first['msg']}"


def known_part(model: type[M], values: Mapping[str, Any]) -> tuple[M, str]:
    """Return the good part of what was sent, and what is wrong with the rest; for whoever is served all the same."""
    problem = ""
    good = dict(values)
    while True:
        try:
            return model.model_validate(good), problem
        except ValidationError as error:
            problem = problem or fault(model, error, noun="query key")
            bad = {str(item["loc"][0]) for item in error.errors(include_url=False) if item["loc"]} & good.keys()
            if not bad:
                raise
            good = {name: value for name, value in good.items() if name not in bad}


class SocketQuery(Query):
    """Keys that every WebSocket's path takes: who asks, and how it is found out whether the client is there."""

    token: str | None = None
    ticket: str | None = None
    heartbeat: Annotated[Literal["protocol", "message"], Field(description='"protocol" or "message"')] = "message"
