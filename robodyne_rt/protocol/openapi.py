"""The contract of the HTTP API, as OpenAPI 3.1: made from the table of routes and its models."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, get_args

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from robodyne_rt.model.read_models import ROWS, Status
from robodyne_rt.model.topics import STATUS
from robodyne_rt.protocol import errors, http
from robodyne_rt.protocol.checking import Model, Query
from robodyne_rt.protocol.device_messages import MESSAGES, ErrorCode
from robodyne_rt.protocol.errors import RobodyneError
from robodyne_rt.protocol.names import snake_case

REF = "#/components/schemas/{model}"

ALWAYS = (errors.BadRequest, errors.Forbidden, errors.Misdirected, errors.Internal)
"""What every answer may mean: a request that cannot be parsed, a page of another site, a foreign name, our own fault."""


class Route(Protocol):
    """What the document reads of a route; `web.route.Route` is one."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def right(self) -> str: ...
    @property
    def handler(self) -> Any: ...
    @property
    def query(self) -> type[Query] | None: ...
    @property
    def body(self) -> type[Model] | None: ...
    @property
    def answer(self) -> type[BaseModel] | None: ...
    @property
    def content_type(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def errors(self) -> tuple[type[RobodyneError], ...]: ...


def document(routes: Sequence[Route], *, name: str, version: str) -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        name: of the server.
    """
    rows: list[type[BaseModel]] = [*ROWS.values(), Status]
    answers = {route.answer for route in routes if route.answer is not None}
    bodies = {route.body for route in routes if route.body is not None} | set(MESSAGES.values())
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "serialization") for model in sorted(answers | {http.Problem}, key=_name)),
        *((model, "validation") for model in sorted(bodies, key=_name)),
        *((model, "serialization") for model in rows),
    ]
    refs, definitions = models_json_schema(models, ref_template=REF)
    schemas = {(model, mode): ref for (model, mode), ref in refs.items()}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.right == "socket":
            continue
        for path, operation in _operations(route, schemas):
            paths.setdefault(path, {})[route.method.lower()] = operation
    for model in answers:
        _add_older_names(definitions["$defs"], schemas[model, "serialization"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "robodyne-rt",
            "version": version,
            "summary": f"The HTTP API of {name}, a robot restaurant's real-time server",
            "description": "Errors are `application/problem+json` with a stable `code`. WebSockets: `/api/asyncapi.json`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "robodyne"},
            },
        },
    }


def _add_older_names(definitions: dict[str, Any], schema: Any) -> None:
    """Have a schema, and those it refers to, name what is in camelCase in snake_case too: the older name is deprecated."""
    if isinstance(schema, list):
        for item in schema:
            _add_older_names(definitions, item)
        return
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    properties = schema.get("properties", {})
    for name in [name for name in properties if snake_case(name) != name and snake_case(name) not in properties]:
        properties[snake_case(name)] = properties[name]
        properties[name] = {**properties[name], "deprecated": True}
        if name in schema.get("required", ()):
            schema["required"].append(snake_case(name))
    for inner in [*properties.values(), schema.get("items"), *schema.get("anyOf", ())]:
        if isinstance(inner, dict) and (inner.keys() & {"$ref", "items", "anyOf"}):
            _add_older_names(definitions, inner)


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _operations(route: Route, schemas: Mapping[Any, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Return the operation of a route under each path that it stands for: a topic's path has rows of its own."""
    topics = re.search(r"\{topic:([^}]+)\}", route.path)
    if topics is None:
        yield _path(route.path), _operation(route, schemas)
        return
    for topic in topics[1].split("|"):
        row: type[BaseModel] = Status if topic == STATUS else ROWS[topic]
        operation = _operation(route, schemas, topic=topic)
        operation["responses"]["200"] = _response(
            "What a WebSocket's first message would say.", _topic_schema(topic, row, schemas)
        )
        operation["responses"]["304"] = {"description": "Nothing changed since the ETag of `If-None-Match`."}
        yield route.path.replace(topics[0], topic), operation


def _topic_schema(topic: str, row: type[BaseModel], schemas: Mapping[Any, Any]) -> dict[str, Any]:
    ref = schemas[row, "serialization"]
    data = ref if topic == STATUS else {"type": "array", "items": ref}
    fields = {
        "type": {"const": "update"},
        "topic": {"const": topic},
        "data": data,
        "removed": {"type": "array", "items": {"type": "integer"}},
        "snapshot": {"type": "boolean"},
        "recovered": {"type": "boolean"},
        "prev": {"type": "integer"},
        "offset": {"type": "integer"},
        "epoch": {"type": "string"},
    }
    return {
        "type": "object",
        "properties": fields,
        "required": ["type", "topic", "data", "offset"],
        "additionalProperties": False,
    }


def _path(path: str) -> str:
    return re.sub(r"\{(\w+):(?:[^{}]|\{[^{}]*\})*\}", r"{\1}", path)


def _operation(route: Route, schemas: Mapping[Any, Any], *, topic: str = "") -> dict[str, Any]:
    summary = " ".join((route.handler.__doc__ or "").split("\n\n")[0].split())
    parameters = [*_path_parameters(route), *_query_parameters(route)]
    part = route.path.split("/")[2] if route.path.startswith("/api/") else "health"
    operation: dict[str, Any] = {
        "tags": ["topics" if topic else part.partition(".")[0]],
        "operationId": route.handler.__name__ + (f"_{topic}" if topic else "_healthz" if route.path == "/healthz" else ""),
        "summary": summary,
        "responses": _responses(route, schemas),
    }
    if route.path == "/api/messages" and route.method == "POST":
        parameters.append(_header("Idempotency-Key", "Sent again under the same key, it is stored once."))
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        is_needed = any(field.is_required() for field in route.body.model_fields.values())
        content = {"application/json": {"schema": schemas[route.body, "validation"]}}
        operation["requestBody"] = {"content": content, "required": is_needed}
    elif route.path == "/api/device-messages":
        every = [schemas[model, "validation"] for model in dict.fromkeys(MESSAGES.values())]
        content = {"application/json": {"schema": {"type": "object", "anyOf": [*every, {"type": "object"}]}}}
        operation["requestBody"] = {"content": content, "required": True}
    if route.right != "public":
        operation["security"] = [{"token": []}, {"cookie": []}]
        if route.right != "user":
            operation["x-right"] = f"read:{topic}" if route.right == "read" else route.right
    return operation


def _header(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, "maxLength": 200}
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    found = []
    for name in re.findall(r"\{(\w+)\}", _path(re.sub(r"\{topic:[^}]+\}", "", route.path))):
        schema = (
            {"type": "integer", "minimum": 0, "maximum": 10**18 - 1} if name == "id" else {"type": "string", "minLength": 1}
        )
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(ref_template=REF)
    found = []
    for name, field in schema.get("properties", {}).items():
        choices = [choice for choice in field.get("anyOf", []) if choice.get("type") != "null"]
        whole = field | (choices[0] if choices else {})
        bare = {
            key: value for key, value in whole.items() if key not in ("title", "anyOf", "description") and value is not None
        }
        found.append({"name": name, "in": "query", "description": field.get("description", ""), "schema": bare})
    return found


def _response(description: str, schema: Any, content_type: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": schema}}}


def _responses(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    if route.answer is not None:
        done = _response(" ".join((route.answer.__doc__ or "").split()), schemas[route.answer, "serialization"])
    else:
        schema = {"type": "object"} if route.content_type.endswith("json") else {"type": "string"}
        done = _response("Done.", schema, route.content_type)
    found: dict[str, Any] = {str(route.status): done}
    if route.path == "/readyz":
        done["content"]["text/plain"] = {"schema": {"type": "string"}}
        found["503"] = _response("Not ready; the same.", schemas[http.HealthReport, "serialization"])
        found["503"]["content"]["text/plain"] = {"schema": {"type": "string"}}
    for status, meanings in sorted(_meanings(route).items()):
        if str(status) in found:
            continue
        codes = ", ".join(f"`{error.code}`" for error in dict.fromkeys(meanings))
        found[str(status)] = _response(codes, schemas[http.Problem, "serialization"], "application/problem+json")
    if route.path == "/api/device-messages":
        for code in get_args(ErrorCode):
            status_text = str(errors.status_of_device_code(code))
            content = found.setdefault(status_text, {"description": "The device's own answer.", "content": {}})["content"]
            content["application/json"] = {"schema": schemas[http.DeviceAnswer, "serialization"]}
        found["202"] = _response("Pushed, not stored yet.", schemas[http.DeviceAnswer, "serialization"])
    return found


def _meanings(route: Route) -> dict[int, list[type[RobodyneError]]]:
    meanings: list[type[RobodyneError]] = [*ALWAYS, *route.errors]
    # A token that is wrong is refused everywhere, also where none is needed.
    meanings += [errors.TokenInvalid, errors.TokenExpired, errors.RateLimited]
    if route.right not in ("public",):
        meanings.append(errors.TokenMissing)
    if "{" in route.path:
        meanings.append(errors.ResourceNotFound)
    if route.query is not None or route.body is not None:
        meanings.append(errors.InvalidPayload)
    if route.body is not None or route.path == "/api/device-messages":
        meanings += [errors.InvalidPayload, errors.TooLarge, errors.UnsupportedMediaType, errors.RequestTimeout]
    by_status: dict[int, list[type[RobodyneError]]] = {}
    for meaning in meanings:
        by_status.setdefault(meaning.status, []).append(meaning)
    return by_status
