"""What the JavaScript client needs of our tables, made from them: the types of rows, and what to do after a close.

`scripts/contract` writes the files; a test holds them against what is made here.
"""

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from robodyne_rt.model.read_models import ROWS, Status
from robodyne_rt.protocol.errors import closes

_MADE = "made by scripts/contract; do not edit"

_BEGIN = f"/** What to do after a close, by its reason, and by its code where that is lost; {_MADE}. */\nconst CLOSES = {{"

_SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def row_types() -> str:
    """Return TypeScript declarations of the rows of all topics."""
    rows: list[type[BaseModel]] = [*ROWS.values(), Status]
    _, definitions = models_json_schema([(row, "serialization") for row in rows], ref_template="{model}")
    parts = [f"/** The rows of topics; {_MADE}. */\n"]
    parts += [_declaration(name, schema) for name, schema in sorted(definitions["$defs"].items())]
    by_topic: dict[str, type[BaseModel]] = {**ROWS, "status": Status}
    named = "".join(f"  {topic}: {row.__name__};\n" for topic, row in by_topic.items())
    parts.append(f"/** The row of each topic. */\nexport interface Rows {{\n{named}}}\n")
    return "\n".join(parts)


def _declaration(name: str, schema: Any) -> str:
    text = " ".join(schema.get("description", "").split())
    comment = f"/** {text} */\n" if text else ""
    if "enum" in schema:
        return f"{comment}export type {name} = {' | '.join(map(json.dumps, schema['enum']))};\n"
    needed = schema.get("required", [])
    lines = []
    for field, of_field in schema["properties"].items():
        lines += [f"  /** {of_field['description']} */"] if "description" in of_field else []
        lines.append(f"  {field}{'' if field in needed else '?'}: {_type(of_field)};")
    if schema.get("additionalProperties") is True:
        lines.append("  [name: string]: any;")
    return f"{comment}export interface {name} {{\n" + "\n".join(lines) + "\n}\n"


def _type(schema: Any) -> str:
    if "$ref" in schema:
        return str(schema["$ref"])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if schema.get("type") == "array":
        inner = _type(schema.get("items", {}))
        return f"({inner})[]" if " " in inner else f"{inner}[]"
    if schema.get("type") == "object":
        return "Record<string, any>"
    return _SIMPLE.get(schema.get("type", ""), "any")


def with_closes(client: str) -> str:
    """Return the JavaScript client with the table of what to do after a close; it is one file, for people copy it."""
    rows = "".join(
        f"  {json.dumps(word) if word.isdigit() else word}: {json.dumps(retry)},\n" for word, retry in closes().items()
    )
    head, _, rest = client.partition(_BEGIN)
    _, end, tail = rest.partition("\n};\n")
    if not end:
        raise ValueError("the client has no table of closes")
    return f"{head}{_BEGIN}\n{rows.rstrip()}{end}{tail}"
