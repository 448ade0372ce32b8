"""The high-water mark and the copies of a database are on the disk before anybody relies on them."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.store.engine import sqlite
from robodyne_rt.store.errors import StorageBroken
from robodyne_rt.store.log import high_water
from robodyne_rt.store.log.change_log import Line
from robodyne_rt.store.log.high_water import Contents, HighWaterMark, Loss

MARK = HighWaterMark("db", "e1", {"events": 7, "tables": 2}, 5.0)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Keeps what was synced and renamed, in order, as (what, name)."""
    seen: list[tuple[str, str]] = []
    fsync: Callable[[int], None] = os.fsync
    rename: Callable[..., Any] = Path.rename

    def watched_fsync(descriptor: int) -> None:
        seen.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def watched_rename(path: Path, target: Path) -> Any:
        seen.append(("rename", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    return seen


def test_the_mark_reaches_the_disk_before_it_has_its_name_and_its_name_after_it(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    high_water.write(tmp_path / "spool.head", MARK)
    assert disk == [("fsync", "spool.head.part"), ("rename", "spool.head"), ("fsync", tmp_path.name)]
    assert high_water.read(tmp_path / "spool.head") == MARK


def test_a_copy_reaches_the_disk_before_it_has_its_name_and_its_name_after_it(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    source = sqlite3.connect(tmp_path / "source.db")
    source.execute('CREATE TABLE topic_head(topic, "offset")')
    source.execute('CREATE TABLE change(topic, "offset")')
    source.commit()
    sqlite.copy_database(source, tmp_path / "copy.db")
    source.close()
    assert disk == [("fsync", "copy.db.part"), ("rename", "copy.db"), ("fsync", tmp_path.name)]


def test_a_copy_that_is_damaged_gets_no_name(tmp_path: Path) -> None:
    (tmp_path / "copy.db.part").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises((StorageBroken, sqlite3.DatabaseError)):
        sqlite.finish_copy(tmp_path / "copy.db.part", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_copy_whose_log_does_not_fit_its_heads_gets_no_name(tmp_path: Path) -> None:
    copy = sqlite3.connect(tmp_path / "copy.db.part")
    copy.execute('CREATE TABLE topic_head(topic, "offset")')
    copy.execute('CREATE TABLE change(topic, "offset")')
    copy.execute("INSERT INTO topic_head VALUES ('events', 5)")
    copy.execute("INSERT INTO change VALUES ('events', 4)")
    copy.commit()
    copy.close()
    with pytest.raises(StorageBroken):
        sqlite.finish_copy(tmp_path / "copy.db.part", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists() and not (tmp_path / "copy.db.part").exists()


LINE = (7, 3, "upsert", "2026-11-27T00:00:00.000Z")


def lacks(heads: dict[str, int], *, epochs: Sequence[str] = ("e1",), line: Line | None = LINE) -> Loss | None:
    return MARK._replace(lines={"events": LINE}).loss(Contents(epochs, heads, {"events": line}))


def test_what_a_database_lacks_is_told_by_topic() -> None:
    for heads, counts in (({"events": 5, "tables": 2}, {"events": 2}), ({"tables": 3}, {"events": 7})):
        loss = lacks(heads)
        assert loss is not None and loss.changes == counts and "older" in loss.text
    assert lacks({"events": 7, "tables": 2}) is None
    assert lacks({"events": 8, "tables": 2}) is None


def test_a_database_of_another_history_or_a_new_one_lacks_everything() -> None:
    for heads in ({}, {"events": 99, "tables": 99}):
        loss = lacks(heads, epochs=("e2", "e3"))
        assert loss is not None and "missing" in loss.text
    assert HighWaterMark("db", "e1", {"events": 0}, 5.0).loss(Contents(("e2",), {}, {})) is None  # nothing was confirmed


def test_a_database_that_follows_the_mark_lacks_nothing() -> None:
    assert lacks({"events": 2}, epochs=("e0", "e1", "e2")) is None


def test_a_copy_that_went_on_by_itself_is_known_by_its_line() -> None:
    loss = lacks({"events": 45, "tables": 2}, line=(7, 3, "upsert", "2026-11-27T00:00:00.001Z"))
    assert loss is not None and "events" in loss.text
    assert lacks({"events": 45, "tables": 2}, line=None) is None  # pruned


def test_a_mark_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "spool.head").write_bytes(b'{"database":"db","epoch":"e1","heads":{"events":7,"tables":2},"at":5}')
    assert high_water.read(tmp_path / "spool.head") == MARK


def test_a_line_and_the_spool_come_back_as_they_were_noted(tmp_path: Path) -> None:
    mark = MARK._replace(lines={"events": LINE}, spool="spool-1", spooled_upto=12)
    high_water.write(tmp_path / "spool.head", mark)
    assert high_water.read(tmp_path / "spool.head") == mark


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"database":"d"}',
        b"\0" * 65,
        b'{"database":"d","epoch":"e","heads":{"events":"many"},"at":1}',
        b'{"database":"d","epoch":"e","heads":[1],"at":1}',
        b'{"database":"d","epoch":"e","heads":{"events":null},"at":1}',
        b'{"database":"d","epoch":"e","heads":{},"at":1,"lines":{"events":[1,2]}}',
        b'{"database":"d","epoch":"e","heads":{},"at":1,"spooled_upto":"many"}',
    ],
)
def test_a_mark_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spool.head").write_bytes(content)
    assert high_water.read(tmp_path / "spool.head") is None
    assert high_water.read(tmp_path / "missing.head") is None
