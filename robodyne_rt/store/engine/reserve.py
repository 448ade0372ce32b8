"""Room that is kept for a start on a full disk: SQLite wants some beside a database before a single row can be read."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from robodyne_rt.protocol.errors import StorageUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

RESERVE_BYTES = 256 * 1024
"""Twice what the shared memory and the first pages of the logs of database and spool take."""

FULL_BELOW_BYTES = 64 * 1024


def reserve_of(file: Path) -> Path:
    """Return where the room beside a file is kept."""
    return file.with_name(file.name + ".reserve")


def keep(file: Path) -> None:
    """Keep room beside a file, as much of it as there is."""
    reserve = reserve_of(file)
    for size in (RESERVE_BYTES, RESERVE_BYTES // 2):
        try:
            descriptor = os.open(reserve, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)  # costs nothing where it is there already
            finally:
                os.close(descriptor)
            return
        except OSError:
            with contextlib.suppress(OSError):
                reserve.unlink()


def open_with_reserve(file: Path, open: Callable[[], T]) -> T:
    """Open a file of ours; where the disk is full, in the room that was kept for that.

    Raises:
        StorageUnavailable: the disk is full, and nothing was kept.
    """
    try:
        return open()
    except Exception as error:
        if not is_full(file.parent):
            raise
        logger.error("%s: the disk is full", file, extra={"action": "disk_full"})
        try:
            reserve_of(file).unlink()
            return open()
        except Exception:
            raise StorageUnavailable(f"{file}: the disk is full: {error}") from error


def is_full(folder: Path) -> bool:
    """Return whether a disk has hardly any room left."""
    try:
        return shutil.disk_usage(folder).free < FULL_BELOW_BYTES
    except OSError:
        return False
