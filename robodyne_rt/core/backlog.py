"""The newest stretch of one topic's change log in memory, compacted: the latest state per entity.

Who is paced, paused, slow or was away for a moment is caught up from here without touching the database; who is further
behind reads the log itself (`store.changes.since`), which gives the same answer.
"""

from itertools import islice

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
        # key -> (offset of its newest change, its state or None when deleted), oldest change first
        self._latest: dict[int, tuple[int, Entity | None]] = {}

    def add(self, update: Update) -> None:
        """Take the next update of the topic; its `prev` is our `offset`."""
        latest = self._latest
        for key in update.removed:
            latest.pop(key, None)
            latest[key] = (update.offset, None)
        for key, entity in update.entities.items():
            latest.pop(key, None)
            latest[key] = (update.offset, entity)
        self.offset = update.offset
        if (surplus := len(latest) - self._limit) > 0:
            for key in list(islice(latest, surplus)):
                self.floor = latest.pop(key)[0]

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
