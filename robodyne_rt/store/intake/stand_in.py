"""A database in memory that answers as if it held everything that screens show, and holds only what was asked for.

Used by `prediction.py`, on the loop. What it costs depends on what a message names, not on how much is stored: a restaurant
with ten thousand rows must not hold up everybody when one commit is late.

Before a statement runs, the rows that it may look at are brought in. Our statements name rows by `column = ?`; each such column
is found by an index over what is known. A statement that says it in any other way gets the whole table.

    SELECT id FROM table_ WHERE table_number = ?      the rows of that number
    SELECT count(*) FROM robot                        all robots
"""

import itertools
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from robodyne_rt.model.changes import Entity
from robodyne_rt.model.topics import TOPICS, Nested
from robodyne_rt.store.engine import schema
from robodyne_rt.store.engine.database import begin_history
from robodyne_rt.store.engine.sqlite import SqliteConnection

_TABLE = re.compile(r'\b(?:FROM|UPDATE|JOIN) "?(\w+)', re.IGNORECASE)
_EQUAL = re.compile(r'"?\b(\w+)"? = \?')
_UNCERTAIN = re.compile(r"\b(?:SELECT|NOT \()")


class _Known:
    """The known rows of one table, some of which are in memory.

    Args:
        json: columns whose values are written as JSON.
        nested: rows of other tables that an entity carries along.
    """

    def __init__(
        self, table: str, entities: dict[int, Entity], json: tuple[str, ...] = (), nested: tuple[Nested, ...] = ()
    ) -> None:
        self.table = table
        self.json = json
        self.nested = nested
        self.entities = entities
        self.present: set[int] = set()
        self._by_value: dict[str, dict[Any, set[int]]] = {}

    def learn(self, key: int, entity: Entity | None) -> None:
        """Take the newest state of an entity, None where it is deleted."""
        before = self.entities.pop(key, None)
        for column, keys in self._by_value.items():
            if before is not None:
                keys.get(before.get(column), set()).discard(key)
            if entity is not None:
                keys.setdefault(entity.get(column), set()).add(key)
        if entity is not None:
            self.entities[key] = entity

    def where(self, column: str, value: Any) -> Iterable[int]:
        """Return the keys of entities by the value of a column."""
        if column == "id":
            return (value,) if value in self.entities else ()
        found = self._by_value.get(column)
        if found is None:
            found = self._by_value[column] = {}
            for key, entity in self.entities.items():
                found.setdefault(entity.get(column), set()).add(key)
        return found.get(value, ())


class _Need(NamedTuple):
    """What a statement looks at in one table: by column and number of the parameter; None: at all of it."""

    known: _Known
    equal: tuple[tuple[str, int], ...] | None


class StandIn(SqliteConnection):
    """Belongs to one thread.

    Args:
        template: what `make_template` returned.
        current: entities by topic and id; they are the stand-in's from now on.
        lookups: rows of the tables that are no topics.
        expected: returns what is to be laid over an entity, by topic and id.
    """

    def __init__(
        self,
        template: "Template",
        current: Mapping[str, dict[int, Entity]],
        lookups: Mapping[str, list[Entity]],
        *,
        expected: Callable[[str, int], Entity],
    ) -> None:
        super().__init__(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
        self.raw = SqliteConnection(self.connection)
        """Runs statements without bringing in anything."""
        self.connection.deserialize(template.content)
        self._columns = template.columns
        self._expected = expected
        self._by_topic = {
            topic: _Known(TOPICS[topic].table, entities, TOPICS[topic].rows.json, TOPICS[topic].nested)
            for topic, entities in current.items()
        }
        self._topics = {known.table: topic for topic, known in self._by_topic.items()}
        # Tables by name, with the column that names the entity of a nested row.
        self._tables: dict[str, tuple[_Known, str]] = {known.table: (known, "") for known in self._by_topic.values()}
        for known in self._by_topic.values():
            self._tables |= {nested.rows.table: (known, nested.parent_column) for nested in known.nested}
        for table, rows in lookups.items():
            self._tables[table] = (_Known(table, {row["id"]: row for row in rows}), "")
        self._needs: dict[str, list[_Need]] = {}
        self.execute = self._execute

    # -- what is known ---------------------------------------------------------------------------------------------

    def known(self, topic: str, key: int) -> Entity | None:
        """Return an entity as it is stored."""
        return self._by_topic[topic].entities.get(key)

    def learn(self, topic: str, changed: Iterable[tuple[int, Entity | None]]) -> None:
        """Take the newest stored state of entities, None where one is deleted."""
        known = self._by_topic[topic]
        keys: list[int] = []
        for key, entity in changed:
            known.learn(key, entity)
            keys.append(key)
        self.renew(topic, keys)

    def renew(self, topic: str, keys: list[int]) -> None:
        """Let go of the rows of entities: they are brought in anew when they are asked for, or at once where something else is
        expected of them than what is known, by which they are found."""
        known = self._by_topic[topic]
        expected = [key for key in keys if self._expected(topic, key)]
        present = known.present.intersection(keys).union(expected)
        if not present:
            return
        with self._unlogged():
            self._remove(known, present)
            self._bring_in(known, [key for key in expected if key in known.entities])

    def mark_present(self, topic: str, key: int) -> None:
        """Note that a prediction wrote the rows of an entity."""
        self._by_topic[topic].present.add(key)

    # -- statements ------------------------------------------------------------------------------------------------

    def _execute(self, query: str, parameters: Any = ()) -> Any:
        needs = self._needs.get(query)
        if needs is None:
            needs = self._needs[query] = list(self._needs_of(query))
        for known, equal in needs:
            wanted: Iterable[int] = known.entities
            if equal is not None:
                wanted = [key for column, number in equal for key in known.where(column, parameters[number])]
            missing = [key for key in wanted if key not in known.present]
            if missing:
                with self._unlogged():
                    self._bring_in(known, missing)
        return self.connection.execute(query, parameters)

    def _needs_of(self, query: str) -> Iterator[_Need]:
        for table in dict.fromkeys(_TABLE.findall(query)):
            if table in self._tables:
                known, parent = self._tables[table]
                yield _Need(known, self._equal(query, table, parent))

    def _equal(self, query: str, table: str, parent: str) -> tuple[tuple[str, int], ...] | None:
        """Return by which columns, at which numbers of parameters, a statement names its rows; None where it does not only."""
        head, _, condition = query.partition(" WHERE ")
        if not condition or _UNCERTAIN.search(condition) or _TABLE.search(condition):
            return None
        found: list[tuple[str, int]] = []
        start = head.count("?")
        for alternative in condition.split(" OR "):
            for match in _EQUAL.finditer(alternative):
                column = match[1]
                if column == parent if parent else column in self._columns[table]:
                    found.append(("id" if parent else column, start + alternative[: match.start()].count("?")))
                    break
            else:
                return None
            start += alternative.count("?")
        return tuple(found)

    # -- rows ------------------------------------------------------------------------------------------------------

    def _unlogged(self) -> "_Silence":
        return _Silence(self.connection)

    def _bring_in(self, known: _Known, keys: list[int]) -> None:
        topic = self._topics.get(known.table)
        children: dict[str, list[Entity]] = {nested.rows.table: [] for nested in known.nested}
        rows: list[Entity] = []
        for key in keys:
            entity = known.entities[key]
            if topic is not None and (expected := self._expected(topic, key)):
                entity = entity | expected
            for nested in known.nested:
                entity = dict(entity)
                for child in entity.pop(nested.field, ()):
                    children[nested.rows.table].append(_written({**child, nested.parent_column: key}, nested.rows.json))
            rows.append(_written(entity, known.json))
        self._insert(known.table, rows)
        for table, of_table in children.items():
            self._insert(table, of_table)
        known.present.update(keys)

    def _insert(self, table: str, rows: list[Entity]) -> None:
        """Insert rows; what a foreign program wrote elsewhere and does not fit here is left out."""
        allowed = self._columns[table]
        for names, group in itertools.groupby(rows, key=tuple):
            columns = [name for name in names if name in allowed]
            quoted, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
            self.connection.executemany(
                f"INSERT OR IGNORE INTO {table}({quoted}) VALUES ({marks})", ([row[name] for name in columns] for row in group)
            )

    def _remove(self, known: _Known, keys: Iterable[int]) -> None:
        for key in keys:
            for nested in known.nested:
                self.connection.execute(f"DELETE FROM {nested.rows.table} WHERE {nested.parent_column} = ?", (key,))
            self.connection.execute(f"DELETE FROM {known.table} WHERE id = ?", (key,))
            known.present.discard(key)


class _Silence:
    """A block whose changes the triggers do not log."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("UPDATE topic_head SET is_silent = 1")

    def __exit__(self, *exc: object) -> None:
        self._connection.execute("UPDATE topic_head SET is_silent = 0")


class Template(NamedTuple):
    """A database with the schema and nothing else, as SQLite keeps it: reading it takes a fraction of making it.

    Attributes:
        columns: by table, those that SQLite does not compute.
    """

    content: bytes
    columns: Mapping[str, frozenset[str]]


def make_template() -> Template:
    """Return what stand-ins begin with; takes some milliseconds."""
    db = SqliteConnection(sqlite3.connect(":memory:", isolation_level=None))
    shipped = schema.load("sqlite")
    for statement in (*shipped.creation, *shipped.triggers.values()):
        db.execute(statement)
    begin_history(db, "prediction")
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
    columns = {
        table: frozenset(row[1] for row in db.execute(f'PRAGMA table_xinfo("{table}")') if row[6] not in (2, 3))
        for table in tables
    }
    content: bytes = db.connection.serialize()
    db.close()
    return Template(content, columns)


def _written(entity: Entity, json: tuple[str, ...]) -> Entity:
    """Return an entity's row as the database holds it."""
    if not any(entity.get(name) is not None for name in json):
        return entity
    row = dict(entity)
    for name in json:
        if row.get(name) is not None:
            row[name] = orjson.dumps(row[name]).decode()
    return row
