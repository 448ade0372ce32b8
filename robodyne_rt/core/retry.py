"""How long to wait before trying again: longer each time, up to a bound."""


class Backoff:
    """Pauses that double from `first_s` to `longest_s` (seconds), until something worked."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next_s(self) -> float:
        """Return the pause before the next try."""
        pause_s, self._next_s = self._next_s, min(self._longest_s, 2 * self._next_s)
        return pause_s

    def reset(self) -> None:
        """Begin anew: it worked."""
        self._next_s = self._first_s
