"""Ids that the server gives before storing: time-ordered, below 2^53, unique over nodes (SPEC section 2).

41 bits of milliseconds since 2024, 5 bits of node, 7 bits of sequence. A JavaScript number holds them exactly, and the
primary key's order is the order of time, so that "the last 20" needs no index.
"""

_ORIGIN_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z
_NODE_BITS = 5
_SEQUENCE_BITS = 7


class IdGenerator:
    """Gives ids of one node: `IdGenerator(node=0).next(now_ms)`."""

    def __init__(self, *, node: int = 0) -> None:
        if not 0 <= node < 1 << _NODE_BITS:
            raise ValueError(f"node {node} is not in 0..{(1 << _NODE_BITS) - 1}")
        self._node = node << _SEQUENCE_BITS
        self._last_ms = 0
        self._sequence = 0

    def next(self, now_ms: int) -> int:
        """Return an id above every id given before, even where the clock stands or jumps back."""
        if now_ms > self._last_ms:
            self._last_ms, self._sequence = now_ms, 0
        else:
            self._sequence += 1
            if self._sequence >> _SEQUENCE_BITS:
                self._last_ms, self._sequence = self._last_ms + 1, 0
        return (self._last_ms - _ORIGIN_MS) << (_NODE_BITS + _SEQUENCE_BITS) | self._node | self._sequence
