"""Make a fixture of an earlier schema version with its own code: a dump of a database that holds a bit of everything.

    python -m tests.schema.make_fixture CHECKOUT NAME sqlite|postgres

CHECKOUT is a folder with the program at a commit of that version (see `fixtures/README.md`). Its server is started and told
what devices say; what none of them says is added as SQL.
"""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from robodyne_rt.sim.cluster import Cluster

FIXTURES = Path(__file__).parent / "fixtures"

SEEDS = (
    "INSERT INTO menu_item(id, name, name_en, price, station)"
    " VALUES (1, '김밥', 'gimbap', 4000, 'cold'), (2, '라면', 'ramyeon', 4500, 'hot')",
    "INSERT INTO ingredient(id, name, name_en) VALUES (1, '김', 'seaweed'), (2, '쌀', 'rice')",
    "INSERT INTO menu_item_ingredient(menu_item_id, ingredient_id, quantity) VALUES (1, 1, 1.5), (1, 2, 0.25)",
    "INSERT INTO inventory(id, ingredient_id, name, count, threshold) VALUES (1, 1, '김', 3, 10), (2, 2, '쌀', 500, 10)",
    "INSERT INTO video_stream(id, name, source_type, url) VALUES (1, 'hall', 'GLOBAL_CAM', 'rtsp://cam/1')",
    "INSERT INTO customer(id, count, arrived_at) VALUES (1, 4, '2026-11-20T18:00:00Z')",
)
PEOPLE = (
    "INSERT INTO user_(id, name, roles, password_hash, created_at)"
    " VALUES (1, '지민', '[\"admin\"]', '$argon2id$x', '2026-11-20T18:00:00Z')",
    "INSERT INTO token(id, kind, user_name, roles, label, created_at, expires_at)"
    " VALUES (11, 'DISPLAY', '지민', '[\"display\"]', 'wall', '2026-11-20T18:00:00Z', '2036-11-20T18:00:00Z')",
    "INSERT INTO device(id, device_id, robots, key_id, created_at)"
    " VALUES (1, 'kiosk-1', '[\"alba-1\"]', 'k1', '2026-11-20T18:00:00Z')",
    "INSERT INTO session(id, token_digest, user_name, created_at, last_seen)"
    " VALUES ('s1', 'd1', '지민', '2026-11-20T18:00:00Z', '2026-11-20T19:00:00Z')",
    "INSERT INTO staff_message(id, sender, recipient, message, timestamp)"
    " VALUES (21, '지민', 'role:kitchen', '안녕', '2026-11-20T18:00:00Z')",
    "INSERT INTO staff_message_receipt(message_id, user_name, read_at) VALUES (21, '민수', '2026-11-20T18:05:00Z')",
)
LETTERS = (
    "INSERT INTO dead_letter(id, kind, device, message_id, payload, error, attempts, first_at, last_at)"
    " VALUES (31, 'message', 'kiosk-1', 'm9', '{}', 'CHECK failed', 3, '2026-11-20T18:00:00Z', '2026-11-20T18:00:01Z')",
)
SAID = (
    {"msg_type": "Hello", "device_id": "kiosk-1"},
    {"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING", "battery_level": 71.5, "x": 1.5, "y": 2.25, "yaw": 0.5},
    {"msg_type": "Table", "table_number": 3, "status": "OCCUPIED", "customer_count": 2, "id": "t1"},
    {"msg_type": "Event", "type": "CALL", "table_number": 3, "description": "물 주세요", "data": {"n": [1, 2.5]}, "id": "e1"},
    {
        "msg_type": "Order",
        "table_number": 3,
        "items": [{"menu_item_id": 1, "quantity": 2}, {"name": "라면", "quantity": 1}],
        "id": "o1",
    },
    {
        "msg_type": "Order",
        "table_number": 4,
        "items": [{"menu_item_id": 2, "quantity": 1, "options": {"매운": True}}],
        "id": "o2",
    },
    {"msg_type": "Log", "level": "WARNING", "message": "바퀴", "data": {"wheel": 2}, "id": "l1"},
    {"msg_type": "Chatbot", "msg_id": "q1", "robot_id": "alba-1", "question": "화장실?", "response": "왼쪽", "id": "c1"},
)


def make(checkout: Path, name: str, kind: str) -> None:
    """Write `fixtures/NAME.KIND.sql`."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        if kind == "sqlite":
            url = f"sqlite:///{folder / 'robodyne.db'}"
            _fill(checkout, folder, url)
            link = sqlite3.connect(folder / "robodyne.db")
            version = _seed(link.execute)
            link.commit()
            dump = "\n".join(link.iterdump()) + "\n"
            link.close()
        else:
            with Cluster(folder / "cluster") as cluster:
                _fill(checkout, folder, cluster.url)
                with psycopg.connect(cluster.libpq_url, autocommit=True) as connection:
                    version = _seed(connection.execute)
                dump = _pg_dump(cluster)
        FIXTURES.mkdir(exist_ok=True)
        (FIXTURES / f"{name}.{kind}.sql").write_text(dump, encoding="utf-8")
        print(f"{name}.{kind}.sql: schema version {version}, {len(dump)} bytes")


def _fill(checkout: Path, folder: Path, url: str) -> None:
    """Start the server twice: what devices say needs the menu, which is seeded between."""
    for seeds in (True, False):
        environment = os.environ | {
            "PYTHONPATH": str(checkout),
            "ROBODYNE_RT__DATABASE__URL": url,
            "ROBODYNE_RT__DATABASE__SPOOL_PATH": str(folder / "spool.db"),
            "ROBODYNE_RT__SERVER__HOST": "127.0.0.1",
            "ROBODYNE_RT__SERVER__PORT": "0",
            "ROBODYNE_RT__DEVICES__HOST": "127.0.0.1",
            "ROBODYNE_RT__DEVICES__PORT": "0",
            "ROBODYNE_RT__AUTH__MODE": "off",
            "ROBODYNE_RT__LOG__FORMAT": "json",
        }
        if not (checkout / "robodyne_rt/store/spool.py").exists() and not (checkout / "robodyne_rt/store/intake").exists():
            del environment["ROBODYNE_RT__DATABASE__SPOOL_PATH"]
        log = folder / "log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "robodyne_rt", "serve"], cwd=folder, env=environment, stdout=out, stderr=out
            )
        try:
            port = _port(log)
            if not seeds:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as sock, sock.makefile("rb") as lines:
                    for message in SAID:
                        sock.sendall(json.dumps(message).encode() + b"\n")
                        print(lines.readline().decode().strip())
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(20)
        if seeds:
            _execute(url, SEEDS)


def _execute(url: str, statements: tuple[str, ...]) -> None:
    if url.startswith("sqlite"):
        link = sqlite3.connect(url.removeprefix("sqlite:///"))
        for statement in statements:
            link.execute(statement)
        link.commit()
        link.close()
        return
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def _seed(execute: object) -> str:
    """Add what no device says; return the schema version."""
    run = execute
    (version,) = run("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()  # type: ignore[operator]
    for statement in (*(LETTERS if int(version) >= 2 else ()), *(PEOPLE if int(version) >= 3 else ())):
        run(statement)  # type: ignore[operator]
    return str(version)


def _port(log: Path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if found := re.search(r'"devices_port": ?(\d+)|devices on port (\d+)', log.read_text()):
            return int(found[1] or found[2])
        time.sleep(0.05)
    raise RuntimeError(log.read_text())


def _pg_dump(cluster: Cluster) -> str:
    """Return a dump as plain statements."""
    program = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))), Path("pg_dump"))
    dump = subprocess.run(
        [program, "--inserts", "--no-owner", cluster.libpq_url], capture_output=True, text=True, check=True
    ).stdout
    lines = (line for line in dump.splitlines() if line and not line.startswith(("--", "\\")))
    # Postgres prints this comparison without the casts that it cannot be read without.
    return re.sub(r"(ROW\([^()]*\)) \*<> (ROW\([^()]*\))", r"\1::record *<> \2::record", "\n".join(lines)) + "\n"


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3])
