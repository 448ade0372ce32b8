"""scripts/setup, where the tools for JavaScript cannot be installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKED = ("setup.cfg", "pyproject.toml", "constraints.txt")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project whose Python packages are installed, on a machine without Node.js."""
    for name in ("scripts/setup", "tests/js/package-lock.json", *LOCKED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    programs = {"scripts/node": "echo no Node.js here >&2; exit 1", ".venv/bin/pip": "exit 0"}
    for name, does in programs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    everything = b"".join((tmp_path / name).read_bytes() for name in LOCKED)
    stamp = subprocess.run(["cksum"], input=everything, capture_output=True, check=True).stdout.decode().strip()
    for kind in ("run", "dev"):
        (tmp_path / f".venv/installed-{kind}").write_text(stamp)
    return tmp_path


def set_up(project: Path, kind: str, on_ci: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("VENV", "PYTHON")} | {"CI": on_ci}
    return subprocess.run([str(project / "scripts/setup"), kind], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("on_ci", "fails"), [("true", True), ("", False)])
def test_what_is_not_checked_is_said_and_fails_on_ci(project: Path, on_ci: str, fails: bool) -> None:
    done = set_up(project, "dev", on_ci)
    assert (done.returncode != 0) == fails and "no Node.js here" in done.stderr and "NOT CHECKED" in done.stderr


def test_who_only_serves_needs_no_tools_for_javascript(project: Path) -> None:
    done = set_up(project, "run", "true")
    assert done.returncode == 0 and not done.stderr


def test_tools_that_are_installed_are_left_alone(project: Path) -> None:
    (project / "tests/js/node_modules").mkdir()
    shutil.copy(project / "tests/js/package-lock.json", project / "tests/js/node_modules/installed")
    done = set_up(project, "dev", "true")
    assert done.returncode == 0 and not done.stderr
