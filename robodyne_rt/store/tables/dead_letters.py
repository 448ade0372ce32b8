"""Dead letters in the database (SPEC section 6)."""

import contextlib
from typing import cast

import orjson

from robodyne_rt.model.changes import Entity
from robodyne_rt.model.rows import LetterRow, RetriedRow
from robodyne_rt.protocol.errors import ResourceNotFound
from robodyne_rt.store.engine.database import DbConnection

MAX_LISTED = 1000

_COLUMNS = ("id", "kind", "device", "message_id", "error", "attempts", "first_at", "last_at", "state")


def listed(db: DbConnection, *, limit: int = MAX_LISTED) -> list[LetterRow]:
    """Return the newest letters, without their payload."""
    query = f"SELECT {', '.join(_COLUMNS)} FROM dead_letter ORDER BY id DESC LIMIT ?"
    return [_letter(db, dict(zip(_COLUMNS, row, strict=True))) for row in db.execute(query, (limit,)).fetchall()]


def shown(db: DbConnection, id: int) -> LetterRow:
    """Return one letter with its payload.

    Raises:
        ResourceNotFound: there is none with this id.
    """
    columns = (*_COLUMNS, "payload")
    row = db.execute(f"SELECT {', '.join(columns)} FROM dead_letter WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise ResourceNotFound(f"no dead letter {id}")
    letter = _letter(db, dict(zip(columns, row, strict=True)))
    with contextlib.suppress(orjson.JSONDecodeError):  # a torn row of the spool is shown as it is
        letter["payload"] = orjson.loads(letter["payload"])
    return letter


def _letter(db: DbConnection, letter: Entity) -> LetterRow:
    return cast(LetterRow, letter | {name: db.time_text(letter[name]) for name in ("first_at", "last_at")})


def ids(db: DbConnection) -> list[int]:
    """Return the ids of all letters, oldest first."""
    return [id for (id,) in db.execute("SELECT id FROM dead_letter ORDER BY id").fetchall()]


def parked(db: DbConnection, *, limit: int = MAX_LISTED) -> int:
    """Return how many letters wait for a person; counted up to `limit`."""
    query = "SELECT count(*) FROM (SELECT 1 FROM dead_letter WHERE state = 'PARKED' LIMIT ?) AS waiting"
    (count,) = db.execute(query, (limit,)).fetchone()
    return int(count)


def retrying(db: DbConnection, id: int) -> RetriedRow | None:
    """Return a letter that is to be tried again, with its payload as text; None where there is none with this id."""
    columns = ("id", "kind", "device", "message_id", "attempts", "payload")
    query = f"SELECT {', '.join(columns)} FROM dead_letter WHERE id = ? AND state = 'RETRYING'"
    row = db.execute(query, (id,)).fetchone()
    return None if row is None else cast(RetriedRow, dict(zip(columns, row, strict=True)))


def forget(db: DbConnection, letter: LetterRow | RetriedRow) -> None:
    """Delete a letter, and its message's id: its device may send it again."""
    db.execute("DELETE FROM dead_letter WHERE id = ?", (letter["id"],))
    if letter["message_id"] is not None:
        db.execute("DELETE FROM device_message WHERE device = ? AND id = ?", (letter["device"], letter["message_id"]))
