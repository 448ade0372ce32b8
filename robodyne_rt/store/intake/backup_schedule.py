"""Backups by the clock, and the end of copies that nobody needs any more (SPEC section 2). For the loop."""

import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import StorageUnavailable

logger = logging.getLogger(__name__)

FIRST_S = 300.0
"""Not sooner after a start: a kitchen that has just got its power back has other worries."""

AGAIN_S = 3600.0
"""After one that was skipped or failed."""

AHEAD_S = 60.0

COPIES_KEPT = {".replaced-": 3, ".before-v": 2}
"""Copies that a restore and a migration leave beside the database: the newest of each stay. What was rescued always does."""


class BackupSchedule:
    """Makes a backup every so often.

    Args:
        make: makes one.
        database: the file.
        folder: where backups are.
        every_h: hours between two.
        keep: how many stay.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[Any]],
        *,
        database: Path,
        folder: Path,
        every_h: int,
        keep: int,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._make = make
        self._database = database
        self._folder = folder
        self._every_s = every_h * 3600.0
        self._keep = keep
        self._clock = clock
        self._sleep = sleep
        self.trouble = ""
        """Why the last one was not made; empty where it was."""

    async def run(self) -> None:
        """Make backups until cancelled."""
        await self._sleep(max(FIRST_S, self._due_in_s()))
        while True:
            is_made = await self._make_one()
            await self._sleep(self._every_s if is_made else min(AGAIN_S, self._every_s))

    def _due_in_s(self) -> float:
        """Return when the next one is due; one that lies ahead was made by a clock that was wrong, and says nothing."""
        ages = [self._clock.wall() - _modified_at(file) for file in self._backups()]
        known = [age for age in ages if age >= 0]
        return self._every_s - min(known) if known else 0.0

    async def _make_one(self) -> bool:
        try:
            size = self._database.stat().st_size
            free = shutil.disk_usage(self._folder if self._folder.exists() else self._folder.parent).free
            if free < 2 * size:
                self.trouble = f"{free >> 20} MiB are free, twice the database's {size >> 20} MiB are wanted"
                logger.warning("no backup was made: %s", self.trouble, extra={"action": "backup_skipped"})
                return False
            made = await self._make()
            await anyio.to_thread.run_sync(self.clean_up, Path(made["path"]))
        except (OSError, StorageUnavailable) as error:
            self.trouble = str(error)
            logger.warning("no backup was made: %s", error, extra={"action": "backup_failed"})
            return False
        self.trouble = ""
        return True

    def clean_up(self, made: Path) -> None:
        """Delete the oldest backups and copies beyond those that are kept; never the one that was just made.

        Raises:
            OSError: one of them cannot be deleted.
        """
        others = [file for file in self._backups() if file != made]
        for file in others[: max(0, len(others) - self._keep + 1)]:
            _delete(file)
        for mark, kept in COPIES_KEPT.items():
            copies = [file for file in self._database.parent.glob(f"{self._database.name}{mark}*") if not _is_side_file(file)]
            for file in sorted(copies, key=self._made_at)[:-kept]:
                for part in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))):
                    _delete(part)

    def _backups(self) -> list[Path]:
        """Return the backups, in the order in which they were made."""
        return sorted((file for file in self._folder.glob("robodyne-*.db")), key=self._made_at)

    def _made_at(self, file: Path) -> float:
        """Return when a file was made; one that lies ahead was made by a clock that was wrong, who knows when."""
        at = _modified_at(file)
        return at if at <= self._clock.wall() + AHEAD_S else 0.0


def remove_leftovers(database: Path, folder: Path) -> None:
    """Delete what copies that were broken off left, before anybody makes one.

    Half of what was being rescued is better than nothing, and stays.
    """
    for file in (*database.parent.glob(f"{database.name}.before-v*.part"), *folder.glob("*.part")):
        _delete(file)
    _delete(database.with_name(database.name + ".restored"))


def _modified_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_side_file(file: Path) -> bool:
    return file.name.endswith(("-wal", "-shm", ".part"))


def _delete(file: Path) -> None:
    if file.exists():
        file.unlink()
        logger.info("deleted %s", file, extra={"action": "copy_deleted"})
