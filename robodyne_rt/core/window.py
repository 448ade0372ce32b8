"""What a topic's snapshot shows, kept in memory as changes come; and what it weighs.

The hub builds snapshots from here without touching the database. What ages out of a window by time alone is told by
`retain`, now and then.
"""

from collections.abc import Collection, Mapping

import orjson

from robodyne_rt.model.changes import Entity, Update

WINDOW_BYTES = 16 << 20
"""A window that takes more is not kept in memory."""

_OVERHEAD_BYTES = 600
"""What an entity of a few fields costs in memory besides its texts."""


def size_of(encoded: bytes) -> int:
    """Return about how many bytes an entity takes in memory whose JSON this is: Python keeps a text that is not ASCII a second
    time as UTF-8, once it was encoded."""
    return 2 * len(encoded) + _OVERHEAD_BYTES


def sizes_of(entities: Mapping[int, Entity]) -> dict[int, int]:
    """Return `size_of` each entity."""
    return {key: size_of(orjson.dumps(entity)) for key, entity in entities.items()}


class Window:
    """The entities of one topic's window, lowest id first.

    Args:
        snapshot: what it shows at first.
        rows: newest rows that it shows; None for all.
    """

    def __init__(self, snapshot: Update, *, rows: int | None) -> None:
        self.entities: dict[int, Entity] = {}
        self.size_bytes = 0
        self._rows = rows
        self._sizes: dict[int, int] = {}
        self._newest = 0
        self.apply(snapshot.entities, (), sizes_of(snapshot.entities))

    def apply(self, entities: Mapping[int, Entity], removed: Collection[int], sizes: Mapping[int, int]) -> None:
        """Take what changed; `sizes` has the bytes of each entity."""
        for key in removed:
            self._drop(key)
        for key, entity in entities.items():
            size = sizes[key]
            self.size_bytes += size - self._sizes.get(key, 0)
            self._sizes[key] = size
            is_new = key not in self.entities
            self.entities[key] = entity
            if key > self._newest:
                self._newest = key
            elif is_new:
                self.entities = dict(sorted(self.entities.items()))
        if self._rows is not None:
            while len(self.entities) > self._rows:
                self._drop(next(iter(self.entities)))

    def retain(self, keys: Collection[int]) -> None:
        """Forget all entities but these."""
        kept = set(keys)
        for key in [key for key in self.entities if key not in kept]:
            self._drop(key)

    def _drop(self, key: int) -> None:
        if self.entities.pop(key, None) is not None:
            self.size_bytes -= self._sizes.pop(key)
