"""Whether the wall clock can be believed where something would be deleted for its age (SPEC section 2).

A clock that was wrong for a while must delete nothing: nothing is deleted in the first hour after a start or a jump, nor while
the clock is far ahead of what the last run noted and the kernel does not call it synchronised.
"""

CALM_S = 3600.0
"""How long a clock must have run evenly."""

JUMP_S = 60.0
"""More than this between wall clock and running time is a jump."""

LEAD_S = 35 * 86400.0
"""A box may have been off for so long; a clock that is further ahead of the note is doubtful."""


class ClockWatch:
    """Told the time now and then; `now` is monotonic seconds, `wall` epoch seconds.

    Args:
        noted_at: newest time that an earlier run noted, in epoch seconds; 0 where there is none.
    """

    def __init__(self, *, noted_at: float, wall: float, now: float) -> None:
        self._calm_since = now
        self._wall, self._now = wall, now
        # What the wall clock would show if it had been right at the note, and the box had not been off.
        self._noted_at, self._noted_now = noted_at, now
        self._is_synchronised = False
        self._jump_s, self._jumped_at = 0.0, float("-inf")
        self.is_doubtful = bool(noted_at) and wall > noted_at + LEAD_S

    def tick(self, *, wall: float, now: float, is_synchronised: bool) -> bool:
        """Take the time; return whether the clock jumped since the last time."""
        step = (wall - self._wall) - (now - self._now)
        self._wall, self._now = wall, now
        if has_jumped := abs(step) > JUMP_S:
            self._calm_since = now
            self._jump_s, self._jumped_at = step, now
        self._is_synchronised = is_synchronised
        if is_synchronised:
            self._noted_at, self._noted_now = wall, now
        self.is_doubtful = bool(self._noted_at) and wall > self._noted_at + (now - self._noted_now) + LEAD_S
        return has_jumped

    def believed_at(self, *, wall: float, now: float) -> float:
        """Return the time to be noted for the next run: by the wall clock where it can be believed, else by running time."""
        running = self._noted_at + (now - self._noted_now)
        if self._is_synchronised or not self._noted_at:
            return wall
        return running if self.is_doubtful else max(wall, running)

    @property
    def recent_jump_s(self) -> float | None:
        """By how much the clock jumped within the last hour (ahead is positive); None where it did not."""
        return self._jump_s if self._now - self._jumped_at < CALM_S else None

    @property
    def may_delete(self) -> bool:
        """Whether what is old by the wall clock may be deleted."""
        return not self.is_doubtful and self._now - self._calm_since >= CALM_S
