"""Locks on files: one owner, whatever name the file is reached by, and none left behind."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robodyne_rt.store.engine.ownership import FileLock, Ownership, owner_of
from robodyne_rt.store.errors import DataOwned

TAKE_AND_WAIT = """
import sys
from pathlib import Path
from robodyne_rt.store.engine.ownership import Ownership
Ownership([Path(sys.argv[1])]).take("the other one")
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that owns `data.db`."""
    command = [sys.executable, "-c", TAKE_AND_WAIT, str(tmp_path / "data.db")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close(), process.stdin.close()  # type: ignore[union-attr]


def test_a_second_owner_is_told_who_the_first_one_is(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    with pytest.raises(DataOwned, match=rf"data.db is in use by process {other.pid} on .* \(the other one\), since 20..-"):
        Ownership([tmp_path / "data.db"]).take()
    assert str(other.pid) in (owner_of(tmp_path / "data.db") or "")


def test_a_killed_owner_leaves_no_lock_behind(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    other.kill()
    other.wait()
    assert owner_of(tmp_path / "data.db") is None
    with Ownership([tmp_path / "data.db"]).take() as ours:
        assert ours.is_held


def test_another_name_of_the_same_file_is_the_same_lock(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    (tmp_path / "data.db").touch()
    (tmp_path / "link.db").symlink_to("data.db")
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("link.db", "folder/data.db", "folder/link.db"):
        with pytest.raises(DataOwned):
            Ownership([tmp_path / name]).take()


def test_all_or_nothing(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    with pytest.raises(DataOwned):
        Ownership([tmp_path / "a.db", tmp_path / "data.db"]).take()
    with Ownership([tmp_path / "a.db"]).take():
        pass


def test_a_lock_is_not_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "data.db")
    lock.take("test")
    script = "print(flush=True); import time; time.sleep(30)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, close_fds=False)
    try:
        assert child.stdout is not None and child.stdout.readline()
        lock.release()
        FileLock(tmp_path / "data.db").take("next")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]


def test_a_lock_whose_file_was_deleted_is_held_no_more(tmp_path: Path) -> None:
    ownership = Ownership([tmp_path / "data.db"]).take()
    assert ownership.is_held
    os.unlink(tmp_path / "data.db.lock")
    assert not ownership.is_held
    (tmp_path / "data.db.lock").touch()
    assert not ownership.is_held
    ownership.release()


def test_released_it_can_be_taken_again_and_the_file_stays(tmp_path: Path) -> None:
    ownership = Ownership([tmp_path / "data.db"])
    for _ in range(2):
        ownership.take().release()
        assert (tmp_path / "data.db.lock").exists()
    assert oct((tmp_path / "data.db.lock").stat().st_mode & 0o777) == "0o600"


def test_a_full_disk_hides_the_owner_but_keeps_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        owner = Ownership([tmp_path / "data.db"]).take()
    with owner:
        assert owner.is_held
        with pytest.raises(DataOwned):
            Ownership([tmp_path / "data.db"]).take()
