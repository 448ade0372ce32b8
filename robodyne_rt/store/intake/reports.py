"""What the writer's thread tells the loop after each turn, and the numbers that it counts."""

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from robodyne_rt.core import times
from robodyne_rt.model.changes import Update
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.log.change_log import Lookups

Done = tuple[Write, Any, BaseException | None]
"""A write, its result, or why there is none."""


@dataclass(slots=True)
class Report:
    """What one turn of the writer brings to the loop."""

    updates: list[Update] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    failure: "Failure | None" = None
    drained: int = 0
    """Rows of the spool up to this number are stored."""
    lost: list[Write] = field(default_factory=list)
    """Spooled writes that were told to screens and will not come: parked instead."""
    parked: list[tuple[Write, int, str]] = field(default_factory=list)
    """Writes that became dead letters, with the letter's id and the reason."""
    recovered: bool = False
    lookups: Lookups | None = None
    epoch: str = ""
    """Named where history was lost: the updates are then snapshots of everything."""
    unreadable: list[str] = field(default_factory=list)


class Failure(NamedTuple):
    """The database is away. Everything of this generation and before is the intake's again."""

    generation: int


class WriterStats:
    """Plain numbers that `/metrics` reads; written by the writer's thread only."""

    def __init__(self) -> None:
        self.commits = 0
        self.commit_s: list[float] = []
        self.batch_sizes: list[int] = []
        self.errors = 0
        self.dead_letters = 0
        self.failures = 0
        self.drained = 0
        self.regressions = 0
        self.wal_pages = 0
        self.newest_change_at = ""
        self.published_at = 0.0
        self.missing_triggers: list[str] = []
        self.turned_at = time.monotonic()
        self.trouble = ""
        self.spool_unreadable = False

    @property
    def change_lag_s(self) -> float:
        """Age of the newest change when it left for the screens."""
        if not self.newest_change_at:
            return 0.0
        return max(0.0, self.published_at - times.to_epoch_s(self.newest_change_at))
