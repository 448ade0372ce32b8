"""A device beside peers that hold the server up (SPEC sections 3 and 5): its acknowledgement, the loop, and the memory held.

A round measures each right after a quiet phase of the same server; the ratio of both is what counts.
"""

import contextlib
import json
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import workloads
from figures import Figure, Scale
from rig import HERE, BenchError, Rig, Server, resident_kib

TIMES_QUIET = 3.0
LAG_MS = 50.0
MEMORY_MIB = 128 + 64
BIG_ORDERS = 1500
BIG_NOTE = "국" * 19_000
EVENTS = 900

SETTINGS: dict[str, Any] = {"hub__max_connections_per_topic": 2000, "sessions__max_connections": 2000}


def fairness(rig: Rig, scale: Scale) -> list[Figure]:
    """Floods, reconnects, clients that do not read."""
    found: list[Figure] = []
    for name, (prepare, load) in _loads().items():
        ratio = Figure("fairness", f"acknowledgement beside {name}, p99, to its quiet value", "ms", TIMES_QUIET)
        lag = Figure("fairness", f"loop lag beside {name}", "ms", LAG_MS, compare="value")
        memory = Figure("fairness", f"memory beside {name}", "MiB", MEMORY_MIB, compare="value")
        for _ in range(scale.rounds):
            folder = rig.new_folder()
            prepare(rig, folder)
            with rig.server(folder, **SETTINGS) as server:
                _make_robots(server)
                with _MemoryWatch(server) as watch:
                    quiet = workloads.bystander(server, scale.round_s)
                    with load(server):
                        beside = workloads.bystander(server, scale.round_s * 2)
                        lag_ms = _longest_lag_ms(server)
            ratio.add(beside.p99_ms, quiet.p99_ms)
            lag.add(lag_ms)
            memory.add(watch.most_mib)
        found += [ratio, lag, memory]
    return found


Load = Callable[[Server], AbstractContextManager[None]]


def _loads() -> dict[str, tuple[Callable[[Rig, Path], None], Load]]:
    return {
        "a flood of events": (_nothing, lambda server: _floods(["events", server.devices_port])),
        "a flood of telemetry": (_nothing, lambda server: _floods(["telemetry", server.devices_port])),
        "four floods of telemetry": (
            _nothing,
            lambda server: _floods(*(["telemetry", server.devices_port, f"flood-{number}"] for number in range(4))),
        ),
        "a flood of bad messages": (_nothing, lambda server: _floods(["bad", server.devices_port])),
        "1000 reconnects": (_nothing, lambda server: _floods(["reconnects", server.port, 1000])),
        "30 paused clients": (_nothing, _paused),
        "20 clients that do not read": (_big_topic, lambda server: _floods(["stuck", server.port, 20, "orders"])),
    }


def _longest_lag_ms(server: Server) -> float:
    """Return what the server says of its own loop: a request of ours waits its turn among others'."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
        found = re.search(rb"^robodyne_event_loop_lag_seconds (\S+)", answer.read(), re.MULTILINE)
    return float(found[1]) * 1000 if found else 0.0


def _nothing(rig: Rig, folder: Path) -> None:
    """Need nothing beforehand."""


def _make_robots(server: Server) -> None:
    for number in range(4):
        _tell(server, {"msg_type": "Albabot", "robot_id": f"flood-{number}", "status": "IDLE"})


def _tell(server: Server, *messages: dict[str, object]) -> None:
    with socket.create_connection(("127.0.0.1", server.devices_port)) as device, device.makefile("rwb") as stream:
        for message in messages:
            stream.write(json.dumps(message).encode() + b"\n")
            stream.flush()
            if json.loads(stream.readline())["status"] != "success":
                raise BenchError("a message was refused")


def _big_topic(rig: Rig, folder: Path) -> None:
    """Store 85 MB of open orders, as another program would."""
    with rig.server(folder) as server:
        server.terminate()
    with contextlib.closing(sqlite3.connect(folder / "robodyne.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO order_(id, status, note, timestamp) VALUES (?, 'PLACED', ?, '2026-01-01T12:00:00.000000Z')",
            [(number, BIG_NOTE) for number in range(1, BIG_ORDERS + 1)],
        )
        connection.execute("COMMIT")


@contextlib.contextmanager
def _floods(*commands: list[object]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for command in commands:
            process = _start(command)
            stack.callback(_end, process)
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise BenchError(f"{command[0]}: the load did not start")
        yield


@contextlib.contextmanager
def _paused(server: Server) -> Iterator[None]:
    """Thirty clients pause at different offsets of 900 events of 60 KB, then resume without reading."""
    process = _start(["paused", server.port, 30, "events"])
    try:
        assert process.stdin is not None and process.stdout is not None
        event: dict[str, object] = {"msg_type": "Event", "type": "INFO", "data": "x" * 60_000}
        while (said := process.stdout.readline()) == "paused\n":
            _tell(server, *[event] * (EVENTS // 30))
            process.stdin.write("\n")
            process.stdin.flush()
        if said != "ready\n":
            raise BenchError("the paused clients did not start")
        yield
    finally:
        _end(process)


def _start(command: list[object]) -> "subprocess.Popen[str]":
    """Start a load; like this process it keeps to the load's core."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "flood.py"), *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class _MemoryWatch:
    """Looks ten times a second how much memory the server takes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most_mib = 0.0

    def __enter__(self) -> "_MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(0.1):
            self.most_mib = max(self.most_mib, resident_kib(self._server.pid) / 1024)
