"""What was acknowledged, known while the database cannot be written: a repetition is answered like the first, a conflict seen.

Memory holds the newest. A SQLite file that is locked or full can still be read, so there all of them are known, also after a
restart.
"""

import contextlib
from collections import OrderedDict
from typing import Any

from robodyne_rt.protocol.errors import Conflict, DeadLettered, RobodyneError, StorageUnavailable
from robodyne_rt.store.engine.database import Database, DbConnection
from robodyne_rt.store.intake import write_registry
from robodyne_rt.store.intake.spool import Spool
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.tables.device_writes import other_body, row_of_claim

MAX_REMEMBERED = 20_000
"""Newest ids in memory; the database knows those of 7 days."""

Answer = tuple[Any, RobodyneError | None]


class Acknowledged:
    """For the loop's thread.

    Args:
        database: asked for what memory does not hold, where that takes microseconds.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader: DbConnection | None = None
        # (device, id) -> (digest, what it was answered), oldest first.
        self._newest: OrderedDict[tuple[str, str], tuple[str, Any]] = OrderedDict()

    def note(self, write: Write, result: Any) -> None:
        """Keep what a write was answered."""
        if (name := write.claim_key) is None:
            return
        self._newest[name] = (write.digest, result)
        if len(self._newest) > MAX_REMEMBERED:
            self._newest.popitem(last=False)

    def note_spooled(self, spool: Spool) -> None:
        """Keep what an earlier run acknowledged and left in the spool."""
        with contextlib.suppress(StorageUnavailable):
            for row in reversed(spool.rows(0, MAX_REMEMBERED)):  # the first with a name is the one that counts
                with contextlib.suppress(ValueError, KeyError, TypeError, RobodyneError):
                    write = write_registry.load(row.payload)
                    if write.row_id is not None:
                        self.note(write, write.result_of(write.row_id))

    def newest(self, write: Write) -> Answer | None:
        """Return what to answer to a repetition, as (result, refusal), from memory; None for what it does not hold."""
        if (name := write.claim_key) is None or (known := self._newest.get(name)) is None:
            return None
        digest, result = known
        return (result, None) if digest == write.digest else (None, other_body(name[1]))

    def answer(self, write: Write) -> Answer | None:
        """Return the same, from the database where memory does not hold it and the database can be read all the same; None for
        what is new, as far as can be known. Not for a disk that hangs: it is read here and now."""
        return self.newest(write) or self._stored(write)

    def _stored(self, write: Write) -> Answer | None:
        if (name := write.claim_key) is None:
            return None
        try:
            if self._reader is None:
                self._reader = self._database.open_instant_reader()
                if self._reader is None:
                    return None
            row = row_of_claim(self._reader, *name, write.digest)
        except (Conflict, DeadLettered) as refusal:
            return None, refusal
        except self._database.errors:
            self.close()  # the writer meets the same, and says so
            return None
        return None if row is None else (write.result_of(row), None)

    def close(self) -> None:
        """Let go of the database; it is opened again when it is needed."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
