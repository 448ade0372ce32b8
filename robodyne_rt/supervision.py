"""What becomes of a task that fails: one that is kept starts again, one that is vital ends the server on purpose.

Used by everything that starts tasks; which task is which stands in the table of `app/lifecycle.py`. Before a task group, where
one child that raises takes all others along, stands one of these three.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from robodyne_rt.core.retry import Backoff

logger = logging.getLogger(__name__)

STEADY_S = 10.0
"""What ran this long was well; the next failure starts over with the short wait."""

RECENT_S = 60.0
"""A task that failed is named among the problems for so long."""


class Away(Exception):
    """What a task serves is not there (an unplugged port): nothing is broken, and it is looked for again."""

    action = "task_away"


class Supervisor:
    """Runs tasks and counts their failures; for one event loop.

    Args:
        sleep, now: time, in monotonic seconds.
        jitter: returns the factor of each wait, so that what failed together does not come back together.

    Attributes:
        failures: how often each task failed; known tasks that never did have 0.
    """

    def __init__(
        self,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        now: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        self.failures: Counter[str] = Counter()
        self._failed_at: dict[str, float] = {}
        self._sleep = sleep
        self._now = now
        self._jitter = jitter

    @property
    def failing(self) -> list[str]:
        """Return the tasks that failed within the last minute."""
        now = self._now()
        return sorted(name for name, at in self._failed_at.items() if now - at < RECENT_S)

    async def keep(
        self, name: str, run: Callable[[], Awaitable[None]], *, first_wait_s: float = 1.0, longest_wait_s: float = 30.0
    ) -> None:
        """Call `run` again and again, with growing waits after failures, until cancelled.

        A failure is logged when it begins, not at each try.
        """
        self.failures[name] += 0
        backoff, told = Backoff(first_wait_s, longest_wait_s), ""
        while True:
            started = self._now()
            error: Exception | None = None
            try:
                await run()
            except Exception as failure:
                error = failure
            if self._now() - started >= STEADY_S:
                backoff.reset()
                told = ""
            text = f"{type(error).__name__}: {error}"
            self._note(name, error, is_news=text != told)
            told = text
            error = None  # its traceback holds everything that the task held: a port that is open, for one
            await self._sleep(backoff.next_s() * self._jitter())

    def _note(self, name: str, error: Exception | None, *, is_news: bool) -> None:
        if isinstance(error, Away):
            if is_news:
                logger.warning("%s: %s; trying again", name, error, extra={"action": error.action})
            return
        self._count(name)
        if is_news:
            what = "ended" if error is None else "failed"
            logger.error("%s %s; starting it again", name, what, exc_info=error, extra={"action": "task_failed", "task": name})

    def _count(self, name: str) -> None:
        self.failures[name] += 1
        self._failed_at[name] = self._now()

    async def once(self, name: str, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Call what need not be done again where it fails; whoever waits for it has a deadline of their own."""
        self.failures[name] += 0
        try:
            await function(*arguments)
        except Exception:
            self._count(name)
            logger.exception("%s failed", name, extra={"action": "task_failed", "task": name})

    async def vital(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Call what the server cannot be without: its failure ends the server, which is started again.

        Raises:
            Exception: what it raised.
        """
        self.failures[name] += 0
        try:
            await run()
        except Exception:
            self._count(name)
            logger.critical("%s failed; the server ends", name, extra={"action": "task_ended", "task": name})
            raise
