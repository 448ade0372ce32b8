"""What a change costs: CPU time of the server per event and per commit, beside another checkout, round by round in turn."""

import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path

from figures import CLIENT_TIMEOUT_S, Scale
from postgres import cluster, fresh
from rig import PROJECT, BenchError, Rig, cpu_s

from robodyne_rt.sim.cluster import Cluster

CASES = {"per event (100 in flight)": 100, "per commit (1 in flight)": 1}


def compare(rig: Rig, scale: Scale, other: Path) -> str:
    """Return a table of the medians of both and of the ratios, pair by pair; this checkout divided by the other.

    Raises:
        BenchError: the other checkout has no server that can be started.
    """
    if not (other / ".venv/bin/robodyne-rt").exists():
        raise BenchError(f"{other} has no .venv: run scripts/setup dev there")
    lines = [f"{'CPU time of the server':44} {'this':>9} {'other':>9} {'ratio':>7}  rounds"]
    with contextlib.ExitStack() as stack:
        servers = {"SQLite": None, "Postgres": stack.enter_context(cluster())}
        for store, postgres in servers.items():
            pairs: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
            for number in range(scale.rounds):
                rig.note(f"{store}: round {number + 1} of {scale.rounds}")
                order = (PROJECT, other) if number % 2 else (other, PROJECT)
                measured = {checkout: _measure(rig, scale, checkout, postgres) for checkout in order}
                for case in CASES:
                    pairs[case].append((measured[PROJECT][case], measured[other][case]))
            for case, values in pairs.items():
                ratios = [this / that for this, that in values]
                this, that = (statistics.median(column) for column in zip(*values, strict=True))
                lines.append(
                    f"{store + ' ' + case:44} {this:6.1f} us {that:6.1f} us {statistics.median(ratios):7.3f}  "
                    f"{min(ratios):.2f}-{max(ratios):.2f}"
                )
    return "\n".join(lines)


def _measure(rig: Rig, scale: Scale, checkout: Path, postgres: Cluster | None) -> dict[str, float]:
    """Return microseconds of CPU time per event, by case."""
    with _server(rig, checkout, postgres) as (pid, port, client):
        found = {}
        for case, window in CASES.items():
            count = scale.pipelined if window > 1 else scale.single
            client.ask(f"ingest {port} 1 {window} {max(window, count // 10)} {CLIENT_TIMEOUT_S}")
            before = cpu_s(pid)
            client.ask(f"ingest {port} 1 {window} {count} {CLIENT_TIMEOUT_S}")
            found[case] = (cpu_s(pid) - before) / count * 1e6
    return found


@contextlib.contextmanager
def _server(rig: Rig, checkout: Path, postgres: Cluster | None) -> Iterator[tuple[int, int, "object"]]:
    settings: dict[str, object] = {}
    if postgres is not None:
        settings["database__url"] = fresh(postgres).replace("postgresql:", "postgresql+psycopg:")
    with rig.server(rig.new_folder(), checkout=checkout, **settings) as server, rig.load_client() as client:
        yield server.pid, server.devices_port, client
