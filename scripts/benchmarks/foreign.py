"""Another program that writes to the server's database, with the database's own driver, until it is ended.

foreign.py bulk URL TABLE       changes 5000 rows of `order_` or `robot` in one transaction, once a second
foreign.py lock URL SECONDS     holds the lock of a SQLite file for so long, once a second
"""

import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

CHANGES = {
    "order_": "UPDATE order_ SET note = 'bulk {}' WHERE id <= 5000",
    "robot": "UPDATE robot SET battery_level = {} % 100 WHERE id <= 5000",
}


def connect(url: str) -> Any:
    """Return a connection in autocommit mode."""
    if url.startswith("sqlite:///"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=20)
    import psycopg

    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def every_second(act: Callable[[int], None]) -> None:
    """Act once a second for ever; the first time is told."""
    due, number = time.monotonic(), 0
    while True:
        act(number)
        if number == 0:
            print("begun", flush=True)
        number += 1
        due = max(due + 1, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    """Do one of both."""
    kind, url, argument = sys.argv[1:4]
    connection = connect(url)

    def bulk(number: int) -> None:
        connection.execute(CHANGES[argument].format(number))

    def lock(number: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(float(argument))
        connection.execute("COMMIT")

    every_second(bulk if kind == "bulk" else lock)


if __name__ == "__main__":
    main()
