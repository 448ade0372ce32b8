"""Predicts what the database will say about a write that it has not confirmed: for pushes that must not wait for storage, and
for checking messages while the database is away (SPEC section 6). Used by `optimistic.py` only.

A second, small database in memory holds what screens show now, and the very code that writes to the real one writes to it.
So there is one set of rules for what a message does, and a new message needs nothing here. It lives on the loop, is filled
when storage first is late, and is dropped when everything is stored.
"""

import itertools
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from robodyne_rt.model.changes import Entity, Update
from robodyne_rt.model.topics import TOPICS, Topic
from robodyne_rt.ports import OptimisticChange
from robodyne_rt.store.engine import schema
from robodyne_rt.store.engine.database import begin_history, insert
from robodyne_rt.store.engine.sqlite import SqliteConnection
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
        self._db: SqliteConnection | None = None

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
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        db = self._db = SqliteConnection(connection)
        shipped = schema.load("sqlite")
        for statement in (*shipped.creation, *shipped.triggers.values()):
            db.execute(statement)
        begin_history(db, "prediction")
        self._tables = _PredictingWriter(db)
        self._log = ChangeLog(db, windows=self._windows)
        self._known: dict[str, dict[int, Entity]] = {topic: dict(current.get(topic, {})) for topic in TOPICS}
        self._expected: dict[tuple[str, int], Entity] = {}
        self._applied = 0
        self._generated = {topic: _generated_columns(db, TOPICS[topic]) for topic in BASE_TOPICS}
        db.execute("BEGIN")
        for table, rows in lookups.items():
            for row in rows:
                self._insert(table, row)
        for topic in BASE_TOPICS:
            for entity in self._known[topic].values():
                self._put(topic, entity)
        db.execute("COMMIT")
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
        shown = {name: None if type(value) is int and value >= HIDDEN_FROM else value for name, value in entity.items()}
        known = self._known[topic].get(key)
        if known is None:
            expected = shown
        else:
            expected = {name: value for name, value in shown.items() if known.get(name) != value}
            shown = known | expected
        self._expected[topic, key] = expected
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
        topic, known = update.topic, self._known[update.topic]
        for key, entity in update.entities.items():
            known[key] = entity
            if topic in BASE_TOPICS:
                self._put(topic, entity | self._expected.get((topic, key), {}))
        for key in update.removed:
            known.pop(key, None)
            self._remove(topic, key)
        assert self._db is not None
        self._positions = self._log.heads()

    def confirm(self, topic: str, key: int) -> None:
        """Expect nothing more of an entity: it is as it is stored."""
        if self._expected.pop((topic, key), None) is None or topic not in BASE_TOPICS:
            return
        if (entity := self._known[topic].get(key)) is not None:
            self._put(topic, entity)
        else:
            self._remove(topic, key)
        self._positions = self._log.heads()

    def _put(self, topic: str, entity: Entity) -> None:
        """Make a row, and its nested ones, what an entity says."""
        rows = TOPICS[topic].rows
        row = {name: entity[name] for name in entity if name not in self._generated[topic]}
        for name in rows.json:
            row[name] = _text(row.get(name))
        self._remove(topic, entity["id"])
        for nested in TOPICS[topic].nested:
            for child in row.pop(nested.field, ()):
                child_row = {**child, nested.parent_column: entity["id"]}
                for name in nested.rows.json:
                    child_row[name] = _text(child_row.get(name))
                self._insert(nested.rows.table, child_row)
        self._insert(rows.table, row)

    def _insert(self, table: str, row: Entity) -> None:
        assert self._db is not None
        try:
            insert(self._db, table, row)
        except sqlite3.IntegrityError:
            return  # what a foreign program wrote elsewhere does not fit here: the stand-in goes without it

    def _remove(self, topic: str, key: int) -> None:
        assert self._db is not None
        for nested in TOPICS[topic].nested:
            self._db.execute(f"DELETE FROM {nested.rows.table} WHERE {nested.parent_column} = ?", (key,))
        self._db.execute(f"DELETE FROM {TOPICS[topic].table} WHERE id = ?", (key,))

    def _trim(self, db: SqliteConnection) -> None:
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

    def __init__(self, db: SqliteConnection) -> None:
        super().__init__(db)
        self._hidden = itertools.count(HIDDEN_FROM)

    def _insert(self, table: str, columns: Entity) -> int:
        if "id" not in columns:
            columns = {"id": next(self._hidden), **columns}
        return super()._insert(table, columns)


def _generated_columns(db: SqliteConnection, topic: Topic) -> set[str]:
    """Return the fields of a topic's entities that SQLite computes, or that stand in other rows."""
    computed = {row[1] for row in db.execute(f"PRAGMA table_xinfo({topic.table})") if row[6] in (2, 3)}
    return computed | {joined.column for joined in topic.joined}


def _text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
