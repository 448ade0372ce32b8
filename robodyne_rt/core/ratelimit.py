"""How much is too much, and when may one again: a token bucket (SPEC sections 3 and 4)."""


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
