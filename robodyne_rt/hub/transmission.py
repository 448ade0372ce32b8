"""What brings clients to a position, message by message: a snapshot, a catch-up, or the answer to `?since=`.

One object serves all clients at the same place, so that each message is made once. It holds keys, not entities: those are
looked up when a part is made, in memory or in the database. A state that is newer than the position is right, and comes again.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import anyio
import orjson

from robodyne_rt.model.changes import Entity
from robodyne_rt.protocol import frames, topic_messages

KEPT_PARTS = 2
"""Parts kept for other clients that need the same; those far apart have them made again."""

FIRST_READ = 16
MAX_READ = 1024
"""Entities read from the database at a time: few at first, since nobody knows how large they are."""

REMOVED_BYTES = 20
"""What an id of something removed takes in a message."""


class States(Protocol):
    """Where the entities are: the feed of a topic."""

    name: str
    offset: int
    """Where memory stands."""

    def known(self, key: int) -> tuple[bool, Entity | None]:
        """Return whether memory knows what became of an entity, and its newest state, None where it is no more."""
        ...

    async def read(self, keys: Sequence[int]) -> dict[int, Entity]:
        """Return those of the entities that exist, from the database."""
        ...


class Part(NamedTuple):
    """One message of a transmission, its entities as JSON."""

    entities: list[bytes]
    removed: list[int]
    is_last: bool


class Transmission:
    """What brings clients from `prev` to `offset`; a snapshot where `prev` is None.

    Args:
        keys: of all entities that it tells of.
        changes: whether any of them is stored, not only shown.
        generation: of the feed's state; where that is another one, this leads nowhere any more.
        version: of what was shown before it is stored, when this began.
        recovered: whether it answers a client that named its position.
    """

    def __init__(
        self,
        states: States,
        *,
        prev: int | None,
        offset: int,
        epoch: str,
        keys: list[int],
        changes: bool,
        generation: int,
        version: int,
        recovered: bool = False,
    ) -> None:
        self.prev = prev
        self.offset = offset
        self.epoch = epoch
        self.changes = changes
        self.generation = generation
        self.version = version
        self._states = states
        self._keys = keys
        self._recovered = recovered
        self._starts = [0]  # of each part among the keys, as far as they are known
        self._frames: OrderedDict[int, tuple[bytes, bool]] = OrderedDict()
        self._reading: anyio.Lock | None = None  # made when the database is read first

    def frame_from_memory(self, index: int) -> tuple[bytes, bool] | None:
        """Return a part as a WebSocket message, and whether it is the last one; None where the database must be read."""
        if (known := self._frames.get(index)) is not None:
            return known
        part = self._part(index, {})
        return None if part is None else self._keep(index, part)

    def forget_frames(self) -> None:
        """Keep no part that was made: whoever is served waits for long; it is made again."""
        self._frames.clear()

    async def frame(self, index: int) -> tuple[bytes, bool]:
        """Return a part as a WebSocket message, and whether it is the last one. Parts are asked for in order.

        Raises:
            StorageUnavailable: the database cannot be read now.
        """
        if (known := self.frame_from_memory(index)) is not None:
            return known
        if self._reading is None:
            self._reading = anyio.Lock()
        async with self._reading:
            if (known := self._frames.get(index)) is not None:
                return known
            return self._keep(index, await self.part(index))

    async def part(self, index: int) -> Part:
        """Return a part as it is; parts are asked for in order.

        Raises:
            StorageUnavailable: the database cannot be read now.
        """
        read: dict[int, Entity | None] = {}
        count, size = FIRST_READ, 0
        while (part := self._part(index, read)) is None:
            missing = self._unknown(index, count, read)
            found = await self._states.read(missing)
            read.update(dict.fromkeys(missing))
            read.update(found)
            size += sum(len(orjson.dumps(entity)) for entity in found.values())
            count = max(FIRST_READ, min(MAX_READ, topic_messages.PART_BYTES * len(read) // max(size, 1)))
        return part

    def fields(self, removed: list[int], *, first: bool, last: bool) -> Entity:
        """Return the fields of a part besides its entities."""
        if self.prev is None:
            return topic_messages.snapshot_fields(self.offset, self.epoch, first=first, last=last)
        recovered_epoch = self.epoch if self._recovered else ""
        return topic_messages.change_fields(removed, self.prev, self.offset, recovered_epoch, last=last)

    def _keep(self, index: int, part: Part) -> tuple[bytes, bool]:
        fields = self.fields(part.removed, first=index == 0, last=part.is_last)
        framed = frames.frame(topic_messages.update(self._states.name, part.entities, fields)), part.is_last
        self._frames[index] = framed
        if len(self._frames) > KEPT_PARTS:
            self._frames.popitem(last=False)
        return framed

    def _lookup(self, read: dict[int, Entity | None]) -> Callable[[int], tuple[bool, Entity | None]]:
        # Keys that the log named may have changed after what memory knows.
        is_behind = self._states.offset < self.offset

        def lookup(key: int) -> tuple[bool, Entity | None]:
            is_known, entity = (False, None) if is_behind else self._states.known(key)
            return (True, read[key]) if not is_known and key in read else (is_known, entity)

        return lookup

    def _end(self, index: int) -> int:
        return self._starts[index + 1] if index + 1 < len(self._starts) else len(self._keys)

    def _unknown(self, index: int, count: int, read: dict[int, Entity | None]) -> list[int]:
        """Return the next keys of a part that must be read."""
        lookup, keys = self._lookup(read), []
        for position in range(self._starts[index], self._end(index)):
            if not lookup(self._keys[position])[0]:
                keys.append(self._keys[position])
                if len(keys) == count:
                    break
        return keys

    def _part(self, index: int, read: dict[int, Entity | None]) -> Part | None:
        """Return a part from memory and from what was read; None where more must be read."""
        lookup = self._lookup(read)
        entities: list[bytes] = []
        removed: list[int] = []
        size = 0
        position, end = self._starts[index], self._end(index)
        is_new = index + 1 == len(self._starts)  # a part that is made again has the same keys
        while position < end and not (is_new and size >= topic_messages.PART_BYTES):
            key = self._keys[position]
            is_known, entity = lookup(key)
            if not is_known:
                return None
            if entity is not None:
                encoded = orjson.dumps(entity)
                entities.append(encoded)
                size += len(encoded) + 1
            elif self.prev is not None:
                removed.append(key)
                size += REMOVED_BYTES
            position += 1
        if is_new and position < len(self._keys):
            self._starts.append(position)
        return Part(entities, removed, position >= len(self._keys))
