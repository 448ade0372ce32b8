"""Columns and constraints as both databases know them."""

from enum import StrEnum
from typing import Any

from sqlalchemy import REAL as SHORT_REAL
from sqlalchemy import BigInteger, CheckConstraint, DateTime, Double, ForeignKey, Integer, Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine
from sqlmodel import Field

# Types that SQLite's STRICT tables know, and their Postgres twins. Times are ISO 8601 text with Z on SQLite: what a
# foreign `sqlite3` shows is what clients see.
TEXT = Text()
INTEGER: TypeEngine[Any] = BigInteger().with_variant(Integer(), "sqlite")
REAL: TypeEngine[Any] = Double().with_variant(SHORT_REAL(), "sqlite")
TIME: TypeEngine[Any] = DateTime(timezone=True).with_variant(Text(), "sqlite")
JSON: TypeEngine[Any] = postgresql.JSONB().with_variant(Text(), "sqlite")
BOOLEAN: TypeEngine[Any] = Integer()

MAX_NAME = 200
MAX_TEXT = 20000


def one_of(column: str, enum: type[StrEnum]) -> CheckConstraint:
    """Return the constraint that a column holds a member of `enum`."""
    # A chain of OR, not IN: SQLite builds a table of the words for each statement, which costs as much as the insert.
    words = " OR ".join(f"{column} = '{member.value}'" for member in enum)
    return CheckConstraint(words, name=f"{column}_is_known")


def within(column: str, low: float, high: float) -> CheckConstraint:
    """Return the constraint that a column lies in [low, high]."""
    return CheckConstraint(f"{column} BETWEEN {low} AND {high}", name=f"{column}_in_range")


def at_most(column: str, length: int) -> CheckConstraint:
    """Return the constraint that a text is at most `length` characters: one row must never fill a screen's memory."""
    return CheckConstraint(f"length({column}) <= {length}", name=f"{column}_length")


def is_time(column: str) -> Any:
    """Return the constraint that a SQLite text is UTC ISO 8601, as on the wire (Postgres has a type for it)."""
    pattern = "????-??-??T??:??:??*Z"
    return CheckConstraint(f"{column} GLOB '{pattern}'", name=f"{column}_is_utc").ddl_if(dialect="sqlite")


IS_EXACT = "id"
"""Among constraints: the id is one that JavaScript reads as it is."""


def table_args(*constraints: Any, **options: Any) -> Any:
    """Return `__table_args__` of a STRICT table with these constraints."""
    found = [within("id", 1, 2**53 - 1) if constraint is IS_EXACT else constraint for constraint in constraints]
    return (*found, {"sqlite_strict": True, **options})


def column(type_: Any, *, default: Any = None, references: str | None = None, cascade: bool = False, **options: Any) -> Any:
    """Return a SQLModel field of SQL type `type_`; `references` names `table.column`."""
    arguments: list[Any] = []
    if references:
        arguments.append(ForeignKey(references, ondelete="CASCADE" if cascade else "SET NULL"))
    return Field(default=default, sa_type=type_, sa_column_args=arguments, sa_column_kwargs=options)


def identity() -> Any:
    """Return the field of a primary key that the database gives."""
    return Field(default=None, sa_type=INTEGER, primary_key=True)


def given_identity() -> Any:
    """Return the field of a primary key that the server gives before storing (time-ordered, below 2^53)."""
    return Field(default=None, sa_type=INTEGER, primary_key=True, sa_column_kwargs={"info": {"given": True}})
