"""The topic `status` on its way to its watchers: one object, computed anew when something under it changed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio

from robodyne_rt.hub.connection import Subscription
from robodyne_rt.hub.feed import Document, Feed
from robodyne_rt.hub.status_views import StatusViews
from robodyne_rt.model.access import Principal
from robodyne_rt.model.changes import Entity
from robodyne_rt.model.topics import STATUS
from robodyne_rt.protocol import frames

STATUS_INTERVAL_S = 0.25


class StatusFeed(Feed):
    """The topic `status`: one object, every update is the whole of it, offsets count within an epoch of this start. Not all of
    it is shown to everybody (`status_views.py`).

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
        self._views = StatusViews()
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

    def _is_fresh(self) -> bool:
        """Whether it may not be computed again yet: of a crowd that comes at once each makes it dirty for all."""
        return self._data is not None and self._clock.now() - self._refreshed_at < STATUS_INTERVAL_S

    async def _refresh(self) -> None:
        async with self._refreshing:
            if self._dirty and not self._is_fresh():
                self._dirty = False
                self._refreshed_at = self._clock.now()
                self._publish(await self._current())

    def _publish(self, data: Entity) -> None:
        if data == self._data:
            return
        for subscription in list(self.live):
            self.lag(subscription)
        self.offset += 1
        self._views.publish(data, offset=self.offset, epoch=self.epoch)
        self._data = data
        self.stats.updates += 1
        self.serve_lagging(self._clock.now())

    def catch_up(self, subscription: Subscription) -> bool:
        if subscription.offset == self.offset:
            return True
        view = self._views.of(subscription.connection.principal)
        if subscription.offset < view.offset:
            subscription.connection.write(view.frame)
            self.stats.delivered += 1
            self.stats.bytes_sent += len(view.frame)
            subscription.next_update_at = self._clock.now() + subscription.interval_s
        subscription.offset = self.offset
        return True

    async def greet(self, subscription: Subscription, since: str | None, epoch: str | None) -> None:
        await self._refresh()
        if not subscription.ended:
            payload = self._views.of(subscription.connection.principal).payload
            self.enter(subscription, frames.frame(payload), self.offset, self.volatile_version)
            self._serve(subscription, self._clock.now())

    async def document(self, principal: Principal, since: str | None, epoch: str | None) -> Document:
        while self._dirty and self._is_fresh():  # who asks once wants what is now
            await anyio.sleep(STATUS_INTERVAL_S / 5)
        await self._refresh()
        return Document(self.offset, _one_piece(self._views.of(principal).payload))


async def _one_piece(payload: bytes) -> AsyncIterator[bytes]:
    yield payload
