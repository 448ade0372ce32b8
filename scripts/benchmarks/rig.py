"""Everything around a measurement: the temporary folder, the C programs, processes on their core, and their end.

Figures (figures.py) ask the rig for servers and programs as context managers; when the rig closes, nothing is left running.
"""

import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent

READY_WITHIN_S = 30.0
ENDED_WITHIN_S = 15.0


class BenchError(Exception):
    """The measurement could not be made, or what was measured is not right (an update got lost)."""


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in all its threads and those that ended: the scheduler's count, in ns."""
    clock = ctypes.c_int()
    if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise BenchError(f"process {pid} is gone")
    return time.clock_gettime_ns(clock.value) / 1e9


_LIBC = ctypes.CDLL(None, use_errno=True)


def resident_kib(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    match = re.search(r"^Rss:\s+(\d+) kB", text, re.MULTILINE)
    if match is None:
        raise BenchError(f"/proc/{pid}/smaps_rollup tells no Rss")
    return int(match[1])


class Rig:
    """Use as a context manager.

    Args:
        note: told what is going on, a line each.
    """

    def __init__(self, *, note: Callable[[str], None]) -> None:
        self.note = note
        cores = sorted(os.sched_getaffinity(0))
        self.server_core, self.load_core = cores[0], cores[min(1, len(cores) - 1)]
        self.servers_started = 0
        self._common: Server | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Rig":
        if self.server_core == self.load_core:
            self.note("only one core: server and load share it, and the ratios say little")
        # A folder for temporary files may be memory, where a sync costs nothing; /var/tmp is meant to be on disk.
        base = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None)
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="robodyne-bench-", dir=base)))
        self._folders = 0
        os.sched_setaffinity(0, {self.load_core})
        try:
            for name in ("launch", "load_client", "limit_loop"):
                self._build(name)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _build(self, name: str) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise BenchError("no C compiler (cc) found: install one, on Debian and Ubuntu `apt-get install gcc libc6-dev`")
        command = [compiler, "-O2", "-Wall", "-o", str(self.folder / name), str(HERE / f"{name}.c")]
        built = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if built.returncode:
            raise BenchError(f"{name}.c cannot be built; are the C headers installed (libc6-dev)?\n{built.stderr}")

    def _on(self, core: int) -> list[str]:
        """Return the beginning of a command that runs on `core`."""
        return [str(self.folder / "launch"), str(core)]

    def new_folder(self) -> Path:
        """Return a fresh folder, on the file system that everything here is measured on."""
        self._folders += 1
        folder = self.folder / str(self._folders)
        folder.mkdir()
        return folder

    @contextlib.contextmanager
    def server(self, folder: Path, *, checkout: Path | None = None, **settings: object) -> Iterator["Server"]:
        """Serve from `folder` on the server's core; `settings` as `hub__max_connections_per_topic=6000`.

        Args:
            checkout: whose server, with a .venv of its own; None for this one's.
        """
        self.servers_started += 1
        server = Server(self._on(self.server_core), folder, settings, checkout)
        try:
            server.wait_ready()
            yield server
        finally:
            server.stop()

    def common_server(self) -> "Server":
        """A server for figures that need no fresh one; it lives as long as the rig."""
        if self._common is None:
            self._common = self._stack.enter_context(self.server(self.new_folder()))
        return self._common

    @contextlib.contextmanager
    def load_client(self) -> Iterator["Program"]:
        """The load client, on the load's core."""
        with self._program([str(self.folder / "load_client")], self.load_core) as program:
            yield program

    @contextlib.contextmanager
    def limit_loop(self) -> Iterator[tuple["Program", int]]:
        """The C loop, on the server's core, and its port."""
        with self._program([str(self.folder / "limit_loop")], self.server_core) as program:
            yield program, program.answer(10)["port"]

    @contextlib.contextmanager
    def bare_aiohttp(self) -> Iterator[tuple["Program", int]]:
        """A server of bare aiohttp, on the server's core, and its port."""
        with self._program([sys.executable, str(HERE / "bare_aiohttp.py")], self.server_core) as program:
            yield program, program.answer(20)["port"]

    @contextlib.contextmanager
    def bare_commit(self) -> Iterator[tuple["Program", dict[str, int]]]:
        """A server of bare aiohttp that commits each event, on the server's core, and its ports."""
        command = [sys.executable, str(HERE / "bare_commit.py"), str(self.new_folder())]
        with self._program(command, self.server_core) as program:
            yield program, program.answer(20)

    def raw_sqlite(self, rows: int, per_commit: int) -> dict[str, float]:
        """Return rows per second of raw sqlite3 on the server's core."""
        folder = self.new_folder()
        script = [sys.executable, str(HERE / "raw_sqlite.py"), str(folder), str(rows), str(per_commit)]
        command = [*self._on(self.server_core), *script]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
        shutil.rmtree(folder)
        result: dict[str, float] = json.loads(done.stdout)
        return result

    @contextlib.contextmanager
    def _program(self, command: Sequence[str], core: int) -> Iterator["Program"]:
        program = Program(self._on(core), command)
        try:
            yield program
        finally:
            program.stop()


class Program:
    """A child that takes commands as lines and answers each with a line of JSON."""

    def __init__(self, launch: list[str], command: Sequence[str]) -> None:
        self._process = subprocess.Popen([*launch, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._name = Path(command[-1]).name
        self._rest = b""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def tell(self, command: str) -> None:
        """Give a command whose answer is asked for later."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{self._name} ended early") from None

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Return the next answer."""
        assert self._process.stdout is not None
        until = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise BenchError(f"{self._name} gave no answer within {timeout_s:.0f} s")
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                raise BenchError(f"{self._name} ended early")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str, timeout_s: float = 90.0) -> dict[str, Any]:
        """Give a command and return its answer.

        Raises:
            BenchError: something went wrong on the way; the answer says what.
        """
        self.tell(command)
        return checked(command, self.answer(timeout_s))

    def stop(self) -> None:
        """End it: its input ends; who does not mind is killed."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        _end(self._process, ENDED_WITHIN_S)


def checked(command: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return a load client's answer if everything arrived.

    Raises:
        BenchError: something is missing.
    """
    if answer.get("problem") or answer.get("refused") or answer.get("delivered") != answer.get("expected"):
        raise BenchError(f"{command}: {json.dumps(answer)}")
    return answer


class Server:
    """`robodyne-rt serve` as a child."""

    def __init__(self, launch: list[str], folder: Path, settings: Mapping[str, object], checkout: Path | None = None) -> None:
        given: dict[str, object] = {
            "auth__mode": "off",
            "server__host": "127.0.0.1",
            "server__port": 0,
            "devices__host": "127.0.0.1",
            "devices__port": 0,
            "hub__max_connections_per_topic": 6000,
            **settings,
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROBODYNE_RT__")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is compiled
        environment |= {f"ROBODYNE_RT__{name.upper()}": str(value) for name, value in given.items()}
        command = (checkout / ".venv/bin/robodyne-rt") if checkout else Path(sys.executable).with_name("robodyne-rt")
        arguments = [str(command)]
        if not command.exists():
            arguments = [sys.executable, "-m", "robodyne_rt"]
            environment["PYTHONPATH"] = str(PROJECT)
        self.port = self.devices_port = 0
        self._last_lines: deque[str] = deque(maxlen=30)
        self._ready = threading.Event()
        began = time.monotonic()
        self._process = subprocess.Popen(
            [*launch, *arguments, "serve"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, args=(began,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def _read_log(self, began: float) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last_lines.append(line)
            if not self._ready.is_set() and '"action":"server_ready"' in line:
                self.ready_s = time.monotonic() - began
                entry = json.loads(line[line.index("{") :])
                self.port, self.devices_port = entry["port"], entry["devices_port"]
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        if not self._ready.wait(READY_WITHIN_S) or not self.port:
            raise BenchError("the server did not become ready:\n" + "".join(self._last_lines))

    def terminate(self) -> float:
        """Ask it to stop, wait for its end, return how long that took."""
        descriptor = os.pidfd_open(self.pid)
        try:
            began = time.monotonic()
            self._process.send_signal(signal.SIGTERM)
            ended, _, _ = select.select([descriptor], [], [], ENDED_WITHIN_S)
            took = time.monotonic() - began
        finally:
            os.close(descriptor)
        if not ended:
            raise BenchError(f"the server did not end within {ENDED_WITHIN_S:.0f} s")
        if self._process.wait() != 0:
            raise BenchError(f"the server ended with {self._process.returncode}:\n" + "".join(self._last_lines))
        return took

    def stop(self) -> None:
        """End it at once if it still runs: nobody needs what it stored."""
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        if self._process.stderr is not None:
            self._process.stderr.close()


def _end(process: "subprocess.Popen[Any]", within_s: float) -> None:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
