"""Dead letters: looking at them, trying them again, dropping them; for the API and the command `dlq` (SPEC section 6)."""

from typing import Literal

import orjson

from robodyne_rt.core import times
from robodyne_rt.errors import ResourceNotFound, RobodyneError
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Clock
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.intake import write_registry
from robodyne_rt.store.intake.intake import Intake
from robodyne_rt.store.log.reader_pool import ReaderPool
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

Action = Literal["requeue", "drop"]

MAX_LISTED = 1000

_COLUMNS = ("id", "kind", "device", "message_id", "error", "attempts", "first_at", "last_at")


def listed(db: DbConnection, *, limit: int = MAX_LISTED) -> list[Entity]:
    """Return the newest letters, without their payload."""
    query = f"SELECT {', '.join(_COLUMNS)} FROM dead_letter ORDER BY id DESC LIMIT ?"
    return [_letter(db, dict(zip(_COLUMNS, row, strict=True))) for row in db.execute(query, (limit,)).fetchall()]


def shown(db: DbConnection, id: int) -> Entity:
    """Return one letter with its payload.

    Raises:
        ResourceNotFound: there is none with this id.
    """
    columns = (*_COLUMNS, "payload")
    row = db.execute(f"SELECT {', '.join(columns)} FROM dead_letter WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise ResourceNotFound(f"no dead letter {id}")
    letter = _letter(db, dict(zip(columns, row, strict=True)))
    letter["payload"] = orjson.loads(letter["payload"])
    return letter


def _letter(db: DbConnection, letter: Entity) -> Entity:
    return letter | {name: db.time_text(letter[name]) for name in ("first_at", "last_at")}


def ids(db: DbConnection) -> list[int]:
    """Return the ids of all letters, oldest first."""
    return [id for (id,) in db.execute("SELECT id FROM dead_letter ORDER BY id").fetchall()]


def requeue(db: DbConnection, tables: DeviceMessageWriter, id: int, now_s: float) -> Entity:
    """Try one letter again, in the caller's transaction; it stays, with one attempt more, if that fails again.

    Returns:
        `{"id", "stored": bool, "error": why not}`.
    Raises:
        ResourceNotFound: there is none with this id.
    """
    letter = shown(db, id)
    db.execute("SAVEPOINT letter")
    try:
        _forget(db, letter)
        write_registry.load(orjson.dumps(letter["payload"])).apply(tables)
    except Exception as error:
        # Where the database itself is away this fails as well, and the caller hears of that.
        db.execute("ROLLBACK TO SAVEPOINT letter")
        text = error.text if isinstance(error, RobodyneError) else f"{type(error).__name__}: {str(error).strip()}"
        db.execute(
            "UPDATE dead_letter SET attempts = attempts + 1, error = ?, last_at = ?, age_s = ? WHERE id = ?",
            (text[:2000], times.to_text(now_s), tables.age_s, id),
        )
        return {"id": id, "stored": False, "error": text}
    finally:
        db.execute("RELEASE SAVEPOINT letter")
    return {"id": id, "stored": True, "error": None}


def drop(db: DbConnection, id: int) -> Entity:
    """Forget one letter, and its message's id: its device may send it again.

    Raises:
        ResourceNotFound: there is none with this id.
    """
    _forget(db, shown(db, id))
    return {"id": id, "dropped": True}


def _forget(db: DbConnection, letter: Entity) -> None:
    db.execute("DELETE FROM dead_letter WHERE id = ?", (letter["id"],))
    if letter["message_id"] is not None:
        db.execute("DELETE FROM device_message WHERE device = ? AND id = ?", (letter["device"], letter["message_id"]))


def act(tables: DeviceMessageWriter, action: Action, wanted: list[int] | None, now_s: float) -> list[Entity]:
    """Requeue or drop letters, in the caller's transaction; None means all of them.

    Raises:
        ResourceNotFound: one of them does not exist; then none is touched.
    """
    db = tables.db
    known = ids(db)
    chosen = known if wanted is None else list(dict.fromkeys(wanted))
    for id in chosen:
        if id not in known:
            raise ResourceNotFound(f"no dead letter {id}")
    if action == "drop":
        return [drop(db, id) for id in chosen]
    return [requeue(db, tables, id, now_s) for id in chosen]


class DeadLetters:
    """The same for the loop of a running server: reads with a reader, writes through the one writer."""

    def __init__(self, *, readers: ReaderPool, intake: Intake, clock: Clock) -> None:
        self._readers = readers
        self._intake = intake
        self._clock = clock

    async def listed(self) -> list[Entity]:
        """Return the newest letters, without their payload."""
        return await self._readers.read(listed)

    async def shown(self, id: int) -> Entity:
        """Return one letter with its payload.

        Raises:
            ResourceNotFound: there is none with this id.
        """
        return await self._readers.read(lambda db: shown(db, id))

    async def act(self, action: Action, wanted: list[int] | None) -> list[Entity]:
        """Requeue or drop letters; None means all of them.

        Raises:
            ResourceNotFound: one of them does not exist; then none is touched.
            StorageUnavailable: the database is away.
        """
        return await self._intake.call(lambda tables: act(tables, action, wanted, self._clock.wall()))
