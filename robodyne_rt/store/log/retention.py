"""Deletes what is older than it is kept, in small steps that delay nobody and that no screen hears (SPEC section 2).

Never what a window still shows, and nothing by a clock that may be wrong. Ids are in the order of happening, so that tables
without an index of times are walked by their ids: a step looks at some rows, and the walk ends at the first that are young.
"""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from robodyne_rt.model import times
from robodyne_rt.ports import Clock
from robodyne_rt.store.engine.database import Database, DbConnection, Fault

logger = logging.getLogger(__name__)

STEP_ROWS = 100
"""Rows deleted in one transaction: about a millisecond."""

STEP_INTERVAL_S = 0.25
PASS_INTERVAL_S = 600.0
"""Between two passes over everything."""

IDLE_STEPS = 20
"""Steps without an old row after which a walk ends."""

MAX_STUCK = 1000
JUMP_S, JUMP_PAUSE_S = 60.0, 10.0

DAY_S = 86400.0


class Rule(NamedTuple):
    """What of one table is deleted.

    Attributes:
        days: name of the setting.
        time: column that says how old a row is.
        condition: what must hold besides; `indexed` where it and the time are found by an index.
        window: setting of the window whose newest rows stay, empty where the window is one of time.
    """

    table: str
    days: str
    time: str
    condition: str = ""
    indexed: bool = False
    window: str = ""


RULES = (
    Rule("event", "events_days", "timestamp", window="events_window"),
    Rule("system_log", "systemlogs_days", "timestamp", window="systemlogs_window"),
    Rule("order_", "orders_days", "served_at", "status IN ('SERVED', 'CANCELLED')", indexed=True),
    Rule("order_", "orders_days", "timestamp", "status = 'CANCELLED'", indexed=True),
    Rule("order_", "orders_days", "timestamp", "status = 'SERVED' AND served_at IS NULL", indexed=True),
    Rule("customer", "customers_days", "left_at", indexed=True),
    Rule("chat_message", "chat_days", "timestamp", "(status IS NULL OR status <> 'PENDING')"),
    Rule("staff_message", "messages_days", "timestamp"),
    Rule("command_report", "operations_days", "timestamp"),
)


class Retention:
    """Belongs to the writer's thread.

    Args:
        days: by name of the setting; 0 keeps for ever.
        windows: numbers of the snapshot windows by setting name.
        may_delete: whether the wall clock can be believed.
    """

    def __init__(
        self,
        *,
        days: Mapping[str, int],
        windows: Mapping[str, int],
        may_delete: Callable[[], bool],
        database: Database,
        clock: Clock,
    ) -> None:
        self._errors = database.errors
        self._fault = database.fault
        self._days = days
        self._windows = windows
        self._may_delete = may_delete
        self._clock = clock
        self._next_step = 0.0
        self._rules = [rule for rule in RULES if days.get(rule.days)]
        self._rule = 0  # which is being followed
        self._after = 0  # how far its table was walked
        self._deleted = self._told = 0
        self._idle_steps = 0
        self._stuck: dict[str, set[int]] = {}  # rows that something of another program holds, by table
        self._last: tuple[float, float] | None = None

    def run(self, db: DbConnection, now: float) -> int:
        """Do the next step where it is due; return how many rows it deleted.

        Raises:
            Exception: an error of the database.
        """
        if now < self._next_step or not self._rules:
            return 0
        self._next_step = now + STEP_INTERVAL_S
        wall = self._clock.wall()
        last_wall, last_now = self._last or (wall, now)
        self._last = (wall, now)
        if abs((wall - last_wall) - (now - last_now)) > JUMP_S:
            self._next_step = now + JUMP_PAUSE_S  # until then it is known whether the clock can be believed
            return 0
        if not self._may_delete():
            return 0
        before = self._deleted
        if not self._step(db, self._rules[self._rule]):
            self._go_on(now)
        return self._deleted - before

    def _go_on(self, now: float) -> None:
        """Follow the next rule."""
        self._rule, self._after, self._idle_steps = self._rule + 1, 0, 0
        if self._rule == len(self._rules):
            self._rule = 0
            self._next_step = now + PASS_INTERVAL_S
            if self._deleted > self._told:
                count = self._deleted - self._told
                logger.info("%d old rows were deleted", count, extra={"action": "retention", "rows": count})
            self._told = self._deleted

    def _step(self, db: DbConnection, rule: Rule) -> bool:
        """Delete the next old rows of a table; return whether there may be more."""
        wall = self._clock.wall()
        oldest = times.to_text(wall - self._days[rule.days] * DAY_S)
        old, seen_upto, is_more = self._indexed(db, rule, oldest) if rule.indexed else self._walked(db, rule, oldest, wall)
        if old:
            try:
                self._delete(db, rule.table, old)
            except self._errors as error:
                if self._fault(error) is not Fault.WRITE:
                    raise
                self._delete_one_by_one(db, rule.table, old)
        self._after = seen_upto
        return is_more

    def _delete(self, db: DbConnection, table: str, ids: list[int]) -> None:
        with db.silently():
            condition, parameter = db.is_in("id", ids)
            db.execute(f"DELETE FROM {table} WHERE {condition}", (parameter,))
        self._deleted += len(ids)

    def _delete_one_by_one(self, db: DbConnection, table: str, ids: list[int]) -> None:
        """Leave what another program's table refers to, or its trigger keeps; the others go."""
        stuck = self._stuck.setdefault(table, set())
        for id in ids:
            try:
                self._delete(db, table, [id])
            except self._errors as error:
                if self._fault(error) is not Fault.WRITE:
                    raise
                if not stuck:
                    logger.warning("row %d of %s cannot be deleted: %s", id, table, error, extra={"action": "retention_stuck"})
                stuck.add(id)
        if len(stuck) > MAX_STUCK:
            stuck.clear()  # tried again

    def _indexed(self, db: DbConnection, rule: Rule, oldest: str) -> tuple[list[int], int, bool]:
        condition = f"{rule.condition} AND " if rule.condition else ""
        query = f"SELECT id FROM {rule.table} WHERE {condition}{rule.time} < ? LIMIT ?"
        stuck = self._stuck.get(rule.table, set())
        found = [id for (id,) in db.execute(query, (oldest, STEP_ROWS + len(stuck))).fetchall()]
        old = [id for id in found if id not in stuck][:STEP_ROWS]
        return old, 0, len(old) == STEP_ROWS

    def _walked(self, db: DbConnection, rule: Rule, oldest: str, wall: float) -> tuple[list[int], int, bool]:
        shown_from = self._shown_from(db, rule)
        bound, parameters = ("", ()) if shown_from is None else ("AND id < ?", (shown_from,))
        is_old = f"{rule.time} < ?{f' AND {rule.condition}' if rule.condition else ''}"
        # A time that lies ahead, by a clock that was wrong, says nothing of the rows behind it.
        is_young = f"{rule.time} BETWEEN ? AND ?"
        rows = db.execute(
            f"SELECT id, {is_old}, {is_young} FROM {rule.table} WHERE id > ? {bound} ORDER BY id LIMIT ?",
            (oldest, oldest, times.to_text(wall), self._after, *parameters, STEP_ROWS),
        ).fetchall()
        if not rows:
            return [], self._after, False
        old = [id for id, may_go, _ in rows if may_go]
        # Small ids that another program chose may be young: only some steps without an old row are the end.
        self._idle_steps = 0 if old or not any(young for _, _, young in rows) else self._idle_steps + 1
        return old, rows[-1][0], len(rows) == STEP_ROWS and self._idle_steps < IDLE_STEPS

    def _shown_from(self, db: DbConnection, rule: Rule) -> int | None:
        """Return the oldest id that the window shows, 0 where it shows all there are; None where it is one of time."""
        if not rule.window:
            return None
        query = f"SELECT id FROM {rule.table} ORDER BY id DESC LIMIT 1 OFFSET ?"
        row = db.execute(query, (max(0, self._windows[rule.window] - 1),)).fetchone()
        return int(row[0]) if row else 0
