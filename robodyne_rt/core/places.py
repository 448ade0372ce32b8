"""Places that many may take, so that one who takes them without end keeps nobody else out.

Where all are taken, whoever holds the most gives one up: the one it holds longest. Used for HTTP connections and for screens
that wait to be paired; a holder is an address there.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Places(Generic[Item]):
    """A number of places, each held by somebody for an item. An item that is pinned costs no memory here: who calls knows which
    items hold a place, and whose they are.

    Args:
        limit: of all.
        per_holder: of one; None for no bound but `limit`.
    """

    def __init__(self, *, limit: int, per_holder: int | None = None) -> None:
        self._limit = limit
        self._per_holder = limit if per_holder is None else per_holder
        self._taken = 0
        self._held: Counter[Hashable] = Counter()
        self._movable: dict[Hashable, dict[Item, None]] = {}
        # Holders by the number of their movable items: the largest is found without a search, however many there are.
        self._by_size: dict[int, dict[Hashable, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        return self._taken

    def held_by(self, holder: Hashable) -> int:
        """Return how many places somebody holds."""
        return self._held[holder]

    def take(self, holder: Hashable, item: Item) -> tuple[bool, Item | None]:
        """Take a place; return whether there was one, and the item that had to give way."""
        victim = None
        if self._held[holder] >= self._per_holder or self._taken >= self._limit:
            giver = self._giver(holder)
            if giver not in self._movable:
                return False, None
            victim = next(iter(self._movable[giver]))
            self.leave(giver, victim)
        self._taken += 1
        self._held[holder] += 1
        self._add_movable(holder, item)
        return True, victim

    def _giver(self, holder: Hashable) -> Hashable:
        """Return who gives way for one more of somebody: who holds the most, if that is more than this one would; else the
        newcomer itself."""
        if self._held[holder] < self._per_holder and self._largest > self._held[holder] + 1:
            return next(iter(self._by_size[self._largest]))
        return holder

    def pin(self, holder: Hashable, item: Item) -> None:
        """Let an item stay, whatever comes."""
        self._remove_movable(holder, item)

    def unpin(self, holder: Hashable, item: Item) -> None:
        """Let an item give way again, after all others of its holder."""
        self._remove_movable(holder, item)
        self._add_movable(holder, item)

    def leave(self, holder: Hashable, item: Item) -> None:
        """Give an item's place back."""
        self._remove_movable(holder, item)
        self._taken -= 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]

    def _add_movable(self, holder: Hashable, item: Item) -> None:
        items = self._movable.setdefault(holder, {})
        items[item] = None
        self._resized(holder, len(items) - 1, len(items))

    def _remove_movable(self, holder: Hashable, item: Item) -> None:
        items = self._movable.get(holder, {})
        if item not in items:
            return
        del items[item]
        if not items:
            del self._movable[holder]
        self._resized(holder, len(items) + 1, len(items))

    def _resized(self, holder: Hashable, before: int, after: int) -> None:
        if before:
            del self._by_size[before][holder]
            if not self._by_size[before]:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, {})[holder] = None
        self._largest = max(self._largest, after)
        while self._largest and self._largest not in self._by_size:
            self._largest -= 1
