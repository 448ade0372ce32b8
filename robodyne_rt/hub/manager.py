"""The hub: who is connected, who may come in, and everything that happens by the clock (SPEC section 3).

Used by the web shells (`connect`, `greet`, `gone`), fed by the store (`ports.ChangeSink`) and the devices
(`ports.TelemetrySink`); tells answerers what screens show (`ports.LiveState`).
"""

import asyncio
import heapq
import itertools
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from anyio.abc import TaskGroup

from robodyne_rt.core.heartbeat import Heartbeat
from robodyne_rt.core.rights import require_topic
from robodyne_rt.core.robot_presence import RobotPresence
from robodyne_rt.hub import memory_bound
from robodyne_rt.hub.connection import Connection, HeartbeatKind, HubStats, Subscription
from robodyne_rt.hub.feed import Document, Feed
from robodyne_rt.hub.io_uring import Ring
from robodyne_rt.hub.status_feed import StatusFeed
from robodyne_rt.hub.topic_feed import TopicFeed, window_rows
from robodyne_rt.model.access import Principal
from robodyne_rt.model.changes import Entity, OptimisticChange, Update
from robodyne_rt.model.enums import OrderStatus
from robodyne_rt.model.topics import PUBLIC_TOPICS, STATUS
from robodyne_rt.ports import ChangeReader, Clock
from robodyne_rt.protocol import frames, topic_messages
from robodyne_rt.protocol.errors import (
    HeartbeatLost,
    Internal,
    RobodyneError,
    ShuttingDown,
    StorageUnavailable,
    TokenExpired,
    TokenInvalid,
    TooSlow,
    TopicFull,
    UnknownTopic,
)
from robodyne_rt.settings import Hub as HubSettings
from robodyne_rt.supervision import Supervisor

logger = logging.getLogger(__name__)

TICK_S = 0.1
OPEN_ORDERS = (OrderStatus.PLACED, OrderStatus.PREPARING, OrderStatus.READY, OrderStatus.SERVING)

MEMORY_LOOK_S = 0.5
"""How often it is looked how much memory the hub holds."""

CUT_TIMEOUT_S = 1.0
"""How long a client that holds too much memory may take to take its close."""

POSITION_INTERVAL_S = 1.0
"""How often `status` tells where the robots are."""

FULL_INTERVAL_S = 0.25
"""Least time between two updates that are the whole window."""

CLOSE_TIMEOUT_S = 5.0
"""How long a peer may take to answer our close; then the socket is aborted."""


class ConnectionManager:
    """All topics and their connections.

    Args:
        reader: for snapshots and for catch-ups that memory does not reach.
        snapshots: what each topic's window shows at start.
        left_unconfirmed: whether the last run ended while screens showed what was never stored.
        windows: numbers of the snapshot windows by setting name.
        robot_presence: newest telemetry, to be laid over the stored state.
        health: facts about server and storage for the topic `status`.
        on_private: takes what the change log brings of private topics.
        ring: sends to many at once; None where there is none.
    """

    def __init__(
        self,
        *,
        settings: HubSettings,
        reader: ChangeReader,
        snapshots: Mapping[str, Update],
        left_unconfirmed: bool = False,
        windows: Mapping[str, int],
        robot_presence: RobotPresence,
        clock: Clock,
        health: Callable[[], Awaitable[Entity]],
        on_private: Callable[[Update], None],
        ring: Ring | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.stats = HubStats()
        self.send_buffer_limit_bytes = settings.send_buffer_limit_bytes
        self._robot_presence = robot_presence
        self.draining = False
        self._ring = ring
        self._settings = settings
        self._reader = reader
        self._clock = clock
        self._health = health
        self._on_private = on_private
        self._supervisor = supervisor or Supervisor()
        self._last_overview: Entity = {}
        self._positions: dict[int, Entity] = {}
        self._positions_at = self._memory_looked_at = float("-inf")
        self._positions_version = -1
        self._tasks: TaskGroup | None = None
        self._sequence = itertools.count()
        self._open: set[Connection] = set()
        self._by_label: Counter[str] = Counter()
        self._by_topic: Counter[str] = Counter()
        # (when, tie-breaker, connection): whose heartbeat or token has something to decide next
        self._due: list[tuple[float, int, Connection]] = []
        # connection -> when it is aborted
        self._closing: dict[Connection, float] = {}
        options: dict[str, Any] = {
            "clock": clock,
            "limit_bytes": self.send_buffer_limit_bytes,
            "slow_timeout_s": settings.slow_client_timeout_s,
            "ring": ring,
        }
        for entity in snapshots["robots"].entities.values():
            self._robot_presence.stored(entity, clock.now())
        self.status = StatusFeed(epoch=secrets.token_hex(6), current=self._overview, spawn=self._spawn, **options)
        self.feeds: dict[str, Feed] = {STATUS: self.status}
        self._topic_feeds: dict[str, TopicFeed] = {}
        for name in PUBLIC_TOPICS:
            self._topic_feeds[name] = TopicFeed(
                name,
                reader=reader,
                snapshot=snapshots[name],
                left_unconfirmed=left_unconfirmed,
                window_rows=window_rows(name, windows),
                robot_presence=self._robot_presence if name == "robots" else None,
                spawn=self._spawn,
                **options,
            )
        self.feeds |= self._topic_feeds

    # -- connections -----------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Open sockets, those that are being closed included."""
        return len(self._open) + len(self._closing)

    @property
    def sends_by_ring(self) -> bool:
        """Whether updates are sent by io_uring."""
        return self._ring is not None and not self._ring.is_broken

    @property
    def connections_by_topic(self) -> dict[str, int]:
        """Return how many connections watch each topic."""
        return {name: self._by_topic[name] for name in self.feeds}

    def connect(
        self,
        transport: asyncio.Transport,
        label: str,
        *,
        peer: str,
        principal: Principal,
        heartbeat_kind: HeartbeatKind = "message",
        at_most: int | None = None,
    ) -> Connection:
        """Return the connection of an accepted socket; it may be closed already (`closing`), with the reason told.

        Args:
            at_most: how many there may be of its label.
        """
        now = self._clock.now()
        settings = self._settings
        heartbeat = Heartbeat(
            now,
            interval_s=settings.ping_interval_s,
            timeout_s=settings.pong_timeout_s,
            max_missed=settings.max_missed_pongs,
        )
        connection = Connection(
            self,
            transport,
            label,
            peer=peer,
            principal=principal,
            expires_at=self._ends_at(principal),
            heartbeat=heartbeat,
            heartbeat_kind=heartbeat_kind,
        )
        self._open.add(connection)
        self._by_label[label] += 1
        self.watch(connection)
        if self.draining:
            connection.close(ShuttingDown())
        elif at_most is not None and self._by_label[label] > at_most:
            connection.close(TopicFull())
        return connection

    def _ends_at(self, principal: Principal) -> float:
        """Return the monotonic time at which a token ends."""
        return self._clock.now() + principal.expires_at - self._clock.wall()

    def watch(self, connection: Connection) -> None:
        """Look at a connection when it is due next."""
        connection.watched_at = connection.due
        heapq.heappush(self._due, (connection.watched_at, next(self._sequence), connection))

    def subscribe(self, connection: Connection, topic: str, *, interval_s: float = 0.0, is_full: bool = False) -> Subscription:
        """Let a connection watch a topic; `greet` sends it the first message.

        Args:
            interval_s: least time between two updates.
            is_full: whether every update is to be the whole window.

        Raises:
            UnknownTopic: no such topic.
            Forbidden: its principal may not read it.
            TokenMissing: the same, and nobody said who it is.
            TopicFull: over the connections that the topic may have.
        """
        feed = self.feeds.get(topic)
        if feed is None:
            raise UnknownTopic(f"no topic {topic[:100]!r}")
        require_topic(connection.principal, topic)
        if self._by_topic[topic] >= self._room(topic, connection.principal):
            raise TopicFull(f"topic {topic} has all the connections that it may have")
        if is_full:
            interval_s = max(interval_s, FULL_INTERVAL_S)
        subscription = Subscription(connection, feed, interval_s=interval_s, is_full=is_full)
        connection.subscriptions += (subscription,)
        self._by_topic[topic] += 1
        self.status.touch()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Let a connection watch a topic no more."""
        if subscription.ended:
            return
        subscription.ended = True
        self.feeds[subscription.topic].leave(subscription)
        connection = subscription.connection
        connection.subscriptions = tuple(other for other in connection.subscriptions if other is not subscription)
        self._by_topic[subscription.topic] -= 1
        self.status.touch()

    def _room(self, topic: str, principal: Principal) -> int:
        limit = self._settings.topic_limits.get(topic, self._settings.max_connections_per_topic)
        return limit if principal.is_display else max(0, limit - self._settings.display_reserve)

    async def greet(self, subscription: Subscription, since: str | None, epoch: str | None) -> None:
        """Send the first message of a topic and let the subscription take part."""
        if not subscription.ended:
            await self.feeds[subscription.topic].greet(subscription, since, epoch)

    def renew(self, connection: Connection, principal: Principal) -> None:
        """Give a living connection new rights; what it may not read any more ends at once."""
        connection.principal = principal
        connection.expires_at = self._ends_at(principal)
        self.watch(connection)
        for subscription in connection.subscriptions:
            try:
                require_topic(principal, subscription.topic)
            except RobodyneError as error:
                if connection.label == subscription.topic:
                    connection.close(error)
                    return
                self.unsubscribe(subscription)
                text = f"topic {subscription.topic} may not be read any more"
                connection.error("FORBIDDEN", text, {}, topic=subscription.topic)

    def renew_all(self, renewed: Callable[[Principal, float], Principal], *, concerns: Callable[[Principal], bool]) -> None:
        """Ask `renewed` (principal, wall time) for the rights as they are now of all whom a change concerns; it raises where
        there are none."""
        now = self._clock.wall()
        for connection in [connection for connection in self._open if concerns(connection.principal)]:
            try:
                principal = renewed(connection.principal, now)
                if principal.name != connection.principal.name:
                    raise TokenInvalid("the name is somebody else's now")
            except RobodyneError as error:
                connection.close(error)
            except Exception:
                # Nobody knows what this one may; the others must not keep what was taken from them.
                logger.exception("rights of %s cannot be told", connection.peer, extra={"action": "rights_failed"})
                connection.close(Internal())
            else:
                if principal != connection.principal:
                    self.renew(connection, principal)

    def close(self, connection: Connection, code: int, reason: str, *, notice: bytes = b"") -> None:
        """Take a connection out of the hub, then tell it why; a peer that does not take its close is aborted."""
        if connection.closing:
            return
        self._leave_all(connection)
        connection.write(notice + frames.close_frame(code, reason))
        self._forget(connection)
        self._closing[connection] = self._clock.now() + CLOSE_TIMEOUT_S
        # A client's own close has no reason of ours, and any code it likes: one label must do for those.
        self.stats.closes[(code, reason) if reason else (min(code, 3000), "client")] += 1
        logger.debug("= %s %s closed %d %s", connection.peer, connection.label, code, reason)

    def gone(self, connection: Connection) -> None:
        """Forget a connection whose socket has ended."""
        if not connection.closing:
            self._leave_all(connection)
            self._forget(connection)
            self.stats.closes[1006, "gone"] += 1
        self._closing.pop(connection, None)
        # What it did not take by now it never will.
        if connection.unsent_bytes:
            connection.transport.abort()

    def _leave_all(self, connection: Connection) -> None:
        for subscription in connection.subscriptions:
            self.unsubscribe(subscription)

    def _forget(self, connection: Connection) -> None:
        connection.closing = True
        self._open.discard(connection)
        self._by_label[connection.label] -= 1
        if connection.listener is not None:
            connection.listener.ended()

    def pause(self, connection: Connection) -> None:
        """Send no updates until `resume`."""
        connection.paused = True
        for subscription in connection.subscriptions:
            self.feeds[subscription.topic].lag(subscription)

    def resume(self, connection: Connection) -> None:
        """Send updates again, after one catch-up."""
        connection.paused = False
        for subscription in connection.subscriptions:
            self.feeds[subscription.topic].resume(subscription)

    def shown(self, topic: str) -> list[Entity]:
        return self._topic_feeds[topic].shown()

    def overlaid(self, topic: str, entities: list[Entity]) -> list[Entity]:
        return self._topic_feeds[topic].overlaid(entities)

    async def document(self, topic: str, principal: Principal, since: str | None, epoch: str | None) -> tuple[Document, str]:
        """Return what a WebSocket's first message would be, and the epoch.

        Raises:
            UnknownTopic: no such topic.
        """
        feed = self.feeds.get(topic)
        if feed is None:
            raise UnknownTopic(f"no topic {topic!r}")
        return await feed.document(principal, since, epoch), feed.epoch

    # -- the stream ------------------------------------------------------------------------------------------------

    def publish(self, updates: list[Update]) -> None:
        """Take what the change log brought, in order."""
        for update in updates:
            feed = self._topic_feeds.get(update.topic)
            try:
                if feed is None:
                    self._on_private(update)
                else:
                    feed.publish(update)
            except Exception:
                # One topic that fails must not take the others along; its watchers come back for a whole state.
                logger.exception("topic %s failed", update.topic, extra={"action": "topic_failed"})
                for subscription in feed.watchers() if feed is not None else ():
                    subscription.connection.close(Internal())
        self.status.touch()

    def begin_history(self, snapshots: list[Update]) -> None:
        for snapshot in snapshots:
            if (feed := self._topic_feeds.get(snapshot.topic)) is not None:
                feed.publish(snapshot)
            else:
                self._on_private(snapshot)
        self.status.touch()

    def current(self, topic: str) -> dict[int, Entity]:
        feed = self._topic_feeds.get(topic)
        return {} if feed is None else feed.current()

    def touch_status(self) -> None:
        """Have the topic `status` computed anew."""
        self.status.touch()

    def show_optimistic(self, topic: str, changes: dict[int, OptimisticChange]) -> None:
        self._topic_feeds[topic].show_optimistic(changes)

    def confirm(self, topic: str, ids: list[int]) -> None:
        self._topic_feeds[topic].confirm(ids)

    def revert(self, topic: str, ids: list[int]) -> None:
        self._topic_feeds[topic].revert(ids)

    def mark_seen(self, robot_id: str) -> None:
        self._robot_presence.mark_seen(robot_id, self._clock.now())

    def push_telemetry(self, robot_id: str, fields: Entity, heard_at: str) -> None:
        entity = self._robot_presence.telemetry(robot_id, fields, heard_at, self._clock.now())
        if entity is not None:
            self._topic_feeds["robots"].push_volatile(entity)

    async def _overview(self) -> Entity:
        try:
            overview = self._last_overview = await self._reader.overview()
        except StorageUnavailable:
            overview = self._last_overview | self._overview_from_memory()
        health = await self._health()
        topics = {name: count for name, count in sorted(self.connections_by_topic.items()) if count}
        server = {**health.pop("server", {}), "connections": topics}
        robots = {**overview["robots"], "list": self._robots_at_a_glance()}
        return {**overview, "robots": robots, "server": server, **health}

    def _robots_at_a_glance(self) -> list[Entity]:
        """Return of each robot what a dashboard shows; where it is, at most once a second."""
        robots = self._topic_feeds["robots"].shown()
        now = self._clock.now()
        if now - self._positions_at >= POSITION_INTERVAL_S:
            self._positions_at, self._positions_version = now, self._robot_presence.version
            self._positions = {robot["id"]: {axis: robot[axis] for axis in ("x", "y", "yaw")} for robot in robots}
        return [
            {name: robot[name] for name in ("id", "robot_id", "name", "status", "link", "battery_level")}
            | self._positions.get(robot["id"], {})
            for robot in robots
        ]

    def _overview_from_memory(self) -> Entity:
        """Return of the overview what screens show: `storage` says that the database is away."""
        seen = {topic: self._topic_feeds[topic].shown() for topic in ("robots", "tables", "orders", "inventory")}
        is_open = [order for order in seen["orders"] if order["status"] in OPEN_ORDERS]
        return {
            "robots": {
                "by_status": dict(Counter(robot["status"] for robot in seen["robots"])),
                "by_link": dict(Counter(robot["link"] for robot in seen["robots"])),
            },
            "tables": {"by_status": dict(Counter(table["status"] for table in seen["tables"]))},
            "orders": {"open": len(is_open), "oldest_placed_at": min((o["timestamp"] for o in is_open), default=None)},
            "stock": {
                "low": [
                    {name: stock[name] for name in ("id", "name", "count", "status")}
                    for stock in seen["inventory"]
                    if stock["status"] != "IN_STOCK"
                ][:100]
            },
        }

    # -- by the clock ----------------------------------------------------------------------------------------------

    def _spawn(self, function: Callable[..., Any], *arguments: Any) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._supervisor.once, "catch-up", function, *arguments)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Tick until cancelled: heartbeats, catch-ups, closes that nobody takes."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            await self._supervisor.keep("hub", self._tick_on, first_wait_s=TICK_S, longest_wait_s=1.0)

    async def _tick_on(self) -> None:
        while True:
            late_s = await self._clock.tick(TICK_S)
            now = self._clock.now()
            self.stats.note_lag(late_s, now)
            self.tick(now)

    def tick(self, now: float) -> None:
        """Do what is due at `now`."""
        for feed in self.feeds.values():
            if feed.lagging:
                feed.serve_lagging(now)
        for topic_feed in self._topic_feeds.values():
            topic_feed.refresh(now)
        if now - self._positions_at >= POSITION_INTERVAL_S and self._robot_presence.version != self._positions_version:
            self.status.touch()
        self.status.tick(now)
        if now - self._memory_looked_at >= MEMORY_LOOK_S:
            self._memory_looked_at = now
            self._bound_memory()
        self._tick_connections(now)
        for connection in [connection for connection, at in self._closing.items() if now >= at]:
            del self._closing[connection]
            connection.transport.abort()

    def _bound_memory(self) -> None:
        """Keep what is held for all clients together within its bound."""
        found = memory_bound.holders(self._topic_feeds.values(), [*self._open, *self._closing], self._cut)
        self.stats.held_bytes = sum(holder.size_bytes for holder in found)
        for holder in memory_bound.release(found, self._settings.memory_limit_bytes):
            self.stats.given_up += 1
            logger.warning(
                "%s held %d bytes and was given up: all together held more than memory_limit_bytes",
                holder.name,
                holder.size_bytes,
                extra={"action": "memory_released"},
            )

    def _cut(self, connection: Connection) -> None:
        """End a connection that holds too much; it may not keep that while it is asked to go."""
        connection.close(TooSlow())
        if connection in self._closing:
            self._closing[connection] = min(self._closing[connection], self._clock.now() + CUT_TIMEOUT_S)

    def _tick_connections(self, now: float) -> None:
        """Ping who is due, and end whose heartbeat or token is over."""
        if not self._due or self._due[0][0] > now:
            return
        timestamp = self._clock.wall()
        pings = {"message": frames.frame(topic_messages.ping(timestamp)), "protocol": frames.ping_frame(timestamp)}
        while self._due and self._due[0][0] <= now:
            due, _, connection = heapq.heappop(self._due)
            if connection.closing or due != connection.watched_at:
                continue
            if now >= connection.expires_at:
                connection.close(TokenExpired())
                continue
            decision = connection.heartbeat.tick(now, timestamp)
            if decision == "expired":
                connection.close(HeartbeatLost())
                continue
            if decision == "ping":
                connection.write(pings[connection.heartbeat_kind])
            self.watch(connection)

    # -- the end ---------------------------------------------------------------------------------------------------

    def drain(self, reason: str) -> None:
        """Tell everyone that the server goes, flushed and closed with 1001; newcomers are told the same."""
        self.draining = True
        for feed in self.feeds.values():
            feed.flush()
        notice = frames.frame(topic_messages.shutdown(reason))
        for connection in list(self._open):
            self.close(connection, ShuttingDown.close_code, ShuttingDown.close_reason, notice=notice)

    async def drained(self, deadline_s: float) -> None:
        """Wait until every peer took its close, at most `deadline_s`; abort the rest."""
        with anyio.move_on_after(deadline_s):
            while self.connections:
                await anyio.sleep(0.01)
        for connection in [*self._open, *self._closing]:
            connection.transport.abort()
