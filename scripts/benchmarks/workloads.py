"""What is measured beside: a device that says something fifty times a second, and bulk work that must not hold it up.

Each workload is a context manager that works until it is left.
"""

import contextlib
import http.client
import json
import select
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rig import HERE, BenchError, Server

EVERY_S = 0.02
ANSWER_WITHIN_S = 15.0
BULK_ROWS = 5000
SIZE_BYTES = 280_000_000


class Waits(NamedTuple):
    """What a bystander saw, in seconds: of its device messages until they were acknowledged, and of `/livez`."""

    acknowledged: list[float]
    loop: list[float]

    @property
    def p50_ms(self) -> float:
        """Median of the acknowledgements."""
        return quantile(self.acknowledged, 0.5) * 1000

    @property
    def p99_ms(self) -> float:
        """99th percentile of the acknowledgements."""
        return quantile(self.acknowledged, 0.99) * 1000

    @property
    def longest_lag_ms(self) -> float:
        """The longest that the loop let `/livez` wait."""
        return max(self.loop) * 1000


def quantile(values: list[float], part: float) -> float:
    """Return the value that a part of all are below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class _Probe(threading.Thread):
    """Sends on time whether or not the last one was answered: who waits for answers sees one delay of many as one."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._socket = socket.create_connection(("127.0.0.1", server.devices_port), timeout=ANSWER_WITHIN_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ending = threading.Event()
        self.waits: list[float] = []
        self.problem = ""

    def run(self) -> None:
        sent: deque[float] = deque()
        due, rest, number = time.monotonic(), b"", 0
        while sent or not self._ending.is_set():
            now, is_ending = time.monotonic(), self._ending.is_set()
            if now >= due and not is_ending:
                number += 1
                text = {"msg_type": "Event", "id": f"{due}-{number}", "type": "INFO", "description": "a bystander"}
                sent.append(now)
                self._socket.sendall(json.dumps(text).encode() + b"\n")
                due += EVERY_S
            elif select.select([self._socket], [], [], ANSWER_WITHIN_S if is_ending else due - now)[0]:
                lines = (rest + self._socket.recv(65536)).split(b"\n")
                now, rest = time.monotonic(), lines.pop()
                for line in lines:
                    self.waits.append(now - sent.popleft())
                    if json.loads(line)["status"] != "success":
                        self.problem = line.decode()
            elif is_ending:
                self.problem = f"{len(sent)} messages were not answered"
                return

    def finish(self) -> list[float]:
        self._ending.set()
        self.join()
        self._socket.close()
        return self.waits


class _LoopProbe(threading.Thread):
    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_WITHIN_S)
        self._ending = threading.Event()
        self.waits: list[float] = []

    def run(self) -> None:
        while not self._ending.wait(EVERY_S):
            began = time.monotonic()
            self._connection.request("GET", "/livez")
            self._connection.getresponse().read()
            self.waits.append(time.monotonic() - began)

    def finish(self) -> list[float]:
        self._ending.set()
        self.join()
        self._connection.close()
        return self.waits


def bystander(server: Server, seconds: float) -> Waits:
    """Return what a device that says something every 20 ms waits for, and how late the loop is.

    Raises:
        BenchError: a message was refused, or not answered.
    """
    probe, loop = _Probe(server), _LoopProbe(server)
    probe.start()
    loop.start()
    time.sleep(seconds)
    waits = Waits(probe.finish(), loop.finish())
    if probe.problem:
        raise BenchError(f"the bystander: {probe.problem}")
    return waits


# -- bulk work ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def foreign_bulk(url: str, table: str = "order_") -> Iterator[None]:
    """Another program changes 5000 rows in one transaction, once a second; `url`: as in `[database] url`."""
    with _foreign("bulk", url, table):
        yield


@contextlib.contextmanager
def foreign_lock(url: str, held_s: float) -> Iterator[None]:
    """Another program holds the lock of a SQLite file for a while, every second."""
    with _foreign("lock", url, str(held_s)):
        yield


@contextlib.contextmanager
def _foreign(*arguments: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, str(HERE / "foreign.py"), *arguments], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise BenchError("the foreign program failed")
        yield
        if process.poll() is not None:
            raise BenchError("the foreign program ended early")
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def backing_up(server: Server) -> Iterator[None]:
    """One backup after the other is made and deleted; at the end the last one is waited for."""
    ending = threading.Event()
    problems: list[str] = []

    def run() -> None:
        while not ending.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
            connection.request("POST", "/api/backups", "{}", {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            connection.close()
            if response.status != 201:
                problems.append(f"backup: {response.status} {content[:200]!r}")
                return
            Path(json.loads(content)["path"]).unlink()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
    if problems:
        raise BenchError(problems[0])


# -- what it works on ---------------------------------------------------------------------------------------------------


def store_much(connection: Any, *, size_bytes: int = 0) -> None:
    """Store 5000 open orders and 5000 robots; on SQLite also bytes that make the file as large.

    Args:
        connection: of the database's driver, in autocommit mode.
    """
    execute = connection.execute
    is_sqlite = isinstance(connection, sqlite3.Connection)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {BULK_ROWS})"
    execute("BEGIN")
    execute(
        f"INSERT INTO order_(id, status, timestamp) {numbers}"
        " SELECT i, 'PLACED', cast('2026-01-01T12:00:00.000Z' AS {}) FROM n".format("text" if is_sqlite else "timestamptz")
    )
    execute(f"INSERT INTO order_item(order_id, name, quantity) {numbers} SELECT i, 'soup', 1 FROM n")
    execute(f"INSERT INTO robot(id, robot_id, link) {numbers} SELECT i, 'robot ' || i, 'OFFLINE' FROM n")
    execute("COMMIT")
    if size_bytes:
        execute("CREATE TABLE ballast(content)")
        execute("BEGIN")
        for _ in range(size_bytes // 100_000):
            execute("INSERT INTO ballast VALUES (randomblob(100000))")
        execute("COMMIT")
        execute("PRAGMA wal_checkpoint(TRUNCATE)")
