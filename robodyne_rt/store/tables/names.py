"""What names and lists of people and devices must be, in the database."""

from collections.abc import Collection
from typing import Any

import orjson

from robodyne_rt.errors import InvalidPayload
from robodyne_rt.model.access import ROLES, is_reserved, normal_name
from robodyne_rt.model.changes import Entity

MAX_NAME_LENGTH = 100


def checked_name(name: Any, what: str) -> str:
    """Return a name as it is stored (NFC).

    Raises:
        InvalidPayload: not a text of 1 to 100 printable characters without space at its ends.
    """
    if isinstance(name, str):
        name = normal_name(name)
        if is_reserved(name):
            raise InvalidPayload(f"{what}: {name[:MAX_NAME_LENGTH]!r} has a meaning of its own; choose another name")
        if 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable() and name == name.strip():
            return str(name)
    raise InvalidPayload(f"{what}: expected a name of 1 to {MAX_NAME_LENGTH} printable characters")


def checked_roles(roles: Any, known: Collection[str] = ROLES) -> None:
    """Check a list of roles.

    Args:
        known: those that there are, the configuration's own among them.
    Raises:
        InvalidPayload: not a list of roles that exist.
    """
    if not isinstance(roles, list) or not roles or not all(isinstance(role, str) and role in known for role in roles):
        raise InvalidPayload(f"roles: expected some of {', '.join(known)}")


def one(rows: list[Entity], name: str, value: str) -> Entity:
    return next(row for row in rows if row[name] == value)


def dump_list(value: list[str]) -> str:
    return orjson.dumps(list(dict.fromkeys(value))).decode()


def load_list(value: Any) -> Any:
    try:
        return orjson.loads(value) if isinstance(value, str | bytes) else value
    except orjson.JSONDecodeError:
        return None  # another program's; it opens nothing
