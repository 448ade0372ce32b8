"""What a step between two schema versions is."""

from typing import NamedTuple


class Migration(NamedTuple):
    """One step, in the words of each database; `@schema@` stands for Postgres' schema."""

    sqlite: tuple[str, ...]
    postgres: tuple[str, ...]
