"""The server on Postgres: ingest against raw inserts, and what its change log costs other programs that write there.

The specification names no target for these; they are measured so that nobody has to guess.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from figures import CLIENT_TIMEOUT_S, Figure, Scale, subscribe_one
from rig import HERE, BenchError, Rig

from robodyne_rt.sim.cluster import Cluster, NoPostgres
from robodyne_rt.store.engine.postgres import wanted_triggers

WRITERS = 8


def postgres(rig: Rig, scale: Scale) -> list[Figure]:
    """Ingest, and foreign writers without a log, with notes, and with the doorbell."""
    group = "postgres"
    pipelined = Figure(group, "ingest, one connection, 100 in flight", "events/s", None)
    many = Figure(group, "ingest, 100 connections, 1 in flight each", "events/s", None)
    single = Figure(group, "ingest, one connection, 1 in flight", "events/s", None)
    noted = Figure(group, f"{WRITERS} foreign writers, changes noted and given offsets", "commits/s", None)
    rung = Figure(group, f"{WRITERS} foreign writers, with the doorbell", "commits/s", None)
    cases = ((pipelined, 1, 100, scale.pipelined), (many, 100, 1, scale.many), (single, 1, 1, scale.single))
    with cluster() as server_of_ours:
        for _ in range(scale.rounds):
            url = fresh(server_of_ours)
            batched = _raw(rig, "rows", url, scale.raw_rows // 3, 100)
            alone = _raw(rig, "rows", url, scale.raw_single_rows, 1)
            settings: dict[str, Any] = {
                "database__url": url.replace("postgresql:", "postgresql+psycopg:"),
                "database__doorbell": "false",
                "database__push_deadline_ms": 0,
            }
            with rig.server(rig.new_folder(), **settings) as server, rig.load_client() as client:
                for figure, connections, window, count in cases:
                    subscribe_one(client, server, 1)
                    answer = client.ask(f"ingest {server.devices_port} {connections} {window} {count} {CLIENT_TIMEOUT_S}")
                    client.ask("drop")
                    figure.add(count / answer["seconds"], alone if figure is single else batched)
                _furnish(url)
                with_notes = _foreign(rig, url, scale.round_s)
            with rig.server(rig.new_folder(), **{**settings, "database__doorbell": "true"}):
                with_bell = _foreign(rig, url, scale.round_s)
            _silence(url)
            without = _foreign(rig, url, scale.round_s)
            noted.add(with_notes, without)
            rung.add(with_bell, without)
    for figure in (pipelined, many):
        figure.remarks.append("limit of ingest: psycopg, one execute per row, 100 rows per commit")
    single.remarks.append("limit of ingest with 1 in flight: psycopg, one row per commit")
    for figure in (noted, rung):
        figure.remarks.append(
            "limit of foreign writers: the same without triggers and server; all share the load's core with them"
        )
    return [pipelined, many, single, noted, rung]


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="robodyne-bench-pg-", dir="/var/tmp" if os.access("/var/tmp", os.W_OK) else None))
    folder.chmod(0o755)
    try:
        started = Cluster(folder / "cluster", "max_connections=100")
        yield started.start()
        started.stop(signal.SIGQUIT)
    except NoPostgres as error:
        raise BenchError(str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fresh(cluster: Cluster) -> str:
    """Return the URL of a fresh, empty database."""
    with psycopg.connect(cluster.libpq_url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS robodyne WITH (FORCE)")
        connection.execute("CREATE DATABASE robodyne")
    return cluster.libpq_url


def _furnish(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for number in range(1, WRITERS + 1):
            connection.execute("INSERT INTO robot(id, robot_id) VALUES (%s, %s)", (number, f"f{number}"))
            connection.execute("INSERT INTO table_(id, table_number) VALUES (%s, %s)", (number, number))


def _silence(url: str) -> None:
    """Take the triggers away: the limit."""
    with psycopg.connect(url, autocommit=True) as connection:
        for name, statement in wanted_triggers(doorbell=True).items():
            table = statement.partition(" ON ")[2].split()[0].rpartition(".")[2]
            connection.execute(f'DROP TRIGGER IF EXISTS "{name}" ON {table}')


def _raw(rig: Rig, kind: str, url: str, first: int, second: float) -> float:
    command = [sys.executable, str(HERE / "raw_postgres.py"), kind, url, str(first), str(second)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    figure: float = json.loads(done.stdout)
    return figure


def _foreign(rig: Rig, url: str, seconds: float) -> float:
    """Return commits per second of all foreign writers together."""
    command = [sys.executable, str(HERE / "raw_postgres.py"), "write", url]
    writers = [
        subprocess.Popen([*command, str(number), str(seconds)], stdout=subprocess.PIPE, text=True)
        for number in range(1, WRITERS + 1)
    ]
    total = 0.0
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        if writer.returncode:
            raise BenchError("a foreign writer failed")
        total += json.loads(out)
    return total
