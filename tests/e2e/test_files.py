"""The database's files are taken away under a serving process: it tells, saves what was stored, and ends."""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.raw import wait_until
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
    source.close()
    copy.close()
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


# -- the spool -----------------------------------------------------------------------------------------------------


def tell(server: Server, first: int, count: int) -> list[int]:
    """Send events; return the numbers of those that were acknowledged."""
    numbers = range(first, first + count)
    answers = server.tell(
        *({"msg_type": "Event", "type": "INFO", "description": f"n-{number}", "id": str(number)} for number in numbers)
    )
    assert len(answers) == count
    return [number for number, answer in zip(numbers, answers, strict=True) if answer["status"] == "success"]


def is_ready(server: Server) -> bool:
    return server.get("/readyz")[0] == 200


def is_stored(server: Server, numbers: list[int]) -> bool:
    return is_ready(server) and stored(server) >= set(numbers)


def stored(server: Server) -> set[int]:
    return {int(text.removeprefix("n-")) for (text,) in server.sql("SELECT description FROM event WHERE type = 'INFO'")}


def hurt_spool(server: Server, how: str) -> None:
    spool = server.folder / "spool.db"
    if "file" in how:
        spool.unlink()
    if "WAL" in how:
        spool.with_name("spool.db-wal").unlink()


def locked(server: Server) -> sqlite3.Connection:
    """Return a foreign connection that keeps the database locked."""
    foreign = sqlite3.connect(server.database, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    return foreign


def test_a_spool_that_is_taken_away_while_it_is_filled_loses_nothing_and_holds_up_nobody(
    start_server: Callable[..., Server],
) -> None:
    server = start_server()
    foreign = locked(server)
    acknowledged = tell(server, 0, 20)
    for turn, how in enumerate(("file", "WAL", "file and WAL"), start=1):
        hurt_spool(server, how)
        acknowledged += tell(server, 1000 * turn, 20)
    foreign.close()
    assert len(acknowledged) == 80
    assert wait_until(partial(is_stored, server, acknowledged), within_s=15)
    assert tell(server, 9000, 5) == list(range(9000, 9005))
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10


def test_a_spool_that_is_damaged_at_start_is_set_aside_and_the_kitchen_is_served(start_server: Callable[..., Server]) -> None:
    server = start_server()
    foreign = locked(server)
    acknowledged = tell(server, 1, 60)
    assert len(acknowledged) == 60
    server.kill()
    foreign.close()
    spool = server.folder / "spool.db"
    with contextlib.closing(sqlite3.connect(spool)) as link:
        link.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with spool.open("r+b") as file:
        file.seek(spool.stat().st_size - 2 * 4096)
        file.write(b"\xff" * 4096)
    server.start()
    told = "SELECT severity, data FROM event WHERE description LIKE '%spool%'"
    assert wait_until(lambda: is_ready(server) and bool(server.sql(told)), within_s=15)
    ((severity, data),) = server.sql(told)
    told_lost, lost = json.loads(data)["lost"], set(acknowledged) - stored(server)
    assert severity == "ERROR" and 0 < len(lost) <= told_lost
    assert f"robodyne_spool_lost_total {float(told_lost)}" in server.get("/metrics")[2].decode()
    assert ".aside-" in command(server.folder, "doctor").stdout
    assert tell(server, 100, 5) == list(range(100, 105))
