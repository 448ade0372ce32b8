"""The newest stretch of one topic's change log in memory, compacted: the latest state per entity.

Who is paced, paused, slow or was away for a moment is caught up from here without touching the database; who is further
behind is caught up from the log itself, which gives the same answer.
"""

from collections import OrderedDict
from collections.abc import Mapping

from robodyne_rt.model.changes import Entity, Update


class Backlog:
    """Remembers which entities changed at which offset.

    Args:
        topic: name of the topic.
        offset: where the log stands now; nothing before it is known.
        limit: entities kept; the oldest are forgotten, which raises `floor`.
        limit_bytes: bytes kept, the same.
    """

    def __init__(self, topic: str, *, offset: int, limit: int, limit_bytes: int) -> None:
        self.topic = topic
        self.floor = offset
        self.offset = offset
        self.size_bytes = 0
        self._limit = limit
        self._limit_bytes = limit_bytes
        # key -> (offset of its newest change, its state or None when deleted, bytes), oldest change first. An OrderedDict,
        # because a dict that loses entries at its front searches through all that ever stood there.
        self._latest: OrderedDict[int, tuple[int, Entity | None, int]] = OrderedDict()

    def __contains__(self, key: int) -> bool:
        """Return whether the newest state of an entity is known here."""
        return key in self._latest

    def __getitem__(self, key: int) -> Entity | None:
        """Return the newest state of an entity, None where it was deleted."""
        return self._latest[key][1]

    def add(self, update: Update, sizes: Mapping[int, int]) -> None:
        """Take the next update of the topic, whose `prev` is our `offset`; `sizes` has the bytes of each entity."""
        for key in update.removed:
            self._put(key, update.offset, None, 0)
        for key, entity in update.entities.items():
            self._put(key, update.offset, entity, sizes[key])
        self.offset = update.offset
        while len(self._latest) > self._limit or self.size_bytes > self._limit_bytes:
            self._forget_oldest()

    def _put(self, key: int, offset: int, entity: Entity | None, size: int) -> None:
        latest = self._latest
        if (known := latest.get(key)) is not None:
            self.size_bytes -= known[2]
            latest.move_to_end(key)
        latest[key] = (offset, entity, size)
        self.size_bytes += size

    def _forget_oldest(self) -> None:
        _, (self.floor, _, size) = self._latest.popitem(last=False)
        self.size_bytes -= size

    def forget(self) -> None:
        """Know nothing but where the log stands."""
        while self._latest:
            self._forget_oldest()
        self.floor = max(self.floor, self.offset)

    def correct(self, key: int, entity: Entity | None) -> None:
        """Note that whoever is at our offset may have seen an entity otherwise than it is: it goes into their next catch-up."""
        self._put(key, self.offset + 1, entity, 0)

    def changed_since(self, offset: int) -> list[int] | None:
        """Return the keys of what changed in (offset, self.offset], newest first, or None when that is no longer remembered."""
        if not self.floor <= offset <= self.offset:
            return None
        keys = []
        for key in reversed(self._latest):
            if self._latest[key][0] <= offset:
                break
            keys.append(key)
        return keys
