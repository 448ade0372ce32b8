"""A start on a full disk succeeds in the room that was kept for it."""

from pathlib import Path

import pytest

from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.engine import reserve


class Disk:
    """A file that can be opened when there is room."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "robodyne.db"
        self.tries = 0

    def open(self) -> str:
        self.tries += 1
        if reserve.reserve_of(self.file).exists():
            raise OSError("disk I/O error")
        return "open"


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_the_room_is_there_and_taken_once(disk: Disk) -> None:
    for _ in range(2):
        reserve.keep(disk.file)
        assert reserve.reserve_of(disk.file).stat().st_blocks * 512 >= reserve.RESERVE_BYTES


def test_on_a_full_disk_the_room_is_given_up(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "is_full", lambda folder: True)
    reserve.keep(disk.file)
    assert reserve.open_with_reserve(disk.file, disk.open) == "open"
    assert disk.tries == 2


def test_without_room_the_start_waits(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "is_full", lambda folder: True)

    def fails() -> None:
        raise OSError("disk I/O error")

    for kept in (True, False):
        if kept:
            reserve.keep(disk.file)
        with pytest.raises(StorageUnavailable):
            reserve.open_with_reserve(disk.file, fails)


def test_where_the_disk_has_room_an_error_is_another_one(disk: Disk) -> None:
    reserve.keep(disk.file)
    with pytest.raises(OSError, match="I/O"):
        reserve.open_with_reserve(disk.file, disk.open)
    assert reserve.reserve_of(disk.file).exists()


def test_a_disk_that_cannot_give_it_is_no_trouble(tmp_path: Path) -> None:
    reserve.keep(tmp_path / "no such folder" / "robodyne.db")
    assert not reserve.is_full(tmp_path / "no such folder")
