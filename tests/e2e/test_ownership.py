"""One server per database, whatever is started beside it; who comes second ends with code 4 and has touched nothing."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import OPEN, Server, command


def event(number: int) -> dict[str, Any]:
    return {"msg_type": "Event", "type": "INFO", "description": f"n-{number}", "id": str(number)}


def accepted(server: Server, *numbers: int) -> None:
    assert [answer["status"] for answer in server.tell(*map(event, numbers))] == ["success"] * len(numbers)


def test_a_second_server_waits_then_ends_with_4_and_leaves_the_first_one_whole(start_server: Callable[..., Server]) -> None:
    server = start_server()
    accepted(server, 1)
    began = time.monotonic()
    second = command(server.folder, "serve")  # on other ports: only the data is the same
    took = time.monotonic() - began
    assert second.returncode == 4 and took >= 10
    assert f"in use by process {server.process.pid} on" in second.stderr.splitlines()[-1]  # type: ignore[union-attr]
    assert (server.folder / "robodyne-rt.sock").exists()
    assert json.loads(command(server.folder, "dlq", "list", "--json").stdout) == []  # through the server
    accepted(server, 2)
    server.stop()
    assert server.sql("SELECT count(*) FROM event WHERE type = 'INFO'") == [(2,)]


def test_a_second_server_takes_over_when_the_first_one_ends(start_server: Callable[..., Server]) -> None:
    server = start_server()
    accepted(server, 1)
    ends = threading.Timer(1.5, server.stop)
    ends.start()
    second = Server(server.folder).start()
    ends.join()
    accepted(second, 1, 2)
    assert second.stop() == 0
    assert second.sql("SELECT count(*) FROM event WHERE type = 'INFO'") == [(2,)]


def test_another_spool_or_another_database_alone_is_not_enough(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server()
    own_database = {"ROBODYNE_RT__DATABASE__URL": "sqlite:///other.db"}
    own_spool = {"ROBODYNE_RT__DATABASE__SPOOL_PATH": "other-spool.db"}
    for settings, named in ((own_database, "spool.db"), (own_spool, "robodyne.db")):
        restore = command(server.folder, "restore", "any.db", **settings)
        assert restore.returncode == 4 and f"{named} is in use" in restore.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("restore", "copy.db"),
        ("migrate",),
        ("user", "add", "kim", "--role", "kitchen", "--password-stdin"),
        ("dlq", "drop", "--all"),
        ("device", "add", "d-1"),
        ("token", "create", "--user", "kim"),
    ],
)
def test_commands_work_through_a_server_or_not_at_all(start_server: Callable[..., Server], arguments: tuple[str, ...]) -> None:
    """The socket is hidden: nobody may believe that nothing runs here."""
    server = start_server()
    accepted(server, 1)
    hidden = {"ROBODYNE_RT__DATABASE__SPOOL_PATH": str(server.folder / "elsewhere" / "spool.db")}
    (server.folder / "config.toml").write_text("")
    assert command(server.folder, "backup", "copy.db").returncode == 0
    done = subprocess.run(
        [sys.executable, "-m", "robodyne_rt", *arguments],
        cwd=server.folder,
        env=os.environ | OPEN | hidden,
        input="a good password\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done
    assert f"in use by process {server.process.pid} on" in done.stderr  # type: ignore[union-attr]
    accepted(server, 2)
    server.kill()
    server.start()
    assert server.sql("SELECT count(*) FROM event WHERE type = 'INFO'") == [(2,)]


def test_a_socket_that_vanished_is_made_again_and_doctor_tells_meanwhile(start_server: Callable[..., Server]) -> None:
    server = start_server()
    (server.folder / "config.toml").write_text("")
    path = server.folder / "robodyne-rt.sock"
    path.unlink()
    doctor = command(server.folder, "doctor")
    if "nobody answers" in doctor.stdout:  # it may be back already
        assert doctor.returncode == 1 and "owns the data" in doctor.stdout
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert command(server.folder, "dlq", "list").stdout == "no dead letters\n"
    assert oct(path.stat().st_mode & 0o777) == "0o600"


def test_a_folder_of_any_depth_is_reached_by_commands(start_server: Callable[..., Server]) -> None:
    deep = "/".join(["a-folder-with-a-long-name"] * 6)
    server = start_server(DATABASE__SPOOL_PATH=f"{deep}/spool.db")
    done = command(server.folder, "dlq", "list", ROBODYNE_RT__DATABASE__SPOOL_PATH=f"{deep}/spool.db")
    assert done.stdout == "no dead letters\n", done
    assert server.stop() == 0
    assert not (server.folder / deep / "robodyne-rt.sock").exists()


def test_only_migrate_moves_a_schema(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.stop()
    server.sql("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    (server.folder / "config.toml").write_text("")
    for arguments in (("user", "list"), ("dlq", "list")):
        done = command(server.folder, *arguments)
        assert done.returncode == 2 and "schema version 2" in done.stderr and "migrate" in done.stderr
    assert server.sql("SELECT value FROM meta WHERE key = 'schema_version'") == [("2",)]
