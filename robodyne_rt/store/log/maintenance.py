"""What the writer does between two cycles: forget what is old, and look whether every change still reaches the log."""

import logging
from collections.abc import Mapping

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.ports import Clock
from robodyne_rt.store.engine import schema
from robodyne_rt.store.engine.database import Database, DbConnection, Fault, read_meta, write_meta
from robodyne_rt.store.log.retention import Retention
from robodyne_rt.store.stats import WriterStats
from robodyne_rt.store.tables import dead_letters
from robodyne_rt.store.tables.device_writes import REMEMBERED_S, DeviceMessageWriter

logger = logging.getLogger(__name__)

TRIGGER_LOOK_S = 2.0
"""How long triggers may be gone before they are put back."""

NOTE_AGE_S = 300.0

ID_STEP = 2**40
"""How far ids go before the database is told again: three days."""

PRUNE_STEP = 200
"""Lines of the log, or message ids, in one transaction: one or two milliseconds, for which devices wait."""

STEP_INTERVAL_S = 0.25

PRUNE_PAUSE_S = 0.01
"""Between two steps where there is more to prune, after a bulk load."""


class Maintenance:
    """Belongs to the writer's thread.

    Args:
        changes_retained: lines of the log kept per topic.
        look_interval_s: how often triggers are looked for.
        retention_days: how long dead letters are kept, counted while the server runs.
        retention: deletes what is old.
        ids: what ids are given by: the database is told where they are, as a measure for those of others.
    """

    def __init__(
        self,
        database: Database,
        db: DbConnection,
        *,
        stats: WriterStats,
        changes_retained: int,
        look_interval_s: float,
        retention_days: float,
        retention: Retention,
        ids: IdGenerator,
        clock: Clock,
    ) -> None:
        self._database = database
        self._stats = stats
        self._changes_retained = changes_retained
        self._look_interval_s = look_interval_s
        self._retention_s = int(retention_days * 86400)
        self._age_at_start_s = float(read_meta(db, "age_s") or 0)
        self._noted_age_s = self._age_at_start_s
        self._retention = retention
        self._ids = ids
        self._noted_id = 0
        self._clock = clock
        self.started_at = clock.now()
        self._next_step = self._next_round = 0.0
        self.is_behind = False
        """Whether there is more to prune: the next step comes after `PRUNE_PAUSE_S`."""
        self._next_look = 0.0
        self._next_trigger_look = 0.0
        self.restored_topics: list[str] = []
        """Topics whose triggers were put back, for the writer to report."""
        self._prune_after: tuple[str, str] = ("", "")

    @property
    def age_s(self) -> int:
        """Seconds that this database was served for."""
        return int(self._age_at_start_s + self._clock.now() - self.started_at)

    def run(self, db: DbConnection, tables: DeviceMessageWriter, positions: Mapping[str, int], now: float) -> None:
        """Do what is due at `now`.

        Where another program holds the lock, or the disk is full, the rest waits for the next time: devices must not wait for
        any of this.

        Raises:
            Exception: an error of a database that is away (`Database.errors`).
            FilesReplaced: what is written there nobody finds again.
        """
        if now < self._next_step:
            return  # after most commits: whatever is due is due at such a step
        self.is_behind = False
        is_round = now >= self._next_round
        if is_round:
            self._next_round = now + STEP_INTERVAL_S
        self._next_step = self._next_round
        try:
            with db.impatiently():
                self.is_behind = self._prune(db, positions)
                if self.is_behind:
                    self._next_step = min(now + PRUNE_PAUSE_S, self._next_round)
                if not is_round:
                    return
                self._prune_messages(db, tables)
                if now >= self._next_trigger_look:
                    self._next_trigger_look = now + min(TRIGGER_LOOK_S, self._look_interval_s)
                    self._look_for_triggers(db)
                if now >= self._next_look:
                    self._next_look = now + self._look_interval_s
                    db.check_files()
                    self._note_next_id(db)
                    self._note_age(db, tables)
                    self._prune_letters(db, tables)
                self._stats.rows_expired += self._retention.run(db, now)
        except self._database.errors as error:
            if self._database.fault(error) in (Fault.AWAY, Fault.BROKEN):
                raise
            db.rollback()

    def _look_for_triggers(self, db: DbConnection) -> None:
        """Put back triggers that somebody dropped with their table; what changed meanwhile nobody knows, so that all of their
        topics is read anew."""
        missing = db.missing_triggers()
        is_new, self._stats.missing_triggers = missing != self._stats.missing_triggers, missing
        if not missing:
            return
        if is_new:
            logger.error(
                "the change log misses changes: no trigger %s", ", ".join(missing), extra={"action": "trigger_missing"}
            )
        topics = schema.topics_of(self._database.kind, missing)
        try:
            db.begin()
            db.make_triggers()
            for topic in topics:
                db.log_unknown_changes(topic)
            db.commit()
        except self._database.errors as error:
            db.rollback()
            if self._database.fault(error) in (Fault.AWAY, Fault.BROKEN):
                raise
            if is_new:
                logger.exception("the triggers cannot be put back", extra={"action": "trigger_failed"})
            return
        self._stats.missing_triggers = []
        self.restored_topics += topics
        logger.warning("triggers were put back: %s are read anew", ", ".join(topics), extra={"action": "trigger_mended"})

    def _note_next_id(self, db: DbConnection) -> None:
        """Tell the database about where our next id is: others may not go far above it (SPEC section 2)."""
        next_id = self._ids.bound(self._clock.now())
        if next_id - self._noted_id > ID_STEP:
            db.execute("UPDATE topic_head SET next_id = ?", (next_id,))
            self._noted_id = next_id

    def _prune(self, db: DbConnection, positions: Mapping[str, int]) -> bool:
        """Forget old lines of the log, a step at most; return whether there may be more."""
        for topic in TOPICS:
            last = positions.get(topic, 0) - self._changes_retained
            if last > 0 and self._prune_step(db, topic, last):
                return True
        return False

    def _prune_step(self, db: DbConnection, topic: str, last: int) -> bool:
        """Delete the next lines of a topic; return whether there may be more."""
        cursor = db.execute(
            'DELETE FROM change WHERE topic = ? AND "offset" <= ? AND "offset" < '
            '(SELECT min("offset") + ? FROM change WHERE topic = ?)',
            (topic, last, PRUNE_STEP, topic),
        )
        return bool(cursor.rowcount == PRUNE_STEP)

    def _prune_messages(self, db: DbConnection, tables: DeviceMessageWriter) -> None:
        """Walk through the remembered ids, a step at a time: no index is needed that every commit would have to keep."""
        oldest = tables.age_s - REMEMBERED_S
        rows = db.execute(
            "SELECT device, id, at FROM device_message WHERE (device, id) > (?, ?) ORDER BY device, id LIMIT ?",
            (*self._prune_after, PRUNE_STEP),
        ).fetchall()
        self._prune_after = rows[-1][:2] if len(rows) == PRUNE_STEP else ("", "")
        old = [row[:2] for row in rows if row[2] < oldest]
        if old:
            db.begin()
            for key in old:
                db.execute("DELETE FROM device_message WHERE device = ? AND id = ?", key)
            db.commit()

    def _note_age(self, db: DbConnection, tables: DeviceMessageWriter) -> None:
        """Count how long this database was served; where that is not written ids only live longer."""
        tables.age_s = self.age_s
        if tables.age_s - self._noted_age_s < NOTE_AGE_S:
            return
        write_meta(db, "age_s", str(tables.age_s))
        self._noted_age_s = tables.age_s

    def _prune_letters(self, db: DbConnection, tables: DeviceMessageWriter) -> None:
        oldest = tables.age_s - self._retention_s
        if oldest > 0:
            db.execute("DELETE FROM dead_letter WHERE age_s < ?", (oldest,))
        self._stats.parked_letters = dead_letters.parked(db)
