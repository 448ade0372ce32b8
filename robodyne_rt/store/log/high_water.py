"""The high-water mark: how far the change log had come, kept outside the database (SPEC section 6, PITFALLS S10).

A database that comes back older than its mark (a copy put in its place, a file system that lied) has lost changes that were
confirmed. Then it gets a new epoch, so that no client goes on from a history that is gone, and people are told.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import orjson

from robodyne_rt.model.changes import Entity
from robodyne_rt.store.log.history import History

logger = logging.getLogger(__name__)

WRITE_INTERVAL_S = 1.0
"""How often the mark is written, where an offset moved."""


class HighWaterMark(NamedTuple):
    """What is noted: the epoch, the newest offset of each topic, and when that was (epoch seconds)."""

    database: str
    epoch: str
    heads: dict[str, int]
    at: float

    def lost(self, database: str, epoch: str, heads: dict[str, int]) -> dict[str, int]:
        """Return how many changes of each topic a database lacks; nothing where the mark is about another history."""
        if (database, epoch) != (self.database, self.epoch):
            return {}
        return {topic: head - heads.get(topic, 0) for topic, head in self.heads.items() if head > heads.get(topic, 0)}


def mark_path(spool_path: Path) -> Path:
    """Return where the mark is kept: beside the spool, which is outside the database as well."""
    return spool_path.with_suffix(".head")


def read(path: Path) -> HighWaterMark | None:
    """Return the mark, None where there is none that can be read."""
    try:
        values: Entity = orjson.loads(path.read_bytes())
        heads = {str(topic): int(head) for topic, head in values["heads"].items()}
        return HighWaterMark(values["database"], values["epoch"], heads, float(values["at"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read: %s", path, error, extra={"action": "note_unreadable"})
        return None


def write(path: Path, mark: HighWaterMark) -> None:
    """Replace the mark; it is on the disk when this returns.

    Raises:
        OSError: it cannot be written; the old one is still whole.
    """
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(orjson.dumps(mark._asdict()))
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class HighWaterMarkWriter:
    """Keeps the mark current while the server runs.

    Args:
        database: name of the database.
    """

    def __init__(self, path: Path, *, database: str, history: History) -> None:
        self._path = path
        self._database = database
        self._history = history

    async def run(self, positions: Callable[[], Mapping[str, int]]) -> None:
        """Write the mark until cancelled.

        Args:
            positions: returns the newest offset of each topic.
        """
        written: HighWaterMark | None = None
        has_failed = False
        while True:
            mark = HighWaterMark(self._database, self._history.epoch, dict(positions()), time.time())
            if written is None or (written.heads, written.epoch) != (mark.heads, mark.epoch):
                try:
                    await anyio.to_thread.run_sync(write, self._path, mark)
                    written, has_failed = mark, False
                except OSError as error:
                    if not has_failed:
                        logger.warning("%s cannot be written: %s", self._path, error, extra={"action": "note_failed"})
                    has_failed = True
            await anyio.sleep(WRITE_INTERVAL_S)
