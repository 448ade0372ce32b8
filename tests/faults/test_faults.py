"""Every fault, briefly, and every control: `scripts/faults` runs the long versions and prints the table."""

import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
from tests.faults.shim import Kind, Shim
from tests.faults.store import StoreFactory

ROUNDS = {
    "kill": 2,
    "power": 2,
    "syscall-kill": 3,
    "disk-full": 3,
    "fsync-eio": 2,
    "fsync-slow": 1,
    "locked": 2,
    "checkpoint": 2,
    "clock": 6,
    "network": 1,
    "duplicates": 2,
    "poison-while-spooled": 1,
    "postgres-restart": 2,
    "postgres-kill-both": 1,
    "postgres-away": 1,
    "postgres-terminate": 2,
    "postgres-cut": 1,
    "postgres-hang": 1,
}

AWAY_S = 1.5

ELSEWHERE = {"poison-while-spooled-sqlite"}
CONTROLLED_ELSEWHERE = {"postgres-restart", "postgres-terminate", "postgres-away", "postgres-hang"}
"""Run by `scripts/faults` only: they take long, and what they would show is shown here by a shorter one."""

CASES = [
    pytest.param(name, store, id=f"{name}-{store.name}")
    for name, fault in FAULTS.items()
    for store in fault.stores
    if f"{name}-{store.name}" not in ELSEWHERE
]
CONTROLS = [
    pytest.param(name, store, id=f"{name}-{store.name}")
    for name, fault in FAULTS.items()
    if name not in CONTROLLED_ELSEWHERE
    for store in (fault.stores if name == "kill" else fault.stores[:1])
]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the shim interposes Linux's C library"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the shim needs a C compiler: sudo apt install gcc libc6-dev"),
]


@pytest.mark.parametrize(("name", "store"), CASES)
def test_every_promise_holds_under(name: str, store: StoreFactory, tmp_path: Path) -> None:
    options = {"seconds": AWAY_S} if FAULTS[name].lasts else {}
    tally = FAULTS[name].run(ROUNDS[name], 11, tmp_path, store=store, **options)
    assert not tally.broken, tally
    assert tally.acknowledged > 50, tally


@pytest.mark.parametrize(("name", "store"), CONTROLS)
def test_a_server_that_is_broken_on_purpose_is_found_out_by(name: str, store: StoreFactory, tmp_path: Path) -> None:
    tally, found = FAULTS[name].control(11, tmp_path, store=store)
    assert found > 0, tally


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
    from tests.faults.shim import Control

    assert ctypes.sizeof(Control) == 8 * (9 + len(Kind) + 3) + 64
