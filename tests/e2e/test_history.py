"""A database that is not what the note beside it says begins a new history, told on every screen and in the metrics."""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.raw import wait_until
from tests.e2e.server import Server, receive


def events(server: Server, first: int, last: int) -> None:
    numbers = range(first, last + 1)
    answers = server.tell(*({"msg_type": "Event", "type": "INFO", "description": f"n-{n}", "id": str(n)} for n in numbers))
    assert all(answer["status"] == "success" for answer in answers)


def copy_of(server: Server, name: str) -> Path:
    target = server.folder / name
    source, copy = sqlite3.connect(server.database), sqlite3.connect(target)
    source.backup(copy)
    source.close()
    copy.close()
    return target


def till(server: Server, count: int) -> None:
    """Write events as another program would while no server runs."""
    connection = sqlite3.connect(server.database)
    for number in range(count):
        connection.execute(
            "INSERT INTO event(type, description, timestamp) VALUES ('INFO', ?, '2026-11-27T00:00:00Z')", (f"till-{number}",)
        )
    connection.commit()
    connection.close()


def vanish(server: Server) -> None:
    for end in ("", "-wal", "-shm"):
        server.database.with_name(server.database.name + end).unlink(missing_ok=True)


def put(server: Server, copy: Path) -> None:
    vanish(server)
    shutil.copyfile(copy, server.database)


def put_and_write(server: Server, copy: Path, count: int) -> None:
    put(server, copy)
    till(server, count)


HURTS: dict[str, Callable[[Server, Path], None]] = {
    "missing": lambda server, copy: vanish(server),
    "an older copy": put,
    "an older copy, written past the note": lambda server, copy: put_and_write(server, copy, 30),
    "an older copy, written up to the note": lambda server, copy: put_and_write(server, copy, 15),
}


@pytest.mark.parametrize("hurt", HURTS)
async def test_what_was_lost_between_two_runs_is_never_silent(tmp_path: Path, hurt: str) -> None:
    server = Server(tmp_path)
    with server.start():
        events(server, 1, 15)
        copy = copy_of(server, "older.db")
        events(server, 16, 30)
        async with server.watch("/ws/events") as screen:
            position = await receive(screen)
        time.sleep(1.2)  # the note is written once a second
    HURTS[hurt](server, copy)
    with server.start():
        assert '"data_regressed"' in server.log()
        assert "robodyne_data_regressed_total 1.0" in server.get("/metrics")[2].decode()
        told = "SELECT severity FROM event WHERE description LIKE 'the database lost%'"
        assert wait_until(lambda: server.sql(told) == [("ERROR",)], within_s=5)
        async with server.watch(f"/ws/events?since={position['offset']}&epoch={position['epoch']}") as screen:
            first = await receive(screen)
        assert first.get("snapshot") is True and first["epoch"] != position["epoch"]
    with server.start():  # told once
        assert len(server.sql("SELECT 1 FROM event WHERE description LIKE 'the database lost%'")) == 1


async def test_a_database_that_went_on_by_itself_is_believed(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.start():
        events(server, 1, 15)
        async with server.watch("/ws/events") as screen:
            position = await receive(screen)
        time.sleep(1.2)
    till(server, 5)
    with server.start():
        assert '"data_regressed"' not in server.log()
        async with server.watch(f"/ws/events?since={position['offset']}&epoch={position['epoch']}") as screen:
            first = await receive(screen)
        assert first["recovered"] is True and len(first["data"]) == 5


async def test_a_restore_under_the_server_takes_no_client_into_a_history_that_is_gone(tmp_path: Path) -> None:
    """`.restore` of the shell, which writes into the same file; a client that was away comes back at once and later."""
    server = Server(tmp_path)
    with server.start():
        events(server, 1, 15)
        copy = copy_of(server, "older.db")
        events(server, 16, 30)
        async with server.watch("/ws/events") as screen:
            position = await receive(screen)
        source, target = sqlite3.connect(copy), sqlite3.connect(server.database)
        source.backup(target)
        source.close()
        target.close()
        till(server, 30)
        for pause_s in (0.0, 0.05, 0.5):
            time.sleep(pause_s)
            async with server.watch(f"/ws/events?since={position['offset']}&epoch={position['epoch']}") as screen:
                first = await receive(screen)
                if first.get("recovered"):  # the server has not looked yet: what was read before it is what it knows
                    assert first["data"] == [] and pause_s == 0.0
                    first = await receive(screen)
            assert first.get("snapshot") is True and first["epoch"] != position["epoch"], first
        assert wait_until(lambda: "robodyne_data_regressed_total 1.0" in server.get("/metrics")[2].decode(), within_s=5)
        assert json.loads(server.get("/api/events")[2])["epoch"] != position["epoch"]
