"""Follows the change log in the writer's thread: what is new since the last look, as updates (SPEC sections 3 and 6)."""

import logging
from collections.abc import Mapping

from robodyne_rt.core.window import WINDOW_BYTES
from robodyne_rt.model.changes import Update
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.ports import Clock
from robodyne_rt.store.engine.database import DbConnection, read_meta
from robodyne_rt.store.log.change_log import ChangeLog, GapInLog, HistoryLost, Lookups
from robodyne_rt.store.log.history import History
from robodyne_rt.store.stats import WriterStats

logger = logging.getLogger(__name__)

MAX_LINES_PER_UPDATE = 100
"""Lines of the log that become one update: a bulk load must not become one endless message, nor one long turn of the loop."""

READ_BUDGET_S = 0.003
"""No further update is read in a cycle that has read for so long: devices wait for the next commit meanwhile."""


class LogReader:
    """Knows how far each topic was read.

    Args:
        windows: numbers of the snapshot windows by setting name.
        history: the newest line read of each topic is kept there.
    """

    def __init__(
        self, db: DbConnection, *, windows: Mapping[str, int], history: History, stats: WriterStats, clock: Clock
    ) -> None:
        self._windows = windows
        self._history = history
        self._stats = stats
        self._clock = clock
        self._reported_unreadable: set[tuple[str, int, str]] = set()
        self.use(db)
        self.has_more = False
        """Whether there is more to read than the last cycle took."""
        self.positions: dict[str, int] = {}
        """Offset up to which each topic was read."""

    def use(self, db: DbConnection) -> None:
        """Read with another connection from now on."""
        self._db = db
        self._log = ChangeLog(db, windows=self._windows, last_lines=self._history.last_lines)

    def snapshots(self) -> list[Update]:
        """Return what every topic's window shows; updates go on from there."""
        snapshots = [self._snapshot(topic) for topic in TOPICS]
        self.positions = {snapshot.topic: snapshot.offset for snapshot in snapshots}
        return snapshots

    def _snapshot(self, topic: str) -> Update:
        """Return a snapshot; of what nobody but the server watches, every row counts."""
        return self._log.snapshot(topic, limit_bytes=None if TOPICS[topic].private else WINDOW_BYTES)

    def lookups(self) -> Lookups:
        """Return the rows that messages are checked by while the database is away."""
        return self._log.lookups()

    def check_history(self) -> None:
        """Check that the database still holds what was read from it.

        Raises:
            HistoryLost: it is older, or another one, or its epoch is.
        """
        epoch = read_meta(self._db, "epoch") or ""
        if epoch != self._history.stored:
            raise HistoryLost(f"its epoch is {epoch} by now")
        heads = self._log.heads()
        for topic, position in self.positions.items():
            if heads.get(topic, 0) < position:
                raise HistoryLost(f"{topic}: the head went back from {position} to {heads.get(topic, 0)}")
            self._log.verify(topic, self._history.last_lines.get(topic))

    def has_foreign_changes(self) -> bool:
        """Return whether other programs committed something since the last call; cheap."""
        return self._db.has_foreign_changes(self.positions)

    def read(self, updates: list[Update], *, assign_offsets: bool) -> None:
        """Add an update for each topic that moved; a topic whose log has a hole gets a snapshot instead.

        Args:
            updates: what stands here is told, and `positions` are behind it, also where this fails in the middle.
            assign_offsets: whether there may be foreign changes without an offset; our own transaction has just assigned
                them otherwise.
        Raises:
            HistoryLost: the log is not the one that was read before.
        """
        until = self._clock.now() + READ_BUDGET_S
        self.has_more = self._db.assign_foreign_offsets() if assign_offsets else False
        # No transaction around it: a state that is newer than its position is right, and comes again.
        positions = self.positions
        behind = [(head - positions[topic], topic, head) for topic, head in self._log.heads().items() if topic in positions]
        # The least first: what our own commit has just changed does not wait for another program's bulk load.
        for _, topic, head in sorted(lag for lag in behind if lag[0]):
            position = positions[topic]
            try:
                position = self._read_topic(topic, position, head, updates, until)
            except GapInLog as gap:
                logger.error("%s: sending snapshots", gap, extra={"action": "log_gap"})
                update = self._snapshot(topic)
                position = self.positions[topic] = update.offset
                updates.append(update)
            self.has_more |= position < head
            if (line := self._log.last_lines.get(topic)) is not None:
                self._stats.newest_change_at = line[3]
        if updates:
            self._stats.published_at = self._clock.wall()

    def _read_topic(self, topic: str, position: int, head: int, updates: list[Update], until: float) -> int:
        if position > head:
            raise HistoryLost(f"{topic}: the head went back from {position} to {head}")
        while position < head and not (updates and self._clock.now() > until):
            update = self._log.after(topic, position, MAX_LINES_PER_UPDATE)
            if update.offset == position:
                raise GapInLog(f"{topic}: nothing after {position}, though the head is {head}")
            position = self.positions[topic] = update.offset
            updates.append(update)
        return position

    def unreadable(self) -> list[str]:
        """Return one text for each value that could not be read, once."""
        if not self._log.unreadable:
            return []
        found, self._log.unreadable = self._log.unreadable, []
        new = [item for item in dict.fromkeys(found) if item not in self._reported_unreadable]
        self._reported_unreadable.update(new)
        return [f"{table}.{column} of row {id} cannot be read; shown as null" for table, id, column in new]
