"""`robodyne-rt backup` and `restore`: a SQLite database copied while it is written, and put back with a new epoch."""

import argparse
import contextlib
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from robodyne_rt.cli import control
from robodyne_rt.cli.control import NoServer, Refused
from robodyne_rt.settings import ConfigError, Settings, control_socket, owned_files
from robodyne_rt.store.engine.database import read_epochs, renew_epoch
from robodyne_rt.store.engine.ownership import Ownership
from robodyne_rt.store.engine.sqlite import SqliteConnection, SqliteDatabase, check, copy_database, sync
from robodyne_rt.store.errors import DataOwned, SchemaTooNew, StorageBroken
from robodyne_rt.store.log import high_water

Load = Callable[[argparse.Namespace], Settings]


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: Callable[..., Any], load: Load
) -> None:
    """Add `backup` and `restore` to the command line."""
    backup = commands.add_parser(
        "backup",
        help="copy the database, also while the server runs",
        description="Copy the SQLite database to FILE (default: a new file in the folder backups beside the spool), verified. "
        "A running server does it on the connection that writes, without a pause. A Postgres database is backed up by pg_dump.",
    )
    backup.add_argument("file", nargs="?", type=Path, metavar="FILE")
    common(backup)
    backup.set_defaults(run=lambda options: _backup(options, load(options)))
    restore = commands.add_parser(
        "restore",
        help="put a backup in the database's place",
        description="Put a backup in the place of the SQLite database. The server must be stopped. The replaced database is "
        "kept beside it. Clients get a new epoch, and with it the whole state.",
    )
    restore.add_argument("file", type=Path, metavar="FILE")
    common(restore)
    restore.set_defaults(run=lambda options: _restore(options, load(options)))


def _database(settings: Settings) -> SqliteDatabase:
    if not settings.database.url.startswith("sqlite:"):
        raise ConfigError("a Postgres database is backed up and restored by its own tools: pg_dump --format=custom, pg_restore")
    return SqliteDatabase(settings.database.url)


def _backup(options: argparse.Namespace, settings: Settings) -> int:
    database = _database(settings)
    target: Path | None = options.file and options.file.absolute()
    if target is not None and target.exists():
        raise ConfigError(f"{target}: exists already; choose another name")
    if target is not None and not os.access(target.parent, os.W_OK):
        raise ConfigError(f"{target.parent}: no such folder, or not yours to write in")
    started = time.monotonic()
    try:
        made = Path(control.do(control_socket(settings), "POST", "/api/backups", {})["path"])
        if target is not None:
            shutil.move(made, target)
            sync(target.parent)
    except NoServer:
        if not database.path.exists():
            raise ConfigError(f"{database.path}: no such database") from None
        made = target or _new_name(settings)
        with Ownership(database.files).take():
            made.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            db = database.open_writer()
            try:
                copy_database(db.connection, made)
            finally:
                db.close()
    except Refused as error:
        raise StorageBroken(str(error)) from error
    path = target or made
    result = {"path": str(path), "bytes": path.stat().st_size, "seconds": round(time.monotonic() - started, 3)}
    print(orjson.dumps(result).decode() if options.json else f"{path}: {result['bytes']} bytes, verified")
    return 0


def _new_name(settings: Settings) -> Path:
    folder = Path(settings.database.spool_path).absolute().parent / "backups"
    return folder / f"{time.strftime('robodyne-%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}.db"


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    database = _database(settings)
    try:
        with Ownership(owned_files(settings)).take():
            return _put_back(options, settings, database)
    except DataOwned as error:
        raise DataOwned(f"{error}: stop it first (systemctl stop robodyne-rt)") from error


def _put_back(options: argparse.Namespace, settings: Settings, database: SqliteDatabase) -> int:
    _verify(options.file, database.schema_version)
    part = database.path.with_name(database.path.name + ".restored")
    database.path.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    shutil.copyfile(options.file, part)
    epoch = _renew(part)
    sync(part)
    kept = _set_aside(database)
    part.rename(database.path)
    sync(database.path.parent)
    # The note is about the history that was replaced.
    high_water.mark_path(Path(settings.database.spool_path).absolute()).unlink(missing_ok=True)
    result = {"path": str(database.path), "epoch": epoch, "replaced": str(kept) if kept else None}
    if options.json:
        print(orjson.dumps(result).decode())
    else:
        print(f"{database.path}: restored from {options.file}, new epoch {epoch}")
        if kept:
            print(f"the replaced database is kept as {kept}")
    return 0


def _verify(file: Path, newest_version: int) -> None:
    """Refuse what is no sound backup of ours.

    Raises:
        ConfigError: no such file.
        StorageBroken: not sound.
        SchemaTooNew: made by a newer program.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        verdict = check(connection)
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    except sqlite3.Error as error:
        raise StorageBroken(f"{file}: no backup of this server: {error}") from error
    finally:
        connection.close()
    if verdict != "ok" or row is None:
        raise StorageBroken(f"{file}: not sound: {verdict}")
    if int(row[0]) > newest_version:
        raise SchemaTooNew(
            f"{file}: schema version {row[0]}, this program knows up to {newest_version}: install the newer version"
        )


def _renew(path: Path) -> str:
    """Give a database a new epoch; return it."""
    db = SqliteConnection(sqlite3.connect(path, isolation_level=None))
    try:
        return renew_epoch(db, read_epochs(db)[-1])
    finally:
        db.close()


def _set_aside(database: SqliteDatabase) -> Path | None:
    """Keep the replaced database whole, its WAL brought in; where it is broken its files are kept as they are."""
    if not database.path.exists():
        return None
    kept = database.path.with_name(f"{database.path.name}.replaced-{time.strftime('%Y%m%dT%H%M%S')}")
    try:
        with contextlib.closing(database.open_writer()) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except (StorageBroken, sqlite3.Error):
        pass
    for suffix in ("", "-wal", "-shm"):
        part = database.path.with_name(database.path.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    return kept
