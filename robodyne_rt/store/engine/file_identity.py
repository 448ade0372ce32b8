"""Whether the files that are open are still those that their paths name (SPEC section 6, "The files stay the same files").

An open file that is deleted or replaced takes every write and loses it when it is closed. Its number on its device cannot be
given to another file while it is open, so that comparing the numbers is proof.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from robodyne_rt.errors import FilesReplaced


class FileIdentity:
    """The device and inode of files that we hold open.

    Args:
        files: open now.
    Raises:
        FilesReplaced: one of them is gone already.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._known = {file: _identity(str(file)) for file in files}
        self._checked = [(str(file), known) for file, known in self._known.items()]

    @property
    def paths(self) -> list[Path]:
        """The files, in their order."""
        return list(self._known)

    def is_same(self, file: Path) -> bool:
        """Return whether the path of one of them still leads to it."""
        try:
            return _identity(str(file)) == self._known[file]
        except FilesReplaced:
            return False

    def check(self) -> None:
        """Look once at all of them.

        Raises:
            FilesReplaced: a path leads nowhere, or to another file.
        """
        for path, known in self._checked:
            if _identity(path) != known:
                raise FilesReplaced(f"{path} was replaced by another file while it was open")


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise FilesReplaced(f"{path} was taken away while it was open: {error.strerror}") from error
    return found.st_dev, found.st_ino
