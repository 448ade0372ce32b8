"""What the server forgets once an hour; by a clock that may be wrong it forgets nothing (SPEC section 2)."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio

from robodyne_rt.core.clock_watch import ClockWatch
from robodyne_rt.ports import Clock
from robodyne_rt.store.tables import tokens
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

logger = logging.getLogger(__name__)

INTERVAL_S = 3600.0


class Sessions(Protocol):
    """What is forgotten of sessions."""

    def forget(self, before: float) -> None:
        """Forget sessions that nobody used since then (epoch seconds)."""
        ...


class Housekeeping:
    """Forgets sessions that are over and tokens that expired.

    Args:
        call: runs a function in the writer's transaction.
        session_ttl_s: how long a session is kept that nobody uses.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        call: Callable[[Callable[[DeviceMessageWriter], Any]], Awaitable[Any]],
        session_ttl_s: float,
        clock: Clock,
        clock_watch: ClockWatch,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._sessions = sessions
        self._call = call
        self._session_ttl_s = session_ttl_s
        self._clock = clock
        self._clock_watch = clock_watch
        self._sleep = sleep

    async def run(self) -> None:
        """Forget once an hour, until cancelled."""
        while True:
            await self._sleep(INTERVAL_S)
            if self._clock_watch.may_delete:
                await self._forget()

    async def _forget(self) -> None:
        now = self._clock.wall()
        try:
            self._sessions.forget(now - self._session_ttl_s)
            await self._call(lambda tables: tokens.forget_expired(tables.db, now=now))
        except Exception:
            # Forgotten in an hour then: no reason to stop serving.
            logger.exception("what is over could not be forgotten", extra={"action": "housekeeping_failed"})
