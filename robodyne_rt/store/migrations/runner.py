"""Carries out the steps of migrations, inside the caller's transaction (SPEC section 6, "Schema").

On SQLite a table whose constraints change is rebuilt by its book: a new table, the rows, the old one dropped, the new one
renamed, with foreign keys off since before the transaction and without triggers; columns, indexes, triggers and views that
others added stay. Afterwards no reference may lead nowhere that led somewhere before.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from robodyne_rt.store.errors import StorageBroken
from robodyne_rt.store.migrations.migration import (
    MAX_ID,
    AddCheck,
    AddColumn,
    Migration,
    RenumberRows,
    Statement,
    Step,
)

logger = logging.getLogger(__name__)

_TYPES = {
    "sqlite": {"integer": "INTEGER", "boolean": "INTEGER", "real": "REAL", "text": "TEXT", "time": "TEXT"},
    "postgres": {
        "integer": "BIGINT",
        "boolean": "INTEGER",
        "real": "DOUBLE PRECISION",
        "text": "TEXT",
        "time": "TIMESTAMP WITH TIME ZONE",
    },
}

_CREATED = re.compile(r'^CREATE\s+TABLE\s+("(?:[^"]|"")+"|\[[^\]]+\]|`[^`]+`|\w+)', re.IGNORECASE)
"""The head of a table's text, however whoever made it quoted its name."""


class Runner:
    """The steps in the words of one database.

    Args:
        execute: runs one statement with `?` for parameters and returns a cursor, in a transaction of the caller's.
    """

    kind: str

    def __init__(self, execute: Callable[..., Any]) -> None:
        self._execute = execute

    def run(self, migrations: Iterable[Migration]) -> None:
        """Carry out migrations, oldest first.

        Raises:
            StorageBroken: what is there does not fit; the transaction is to be rolled back.
        """
        for migration in migrations:
            logger.info("migrating to schema version %d", migration.version, extra={"action": "database_migrated"})
            self._migrate(migration.steps)

    def _migrate(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._do(step)

    def _do(self, step: Step) -> None:
        match step:
            case Statement():
                if sql := getattr(step, self.kind):
                    self._execute(sql)
            case AddColumn():
                self._add_column(step)
            case AddCheck():
                self._add_checks(step.table, [step])
            case RenumberRows():
                if self._has_row_outside(step.table):
                    self._renumber(step)

    def _add_column(self, step: AddColumn) -> None:
        if step.name in self._columns(step.table):
            return
        definition = f"{step.name} {_TYPES[self.kind][step.type]}"
        if step.default:
            definition += f" DEFAULT '{step.default}' NOT NULL"
        if step.type == "time" and self.kind == "sqlite":
            definition += f" CONSTRAINT {step.name}_is_utc CHECK ({step.name} GLOB '????-??-??T??:??:??*Z')"
        if step.check:
            definition += f" CONSTRAINT {step.check_name} CHECK ({step.check})"
        self._execute(f"ALTER TABLE {step.table} ADD COLUMN {definition}")

    def _has_row_outside(self, table: str) -> bool:
        query = f"SELECT 1 FROM {table} WHERE id NOT BETWEEN 1 AND {MAX_ID} LIMIT 1"
        return self._execute(query).fetchone() is not None

    def _renumber(self, step: RenumberRows) -> None:
        renumbered = (
            f"(SELECT id AS old, row_number() OVER (ORDER BY id) + (SELECT coalesce(max(id), 0) FROM {step.table}"
            f" WHERE id BETWEEN 1 AND {MAX_ID}) AS new FROM {step.table} WHERE id NOT BETWEEN 1 AND {MAX_ID})"
            " AS renumbered"
        )
        for table, column in step.references:
            self._execute(f"UPDATE {table} SET {column} = new FROM {renumbered} WHERE {column} = old")
        self._execute(f"UPDATE {step.table} SET id = new FROM {renumbered} WHERE {step.table}.id = old")

    def _columns(self, table: str) -> list[str]:
        raise NotImplementedError

    def _add_checks(self, table: str, checks: Sequence[AddCheck]) -> None:
        raise NotImplementedError


class PostgresRunner(Runner):
    """Alters tables in place."""

    kind = "postgres"

    def _columns(self, table: str) -> list[str]:
        rows = self._execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped", (table,)
        )
        return [name for (name,) in rows.fetchall()]

    def _add_checks(self, table: str, checks: Sequence[AddCheck]) -> None:
        for check in checks:
            self._execute(f"ALTER TABLE {table} ADD CONSTRAINT {check.name} CHECK ({check.condition})")

    def _renumber(self, step: RenumberRows) -> None:
        keys = self._execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass(?)",
            (step.table,),
        ).fetchall()
        for table, name in keys:
            self._execute(f'ALTER TABLE {table} ALTER CONSTRAINT "{name}" DEFERRABLE')
        self._execute("SET CONSTRAINTS ALL DEFERRED")
        super()._renumber(step)
        self._execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table, name in keys:
            self._execute(f'ALTER TABLE {table} ALTER CONSTRAINT "{name}" NOT DEFERRABLE')


class SqliteRunner(Runner):
    """Rebuilds tables. `foreign_keys` is off and `legacy_alter_table` on, since before the transaction."""

    kind = "sqlite"

    def run(self, migrations: Iterable[Migration]) -> None:
        triggers = self._execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            self._execute(f"DROP TRIGGER {_quoted(name)}")
        broken = self._broken_references()
        super().run(migrations)
        if found := self._broken_references() - broken:
            raise StorageBroken(f"the migration would leave references that lead nowhere: {sorted(found)[:5]}")
        for _, sql in triggers:
            self._execute(sql)  # ours are made anew afterwards, those of others stay as they are

    def _broken_references(self) -> set[tuple[str, int, str]]:
        rows = self._execute("PRAGMA foreign_key_check").fetchall()
        return {(table, rowid, parent) for table, rowid, parent, _ in rows}

    def _migrate(self, steps: Sequence[Step]) -> None:
        """Carry out the steps; a table gets all its new constraints in one rebuild, after everything else."""
        checks: dict[str, list[AddCheck]] = {}
        for step in steps:
            if isinstance(step, AddCheck):
                checks.setdefault(step.table, []).append(step)
            else:
                self._do(step)
        for table, found in checks.items():
            self._add_checks(table, found)

    def _columns(self, table: str) -> list[str]:
        return [row[1] for row in self._execute(f"PRAGMA table_xinfo({table})").fetchall()]

    def _add_checks(self, table: str, checks: Sequence[AddCheck]) -> None:
        execute = self._execute
        (sql,) = execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (table,)).fetchone()
        constraints = "".join(f", CONSTRAINT {check.name} CHECK ({check.condition})" for check in checks)
        head, options = sql[: sql.rindex(")")], sql[sql.rindex(")") :]
        named = _CREATED.sub(f"CREATE TABLE {table}_rebuilt", head, count=1)
        indexes = execute(
            "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? COLLATE NOCASE AND sql IS NOT NULL", (table,)
        ).fetchall()
        columns = ", ".join(_quoted(row[1]) for row in execute(f"PRAGMA table_xinfo({table})").fetchall() if row[6] == 0)
        execute(f"{named.rstrip()}{constraints}\n{options}")
        execute(f"INSERT INTO {table}_rebuilt ({columns}) SELECT {columns} FROM {table}")
        counts = [execute(f"SELECT count(*) FROM {name}").fetchone() for name in (table, f"{table}_rebuilt")]
        if counts[0] != counts[1]:
            raise StorageBroken(f"{counts[0][0]} rows of {table} became {counts[1][0]}")
        execute(f"DROP TABLE {table}")
        execute(f"ALTER TABLE {table}_rebuilt RENAME TO {table}")
        for (index,) in indexes:
            execute(index)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
