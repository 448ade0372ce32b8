"""Holds what a server of the tests answers and says against the contract that it publishes.

Installed in the server's own process (`tests/processes.py`): every HTTP answer and every WebSocket frame of every test is
looked at, whichever client it goes to. What breaks the contract is logged as a fault, which fails the test.
"""

import json
import logging
import re
from typing import Any

from aiohttp import web
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter, ValidationError

from robodyne_rt.model.read_models import ROWS, Status
from robodyne_rt.protocol import frames, openapi, server_messages
from robodyne_rt.protocol.server_messages import SESSION_MESSAGES, kind_of
from robodyne_rt.web import routes
from robodyne_rt.web.route import Route

BROKEN = "the published contract is broken"

LOOKED_AT_BYTES = 100_000
"""What is larger is made by the same code, and would take the time of a test."""

logger = logging.getLogger("tests.published")

_MODELS: dict[str, type[BaseModel]] = {kind_of(model): model for model in SESSION_MESSAGES}
_ROWS: dict[str, TypeAdapter[Any]] = {topic: TypeAdapter(list[row]) for topic, row in ROWS.items()}  # type: ignore[valid-type]


def install() -> None:
    """Have this process's server looked at."""
    frame, build = frames.frame, routes.build

    def looked_at(payload: bytes, opcode: int = frames.OPCODE_TEXT) -> bytes:
        if opcode == frames.OPCODE_TEXT and len(payload) <= LOOKED_AT_BYTES:
            _note(fault_of_frame(payload), payload)
        return frame(payload, opcode)

    def built(*arguments: Any, **options: Any) -> web.Application:
        app = build(*arguments, **options)
        app.on_response_prepare.append(_look)
        return app

    frames.frame = looked_at
    routes.build = built


def _note(fault: str, sent: Any) -> None:
    if fault:
        logger.error("%s: %s: %s", BROKEN, fault, str(sent)[:600])


def fault_of_frame(payload: bytes) -> str:
    """Return what is wrong with a message, nothing where it is as it was published."""
    message = json.loads(payload)
    model = _MODELS.get(message.get("type") or message.get("action"))
    if model is None:
        return "no such message"
    try:
        model.model_validate(message, strict=False)
        if model is server_messages.Update:
            _check_rows(message["topic"], message["data"])
    except ValidationError as error:
        return str(error)
    return ""


def _check_rows(topic: str, data: Any) -> None:
    if topic in _ROWS:
        _ROWS[topic].validate_python(data)
    else:
        Status.model_validate(data)


async def _look(request: web.Request, response: web.StreamResponse) -> None:
    route = _route_of(request)
    if route is None or request.method == "HEAD" or not isinstance(response, web.Response) or response.status in (101, 304):
        return
    body = response.body
    if not isinstance(body, bytes) or len(body) > LOOKED_AT_BYTES:
        return
    _note(fault_of_answer(route, request.path, response.status, response.content_type, body), (request.path, body))


def _route_of(request: web.Request) -> Route | None:
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None else ""
    for route in routes.ROUTES:
        if route.method == request.method and re.sub(r"\{(\w+):.*?\}(?=/|$)", r"{\1}", route.path) == path:
            return route if route.right != "socket" else None
    return None


_validators: dict[Any, Any] = {}


def fault_of_answer(route: Route, path: str, status: int, content_type: str, body: bytes) -> str:
    """Return what is wrong with an answer, nothing where it is as it was published."""
    if not _validators:
        _validators[""] = openapi.document(routes.ROUTES, name="test", version="1")
    document = _validators[""]
    named = path if "{topic:" in route.path else openapi._path(route.path)
    responses = document["paths"][named][route.method.lower()]["responses"]
    if (found := responses.get(str(status))) is None:
        return f"status {status} is not among {sorted(responses)}"
    content = found.get("content", {})
    if content_type not in content and "*/*" not in content:
        return f"{content_type} is not among {sorted(content)}"
    schema = content.get(content_type, {}).get("schema")
    if schema is None or not content_type.endswith("json"):
        return ""
    key = (named, route.method, status, content_type)
    if key not in _validators:
        _validators[key] = Draft202012Validator({**schema, "components": document["components"]})
    errors = list(_validators[key].iter_errors(json.loads(body)))
    return "; ".join(f"{error.json_path}: {error.message[:200]}" for error in errors[:3])
