"""`scripts/year`: a year of events in a few minutes, with retention on: does the file level off, and does anybody feel it?

The wall clock runs faster, everything else in its own time. Steps of retention come as much more often as the events do, so
that they disturb more than in a restaurant. Every other week nothing is deleted, and the week after has twice as much to do:
the 99th percentile of an acknowledgement is compared between moments in which rows are deleted and others.
"""

import argparse
import asyncio
import math
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from robodyne_rt.model import times
from robodyne_rt.ports import Clock
from robodyne_rt.store.log import maintenance, retention
from tests import stores
from tests.contract.running import Running
from tests.faults.rig import quantile
from tests.stores import Store

DAY_S = 86400.0
PAUSED_DAYS = 7

PASS_S = 0.3
"""So long after a step a pass is taken to go on."""


class FastClock(Clock):
    """Its wall time runs `factor` times as fast."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor
        self._started = time.monotonic()
        self._began = time.time() - 366 * DAY_S

    @property
    def days(self) -> float:
        """Days since the start."""
        return (time.monotonic() - self._started) * self._factor / DAY_S

    def wall(self) -> float:
        return self._began + self.days * DAY_S

    def stamp(self) -> str:
        return times.to_text(self.wall())


def size_of(store: Store) -> int:
    """Return the bytes that the events take: the file, or the table with its indexes."""
    if store.kind == "sqlite":
        return store.path.stat().st_size
    return int(store.ask("SELECT pg_total_relation_size('event')")[0][0])


class Year(NamedTuple):
    """What a year came to.

    Attributes:
        kept: events that are still stored at its end.
        growth: of the size, from the 6th month to the last; 0.1 is ten percent.
        slowdown: the 99th percentile of an acknowledgement while rows are deleted, as a multiple of what it is otherwise.
    """

    events: int
    kept: int
    deleted: int
    growth: float
    slowdown: float

    @property
    def holds(self) -> bool:
        """Whether the size levelled off, and nobody felt the deletions."""
        return self.deleted > 0 and self.growth < 0.1 and self.slowdown < 3


async def run(store: Store, folder: Path, *, minutes: float, per_second: float) -> Year:
    """Let a year pass; print a line a month."""
    clock = FastClock(365 * DAY_S / (minutes * 60))
    steps = max(4.0, 2 * per_second / retention.STEP_ROWS)  # a second
    maintenance.STEP_INTERVAL_S = retention.STEP_INTERVAL_S = 1 / steps
    retention.PASS_INTERVAL_S = 1.0
    retention.JUMP_S = math.inf  # each step of this clock is a jump
    running = Running(store, folder, clock=clock, fallback_interval_s=10, push_deadline_s=0)
    latencies: dict[bool, list[float]] = {True: [], False: []}
    sizes: list[int] = []
    print(f"{store.kind}: {minutes:.0f} min, {per_second:.0f} events a second, {steps:.0f} steps of retention a second")
    print("day   events    deleted   MiB     p50/p99 ms of this month")
    month: list[float] = []
    number, due = 0, time.monotonic()
    deleted, deleted_at = 0, -PASS_S
    while clock.days < 365:
        running.may_delete = int(clock.days / PAUSED_DAYS) % 2 == 1
        sent = time.monotonic()
        body: dict[str, Any] = {"msg_type": "Event", "type": "INFO", "description": f"n-{number:060}", "data": {"n": number}}
        assert isinstance(await running.tell(**body), dict)
        took = time.monotonic() - sent
        if running.writer.stats.rows_expired > deleted:
            deleted, deleted_at = running.writer.stats.rows_expired, sent
        latencies[sent - deleted_at < PASS_S].append(took)
        month.append(took)
        number += 1
        due = max(due + 1 / per_second, time.monotonic() - 0.1)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if clock.days >= 30 * (len(sizes) + 1):
            sizes.append(size_of(store))
            p50, p99 = (quantile(month, share) * 1000 for share in (0.5, 0.99))
            total = running.writer.stats.rows_expired
            print(f"{clock.days:4.0f} {number:8} {total:10} {sizes[-1] / 2**20:7.1f}   {p50:.1f}/{p99:.1f}", flush=True)
            month.clear()
    kept = store.ask("SELECT count(*) FROM event")[0][0]
    await running.stop()
    with_it, without = (quantile(latencies[is_deleting], 0.99) * 1000 for is_deleting in (True, False))
    growth = sizes[-1] / sizes[5] - 1
    print(f"kept {kept} of {number}; the size grew by {growth:.0%} from the 6th month to the last")
    count = len(latencies[True])
    print(f"p99 while rows are deleted {with_it:.2f} ms ({count}), otherwise {without:.2f} ms: x {with_it / without:.2f}")
    return Year(number, kept, running.writer.stats.rows_expired, growth, with_it / without)


def main() -> int:
    """Run it on the stores that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/year", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--minutes", type=float, default=10, help="that a year takes (default: 10)")
    parser.add_argument("--per-second", type=float, default=200, metavar="N", help="events (default: 200)")
    parser.add_argument("--store", choices=("sqlite", "postgres", "all"), default="all")
    options = parser.parse_args()
    good = True
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="robodyne-year-", dir="/var/tmp")))
        for kind in stores.KINDS:
            if options.store in ("all", kind):
                part = folder / kind
                part.mkdir()
                store = stores.make_store(kind, part, lambda: stack.enter_context(stores.cluster()))
                good &= asyncio.run(run(store, part, minutes=options.minutes, per_second=options.per_second)).holds
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
