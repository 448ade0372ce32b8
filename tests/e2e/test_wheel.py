"""What is given away works: a source distribution, the wheel that is built from it, and the wheel in an environment of its own,
in an empty folder. No network: what it depends on is borrowed from the environment that runs the tests."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.raw import wait_until
from tests.e2e.server import OPEN

ROOT = Path(__file__).parent.parent.parent
NO_SOURCE = shutil.ignore_patterns(
    ".*cache*", ".git", ".venv", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "node_modules"
)
SHARED = ["CHANGELOG.md", "LICENSE", "README.md", "config.toml"]

pytestmark = pytest.mark.timeout(300)


def build(source: Path, what: str) -> Path:
    """Build a distribution with the backend that pyproject.toml names; return it."""
    folder = source.parent / what
    folder.mkdir()
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{what}({str(folder)!r}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source") / "robodyne-rt"
    shutil.copytree(ROOT, source, ignore=NO_SOURCE)
    return build(source, "sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build(source, "wheel")


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that has the wheel."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # A line adds a folder, not the editable installations that are named in it.
    (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in sorted(borrowed)))
    return environment / "bin" / "robodyne-rt"


def run(program: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def clean(**more: str) -> dict[str, str]:
    ours = ("ROBODYNE_RT__", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


def wanted(*folders: str) -> set[str]:
    """Return the files of the source under some folders."""
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "node_modules"} & set(path.parts) and "egg-info" not in str(path)
    }


def test_the_source_distribution_carries_everything(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = {
        *wanted("robodyne_rt", "docs", "systemd", "scripts", "tests", ".ci"),
        *SHARED,
        "setup.cfg",
        "pyproject.toml",
    } - names
    assert not missing
    assert not {name for name in names if name.startswith((".venv", ".git/")) or name.endswith(".pyc")}


def test_the_wheel_carries_the_configuration_the_units_and_the_docs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert not wanted("robodyne_rt") - names
    shared = {name.partition(".data/data/share/robodyne-rt/")[2] for name in names} - {""}
    assert shared == {*SHARED, *wanted("docs", "systemd")}
    assert not {name for name in names if name.startswith(("tests", "scripts", "docs"))}


def test_the_command_names_the_configuration_that_comes_with_it(program: Path, tmp_path: Path) -> None:
    assert run(program, "--version", cwd=tmp_path).stdout == run(program, "version", cwd=tmp_path).stdout
    done = run(program, "init", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reference = Path(json.loads(done.stdout)["reference"])
    assert reference.is_relative_to(program.parent.parent)
    assert reference.read_bytes() == (ROOT / "config.toml").read_bytes()
    assert f"{reference} explains each setting" in (tmp_path / "config.toml").read_text()
    assert run(program, "check-config", "--config", str(reference), cwd=tmp_path).returncode == 0
    assert run(program, "check-config", cwd=tmp_path).returncode == 0


@pytest.fixture
def served(program: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server that was made by `init` in an empty folder."""
    assert run(program, "init", cwd=tmp_path).returncode == 0
    log_path = tmp_path / "log"
    with log_path.open("w") as log:
        server = subprocess.Popen([program, "serve"], cwd=tmp_path, env=clean(**OPEN), stdout=log, stderr=log)
    try:
        assert wait_until(lambda: "server_ready" in log_path.read_text(), within_s=60), log_path.read_text()
        yield "http://127.0.0.1:" + re.findall(r'"port":(\d+)', log_path.read_text())[-1]
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert "Traceback" not in log_path.read_text()
    finally:
        server.kill()
        server.wait()


def test_the_server_serves_its_pages_from_the_wheel(served: str) -> None:
    for path in ("/", "/static/app.js", "/static/style.css", "/static/robodyne-client.d.ts", "/api/robots", "/readyz"):
        with urllib.request.urlopen(served + path, timeout=10) as answer:
            assert answer.status == 200 and answer.read(), path


def test_the_demo_runs_from_the_wheel_in_an_empty_folder(program: Path, tmp_path: Path) -> None:
    command: list[str | Path] = [program, "demo", "--port", "0", "--devices-port", "0", "--speed", "8"]
    demo = subprocess.Popen(command, cwd=tmp_path, env=clean(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert demo.stdout is not None
        (base,) = (line.strip().rstrip("/") for line in (demo.stdout.readline() for _ in range(3)) if "http" in line)

        def has_robots() -> bool:
            with urllib.request.urlopen(base + "/api/robots", timeout=10) as answer:
                return len(json.load(answer)["data"]) >= 6

        assert wait_until(has_robots, within_s=60)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 0
    finally:
        demo.kill()
        demo.wait()
        if demo.stdout is not None:
            demo.stdout.close()
    assert list(tmp_path.iterdir()) == []
