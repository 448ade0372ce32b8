"""The newest stretch of one topic's change log in memory, compacted: the latest state per entity.

Who is paced, paused, slow or was away for a moment is caught up from here without touching the database; who is further
behind reads the log itself (`store.changes.since`), which gives the same answer.
"""

from collections import OrderedDict

from robodyne_rt.model.changes import Entity, Update


class Backlog:
    """Remembers which entities changed at which offset.

    Args:
        topic: name of the topic.
        offset: where the log stands now; nothing before it is known.
        limit: entities kept; the oldest are forgotten, which raises `floor`.
    """

    def __init__(self, topic: str, *, offset: int, limit: int) -> None:
        self.topic = topic
        self.floor = offset
        self.offset = offset
        self._limit = limit
        # key -> (offset of its newest change, its state or None when deleted), oldest change first. An OrderedDict, because
        # a dict that loses entries at its front searches through all that ever stood there.
        self._latest: OrderedDict[int, tuple[int, Entity | None]] = OrderedDict()

    def add(self, update: Update) -> None:
        """Take the next update of the topic; its `prev` is our `offset`."""
        latest, offset = self._latest, update.offset
        for key in update.removed:
            latest[key] = (offset, None)
            latest.move_to_end(key)
        for key, entity in update.entities.items():
            latest[key] = (offset, entity)
            latest.move_to_end(key)
        self.offset = offset
        while len(latest) > self._limit:
            self.floor = latest.popitem(last=False)[1][0]

    def correct(self, key: int, entity: Entity | None) -> None:
        """Note that whoever is at our offset may have seen an entity otherwise than it is: it goes into their next catch-up."""
        self._latest[key] = (self.offset + 1, entity)
        self._latest.move_to_end(key)

    def since(self, offset: int) -> Update | None:
        """Return what changed in (offset, self.offset], or None when that is no longer remembered."""
        if not self.floor <= offset <= self.offset:
            return None
        update = Update(self.topic, prev=offset, offset=self.offset)
        for key in reversed(self._latest):
            at, entity = self._latest[key]
            if at <= offset:
                break
            if entity is None:
                update.removed.append(key)
            else:
                update.entities[key] = entity
        return update
