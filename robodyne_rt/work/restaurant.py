"""The state of the restaurant as answerers see it: what is stored, with what is newer laid over it."""

from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity, Update
from robodyne_rt.ports import Clock, LiveState
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.log.reader_pool import ReaderPool

MAX_EVENTS = 500
_EVENT = ("type", "severity", "description", "related_entity_type", "related_entity_id", "timestamp")


class LiveRestaurant:
    """Implements `ports.Restaurant`: asks the database, so that what another program wrote a moment ago counts."""

    def __init__(self, *, readers: ReaderPool, live: LiveState, clock: Clock) -> None:
        self._readers = readers
        self._live = live
        self._clock = clock

    async def entities(self, topic: str) -> list[Entity]:
        try:
            snapshot: Update = await self._readers.snapshot(topic)
        except StorageUnavailable:
            return self._live.shown(topic)
        return self._live.overlaid(topic, list(snapshot.entities.values()))

    async def events_since(self, epoch_s: float) -> list[Entity]:
        since = times.to_text(epoch_s)

        def query(db: DbConnection) -> list[Entity]:
            # The newest by id, whatever their time: what another program writes late is among them, and the cost is bounded.
            rows = db.execute(f"SELECT {', '.join(_EVENT)} FROM event ORDER BY id DESC LIMIT ?", (MAX_EVENTS,)).fetchall()
            found = [dict(zip(_EVENT, row, strict=True)) for row in rows]
            for event in found:
                event["timestamp"] = db.time_text(event["timestamp"]) or ""
            return [event for event in found if event["timestamp"] >= since]

        return await self._readers.read(query)

    def wall(self) -> float:
        return self._clock.wall()
