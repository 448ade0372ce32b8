"""One topic on its way to its watchers: encode once, write to each, catch up whoever is not at the newest position.

A subscription is `live` (gets every frame as it comes) or `lagging` (paced, paused, slow, or still being brought to a
position). Whoever lags gets one catch-up from its own offset, in parts where it is large, and is live again.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import NamedTuple

from robodyne_rt.hub.connection import Subscription
from robodyne_rt.hub.fan_out import FanOut
from robodyne_rt.hub.io_uring import Ring
from robodyne_rt.model.access import Principal
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import TooSlow

logger = logging.getLogger(__name__)


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
        ring: sends to many at once; None where there is none.
    """

    def __init__(self, name: str, *, clock: Clock, limit_bytes: int, slow_timeout_s: float, ring: Ring | None = None) -> None:
        self.name = name
        self.stats = FeedStats()
        self.offset = 0
        self.live = FanOut(ring)
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
        """Write what is outgoing, now."""
        self._flush_planned = False
        outgoing = self._outgoing
        if not outgoing:
            return
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        outgoing.clear()
        count = len(self.live)
        slow = self.live.send(data, self._limit_bytes)
        self.stats.delivered += count
        self.stats.bytes_sent += count * len(data)
        for subscription in slow:
            self.lag(subscription)

    # -- live or lagging -------------------------------------------------------------------------------------------

    def enter(self, subscription: Subscription, frame: bytes, offset: int, version: int) -> bool:
        """Take a subscription in, with its first message, which brings it to `offset`; return whether it was sent: who is slow
        already, by other topics, gets it after draining."""
        self.flush()
        is_sent = subscription.connection.unsent_bytes <= self._limit_bytes
        if is_sent:
            subscription.connection.write(frame)
        subscription.offset = offset if is_sent else -1
        subscription.seen_version = version
        now = self._clock.now()
        subscription.next_update_at = now + subscription.interval_s
        self.lagging[subscription] = None
        return is_sent

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription; what is outgoing reaches it first."""
        if subscription in self.live:
            self.flush()
        self.live.remove(subscription)
        self.lagging.pop(subscription, None)

    def lag(self, subscription: Subscription) -> None:
        """Take a subscription out of the live ones; it will be caught up from where it is now."""
        if subscription in self.live:
            self.flush()
        if self.live.remove(subscription):
            subscription.offset = self.told_offset
            subscription.seen_version = self.volatile_version
            self.lagging[subscription] = None

    def serve_lagging(self, now: float) -> None:
        """Catch up every lagging subscription for which it is time."""
        for subscription in list(self.lagging):
            self._serve(subscription, now)

    def _serve(self, subscription: Subscription, now: float) -> None:
        if subscription not in self.lagging or subscription.catching_up:
            return
        if self._check_slowness(subscription, now) or subscription.connection.paused or now < subscription.next_update_at:
            return
        if self.offset < subscription.offset:
            return  # its snapshot was read ahead of us: we will be there in a moment
        if not self.catch_up(subscription):
            return
        if subscription.interval_s:
            return
        if not self._check_slowness(subscription, now) and self.lagging.pop(subscription, 0) is None:
            self.flush()
            self.live.add(subscription)

    def _check_slowness(self, subscription: Subscription, now: float) -> bool:
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
        self._serve(subscription, self._clock.now())

    @abstractmethod
    def catch_up(self, subscription: Subscription) -> bool:
        """Bring a subscription to our position; False when that takes longer than this call."""

    def mark_sent(self, subscription: Subscription, offset: int) -> None:
        """Note that a subscription was brought to `offset`."""
        subscription.offset = offset
        subscription.next_update_at = self._clock.now() + subscription.interval_s
        self.stats.caught_up += 1

    @abstractmethod
    async def greet(self, subscription: Subscription, since: str | None, epoch: str | None) -> None:
        """Send the first message and take the subscription in; where it is large, the rest follows."""

    @abstractmethod
    async def document(self, principal: Principal, since: str | None, epoch: str | None) -> "Document":
        """Return what a WebSocket's first message would be, for `GET`."""


class Document(NamedTuple):
    """One JSON document of an offset, in pieces that are made as they are asked for."""

    offset: int
    pieces: AsyncIterator[bytes]
