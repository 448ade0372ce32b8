"""Reading the change log: what is new, "everything of topic T after offset N", and snapshots (SPEC sections 1, 3 and 6).

`ChangeLog` reads with one connection in whatever thread owns it: the writer's after each commit (`reader.py`), or one of the
pool's for clients (`reader_pool.py`).
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from robodyne_rt.core.window import WINDOW_BYTES, sizes_of
from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity, Keys, Update
from robodyne_rt.model.topics import TOPICS, Joined, Nested, Rows, Topic
from robodyne_rt.protocol.json_depth import is_too_deep
from robodyne_rt.store.engine.database import DbConnection

logger = logging.getLogger(__name__)

MAX_COUNTED = 1000
"""Counts in `status` stop here, so that their cost does not grow with what is stored."""

KEYS_PER_READ = 25
"""Entities read at a time where nobody knows how large they are."""

UPDATE_BYTES = 1 << 20
"""What one update takes in memory, about: a bulk load of large rows must not be held as a whole."""

AHEAD_S = 3600.0
"""Times may lie so far ahead: the clock was put back by an hour, or a device's is ahead."""

MAX_LOOKED_UP = 5000
"""Dishes, and ingredients, that are known while the database is away."""

Decoder = Callable[[Any], Any]

Lookups = dict[str, list[Entity]]
"""Rows by table."""


Line = tuple[int, int, str, str]
"""A line of the change log: offset, key, op, at."""


class GapInLog(Exception):
    """Lines of the log that should be there are not: somebody else deleted them."""


class HistoryLost(Exception):
    """The log is not the one that was read before: an older copy took its place, and may have gone on by itself."""


def _json(value: Any) -> Any:
    decoded = orjson.loads(value)
    if is_too_deep(decoded):
        raise ValueError("nested too deeply")
    return decoded


class _Rows:
    """How one table becomes entities."""

    def __init__(self, db: DbConnection, rows: Rows, joined: tuple[Joined, ...] = ()) -> None:
        self.name = rows.table
        columns, select = [], []
        for column in db.columns(rows.table):
            columns.append(column)
            select.append(f'"{column.name}"')
            for other in joined:
                if other.key == column.name:
                    columns += [named for named in db.columns(other.table) if named.name == other.column]
                    select.append(
                        f"(SELECT {other.column} FROM {other.table} WHERE {other.table}.id = {rows.table}.{other.key})"
                    )
        self.columns = tuple(column.name for column in columns)
        self.select = ", ".join(select)
        self.decoders: list[tuple[str, Decoder]] = [(name, _json) for name in rows.json]
        self.decoders += [(name, bool) for name in rows.boolean]
        self.decoders += [
            (column.name, column.decode)
            for column in columns
            if column.decode and column.name not in (*rows.json, *rows.boolean)
        ]

    def entity(self, row: tuple[Any, ...], unreadable: Callable[[str, int, str], None]) -> Entity:
        """Return the row as clients see it; a value that cannot be read becomes None and is reported."""
        entity: Entity = dict(zip(self.columns, row, strict=True))
        for name, decode in self.decoders:
            value = entity[name]
            if value is not None:
                try:
                    entity[name] = decode(value)
                except (ValueError, TypeError):
                    entity[name] = None
                    unreadable(self.name, entity["id"], name)
        return entity


class ChangeLog:
    """Reads with one connection, which belongs to the calling thread.

    Args:
        windows: numbers of the snapshot windows by setting name (rows, or minutes).
        last_lines: the newest line that was read of each topic; kept current.
    """

    def __init__(self, db: DbConnection, *, windows: Mapping[str, int], last_lines: dict[str, Line] | None = None) -> None:
        self._db = db
        self._execute = db.execute
        self._windows = windows
        self._rows = {topic.name: _Rows(db, topic.rows, topic.joined) for topic in TOPICS.values()}
        self._nested = {topic.name: [(nested, _Rows(db, nested.rows)) for nested in topic.nested] for topic in TOPICS.values()}
        self.unreadable: list[tuple[str, int, str]] = []
        self.last_lines = {} if last_lines is None else last_lines

    def heads(self) -> dict[str, int]:
        """Return the newest offset of each topic."""
        return dict(self._execute('SELECT topic, "offset" FROM topic_head').fetchall())

    def floor(self, topic: str, head: int) -> int:
        """Return the offset after which the log is whole."""
        (first,) = self._execute('SELECT min("offset") FROM change WHERE topic = ?', (topic,)).fetchone()
        return head if first is None else int(first) - 1

    def line(self, topic: str, offset: int) -> Line | None:
        """Return one line, None where it was pruned or never was."""
        query = 'SELECT "offset", key, op, at FROM change WHERE topic = ? AND "offset" = ?'
        found: Line | None = self._execute(query, (topic, offset)).fetchone()
        return found

    def verify(self, topic: str, known: Line | None) -> None:
        """Compare a line that was read before with the log of now; one that was pruned proves nothing.

        Raises:
            HistoryLost: another one stands there, or the log does not reach so far.
        """
        if known is None:
            return
        now = self.line(topic, known[0])
        if now is None and self.heads().get(topic, 0) < known[0]:
            raise HistoryLost(f"{topic}: the head went back behind {known[0]}")
        if now is not None and now != known:
            raise HistoryLost(f"{topic}: line {known[0]} is another one than was read before")

    def after(self, topic: str, offset: int, limit: int) -> Update:
        """Return what the next lines after `offset`, at most `limit` of them, changed.

        Raises:
            GapInLog: a line is missing.
            HistoryLost: what was read before stands there no more.
        """
        lines: list[Line] = self._execute(
            'SELECT "offset", key, op, at FROM change WHERE topic = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?',
            (topic, offset, limit + 1),
        ).fetchall()
        if lines and lines[0][0] == offset:
            line = lines.pop(0)
            if self.last_lines.get(topic, line) != line and self.last_lines[topic][0] == offset:
                raise HistoryLost(f"{topic}: line {offset} is another one than was read before")
        if lines:
            if len(lines) > limit:
                del lines[limit:]
            if lines[-1][0] != offset + len(lines):
                raise GapInLog(f"{topic}: lines between {offset} and {lines[-1][0]} are gone")
            if any(op == "truncate" for _, _, op, _ in lines):
                self.last_lines[topic] = lines[-1]
                return self.snapshot(topic, limit_bytes=None if TOPICS[topic].private else WINDOW_BYTES)
        entities = self._read_within(topic, lines)
        if lines:
            self.last_lines[topic] = lines[-1]
        certain: dict[int, bool] = {}
        for _, key, op, _ in lines:
            # A row that only might have been replaced, and is still there, did not change.
            certain[key] = op != "replaced" or certain.get(key, False)
        update = Update(topic, prev=offset, offset=offset + len(lines))
        if len(entities) < len(certain):
            update.removed = [key for key in certain if key not in entities]
        update.entities = {key: entities[key] for key, is_certain in certain.items() if is_certain and key in entities}
        return update

    def _read_within(self, topic: str, lines: list[Line]) -> dict[int, Entity]:
        """Return the entities that `lines` name; where they are large, the last lines are dropped, for the next time."""
        keys = list(dict.fromkeys(key for _, key, _, _ in lines))
        entities = self.entities(topic, keys[:KEYS_PER_READ])
        for start in range(KEYS_PER_READ, len(keys), KEYS_PER_READ):
            if sum(sizes_of(entities).values()) > UPDATE_BYTES:
                known = set(keys[:start])
                del lines[next(index for index, line in enumerate(lines) if line[1] not in known) :]
                break
            entities |= self.entities(topic, keys[start : start + KEYS_PER_READ])
        return entities

    def changed(self, topic: str, offset: int) -> Keys | None:
        """Return what changed after `offset` up to the head.

        Returns:
            None when the log does not reach back to `offset`, `offset` is ahead of it, or a snapshot is smaller.
        Source: SPEC section 3, "Recovery".
        """
        head = self.heads()[topic]
        if not self.floor(topic, head) <= offset <= head:
            return None
        lines, truncated = self._execute(
            "SELECT count(*), count(CASE op WHEN 'truncate' THEN 1 END) FROM change WHERE topic = ? AND \"offset\" > ?",
            (topic, offset),
        ).fetchone()
        if truncated or lines != head - offset:
            return None  # everything went at once, or somebody deleted lines in between: never a silent gap
        limit = self.snapshot_size(topic)
        keys = [
            key
            for (key,) in self._execute(
                'SELECT DISTINCT key FROM change WHERE topic = ? AND "offset" > ? LIMIT ?',
                (topic, offset, limit + 1),
            )
        ]
        if len(keys) > limit:
            return None
        return Keys(head, keys)

    def window(self, topic: str) -> Keys:
        """Return what the topic's window shows, lowest id first; the position is taken before."""
        head = self.heads()[topic]
        where, parameters = self._window(TOPICS[topic])
        keys = sorted(key for (key,) in self._execute(f"SELECT id FROM {TOPICS[topic].table} {where}", parameters))
        return Keys(head, keys)

    def snapshot(self, topic: str, *, limit_bytes: int | None = None) -> Update:
        """Return all that the topic's window shows, lowest id first.

        Args:
            limit_bytes: memory that it may take; what takes more is not read (`Update.is_whole`).
        """
        head = self.heads()[topic]
        if (line := self.line(topic, head)) is not None:
            self.last_lines[topic] = line
        else:
            self.last_lines.pop(topic, None)
        entities: dict[int, Entity] = {}
        if limit_bytes is None:
            entities = self._fetch(topic, *self._window(TOPICS[topic]))
        else:
            keys = self.window(topic).keys
            for start in range(0, len(keys), KEYS_PER_READ):
                found = self.entities(topic, keys[start : start + KEYS_PER_READ])
                limit_bytes -= sum(sizes_of(found).values())
                if limit_bytes < 0:
                    return Update(topic, prev=0, offset=head, snapshot=True, is_whole=False)
                entities |= found
        return Update(topic, prev=0, offset=head, entities=entities, snapshot=True)

    def snapshot_size(self, topic: str) -> int:
        """Return how many entities a snapshot would hold."""
        where, parameters = self._window(TOPICS[topic])
        query = f"SELECT count(*) FROM (SELECT 1 FROM {TOPICS[topic].table} {where}) AS shown"
        (count,) = self._execute(query, parameters).fetchone()
        return int(count)

    def entities(self, topic: str, keys: Sequence[int]) -> dict[int, Entity]:
        """Return those of the entities that exist."""
        if len(keys) == 1:
            return self._fetch(topic, "WHERE id = ?", (keys[0],))
        if not keys:
            return {}
        condition, parameter = self._db.is_in("id", list(keys))
        return self._fetch(topic, f"WHERE {condition} ORDER BY id", (parameter,))

    def _fetch(self, topic: str, where: str, parameters: tuple[Any, ...]) -> dict[int, Entity]:
        rows = self._rows[topic]
        found = {
            row[0]: rows.entity(row, self._report)
            for row in self._db.select(f"SELECT {rows.select} FROM {rows.name} {where}", parameters)
        }
        if found:
            for nested, nested_rows in self._nested[topic]:
                self._attach(found, nested, nested_rows)
        if where.startswith("ORDER BY id DESC"):
            found = dict(reversed(found.items()))
        return found

    def _attach(self, parents: dict[int, Entity], nested: Nested, rows: _Rows) -> None:
        for parent in parents.values():
            parent[nested.field] = []
        condition, parameter = self._db.is_in(nested.parent_column, list(parents))
        query = f"SELECT {rows.select} FROM {rows.name} WHERE {condition} ORDER BY id"
        for row in self._db.select(query, (parameter,)):
            child = rows.entity(row, self._report)
            parents[child.pop(nested.parent_column)][nested.field].append(child)

    def _window(self, topic: Topic) -> tuple[str, tuple[Any, ...]]:
        window = topic.window
        if window is None:
            return "ORDER BY id", ()
        number = self._windows[window.setting] if window.setting else window.fixed
        if not window.recent_sql:
            return "ORDER BY id DESC LIMIT ?", (number,)
        now = time.time()
        # What lies further ahead was stored by a clock that was wrong: it would be shown for years.
        shown = times.to_text(now - 60 * number), times.to_text(now + AHEAD_S)
        return f"WHERE {window.open_sql} OR {window.recent_sql} ORDER BY id", shown * (window.recent_sql.count("?") // 2)

    def _report(self, table: str, id: int, column: str) -> None:
        if len(self.unreadable) < 100:
            self.unreadable.append((table, id, column))

    def overview(self) -> Entity:
        """Return the counts of the topic `status`; numbers that could grow without end stop at `MAX_COUNTED`."""
        execute = self._execute

        def by(query: str) -> Entity:
            return dict(execute(query).fetchall())

        def counted(query: str) -> int:
            return int(execute(f"SELECT count(*) FROM ({query} LIMIT {MAX_COUNTED}) AS counted").fetchone()[0])

        # Of the newest events only, so that no index is needed that every event would have to keep.
        newest = f"SELECT acknowledged_at FROM event ORDER BY id DESC LIMIT {MAX_COUNTED}"
        (unacknowledged,) = execute(f"SELECT count(*) FROM ({newest}) AS newest WHERE acknowledged_at IS NULL").fetchone()
        query = f"SELECT count(*) FROM (SELECT 1 FROM dead_letter WHERE state = 'PARKED' LIMIT {MAX_COUNTED}) AS parked"
        (dead_letters,) = execute(query).fetchone()
        is_open = "status IN ('PLACED', 'PREPARING', 'READY', 'SERVING')"
        return {
            "robots": {
                "by_status": by("SELECT status, count(*) FROM robot GROUP BY status"),
                "by_link": by("SELECT link, count(*) FROM robot GROUP BY link"),
            },
            "tables": {"by_status": by("SELECT status, count(*) FROM table_ GROUP BY status")},
            "orders": {
                "open": counted(f"SELECT 1 FROM order_ WHERE {is_open}"),
                "oldest_placed_at": self._db.time_text(
                    execute(f"SELECT min(timestamp) FROM order_ WHERE {is_open}").fetchone()[0]
                ),
            },
            "events": {"unacknowledged": unacknowledged},
            "stock": {
                "low": [
                    {"id": id, "name": name, "count": count, "status": status}
                    for id, name, count, status in execute(
                        "SELECT id, name, count, status FROM inventory WHERE status <> 'IN_STOCK' ORDER BY id LIMIT 100"
                    )
                ]
            },
            "dead_letters": dead_letters,
        }

    def lookups(self) -> Lookups:
        """Return what orders and stock reports are resolved by: the rows of tables that are no topics."""
        found: Lookups = {}
        for table in ("menu_item", "ingredient"):
            columns = ", ".join(column.name for column in self._db.columns(table))
            rows = self._execute(f"SELECT {columns} FROM {table} ORDER BY id LIMIT {MAX_LOOKED_UP}").fetchall()
            found[table] = [dict(zip(columns.split(", "), row, strict=True)) for row in rows]
        return found

    @contextlib.contextmanager
    def reading(self) -> Iterator["ChangeLog"]:
        """One read transaction: all reads inside see one state."""
        self._db.begin_reading()
        try:
            yield self
        finally:
            self._db.rollback()
