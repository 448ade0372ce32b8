"""What a change costs: CPU time of the server per event and per commit, beside another checkout.

In a round both serve at the same time and get short bursts in turn, so that what else the machine does meets both alike; each
round has new processes, because two starts of the same program differ by some percent.
"""

import contextlib
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

from figures import CLIENT_TIMEOUT_S, Scale
from postgres import cluster, fresh
from rig import PROJECT, BenchError, Program, Rig, cpu_s

from robodyne_rt.sim.cluster import Cluster

CASES = {"per event (100 in flight)": 100, "per commit (1 in flight)": 1}

BURSTS = 15
"""Per case, round and checkout; the median of their ratios is the round's."""


def compare(rig: Rig, scale: Scale, other: Path) -> str:
    """Return a table of the medians of both, and of the rounds' ratios; this checkout divided by the other.

    Raises:
        BenchError: the other checkout has no server that can be started.
    """
    if not (other / ".venv/bin/robodyne-rt").exists():
        raise BenchError(f"{other} has no .venv: run scripts/setup dev there")
    lines = [f"{'CPU time of the server':44} {'this':>9} {'other':>9} {'ratio':>7}  rounds"]
    with contextlib.ExitStack() as stack:
        servers = {"SQLite": None, "Postgres": stack.enter_context(cluster())}
        for store, postgres in servers.items():
            rounds: dict[str, list[list[tuple[float, float]]]] = {case: [] for case in CASES}
            for number in range(scale.rounds):
                rig.note(f"{store}: round {number + 1} of {scale.rounds}")
                for case, pairs in _round(rig, scale, (PROJECT, other), postgres, flip=bool(number % 2)).items():
                    rounds[case].append(pairs)
            for case, found in rounds.items():
                ratios = [statistics.median(this / that for this, that in pairs) for pairs in found]
                this, that = (statistics.median(column) for column in zip(*itertools.chain(*found), strict=True))
                lines.append(
                    f"{store + ' ' + case:44} {this:6.1f} us {that:6.1f} us {statistics.median(ratios):7.3f}  "
                    f"{min(ratios):.2f}-{max(ratios):.2f}"
                )
    return "\n".join(lines)


def _round(
    rig: Rig, scale: Scale, checkouts: tuple[Path, Path], postgres: Cluster | None, *, flip: bool
) -> dict[str, list[tuple[float, float]]]:
    """Return microseconds of CPU time per event, a pair for each burst, by case."""
    with contextlib.ExitStack() as stack:
        started = reversed(checkouts) if flip else checkouts
        servers = {checkout: stack.enter_context(_server(rig, checkout, postgres)) for checkout in started}
        found: dict[str, list[tuple[float, float]]] = {}
        for case, window in CASES.items():
            count = max(window, (scale.pipelined if window > 1 else scale.single) // BURSTS)
            for checkout in checkouts:
                _burst(servers[checkout], window, count)
            found[case] = []
            for number in range(BURSTS):
                order = checkouts if number % 2 else checkouts[::-1]
                took = {checkout: _burst(servers[checkout], window, count) for checkout in order}
                found[case].append((took[checkouts[0]], took[checkouts[1]]))
        return found


def _burst(server: tuple[int, int, Program], window: int, count: int) -> float:
    """Return microseconds of CPU time per event."""
    pid, port, client = server
    before = cpu_s(pid)
    client.ask(f"ingest {port} 1 {window} {count} {CLIENT_TIMEOUT_S}")
    return (cpu_s(pid) - before) / count * 1e6


@contextlib.contextmanager
def _server(rig: Rig, checkout: Path, postgres: Cluster | None) -> Iterator[tuple[int, int, Program]]:
    settings: dict[str, object] = {}
    if postgres is not None:
        settings["database__url"] = fresh(postgres).replace("postgresql:", "postgresql+psycopg:")
    with rig.server(rig.new_folder(), checkout=checkout, **settings) as server, rig.load_client() as client:
        yield server.pid, server.devices_port, client
