"""A device beside bulk work (SPEC section 6, last point): its acknowledgement, and the loop, with and without it.

A round measures each workload right after a quiet phase of the same server; the ratio of both is what counts.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import workloads
from figures import Figure, Scale
from postgres import cluster, fresh
from rig import Rig, Server

TIMES_QUIET = 3.0
LAG_MS = 50.0
LOCKED_S = 0.3

Workload = Callable[[Server], AbstractContextManager[None]]


def bulk(rig: Rig, scale: Scale) -> list[Figure]:
    """Foreign bulk updates, locks and backups on SQLite; foreign bulk updates on Postgres."""
    folder = rig.new_folder()
    file = folder / "robodyne.db"
    size_bytes = round(workloads.SIZE_BYTES * min(1.0, scale.stored_changes / Scale().stored_changes))
    with rig.server(folder) as server:
        server.terminate()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        workloads.store_much(connection, size_bytes=size_bytes)
    url = f"sqlite:///{file}"
    figures = _measure(
        rig,
        scale,
        folder,
        {
            "a foreign update of 5000 orders a second": lambda server: workloads.foreign_bulk(url),
            "a foreign update of 5000 robots a second": lambda server: workloads.foreign_bulk(url, "robot"),
            f"a foreign lock of {LOCKED_S * 1000:.0f} ms a second": lambda server: workloads.foreign_lock(url, LOCKED_S),
            f"backups of {size_bytes / 1e6:.0f} MB": workloads.backing_up,
        },
    )
    with cluster() as server_of_ours:
        url = fresh(server_of_ours)
        settings: dict[str, Any] = {"database__url": url.replace("postgresql:", "postgresql+psycopg:")}
        folder = rig.new_folder()
        with rig.server(folder, **settings) as server:
            server.terminate()
        with psycopg.connect(url, autocommit=True) as postgres_connection:
            workloads.store_much(postgres_connection)
        figures += _measure(
            rig,
            scale,
            folder,
            {"a foreign update of 5000 orders a second, on Postgres": lambda server: workloads.foreign_bulk(url)},
            **settings,
        )
    return figures


def _measure(rig: Rig, scale: Scale, folder: Path, beside: dict[str, Workload], **settings: Any) -> list[Figure]:
    figures: list[Figure] = []
    with rig.server(folder, **settings) as server:
        workloads.bystander(server, 1.0)  # what is made at the first message is made
        for name, workload in beside.items():
            waits = Figure("bulk", f"99th percentile of a device beside {name}", "ms", TIMES_QUIET)
            lag = Figure("bulk", f"longest lag of the loop beside {name}", "ms", LAG_MS, compare="value")
            for _ in range(scale.rounds):
                quiet = workloads.bystander(server, 2 * scale.round_s)
                with workload(server):
                    busy = workloads.bystander(server, 2 * scale.round_s)
                waits.add(busy.p99_ms, quiet.p99_ms)
                lag.add(busy.longest_lag_ms)
                rig.note(
                    f"{name}: p50 {quiet.p50_ms:.1f} -> {busy.p50_ms:.1f} ms, p99 {quiet.p99_ms:.1f} -> {busy.p99_ms:.1f} ms, "
                    f"lag {quiet.longest_lag_ms:.0f} -> {busy.longest_lag_ms:.0f} ms"
                )
            figures += [waits, lag]
    figures[0].remarks.append("50 events/s of one device, sent on time; limit: the same without that, right before")
    return figures
