"""What is done with a spool whose file is damaged, deleted or replaced (SPEC section 6, "The files stay the same files").

What can be read goes to a new file, the old one is set aside, and what is lost is told. Used by `spool.py`.
"""

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from robodyne_rt.store.engine.sqlite import sync, wal_of
from robodyne_rt.store.errors import FilesReplaced

SET_ASIDE = ".aside-"
"""Between the name of a spool and the time at which it was set aside."""

STEP = 500
"""Rows that are read at once; where one of them cannot be read, each by itself."""

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR}
_MOVED = sqlite3.SQLITE_READONLY_DBMOVED


class SpoolDamage(NamedTuple):
    """What happened to a spool.

    Attributes:
        text: for people, without paths.
        lost: messages that were acknowledged and are lost, at most; None where nobody can know.
        set_aside: the old file, where there still was one.
    """

    text: str
    lost: int | None
    set_aside: Path | None = None


class Known(NamedTuple):
    """What is known of a spool: its name, its newest row number, and up to which number its rows were forgotten."""

    name: str
    last_seq: int
    forgotten_upto: int


def read_known(old: sqlite3.Connection) -> Known | None:
    """Return what a file says of itself, None where its name and numbers cannot be read."""
    try:
        (name,) = old.execute("SELECT name FROM spool_name").fetchone()
    except (sqlite3.Error, TypeError):
        return None
    # Without the sequence nobody knows which numbers were given: under another name they may be given again.
    for query, known_as in (
        ("SELECT coalesce(max(seq), 0) FROM sqlite_sequence", str(name)),
        ("SELECT coalesce(max(seq), 0) FROM spool", ""),
    ):
        with contextlib.suppress(sqlite3.Error):
            last_seq = int(old.execute(query).fetchone()[0])
            first = 1
            with contextlib.suppress(sqlite3.Error):
                first = int(old.execute("SELECT coalesce(min(seq), 1) FROM spool").fetchone()[0])
            return Known(known_as, last_seq, first - 1)
    return None


def is_damage(error: BaseException, path: Path) -> bool:
    """Return whether an error says that the file is not what it should be, and trying again will not help."""
    if isinstance(error, FilesReplaced):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, sqlite3.DatabaseError)  # text in no encoding
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return not path.is_file()  # else a full disk has no room for what SQLite wants to put beside it
    return code & 0xFF in _DAMAGED or code == _MOVED


def salvage(old: sqlite3.Connection, new: sqlite3.Connection, *, after: int, last_seq: int) -> int:
    """Copy the rows behind `after`, up to `last_seq`, as far as they can be read; return how many cannot be.

    Raises:
        sqlite3.Error: the new file cannot be written.
    """
    unreadable = 0
    new.execute("BEGIN")
    while after < last_seq:
        try:
            rows = old.execute(
                "SELECT seq, payload FROM spool WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", (after, last_seq, STEP)
            ).fetchall()
            if not rows:
                break
            after = rows[-1][0]
        except sqlite3.DatabaseError:
            upto = min(after + STEP, last_seq)
            rows = []
            for seq in range(after + 1, upto + 1):
                try:
                    rows += old.execute("SELECT seq, payload FROM spool WHERE seq = ?", (seq,)).fetchall()
                except sqlite3.DatabaseError:
                    unreadable += 1
            after = upto
        new.executemany("INSERT INTO spool(seq, payload) VALUES (?, ?)", rows)
    new.execute("COMMIT")
    return unreadable


def set_aside(path: Path, *, now: float) -> Path | None:
    """Give what lies at a path another name, its write-ahead log with it; return the name, None where nothing was there.

    Args:
        now: epoch seconds, for the name.
    Raises:
        OSError: the folder cannot be written.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    target = path.with_name(f"{path.name}{SET_ASIDE}{stamp}.{int(now % 1 * 1e6):06d}")
    found = path.exists() or path.is_symlink()
    for source, name in ((path, target), (wal_of(path), wal_of(target))):
        with contextlib.suppress(FileNotFoundError):
            source.rename(name)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    sync(path.parent)
    return target if found else None
