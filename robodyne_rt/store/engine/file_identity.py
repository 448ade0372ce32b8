"""Whether the files that are open are still those that their paths name (SPEC section 6, "The files stay the same files").

An open file that is deleted or replaced takes every write and loses it when it is closed. Its number on its device cannot be
given to another file while it is open, so that comparing the numbers is proof.
"""

import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from robodyne_rt.store.errors import FilesReplaced

# `os.stat` lets go of the interpreter's lock, and the thread that commits waits to get it back: 15 us a file under load,
# against 1 us for the call itself. The layout of `struct statx` is the kernel's, alike on every machine (statx(2)).
# A C library may have no such call.
_statx: Callable[..., int] | None = getattr(ctypes.PyDLL(None, use_errno=True), "statx", None)
_AT_FDCWD = -100
_STATX_INO = 0x100
_STATX_BYTES = 256
_INODE, _DEVICE = 32 // 8, 136 // 8
"""Words of eight bytes; the device is its major and minor number."""


class FileIdentity:
    """The device and inode of files that we hold open; for one thread at a time.

    Args:
        files: open now.
    Raises:
        FilesReplaced: one of them is gone already.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._buffer = ctypes.create_string_buffer(_STATX_BYTES)
        self._words = memoryview(self._buffer).cast("B").cast("Q")
        self._known = {file: self._look(os.fsencode(file)) for file in files}
        self._checked = [(os.fsencode(file), *known) for file, known in self._known.items()]

    @property
    def paths(self) -> list[Path]:
        """The files, in their order."""
        return list(self._known)

    def known(self, file: Path) -> tuple[int, int]:
        """Return the device and inode that one of them had when it was opened."""
        return self._known[file]

    def is_same(self, file: Path) -> bool:
        """Return whether the path of one of them still leads to it."""
        try:
            return self._look(os.fsencode(file)) == self._known[file]
        except FilesReplaced:
            return False

    def check(self) -> None:
        """Look once at all of them.

        Raises:
            FilesReplaced: a path leads nowhere, or to another file.
        """
        if _statx is None:
            self._check_slowly()
            return
        buffer, words = self._buffer, self._words
        for path, device, inode in self._checked:  # once a commit: no call more than needed
            if _statx(_AT_FDCWD, path, 0, _STATX_INO, buffer) or words[_INODE] != inode or words[_DEVICE] != device:
                self._look(path)
                raise FilesReplaced(f"{os.fsdecode(path)} was replaced by another file while it was open")

    def _check_slowly(self) -> None:
        for path, device, inode in self._checked:
            if self._look(path) != (device, inode):
                raise FilesReplaced(f"{os.fsdecode(path)} was replaced by another file while it was open")

    def _look(self, path: bytes) -> tuple[int, int]:
        """Return the device and inode that a path leads to."""
        if _statx is None:
            try:
                found = os.stat(path)
            except OSError as error:
                raise FilesReplaced(f"{os.fsdecode(path)} was taken away while it was open: {error.strerror}") from error
            return found.st_dev, found.st_ino
        if _statx(_AT_FDCWD, path, 0, _STATX_INO, self._buffer):
            why = os.strerror(ctypes.get_errno())
            raise FilesReplaced(f"{os.fsdecode(path)} was taken away while it was open: {why}")
        return self._words[_DEVICE], self._words[_INODE]
