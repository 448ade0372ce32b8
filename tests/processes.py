"""Processes of the server, for all tests that need one: how they are started, ended, and what their logs may not hold.

Most of a start is importing. So one process that has imported everything already (`python -m tests.processes`) waits in each
worker of the tests, and every server and every command is forked from it: a process of its own in every respect, with
`python -m robodyne_rt` left out. All run in Python's development mode: what is never closed or never awaited is told.
"""

import atexit
import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

DEV_MODE = {"PYTHONDEVMODE": "1", "PYTHONMALLOC": "default"}
"""Development mode without the hooks that look for faults of C code, which cost memory that tests measure."""

_FAULTS = re.compile(
    r"Traceback \(most recent call last\)|^Exception ignored in|ResourceWarning: |was never (?:awaited|retrieved)"
    r"|the published contract is broken",
    re.MULTILINE,
)


def assert_no_faults(log: str) -> None:
    """Fail where a log tells of an error that nobody foresaw, or of something that was left open or not awaited."""
    if (found := _FAULTS.search(log)) is not None:
        raise AssertionError(f"the server's log:\n{log[max(0, found.start() - 1500) : found.start() + 3000]}")


class Process(Protocol):
    """The part of `subprocess.Popen` that tests use."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def start(
    arguments: Sequence[str], *, folder: Path, environment: dict[str, str], log: IO[Any], program: Sequence[str] = ()
) -> Process:
    """Start `robodyne-rt ARGUMENTS` in a folder.

    Args:
        log: where what it prints goes.
        program: what is run instead, from its first byte on.
    """
    if program:
        return subprocess.Popen(
            [*program, *arguments],
            cwd=folder,
            env=environment | DEV_MODE,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # without a terminal, as a service
        )
    with Path(os.devnull).open("rb") as nothing:
        return _Template.of_this_process().start(arguments, folder, environment, nothing, log, log)


def run(
    arguments: Sequence[str | bytes], *, folder: Path, environment: dict[str, str], said: str = "", within_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `robodyne-rt ARGUMENTS` in a folder; return what it printed.

    Args:
        environment: added to ours, which says nothing about the server.
        said: what it reads.
    """
    words = [os.fsdecode(word) for word in arguments]
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(said.encode())
        stdin.seek(0)
        environment = clean_environment() | environment
        process = _Template.of_this_process().start(words, folder, environment, stdin, stdout, stderr)
        try:
            code = process.wait(within_s)
        finally:
            process.kill()
        printed = []
        for stream in (stdout, stderr):
            stream.seek(0)
            printed.append(stream.read().decode())
    return subprocess.CompletedProcess(words, code, *printed)


def clean_environment() -> dict[str, str]:
    """Return the environment without what settings of the server stand there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ROBODYNE_RT__")}


class _Forked:
    """A process that the template forked; it tells the exit code through a pipe."""

    def __init__(self, pid: int, exit_code: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._exit_code = exit_code
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._exit_code], [], [], 0)[0]:
                self.returncode = int(os.read(self._exit_code, 8) or b"-9")
                os.close(self._exit_code)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("robodyne-rt", timeout or 0.0)
            with contextlib.suppress(OSError, ValueError):  # another thread met its end
                select.select([self._exit_code], [], [], 0.2)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Template:
    """The process that has everything imported; it ends with the tests."""

    _running: "dict[int, _Template]" = {}  # noqa: RUF012

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.processes", str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                env=clean_environment() | DEV_MODE,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the tests, which end their servers
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._socket.close()
        self._process.wait(10)

    @classmethod
    def of_this_process(cls) -> "_Template":
        if os.getpid() not in cls._running:
            cls._running[os.getpid()] = cls()
        return cls._running[os.getpid()]

    def start(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], *files: IO[Any]) -> _Forked:
        body = json.dumps([list(arguments), str(folder), dict(environment)]).encode()
        exit_code, theirs = os.pipe()
        try:
            descriptors = [file.fileno() for file in files]
            with self._lock:
                socket.send_fds(self._socket, [len(body).to_bytes(4, "big")], [*descriptors, theirs])
                self._socket.sendall(body)
                pid = int.from_bytes(_receive(self._socket, 4), "big")
        except BaseException:
            os.close(exit_code)
            raise
        finally:
            os.close(theirs)
        return _Forked(pid, exit_code)


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (chunk := sock.recv(size - len(data))):
            raise EOFError("the process that starts all others has ended")
        data += chunk
    return data


def _run_template(control: socket.socket) -> None:
    """Fork a process for each request, and tell its exit code to whoever asked for it."""
    import robodyne_rt.app.process
    import robodyne_rt.cli.backup
    import robodyne_rt.cli.doctor
    import robodyne_rt.store.engine.postgres
    import robodyne_rt.web.passwords  # noqa: F401
    from robodyne_rt.cli.main import main
    from tests import published

    published.install()

    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 512)
            for pid in list(children):
                if _reap(pid, children[pid]):
                    del children[pid]
        if control.fileno() in readable:
            head, descriptors, _, _ = socket.recv_fds(control, 4, 4)
            if not head:
                return
            arguments, folder, environment = json.loads(_receive(control, int.from_bytes(head, "big")))
            *files, exit_code = descriptors
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                for descriptor in (woken, wake, exit_code, *children.values()):
                    os.close(descriptor)
                _become(main, arguments, folder, environment, files)
            for descriptor in files:
                os.close(descriptor)
            children[pid] = exit_code
            control.sendall(pid.to_bytes(4, "big"))


def _reap(pid: int, exit_code: int) -> bool:
    """Tell the exit code of a process through its pipe, if it has ended; return whether it has."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        with contextlib.suppress(BrokenPipeError):
            os.write(exit_code, b"%d" % os.waitstatus_to_exitcode(status))
        os.close(exit_code)
    return bool(ended)


def _become(main: Any, arguments: list[str], folder: str, environment: dict[str, str], files: list[int]) -> NoReturn:
    """Be what `python -m robodyne_rt` would be."""
    code: Any = 1
    try:
        for number, descriptor in enumerate(files):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["robodyne-rt", *arguments]
        code = main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of every program does
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as control:
        _run_template(control)
