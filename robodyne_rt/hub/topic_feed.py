"""The feed of a topic with a table: the newest state, what was missed, and live telemetry over it.

What clients lack they get from memory where it reaches (a window, the backlog), else from the database; `transmission.py` sends
it in parts.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import anyio
import orjson

from robodyne_rt.core.backlog import Backlog
from robodyne_rt.core.overlay import Overlay
from robodyne_rt.core.rate_limit import TimeShare
from robodyne_rt.core.robot_presence import RobotPresence
from robodyne_rt.core.window import WINDOW_BYTES, Window, size_of, sizes_of
from robodyne_rt.hub.connection import Subscription
from robodyne_rt.hub.feed import Document, Feed
from robodyne_rt.hub.transmission import Part, Transmission
from robodyne_rt.model.access import Principal
from robodyne_rt.model.changes import Entity, OptimisticChange, Update
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.ports import ChangeReader
from robodyne_rt.protocol import frames, topic_messages
from robodyne_rt.protocol.errors import StorageUnavailable, TooLarge, TooSlow

logger = logging.getLogger(__name__)

MAX_MISSING = 1000
"""Entities that are read at once where the window in memory lacks them."""

BACKLOG_ENTITIES = 1000
BACKLOG_BYTES = 8 << 20
"""What a topic remembers of its newest changes; who is further behind is caught up from the log."""

WINDOW_KEPT_S = 60.0
"""The window in memory is compared with the database after so long: what ages out of it is seen only there."""

ROOM_LOOK_S = 0.02
"""How often it is looked whether a client has taken a part."""

VOLATILE_SHARE = 0.25
VOLATILE_BURST_S = 0.005
"""Part of the time that may go into live telemetry; more of it is merged, the newest of each robot."""

SMALL_RECOVERY = 20
"""A recovery of at most this many entities is never weighed against a snapshot."""


class TopicFeed(Feed):
    """A topic with a table.

    Args:
        snapshot: what the window shows at start.
        left_unconfirmed: whether the last run ended while screens showed what was never stored: who comes back from before gets
            a snapshot then, which such things are not in.
        window_rows: newest rows that a snapshot shows; None for all.
        robot_presence: telemetry to lay over entities, for the topic of robots.
        spawn: starts a coroutine in the hub's task group.
    """

    def __init__(
        self,
        name: str,
        *,
        reader: ChangeReader,
        snapshot: Update,
        left_unconfirmed: bool,
        window_rows: int | None,
        robot_presence: RobotPresence | None,
        spawn: Callable[..., None],
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        self._reader = reader
        self._window_rows = window_rows
        self._robot_presence = robot_presence
        self._spawn = spawn
        self.offset = self._sent_offset = snapshot.offset
        self._trusted_from = snapshot.offset + 1 if left_unconfirmed else 0
        self._corrected_upto = 0  # who was before this may have seen what was taken back
        self._backlog = Backlog(name, offset=snapshot.offset, limit=BACKLOG_ENTITIES, limit_bytes=BACKLOG_BYTES)
        # What a snapshot shows; None where it would take too much memory.
        self._window = self._kept(snapshot)
        self._window_compared_at = self._clock.now()
        self._comparing = anyio.Lock()
        self._generation = 0  # grows when what was begun before leads nowhere any more
        self._volatile: dict[int, Entity] = {}
        self._volatile_share = TimeShare(share=VOLATILE_SHARE, burst_s=VOLATILE_BURST_S)
        self._volatile_rests = False
        self._overlay = Overlay(limit=window_rows, robot_presence=robot_presence)
        # What was begun for this position and telemetry already, by where it starts: for everyone at the same place.
        self._transmissions: dict[tuple[str, int], Transmission] = {}
        self._transmissions_version = 0

    @property
    def epoch(self) -> str:
        return self._reader.epoch

    @property
    def told_offset(self) -> int:
        return self._sent_offset

    @property
    def volatile_version(self) -> int:
        return self._overlay.version

    # -- the stream ------------------------------------------------------------------------------------------------

    def publish(self, update: Update) -> None:
        """Take the next update of the log."""
        self._note_robots(update)
        self._transmissions.clear()
        if update.snapshot:
            self._start_over(update)
            return
        encoded = [orjson.dumps(self._overlay.over(entity)) for entity in update.entities.values()]
        sizes = {key: size_of(text) for key, text in zip(update.entities, encoded, strict=True)}
        self._backlog.add(update, sizes)
        if self._window is not None:
            self._window.apply(update.entities, update.removed, sizes)
            if self._window.size_bytes > WINDOW_BYTES:
                self.give_up_window()
        self.offset = update.offset
        if not update.entities and not update.removed:
            return  # nothing to tell; the next update's `prev` covers these lines
        for key in (*update.entities, *update.removed):
            self._volatile.pop(key, None)
        self.stats.updates += 1
        is_large = sum(map(len, encoded)) > topic_messages.PART_BYTES
        if is_large:
            for subscription in list(self.live):  # too large for one message: it comes in parts
                self.lag(subscription)
        if self.live:
            fields = topic_messages.change_fields(update.removed, self._sent_offset, update.offset)
            self.send_to_live(frames.frame(topic_messages.update(self.name, encoded, fields)))
        self._sent_offset = update.offset
        if is_large:
            self.serve_lagging(self._clock.now())

    def _start_over(self, snapshot: Update) -> None:
        """The log has a hole, or another history began: everybody gets the whole state."""
        self._generation += 1
        self._backlog = Backlog(self.name, offset=snapshot.offset, limit=BACKLOG_ENTITIES, limit_bytes=BACKLOG_BYTES)
        self._window, self._window_compared_at = self._kept(snapshot), self._clock.now()
        self._volatile.clear()
        self.offset = self._sent_offset = snapshot.offset
        self._send_all_anew()

    def _send_all_anew(self) -> None:
        """Bring everybody to our position by a snapshot."""
        for subscription in list(self.live):
            self.lag(subscription)
        for subscription in self.lagging:
            subscription.offset = -1
        self.serve_lagging(self._clock.now())

    def _note_robots(self, update: Update) -> None:
        if self._robot_presence is not None:
            for entity in update.entities.values():
                self._robot_presence.stored(entity, self._clock.now())
            for key in update.removed:
                self._robot_presence.removed(key)

    def push_volatile(self, entity: Entity) -> None:
        """Push live telemetry; what comes in one turn of the loop leaves as one message, the newest of each entity; a flood of
        it, less often."""
        self.stats.volatile += 1
        if self.live:
            self._volatile[entity["id"]] = self._overlay.over(entity)
            if not self._volatile_rests:
                self.plan_flush()

    def show_optimistic(self, changes: dict[int, OptimisticChange]) -> None:
        """Push what storage has not confirmed, and lay it over everything that is sent until `confirm` or `revert`."""
        self._overlay.show(changes)
        for change in changes.values():
            self.push_volatile(change.entity)

    def confirm(self, ids: list[int]) -> None:
        """Lay nothing more over these: they are stored."""
        self._overlay.end(ids)

    def revert(self, ids: list[int]) -> None:
        """Lay nothing more over these; whoever saw them gets what is stored instead, or their removal."""
        self.confirm(ids)
        self._transmissions.clear()
        self._corrected_upto = self.offset + 1
        entities, removed = [], []
        for id in ids:
            self._volatile.pop(id, None)
            is_known, entity = self._stored(id)
            if not is_known and self._window is None:
                # What is stored instead cannot be told from memory, neither now nor to who comes back from before.
                self._generation += 1
                self._trusted_from = self.offset + 1
                self._send_all_anew()
                return
            self._backlog.correct(id, entity)
            if entity is None:
                removed.append(id)
            else:
                entities.append(orjson.dumps(self._overlay.over(entity)))
        fields = topic_messages.change_fields(removed, self._sent_offset, self._sent_offset)
        self.send_to_live(frames.frame(topic_messages.update(self.name, entities, fields)))

    def current(self) -> dict[int, Entity]:
        """Return the stored entities of the window, from memory; none where they would take too much."""
        return self._window.entities if self._window is not None else {}

    def shown(self) -> list[Entity]:
        """Return the entities of the window as screens show them, from memory."""
        return self._overlay.over_all(self.current().values())

    def overlaid(self, entities: list[Entity]) -> list[Entity]:
        """Return stored entities as screens see them, and those that are not stored yet."""
        return self._overlay.over_all(entities)

    def flush(self) -> None:
        if not self._volatile or self._volatile_rests:
            super().flush()
            return
        started = self._clock.now()
        self._outgoing.append(frames.frame(topic_messages.volatile(self.name, list(self._volatile.values()))))
        self._volatile = {}
        super().flush()
        if rest_s := self._volatile_share.spend(started, self._clock.now()):
            self._volatile_rests = True
            asyncio.get_running_loop().call_later(rest_s, self._volatile_rested)

    def _volatile_rested(self) -> None:
        self._volatile_rests = False
        if self._volatile:
            self.plan_flush()

    # -- catching up -----------------------------------------------------------------------------------------------

    def _stored(self, key: int) -> tuple[bool, Entity | None]:
        """Return whether memory knows what became of an entity, and its newest stored state, None where it is no more."""
        if key in self._backlog:
            return True, self._backlog[key]
        entity = None if self._window is None else self._window.entities.get(key)
        return entity is not None, entity

    def known(self, key: int) -> tuple[bool, Entity | None]:
        is_known, entity = self._stored(key)
        if not is_known and (unconfirmed := self._overlay.unconfirmed(key)) is not None:
            is_known, entity = True, unconfirmed
        return is_known, None if entity is None else self._overlay.over(entity)

    async def read(self, keys: Sequence[int]) -> dict[int, Entity]:
        found = await self._reader.entities(self.name, keys)
        return {key: self._overlay.over(entity) for key, entity in found.items()}

    def _transmission(self, kind: str, start: int, begin: Callable[[], Transmission]) -> Transmission:
        """Return what `begin` gives, one for everyone at the same place."""
        version = self.volatile_version
        if version != self._transmissions_version:
            self._transmissions.clear()
            self._transmissions_version = version
        if (known := self._transmissions.get((kind, start))) is None:
            known = self._transmissions[kind, start] = begin()
        return known

    def _begin(self, prev: int | None, offset: int, keys: list[int], *, recovered: bool = False) -> Transmission:
        """Return a transmission of these keys, and of what is shown and not stored yet."""
        seen = set(keys)
        keys = keys + [key for key in self._overlay if key not in seen]
        if prev is None:
            keys.sort()
            if self._window_rows is not None:
                keys = keys[-self._window_rows :]
        return Transmission(
            self,
            prev=prev,
            offset=offset,
            epoch=self.epoch,
            keys=keys,
            changes=bool(seen),
            generation=self._generation,
            version=self.volatile_version,
            recovered=recovered,
        )

    def _snapshot_from_memory(self, window: Window) -> Transmission:
        return self._transmission("snapshot", -1, lambda: self._begin(None, self.offset, list(window.entities)))

    def catch_up(self, subscription: Subscription) -> bool:
        version = self.volatile_version
        if subscription.offset == self.offset and subscription.seen_version == version:
            return True
        transmission = self._transmission_for(subscription)
        framed = transmission.frame_from_memory(0) if transmission is not None else None
        if transmission is None or framed is None or not framed[1]:
            if subscription.is_full and framed is not None:
                subscription.connection.close(TooLarge())
                return False
            subscription.catching_up = True
            self._spawn(self._transmit, subscription, transmission)
            return False
        subscription.seen_version = transmission.version
        if transmission.prev is None or transmission.changes:
            subscription.connection.write(framed[0])
            self.mark_sent(subscription, transmission.offset)
        elif entities := self._overlay.alone(telemetry=subscription.interval_s > 0):
            subscription.send(topic_messages.volatile(self.name, entities))
            self.mark_sent(subscription, self.offset)
        return True

    def _transmission_for(self, subscription: Subscription) -> Transmission | None:
        """Return what brings a subscription to our position; None where the database must be asked."""
        if subscription.is_full or subscription.offset < 0:
            return None if self._window is None else self._snapshot_from_memory(self._window)
        start = subscription.offset
        keys = self._backlog.changed_since(start)
        if keys is None:
            return None
        return self._transmission("update", start, lambda: self._begin(start, self.offset, keys))

    async def greet(self, subscription: Subscription, since: str | None, epoch: str | None) -> None:
        transmission = await self._first(None if subscription.is_full else since, epoch)
        frame, is_last = await transmission.frame(0)
        if subscription.ended:
            return
        if subscription.is_full and not is_last:
            subscription.connection.close(TooLarge())
            return
        if transmission.generation != self._generation:
            offset = -1
        elif is_last:
            offset = transmission.offset
        else:
            offset = -1 if transmission.prev is None else transmission.prev
        is_sent = self.enter(subscription, frame, offset, transmission.version)
        if is_sent and not is_last:
            subscription.catching_up = True
            self._spawn(self._transmit, subscription, transmission, 1)
        else:
            self._serve(subscription, self._clock.now())

    async def _first(self, since: str | None, epoch: str | None) -> Transmission:
        """Return what answers `?since=&epoch=`."""
        start = _offset(since) if epoch == self.epoch else None
        if start is not None and (recovery := await self._recovery(start)) is not None:
            return recovery
        self.stats.snapshots += 1
        await self._compare_window()
        if self._window is not None:
            return self._snapshot_from_memory(self._window)
        return await self._stored_snapshot()

    async def _stored_snapshot(self) -> Transmission:
        """Return a snapshot that is read from the database, part by part."""
        generation = self._generation
        offset, keys = await self._reader.window(self.name)
        if generation != self._generation:
            return await self._stored_snapshot()  # of a history that is gone
        return self._transmission("stored snapshot", offset, lambda: self._begin(None, offset, keys))

    async def _recovery(self, start: int) -> Transmission | None:
        """Return what changed after `start`, or None where a snapshot is due."""
        if not self._trusted_from <= start <= self.offset:
            return None
        offset, keys = self.offset, self._backlog.changed_since(start)
        if keys is None:
            if start < self._corrected_upto:
                return None  # the log knows nothing of what was shown and taken back
            generation = self._generation
            try:
                stored = await self._reader.changed(self.name, start)
            except StorageUnavailable:
                return None
            if stored is None or generation != self._generation:
                return None
            offset, keys = stored
        elif len(keys) > SMALL_RECOVERY and self._window is not None and len(self._window.entities) < len(keys):
            return None
        # Read from the log it may be ahead of us, and further than what another one got a moment ago.
        return self._transmission(f"recovered {offset}", start, lambda: self._begin(start, offset, keys, recovered=True))

    async def _transmit(self, subscription: Subscription, transmission: Transmission | None, index: int = 0) -> None:
        """Send the parts from `index` on as the client takes them; without a transmission begin one from where it is."""
        try:
            if transmission is None:
                transmission = await self._first(None if subscription.is_full else str(subscription.offset), self.epoch)
            is_last = False
            if transmission.prev is None:
                subscription.offset = -1  # until it is whole
            while not is_last:
                if subscription.connection.paused:
                    transmission.forget_frames()
                if not await self._has_room(subscription):
                    return
                frame, is_last = await transmission.frame(index)
                if subscription.is_full and not is_last:
                    subscription.connection.close(TooLarge())
                    return
                if subscription not in self.lagging or transmission.generation != self._generation:
                    return
                subscription.connection.write(frame)
                index += 1
                await asyncio.sleep(0)  # others first
            self.mark_sent(subscription, transmission.offset)
            subscription.seen_version = transmission.version
        except StorageUnavailable:
            return  # asked again at the next tick, from its position
        finally:
            subscription.catching_up = False
            if transmission is not None and transmission.generation != self._generation:
                subscription.offset = -1
        self._serve(subscription, self._clock.now())

    async def _has_room(self, subscription: Subscription) -> bool:
        """Wait until a client has taken what was sent; False where it is gone, or took too long for it."""
        since = self._clock.now()
        while subscription in self.lagging:
            connection = subscription.connection
            if connection.unsent_bytes <= self._limit_bytes and not connection.paused:
                return True
            if connection.paused:
                since = self._clock.now()
            elif self._clock.now() - since >= self._slow_timeout_s:
                connection.close(TooSlow())
                return False
            await asyncio.sleep(ROOM_LOOK_S)
        return False

    async def document(self, principal: Principal, since: str | None, epoch: str | None) -> Document:
        transmission = await self._first(since, epoch)
        part = await transmission.part(0)
        return Document(transmission.offset, self._pieces(transmission, part))

    async def _pieces(self, transmission: Transmission, part: Part) -> AsyncIterator[bytes]:
        """Yield one document of all parts."""
        yield b'{"type":"update","topic":"%b","data":[' % self.name.encode()
        removed, index, told = [*part.removed], 0, False
        while True:
            if part.entities:
                yield (b"," if told else b"") + b",".join(part.entities)
                told = True
            if part.is_last:
                break
            index += 1
            part = await transmission.part(index)
            removed += part.removed
        yield b"]," + orjson.dumps(transmission.fields(removed, first=True, last=True))[1:]

    # -- the window ------------------------------------------------------------------------------------------------

    def refresh(self, now: float) -> None:
        """Let what is too old leave the window in memory."""
        if now - self._window_compared_at >= WINDOW_KEPT_S and not self._comparing.locked():
            self._spawn(self._compare_window)

    def _kept(self, snapshot: Update) -> Window | None:
        """Return the window that is kept in memory of a snapshot."""
        return Window(snapshot, rows=self._window_rows) if snapshot.is_whole else None

    async def _compare_window(self) -> None:
        """Compare the window in memory with the database's, where that was long ago; one that cannot be read now stays."""
        if self._clock.now() - self._window_compared_at < WINDOW_KEPT_S:
            return
        async with self._comparing:
            if self._clock.now() - self._window_compared_at < WINDOW_KEPT_S:
                return
            with contextlib.suppress(StorageUnavailable):
                if self._window is None:
                    await self._read_window()
                else:
                    await self._age_window(self._window)
            self._window_compared_at = self._clock.now()

    async def _age_window(self, window: Window) -> None:
        """Let leave what the database's window shows no more, and enter what it shows instead."""
        generation = self._generation
        offset, keys = await self._reader.window(self.name)
        missing = [key for key in keys if key not in window.entities]
        found = await self._reader.entities(self.name, missing[:MAX_MISSING]) if missing else {}
        newer = self._backlog.changed_since(min(offset, self.offset))
        if newer is None or window is not self._window or generation != self._generation:
            return
        # What changed after it was read is known better here.
        window.retain({*keys, *newer})
        found = {key: entity for key, entity in found.items() if key not in newer}
        window.apply(found, (), sizes_of(found))
        self._transmissions.clear()

    async def _read_window(self) -> None:
        """Keep the window in memory again, where it is small enough by now."""
        generation = self._generation
        snapshot = await self._reader.snapshot(self.name, limit_bytes=WINDOW_BYTES // 2)
        newer = self._backlog.changed_since(min(snapshot.offset, self.offset))
        if newer is None or generation != self._generation or not snapshot.is_whole:
            return
        self._window = Window(snapshot, rows=self._window_rows)
        entities = {key: entity for key in newer if (entity := self._backlog[key]) is not None}
        self._window.apply(entities, [key for key in newer if key not in entities], sizes_of(entities))
        self._transmissions.clear()

    @property
    def held_bytes(self) -> tuple[int, int]:
        """Bytes that the window and the backlog take in memory."""
        return 0 if self._window is None else self._window.size_bytes, self._backlog.size_bytes

    def give_up_window(self) -> None:
        """Keep the window in memory no more: snapshots are read from the database, part by part."""
        self._window = None
        self._transmissions.clear()

    def give_up_backlog(self) -> None:
        """Remember no changes: catch-ups are read from the log."""
        self._backlog.forget()
        self._transmissions.clear()


def _offset(text: str | None) -> int | None:
    """Return the offset a client named, None where it is no offset."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18:
        return None
    return int(text)


def window_rows(name: str, windows: Mapping[str, int]) -> int | None:
    """Return how many of the newest rows a topic's snapshot shows; None for topics bounded otherwise."""
    window = TOPICS[name].window
    if window is None or window.recent_sql:
        return None
    return windows[window.setting]
