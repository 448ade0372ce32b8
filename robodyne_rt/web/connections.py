"""How many HTTP connections there are, WebSockets among them: bounded for all and for each address (SPEC section 8).

A connection that waits (for its first request, the next one, or the rest of a body) gives way where all places are taken; one
whose request is being worked, and a WebSocket, stays.
"""

import logging
from collections.abc import Callable, Hashable
from typing import Protocol

from robodyne_rt.core.places import Places
from robodyne_rt.model.access import Networks, source_of

logger = logging.getLogger(__name__)

ADDRESS_PART = 2
"""One address may hold one in so many of all places."""

TOLD_EVERY_S = 60.0


class HttpConnection(Protocol):
    """One connection.

    Attributes:
        place: for whom it holds one; None while it holds none.
    """

    place: Hashable | None

    def cut(self) -> None:
        """Cut it off."""

    def __hash__(self) -> int: ...


class HttpConnections:
    """Admits connections.

    Args:
        limit: of all.
        trusted_proxies: they bring many people; none of their connections counts for another.

    Attributes:
        cut: how many were cut off or refused.
    """

    def __init__(self, *, limit: int, trusted_proxies: Networks, now: Callable[[], float]) -> None:
        self._places: Places[HttpConnection] = Places(limit=limit, per_holder=max(1, limit // ADDRESS_PART))
        self._limit = limit
        self._trusted_proxies = trusted_proxies
        self._now = now
        self._told_at = float("-inf")
        self.cut = 0

    def __len__(self) -> int:
        return len(self._places)

    def admit(self, connection: HttpConnection, address: str) -> bool:
        """Return whether a connection may stay; another one may be cut off for it."""
        holder = connection if address in self._trusted_proxies else source_of(address)
        is_admitted, victim = self._places.take(holder, connection)
        if is_admitted:
            connection.place = holder
        if victim is not None:
            victim.place = None
            victim.cut()
        is_full = victim is not None or not is_admitted
        self.cut += is_full
        if is_full and self._now() - self._told_at >= TOLD_EVERY_S:
            self._told_at = self._now()
            logger.warning(
                "HTTP connections are full (%d of %d, %d of them from %s): those that wait longest are cut off",
                len(self._places),
                self._limit,
                self._places.held_by(holder),
                address,
                extra={"action": "http_full"},
            )
        return is_admitted

    def work(self, connection: HttpConnection) -> None:
        """Note that a whole request of a connection is being worked."""
        if connection.place is not None:
            self._places.pin(connection.place, connection)

    def wait(self, connection: HttpConnection) -> None:
        """Note that a connection waits for its peer again."""
        if connection.place is not None:
            self._places.unpin(connection.place, connection)

    def leave(self, connection: HttpConnection) -> None:
        """Note that a connection is gone."""
        if connection.place is not None:
            self._places.leave(connection.place, connection)
            connection.place = None
