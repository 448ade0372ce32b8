"""The tests' own rules: nothing is skipped on CI, and no log of a server hides a fault."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

ROOT = Path(__file__).parent.parent

SKIPPED = {
    "in_the_test": "def test_it(): pytest.skip('no browser')",
    "by_a_mark": "@pytest.mark.skip(reason='no browser')\ndef test_it(): pass",
    "with_its_fixture": "@pytest.fixture\ndef browser(): pytest.skip('no browser')\ndef test_it(browser): pass",
    "with_its_module": "pytest.skip('no browser', allow_module_level=True)",
}


@pytest.mark.parametrize(("on_ci", "outcomes"), [("true", {"FAILED", "ERROR"}), ("", {"SKIPPED"})])
def test_what_is_skipped_fails_on_ci_and_nowhere_else(tmp_path: Path, on_ci: str, outcomes: set[str]) -> None:
    for name, code in SKIPPED.items():
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n{code}\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.no_skips", "-rA", "--continue-on-collection-errors", str(tmp_path)],
        env=os.environ | {"CI": on_ci},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    summary = done.stdout.partition("short test summary info")[2].splitlines()
    found = [line.split()[0] for line in summary if line.startswith(("PASSED", "FAILED", "ERROR", "SKIPPED"))]
    assert len(found) == len(SKIPPED) and set(found) <= outcomes, done.stdout
    assert summary[-1].count("passed") == 0 and done.stdout.count("no browser") >= len(SKIPPED)


@pytest.mark.parametrize(
    "log",
    [
        '{"level":"ERROR","error":"Traceback (most recent call last):\\n ..."}',
        "fine\nException ignored in: <function f>\n",
        "x.py:1: ResourceWarning: unclosed <socket.socket fd=6>\n",
        "x.py:1: RuntimeWarning: coroutine 'f' was never awaited\n",
        '{"message":"Task exception was never retrieved"}',
    ],
)
def test_a_fault_in_a_log_is_found(log: str) -> None:
    processes.assert_no_faults('{"level":"INFO","message":"ready"}\n')
    with pytest.raises(AssertionError):
        processes.assert_no_faults(log)
