"""`doctor` says what fills the disk, and when it will be full."""

import os
import shutil
import time
from pathlib import Path

import pytest

from robodyne_rt.app import machine_checks
from robodyne_rt.app.health import Finding
from robodyne_rt.settings import Database, Settings

MIB = 2**20


class Box:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "backups").mkdir()
        self.settings = Settings(
            database=Database(url=f"sqlite:///{folder / 'robodyne.db'}", spool_path=str(folder / "spool.db"))
        )

    def file(self, name: str, size: int, *, days: float = 0) -> None:
        path = self.folder / name
        path.touch()
        os.truncate(path, size)
        at = time.time() - days * 86400
        os.utime(path, (at, at))

    def finding(self) -> Finding:
        (found,) = machine_checks.disk_usage(self.settings)
        return found


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_what_fills_the_disk_is_named(box: Box) -> None:
    box.file("robodyne.db", 30 * MIB)
    box.file("robodyne.db-wal", 2 * MIB)
    box.file("robodyne.db.rescued-20261127T000000.1", 7 * MIB)
    box.file("spool.db", 5 * MIB)
    box.file("spool.db.aside-20261127T000000.1", 3 * MIB)
    evidence = box.finding().evidence
    for part in ("database 32 MiB", "copies of the database 7 MiB", "spool 5 MiB", "damaged spools 3 MiB", "known after a day"):
        assert part in evidence, evidence


@pytest.mark.parametrize(
    ("free", "severity", "when"), [(100, "ok", "100 days"), (30, "warning", "30 days"), (10**6, "ok", "ten years")]
)
def test_the_growth_since_the_oldest_backup_says_when_it_is_full(
    box: Box, monkeypatch: pytest.MonkeyPatch, free: int, severity: str, when: str
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free * MIB))
    box.file("robodyne.db", 30 * MIB)
    box.file("backups/robodyne-a.db", 20 * MIB, days=10)
    box.file("backups/robodyne-b.db", 29 * MIB, days=1)
    found = box.finding()
    assert found.severity == severity and when in found.evidence and "1.0 MiB a day" in found.evidence


def test_a_database_that_does_not_grow_never_fills_it(box: Box) -> None:
    box.file("robodyne.db", 20 * MIB)
    box.file("backups/robodyne-a.db", 20 * MIB, days=10)
    assert "ten years" in box.finding().evidence


def test_a_box_without_files_is_well(box: Box) -> None:
    assert box.finding().is_ok
