"""The numbers that the store counts; `/metrics` and the checks of health read them."""

from robodyne_rt.model import times


class WriterStats:
    """Plain numbers, written by the writer's thread only.

    Args:
        now: monotonic time of the start, in seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.commits = 0
        self.commit_s: list[float] = []
        self.batch_sizes: list[int] = []
        self.errors = 0
        self.dead_letters = 0
        self.parked_letters = 0
        self.rows_expired = 0
        self.failures = 0
        self.drained = 0
        self.regressions = 0
        self.wal_pages = 0
        self.newest_change_at = ""
        self.published_at = 0.0
        self.missing_triggers: list[str] = []
        self.cycled_at = now
        self.trouble = ""
        self.lock_lost = ""
        self.spool_unreadable = False

    @property
    def change_lag_s(self) -> float:
        """Age of the newest change when it left for the screens."""
        if not self.newest_change_at:
            return 0.0
        return max(0.0, self.published_at - times.to_epoch_s(self.newest_change_at))
