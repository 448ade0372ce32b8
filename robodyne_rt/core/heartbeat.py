"""Is the other side still there? (SPEC section 3: 10 s to answer a ping, 30 s from the answer or the miss to the next one,
3 misses in a row.)"""

from typing import Literal

Decision = Literal["ping", "expired"] | None

REMEMBERED_PINGS = 3
"""How many of the newest pings may still be answered, however late."""

SAME_S = 0.001
"""Two timestamps this close are the same: some peers print fewer digits than they read."""


class Heartbeat:
    """The heartbeat of one connection; `now` is monotonic seconds.

    One ping is awaited at a time. A ping is told apart by the timestamp that it carries, which its pong repeats.
    """

    __slots__ = ("_deadline", "_misses", "_next_ping", "_unanswered", "interval_s", "max_missed", "timeout_s")

    def __init__(self, now: float, *, interval_s: float, timeout_s: float, max_missed: int) -> None:
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self.max_missed = max_missed
        self._next_ping = now + interval_s
        self._deadline: float | None = None
        self._misses = 0
        self._unanswered: tuple[float, ...] = ()

    @property
    def due(self) -> float:
        """When `tick` has something to decide next; an answer may bring it forward."""
        return self._next_ping if self._deadline is None else self._deadline

    def tick(self, now: float, timestamp: float) -> Decision:
        """Return what to do at `now`: send a ping that carries `timestamp`, give up, or nothing."""
        if self._deadline is not None:
            if now < self._deadline:
                return None
            self._deadline = None
            self._misses += 1
            if self._misses >= self.max_missed:
                return "expired"
            self._next_ping = now + self.interval_s
        if now < self._next_ping:
            return None
        self._deadline = now + self.timeout_s
        self._unanswered = (*self._unanswered, timestamp)[-REMEMBERED_PINGS:]
        return "ping"

    def pong(self, now: float, timestamp: float | None) -> None:
        """Note a pong; a late one is an answer too. What answers no ping, or one twice, changes nothing.

        Args:
            timestamp: of the ping that it names; None where it names none, which stands for the newest.
        """
        known = (index for index, sent in enumerate(self._unanswered) if timestamp is None or abs(sent - timestamp) <= SAME_S)
        answered = max(known, default=None)
        if answered is None:
            return
        self._unanswered = self._unanswered[answered + 1 :]
        self._deadline = None
        self._misses = 0
        self._next_ping = now + self.interval_s
