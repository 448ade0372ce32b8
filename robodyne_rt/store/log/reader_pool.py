"""The loop's way to the change log: coroutines, a short read transaction each, in threads of its own."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread

from robodyne_rt.model.changes import Entity, Keys, Update
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.engine.database import Database, DbConnection, Fault, closed_on_error
from robodyne_rt.store.log.change_log import ChangeLog, HistoryLost
from robodyne_rt.store.log.history import History

T = TypeVar("T")

READ_PATIENCE_S = 5.0
"""A read that has not come back after so long is given up; what hangs is the database, not the query."""


class ReaderPool:
    """The loop's way to the change log; implements `ports.ChangeReader`.

    Args:
        threads: reads at the same time; further ones wait their turn.
    """

    def __init__(self, database: Database, *, history: History, windows: Mapping[str, int], threads: int = 2) -> None:
        self._history = history
        self._database = database
        self._windows = windows
        self._limiter = anyio.CapacityLimiter(threads)
        self._idle: list[_Reader] = []
        self._lock = threading.Lock()
        self._closed = False

    @property
    def epoch(self) -> str:
        """The history that offsets count in."""
        return self._history.epoch

    async def snapshot(self, topic: str, *, limit_bytes: int | None = None) -> Update:
        return await self._read(lambda log: self._verified(log, topic).snapshot(topic, limit_bytes=limit_bytes))

    async def window(self, topic: str) -> Keys:
        return await self._read(lambda log: self._verified(log, topic).window(topic))

    async def changed(self, topic: str, offset: int) -> Keys | None:
        return await self._read(lambda log: self._verified(log, topic).changed(topic, offset))

    async def entities(self, topic: str, keys: Sequence[int]) -> dict[int, Entity]:
        return await self._read(lambda log: self._verified(log, topic).entities(topic, keys))

    def _verified(self, log: ChangeLog, topic: str) -> ChangeLog:
        """Return the log, which holds what the writer read: else a client would go on from a history that is gone, in the
        moment before the writer sees it.

        Raises:
            StorageUnavailable: it does not; a new history begins in a moment.
        """
        try:
            # What was read is taken before the log is looked at: it cannot be newer than what is found there.
            log.verify(topic, self._history.last_lines.get(topic))
        except HistoryLost as error:
            raise StorageUnavailable(f"the database lost changes: {error}", retry_after_s=1) from error
        return log

    async def overview(self) -> Entity:
        return await self._read(lambda log: log.overview())

    async def read(self, query: Callable[[DbConnection], T]) -> T:
        """Run `query` with a read-only connection, in one transaction.

        Raises:
            StorageUnavailable: the database cannot be read now.
        """
        return await self._run(lambda reader: reader.read(query))

    async def _read(self, query: Callable[[ChangeLog], T]) -> T:
        return await self._run(lambda reader: reader.read_log(query))

    async def _run(self, query: "Callable[[_Reader], T]") -> T:
        taken: list[_Reader] = []
        try:
            with anyio.fail_after(READ_PATIENCE_S):
                return await anyio.to_thread.run_sync(
                    self._in_thread, query, taken, limiter=self._limiter, abandon_on_cancel=True
                )
        except TimeoutError:
            for reader in taken:
                reader.db.interrupt()  # a server that hangs must not keep our threads
            raise StorageUnavailable("the database does not answer", retry_after_s=1) from None

    def _in_thread(self, query: "Callable[[_Reader], T]", taken: "list[_Reader]") -> T:
        with self._lock:
            reader = self._idle.pop() if self._idle else None
        try:
            if reader is None:
                with closed_on_error(self._database.open_reader()) as db:
                    reader = _Reader(db, self._windows)
            taken.append(reader)
            result = query(reader)
        except self._database.errors as error:
            if reader is not None:
                reader.db.close()
            if self._database.fault(error) is Fault.WRITE:
                raise
            raise StorageUnavailable(f"the database cannot be read now: {str(error).strip()}", retry_after_s=1) from error
        except BaseException:
            if reader is not None:
                reader.db.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(reader)
                return result
        reader.db.close()
        return result

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.db.close()


class _Reader:
    """One read-only connection and the change log seen through it."""

    def __init__(self, db: DbConnection, windows: Mapping[str, int]) -> None:
        self.db = db
        self._log = ChangeLog(db, windows=windows)

    def read_log(self, query: Callable[[ChangeLog], T]) -> T:
        with self._log.reading():
            return query(self._log)

    def read(self, query: Callable[[DbConnection], T]) -> T:
        with self._log.reading():
            return query(self.db)
