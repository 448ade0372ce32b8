"""A file is replaced as a whole, or stays as it was."""

from pathlib import Path

import pytest

from robodyne_rt import durable_files


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "note"
    for content in (b"one", b"another"):
        durable_files.replace(path, content)
        assert path.read_bytes() == content
    assert [item.name for item in tmp_path.iterdir()] == ["note"]


def test_what_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "note"
    durable_files.replace(path, b"old")
    (tmp_path / "note.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        durable_files.replace(path, b"new")
    assert path.read_bytes() == b"old"
