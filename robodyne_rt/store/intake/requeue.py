"""Dead letters tried again or dropped; for the API and the command `dlq` (SPEC section 6)."""

from typing import Literal

import orjson

from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity
from robodyne_rt.model.rows import LetterRow
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import ResourceNotFound, RobodyneError
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.intake import write_registry
from robodyne_rt.store.intake.submissions import Submissions
from robodyne_rt.store.log.reader_pool import ReaderPool
from robodyne_rt.store.tables import dead_letters
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

Action = Literal["requeue", "drop"]


def requeue(db: DbConnection, tables: DeviceMessageWriter, id: int, now_s: float) -> Entity:
    """Try one letter again, in the caller's transaction; it stays, with one attempt more, if that fails again.

    Returns:
        `{"id", "stored": bool, "error": why not}`.
    Raises:
        ResourceNotFound: there is none with this id.
    """
    letter = dead_letters.shown(db, id)
    db.execute("SAVEPOINT letter")
    try:
        dead_letters.forget(db, letter)
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
    dead_letters.forget(db, dead_letters.shown(db, id))
    return {"id": id, "dropped": True}


def act(tables: DeviceMessageWriter, action: Action, wanted: list[int] | None, now_s: float) -> list[Entity]:
    """Requeue or drop letters, in the caller's transaction; None means all of them.

    Raises:
        ResourceNotFound: one of them does not exist; then none is touched.
    """
    db = tables.db
    known = dead_letters.ids(db)
    chosen = known if wanted is None else list(dict.fromkeys(wanted))
    for id in chosen:
        if id not in known:
            raise ResourceNotFound(f"no dead letter {id}")
    if action == "drop":
        return [drop(db, id) for id in chosen]
    return [requeue(db, tables, id, now_s) for id in chosen]


class DeadLetters:
    """The same for the loop of a running server: reads with a reader, writes through the one writer."""

    def __init__(self, *, readers: ReaderPool, submissions: Submissions, clock: Clock) -> None:
        self._readers = readers
        self._submissions = submissions
        self._clock = clock

    async def listed(self) -> list[LetterRow]:
        """Return the newest letters, without their payload."""
        return await self._readers.read(dead_letters.listed)

    async def shown(self, id: int) -> LetterRow:
        """Return one letter with its payload.

        Raises:
            ResourceNotFound: there is none with this id.
        """
        return await self._readers.read(lambda db: dead_letters.shown(db, id))

    async def act(self, action: Action, wanted: list[int] | None) -> list[Entity]:
        """Requeue or drop letters; None means all of them.

        Raises:
            ResourceNotFound: one of them does not exist; then none is touched.
            StorageUnavailable: the database is away.
        """
        return await self._submissions.call(lambda tables: act(tables, action, wanted, self._clock.wall()))
