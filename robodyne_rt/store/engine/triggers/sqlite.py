"""SQLite triggers that write the change log, generated from models and registry (SPEC section 6, "Change log"); see schema.py.

Whoever writes, however it is written, the row and its line in `change` live or die together. Writers come one
at a time, so the trigger takes the topic's next offset itself. Names start with `zz_` so that they run last.

What is not obvious:
- `REPLACE` removes the row that holds a UNIQUE value without firing delete triggers; a BEFORE trigger notes that row as
  `replaced` (an upsert that ends as an update fires it too; the reader sees that the row still exists and says nothing).
- Values are compared by `IS NOT` under BINARY collation and by type, so that 5 and 5.0, or `a` and `A`, are different.
- `foreign_keys` is off in foreign connections, so children are deleted by trigger as well as by reference.
- They write nothing while `topic_head.is_silent` is set. Only the server sets it, and takes it back in the same transaction.
- A row whose id the server gives may have none that lies far above its own series: what comes after it would count as older.
  That is judged where the head is read anyway, and costs next to nothing.
"""

from collections.abc import Iterator

from sqlalchemy import Table as SqlTable
from sqlalchemy import UniqueConstraint

from robodyne_rt.model import entities
from robodyne_rt.model.topics import QUIET_COLUMNS, TOPICS, Joined, Nested, Rows, Topic
from robodyne_rt.store.engine.schema import MAX_ID_LEAP, TRIGGER_PREFIX

_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


def statements() -> dict[str, str]:
    """Return the trigger of each name as SQL."""
    found: dict[str, str] = {}
    for topic in TOPICS.values():
        found.update(_of_topic(topic))
        for nested in topic.nested:
            found.update(_of_nested(topic, nested))
        for joined in topic.joined:
            found.update(_of_joined(topic, joined))
    return found


def _of_topic(topic: Topic) -> Iterator[tuple[str, str]]:
    table = topic.table
    own_line = _log(topic, _guarded(table, "NEW.id"), "upsert")
    yield _trigger(table, "insert", f"AFTER INSERT ON {table}", own_line, *_borrowers(table, "NEW"))
    yield _trigger(
        table,
        "update",
        f"AFTER UPDATE ON {table} WHEN {_really_changed(loud_columns(topic))}",
        _log(topic, _guarded(table, "NEW.id", is_update=True), "upsert"),
    )
    yield _trigger(table, "rekey", f"AFTER UPDATE OF id ON {table} WHEN OLD.id IS NOT NEW.id", _log(topic, "OLD.id", "delete"))
    children = [f"DELETE FROM {nested.rows.table} WHERE {nested.parent_column} = OLD.id;" for nested in topic.nested]
    own_line = _log(topic, "OLD.id", "delete")
    yield _trigger(table, "delete", f"AFTER DELETE ON {table}", *children, own_line, *_borrowers(table, "OLD"))
    for column in _unique_columns(topic):
        victim = f"(SELECT id FROM {table} WHERE {column} = NEW.{column} AND id IS NOT NEW.id)"
        for verb, when in (("insert", "BEFORE INSERT"), ("update", f"BEFORE UPDATE OF {column}")):
            same = "" if verb == "insert" else f" AND OLD.{column} IS NOT NEW.{column}"
            yield _trigger(
                table,
                f"replace_{column}_{verb}",
                f"{when} ON {table} WHEN EXISTS {victim}{same}",
                _log(topic, victim, "replaced"),
            )


def _of_nested(topic: Topic, nested: Nested) -> Iterator[tuple[str, str]]:
    table, parent = nested.rows.table, nested.parent_column
    columns = [column.name for column in sql_table(nested.rows).columns]
    # An item whose parent is going or gone announces nothing: the parent's own delete does.
    new_parent = f"EXISTS (SELECT 1 FROM {topic.table} WHERE id = NEW.{parent})"
    old_parent = f"EXISTS (SELECT 1 FROM {topic.table} WHERE id = OLD.{parent})"
    new_key = _guarded(table, f"NEW.{parent}")
    yield _trigger(table, "insert", f"AFTER INSERT ON {table} WHEN {new_parent}", _log(topic, new_key, "upsert"))
    yield _trigger(
        table,
        "update",
        f"AFTER UPDATE ON {table} WHEN {new_parent} AND ({_really_changed(columns)})",
        _log(topic, _guarded(table, f"NEW.{parent}", is_update=True), "upsert"),
    )
    yield _trigger(
        table,
        "move",
        f"AFTER UPDATE OF {parent} ON {table} WHEN OLD.{parent} IS NOT NEW.{parent} AND {old_parent}",
        _log(topic, f"OLD.{parent}", "upsert"),
    )
    yield _trigger(table, "delete", f"AFTER DELETE ON {table} WHEN {old_parent}", _log(topic, f"OLD.{parent}", "upsert"))
    # REPLACE of an item by its id, away from another order, deletes without a delete trigger.
    victim = f"EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id AND {parent} IS NOT NEW.{parent})"
    victims_parent = f"(SELECT {parent} FROM {table} WHERE id = NEW.id)"
    yield _trigger(table, "replace_id", f"BEFORE INSERT ON {table} WHEN {victim}", _log(topic, victims_parent, "upsert"))
    yield _trigger(
        table,
        "replace_id_update",
        f"BEFORE UPDATE OF id ON {table} WHEN NEW.id IS NOT OLD.id AND {victim}",
        _log(topic, victims_parent, "upsert"),
    )


def _of_joined(topic: Topic, joined: Joined) -> Iterator[tuple[str, str]]:
    """Announce all of a topic where a value that it borrows changes: hardly ever, and nobody knows how many rows show it."""
    table, column = joined.table, joined.column
    head = f"AFTER UPDATE OF {column} ON {table} WHEN OLD.{column} IS NOT NEW.{column}"
    yield _trigger(table, f"{topic.name}_update", head, _log(topic, "0", "truncate"))


def _borrowers(table: str, row: str) -> Iterator[str]:
    """Announce what borrows from a row that comes or goes: where a connection enforces no references, rows may refer to what is
    gone, or is not there yet."""
    for topic in TOPICS.values():
        for joined in topic.joined:
            if joined.table == table and topic.window is not None:
                is_shown = f"SELECT 1 FROM {topic.table} WHERE {joined.key} = {row}.id AND {topic.window.open_sql}"
                yield _log(topic, "0", "truncate", when=f"EXISTS ({is_shown})")


def _trigger(table: str, what: str, head: str, *body: str) -> tuple[str, str]:
    name = f"{TRIGGER_PREFIX}{table}_{what}"
    return name, f'CREATE TRIGGER "{name}" {head} BEGIN {" ".join(body)} END'


def _log(topic: Topic, key: str, op: str, *, when: str = "") -> str:
    head = f"topic = '{topic.name}' AND NOT is_silent" + (f" AND {when}" if when else "")
    return (
        # The line first: `key` may ask a table for a row that is about to go.
        f'INSERT INTO change(topic, "offset", key, op, at) '
        f"SELECT '{topic.name}', \"offset\" + 1, {key}, '{op}', {_NOW} FROM topic_head WHERE {head}; "
        f'UPDATE topic_head SET "offset" = "offset" + 1 WHERE {head};'
    )


def _guarded(table: str, key: str, *, is_update: bool = False) -> str:
    """Return `key`, or the refusal of a row whose id lies too far above those that are given."""
    if not given_ids(table):
        return key
    far = f"NEW.id > next_id + {MAX_ID_LEAP}"
    newest = f"coalesce((SELECT max(id) FROM {table} WHERE id < NEW.id), 0)"
    farther = f"NEW.id > {f'max({newest}, OLD.id)' if is_update else newest} + {MAX_ID_LEAP}"
    is_new = " AND NEW.id IS NOT OLD.id" if is_update else ""
    text = f"{table}.id is too far above the newest one: leave it out, and one is given"
    return f"CASE WHEN {far}{is_new} AND {farther} THEN RAISE(ABORT, '{text}') ELSE {key} END"


def _really_changed(columns: list[str]) -> str:
    return " OR ".join(
        f'OLD."{name}" IS NOT NEW."{name}" COLLATE BINARY OR typeof(OLD."{name}") <> typeof(NEW."{name}")' for name in columns
    )


def loud_columns(topic: Topic) -> list[str]:
    """Return the columns whose change is announced."""
    return [column.name for column in sql_table(topic.rows).columns if column.name not in QUIET_COLUMNS]


def given_ids(table: str) -> bool:
    """Return whether the server gives the ids of a table's rows."""
    return bool(entities.Robot.metadata.tables[table].columns["id"].info.get("given"))


def _unique_columns(topic: Topic) -> list[str]:
    table = sql_table(topic.rows)
    names = [column.name for column in table.columns if column.unique]
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint) and len(constraint.columns) == 1:
            names.extend(column.name for column in constraint.columns)
    return sorted(set(names))


def sql_table(rows: Rows) -> SqlTable:
    """Return the model's table."""
    return entities.Robot.metadata.tables[rows.table]
