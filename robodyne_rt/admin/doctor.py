"""`robodyne-rt doctor`: what is wrong with this machine, its database and its server, and what to do about it."""

import argparse
import errno
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from robodyne_rt import secret
from robodyne_rt.admin import control
from robodyne_rt.admin.control import NoServer, Refused
from robodyne_rt.core import times
from robodyne_rt.errors import StorageBroken, StorageUnavailable
from robodyne_rt.settings import ConfigError, Settings, control_socket
from robodyne_rt.store.engine.database import Database, DbConnection, open_database
from robodyne_rt.store.engine.sqlite import SqliteDatabase
from robodyne_rt.store.log import high_water
from robodyne_rt.store.tables import accounts, dead_letters

Load = Callable[[argparse.Namespace], Settings]

DISK_FREE_BYTES = 256 * 1024 * 1024
"""Less than this (PITFALLS S8) is too little: a WAL, a backup and a spool want room."""

CLOCK_SLACK_S = 60.0

Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    level: Level
    text: str


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: Callable[..., Any], load: Load
) -> None:
    """Add `doctor` to the command line."""
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong, and what to do",
        description="Look at the configuration, the database, the spool, the disk, the clock and the running server. "
        "Exit code 0: nothing is wrong (there may be warnings); 1: something is.",
    )
    common(parser)
    parser.set_defaults(run=lambda options: _run(options, load(options)))


def _run(options: argparse.Namespace, settings: Settings) -> int:
    findings = list(examine(settings))
    if options.json:
        print(orjson.dumps([finding._asdict() for finding in findings], option=orjson.OPT_INDENT_2).decode())
    else:
        for finding in findings:
            print(f"{finding.level:<8} {finding.name}: {finding.text}")
    return 1 if any(finding.level == "error" for finding in findings) else 0


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield one finding after another; nothing is changed."""
    yield _configuration(settings)
    yield from _server(settings)
    yield from _secret(settings)
    yield from _database(settings)
    yield from _disks(settings)
    yield from _clock(settings)


def _configuration(settings: Settings) -> Finding:
    from robodyne_rt import app

    try:
        app.check(settings)
    except ConfigError as error:
        return Finding("configuration", "error", str(error))
    return Finding("configuration", "ok", "can be used")


def _ports(settings: Settings) -> Iterator[Finding]:
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
            yield Finding(f"[{section}] port", "warning", f"{host} port {port}: {why}{hint}")


def _server(settings: Settings) -> Iterator[Finding]:
    path = control_socket(settings)
    try:
        status, report = control.ask(path, "GET", "/readyz?verbose")
    except NoServer:
        yield Finding("server", "warning", f"none runs here (nobody answers at {path})")
        yield from _ports(settings)
        return
    except Refused as error:
        yield Finding("server", "error", str(error))
        return
    if status == 200:
        yield Finding("server", "ok", f"version {report['version']} is ready")
    for check in report["checks"]:
        if not check["ok"]:
            yield Finding(f"server, {check['name']}", "error", check["detail"])
    _, overview = control.ask(path, "GET", "/api/status")
    storage = overview.get("data", {}).get("storage", {}) if isinstance(overview, dict) else {}
    if storage.get("state", "ok") != "ok":
        yield Finding("storage", "error", f"degraded: {storage['state']}: {storage.get('detail', 'see the log')}")


def _secret(settings: Settings) -> Iterator[Finding]:
    path = Path(settings.auth.secret_file).absolute()
    if not path.exists():
        yield Finding("secret", "warning", f"{path}: not there yet; the server makes it at its first start")
        return
    try:
        secret.load(settings.auth.secret_file)
    except ConfigError as error:
        yield Finding("secret", "error", str(error))
        return
    yield Finding("secret", "ok", f"{path}; keep a copy apart from the backups")


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        database = open_database(settings.database)
        db = database.open_reader() if _exists(database) else None
    except (ConfigError, StorageBroken, StorageUnavailable) as error:
        yield Finding("database", "error", str(error))
        return
    except Exception as error:  # whatever its driver raises
        yield Finding(
            "database", "error", f"{settings.database.url.partition('://')[0]}: cannot be opened: {str(error).strip()}"
        )
        return
    if isinstance(database, SqliteDatabase):
        yield from _sqlite_build()
    if db is None:
        yield Finding("database", "warning", f"{database.name}: not there yet; the server makes it at its first start")
        return
    try:
        yield from _contents(database, db)
        if settings.auth.mode == "local" and not accounts.users(db):
            yield Finding("users", "warning", "nobody can log in yet: robodyne-rt init makes the first administrator")
    except Exception as error:
        yield Finding("database", "error", f"{database.name}: cannot be read: {str(error).strip()}")
    finally:
        db.close()


def _exists(database: Database) -> bool:
    return not isinstance(database, SqliteDatabase) or database.path.exists()


def _sqlite_build() -> Iterator[Finding]:
    version = sqlite3.sqlite_version
    if has_wal_reset_bug(sqlite3.sqlite_version_info):
        yield Finding(
            "SQLite",
            "warning",
            f"{version} has the WAL-reset bug (fixed in 3.51.3, 3.50.7 and 3.44.6): two programs that checkpoint at the same "
            "moment can damage the file. This server alone checkpoints, well before others would; other programs that write "
            "should set PRAGMA wal_autocheckpoint = 0, or SQLite be updated",
        )
    else:
        yield Finding("SQLite", "ok", version)


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Return whether a version is one from 3.7.0 to 3.51.2 without the repair."""
    if version < (3, 7, 0) or version >= (3, 51, 3):
        return False
    return not ((3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0))


def _contents(database: Database, db: DbConnection) -> Iterator[Finding]:
    if isinstance(database, SqliteDatabase):
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            yield Finding("database", "error", f"{database.name}: damaged: {verdict}. Stop the server and restore a backup")
            return
    yield Finding("database", "ok", database.name)
    missing = db.missing_triggers()
    if missing:
        yield Finding(
            "change log",
            "error",
            f"triggers are gone or switched off ({', '.join(missing)}): restart the server, it makes them",
        )
    heads = dict(db.execute('SELECT topic, "offset" FROM topic_head').fetchall())
    newest = dict(db.execute('SELECT topic, max("offset") FROM change GROUP BY topic').fetchall())
    torn = [topic for topic, offset in newest.items() if heads.get(topic) != offset]
    if torn:
        yield Finding("change log", "error", f"its end and its heads differ for {', '.join(torn)}: somebody wrote to it")
    if letters := dead_letters.ids(db):
        yield Finding("dead letters", "warning", f"{len(letters)} wait for a person: robodyne-rt dlq list")


def _disks(settings: Settings) -> Iterator[Finding]:
    spool = Path(settings.database.spool_path).absolute()
    places = {"spool": spool.parent}
    if settings.database.url.startswith("sqlite:///"):
        places["database"] = Path(settings.database.url.removeprefix("sqlite:///")).absolute().parent
    for name, folder in places.items():
        if not folder.is_dir():
            yield Finding(f"disk of the {name}", "warning", f"{folder}: no such folder yet")
            continue
        if not os.access(folder, os.W_OK):
            yield Finding(f"disk of the {name}", "error", f"{folder}: cannot be written by this user")
            continue
        free = shutil.disk_usage(folder).free
        level: Level = "ok" if free >= DISK_FREE_BYTES else "error"
        yield Finding(
            f"disk of the {name}", level, f"{folder}: {free // 2**20} MiB free" + ("" if level == "ok" else ", too little")
        )
    if spool.exists():
        waiting = _spooled(spool)
        if waiting:
            yield Finding("spool", "warning", f"{waiting} messages wait in {spool}; a running server drains them")


def _spooled(path: Path) -> int:
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        (count,) = connection.execute("SELECT count(*) FROM spool").fetchone()
        return int(count)
    except sqlite3.Error:
        return 0
    finally:
        connection.close()


def _clock(settings: Settings) -> Iterator[Finding]:
    note = high_water.read(high_water.note_path(Path(settings.database.spool_path).absolute()))
    now = time.time()
    if note is not None and note.at > now + CLOCK_SLACK_S:
        yield Finding(
            "clock",
            "error",
            f"it went back: it shows {times.to_text(now)}, but the server noted {times.to_text(note.at)}. Set it (timedatectl)",
        )
    elif now < BUILT_AFTER_S:
        yield Finding("clock", "error", f"it shows {times.to_text(now)}, before this program was made. Set it (timedatectl)")
    else:
        yield Finding("clock", "ok", times.to_text(now))


BUILT_AFTER_S = 1_793_491_200.0
"""2026-11-01: no clock that is right shows less."""
