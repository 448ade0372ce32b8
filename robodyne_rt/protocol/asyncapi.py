"""The contract of the WebSockets, as AsyncAPI 3.0: made from the tables of messages."""

from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from robodyne_rt.model.read_models import ROWS
from robodyne_rt.model.topics import TOPIC_NAMES
from robodyne_rt.protocol import server_messages, session_messages, topic_messages
from robodyne_rt.protocol.checking import OpenModel, SocketQuery
from robodyne_rt.protocol.errors import all_errors
from robodyne_rt.protocol.server_messages import kind_of

REF = "#/components/schemas/{model}"


class SendMessage(OpenModel):
    """A question in the desktop's words."""

    action: Literal["sendMessage"]
    request_id: session_messages.MessageId = Field(alias="requestId")
    message: str
    user_id: Any = Field(default=None, alias="userId")
    timestamp: Any = None


def document(*, name: str, version: str) -> dict[str, Any]:
    """Return the AsyncAPI document.

    Args:
        name: of the server.
    """
    topic_types = topic_messages.CLIENT_TYPES
    said: dict[str, type[BaseModel]] = {f"client.{kind}": model for kind, model in session_messages.CLIENT_MESSAGES.items()}
    said["client.sendMessage"] = SendMessage
    told: dict[str, type[BaseModel]] = {f"server.{kind_of(model)}": model for model in server_messages.SESSION_MESSAGES}
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "validation") for model in dict.fromkeys(said.values())),
        *((model, "serialization") for model in dict.fromkeys([*told.values(), *ROWS.values()])),
    ]
    refs, definitions = models_json_schema(models, ref_template=REF)
    schemas = {model: ref for (model, _), ref in refs.items()}
    messages = {key: _message(key, model, schemas[model]) for key, model in (said | told).items()}
    of_topic = [*(f"client.{kind}" for kind in topic_types), *(f"server.{kind_of(m)}" for m in server_messages.TOPIC_MESSAGES)]
    topic = _channel("/ws/{topic}", "One topic.", of_topic, topic_messages.TopicSocketQuery)
    topic["parameters"] = {"topic": {"description": "What is watched.", "enum": list(TOPIC_NAMES)}}
    session = _channel("/ws", "A session: topics, questions, messages.", list(messages), session_messages.SessionSocketQuery)
    channels = {"topic": topic, "session": session}
    about = f"The WebSockets of {name}. Messages are JSON texts. A close says why by its code and reason:\n\n{_closes()}"
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "robodyne-rt",
            "version": version,
            "description": about,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"here": {"host": "{host}", "protocol": "ws", "variables": {"host": {"default": "localhost:8000"}}}},
        "channels": channels,
        "operations": {
            f"{channel}.{action}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel}"},
                "messages": [
                    {"$ref": f"#/channels/{channel}/messages/{key}"} for key in found["messages"] if key.startswith(side)
                ],
            }
            for channel, found in channels.items()
            for action, side in (("receive", "client."), ("send", "server."))
        },
        "components": {"messages": messages, "schemas": definitions["$defs"]},
    }


def _message(key: str, model: type[BaseModel], schema: Any) -> dict[str, Any]:
    side, _, kind = key.partition(".")
    payload: Any = schema
    if side == "client" and kind != "sendMessage":
        tagged = {"type": "object", "properties": {"type": {"const": kind}}, "required": ["type"]}
        payload = {"allOf": [tagged, schema]}
    return {"name": kind, "summary": " ".join((model.__doc__ or "").split()), "payload": payload}


def _channel(address: str, title: str, keys: list[str], query: type[SocketQuery]) -> dict[str, Any]:
    messages = {key: {"$ref": f"#/components/messages/{key}"} for key in keys}
    schema = query.model_json_schema(ref_template=REF)
    bindings = {"ws": {"method": "GET", "query": {"type": "object", "properties": schema["properties"]}}}
    return {"address": address, "title": title, "messages": messages, "bindings": bindings}


def _closes() -> str:
    rows = {
        (error.close_code, error.close_reason, error.retry): " ".join((error.__doc__ or "").split())
        for error in all_errors()
        if "close_code" in vars(error)
    }
    lines = ["| code | reason | when | return |", "| --- | --- | --- | --- |"]
    lines += [f"| {code} | `{reason}` | {when} | {retry} |" for (code, reason, retry), when in sorted(rows.items())]
    return "\n".join(lines)
