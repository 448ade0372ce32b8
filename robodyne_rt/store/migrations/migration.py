"""What a step between two schema versions is made of; `runner.py` carries it out.

A step is written once where the words of both databases agree. What SQLite cannot change in place (a constraint) makes the
runner rebuild the table; Postgres alters it.
"""

from typing import Literal, NamedTuple

MAX_ID = 2**53 - 1
"""The largest id that JavaScript reads as it is."""

Type = Literal["integer", "boolean", "real", "text", "time"]


class Statement(NamedTuple):
    """Plain SQL, per database; an empty text does nothing there."""

    sqlite: str
    postgres: str


class AddColumn(NamedTuple):
    """A new column, behind the others; a time is checked as all times are.

    Attributes:
        default: as SQL; such a column is never null.
        check: condition of a constraint named `check_name`.
    """

    table: str
    name: str
    type: Type
    default: str = ""
    check_name: str = ""
    check: str = ""


class AddCheck(NamedTuple):
    """A new constraint of a table; the rows that are there fulfil it already."""

    table: str
    name: str
    condition: str


class RenumberRows(NamedTuple):
    """Rows whose id lies outside [1, 2^53 - 1] get the next free ones, and what refers to them follows.

    Attributes:
        references: (table, column) that refer to it.
    """

    table: str
    references: tuple[tuple[str, str], ...] = ()


Step = Statement | AddColumn | AddCheck | RenumberRows


class Migration(NamedTuple):
    """What leads from the version before to this one."""

    version: int
    steps: tuple[Step, ...]


def both(sql: str) -> Statement:
    """Return a statement that both databases understand."""
    return Statement(sql, sql)
