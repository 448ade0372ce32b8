"""Postgres triggers and functions of the change log, generated from models and registry; see schema.py and postgres.py.

Triggers only note (topic, key, op) in `inbox`, without a lock, so that foreign writers of any isolation level neither wait
nor fail because of the log; the server assigns their offsets (`engine/postgres.py`): it moves what is committed into
`change` with the next ones. What commits late gets them late, so no reader can skip it (SPEC section 6).

What is not obvious:
- Rows are compared by their stored bytes: 5 and 5.0 in a JSON value are different. By the function behind the operator `*<>`,
  because pg_dump prints that one without the casts that it cannot be restored without.
- Functions run with their owner's rights and a fixed search path: a foreign role needs rights on the entity tables only.
- Triggers are "enable always", so that `session_replication_role = replica` does not silence them.
- A TRUNCATE is noted as one line for the whole topic; readers answer it with a snapshot.
- `key` 0 with op `truncate` names no row. `native` tells a row's own note from one on behalf of a nested row, so that an
  order's delete wins over the notes of its items.
"""

from collections.abc import Iterator

from robodyne_rt.model.topics import TOPICS, Joined, Nested, Topic
from robodyne_rt.store.engine.schema import MAX_ID_LEAP, SCHEMA, TRIGGER_PREFIX
from robodyne_rt.store.engine.triggers.sqlite import given_ids, loud_columns, sql_table

INBOX = f"""CREATE TABLE {SCHEMA}.inbox (
	id BIGINT GENERATED ALWAYS AS IDENTITY,
	xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
	at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
	topic TEXT NOT NULL,
	"key" BIGINT NOT NULL,
	op TEXT NOT NULL,
	native BOOLEAN NOT NULL
)
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_insert_scale_factor = 0,
	autovacuum_vacuum_insert_threshold = 2000, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off)"""

_IS_ON = "current_setting('robodyne.silent', true) IS DISTINCT FROM 'on'"
"""The server sets it inside one transaction, for what no screen needs to hear (retention)."""

NEW_ID = f"""CREATE OR REPLACE FUNCTION {SCHEMA}.zz_new_id() RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS
$$ SELECT (((extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1704067200000) << 12)
	| (31 << 7) | (nextval('{SCHEMA}.zz_new_id_sequence') & 127) $$"""
"""The id of an event, order or log line that a foreign program inserts without one: as core/ids.py makes them, of the
last node, which is the database itself."""


def functions() -> list[str]:
    """Return the trigger functions."""
    found = [
        _function("zz_note_new", _note("TG_ARGV[0]", "NEW.id", "upsert")),
        _function("zz_note_old", _note("TG_ARGV[0]", "OLD.id", "delete")),
        _function("zz_note_all", _note("TG_ARGV[0]", "0", "truncate")),
        _function("zz_ring", f"PERFORM pg_notify('{SCHEMA}.change', '');"),
        _guard(),
    ]
    for topic in TOPICS.values():
        for nested in topic.nested:
            name, parent = nested.rows.table, nested.parent_column
            found.append(_function(f"zz_note_{name}_new", _note("TG_ARGV[0]", f"NEW.{parent}", "upsert", native=False)))
            found.append(_function(f"zz_note_{name}_old", _note("TG_ARGV[0]", f"OLD.{parent}", "upsert", native=False)))
    return found


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
    table, row = topic.table, "FOR EACH ROW"
    yield _trigger(table, "insert", f"AFTER INSERT ON {{}} {row}", "zz_note_new", topic)
    yield _trigger(table, "update", f"AFTER UPDATE ON {{}} {row} WHEN ({_differ(loud_columns(topic))})", "zz_note_new", topic)
    yield _trigger(table, "rekey", f"AFTER UPDATE ON {{}} {row} WHEN (OLD.id <> NEW.id)", "zz_note_old", topic)
    yield _trigger(table, "delete", f"AFTER DELETE ON {{}} {row}", "zz_note_old", topic)
    yield _trigger(table, "truncate", "AFTER TRUNCATE ON {} FOR EACH STATEMENT", "zz_note_all", topic)
    yield _notify_writer(table, topic)
    yield from _guard_ids(table, topic)


def _of_nested(topic: Topic, nested: Nested) -> Iterator[tuple[str, str]]:
    table, parent, row = nested.rows.table, nested.parent_column, "FOR EACH ROW"
    columns = [column.name for column in sql_table(nested.rows).columns]
    new, old = f"zz_note_{table}_new", f"zz_note_{table}_old"
    yield _trigger(table, "insert", f"AFTER INSERT ON {{}} {row}", new, topic)
    yield _trigger(table, "update", f"AFTER UPDATE ON {{}} {row} WHEN ({_differ(columns)})", new, topic)
    yield _trigger(table, "move", f"AFTER UPDATE ON {{}} {row} WHEN (OLD.{parent} <> NEW.{parent})", old, topic)
    yield _trigger(table, "delete", f"AFTER DELETE ON {{}} {row}", old, topic)
    yield _trigger(table, "truncate", "AFTER TRUNCATE ON {} FOR EACH STATEMENT", "zz_note_all", topic)
    yield _notify_writer(table, topic)
    yield from _guard_ids(table, topic)


def _of_joined(topic: Topic, joined: Joined) -> Iterator[tuple[str, str]]:
    """Announce all of a topic where a value that it borrows changes: hardly ever, and nobody knows how many rows show it."""
    differs = f"OLD.{joined.column} IS DISTINCT FROM NEW.{joined.column}"
    head = f"AFTER UPDATE ON {{}} FOR EACH ROW WHEN ({differs})"
    yield _trigger(joined.table, f"{topic.name}_update", head, "zz_note_all", topic)


def _guard_ids(table: str, topic: Topic) -> Iterator[tuple[str, str]]:
    """Refuse ids that lie too far above those that are given: what comes after them would count as older."""
    if given_ids(table):
        yield _trigger(table, "guard", "BEFORE INSERT OR UPDATE OF id ON {} FOR EACH ROW", "zz_guard_id", topic)


def _guard() -> str:
    farther = "EXECUTE format('SELECT coalesce(max(id), 0) FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME) INTO newest;"
    return (
        f"CREATE OR REPLACE FUNCTION {SCHEMA}.zz_guard_id() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n"
        "SET search_path = pg_catalog, pg_temp AS $$ DECLARE next bigint; newest bigint; BEGIN\n"
        f"IF NEW.id <= {MAX_ID_LEAP} THEN RETURN NEW; END IF;\n"
        f"SELECT next_id INTO next FROM {SCHEMA}.topic_head WHERE topic = TG_ARGV[0];\n"
        f"IF next IS NULL OR NEW.id <= next + {MAX_ID_LEAP} THEN RETURN NEW; END IF;\n"
        f"{farther}\n"
        f"IF NEW.id <= newest + {MAX_ID_LEAP} THEN RETURN NEW; END IF;\n"
        "RAISE check_violation USING MESSAGE = format('%s.id is too far above the newest one: leave it out, and one is given', "
        "TG_TABLE_NAME); END $$"
    )


def _notify_writer(table: str, topic: Topic) -> tuple[str, str]:
    # The server itself does not need the notification: it assigns the offsets of what it writes.
    when = "WHEN (current_setting('robodyne.quiet', true) IS DISTINCT FROM 'on')"
    head = f"AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {{}} FOR EACH STATEMENT {when}"
    return _trigger(table, "ring", head, "zz_ring", topic)


def _trigger(table: str, what: str, head: str, function: str, topic: Topic) -> tuple[str, str]:
    name = f"{TRIGGER_PREFIX}{table}_{what}"
    if function.startswith("zz_note") and "EACH ROW" in head:
        event, _, when = head.partition(" WHEN ")
        head = f"{event} WHEN ({_IS_ON}{f' AND {when}' if when else ''})"
    on = head.format(f"{SCHEMA}.{table}")
    return name, f"CREATE TRIGGER \"{name}\" {on} EXECUTE FUNCTION {SCHEMA}.{function}('{topic.name}')"


def _function(name: str, body: str) -> str:
    return (
        f"CREATE OR REPLACE FUNCTION {SCHEMA}.{name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n"
        f"SET search_path = pg_catalog, pg_temp AS $$ BEGIN {body} RETURN NULL; END $$"
    )


def _note(topic: str, key: str, op: str, *, native: bool = True) -> str:
    return f"INSERT INTO {SCHEMA}.inbox(topic, key, op, native) VALUES ({topic}, {key}, '{op}', {str(native).lower()});"


def _differ(columns: list[str]) -> str:
    old = ", ".join(f'OLD."{name}"' for name in columns)
    new = ", ".join(f'NEW."{name}"' for name in columns)
    return f"record_image_ne(ROW({old}), ROW({new}))"
