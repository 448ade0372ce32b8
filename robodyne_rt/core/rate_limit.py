"""How much is too much, and when may one again (SPEC sections 3 to 5); `now` is monotonic seconds everywhere."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import NamedTuple


class TokenBucket:
    """Allows `burst` at once and `rate_per_s` in the long run; `now` is monotonic seconds."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, *, rate_per_s: float, burst: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at = float("-inf")

    def take(self, now: float) -> float:
        """Take one token; return 0.0, or the seconds until there is one (then nothing was taken)."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate

    def give(self) -> None:
        """Allow one more."""
        self._tokens += 1.0


class TimeShare:
    """Keeps work to a part of the time: what was done for too long rests, until it may take as much again.

    Args:
        share: part of the time that the work may take in the long run, between 0 and 1.
        burst_s: seconds of work above that share before it rests.
    """

    __slots__ = ("_at", "_burst_s", "_left_s", "_share")

    def __init__(self, *, share: float, burst_s: float) -> None:
        self._share = share
        self._burst_s = burst_s
        self._left_s = burst_s
        self._at = float("-inf")

    def spend(self, started: float, ended: float) -> float:
        """Count work from `started` to `ended` (monotonic seconds); return for how long to rest now, 0.0 to go on."""
        saved_s = min(self._burst_s, self._left_s + (started - self._at) * self._share)
        left_s = self._left_s = saved_s - (ended - started) * (1.0 - self._share)
        self._at = ended
        return 0.0 if left_s > 0.0 else (self._burst_s - left_s) / self._share


class Verdict(NamedTuple):
    """Whether one more is allowed (`retry_after` is zero), and how many are left."""

    retry_after: float
    remaining: int


class SlidingWindow:
    """Allows `limit` in any `window_s` seconds, for each key on its own; quiet keys are forgotten."""

    def __init__(self, *, limit: int, window_s: float, keys_at_most: int = 10_000) -> None:
        self._limit = limit
        self._window_s = window_s
        self._keys_at_most = keys_at_most
        self._taken: OrderedDict[Hashable, deque[float]] = OrderedDict()

    def look(self, key: Hashable, now: float) -> Verdict:
        """Say what `take` would say, without taking."""
        taken = self._taken.get(key)
        if taken is None:
            return Verdict(0.0, self._limit)
        while taken and now - taken[0] >= self._window_s:
            taken.popleft()
        if len(taken) >= self._limit:
            return Verdict(max(1e-9, taken[0] + self._window_s - now), 0)  # never zero, however the sum is rounded
        return Verdict(0.0, self._limit - len(taken))

    def take(self, key: Hashable, now: float) -> Verdict:
        """Count one, if it is allowed."""
        verdict = self.look(key, now)
        if verdict.retry_after:
            return verdict
        self._taken.setdefault(key, deque()).append(now)
        self._taken.move_to_end(key)
        if len(self._taken) > self._keys_at_most:
            self._taken.popitem(last=False)
        return Verdict(0.0, verdict.remaining - 1)

    def give_back(self, key: Hashable) -> None:
        """Count one less: it turned out to cost nothing."""
        if taken := self._taken.get(key):
            taken.pop()
