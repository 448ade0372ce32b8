"""Every fault, briefly: `scripts/faults` runs the long versions and prints the table."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
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
    "owner": 1,
    "files": 3,
    "spool-damage": 1,
    "power-spooling": 1,
    "history": 2,
    "schema": 2,
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
"""Run by `scripts/faults` only."""

CASES = [
    pytest.param(name, store, id=f"{name}-{store.name}")
    for name, fault in FAULTS.items()
    for store in fault.stores
    if f"{name}-{store.name}" not in ELSEWHERE
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
    assert tally.acknowledged > (0 if name == "schema" else 50), tally  # there is no load while a schema changes
