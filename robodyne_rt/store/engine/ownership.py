"""The data has one owner: locks that a process holds for as long as it writes (SPEC section 6).

A lock is a file beside the data with an exclusive `flock`: the kernel lets it go when its process ends, however it ends. The
file stays, with the name of its newest owner in it, because a lock file that is deleted can be locked twice. (A Postgres
database has a lock of its own, on the connection that writes: `postgres.py`.)
"""

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import orjson

from robodyne_rt.model import times
from robodyne_rt.store.errors import DataOwned

READ_BYTES = 4096


class FileLock:
    """One lock beside one file.

    Args:
        of: the file that is owned; another name of the same file has the same lock.
    """

    def __init__(self, of: Path) -> None:
        self.path = Path(f"{os.path.realpath(of)}.lock")
        self._of = of
        self._descriptor: int | None = None

    def take(self, command: str) -> None:
        """Take it now or not at all.

        Args:
            command: what the owner is doing, for whoever meets the lock.
        Raises:
            DataOwned: another process has it; the text says which.
        """
        if self._descriptor is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _described(os.pread(descriptor, READ_BYTES, 0))
            os.close(descriptor)
            raise DataOwned(f"{self._of} is in use by {owner}") from None
        except BaseException:
            os.close(descriptor)
            raise
        if not self._is_at_path(descriptor):
            os.close(descriptor)  # somebody deleted it just now, and may hold another one
            raise DataOwned(f"{self._of}: its lock {self.path} was deleted while it was taken; try again")
        note = {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": times.to_text(time.time())}
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # on a full disk: who we are is only a hint, the lock is what counts
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, orjson.dumps(note), 0)

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    @property
    def is_held(self) -> bool:
        """Whether we have it, and its file is still the one that others would lock."""
        return self._descriptor is not None and self._is_at_path(self._descriptor)

    def release(self) -> None:
        """Let it go; its file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Ownership:
    """The locks of one process; use as a context manager, or `release` at the end.

    Args:
        files: what is owned; each is locked, in a fixed order.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._locks = list({lock.path: lock for lock in map(FileLock, sorted(files))}.values())

    def take(self, command: str | None = None) -> "Ownership":
        """Take all locks now, or none.

        Raises:
            DataOwned: another process has one of them.
        """
        try:
            for lock in self._locks:
                lock.take(command or _command())
        except BaseException:
            self.release()
            raise
        return self

    @property
    def is_held(self) -> bool:
        """Whether all locks are still ours."""
        return not self.lost

    @property
    def lost(self) -> list[Path]:
        """The files of the locks that are not ours any more."""
        return [lock.path for lock in self._locks if not lock.is_held]

    def release(self) -> None:
        """Let go of everything."""
        for lock in self._locks:
            lock.release()

    def __enter__(self) -> "Ownership":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def owner_of(file: Path) -> str | None:
    """Return who owns a file now, None where nobody does; takes nothing."""
    lock = Path(f"{os.path.realpath(file)}.lock")
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _described(os.pread(descriptor, READ_BYTES, 0))
    finally:
        os.close(descriptor)
    return None


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])[:200]


def _described(content: bytes) -> str:
    """Return who wrote a lock file, for people."""
    try:
        note = orjson.loads(content)
        return f"process {int(note['pid'])} on {note['host']} ({note['command']}), since {note['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
