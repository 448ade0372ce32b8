"""The state of the restaurant as answerers see it: what is stored, with what is newer laid over it."""

from typing import Protocol

from robodyne_rt.core import times
from robodyne_rt.errors import StorageUnavailable
from robodyne_rt.model.changes import Entity, Update
from robodyne_rt.ports import Clock
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.log.change_log import ReaderPool

EVENTS_AT_MOST = 500
_EVENT = ("type", "severity", "description", "related_entity_type", "related_entity_id", "timestamp")


class Seen(Protocol):
    """What of the hub is needed."""

    def seen(self, topic: str) -> list[Entity]: ...

    def overlaid(self, topic: str, entities: list[Entity]) -> list[Entity]: ...


class LiveRestaurant:
    """Implements `ports.Restaurant`: asks the database, so that what another program wrote a moment ago counts."""

    def __init__(self, *, readers: ReaderPool, hub: Seen, clock: Clock) -> None:
        self._readers = readers
        self._hub = hub
        self._clock = clock

    async def entities(self, topic: str) -> list[Entity]:
        try:
            snapshot: Update = await self._readers.snapshot(topic)
        except StorageUnavailable:
            return self._hub.seen(topic)
        return self._hub.overlaid(topic, list(snapshot.entities.values()))

    async def events_since(self, epoch_s: float) -> list[Entity]:
        since = times.to_text(epoch_s)

        def query(db: DbConnection) -> list[Entity]:
            # The newest by id, whatever their time: what another program writes late is among them, and the cost is bounded.
            rows = db.execute(f"SELECT {', '.join(_EVENT)} FROM event ORDER BY id DESC LIMIT ?", (EVENTS_AT_MOST,)).fetchall()
            found = [dict(zip(_EVENT, row, strict=True)) for row in rows]
            for event in found:
                event["timestamp"] = db.time_text(event["timestamp"]) or ""
            return [event for event in found if event["timestamp"] >= since]

        return await self._readers.read(query)

    def wall(self) -> float:
        return self._clock.wall()
