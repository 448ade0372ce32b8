"""Another program that writes to the database: `python foreign_writer.py URL SEED TRANSACTIONS [ISOLATION]`.

It touches several tables and rows in random orders, sleeps before its commit, rolls back 5 %, and prints one line of JSON
per committed transaction: what it left in each row. It uses the database's own driver and nothing of the server.
"""

import json
import random
import sqlite3
import sys
import time
from typing import Any

NOW = "2026-11-21T00:00:00.000000Z"


def main() -> None:
    """Write, and tell what was committed; errors end the program with a traceback."""
    url, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    isolation = sys.argv[4] if len(sys.argv) > 4 else "READ COMMITTED"
    rng = random.Random(seed)
    execute, begin, mark = connect(url, isolation)
    for number in range(count):
        # Of its own rows, so that what it says of them holds; in random order over all tables, so that locks cross.
        steps = [("robot", seed), ("table_", seed), ("inventory", seed), ("order_", seed * 1000 + number), ("shared", 0)]
        rng.shuffle(steps)
        execute(begin)
        left: dict[str, Any] = {}
        for table, key in steps[: rng.randint(2, 5)]:
            value = rng.randint(1, 90)
            if table == "robot":
                statement = f"UPDATE robot SET battery_level = {mark}, status = 'SERVING' WHERE id = {mark}"
            elif table == "table_":
                statement = f"UPDATE table_ SET customer_count = {mark}, status = 'OCCUPIED' WHERE id = {mark}"
            elif table == "inventory":
                statement = f"UPDATE inventory SET count = {mark} WHERE id = {mark}"
            elif table == "order_":
                statement = f"INSERT INTO order_(priority, id, timestamp) VALUES ({mark}, {mark}, '{NOW}')"
            else:  # everybody's: whose value stays is not known, that it is announced is
                execute(f"INSERT INTO system_log(message, timestamp) VALUES ({mark}, '{NOW}')", (f"{seed}-{number}",))
                left["log"] = f"{seed}-{number}"
                continue
            execute(statement, (value, key))
            left[f"{table}:{key}"] = value
            if rng.random() < 0.3:
                time.sleep(rng.uniform(0, 0.003))
        time.sleep(rng.uniform(0, 0.01))
        if rng.random() < 0.05:
            execute("ROLLBACK")
        else:
            execute("COMMIT")
            print(json.dumps(left))


def connect(url: str, isolation: str) -> tuple[Any, str, str]:
    """Return (execute, how to begin, how parameters are marked)."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=60, isolation_level=None)
        return connection.execute, "BEGIN IMMEDIATE", "?"
    import psycopg

    link = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
    return link.execute, f"BEGIN ISOLATION LEVEL {isolation}", "%s"


if __name__ == "__main__":
    main()
