"""Python's sqlite3 inserting rows like those of the table `event`, and nothing else: what ingest is held against.

    raw_sqlite.py FOLDER ROWS PER_COMMIT

WAL, synchronous=FULL, no triggers, no index, no checks. Prints rows per second: one `execute` per row, and `executemany`.
"""

import json
import sqlite3
import sys
import time
from pathlib import Path

COLUMNS = (
    "id INTEGER PRIMARY KEY",
    "type TEXT",
    "severity TEXT",
    "related_entity_type TEXT",
    "related_entity_id INTEGER",
    "description TEXT",
    "data TEXT",
    "timestamp TEXT",
    "acknowledged_at TEXT",
    "acknowledged_by TEXT",
)
INSERT = f"INSERT INTO event VALUES ({', '.join('?' * len(COLUMNS))})"
TEXT = "bench-12-3456"
FIRST_ID = 374_000_000_000_000

Row = tuple[int, str, str, None, None, str, None, str, None, None]


def rows_per_s(path: Path, rows: list[Row], per_commit: int, *, many: bool) -> float:
    """Insert `rows` into a new file, `per_commit` in each transaction; return how many that is per second."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"CREATE TABLE event ({', '.join(COLUMNS)})")
        execute = connection.execute
        began = time.perf_counter()
        for start in range(0, len(rows), per_commit):
            batch = rows[start : start + per_commit]
            execute("BEGIN IMMEDIATE")
            if many:
                connection.executemany(INSERT, batch)
            else:
                for row in batch:
                    execute(INSERT, row)
            execute("COMMIT")
        return len(rows) / (time.perf_counter() - began)
    finally:
        connection.close()


def main() -> None:
    """Run both ways and print them as JSON."""
    folder, count, per_commit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    at = "2026-01-01T12:00:00.000000Z"
    rows: list[Row] = [
        (FIRST_ID + 4096 * index, "CALL", "INFO", None, None, TEXT, None, at, None, None) for index in range(count)
    ]
    result = {
        name: rows_per_s(folder / f"{name}.db", rows, per_commit, many=name == "executemany")
        for name in ("execute", "executemany")
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
