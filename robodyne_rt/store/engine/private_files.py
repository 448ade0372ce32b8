"""Files of the server are its user's alone: what stands in the database is not for everybody on this machine.

What is made now is made so (the umask of `cli`); files of earlier versions, and what others put there, are tightened at start.
"""

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

PRIVATE = 0o600


def tighten(files: Iterable[Path], *folders: Path) -> None:
    """Take from others what they may do with files, and with what stands beside them under the same name (WAL, lock, copies);
    say so in the log.

    Args:
        folders: all files in them, too; they may be missing.
    """
    tightened, failed = [], []
    for path in sorted({*_beside(files), *(path for folder in folders if folder.is_dir() for path in folder.iterdir())}):
        try:
            mode = path.stat(follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode) or not mode & 0o077:
                continue
            path.chmod(stat.S_IMODE(mode) & PRIVATE)
            tightened.append(f"{path} ({stat.S_IMODE(mode):o})")
        except FileNotFoundError:
            continue
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
    if tightened:
        text = "these files were open to others and are not any more: %s"
        logger.warning(text, ", ".join(tightened), extra={"action": "files_tightened"})
    if failed:
        logger.warning("files stay open to others: %s", ", ".join(failed), extra={"action": "files_open"})


def _beside(files: Iterable[Path]) -> Iterator[Path]:
    for file in files:
        for path in {file, Path(os.path.realpath(file))}:  # SQLite keeps its log beside the file itself, not beside a link
            if path.parent.is_dir():
                yield from (found for found in path.parent.iterdir() if _belongs(found.name, path.name))


def _belongs(name: str, to: str) -> bool:
    """Return whether a file belongs to another by its name: `x.db-wal` and `x.db.lock` to `x.db`, `x.dbs` not."""
    return name.startswith(to) and name[len(to) :][:1] in ("", "-", ".")
