"""Gives memory back to the machine after a load: the C library keeps what was freed, for ever where it lies in between.

Used by the lifecycle. Does nothing where the C library is not glibc.
"""

import contextlib
import ctypes
import logging
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread

logger = logging.getLogger(__name__)

LOOK_S = 20.0
WORTH_BYTES = 32 << 20
"""Memory above the least that was seen so far from which on it is worth to look for what can be given back."""

_PAGE_BYTES = 4096


def resident_bytes() -> int:
    """Return how much memory this process takes; 0 where the machine does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    return 0


def glibc_trim() -> Callable[[int], object] | None:
    """Return the C library's `malloc_trim`, None where it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


async def give_back(trim: Callable[[int], object], resident: Callable[[], int] = resident_bytes) -> None:
    """Look now and then, until cancelled, whether memory can be given back.

    Args:
        trim: takes milliseconds, and works in a thread of its own.
    """
    least = resident()
    while True:
        await anyio.sleep(LOOK_S)
        taken = resident()
        if taken > least + WORTH_BYTES:
            await anyio.to_thread.run_sync(trim, 0)
            logger.debug("memory: %d bytes before, %d after", taken, resident())
        least = min(least, resident())
