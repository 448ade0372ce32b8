"""The demo in a pipe and at a terminal that is closed, and the server there."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.raw import wait_until
from tests.e2e.server import OPEN

COMMAND = [sys.executable, "-m", "robodyne_rt"]
DEMO = [*COMMAND, "demo", "--port", "0", "--devices-port", "0"]


def processes_with(text: str) -> list[int]:
    """Return the processes that have a text in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (folder / "cmdline").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def simulator_of(folder: Path) -> list[int]:
    return processes_with(f"{folder}/serial")


AT_TERMINAL = """
import os, signal, sys
terminal, is_kept, *arguments = sys.argv[1:]
# Whoever runs the tests may be kept as well.
signal.signal(signal.SIGHUP, signal.SIG_IGN if is_kept else signal.SIG_DFL)
descriptor = os.open(terminal, os.O_RDWR)  # the first one that a session opens is its own
for number in range(3):
    os.dup2(descriptor, number)
os.execv(arguments[0], arguments)
"""


class Terminal:
    """A program at a terminal of its own.

    Args:
        is_kept: whether it shall outlive the terminal, as with nohup(1).
    """

    def __init__(self, arguments: list[str], cwd: Path, *, is_kept: bool = False) -> None:
        self._master, self._slave = os.openpty()
        command = [sys.executable, "-c", AT_TERMINAL, os.ttyname(self._slave), "x" if is_kept else "", *arguments]
        environment = os.environ | OPEN | {"ROBODYNE_RT__LOG__FORMAT": "text"}
        self.process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True)
        self.text = ""

    def read_until(self, wanted: str, *, within_s: float = 60.0) -> str:
        deadline = time.monotonic() + within_s
        while wanted not in self.text:
            assert time.monotonic() < deadline, self.text
            self.text += os.read(self._master, 65536).decode()
        return self.text

    def close(self) -> None:
        os.close(self._slave)
        os.close(self._master)

    def ends(self, *, within_s: float = 15.0) -> bool:
        """Return whether it ends in time."""
        return wait_until(lambda: self.process.poll() is not None, within_s=within_s)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*arguments: object, **options: object) -> Terminal:
        started.append(Terminal(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for program in started:
        program.process.kill()
        program.process.wait()


@pytest.mark.timeout(150)
def test_a_piped_demo_prints_its_links_first_and_leaves_nothing_when_it_is_killed(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        assert demo.stdout is not None
        lines = [demo.stdout.readline() for _ in range(3)]
        assert lines[:2] == ["\n", "The restaurant is open. Look at it in a browser:\n"]
        assert re.fullmatch(r"    http://localhost:\d+/\n", lines[2])
        (folder,) = tmp_path.glob("robodyne-demo-*")
        assert wait_until(lambda: len(simulator_of(folder)) == 1, within_s=10)
        assert wait_until((folder / "serial" / "robot").is_symlink, within_s=30)
    finally:
        demo.kill()
        demo.wait()
    told = demo.stdout.read()
    demo.stdout.close()
    assert '"action":"server_ready"' in told and '"action":"settings"' not in told
    assert wait_until(lambda: not simulator_of(folder), within_s=10), "the simulator would join the next demo"
    assert wait_until(lambda: not folder.exists(), within_s=10)
    assert not processes_with(str(folder))


@pytest.mark.timeout(150)
def test_a_closed_terminal_ends_the_demo(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    folder = tmp_path / "data"
    demo = terminal([*DEMO, "--folder", str(folder)], tmp_path)
    demo.read_until("Ctrl-C ends it")
    assert wait_until(lambda: bool(simulator_of(folder)), within_s=10)
    demo.close()
    assert demo.ends()
    assert wait_until(lambda: not processes_with(str(folder)), within_s=10)
    assert (folder / "robodyne.db").exists()


@pytest.mark.timeout(90)
def test_a_closed_terminal_ends_the_server(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    server = terminal([*COMMAND, "serve"], tmp_path)
    server.read_until("ready:")
    server.close()
    assert server.ends()


@pytest.mark.timeout(90)
def test_a_server_that_shall_outlive_its_terminal_stays(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    server = terminal([*COMMAND, "serve"], tmp_path, is_kept=True)
    server.read_until("ready:")
    server.process.send_signal(signal.SIGHUP)
    server.read_until("reloaded [log]")
    server.close()
    assert not server.ends(within_s=2.0)
    assert (tmp_path / "robodyne.db").exists()
