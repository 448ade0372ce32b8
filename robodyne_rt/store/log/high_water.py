"""The high-water note: how far the change log had come, kept outside the database (SPEC section 6, PITFALLS S10).

A database that comes back older than its note (a copy put in its place, a file system that lied) has lost changes that were
confirmed. Then it gets a new epoch, so that no client goes on from a history that is gone, and people are told.
"""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import orjson

from robodyne_rt.model.changes import Entity

logger = logging.getLogger(__name__)


class HighWaterMark(NamedTuple):
    """What the note says: the epoch, the newest offset of each topic, and when that was (epoch seconds)."""

    database: str
    epoch: str
    heads: dict[str, int]
    at: float

    def lost(self, database: str, epoch: str, heads: dict[str, int]) -> dict[str, int]:
        """Return how many changes of each topic a database lacks; nothing where the note is about another history."""
        if (database, epoch) != (self.database, self.epoch):
            return {}
        return {topic: head - heads.get(topic, 0) for topic, head in self.heads.items() if head > heads.get(topic, 0)}


def note_path(spool_path: Path) -> Path:
    """Return where the note is kept: beside the spool, which is outside the database as well."""
    return spool_path.with_suffix(".head")


def read(path: Path) -> HighWaterMark | None:
    """Return the note, None where there is none that can be read."""
    try:
        values: Entity = orjson.loads(path.read_bytes())
        return HighWaterMark(values["database"], values["epoch"], dict(values["heads"]), float(values["at"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read: %s", path, error, extra={"action": "note_unreadable"})
        return None


def write(path: Path, note: HighWaterMark) -> None:
    """Replace the note; it is on the disk when this returns.

    Raises:
        OSError: it cannot be written; the old one is still whole.
    """
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(orjson.dumps(note._asdict()))
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
