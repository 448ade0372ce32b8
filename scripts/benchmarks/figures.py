"""The figures of SPEC section 11: each takes the rig and returns what it measured, side by side with its limit.

A round measures the server and its limit one right after the other; a figure's ratio is the median of its rounds' ratios.
"""

import contextlib
import http.client
import json
import shutil
import socket
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig import BenchError, Program, Rig, Server, checked, cpu_s, resident_kib

CLIENT_TIMEOUT_S = 40.0

MAX_MERGED = 1.05
"""Events per update up to which they still count as sent one at a time."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int = 5
    round_s: float = 3.0
    subscribers: tuple[int, int] = (1000, 100)
    pipelined: int = 10000
    many: int = 5000
    single: int = 1500
    raw_rows: int = 30000
    raw_single_rows: int = 1000
    idle: int = 2000
    closing: int = 5000
    events: int = 500
    stored_tables: int = 10_000
    stored_changes: int = 1_000_000
    reads: int = 100


QUICK = Scale(
    rounds=1,
    round_s=0.3,
    subscribers=(100, 20),
    pipelined=500,
    many=300,
    single=100,
    raw_rows=2000,
    raw_single_rows=100,
    idle=200,
    closing=200,
    events=50,
    stored_tables=500,
    stored_changes=20_000,
    reads=20,
)


@dataclass(slots=True)
class Figure:
    """One line of the table.

    Args:
        target: bound of the ratio, of the difference, or of the measured value itself, as `compare` says; None: none is set.
        compare: `ratio` (measured / limit), `difference` (measured - limit) or `value`.
        at_least: the target is a lower bound.
    """

    group: str
    name: str
    unit: str
    target: float | None
    compare: str = "ratio"
    at_least: bool = False
    measured: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    spoiled: str = ""
    """Why the result does not count, whatever it is: the conditions did not hold."""

    def add(self, measured: float, limit: float | None = None) -> None:
        """Note one round."""
        self.measured.append(measured)
        if limit is not None:
            self.limits.append(limit)

    @property
    def results(self) -> list[float]:
        """Return what is compared with the target, of each round."""
        if self.compare == "value":
            return self.measured
        pairs = list(zip(self.measured, self.limits, strict=True))
        if self.compare == "difference":
            return [measured - limit for measured, limit in pairs]
        return [measured / limit for measured, limit in pairs]

    @property
    def result(self) -> float:
        """Return the median of `results`."""
        return statistics.median(self.results)

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        if self.spoiled:
            return False
        if self.target is None:
            return True
        return self.result >= self.target if self.at_least else self.result <= self.target

    def is_beyond(self, factor: float) -> bool:
        """Whether a ratio is worse than `factor` times its target in every round: other load explains one round,
        not all. Values and differences depend on the machine, and are never."""
        if self.compare != "ratio" or self.target is None or self.spoiled:
            return False
        return max(self.results) < self.target / factor if self.at_least else min(self.results) > self.target * factor

    def as_json(self) -> dict[str, Any]:
        """Return everything, for `--json`."""
        return {
            "group": self.group,
            "name": self.name,
            "unit": self.unit,
            "measured": statistics.median(self.measured),
            "limit": statistics.median(self.limits) if self.limits else None,
            "compare": self.compare,
            "result": self.result,
            "target": self.target,
            "at_least": self.at_least,
            "met": self.met,
            "spoiled": self.spoiled,
            "rounds": {"measured": self.measured, "limit": self.limits},
            "remarks": self.remarks,
        }


def subscribe_one(client: Program, server: Server, count: int, path: str = "/ws/events") -> None:
    client.ask(f"subscribe {server.port} {count} {path} 1")
    client.ask(f"device {server.devices_port}")
    time.sleep(0.05)


def _in_order(answer: dict[str, Any], what: str) -> dict[str, Any]:
    if answer["misordered"]:
        raise BenchError(f"{what}: {answer['misordered']} events came out of order")
    return answer


# -- fan-out ----------------------------------------------------------------------------------------------------------


def fan_out(rig: Rig, scale: Scale) -> list[Figure]:
    """CPU time of the server for one event to one subscriber, against one send() of the C loop; where few subscribe, against
    what the same Python needs for the least of it."""
    group, rate, bursts_per_s, burst = "fan-out", 100, 10, 16
    many, few = scale.subscribers
    alone_many = Figure(group, f"one at a time, {many} subscribers", "µs CPU/message", 1.3)
    alone_few = Figure(group, f"one at a time, {few} subscribers", "µs CPU/message", 1.12)
    in_bursts = Figure(group, f"bursts of {burst}, {many} subscribers", "µs CPU/message", 0.2)
    rounds = max(10, round(scale.round_s * rate))
    server = rig.common_server()
    with (
        rig.load_client() as client,
        rig.limit_loop() as (loop, loop_port),
        rig.bare_commit() as (bare, bare_ports),
    ):

        def cpu_of(pid: int, count: int, per_s: int, bursts: int, size: int) -> tuple[float, dict[str, Any]]:
            before = cpu_s(pid)
            answer = client.ask(f"events {per_s} {bursts} {size} {CLIENT_TIMEOUT_S}")
            used = cpu_s(pid) - before
            client.ask("drop")
            _in_order(answer, f"fan-out to {count}")
            return used * 1e6 / answer["delivered"], answer

        def cpu_per_message(count: int, per_s: int, bursts: int, size: int, together: list[float]) -> tuple[float, float]:
            subscribe_one(client, server, count)
            used, answer = cpu_of(server.pid, count, per_s, bursts, size)
            together.append(answer["delivered"] / answer["frames"])
            return used, answer["frame_bytes"]

        def cpu_per_bare_message(count: int) -> float:
            client.ask(f"subscribe {bare_ports['port']} {count} /ws/events 1")
            client.ask(f"device {bare_ports['devices_port']}")
            time.sleep(0.05)
            return cpu_of(bare.pid, count, rate, rounds, 1)[0]

        def cpu_per_send(count: int, size: float) -> float:
            client.tell(f"raw {loop_port} {count}")
            client.answer(30)
            loop.ask(f"accept {count}", 30)
            client.tell(f"receive 1 {rounds} {CLIENT_TIMEOUT_S}")
            answer = loop.ask(f"fan {rounds} {rate} {round(size)} 1", CLIENT_TIMEOUT_S)
            checked("receive", client.answer(CLIENT_TIMEOUT_S + 5))
            loop.ask("drop")
            client.ask("drop")
            return float(answer["cpu_us_per_send"])

        size = 0.0
        bursts = max(2, round(scale.round_s * bursts_per_s))
        together: dict[str, list[float]] = {figure.name: [] for figure in (alone_many, alone_few, in_bursts)}
        for _ in range(scale.rounds):
            alone, size = cpu_per_message(many, rate, rounds, 1, together[alone_many.name])
            limit = cpu_per_send(many, size)
            alone_many.add(alone, limit)
            in_bursts.add(cpu_per_message(many, bursts_per_s, bursts, burst, together[in_bursts.name])[0], limit)
            alone_few.add(cpu_per_message(few, rate, rounds, 1, together[alone_few.name])[0], cpu_per_bare_message(few))
        for figure in (alone_many, alone_few, in_bursts):
            figure.remarks += [
                f"{rate} events/s, or {bursts_per_s} bursts/s; an update of one event is {size:.0f} bytes on the wire; "
                "limit: CPU time of one send() of the C loop; with few subscribers: bare aiohttp that commits each event",
                f"{figure.name}: {statistics.median(together[figure.name]):.2f} events in one update",
            ]
        for figure in (alone_many, alone_few):
            merged = statistics.median(together[figure.name])
            if merged > MAX_MERGED:
                # Cheaper per message, but not what was asked: the server was late and sent several events in one write.
                figure.spoiled = "merged"
                figure.remarks.append(f"{figure.name}: the server fell behind; per write {merged * figure.result:.2f}×")
    return [alone_many, alone_few, in_bursts]


# -- latency ----------------------------------------------------------------------------------------------------------


def latency(rig: Rig, scale: Scale) -> list[Figure]:
    """Time from the device's send() until a screen has read the update, against one fdatasync and the C loop's fan-out."""
    group, rate, screens = "latency", 200, scale.subscribers[1]
    figures = {
        "p50_us": Figure(group, f"median, {screens} screens", "µs", 5.0),
        "p99_us": Figure(group, f"99th percentile, {screens} screens", "µs", 8.0),
        "last_p50_us": Figure(group, "median of the slowest screen of each event", "µs", 5.0),
        "last_p99_us": Figure(group, "99th percentile of the slowest screen", "µs", 8.0),
    }
    rounds = max(20, round(scale.round_s * rate))
    syncs = []
    server = rig.common_server()
    with (
        rig.load_client() as client,
        rig.limit_loop() as (loop, loop_port),
    ):
        file = rig.new_folder() / "synced"
        for _ in range(scale.rounds):
            subscribe_one(client, server, screens)
            answer = client.ask(f"events {rate} {rounds} 1 {CLIENT_TIMEOUT_S}")
            client.ask("drop")
            client.tell(f"raw {loop_port} {screens}")
            client.answer(30)
            loop.ask(f"accept {screens}", 30)
            client.tell(f"receive 1 {rounds} {CLIENT_TIMEOUT_S}")
            syncs.append(loop.ask(f"sync {rounds} {rate} {round(answer['frame_bytes'])} 1 {file}", CLIENT_TIMEOUT_S))
            limit = checked("receive", client.answer(CLIENT_TIMEOUT_S + 5))
            loop.ask("drop")
            client.ask("drop")
            for name, figure in figures.items():
                figure.add(answer[name], limit[name])
    p50, p99 = (statistics.median(sync[name] for sync in syncs) for name in ("sync_p50_us", "sync_p99_us"))
    for figure in figures.values():
        figure.remarks.append(
            f"{rate} events/s; limit: 4 KiB written, one fdatasync (median {p50:.0f} µs, 99th percentile {p99:.0f} µs), "
            f"then the C loop's fan-out to {screens}, timed by the same client"
        )
    return list(figures.values())


# -- stuck clients ----------------------------------------------------------------------------------------------------


def stuck(rig: Rig, scale: Scale) -> list[Figure]:
    """Latency of 200 screens while one client never reads and one reads a byte a second, against the same without them."""
    screens = 2 * scale.subscribers[1]
    figure = Figure("stuck", f"99th percentile of {screens} screens beside two stuck clients", "µs", 1.1)
    rounds = max(20, round(scale.round_s * 200))
    server = rig.common_server()
    with rig.load_client() as client:
        for number in range(scale.rounds):
            p99 = {}
            # Both begin with the same flood of events, whose writing busies the disk for a while; each comes first in turn.
            for count in (0, 2) if number % 2 else (2, 0):
                with _stuck_clients(server, count):
                    p99[count] = _latency_p99(client, server, screens, rounds)
            figure.add(p99[2], p99[0])
    figure.remarks.append(
        "200 events/s; each round begins with 16 MB of events, with and without, which the stuck clients do not take"
    )
    return [figure]


def _latency_p99(client: Program, server: Server, screens: int, rounds: int) -> float:
    subscribe_one(client, server, screens)
    answer = client.ask(f"events 200 {rounds} 1 {CLIENT_TIMEOUT_S}")
    client.ask("drop")
    p99: float = answer["p99_us"]
    return p99


@contextlib.contextmanager
def _stuck_clients(server: Server, count: int) -> Iterator[None]:
    """Subscribers who do not take the 16 MB they are sent: the server has found all of them slow."""
    with contextlib.ExitStack() as stack:
        found = _slow_clients(server)
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(
                b"GET /ws/events HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            sock.recv(1)
        device = stack.enter_context(socket.create_connection(("127.0.0.1", server.devices_port), timeout=CLIENT_TIMEOUT_S))
        answers = stack.enter_context(device.makefile("rb"))
        # The last lines are short: they fill the window of what new screens get first.
        for size in (*[16_000] * 20, 10):
            device.sendall(b'{"msg_type":"Event","type":"INFO","description":"%s"}\n' % (b"x" * size) * 50)
            for _ in range(50):
                answers.readline()
        if _slow_clients(server) < found + count:
            raise BenchError("the stuck clients were not found slow")
        dripping = threading.Event()
        thread = threading.Thread(target=_drip, args=(sockets[1:], dripping))
        thread.start()
        try:
            yield
        finally:
            dripping.set()
            thread.join()


def _drip(sockets: list[socket.socket], done: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while not done.wait(1.0):
            for sock in sockets:
                sock.recv(1)


def _slow_clients(server: Server) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=CLIENT_TIMEOUT_S)
    text = _get(connection, "/metrics", as_json=False).decode()
    connection.close()
    line = next(line for line in text.splitlines() if line.startswith('robodyne_ws_slow_clients_total{topic="events"}'))
    return float(line.split()[-1])


# -- ingest -----------------------------------------------------------------------------------------------------------


def ingest(rig: Rig, scale: Scale) -> list[Figure]:
    """Events per second, each acknowledged after its commit, against raw sqlite3 inserting the same rows."""
    group = "ingest"
    pipelined = Figure(group, "one connection, 100 in flight", "events/s", 0.15, at_least=True)
    many = Figure(group, "100 connections, 1 in flight each", "events/s", 0.05, at_least=True)
    single = Figure(group, "one connection, 1 in flight", "events/s", 0.3, at_least=True)
    cases = ((pipelined, 1, 100, scale.pipelined), (many, 100, 1, scale.many), (single, 1, 1, scale.single))
    executemany = []
    server = rig.common_server()
    with rig.load_client() as client:
        for _ in range(scale.rounds):
            batched = rig.raw_sqlite(scale.raw_rows, 100)
            executemany.append(batched["executemany"])
            alone = rig.raw_sqlite(scale.raw_single_rows, 1)
            for figure, connections, window, count in cases:
                subscribe_one(client, server, 1)
                command = f"ingest {server.devices_port} {connections} {window} {count} {CLIENT_TIMEOUT_S}"
                answer = client.ask(command)
                client.ask("drop")
                figure.add(count / answer["seconds"], (alone if figure is single else batched)["execute"])
    for figure in (pipelined, many):
        figure.remarks.append(
            "limit: sqlite3, one execute per row, 100 rows per FULL commit "
            f"(with executemany: {statistics.median(executemany):.0f} rows/s)"
        )
    single.remarks.append("limit: sqlite3, one row per FULL commit")
    return [pipelined, many, single]


# -- memory, shutdown, ready --------------------------------------------------------------------------------------------


def memory(rig: Rig, scale: Scale) -> list[Figure]:
    """Resident memory of an idle connection, against one of bare aiohttp."""
    figure = Figure("memory", f"per idle connection, {scale.idle} of them", "KiB", 2.0, compare="difference")
    warm = max(10, scale.idle // 20)

    def per_connection(client: Program, pid: int, subscribe: Callable[[int], str]) -> float:
        client.ask(subscribe(warm))  # what is made once belongs to no connection
        time.sleep(0.2)
        before = resident_kib(pid)
        client.ask(subscribe(scale.idle))
        time.sleep(0.3)
        used = (resident_kib(pid) - before) / scale.idle
        client.ask("drop")
        return used

    for _ in range(scale.rounds):
        with rig.load_client() as client:
            with rig.server(rig.new_folder()) as server:
                ours = per_connection(client, server.pid, lambda count: f"subscribe {server.port} {count} /ws/robots 1")
            with rig.bare_aiohttp() as (bare, port):
                theirs = per_connection(client, bare.pid, lambda count: f"subscribe {port} {count} / 0")
        figure.add(ours, theirs)
    figure.remarks.append("growth of Rss; limit: bare aiohttp on the same loop")
    return [figure]


def shutdown(rig: Rig, scale: Scale) -> list[Figure]:
    """Time from SIGTERM to the end of the process, everybody told and closed with 1001."""
    figure = Figure("shutdown", f"{scale.closing} connections, SIGTERM to exit", "s", 2.0, compare="value")
    for _ in range(scale.rounds):
        with rig.load_client() as client, rig.server(rig.new_folder()) as server:
            client.ask(f"subscribe {server.port} {scale.closing} /ws/events 1")
            time.sleep(0.3)
            client.tell(f"closing {CLIENT_TIMEOUT_S}")
            figure.add(server.terminate())
            answer = client.answer(CLIENT_TIMEOUT_S + 5)
            if not answer["told"] == answer["closed_1001"] == answer["gone"] == scale.closing:
                raise BenchError(f"shutdown: not everybody was told and closed: {json.dumps(answer)}")
    figure.remarks.append("every client read `shutdown` and close 1001")
    return [figure]


def ready(rig: Rig, scale: Scale) -> list[Figure]:
    """Time from exec to ready: with a new database, and with one that exists."""
    first = Figure("ready", "first start, makes the database", "s", 1.0, compare="value")
    again = Figure("ready", "next start", "s", 1.0, compare="value")
    if not rig.servers_started:
        with rig.server(rig.new_folder()):
            pass  # Python compiles what it has not run before
    for _ in range(scale.rounds):
        folder = rig.new_folder()
        for figure in (first, again):
            with rig.server(folder) as server:
                figure.add(server.ready_s)
                status = _get(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10), "/readyz", as_json=False)
                if status != b"ok\n":
                    raise BenchError(f"/readyz: {status!r}")
                server.terminate()
    return [first, again]


# -- independence of size -------------------------------------------------------------------------------------------------


def size(rig: Rig, scale: Scale) -> list[Figure]:
    """Cost per event, per snapshot and per resume with a full database, against the same with an empty one."""
    group = "size"
    per_event = Figure(group, "an event, 1 subscriber", "µs CPU", 1.3)
    per_snapshot = Figure(group, "snapshots of events and robots, read from the database", "µs CPU", 1.3)
    per_resume = Figure(group, "a resume that reads the log", "µs CPU", 1.3)
    settings: dict[str, Any] = {"database__changes_retained": 10**9, "hub__ping_interval_s": 600}
    folders = {name: rig.new_folder() for name in ("empty", "full")}
    with rig.server(folders["empty"], **settings) as server:
        server.terminate()
    shutil.copytree(folders["empty"], folders["full"], dirs_exist_ok=True)
    rig.note(f"size: storing {scale.stored_tables} tables and {scale.stored_changes} changes")
    _store_much(folders["full"], tables=scale.stored_tables, changes=scale.stored_changes)
    for folder in folders.values():
        _store_little(folder)
    with rig.load_client() as client:
        for _ in range(scale.rounds):
            found: dict[str, tuple[float, float, float]] = {}
            for name, folder in folders.items():
                with rig.server(folder, **settings) as server:
                    snapshot, resume = _cost_of_reads(server, scale)
                    subscribe_one(client, server, 1)
                    before = cpu_s(server.pid)
                    client.ask(f"events 250 {scale.events} 1 {CLIENT_TIMEOUT_S}")
                    found[name] = ((cpu_s(server.pid) - before) * 1e6 / scale.events, snapshot, resume)
                    client.ask("drop")
                    server.terminate()
            for figure, full, empty in zip((per_event, per_snapshot, per_resume), found["full"], found["empty"], strict=True):
                figure.add(full, empty)
    remark = f"{scale.stored_tables} rows of table_, {scale.stored_changes} of change; limit: the same with an empty database"
    for figure in (per_event, per_snapshot, per_resume):
        figure.remarks.append(remark)
    return [per_event, per_snapshot, per_resume]


def _cost_of_reads(server: Server, scale: Scale) -> tuple[float, float]:
    """Return the CPU time of the first snapshots after a start, and of a resume from 20 events ago, in us."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    _get(connection, "/api/systemlogs")  # a reader's connection and the HTTP path are made by now
    before = cpu_s(server.pid)
    events = _get(connection, "/api/events")
    _get(connection, "/api/robots")
    snapshot = (cpu_s(server.pid) - before) * 1e6
    path = f"/api/events?since={events['offset'] - 20}&epoch={events['epoch']}"
    before = cpu_s(server.pid)
    for _ in range(scale.reads):
        if not _get(connection, path).get("recovered"):
            raise BenchError(f"{path}: not recovered")
    resume = (cpu_s(server.pid) - before) * 1e6 / scale.reads
    connection.close()
    return snapshot, resume


def _get(connection: http.client.HTTPConnection, path: str, *, as_json: bool = True) -> Any:
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise BenchError(f"{path}: {response.status} {body[:200]!r}")
    return json.loads(body) if as_json else body


def _store_little(folder: Path) -> None:
    """Store what both databases have: 20 robots, and 50 events as the newest changes."""
    connection = sqlite3.connect(folder / "robodyne.db", isolation_level=None)
    connection.execute("BEGIN")
    for number in range(20):
        connection.execute("INSERT INTO robot(robot_id, type) VALUES (?, 'ALBABOT')", (f"alba-{number}",))
    _store_events(connection, first_id=100_000_000, count=50)
    connection.execute("COMMIT")
    connection.close()


def _store_events(connection: sqlite3.Connection, *, first_id: int, count: int) -> None:
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO event(id, type, severity, description, timestamp, acknowledged_at)"
        " SELECT ? + i, 'CALL', 'INFO', 'the soup is cold', '2026-01-01T12:00:00.000Z', '2026-01-01T12:01:00.000Z' FROM n",
        (count, first_id),
    )


def _store_much(folder: Path, *, tables: int, changes: int) -> None:
    """Fill a database as years would; a tenth of the changes have their event, the others' were deleted since."""
    events = changes // 10
    connection = sqlite3.connect(folder / "robodyne.db", isolation_level=None)
    execute = connection.execute
    execute("PRAGMA synchronous = OFF")
    execute("BEGIN")
    execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO table_(table_number, updated_at) SELECT i, '2026-01-01T12:00:00.000Z' FROM n",
        (tables,),
    )
    (head,) = execute("SELECT \"offset\" FROM topic_head WHERE topic = 'events'").fetchone()
    execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        ' INSERT INTO change(topic, "offset", key, op, at)'
        " SELECT 'events', ? + i, i, 'upsert', '2026-01-01T12:00:00.000Z' FROM n",
        (changes - events, head),
    )
    execute('UPDATE topic_head SET "offset" = "offset" + ? WHERE topic = \'events\'', (changes - events,))
    _store_events(connection, first_id=1_000_000, count=events)
    execute("COMMIT")
    execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


FIGURES: dict[str, Callable[[Rig, Scale], list[Figure]]] = {
    "fan-out": fan_out,
    "latency": latency,
    "stuck": stuck,
    "ingest": ingest,
    "memory": memory,
    "shutdown": shutdown,
    "ready": ready,
    "size": size,
}
