"""Passwords: argon2id, in threads, two at once, so that a storm of logins neither blocks the loop nor eats the memory."""

import unicodedata
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from robodyne_rt.protocol.errors import InvalidPayload

if TYPE_CHECKING:
    from argon2 import PasswordHasher

PASSWORD_CONCURRENCY = 2
MAX_WAITING = 20
MIN_LENGTH = 8
MAX_LENGTH = 500


@cache
def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher

    return PasswordHasher()


@cache
def _nobody() -> str:
    """The hash of a password that nobody has: unknown users take as long as known ones."""
    return _hasher().hash("nobody has this password")


def check(password: object) -> str:
    """Return a password that may be set.

    Raises:
        InvalidPayload: too short or too long.
    """
    if not isinstance(password, str) or not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidPayload(f"password: expected {MIN_LENGTH} to {MAX_LENGTH} characters")
    return password


def _normal(password: str) -> str:
    """Return a password in the one form in which it is compared (NFC, RFC 8265 section 4.2.2)."""
    return unicodedata.normalize("NFC", password)


def hashed(password: str) -> str:
    """Return the hash to store; takes about 0.1 s and 64 MiB."""
    return _hasher().hash(_normal(password))


def matches(known: str | None, password: str) -> bool:
    """Return whether a password is the one that was hashed; takes as long where there is none."""
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        _hasher().verify(known or _nobody(), _normal(password))
    except (Argon2Error, InvalidHashError):
        return False
    return known is not None


class Passwords:
    """The same for the loop. Devices that are known go first: strangers who guess must not keep them waiting."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(PASSWORD_CONCURRENCY)
        self._free = PASSWORD_CONCURRENCY
        self._waiting: dict[bool, deque[anyio.Event]] = {True: deque(), False: deque()}

    async def hashed(self, password: str) -> str:
        """Return the hash to store."""
        async with self._turn(is_known=True):
            return await anyio.to_thread.run_sync(hashed, password, limiter=self._limiter)

    async def matches(self, known: str | None, password: str, *, is_known: bool = False) -> bool:
        """Return whether a password is the one that was hashed."""
        async with self._turn(is_known=is_known):
            return await anyio.to_thread.run_sync(matches, known, password, limiter=self._limiter)

    def is_busy(self, *, is_known: bool) -> bool:
        """Return whether so many of a kind wait that further ones should be told to come back."""
        return len(self._waiting[is_known]) >= MAX_WAITING

    @asynccontextmanager
    async def _turn(self, *, is_known: bool) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            turn = anyio.Event()
            self._waiting[is_known].append(turn)
            try:
                await turn.wait()
            except BaseException:
                if turn.is_set():
                    self._pass_on()
                else:
                    self._waiting[is_known].remove(turn)
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Let the next one begin."""
        for queue in (self._waiting[True], self._waiting[False]):
            if queue:
                queue.popleft().set()
                return
        self._free += 1
