"""One message to all who watch a topic and are at its newest position. The hot path of the product.

Where the kernel has an io_uring for us (hub/io_uring.py), one system call sends to all whose way is clear; everybody else, and
whatever it could not send, takes the ordinary way through the transport.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator

from robodyne_rt.hub.connection import Subscription
from robodyne_rt.hub.io_uring import MAX_MESSAGE_BYTES, Ring, Targets

logger = logging.getLogger(__name__)

MIN_TARGETS = 8
"""For fewer the ordinary way costs no more."""


class _Group:
    """Subscriptions that one call of the ring may reach, ready for it."""

    __slots__ = ("closing", "others", "subscriptions", "targets", "unsent")

    def __init__(self, ring: Ring, live: dict[Subscription, None]) -> None:
        self.subscriptions = [one for one in live if one.connection.descriptor >= 0]
        self.others = [one for one in live if one.connection.descriptor < 0]
        self.targets = Targets(ring, [one.connection.descriptor for one in self.subscriptions])
        self.unsent = [one.transport.get_write_buffer_size for one in self.subscriptions]
        self.closing = [one.transport.is_closing for one in self.subscriptions]

    def busy(self) -> list[int]:
        """Return which may not be sent to past their transport: it holds bytes that come first, or its socket ends, and the
        number of its descriptor may be another one's in a moment."""
        found = [index for index, unsent in enumerate([ask() for ask in self.unsent]) if unsent]
        found += [index for index, closing in enumerate([ask() for ask in self.closing]) if closing]
        return found


class FanOut:
    """The live subscriptions of a topic.

    Args:
        ring: shared by all topics; None where there is none.
    """

    def __init__(self, ring: Ring | None) -> None:
        self._ring = ring
        self._live: dict[Subscription, None] = {}
        self._group: _Group | None = None

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._live)

    def __contains__(self, subscription: Subscription) -> bool:
        return subscription in self._live

    def add(self, subscription: Subscription) -> None:
        """Send everything to it from now on."""
        self._live[subscription] = None
        self._group = None

    def remove(self, subscription: Subscription) -> bool:
        """Send nothing more to it; return whether it was live."""
        self._group = None
        return self._live.pop(subscription, 0) is None

    def send(self, data: bytes, limit_bytes: int) -> list[Subscription]:
        """Send to all, one write per subscriber, no await; return those that have more than `limit_bytes` unsent then."""
        slow: list[Subscription] = []
        left = self._send_by_ring(data) if self._ring is not None and len(self._live) >= MIN_TARGETS else self._all_of(data)
        for subscription, rest in left:
            transport = subscription.transport
            try:
                transport.write(rest)
                if transport.get_write_buffer_size() > limit_bytes:
                    slow.append(subscription)
            except Exception:
                # One broken transport must not cost the others their update; its own coroutine sees the end.
                if not transport.is_closing():  # uvloop refuses to write to a peer that is gone
                    logger.exception("writing to %s failed", subscription.connection.peer, extra={"action": "write_failed"})
                transport.abort()
        return slow

    def _all_of(self, data: bytes) -> Iterable[tuple[Subscription, bytes]]:
        return zip(self._live, itertools.repeat(data))

    def _send_by_ring(self, data: bytes) -> Iterable[tuple[Subscription, bytes]]:
        """Send to whom the ring can; return who is to get what by the transport."""
        assert self._ring is not None
        if len(data) > MAX_MESSAGE_BYTES or self._ring.is_broken:
            return self._all_of(data)
        group = self._group
        if group is None:
            group = self._group = _Group(self._ring, self._live)
        size = len(data)
        results = self._ring.send(group.targets, data, group.busy())
        left = [(one, data) for one in group.others]
        if results.count(size) == len(results):
            return left
        for subscription, sent in zip(group.subscriptions, results, strict=True):
            if sent == size:
                continue
            if sent > 0:
                left.append((subscription, data[sent:]))  # its buffer is full
            elif sent == Ring.UNANSWERED:
                subscription.transport.abort()  # nobody knows what it got: it comes back with its position
            else:
                left.append((subscription, data))
        return left
