"""Keeps what the hub holds for all clients together below a bound (SPEC section 3, "Slow clients").

A window or a backlog that is given up is read from the database instead; a client that is given up is closed, and comes back
with its position.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from robodyne_rt.hub.connection import Connection
from robodyne_rt.hub.topic_feed import TopicFeed


class Holder(NamedTuple):
    """Something that takes memory, and how it is given up."""

    size_bytes: int
    name: str
    give_up: Callable[[], None]
    is_window: bool = False


def holders(feeds: Iterable[TopicFeed], connections: Iterable[Connection], cut: Callable[[Connection], None]) -> list[Holder]:
    """Return who holds memory.

    Args:
        cut: ends a connection that holds too much.
    """
    found = []
    for feed in feeds:
        window_bytes, backlog_bytes = feed.held_bytes
        found.append(Holder(window_bytes, f"window of {feed.name}", feed.give_up_window, is_window=True))
        found.append(Holder(backlog_bytes, f"backlog of {feed.name}", feed.give_up_backlog))
    for connection in connections:
        if unsent_bytes := connection.unsent_bytes:
            found.append(Holder(unsent_bytes, f"client {connection.peer}", lambda connection=connection: cut(connection)))  # type: ignore[misc]
    return found


def release(holders: list[Holder], limit_bytes: int) -> list[Holder]:
    """Have the largest holders give up until the rest is within the bound, windows last; return those."""
    held_bytes = sum(holder.size_bytes for holder in holders)
    if held_bytes <= limit_bytes:
        return []
    released = []
    # Windows last: they tell what the restaurant looks like while the database is away.
    for holder in sorted(holders, key=lambda holder: (holder.is_window, -holder.size_bytes)):
        if held_bytes <= limit_bytes:
            break
        holder.give_up()
        held_bytes -= holder.size_bytes
        released.append(holder)
    return released
