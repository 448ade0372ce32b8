"""Time that is moved by hand."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from robodyne_rt.model import times
from robodyne_rt.ports import Clock


class HandClock(Clock):
    """Stands still until it is moved.

    Args:
        now: monotonic seconds.
        wall: epoch seconds.
    """

    def __init__(self, now: float = 1000.0, wall: float = 1_795_000_000.0) -> None:
        super().__init__()
        self.at = now
        self.wall_at = wall

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.wall_at

    def stamp(self) -> str:
        self.wall_at += 1e-6
        return times.to_text(self.wall_at)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds
        self.wall_at += seconds


class _Timer:
    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        self.callback = None


class HandLoop:
    """The part of an event loop that shells use: callbacks in order, timers by a `HandClock`."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self._ready: deque[_Timer] = deque()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._count = itertools.count()

    def time(self) -> float:
        """Return the loop's time, in seconds."""
        return self._clock.at

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> _Timer:
        """Call at the next `turn`."""
        handle = _Timer(lambda: callback(*arguments))
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay_s: float, callback: Callable[..., Any]) -> _Timer:
        """Call when the clock was moved by so much."""
        timer = _Timer(callback)
        heapq.heappush(self._timers, (self._clock.at + delay_s, next(self._count), timer))
        return timer

    def turn(self) -> None:
        """Call what is ready, and what that makes ready."""
        while self._ready:
            self.turn_once()

    def turn_once(self) -> None:
        """Call what is ready; what that makes ready is for the next turn."""
        for _ in range(len(self._ready)):
            if (callback := self._ready.popleft().callback) is not None:
                callback()

    def advance(self, seconds: float) -> None:
        """Let time pass; timers are called when they are due."""
        until = self._clock.at + seconds
        self.turn()
        while self._timers and self._timers[0][0] <= until:
            at, _, timer = heapq.heappop(self._timers)
            self._clock.advance(max(0.0, at - self._clock.at))
            if timer.callback is not None:
                timer.callback()
            self.turn()
        self._clock.advance(until - self._clock.at)
