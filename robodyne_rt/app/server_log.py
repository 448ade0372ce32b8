"""The server's own warnings and errors on their way to the topic `systemlogs`, for who looks after it from a console.

Any thread logs, the loop stores. Bounded everywhere: a queue, a rate (also of each place in the code), few writes under way.
Nobody waits; what is too much, or cannot be stored now, is skipped and counted. What storing a line causes is not stored.
"""

import logging
import threading
from collections import deque
from typing import Any, NamedTuple, Protocol

from robodyne_rt.core.rate_limit import SlidingWindow
from robodyne_rt.logs import is_storing_lines, own_fields, redacted
from robodyne_rt.model import times
from robodyne_rt.ports import Clock, Outcome

LOOK_S = 0.3
MAX_WAITING = 100
MAX_UNDER_WAY = 20
LINES_A_MINUTE = 30
SAME_A_MINUTE = 3
"""Lines of one place in the code: what comes again and again must not crowd out what comes once."""

OWN = "robodyne_rt"
"""Of other people's loggers errors count only."""

MAX_MESSAGE = 2000
MAX_DATA = 500


class LineStore(Protocol):
    """Where lines are stored: the intake."""

    def store_server_line(self, level: str, message: str, data: Any, at: str, outcome: Outcome) -> None: ...


class _Line(NamedTuple):
    place: tuple[str, int]
    level: str
    message: str
    data: dict[str, Any]
    at: float


class ServerLog(logging.Handler):
    """A handler of the root logger, and the task that stores what it takes.

    Attributes:
        skipped: lines that were not stored.
    """

    def __init__(self, *, clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self.skipped = 0
        self._told_skipped = 0
        self._under_way = 0
        self._clock = clock
        self._waiting: deque[_Line] = deque()
        self._counting = threading.RLock()
        self._rate = SlidingWindow(limit=LINES_A_MINUTE, window_s=60.0)
        self._rate_of_place = SlidingWindow(limit=SAME_A_MINUTE, window_s=60.0, keys_at_most=1000)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, in whatever thread it was logged."""
        if is_storing_lines() or (record.levelno < logging.ERROR and not record.name.startswith(OWN)):
            return
        try:
            line = _line(record, self._clock.wall())
        except Exception:
            self.handleError(record)
            return
        with self._counting:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(line)
            else:
                self.skipped += 1

    async def run(self, store: LineStore) -> None:
        """Store lines until cancelled."""
        while True:
            self.store_waiting(store)
            await self._clock.tick(LOOK_S)

    def store_waiting(self, store: LineStore) -> None:
        """Submit what waits, as far as the bounds allow."""
        now = self._clock.now()
        while self._waiting:
            line = self._waiting.popleft()
            is_too_much = (
                self._under_way >= MAX_UNDER_WAY
                or self._rate_of_place.take(line.place, now).retry_after
                or self._rate.take("all", now).retry_after
            )
            if is_too_much:
                self._skip()
                continue
            skipped, self._told_skipped = self.skipped - self._told_skipped, self.skipped
            data = line.data | {"skipped": skipped} if skipped else line.data
            self._under_way += 1
            store.store_server_line(line.level, line.message, data, times.to_text(line.at), self._stored)

    def _stored(self, result: Any, error: BaseException | None) -> None:
        self._under_way -= 1
        if error is not None:
            self._skip()

    def _skip(self) -> None:
        with self._counting:
            self.skipped += 1


def _line(record: logging.LogRecord, at: float) -> _Line:
    data: dict[str, Any] = {"logger": record.name}
    for name, value in own_fields(record).items():
        is_number = isinstance(value, int | float) and abs(value) < 2**53
        data[name] = value if is_number else _clean(str(value), MAX_DATA)
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        data["error"] = _clean(f"{type(error).__name__}: {error}", MAX_DATA)
    level = record.levelname if record.levelname in ("WARNING", "ERROR", "CRITICAL") else "ERROR"
    return _Line((record.pathname, record.lineno), level, _clean(record.getMessage(), MAX_MESSAGE), data, at)


def _clean(text: str, most: int) -> str:
    """Return a text that every database takes and no screen obeys, without secrets."""
    text = redacted(text)[:most].encode(errors="replace").decode()
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)
