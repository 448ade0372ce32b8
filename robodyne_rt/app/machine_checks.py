"""The checks that need no server: configuration, ports, secret, database, disks, clock. Nothing is changed by them.

Read by `doctor`; what each means stands in `health.py`.
"""

import errno
import glob
import math
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from robodyne_rt import secret
from robodyne_rt.app.health import Finding, Severity, finding
from robodyne_rt.model import times
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.settings import ConfigError, Settings
from robodyne_rt.store.engine.database import Database, DbConnection, open_database
from robodyne_rt.store.engine.sqlite import SqliteDatabase
from robodyne_rt.store.errors import StorageBroken
from robodyne_rt.store.intake.backup import RESCUED
from robodyne_rt.store.intake.spool_repair import SET_ASIDE
from robodyne_rt.store.log import high_water
from robodyne_rt.store.tables import dead_letters, users

DISK_FREE_BYTES = 256 * 1024 * 1024
"""Less than this (PITFALLS S8) is too little: a WAL, a backup and a spool want room."""

DAYS_TO_FULL = 60
"""A disk that is full sooner is worth a word."""

CLOCK_SLACK_S = 60.0


def configuration(settings: Settings) -> Finding:
    """Check what the settings name."""
    from robodyne_rt.app.lifecycle import problems  # all of the server: only where it is asked for

    if found := problems(settings):
        return finding("configuration", "error", "; ".join(found))
    return finding("configuration", "ok", "can be used")


def ports(settings: Settings) -> Iterator[Finding]:
    """Where no server of ours runs its ports must be free."""
    for section, host, port in (
        ("server", settings.server.host, settings.server.port),
        ("devices", settings.devices.host, settings.devices.port),
    ):
        try:
            with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
                pass
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            hint = ": another program's, or systemd's own for our socket unit" if error.errno == errno.EADDRINUSE else ""
            yield finding("port", "warning", f"{host} port {port}: {why}{hint}", name=f"[{section}] port")


def serial_ports(settings: Settings) -> Iterator[Finding]:
    """Where no server of ours has them open, each must be there, and be ours to open."""
    for port in settings.serial:
        if not os.path.exists(port.port):
            yield finding("serial", "warning", f"{port.port}: no such port")
        elif not os.access(port.port, os.R_OK | os.W_OK):
            yield finding("serial", "warning", f"{port.port}: this user may not open it (group dialout?)")


def secret_file(settings: Settings) -> Iterator[Finding]:
    path = Path(settings.auth.secret_file).absolute()
    if not path.exists():
        yield finding("secret", "warning", f"{path}: not there yet; the server makes it at its first start")
        return
    try:
        secret.load(settings.auth.secret_file)
    except ConfigError as error:
        yield finding("secret", "error", str(error))
        return
    yield finding("secret", "ok", f"{path}; keep a copy apart from the backups")


def database_file(settings: Settings) -> Iterator[Finding]:
    try:
        database = open_database(settings.database)
        db = database.open_reader() if _exists(database) else None
    except (ConfigError, StorageBroken, StorageUnavailable) as error:
        yield finding("database", "error", str(error))
        return
    except Exception as error:  # whatever its driver raises
        yield finding(
            "database", "error", f"{settings.database.url.partition('://')[0]}: cannot be opened: {str(error).strip()}"
        )
        return
    if isinstance(database, SqliteDatabase):
        yield from _sqlite_build()
    if db is None:
        yield finding("database", "warning", f"{database.name}: not there yet; the server makes it at its first start")
        return
    try:
        yield from _contents(database, db)
        if settings.auth.mode == "local" and not users.list_users(db):
            yield finding("users", "warning", "nobody can log in yet: robodyne-rt init makes the first administrator")
    except Exception as error:
        yield finding("database", "error", f"{database.name}: cannot be read: {str(error).strip()}")
    finally:
        db.close()


def _exists(database: Database) -> bool:
    return not isinstance(database, SqliteDatabase) or database.path.exists()


def _sqlite_build() -> Iterator[Finding]:
    version = sqlite3.sqlite_version
    if has_wal_reset_bug(sqlite3.sqlite_version_info):
        yield finding(
            "sqlite-version",
            "warning",
            f"{version} has the WAL-reset bug (fixed in 3.51.3, 3.50.7 and 3.44.6): two programs that checkpoint at the same "
            "moment can damage the file. This server alone checkpoints, well before others would; other programs that write "
            "should set PRAGMA wal_autocheckpoint = 0, or SQLite be updated",
        )
    else:
        yield finding("sqlite-version", "ok", version)


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Return whether a version is one from 3.7.0 to 3.51.2 without the repair."""
    if version < (3, 7, 0) or version >= (3, 51, 3):
        return False
    return not ((3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0))


def _contents(database: Database, db: DbConnection) -> Iterator[Finding]:
    if isinstance(database, SqliteDatabase):
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            yield finding("database", "error", f"{database.name}: damaged: {verdict}. Stop the server and restore a backup")
            return
    yield finding("database", "ok", database.name)
    missing = db.missing_triggers()
    if missing:
        yield finding(
            "change-log",
            "error",
            f"triggers are gone or switched off ({', '.join(missing)}): a running server puts them back within seconds, or its "
            "log says why not",
        )
    heads = dict(db.execute('SELECT topic, "offset" FROM topic_head').fetchall())
    newest = dict(db.execute('SELECT topic, max("offset") FROM change GROUP BY topic').fetchall())
    torn = [topic for topic, offset in newest.items() if heads.get(topic) != offset]
    if torn:
        yield finding("change-log", "error", f"its end and its heads differ for {', '.join(torn)}: somebody wrote to it")
    if letters := dead_letters.ids(db):
        yield finding("dead-letters", "warning", f"{len(letters)} wait for a person: robodyne-rt dlq list")


def disks(settings: Settings) -> Iterator[Finding]:
    spool = Path(settings.database.spool_path).absolute()
    places = {"spool": spool.parent}
    if settings.database.url.startswith("sqlite:///"):
        places["database"] = Path(settings.database.url.removeprefix("sqlite:///")).absolute().parent
    for name, folder in places.items():
        if not folder.is_dir():
            yield finding("disk", "warning", f"{folder}: no such folder yet", name=f"disk of the {name}")
            continue
        if not os.access(folder, os.W_OK):
            yield finding("disk", "error", f"{folder}: cannot be written by this user", name=f"disk of the {name}")
            continue
        free = shutil.disk_usage(folder).free
        severity: Severity = "ok" if free >= DISK_FREE_BYTES else "error"
        evidence = f"{folder}: {free // 2**20} MiB free" + ("" if severity == "ok" else ", too little")
        yield finding("disk", severity, evidence, name=f"disk of the {name}")
    if spool.exists():
        waiting = _spooled(spool)
        if waiting:
            yield finding("spool", "warning", f"{waiting} messages wait in {spool}; a running server drains them")


def disk_usage(settings: Settings) -> Iterator[Finding]:
    """Say what of ours fills the disk, how fast the database grows, and when the disk will be full."""
    spool = Path(settings.database.spool_path).absolute()
    backups = list((spool.parent / "backups").glob("robodyne-*.db"))
    found = {"spool": _bytes([spool, *spool.parent.glob(f"{glob.escape(spool.name)}-*")])}
    found["damaged spools"] = _bytes(spool.parent.glob(f"{glob.escape(spool.name + SET_ASIDE)}*"))
    found[f"{len(backups)} backups"] = _bytes(backups)
    growth = None
    folder = spool.parent
    if settings.database.url.startswith("sqlite:///"):
        file = Path(settings.database.url.removeprefix("sqlite:///")).absolute()
        folder = file.parent
        found["database"] = _bytes([file, file.with_name(file.name + "-wal")])
        found["copies of the database"] = _bytes(folder.glob(f"{glob.escape(file.name)}.*-*"))
        growth = _growth_a_day(file, backups)
    if not folder.is_dir():
        return
    used = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in found.items() if size >= 2**19) or "next to nothing"
    if growth is None:
        yield finding("disk-usage", "ok", f"{used}; how fast it grows is known after a day with a backup")
        return
    days = shutil.disk_usage(folder).free / growth if growth > 0 else math.inf
    severity: Severity = "ok" if days > DAYS_TO_FULL else "warning"
    when = f"full in about {days:.0f} days" if days < 3650 else "not full within ten years"
    yield finding("disk-usage", severity, f"{used}; the database grows by {growth / 2**20:.1f} MiB a day: {when}")


def _growth_a_day(file: Path, backups: list[Path]) -> float | None:
    """Return by how many bytes a day the database grew since its oldest backup; None where that is not a day old."""
    try:
        oldest = min((backup.stat() for backup in backups), key=lambda status: status.st_mtime, default=None)
        if oldest is None:
            return None
        days = (time.time() - oldest.st_mtime) / 86400
        return (file.stat().st_size - oldest.st_size) / days if days >= 1 else None
    except OSError:
        return None


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def rescued_files(settings: Settings) -> Iterator[Finding]:
    if not settings.database.url.startswith("sqlite:///"):
        return
    file = Path(settings.database.url.removeprefix("sqlite:///")).absolute()
    for saved in sorted(file.parent.glob(f"{glob.escape(file.name + RESCUED)}*")):
        yield finding("rescued", "warning", f"{saved} was saved from under a running server: robodyne-rt restore {saved}")


def damaged_spools(settings: Settings) -> Iterator[Finding]:
    spool = Path(settings.database.spool_path).absolute()
    for file in sorted(spool.parent.glob(f"{glob.escape(spool.name + SET_ASIDE)}*")):
        if not file.name.endswith("-wal"):
            yield finding("spool-damaged", "warning", f"{file} was set aside: what could be read of it was saved")


def _spooled(path: Path) -> int:
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        (count,) = connection.execute("SELECT count(*) FROM spool").fetchone()
        return int(count)
    except sqlite3.Error:
        return 0
    finally:
        connection.close()


def clock(settings: Settings) -> Iterator[Finding]:
    note = high_water.read(high_water.mark_path(Path(settings.database.spool_path).absolute()))
    now = time.time()
    if note is not None and note.at > now + CLOCK_SLACK_S:
        yield finding(
            "clock",
            "error",
            f"it went back: it shows {times.to_text(now)}, but the server noted {times.to_text(note.at)}. Set it (timedatectl)",
        )
    elif now < times.BUILT_AT_S:
        yield finding("clock", "error", f"it shows {times.to_text(now)}, before this program was made. Set it (timedatectl)")
    else:
        yield finding("clock", "ok", times.to_text(now))
