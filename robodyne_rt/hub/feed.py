"""One topic on its way to its watchers: encode once, write to each, catch up whoever is not at the newest position.

A subscription is `live` (gets every frame as it comes) or `lagging` (paced, paused, slow, or ahead of us because its
snapshot was read later than our newest update). Whoever lags gets one catch-up from its own offset, from the backlog in
memory or from the log, and is live again.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from robodyne_rt.core import wire
from robodyne_rt.core.backlog import Backlog
from robodyne_rt.core.live import LiveRobots
from robodyne_rt.errors import StorageUnavailable, TooSlow
from robodyne_rt.hub.connection import Subscription
from robodyne_rt.model.access import Principal
from robodyne_rt.model.changes import Entity, Update
from robodyne_rt.model.topics import STATUS, TOPICS
from robodyne_rt.ports import ChangeReader, Clock, OptimisticChange

logger = logging.getLogger(__name__)

BACKLOG_ENTITIES = 1000
SNAPSHOT_KEPT_S = 60.0
"""A snapshot in memory is read anew after so long: what ages out of its window is seen only there."""

BROUGHT_FORWARD_EVERY = 400
"""Changes after which the snapshot in memory is brought forward, so that the backlog always reaches back to it."""

STATUS_INTERVAL_S = 0.25
SMALL_RECOVERY = 20
"""A recovery of at most this many entities is never weighed against a snapshot."""


class FeedStats:
    """Plain numbers that `/metrics` reads."""

    __slots__ = ("bytes_sent", "caught_up", "delivered", "snapshots", "updates", "volatile")

    def __init__(self) -> None:
        self.updates = 0
        self.volatile = 0
        self.delivered = 0
        self.snapshots = 0
        self.caught_up = 0
        self.bytes_sent = 0


class Feed(ABC):
    """What all topics share: who watches, and writing to them.

    Args:
        limit_bytes: unsent bytes above which a subscription is slow.
        slow_timeout_s: how long it may stay so.
    """

    def __init__(self, name: str, *, clock: Clock, limit_bytes: int, slow_timeout_s: float) -> None:
        self.name = name
        self.stats = FeedStats()
        self.offset = 0
        self.live: dict[Subscription, None] = {}
        self.lagging: dict[Subscription, None] = {}
        self.slow_clients = 0
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._slow_timeout_s = slow_timeout_s
        self._outgoing: list[bytes] = []
        self._flush_planned = False

    @property
    @abstractmethod
    def epoch(self) -> str:
        """The history that `offset` counts in."""

    @property
    def connections(self) -> int:
        """How many watch."""
        return len(self.live) + len(self.lagging)

    @property
    def told_offset(self) -> int:
        """The offset of the newest message that live connections got."""
        return self.offset

    @property
    def volatile_version(self) -> int:
        """Grows with everything that is shown before it is stored."""
        return 0

    def watchers(self) -> list[Subscription]:
        """Return all that watch."""
        return [*self.live, *self.lagging]

    # -- writing ---------------------------------------------------------------------------------------------------

    def send_to_live(self, frame: bytes) -> None:
        """Send a frame to all live connections at the end of this turn of the loop, together with what else comes in it."""
        if self.live:
            self._outgoing.append(frame)
            self.plan_flush()

    def plan_flush(self) -> None:
        """Flush at the end of this turn of the loop."""
        if not self._flush_planned:
            self._flush_planned = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what is outgoing: one write per subscriber, no await. The hot path of the product."""
        self._flush_planned = False
        outgoing = self._outgoing
        if not outgoing:
            return
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        outgoing.clear()
        limit = self._limit_bytes
        slow: list[Subscription] = []
        for subscription in self.live:
            transport = subscription.transport
            try:
                transport.write(data)
                if transport.get_write_buffer_size() > limit:
                    slow.append(subscription)
            except Exception:
                # One broken transport must not cost the others their update; its own coroutine sees the end.
                logger.exception("writing to %s failed", subscription.connection.peer, extra={"action": "write_failed"})
                transport.abort()
        self.stats.delivered += len(self.live)
        self.stats.bytes_sent += len(self.live) * len(data)
        for subscription in slow:
            self.lag(subscription)

    # -- live or lagging -------------------------------------------------------------------------------------------

    def enter(self, subscription: Subscription, frame: bytes, offset: int) -> None:
        """Take a subscription in, with its first message, which brings it to `offset`."""
        self.flush()
        if subscription.connection.unsent_bytes > self._limit_bytes:
            offset = -1  # slow already, by other topics: its first message comes when it has drained
        else:
            subscription.connection.write(frame)
        subscription.offset = offset
        subscription.seen_version = self.volatile_version
        now = self._clock.now()
        subscription.next_update_at = now + subscription.interval_s
        self.lagging[subscription] = None
        self._settle(subscription, now)

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription; what is outgoing reaches it first."""
        if subscription in self.live:
            self.flush()
        self.live.pop(subscription, None)
        self.lagging.pop(subscription, None)

    def lag(self, subscription: Subscription) -> None:
        """Take a subscription out of the live ones; it will be caught up from where it is now."""
        if subscription in self.live:
            self.flush()
        if self.live.pop(subscription, 0) is None:
            subscription.offset = self.told_offset
            subscription.seen_version = self.volatile_version
            self.lagging[subscription] = None

    def settle(self, now: float) -> None:
        """Catch up every lagging subscription for which it is time."""
        for subscription in list(self.lagging):
            self._settle(subscription, now)

    def _settle(self, subscription: Subscription, now: float) -> None:
        if subscription not in self.lagging or subscription.catching_up:
            return
        if self._is_slow(subscription, now) or subscription.connection.paused or now < subscription.next_update_at:
            return
        if self.offset < subscription.offset:
            return  # its snapshot was read ahead of us: we will be there in a moment
        if not self.catch_up(subscription):
            return
        if subscription.interval_s:
            return
        if not self._is_slow(subscription, now) and self.lagging.pop(subscription, 0) is None:
            self.flush()
            self.live[subscription] = None

    def _is_slow(self, subscription: Subscription, now: float) -> bool:
        unsent = subscription.connection.unsent_bytes
        if subscription.slow_since is None:
            if unsent <= self._limit_bytes:
                return False
            subscription.slow_since = now
            self.slow_clients += 1
        if unsent == 0:
            subscription.slow_since = None
            return False
        if now - subscription.slow_since >= self._slow_timeout_s:
            subscription.connection.close(TooSlow())
        return True

    def resume(self, subscription: Subscription) -> None:
        """Catch up a subscription that was paused."""
        self._settle(subscription, self._clock.now())

    @abstractmethod
    def catch_up(self, subscription: Subscription) -> bool:
        """Bring a subscription to our position; False when that takes longer than this call."""

    def mark_sent(self, subscription: Subscription, offset: int) -> None:
        """Note that a subscription was brought to `offset`."""
        subscription.offset = offset
        subscription.next_update_at = self._clock.now() + subscription.interval_s
        self.stats.caught_up += 1

    async def greet(self, subscription: Subscription, since: str | None, epoch: str | None) -> None:
        """Send the first message and take the subscription in."""
        payload, offset = await self.first_message(since, epoch)
        if not subscription.ended:
            self.enter(subscription, wire.frame(self.shown_to(subscription.connection.principal, payload)), offset)

    def shown_to(self, principal: Principal, payload: bytes) -> bytes:
        """Return of the newest message what somebody may see."""
        return payload

    @abstractmethod
    async def first_message(self, since: str | None, epoch: str | None) -> tuple[bytes, int]:
        """Return the JSON that answers `?since=&epoch=`, and the offset it leads to; nothing may be awaited between this
        and entering."""


class TopicFeed(Feed):
    """A topic with a table.

    Args:
        snapshot: what the window shows at start.
        was_cut_off: whether the last run ended while screens showed what was never stored: who comes back from before gets
            a snapshot then, which such things are not in.
        window_rows: newest rows that a snapshot shows; None for all.
        live_robots: telemetry to lay over entities, for the topic of robots.
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
        live_robots: LiveRobots | None,
        spawn: Callable[..., None],
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        self._reader = reader
        self._window_rows = window_rows
        self._live_robots = live_robots
        self._spawn = spawn
        self.offset = self._sent_offset = snapshot.offset
        self._trusted_from = snapshot.offset + 1 if left_unconfirmed else 0
        self._backlog = Backlog(name, offset=snapshot.offset, limit=BACKLOG_ENTITIES)
        self._volatile: dict[int, Entity] = {}
        # What storage has not confirmed, by entity: laid over everything that is sent.
        self._optimistic: dict[int, OptimisticChange] = {}
        self._optimistic_version = 0
        self._snapshot: Update | None = snapshot
        self._snapshot_at = self._clock.now()
        self._snapshot_lock = anyio.Lock()
        # What was encoded for this position and telemetry already: (kind, from offset) -> JSON
        self._encoded: dict[tuple[str, int], bytes] = {}
        self._encoded_version = 0

    @property
    def epoch(self) -> str:
        return self._reader.epoch

    @property
    def told_offset(self) -> int:
        return self._sent_offset

    @property
    def volatile_version(self) -> int:
        return self._optimistic_version + (self._live_robots.version if self._live_robots else 0)

    # -- the stream ------------------------------------------------------------------------------------------------

    def publish(self, update: Update) -> None:
        """Take the next update of the log."""
        self._note_robots(update)
        self._encoded.clear()
        if update.snapshot:
            self._start_over(update)
            return
        self._backlog.add(update)
        self.offset = update.offset
        if self._snapshot is not None and update.offset - self._snapshot.offset >= BROUGHT_FORWARD_EVERY:
            self._snapshot = self._brought_forward(self._snapshot)
        if not update.entities and not update.removed:
            return  # nothing to tell; the next update's `prev` covers these lines
        for key in (*update.entities, *update.removed):
            self._volatile.pop(key, None)
        self.stats.updates += 1
        if self.live:
            told = Update(self.name, self._sent_offset, update.offset, update.entities, update.removed)
            self.send_to_live(wire.frame(self._encode(told)))
        self._sent_offset = update.offset

    def _start_over(self, snapshot: Update) -> None:
        """The log has a hole: everybody gets the whole state."""
        self._backlog = Backlog(self.name, offset=snapshot.offset, limit=BACKLOG_ENTITIES)
        self._snapshot, self._snapshot_at = snapshot, self._clock.now()
        self._volatile.clear()
        self.offset = self._sent_offset = snapshot.offset
        self.send_to_live(wire.frame(self._encode(snapshot, whole=True)))
        for subscription in self.lagging:
            subscription.offset = -1

    def _note_robots(self, update: Update) -> None:
        if self._live_robots is not None:
            for entity in update.entities.values():
                self._live_robots.stored(entity, self._clock.now())
            for key in update.removed:
                self._live_robots.removed(key)

    def push_volatile(self, entity: Entity) -> None:
        """Push live telemetry; what comes in one turn of the loop leaves as one message, the newest of each entity."""
        self.stats.volatile += 1
        if self.live:
            self._volatile[entity["id"]] = self._as_seen(entity)
            self.plan_flush()

    def show_optimistic(self, changes: dict[int, OptimisticChange]) -> None:
        """Push what storage has not confirmed, and lay it over everything that is sent until `confirm` or `revert`."""
        self._optimistic |= changes
        if self._window_rows is not None:  # a storm of events while the database is away: the newest are what is shown
            while len(self._optimistic) > self._window_rows:
                del self._optimistic[next(iter(self._optimistic))]
        self._optimistic_version += 1
        self._encoded.clear()
        for change in changes.values():
            if self._live_robots is not None:
                self._live_robots.optimistic(change.entity)
            self.push_volatile(change.entity)

    def confirm(self, ids: list[int]) -> None:
        """Lay nothing more over these: they are stored."""
        for id in ids:
            self._optimistic.pop(id, None)
        self._optimistic_version += 1
        self._encoded.clear()

    def revert(self, ids: list[int]) -> None:
        """Lay nothing more over these; whoever saw them gets what is stored instead, or their removal."""
        self.confirm(ids)
        known = self.current()
        correction = Update(self.name, self._sent_offset, self._sent_offset)
        for id in ids:
            self._volatile.pop(id, None)
            entity = known.get(id)
            self._backlog.correct(id, entity)
            if entity is None:
                correction.removed.append(id)
            else:
                correction.entities[id] = entity
        self.send_to_live(wire.frame(self._encode(correction)))

    def current(self) -> dict[int, Entity]:
        """Return the stored entities of the window, from memory; empty where memory does not reach back."""
        if self._snapshot is not None:
            self._snapshot = self._brought_forward(self._snapshot)
        return self._snapshot.entities if self._snapshot is not None else {}

    def shown(self) -> list[Entity]:
        """Return the entities of the window as screens show them, from memory."""
        known = {key: self._as_seen(entity) for key, entity in self.current().items()}
        return list((known | {key: change.entity for key, change in self._optimistic.items() if key not in known}).values())

    def overlaid(self, entities: list[Entity]) -> list[Entity]:
        """Return stored entities as screens see them, and those that are not stored yet."""
        known = {entity["id"] for entity in entities}
        shown = [self._as_seen(entity) for entity in entities]
        return shown + [change.entity for key, change in self._optimistic.items() if key not in known]

    def flush(self) -> None:
        if self._volatile:
            self._outgoing.append(wire.frame(wire.volatile(self.name, list(self._volatile.values()))))
            self._volatile = {}
        super().flush()

    def _as_seen(self, entity: Entity) -> Entity:
        """Return an entity with what is newer than the stored state laid over it."""
        if self._optimistic and (optimistic := self._optimistic.get(entity["id"])) is not None:
            entity = entity | optimistic.fields
        return entity if self._live_robots is None else self._live_robots.overlay(entity)

    def _encode(self, update: Update, *, recovered: bool = False, whole: bool = False) -> bytes:
        """Return the JSON of an update; with `whole` what is not stored yet is in it as well."""
        if self._optimistic or self._live_robots is not None:
            found = {key: self._as_seen(entity) for key, entity in update.entities.items()}
            if whole:
                for key, optimistic in self._optimistic.items():
                    if key not in found and key not in update.removed:
                        found[key] = optimistic.entity
                if update.snapshot and self._window_rows is not None:
                    found = dict(sorted(found.items())[-self._window_rows :])
            entities = list(found.values())
        else:
            entities = list(update.entities.values())
        return wire.update(update, entities=entities, epoch=self.epoch, recovered=recovered)

    def _shared(self, kind: str, offset: int, encode: Callable[[], bytes]) -> bytes:
        """Return what `encode` gives, encoded once for everyone at the same place."""
        version = self.volatile_version
        if version != self._encoded_version:
            self._encoded.clear()
            self._encoded_version = version
        payload = self._encoded.get((kind, offset))
        if payload is None:
            payload = self._encoded[kind, offset] = encode()
        return payload

    # -- catching up -----------------------------------------------------------------------------------------------

    def catch_up(self, subscription: Subscription) -> bool:
        version = self.volatile_version
        if subscription.offset == self.offset and subscription.seen_version == version:
            return True
        update = self._backlog.since(subscription.offset)
        if update is None:
            subscription.catching_up = True
            self._spawn(self._catch_up_from_log, subscription)
            return False
        subscription.seen_version = version
        if update.entities or update.removed:
            subscription.send(self._shared("update", subscription.offset, lambda: self._encode(update, whole=True)))
            self.mark_sent(subscription, update.offset)
        elif entities := self._not_stored(telemetry=subscription.interval_s > 0):
            subscription.send(self._shared(f"volatile {len(entities)}", 0, lambda: wire.volatile(self.name, entities)))
            self.mark_sent(subscription, self.offset)
        return True

    def _not_stored(self, *, telemetry: bool) -> list[Entity]:
        """Return what is shown and not stored; telemetry only for who gets no live one."""
        found = {key: self._as_seen(optimistic.entity) for key, optimistic in self._optimistic.items()}
        if telemetry and self._live_robots is not None:
            found |= {entity["id"]: self._as_seen(entity) for entity in self._live_robots.current()}
        return list(found.values())

    async def _catch_up_from_log(self, subscription: Subscription) -> None:
        """Bring a subscription forward that is further behind than memory reaches."""
        try:
            payload, offset = await self.first_message(str(subscription.offset), self.epoch)
        except StorageUnavailable:
            return  # asked again at the next tick
        finally:
            subscription.catching_up = False
        if subscription in self.lagging:
            subscription.send(payload)
            self.mark_sent(subscription, offset)

    async def first_message(self, since: str | None, epoch: str | None) -> tuple[bytes, int]:
        start = _offset(since) if epoch == self.epoch else None
        if start is not None and (update := await self._recover(start)) is not None:
            # Read from the log it may be ahead of us, and further than what another one got a moment ago.
            kind = f"recovered {update.offset}"
            return self._shared(kind, start, lambda: self._encode(update, recovered=True, whole=True)), update.offset
        snapshot = await self._current_snapshot()
        self.stats.snapshots += 1
        return self._shared("snapshot", snapshot.offset, lambda: self._encode(snapshot, whole=True)), snapshot.offset

    async def _recover(self, start: int) -> Update | None:
        """Return what changed after `start`, or None where a snapshot is due."""
        if not self._trusted_from <= start <= self.offset:
            return None
        update = self._backlog.since(start)
        if update is None:
            try:
                stored = await self._reader.since(self.name, start)
            except StorageUnavailable:
                return None
            if stored is None or (update := self._brought_forward(stored)) is None:
                return None
        elif len(update.entities) + len(update.removed) > SMALL_RECOVERY:
            snapshot = await self._current_snapshot()
            if len(snapshot.entities) < len(update.entities) + len(update.removed):
                return None
            update = self._backlog.since(start)
        return update

    async def _current_snapshot(self) -> Update:
        """Return the whole state at our position: read once, brought forward from memory for everyone who comes later."""
        while True:
            self.current()
            if self._snapshot is not None and self._clock.now() - self._snapshot_at < SNAPSHOT_KEPT_S:
                return self._snapshot
            stale = self._snapshot
            async with self._snapshot_lock:
                if self._snapshot is stale or self._snapshot is None:  # nobody else has read a newer one meanwhile
                    await self._read_snapshot()

    async def _read_snapshot(self) -> None:
        try:
            self._snapshot = await self._reader.snapshot(self.name)
        except StorageUnavailable:
            # Screens that come now see what is known, however old.
            self.current()
            if self._snapshot is None:
                raise
        self._snapshot_at = self._clock.now()

    def refresh(self, now: float) -> None:
        """Keep a snapshot in memory that is not too old, for when the database is away."""
        if now - self._snapshot_at >= SNAPSHOT_KEPT_S and not self._snapshot_lock.locked():
            self._spawn(self._refresh)

    async def _refresh(self) -> None:
        with contextlib.suppress(StorageUnavailable):
            await self._current_snapshot()

    def _brought_forward(self, update: Update) -> Update | None:
        """Lay the backlog after `update.offset` over it; None when it does not reach back that far."""
        if update.offset >= self.offset:
            return update
        newer = self._backlog.since(update.offset)
        if newer is None:
            return None
        entities = {**update.entities, **newer.entities}
        for key in newer.removed:
            entities.pop(key, None)
        entities = dict(sorted(entities.items()))
        removed = [key for key in dict.fromkeys((*update.removed, *newer.removed)) if key not in entities]
        if update.snapshot:
            removed = []
            if self._window_rows is not None:
                entities = dict(list(entities.items())[-self._window_rows :])
        return Update(self.name, update.prev, newer.offset, entities, removed, update.snapshot)


class StatusFeed(Feed):
    """The topic `status`: one object, every update is the whole of it, offsets count within an epoch of this start. Who is
    there (`sessions`) is shown to those only who have the right to know.

    Args:
        current: builds the object; costs a read of the database, so it is asked at most every `STATUS_INTERVAL_S`, and
            only while somebody watches.
    """

    def __init__(
        self, *, epoch: str, current: Callable[[], Awaitable[Entity]], spawn: Callable[..., None], **options: Any
    ) -> None:
        super().__init__(STATUS, **options)
        self._epoch = epoch
        self._current = current
        self._spawn = spawn
        self._payload = self._frame = b""
        self._brief = self._brief_frame = b""
        self._brief_data: Entity | None = None
        self._brief_offset = 0
        self._data: Entity | None = None
        self._dirty = True
        self._refreshed_at = float("-inf")
        self._refreshing = anyio.Lock()

    @property
    def epoch(self) -> str:
        return self._epoch

    def touch(self) -> None:
        """Note that something under the status changed."""
        self._dirty = True

    def tick(self, now: float) -> None:
        """Recompute when something changed, not too often, and only for somebody."""
        if self._dirty and self.connections and now - self._refreshed_at >= STATUS_INTERVAL_S and not self._refreshing.locked():
            self._spawn(self._refresh)

    async def _refresh(self) -> None:
        async with self._refreshing:
            if self._dirty:
                self._dirty = False
                self._refreshed_at = self._clock.now()
                self._publish(await self._current())

    def _publish(self, data: Entity) -> None:
        if data == self._data:
            return
        for subscription in list(self.live):
            self.lag(subscription)
        brief = {name: value for name, value in data.items() if name != "sessions"}
        self.offset += 1
        self._payload = wire.status(data, offset=self.offset, epoch=self.epoch)
        self._frame = wire.frame(self._payload)
        if brief != self._brief_data:
            self._brief_data = brief
            self._brief = wire.status(brief, offset=self.offset, epoch=self.epoch)
            self._brief_frame, self._brief_offset = wire.frame(self._brief), self.offset
        self._data = data
        self.stats.updates += 1
        self.settle(self._clock.now())

    def shown_to(self, principal: Principal, payload: bytes) -> bytes:
        return payload if principal.may("sessions") else self._brief

    def catch_up(self, subscription: Subscription) -> bool:
        if subscription.offset == self.offset:
            return True
        is_whole = subscription.connection.principal.may("sessions")
        if is_whole or subscription.offset < self._brief_offset:
            frame = self._frame if is_whole else self._brief_frame
            subscription.connection.write(frame)
            self.stats.delivered += 1
            self.stats.bytes_sent += len(frame)
            subscription.next_update_at = self._clock.now() + subscription.interval_s
        subscription.offset = self.offset
        return True

    async def first_message(self, since: str | None, epoch: str | None) -> tuple[bytes, int]:
        await self._refresh()
        return self._payload, self.offset


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
