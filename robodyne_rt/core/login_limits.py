"""How many wrong passwords are too many, so that guessing is slow and yet locks nobody out (SPEC section 8).

Known devices and strangers are counted apart: a device that logged in to an account before (it shows a cookie that says so, or
comes from the address it came from) has guesses of its own that no stranger can use up.
"""

import enum
from collections.abc import Hashable
from typing import NamedTuple

from robodyne_rt.core.rate_limit import SlidingWindow
from robodyne_rt.protocol.errors import RateLimited

ADDRESS_LIMIT, ACCOUNT_LIMIT, UNKNOWN_WINDOW_S = 20, 64, 60.0
"""Wrong passwords of one address, and of all strangers for one account: more than three addresses have."""

KNOWN_LIMIT, KNOWN_WINDOW_S = 10, 600.0
"""Wrong passwords of all device cookies of an account together, or of an address that it is known from."""


class Device(enum.Enum):
    """How somebody who logs in is known to the account."""

    UNKNOWN = "unknown"
    KNOWN_BY_COOKIE = "cookie"
    KNOWN_BY_ADDRESS = "address"


class Attempt(NamedTuple):
    """A login whose password is not checked yet; it counts as wrong until it `succeeded`."""

    counts: tuple[tuple[SlidingWindow, Hashable], ...]

    def succeeded(self) -> None:
        """Do not count it."""
        for window, key in self.counts:
            window.give_back(key)


class LoginLimits:
    """Counts what was guessed wrong; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._addresses = SlidingWindow(limit=ADDRESS_LIMIT, window_s=UNKNOWN_WINDOW_S)
        self._accounts = SlidingWindow(limit=ACCOUNT_LIMIT, window_s=UNKNOWN_WINDOW_S)
        self._cookies = SlidingWindow(limit=KNOWN_LIMIT, window_s=KNOWN_WINDOW_S)
        self._places = SlidingWindow(limit=KNOWN_LIMIT, window_s=KNOWN_WINDOW_S)

    def begin(self, account: str, source: str, device: Device, now: float) -> Attempt:
        """Begin to log somebody in.

        Args:
            source: the address it comes from (`model.access.source_of`).
        Raises:
            RateLimited: too many were wrong of late.
        """
        counts: tuple[tuple[SlidingWindow, Hashable], ...]
        match device:
            case Device.KNOWN_BY_COOKIE:
                counts = ((self._cookies, account),)
            case Device.KNOWN_BY_ADDRESS:
                counts = ((self._places, (account, source)),)
            case Device.UNKNOWN:
                counts = ((self._addresses, source), (self._accounts, account))
        self._check(max(window.look(key, now).retry_after for window, key in counts))
        for window, key in counts:
            window.take(key, now)
        return Attempt(counts)

    def wrong(self, source: str, now: float) -> None:
        """Count a token or ticket that nobody gave out. Nobody guesses a good one: those are asked for first.

        Raises:
            RateLimited: too many came from there of late.
        """
        self._check(self._addresses.take(source, now).retry_after)

    @staticmethod
    def _check(wait_s: float) -> None:
        if wait_s:
            raise RateLimited("too many failed attempts; wait", retry_after=round(wait_s, 1))
