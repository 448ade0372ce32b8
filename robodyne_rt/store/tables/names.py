"""What names and lists of people and devices must be, in the database, and how a name finds its row there."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import orjson

from robodyne_rt.model.access import ROLES, is_reserved, normal_name
from robodyne_rt.model.names import nfc
from robodyne_rt.protocol.errors import InvalidPayload
from robodyne_rt.store.engine.database import DbConnection

MAX_NAME_LENGTH = 100

R = TypeVar("R", bound=Mapping[str, Any])


def checked_name(name: Any, what: str) -> str:
    """Return the name of a device or a robot as it is stored (NFC).

    Raises:
        InvalidPayload: not a text of 1 to 100 printable characters without space at its ends.
    """
    if isinstance(name, str):
        name = nfc(name)
        if is_reserved(normal_name(name)):
            raise InvalidPayload(f"{what}: {name[:MAX_NAME_LENGTH]!r} has a meaning of its own; choose another name")
        if 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable() and name == name.strip():
            return str(name)
    raise InvalidPayload(f"{what}: expected a name of 1 to {MAX_NAME_LENGTH} printable characters")


def checked_user_name(name: Any) -> str:
    """Return the name of a user, a program or a screen as it is stored (NFKC); errors as in `checked_name`."""
    return checked_name(normal_name(name) if isinstance(name, str) else name, "user")


def stored_name(db: DbConnection, table: str, column: str, name: str, form: Callable[[str], str]) -> str | None:
    """Return how a name is written in its row, which another program may have put there in another form; None: there is none.

    Args:
        form: in which names of this table are compared.
    """
    name = form(name)
    if db.execute(f"SELECT 1 FROM {table} WHERE {column} = ?", (name,)).fetchone():
        return name
    rows = db.select(f"SELECT {column} FROM {table} ORDER BY id")
    return next((stored for (stored,) in rows if form(stored) == name), None)


def checked_roles(roles: Any, known: Collection[str] = ROLES) -> None:
    """Check a list of roles.

    Args:
        known: those that there are, the configuration's own among them.
    Raises:
        InvalidPayload: not a list of roles that exist.
    """
    if not isinstance(roles, list) or not roles or not all(isinstance(role, str) and role in known for role in roles):
        raise InvalidPayload(f"roles: expected some of {', '.join(known)}")


def one(rows: Iterable[R], name: str, value: str) -> R:
    """Return the row of a name."""
    return next(row for row in rows if row[name] == value)


def dump_list(value: list[str]) -> str:
    return orjson.dumps(list(dict.fromkeys(value))).decode()


def load_list(value: Any) -> list[str] | None:
    """Return a stored list of texts; an empty one for what another program garbled: it opens nothing."""
    try:
        found = orjson.loads(value) if isinstance(value, str | bytes) else value
    except orjson.JSONDecodeError:
        return []
    if found is not None and not (isinstance(found, list) and all(isinstance(item, str) for item in found)):
        return []
    return found
