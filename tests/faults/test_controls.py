"""The rig bites: a server that is broken on purpose is found out by each fault."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
from tests.faults.store import StoreFactory

CONTROLLED_ELSEWHERE = {
    "postgres-restart", "postgres-terminate", "postgres-away", "postgres-hang",
    "owner", "files", "spool-damage", "power-spooling", "history", "schema",
}  # fmt: skip
"""Run by `scripts/faults` only: they take long, and what they would show is shown here by a shorter one."""

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


@pytest.mark.parametrize(("name", "store"), CONTROLS)
def test_a_server_that_is_broken_on_purpose_is_found_out_by(name: str, store: StoreFactory, tmp_path: Path) -> None:
    tally, found = FAULTS[name].control(11, tmp_path, store=store)
    assert found > 0, tally
