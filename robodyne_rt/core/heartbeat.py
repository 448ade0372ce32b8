"""Is the other side still there? (SPEC section 3: ping every 30 s, 10 s to answer, 3 misses in a row.)"""

from typing import Literal

Decision = Literal["ping", "expired"] | None


class Heartbeat:
    """The heartbeat of one connection; `now` is monotonic seconds.

    A miss does not hurry the next ping: pings leave every `interval_s`, answered or not.
    """

    __slots__ = ("_deadline", "_misses", "_next_ping", "interval_s", "max_missed", "timeout_s")

    def __init__(self, now: float, *, interval_s: float, timeout_s: float, max_missed: int) -> None:
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self.max_missed = max_missed
        self._next_ping = now + interval_s
        self._deadline: float | None = None
        self._misses = 0

    @property
    def due(self) -> float:
        """When `tick` has something to decide next."""
        return self._next_ping if self._deadline is None else min(self._deadline, self._next_ping)

    def pong(self) -> None:
        """Note an answer."""
        self._deadline = None
        self._misses = 0

    def tick(self, now: float) -> Decision:
        """Return what to do at `now`: send a ping, give up, or nothing."""
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._misses += 1
            if self._misses >= self.max_missed:
                return "expired"
        if now < self._next_ping:
            return None
        self._next_ping = now + self.interval_s
        if self._deadline is None:
            self._deadline = now + self.timeout_s
        return "ping"
