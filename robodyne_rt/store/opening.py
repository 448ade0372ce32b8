"""Opens the store: database, spool and the history they hold. `storage.py` runs it, when the hub is there."""

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from robodyne_rt import systemd
from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.core.retry import Backoff
from robodyne_rt.model.changes import Update
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import RobodyneError, StorageUnavailable
from robodyne_rt.settings import Settings, owned_files
from robodyne_rt.store.engine.database import (
    Database,
    DbConnection,
    Fault,
    closed_on_error,
    open_database,
    read_epochs,
    read_meta,
    renew_epoch,
)
from robodyne_rt.store.engine.ownership import Ownership
from robodyne_rt.store.engine.reserve import keep, open_with_reserve
from robodyne_rt.store.errors import DataOwned, StorageBroken
from robodyne_rt.store.intake import write_registry
from robodyne_rt.store.intake.spool import Spool
from robodyne_rt.store.intake.spool_repair import SpoolDamage
from robodyne_rt.store.intake.writer import Writer
from robodyne_rt.store.log import high_water
from robodyne_rt.store.log.high_water import Contents, HighWaterMark, Loss
from robodyne_rt.store.log.history import History
from robodyne_rt.store.log.reader_pool import ReaderPool
from robodyne_rt.store.log.retention import Retention
from robodyne_rt.store.tables import given_ids

logger = logging.getLogger(__name__)

OWNER_PATIENCE_S = 10.0
"""How long a start waits for another owner of the data: at a restart the old process may still be ending."""

OWNER_POLL_S = 0.1

FIRST_RETRY_S, LONGEST_RETRY_S = 0.2, 5.0
"""Pauses between two tries to reach a database that is away at start."""


@dataclass(frozen=True, slots=True)
class OpenStore:
    """A store that can be read, and written by one writer.

    Attributes:
        ownership: the locks on its files; whoever runs the store releases them at the end.
        writer: built, not running.
        ids: gives ids above all that are stored.
        spool: None where there is none (`spool_max_bytes = 0`).
        windows: numbers of the snapshot windows by setting name.
        loss: what the database lacks and the high-water mark knows; a new epoch has begun then.
        spool_damage: what is lost with the spool's file.
        left_unconfirmed: whether an earlier run ended while screens showed what no disk had.
        marker: the file that says so to the next start.
    """

    database: Database
    ownership: Ownership
    history: History
    writer: Writer
    ids: IdGenerator
    readers: ReaderPool
    spool: Spool | None
    windows: Mapping[str, int]
    loss: Loss | None
    spool_damage: Sequence[SpoolDamage]
    left_unconfirmed: bool
    marker: Path

    @property
    def snapshots(self) -> Mapping[str, Update]:
        """What each topic's window shows at start."""
        return self.writer.snapshots

    def forget_snapshots(self) -> None:
        """Hold no more what stood there at the start: it may be much, and the hub has what it needs."""
        self.writer.snapshots = {}

    def release(self) -> None:
        """Let go of the data; for when every thread has ended, or none was started."""
        self.writer.close()
        if self.spool is not None:
            self.spool.close()
        self.readers.close()
        self.ownership.release()


async def open_store(
    settings: Settings, *, clock: Clock, may_delete: Callable[[], bool], stop: anyio.Event
) -> OpenStore | None:
    """Open the store as its one owner, waiting for another owner to end and for a database that is away; None when asked to
    stop meanwhile.

    Args:
        may_delete: whether the wall clock can be believed where something would be deleted for its age.
    Raises:
        DataOwned: another process still owns it after `OWNER_PATIENCE_S`; nothing of it was touched.
        StorageBroken, SchemaMismatch: it cannot be used.
        ConfigError: the database can never be reached like this.
    """
    database = open_database(settings.database)
    ownership = Ownership(owned_files(settings))
    backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
    patient_until = clock.now() + OWNER_PATIENCE_S
    told = ""
    try:
        while True:
            try:
                ownership.take()
                return await anyio.to_thread.run_sync(_open, database, settings, clock, may_delete, ownership)
            except DataOwned as error:
                if clock.now() >= patient_until:
                    raise
                if str(error) != told:
                    logger.warning("waiting for its end: %s", error, extra={"action": "data_owned"})
                    systemd.notify(f"STATUS=waiting: {error}")
                told, pause_s = str(error), OWNER_POLL_S
            except StorageUnavailable as error:
                logger.error("waiting for the database: %s", error, extra={"action": "store_awaited"})
                systemd.notify(f"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=waiting for the database: {error}")
                pause_s = backoff.next_s()
            with anyio.move_on_after(pause_s):
                await stop.wait()
                ownership.release()
                return None
    except BaseException:
        ownership.release()
        raise


def _open(
    database: Database, settings: Settings, clock: Clock, may_delete: Callable[[], bool], ownership: Ownership
) -> OpenStore:
    windows = {
        "events_window": settings.topics.events_window,
        "systemlogs_window": settings.topics.systemlogs_window,
        "orders_finished_minutes": settings.topics.orders_finished_minutes,
    }
    spool_path = Path(settings.database.spool_path).absolute()
    db: DbConnection = open_with_reserve((*database.files, spool_path)[0], database.open_writer)
    try:
        with contextlib.ExitStack() as opened:
            opened.enter_context(closed_on_error(db))
            epoch = database.prepare(db, progress=_tell_systemd)
            marker = spool_path.with_suffix(".foretold")
            left_unconfirmed = marker.exists()
            mark = high_water.read(high_water.mark_path(spool_path))
            epoch, loss = _check_history(database, db, epoch, mark)
            history = History(epoch)
            spool = _open_spool(settings, spool_path)
            if spool is not None:
                opened.enter_context(closed_on_error(spool))
            ids = IdGenerator(wall=clock.wall(), now=clock.now(), above=_newest_id(db, spool))
            _note_next_id(database, db, ids.bound(clock.now()))
            drained_upto = int(read_meta(db, f"spool:{mark.spool}") or 0) if mark else 0
            writer = Writer(
                database,
                db,
                history=history,
                spool=spool,
                windows=windows,
                batch_max=settings.database.batch_max,
                changes_retained=settings.database.changes_retained,
                fallback_interval_s=settings.hub.fallback_interval_s,
                notify=settings.database.notify,
                attempts=settings.queue.max_attempts,
                retention_days=settings.queue.retention_days,
                retention=Retention(
                    days=settings.retention.model_dump(), windows=windows, may_delete=may_delete, database=database, clock=clock
                ),
                ids=ids,
                clock=clock,
            )
            for path in (*database.files, spool_path):
                keep(path)
    except database.errors as error:
        if database.fault(error) in (Fault.FULL, Fault.BUSY):
            raise StorageUnavailable(f"{database.name}: {error}") from error
        raise StorageBroken(f"{database.name}: {error}") from error
    return OpenStore(
        database=database,
        ownership=ownership,
        history=history,
        writer=writer,
        ids=ids,
        readers=ReaderPool(database, history=history, windows=windows),
        spool=spool,
        windows=windows,
        loss=loss,
        spool_damage=_spool_damage(spool, drained_upto, mark),
        left_unconfirmed=left_unconfirmed,
        marker=marker,
    )


def _tell_systemd(text: str) -> None:
    systemd.notify(f"EXTEND_TIMEOUT_USEC=30000000\nSTATUS={text}")


def _open_spool(settings: Settings, path: Path) -> Spool | None:
    if not settings.database.spool_max_bytes:
        return None
    try:
        return open_with_reserve(path, lambda: Spool(path, max_bytes=settings.database.spool_max_bytes))
    except (sqlite3.Error, OSError) as error:
        # It may hold messages that were acknowledged: going on without it could lose them.
        raise StorageBroken(f"[database] spool_path {path}: cannot be opened: {error}") from error


def _check_history(database: Database, db: DbConnection, epoch: str, mark: HighWaterMark | None) -> tuple[str, Loss | None]:
    """Return the epoch, a new one where the database lacks what its mark knows, and what it lacks."""
    if mark is None:
        return epoch, None
    heads = dict(db.execute('SELECT topic, "offset" FROM topic_head').fetchall())
    query = 'SELECT "offset", key, op, at FROM change WHERE topic = ? AND "offset" = ?'
    lines = {topic: db.execute(query, (topic, line[0])).fetchone() for topic, line in mark.lines.items()}
    loss = mark.loss(Contents(read_epochs(db), heads, lines))
    if loss is not None:
        epoch = renew_epoch(db, epoch)
        counts = "".join(f", {topic} {count}" for topic, count in loss.changes.items())
        logger.error(
            "%s lacks changes that were confirmed: %s%s; new epoch %s", database.name, loss.text, counts, epoch,
            extra={"action": "data_regressed"},
        )  # fmt: skip
    return epoch, loss


def _note_next_id(database: Database, db: DbConnection, next_id: int) -> None:
    """Tell the database where our ids go on, before the first of them comes: after months without a server that is far above
    all that are stored. On a full disk it is told later."""
    try:
        db.execute("UPDATE topic_head SET next_id = ?", (next_id,))
    except database.errors as error:
        if database.fault(error) not in (Fault.FULL, Fault.BUSY):
            raise


def _newest_id(db: DbConnection, spool: Spool | None) -> int:
    """Return the newest id that was given: in the database, or in what waits in the spool."""
    (noted,) = db.execute("SELECT max(next_id) FROM topic_head").fetchone()
    found = [given_ids.newest_id(db), int(noted or 0)]
    if spool is not None and spool.rows_at_start:
        with contextlib.suppress(StorageUnavailable, ValueError, KeyError, TypeError, RobodyneError):
            for row in spool.rows(spool.last_seq - 1, 1):  # they are in the order of their ids
                found.append(write_registry.load(row.payload).newest_id)
    return min(max(found), given_ids.HIGHEST)


def _spool_damage(spool: Spool | None, drained_upto: int, mark: HighWaterMark | None) -> list[SpoolDamage]:
    """Return what is lost with the spool: found damaged, or not the one that the mark knows."""
    if spool is None:
        return []
    found = [spool.damage_at_start] if spool.damage_at_start else []
    if mark is None or not mark.spool:
        return found
    newest = spool.last_seq if mark.spool == spool.name else 0
    lost = mark.spooled_upto - max(newest, drained_upto)
    if lost > 0 and not found:
        text = f"the spool is missing, or an older copy is in its place: up to {lost} messages that were acknowledged are lost"
        logger.critical("%s: %s", spool.path, text, extra={"action": "spool_lost"})
        found.append(SpoolDamage(text, lost))
    return found
