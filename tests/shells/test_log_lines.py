"""Who reads the log decides how a line begins: the journal wants a priority, everybody else JSON alone."""

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robodyne_rt import logs, systemd


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.parametrize(("inode", "begins"), [(0, b"<4>{"), (1, b"{"), (None, b"{")])
@pytest.mark.parametrize("style", ["json", "auto"])
def test_a_line_begins_with_its_priority_only_where_the_journal_reads_it(
    tmp_path: Path, root: logging.Logger, monkeypatch: pytest.MonkeyPatch, inode: int | None, begins: bytes, style: str
) -> None:
    path = tmp_path / "log"
    with path.open("w") as stream:
        stat = os.fstat(stream.fileno())
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        if inode is not None:  # of another stream: inherited from a service that started a shell, say
            monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino + inode}")
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", sys.stdout)
        log = logs.set_up(level="INFO", style=style)  # type: ignore[arg-type]
        logging.getLogger("robodyne_rt.test").warning("hello", extra={"action": "test"})
        log.close()
    line = path.read_bytes()
    assert line.startswith(begins)
    assert json.loads(line[line.index(b"{") :])["message"] == "hello"


def test_what_is_no_file_is_not_the_journal(tmp_path: Path) -> None:
    closed = (tmp_path / "x").open("w")
    closed.close()
    for stream in (io.StringIO(), closed):
        assert not systemd.is_journal(stream, {"JOURNAL_STREAM": "1:2"})
