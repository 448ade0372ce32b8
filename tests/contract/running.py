"""The store as the server runs it: intake, writer, spool and doorbell on one database, and what they bring."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.model.changes import Entity, OptimisticChange, Update
from robodyne_rt.ports import Clock, ReceivedMessage
from robodyne_rt.protocol import device_messages
from robodyne_rt.store.engine.ownership import Ownership
from robodyne_rt.store.intake.acknowledged import Acknowledged
from robodyne_rt.store.intake.spool import Spool
from robodyne_rt.store.intake.spool_repair import SpoolDamage
from robodyne_rt.store.intake.writer import Writer
from robodyne_rt.store.intake.writes import CallWrite
from robodyne_rt.store.log.history import History
from robodyne_rt.store.log.reader_pool import ReaderPool
from robodyne_rt.store.log.retention import Retention
from robodyne_rt.store.opening import OpenStore
from robodyne_rt.store.storage import build_intake
from robodyne_rt.store.tables.given_ids import newest_id
from tests.stores import WINDOWS, Store


class Screens:
    """Keeps what would be shown; implements `ports.ChangeSink`."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.updates: list[Update] = []
        self.entities: dict[str, dict[int, Entity]] = {}
        self.optimistic: list[tuple[str, dict[int, OptimisticChange]]] = []
        self.settled: list[tuple[str, list[int], list[int]]] = []
        self.epochs: list[str] = []

    def publish(self, updates: list[Update]) -> None:
        self.updates += updates
        for update in updates:
            known = self.entities.setdefault(update.topic, {})
            if update.snapshot:
                known.clear()
            known.update(update.entities)
            for key in update.removed:
                known.pop(key, None)

    def begin_history(self, snapshots: list[Update]) -> None:
        self.epochs.append(self.history.epoch)
        self.publish(snapshots)

    def current(self, topic: str) -> dict[int, Entity]:
        return self.entities.get(topic, {})

    def show_optimistic(self, topic: str, changes: dict[int, OptimisticChange]) -> None:
        self.optimistic.append((topic, changes))

    def confirm(self, topic: str, ids: list[int]) -> None:
        self.settled.append((topic, ids, []))

    def revert(self, topic: str, ids: list[int]) -> None:
        self.settled.append((topic, [], ids))

    def touch_status(self) -> None:
        pass


class Running:
    """A store whose threads run."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        spool_max_bytes: int = 1 << 30,
        push_deadline_s: float = 0.05,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        database_options = {name: options.pop(name) for name in ("doorbell",) if name in options}
        settings: dict[str, Any] = {"batch_max": 100, "changes_retained": 1000, "fallback_interval_s": 0.2, "notify": True}
        settings |= options
        self.database = store.database(notify=settings["notify"], **database_options)
        db = self.database.open_writer()
        self.epoch = self.database.prepare(db)
        self.clock = clock or Clock()
        history = self.history = History(self.epoch)
        ids = IdGenerator(wall=self.clock.wall(), now=self.clock.now(), above=newest_id(db))
        self.screens = Screens(history)
        self.spool = Spool(folder / "spool.db", max_bytes=spool_max_bytes) if spool_max_bytes else None
        self.may_delete = False
        days = {"events_days": 90, "systemlogs_days": 30, "orders_days": 400, "customers_days": 30}
        retention = Retention(
            days=days, windows=WINDOWS, may_delete=lambda: self.may_delete, database=self.database, clock=self.clock
        )
        self.writer = Writer(
            self.database,
            db,
            history=history,
            spool=self.spool,
            windows=WINDOWS,
            retention=retention,
            ids=ids,
            clock=self.clock,
            **settings,
        )
        for topic, snapshot in self.writer.snapshots.items():
            self.screens.entities[topic] = dict(snapshot.entities)
        self.readers = ReaderPool(self.database, history=history, windows=WINDOWS)
        opened = OpenStore(
            database=self.database,
            ownership=Ownership([]),
            history=history,
            writer=self.writer,
            ids=ids,
            readers=self.readers,
            spool=self.spool,
            windows=WINDOWS,
            loss=None,
            spool_damage=(),
            left_unconfirmed=False,
            marker=folder / "spool.foretold",
        )
        self.intake = build_intake(
            opened, sink=self.screens, batch_max=settings["batch_max"], push_deadline_s=push_deadline_s, clock=self.clock
        )
        self.doorbell = self.database.change_listener(self.writer.notify)
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        runs: list[Any] = [self.doorbell.run] if self.doorbell is not None else []
        if (spool := self.spool) is not None:
            loop = asyncio.get_running_loop()

            def report_damage(damage: SpoolDamage) -> None:
                loop.call_soon_threadsafe(self.intake.report_damage, damage)

            runs.append(lambda: spool.run(report_damage))
        self.helpers = [threading.Thread(target=run, daemon=True) for run in runs]
        for helper in self.helpers:
            helper.start()

    @property
    def state(self) -> str:
        """The intake's; of no Literal, which mypy would take for settled once it was compared."""
        return self.intake.state

    @property
    def updates(self) -> list[Update]:
        return self.screens.updates

    def _run(self) -> None:
        try:
            self.writer.run(self.intake.report_from_thread)
        except BaseException as error:
            self.failure = error

    async def do(self, *applies: Any) -> list[Any]:
        """Submit writes in one turn of the loop; return each result, or the error it was refused with."""
        futures = []
        for apply in applies:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            futures.append(future)

            def outcome(result: Any, error: BaseException | None, future: asyncio.Future[Any] = future) -> None:
                future.set_result(error if error is not None else result)

            self.intake.submit(CallWrite(apply, outcome))
        return await asyncio.wait_for(asyncio.gather(*futures), 20)

    def say(self, device: str = "d", **fields: Any) -> "asyncio.Future[Any]":
        """Hand over one device message; the future gets its details, or the error."""
        parsed = device_messages.parse(json.dumps(fields).encode())
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def outcome(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(error if error is not None else result)

        received = ReceivedMessage(parsed.message, device, parsed.digest, self.clock.stamp(), outcome)
        self.intake.store_messages([received])
        return future

    async def tell(self, device: str = "d", **fields: Any) -> Any:
        """Store one device message, as a shell does that reads no further while the store is behind; return its details, or
        the error."""
        if self.intake.is_behind:
            resumed = asyncio.Event()
            self.intake.when_caught_up(resumed.set)
            await asyncio.wait_for(resumed.wait(), 20)
        return await asyncio.wait_for(self.say(device, **fields), 20)

    def forget_answers(self) -> None:
        """Know only what the database tells, as after a restart, or 20 000 messages later."""
        self.intake._acknowledged.close()
        self.intake._acknowledged = self.intake._admission._acknowledged = Acknowledged(self.database)

    async def until(self, fact: Any, *, within_s: float = 20.0) -> None:
        """Wait until `fact()` holds."""
        async with asyncio.timeout(within_s):
            while not fact():
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self.intake.stop()
        self.readers.close()
        self.writer.stop()
        await asyncio.to_thread(self.thread.join, 10)
        assert not self.thread.is_alive()
        await asyncio.sleep(0)
        for part in (self.spool, self.doorbell):
            if part is not None:
                part.stop()
        for helper in self.helpers:
            await asyncio.to_thread(helper.join, 10)
            assert not helper.is_alive()
        self.intake.close()
