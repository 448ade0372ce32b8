"""The database's files are taken away under a serving process: it tells, saves what was stored, and ends."""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.server import Server, command


def move_older_copy(server: Server) -> None:
    (server.folder / "older.db").replace(server.database)


HURTS: dict[str, Callable[[Server], object]] = {
    "database deleted": lambda server: server.database.unlink(),
    "older copy in its place": move_older_copy,
    "WAL deleted": lambda server: os.unlink(f"{server.database}-wal"),
}


def send_until_cut_off(server: Server, acknowledged: list[int]) -> None:
    """Send one event after the other; keep the numbers of those that were acknowledged."""
    number = 0
    with server.dial() as sock, sock.makefile("rb") as lines:
        while True:
            number += 1
            message = {"msg_type": "Event", "type": "INFO", "description": f"n-{number}", "id": str(number)}
            try:
                sock.sendall(json.dumps(message).encode() + b"\n")
                answer = json.loads(lines.readline() or b"{}")
            except (TimeoutError, ConnectionError):
                return
            if not answer:
                return
            if answer["status"] == "success":
                acknowledged.append(number)


def stored_in(file: Path) -> set[int]:
    connection = sqlite3.connect(file)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT description FROM event WHERE type = 'INFO'").fetchall()
        return {int(text.removeprefix("n-")) for (text,) in rows}
    finally:
        connection.close()


@pytest.mark.parametrize("hurt", HURTS)
def test_what_was_acknowledged_is_saved_and_the_server_ends_with_3(start_server: Callable[..., Server], hurt: str) -> None:
    server = start_server(SERVER__SHUTDOWN_GRACE_S="0.5")
    acknowledged: list[int] = []
    sender = threading.Thread(target=send_until_cut_off, args=(server, acknowledged))
    sender.start()
    while len(acknowledged) < 50:
        time.sleep(0.01)
    source, copy = sqlite3.connect(server.database), sqlite3.connect(server.folder / "older.db")
    source.backup(copy)
    source.close(), copy.close()
    while len(acknowledged) < 100:
        time.sleep(0.01)
    HURTS[hurt](server)
    assert server.process is not None and server.process.wait(30) == 3
    sender.join(10)

    (rescued,) = server.folder.glob("robodyne.db.rescued-*")
    assert set(acknowledged) <= stored_in(rescued)
    doctor = command(server.folder, "doctor")
    assert f"restore {rescued}" in doctor.stdout
    last = server.log().splitlines()[-1]
    assert "while it was open" in last and str(rescued) in last
    assert '"files_replaced"' in server.log() and "Traceback" not in server.log()
    if server.database.exists():
        server.start()
        found = {int(text.removeprefix("n-")) for (text,) in server.sql("SELECT description FROM event WHERE type = 'INFO'")}
        assert found >= set(range(1, 51))
        assert server.stop() == 0
