"""What Postgres alone does, with its own driver: what the server on Postgres is held against.

raw_postgres.py rows URL ROWS PER_COMMIT        rows per second into a table like `event`, one execute per row
raw_postgres.py write URL NUMBER SECONDS        commits per second of one foreign program that updates two tables
"""

import json
import random
import sys
import time

import psycopg
from raw_sqlite import FIRST_ID, TEXT


def rows(url: str, count: int, per_commit: int) -> float:
    """Insert rows into a new table; return how many per second."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS raw_event")
        connection.execute(
            "CREATE TABLE raw_event (id bigint PRIMARY KEY, type text, severity text, related_entity_type text,"
            " related_entity_id bigint, description text, data jsonb, timestamp timestamptz, acknowledged_at timestamptz,"
            " acknowledged_by text)"
        )
        insert = "INSERT INTO raw_event VALUES (%s, 'CALL', 'INFO', NULL, NULL, %s, NULL, now(), NULL, NULL)"
        began = time.perf_counter()
        for start in range(0, count, per_commit):
            connection.execute("BEGIN")
            for index in range(start, min(count, start + per_commit)):
                connection.execute(insert, (FIRST_ID + 4096 * index, TEXT))
            connection.execute("COMMIT")
        return count / (time.perf_counter() - began)


def write(url: str, number: int, seconds: float) -> float:
    """Update rows of our own in random order until the time is over; return commits per second."""
    rng = random.Random(number)
    commits = 0
    with psycopg.connect(url, autocommit=True) as connection:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            steps = [("robot", "battery_level"), ("table_", "customer_count")]
            rng.shuffle(steps)
            connection.execute("BEGIN")
            for table, column in steps:
                connection.execute(f"UPDATE {table} SET {column} = %s WHERE id = %s", (rng.randint(1, 99), number))
            connection.execute("COMMIT")
            commits += 1
        return commits / (time.perf_counter() - began)


def main() -> None:
    """Run one of both and print its figure."""
    kind, url, first, second = sys.argv[1:5]
    print(json.dumps(rows(url, int(first), int(second)) if kind == "rows" else write(url, int(first), float(second))))


if __name__ == "__main__":
    main()
