"""Predicts what the database will say about a write that it has not confirmed: for pushes that must not wait for storage, and
for checking messages while the database is away (SPEC section 6). Used by `optimistic.py` only.

A second, small database in memory (`stand_in.py`) answers as if it held what screens show now, and the very code that writes to
the real one writes to it. So there is one set of rules for what a message does, and a new message needs nothing here. It lives
on the loop, is made when storage first is late, and is dropped when everything is stored.
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from robodyne_rt.model.changes import Entity, OptimisticChange, Update
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.intake.stand_in import StandIn, make_template
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.log.change_log import ChangeLog, Lookups
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

HIDDEN_FROM = 2**53 - 2**40
"""Ids that the database would give start here, at the end of those that it takes: nobody knows them yet, so they are shown to
nobody."""

BASE_TOPICS = ("robots", "tables", "customers", "orders", "inventory")
"""What messages look up; the other topics only grow."""

GROWING_TABLES = ("event", "system_log", "chat_message", "staff_message", "command_report", "change")
TRIM_EVERY = 500
REMEMBERED_IDS = 50_000
"""Message ids known while the database is away; the database itself knows them all, and is asked when it is back."""


class Prediction(NamedTuple):
    """What one write will do: the answer's details, and entities by topic and id."""

    result: Any
    changes: dict[str, dict[int, OptimisticChange]]


class Predictor:
    """A stand-in for the database, as good as what screens show. Belongs to one thread."""

    def __init__(self, *, windows: Mapping[str, int]) -> None:
        self._windows = windows
        self._template = make_template()
        self._db: StandIn | None = None

    @property
    def is_active(self) -> bool:
        """Whether it holds anything."""
        return self._db is not None

    def begin(self, current: Mapping[str, Mapping[int, Entity]], lookups: Lookups) -> None:
        """Fill it.

        Args:
            current: entities by topic and id, as stored.
            lookups: rows of the tables that are no topics.
        """
        self._expected: dict[tuple[str, int], Entity] = {}
        self._db = StandIn(
            self._template,
            {topic: dict(current.get(topic, {})) for topic in BASE_TOPICS},
            lookups,
            expected=lambda topic, key: self._expected.get((topic, key), {}),
        )
        self._tables = _PredictingWriter(self._db)
        self._log = ChangeLog(self._db.raw, windows=self._windows)
        self._grown = {topic: dict(current.get(topic, {})) for topic in TOPICS if topic not in BASE_TOPICS}
        self._applied = 0
        self._positions = self._log.heads()

    def end(self) -> None:
        """Forget everything."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def apply(self, write: Write) -> Prediction:
        """Do a write, in order after those before.

        Raises:
            RobodyneError: it will be refused.
        """
        db = self._db
        assert db is not None
        self._tables.age_s = self._applied  # counts here: the oldest ids are forgotten first
        result = write.apply(self._tables)
        changes: dict[str, dict[int, OptimisticChange]] = {}
        for topic, head in self._log.heads().items():
            if head == self._positions[topic]:
                continue
            update = self._log.after(topic, self._positions[topic], head)
            self._positions[topic] = head
            for key, entity in update.entities.items():
                if key < HIDDEN_FROM:
                    changes.setdefault(topic, {})[key] = self._optimistic(topic, key, entity)
        self._applied += 1
        if self._applied % TRIM_EVERY == 0:
            self._trim(db)
        return Prediction(result, changes)

    def _optimistic(self, topic: str, key: int, entity: Entity) -> OptimisticChange:
        assert self._db is not None
        shown = {name: None if type(value) is int and value >= HIDDEN_FROM else value for name, value in entity.items()}
        known = self._grown[topic].get(key) if topic in self._grown else self._db.known(topic, key)
        if known is None:
            expected = shown
        else:
            expected = {name: value for name, value in shown.items() if known.get(name) != value}
            shown = known | expected
        self._expected[topic, key] = expected
        if topic in BASE_TOPICS:
            self._db.mark_present(topic, key)
        return OptimisticChange(shown, expected)

    def forget(self, write: Write) -> None:
        """Forget that a write came: it is stored nowhere, and who repeats it is no repetition."""
        assert self._db is not None
        if write.claim_key is not None:
            self._db.execute("DELETE FROM device_message WHERE device = ? AND id = ?", write.claim_key)
        for topic, key in write.keys:
            self.confirm(topic, key)

    def learn(self, update: Update) -> None:
        """Take what was stored; what is still expected of an entity stays laid over it."""
        assert self._db is not None
        topic = update.topic
        changed = [*update.entities.items(), *((key, None) for key in update.removed)]
        if topic in BASE_TOPICS:
            self._db.learn(topic, changed)
            return
        for key, entity in changed:
            if entity is None:
                self._grown[topic].pop(key, None)
            else:
                self._grown[topic][key] = entity

    def confirm(self, topic: str, key: int) -> None:
        """Expect nothing more of an entity: it is as it is stored."""
        assert self._db is not None
        if self._expected.pop((topic, key), None) is not None and topic in BASE_TOPICS:
            self._db.renew(topic, [key])

    def _trim(self, db: StandIn) -> None:
        """Keep it small however long the database stays away."""
        db.execute("BEGIN")
        for table in GROWING_TABLES:
            db.execute(f"DELETE FROM {table}")
        db.execute(
            "DELETE FROM device_message WHERE at < (SELECT at FROM device_message ORDER BY at DESC LIMIT 1 OFFSET ?)",
            (REMEMBERED_IDS,),
        )
        db.execute("DELETE FROM change")
        db.execute("COMMIT")
        self._positions = self._log.heads()


class _PredictingWriter(DeviceMessageWriter):
    """Gives the ids that the database would give, out of reach of real ones."""

    def __init__(self, db: DbConnection) -> None:
        super().__init__(db)
        self._hidden = itertools.count(HIDDEN_FROM)

    def _insert(self, table: str, columns: Entity) -> int:
        if "id" not in columns:
            columns = {"id": next(self._hidden), **columns}
        return super()._insert(table, columns)
