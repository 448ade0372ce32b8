"""All files of a server are its user's alone, whatever the umask and whatever was there."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.raw import wait_until
from tests.e2e.server import Server, command


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """Return which files others may use; the log is made by the test."""
    files = (path for path in folder.rglob("*") if path.name != "server.log" and stat.S_ISREG(path.stat().st_mode))
    return [f"{path.name} {path.stat().st_mode & 0o777:o}" for path in files if path.stat().st_mode & 0o077]


@pytest.mark.usefixtures("open_umask")
def test_no_file_of_a_server_is_open_to_others(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.tell({"msg_type": "Event", "type": "INFO", "id": "1"})
    made = json.loads(command(server.folder, "backup", "--json").stdout)["path"]
    outside = server.folder / "copy.db"
    assert command(server.folder, "backup", str(outside)).returncode == 0
    assert wait_until((server.folder / "spool.head").exists, within_s=10)
    assert open_to_others(server.folder) == []
    assert Path(made).parent.stat().st_mode & 0o777 == 0o700

    server.stop()
    names = ("robodyne.db", "spool.db", "spool.head", "robodyne.db.lock")
    for path in (*(server.folder / name for name in names), Path(made)):
        path.chmod(0o640)  # as earlier versions made them
    server.start()
    assert open_to_others(server.folder) == []
    (told,) = [line for line in server.log().splitlines() if '"files_tightened"' in line]
    assert all(name in told for name in (*names, Path(made).name))

    server.stop()
    assert command(server.folder, "restore", str(outside)).returncode == 0
    assert open_to_others(server.folder) == []
