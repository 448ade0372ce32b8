"""Keep something running that goes away now and then: a serial port, for one."""

import logging
import random
import time
from collections.abc import Awaitable, Callable

import anyio

logger = logging.getLogger(__name__)

STEADY_S = 10.0
"""What ran this long was well; the next failure starts over with the short wait."""


async def supervise(
    name: str, run: Callable[[], Awaitable[None]], *, first_wait_s: float = 1.0, longest_wait_s: float = 30.0
) -> None:
    """Call `run` again and again, with growing waits (and jitter) after failures, until cancelled.

    A failure is logged when it begins, not at each try.
    """
    wait_s = first_wait_s
    told = ""
    while True:
        started = time.monotonic()
        try:
            await run()
            text = "ended"
        except OSError as error:
            text = str(error)
        if time.monotonic() - started >= STEADY_S:
            wait_s, told = first_wait_s, ""
        if text != told:
            logger.warning("%s: %s; trying again", name, text, extra={"action": "port_lost"})
            told = text
        await anyio.sleep(wait_s * random.uniform(0.8, 1.2))
        wait_s = min(longest_wait_s, wait_s * 2)
