"""Ids that the server gives before storing: in the order of happening, below 2^53, unique over nodes (SPEC section 2).

41 bits of milliseconds since 2024, 5 bits of node, 7 bits of sequence. A JavaScript number holds them exactly, and the
primary key's order is the order of time, so that "the last 20" needs no index. The wall clock only seeds the milliseconds:
from there on they advance by running time, always above every id that is stored, so that a clock that is wrong, at start or
later, changes the order of nothing.
"""

_ORIGIN_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z
_NODE_BITS = 5
_SEQUENCE_BITS = 7
_LOW_BITS = _NODE_BITS + _SEQUENCE_BITS

MAX_SEED_MS = 1 << 40
"""The year 2058."""

MAX_LEAP_MS = 400 * 86_400_000
"""A box that was off for longer goes on from here: no id says more of the time than that it is later."""


class IdGenerator:
    """Gives ids of one node: `IdGenerator(wall=time.time(), now=time.monotonic()).next(time.monotonic())`.

    Args:
        wall: epoch seconds at `now`, which is monotonic seconds.
        above: an id that every new one must lie above: the newest that is stored.
    """

    def __init__(self, *, node: int = 0, wall: float, now: float, above: int = 0) -> None:
        if not 0 <= node < 1 << _NODE_BITS:
            raise ValueError(f"node {node} is not in 0..{(1 << _NODE_BITS) - 1}")
        self._node = node << _SEQUENCE_BITS
        self._last_ms = max(0, above >> _LOW_BITS)
        self._sequence = 1 << _SEQUENCE_BITS  # of that millisecond others may have given some
        # A clock that shows the year 2099 must not use up what is left below 2^53.
        latest_ms = min(MAX_SEED_MS, self._last_ms + MAX_LEAP_MS) if above else MAX_SEED_MS
        self._seed_ms = max(min(int(wall * 1000) - _ORIGIN_MS, latest_ms), self._last_ms + 1)
        self._seeded_at = now
        self.newest = above
        """The newest id that was given or seen."""

    def next(self, now: float) -> int:
        """Return an id above every id given or seen before; `now` is monotonic seconds."""
        now_ms = self._seed_ms + int((now - self._seeded_at) * 1000)
        if now_ms > self._last_ms:
            self._last_ms, self._sequence = now_ms, 0
        else:
            self._sequence += 1
            if self._sequence >> _SEQUENCE_BITS:
                self._last_ms, self._sequence = self._last_ms + 1, 0
        id = self.newest = self._last_ms << _LOW_BITS | self._node | self._sequence
        return id

    def stay_above(self, id: int, now: float) -> None:
        """Give only ids above this one, which somebody else gave."""
        ms = id >> _LOW_BITS
        self.newest = max(self.newest, id)
        if ms >= self._last_ms:
            self._last_ms, self._sequence = ms, 1 << _SEQUENCE_BITS
            self._seed_ms = max(self._seed_ms, ms + 1 - int((now - self._seeded_at) * 1000))

    def bound(self, now: float) -> int:
        """Return a number that no id lies below from now on; for any thread."""
        return max(self._seed_ms + int((now - self._seeded_at) * 1000), self._last_ms) << _LOW_BITS
