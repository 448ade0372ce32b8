"""What belongs to the server's data is its user's alone."""

import logging
import os
from pathlib import Path

import pytest

from robodyne_rt.store.engine import private_files


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def make(path: Path, permissions: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(permissions)
    return path


@pytest.mark.parametrize("permissions", [0o640, 0o644, 0o666, 0o604, 0o610, 0o755, 0o440])
def test_a_file_and_what_belongs_to_it_is_tightened_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, permissions: int
) -> None:
    names = ("x.db", "x.db-wal", "x.db-shm", "x.db.lock", "x.db.reserve", "x.db.before-v3", "x.db.rescued-2", "backups/b.db")
    ours = [make(tmp_path / name, permissions) for name in names]
    others = [make(tmp_path / name, permissions) for name in ("x.dbs", "y.db", "x", "readme.txt")]
    with caplog.at_level(logging.WARNING):
        private_files.tighten([tmp_path / "x.db"], tmp_path / "backups", tmp_path / "missing")
    assert {mode(path) for path in ours} == {permissions & 0o600}
    assert {mode(path) for path in others} == {permissions}
    (line,) = caplog.messages
    assert all(f"{path} ({permissions:o})" in line for path in ours)
    caplog.clear()
    private_files.tighten([tmp_path / "x.db"], tmp_path / "backups")
    assert not caplog.messages, "there is nothing to tell"


def test_behind_a_link_the_files_themselves_are_tightened(tmp_path: Path) -> None:
    real = make(tmp_path / "disk" / "real.db", 0o644)
    wal = make(tmp_path / "disk" / "real.db-wal", 0o644)
    (tmp_path / "x.db").symlink_to(real)
    private_files.tighten([tmp_path / "x.db"])
    assert mode(real) == mode(wal) == 0o600


def test_a_link_among_the_backups_is_not_followed(tmp_path: Path) -> None:
    other = make(tmp_path / "other.txt", 0o644)
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / "b.db").symlink_to(other)
    private_files.tighten([], tmp_path / "backups")
    assert mode(other) == 0o644


def test_what_cannot_be_tightened_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "x.db", 0o644)

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(Path, "chmod", refuse)
    private_files.tighten([tmp_path / "x.db"])
    assert "stay open to others" in caplog.text and "Operation not permitted" in caplog.text
