"""The high-water mark: how far the change log and the spool had come, kept outside the database (SPEC section 6, PITFALLS S10).

A database that does not hold what its mark says (an older copy put in its place, also one that went on by itself, another
one, a new one where it is missing) has lost changes that were confirmed. Then a new epoch begins, so that no client goes on
from a history that is gone, and people are told.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import orjson

from robodyne_rt import durable_files
from robodyne_rt.model.changes import Entity
from robodyne_rt.store.log.change_log import Line
from robodyne_rt.store.log.history import History

logger = logging.getLogger(__name__)

WRITE_INTERVAL_S = 1.0
"""How often the mark is written, where an offset moved."""


class Contents(NamedTuple):
    """What a database says of its history.

    Attributes:
        epochs: names of the histories that it went through; the last one holds.
        heads: newest offset by topic.
        lines: by topic, the line at the offset that a mark names, None where it is not there.
    """

    epochs: Sequence[str]
    heads: Mapping[str, int]
    lines: Mapping[str, Line | None]


class Loss(NamedTuple):
    """What a database lacks: why, for people; and how many changes of each topic, where that can be known."""

    text: str
    changes: Mapping[str, int]


class HighWaterMark(NamedTuple):
    """What is noted: the epoch, the newest offset of each topic with its line, and when that was (epoch seconds).

    Attributes:
        lines: the newest line of each topic, as far as it was read.
        spool: name of the spool; `spooled_upto`: its newest row.
    """

    database: str
    epoch: str
    heads: Mapping[str, int]
    at: float
    lines: Mapping[str, Line] = {}
    spool: str = ""
    spooled_upto: int = 0

    def loss(self, database: Contents) -> Loss | None:
        """Return what a database lacks of what was confirmed; None where it holds all of it, or follows it."""
        noted = {topic: head for topic, head in self.heads.items() if head}
        if not noted:
            return None
        if self.epoch not in database.epochs:
            return Loss("it is missing, or another database is in its place", {})
        if self.epoch != database.epochs[-1]:
            return None  # renewed since, and told then
        behind = {topic: head - database.heads.get(topic, 0) for topic, head in noted.items()}
        if lost := {topic: count for topic, count in behind.items() if count > 0}:
            return Loss("it is older than it was", lost)
        forked = [topic for topic, line in self.lines.items() if (database.lines.get(topic) or line) != line]
        return Loss(f"an older copy took its place and was written on ({', '.join(forked)})", {}) if forked else None


def mark_path(spool_path: Path) -> Path:
    """Return where the mark is kept: beside the spool, which is outside the database as well."""
    return spool_path.with_suffix(".head")


def read(path: Path) -> HighWaterMark | None:
    """Return the mark, None where there is none that can be read."""
    try:
        values: Entity = orjson.loads(path.read_bytes())
        heads = {str(topic): int(head) for topic, head in values["heads"].items()}
        lines = {str(topic): _line(*line) for topic, line in values.get("lines", {}).items()}
        spool, spooled_upto = str(values.get("spool", "")), int(values.get("spooled_upto", 0))
        at = float(values["at"])
        return HighWaterMark(str(values["database"]), str(values["epoch"]), heads, at, lines, spool, spooled_upto)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read: %s", path, error, extra={"action": "note_unreadable"})
        return None


def _line(offset: int, key: int, op: str, at: str) -> Line:
    return int(offset), int(key), str(op), str(at)


def write(path: Path, mark: HighWaterMark) -> None:
    """Replace the mark; it is on the disk when this returns.

    Raises:
        OSError: it cannot be written; the old one is still whole.
    """
    durable_files.replace(path, orjson.dumps(mark._asdict()))


class HighWaterMarkWriter:
    """Keeps the mark current while the server runs.

    Args:
        database: name of the database.
        spooled: returns the spool's name and its newest row.
        believed_at: returns the time as far as it can be believed, in epoch seconds: a clock that is wrong must not spoil what
            the next run knows of the time.
    """

    def __init__(
        self,
        path: Path,
        *,
        database: str,
        history: History,
        spooled: Callable[[], tuple[str, int]],
        believed_at: Callable[[], float],
    ) -> None:
        self._path = path
        self._database = database
        self._history = history
        self._spooled = spooled
        self._believed_at = believed_at

    async def run(self, positions: Callable[[], Mapping[str, int]]) -> None:
        """Write the mark until cancelled.

        Args:
            positions: returns the newest offset of each topic.
        """
        written: HighWaterMark | None = None
        has_failed = False
        while True:
            mark = self._mark(positions())
            if written is None or written._replace(at=mark.at) != mark:
                try:
                    await anyio.to_thread.run_sync(write, self._path, mark)
                    written, has_failed = mark, False
                except OSError as error:
                    if not has_failed:
                        logger.warning("%s cannot be written: %s", self._path, error, extra={"action": "note_failed"})
                    has_failed = True
            await anyio.sleep(WRITE_INTERVAL_S)

    def _mark(self, positions: Mapping[str, int]) -> HighWaterMark:
        lines = dict(self._history.last_lines)
        # The writer's thread goes on meanwhile: a line and the offset beside it are taken as one.
        heads = {topic: max(offset, lines[topic][0]) if topic in lines else offset for topic, offset in dict(positions).items()}
        lines = {topic: line for topic, line in lines.items() if line[0] == heads.get(topic)}
        return HighWaterMark(self._database, self._history.epoch, heads, self._believed_at(), lines, *self._spooled())
