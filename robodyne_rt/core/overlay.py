"""What screens show over the stored state of a topic: what storage has not confirmed, and live telemetry (SPEC section 3).

An unconfirmed change is laid over everything that is sent, until it is confirmed or reverted.
"""

from collections.abc import Collection, Iterator, Mapping

from robodyne_rt.core.robot_presence import RobotPresence
from robodyne_rt.model.changes import Entity, OptimisticChange


class Overlay:
    """The overlay of one topic.

    Args:
        limit: unconfirmed changes that are shown, the newest; None for all. In a storm while the database is away more would
            be a window of their own.
        robot_presence: telemetry, for the topic of robots.
    """

    def __init__(self, *, limit: int | None, robot_presence: RobotPresence | None) -> None:
        self._limit = limit
        self._robot_presence = robot_presence
        self._unconfirmed: dict[int, OptimisticChange] = {}
        self._version = 0

    def __iter__(self) -> Iterator[int]:
        """The ids of entities that are not confirmed, oldest first."""
        return iter(self._unconfirmed)

    @property
    def version(self) -> int:
        """Grows with everything that is shown before it is stored."""
        return self._version + (self._robot_presence.version if self._robot_presence else 0)

    def show(self, changes: Mapping[int, OptimisticChange]) -> None:
        """Lay changes over what is stored until they are confirmed or reverted."""
        self._unconfirmed |= changes
        if self._limit is not None:
            while len(self._unconfirmed) > self._limit:
                del self._unconfirmed[next(iter(self._unconfirmed))]
        self._version += 1
        if self._robot_presence is not None:
            for change in changes.values():
                self._robot_presence.optimistic(change.entity)

    def end(self, ids: Collection[int]) -> None:
        """Lay nothing more over these: they are stored, or will never be."""
        for id in ids:
            self._unconfirmed.pop(id, None)
        self._version += 1

    def unconfirmed(self, id: int) -> Entity | None:
        """Return an entity as it will be, None where nothing of it waits for its confirmation."""
        change = self._unconfirmed.get(id)
        return None if change is None else change.entity

    def over(self, entity: Entity) -> Entity:
        """Return a stored entity as screens show it."""
        if self._unconfirmed and (change := self._unconfirmed.get(entity["id"])) is not None:
            entity = entity | change.fields
        return entity if self._robot_presence is None else self._robot_presence.overlay(entity)

    def over_all(self, entities: Collection[Entity]) -> list[Entity]:
        """Return stored entities as screens show them, and behind them those that are not stored yet."""
        known = {entity["id"] for entity in entities}
        shown = [self.over(entity) for entity in entities]
        return shown + [change.entity for id, change in self._unconfirmed.items() if id not in known]

    def alone(self, *, telemetry: bool) -> list[Entity]:
        """Return what is shown and not stored; with `telemetry`, that of all robots as well."""
        found = {id: self.over(change.entity) for id, change in self._unconfirmed.items()}
        if telemetry and self._robot_presence is not None:
            found |= {entity["id"]: self.over(entity) for entity in self._robot_presence.current()}
        return list(found.values())
