"""The library between a server and its disk and clock does what it says."""

import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.shim import Control, Kind, Shim

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the shim interposes Linux's C library"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the shim needs a C compiler: sudo apt install gcc libc6-dev"),
]


@pytest.fixture
def shim(tmp_path: Path) -> Shim:
    data = tmp_path / "data"
    data.mkdir()
    return Shim(data, shadow=tmp_path / "shadow", control=tmp_path / "control")


def run(shim: Shim, program: str) -> str:
    """Run a Python program in the shim's folder; return what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=shim.folder,
        env=os.environ | shim.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return process.communicate(timeout=30)[0].decode().strip()


SQLITE = """
import sqlite3
db = sqlite3.connect("some.db", isolation_level=None)
db.execute("PRAGMA journal_mode = wal")
db.execute("PRAGMA synchronous = {synchronous}")
db.execute("CREATE TABLE t(x)")
for x in range(20):
    try:
        db.execute("INSERT INTO t VALUES (?)", (x,))
    except sqlite3.OperationalError as error:
        print(error)
        break
import os
os.kill(os.getpid(), 9)
"""

COUNT = "import sqlite3; print(sqlite3.connect('some.db').execute('SELECT count(*) FROM t').fetchone()[0])"


def test_what_sqlite_fsynced_survives_a_power_loss_and_nothing_else(shim: Shim) -> None:
    run(shim, SQLITE.format(synchronous="FULL"))
    assert shim.control.calls[Kind.SYNC] >= 20
    assert shim.control.calls[Kind.WRITE] >= 40
    assert shim.lose_power() == 0
    assert run(shim, COUNT) == "20"
    run(shim, "import os; os.unlink('some.db')" + SQLITE.format(synchronous="OFF"))
    assert shim.lose_power() > 0
    assert "no such table" in run(shim, COUNT)
    assert not shim.control.broken


def test_a_torn_power_loss_keeps_some_of_what_was_not_fsynced(shim: Shim) -> None:
    run(shim, "f = open('a', 'w+b', 0); f.write(bytes(65536)); import os; os.fsync(f.fileno()); f.write(b'x' * 65536)")
    assert shim.lose_power(random.Random(1)) == 65536
    assert 10_000 < (shim.folder / "a").read_bytes().count(b"x") < 55_000


def test_names_reach_the_shadow(shim: Shim) -> None:
    program = """
import os
for name in "abc":
    with open(name, "wb") as file:
        file.write(name.encode())
        file.flush()
        if name != "c":
            os.fsync(file.fileno())
os.unlink("a")
os.rename("b", "d")
os.rename("c", "e")
"""
    run(shim, program)
    assert {path.name: path.read_bytes() for path in shim.shadow.iterdir()} == {"d": b"b", "e": b""}


@pytest.mark.parametrize(
    ("field", "number", "text"),
    [("write_error", errno.ENOSPC, "database or disk is full"), ("fsync_error", errno.EIO, "disk I/O error")],
)
def test_sqlite_is_told_the_error(shim: Shim, field: str, number: int, text: str) -> None:
    shim.control.only_suffix = b"-wal"
    shim.control.fsync_error_calls = -1
    setattr(shim.control, field, number)
    assert text in run(shim, SQLITE.format(synchronous="FULL"))
    assert shim.control.errors_told > 0


def test_a_process_dies_at_the_call_that_was_named(shim: Shim) -> None:
    program = "import os; f = open('a', 'wb', 0)\nfor x in b'123456': f.write(b'%c' % x)"
    for after in (False, True):
        shim.kill_at(Kind.WRITE, 3, after=after)
        run(shim, program)
        assert (shim.folder / "a").read_bytes() == (b"123" if after else b"12")


def test_the_clock_jumps(shim: Shim) -> None:
    shim.control.clock_offset_s = -(10**9)
    moments = run(
        shim, "import time, sqlite3; print(time.time(), sqlite3.connect('').execute(\"SELECT unixepoch()\").fetchone()[0])"
    )
    shim.control.clock_offset_s = 0
    true = float(run(shim, "import time; print(time.time())"))
    assert all(abs(float(moment) - true + 10**9) < 60 for moment in moments.split())


def test_the_control_has_the_layout_of_the_library() -> None:
    assert ctypes.sizeof(Control) == 8 * (9 + len(Kind) + 3) + 64
