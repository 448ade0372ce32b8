"""Robots between two commits: newest telemetry over the stored state, and who fell silent (SPEC sections 3 and 5).

`RobotPresence` is told of every stored robot and of every message heard; it says how a robot looks now, whether telemetry is
due to be stored, and which robots vanished. `now` is monotonic seconds; `heard_at` is the server's wall time of receipt
as text, strictly growing, which is also what the database keeps as `last_seen`: the later one wins, so a robot never jumps
back. A `robot_id` is in NFC here, whatever the form of the stored one.
"""

from dataclasses import dataclass, field
from typing import Any

from robodyne_rt.model.changes import Entity
from robodyne_rt.model.names import nfc

STORE_INTERVAL_S = 1.0
"""Telemetry is stored at most this often per robot."""


@dataclass(slots=True)
class _Robot:
    heard: float
    entity: Entity | None = None
    silent: bool = False
    telemetry: dict[str, Any] = field(default_factory=dict)
    telemetry_at: str = ""
    stored: float = float("-inf")
    waiting: bool = False


class RobotPresence:
    """What is known of each robot that was ever mentioned; at most `limit` of them.

    Args:
        offline_after_s: silence after which a robot counts as vanished; counted from when it was first known here.
    """

    def __init__(self, *, offline_after_s: float, limit: int) -> None:
        self._offline_after_s = offline_after_s
        self._limit = limit
        self._robots: dict[str, _Robot] = {}
        self._due: dict[str, None] = {}
        self.version = 0

    def stored(self, entity: Entity, now: float) -> None:
        """Take the stored state of a robot."""
        name = nfc(entity["robot_id"])
        robot = self._robots.get(name)
        if robot is None:
            robot = self._robots[name] = _Robot(heard=now)
        elif robot.entity is not None and robot.entity["id"] != entity["id"] and robot.entity["robot_id"] == name:
            return  # a second row of one name, in another form: what is said of the robot goes to the first
        robot.entity = entity
        robot.silent = entity["link"] != "ONLINE"
        if robot.telemetry and (entity["last_seen"] or "") >= robot.telemetry_at:
            robot.telemetry = {}

    def optimistic(self, entity: Entity) -> None:
        """Take a robot's state that is not stored yet: one that spoke again can fall silent again."""
        robot = self._robots.get(nfc(entity["robot_id"]))
        if robot is not None:
            robot.silent = entity["link"] != "ONLINE"

    def removed(self, key: int) -> None:
        """Forget a robot whose row was deleted."""
        for name, robot in list(self._robots.items()):
            if robot.entity and robot.entity["id"] == key:
                del self._robots[name]
                self._due.pop(name, None)

    def overlay(self, entity: Entity) -> Entity:
        """Return a stored entity as it looks now: newer telemetry laid over it."""
        robot = self._robots.get(nfc(entity["robot_id"]))
        if robot is None or not robot.telemetry or (entity["last_seen"] or "") >= robot.telemetry_at:
            return entity
        return {**entity, **robot.telemetry, "last_seen": robot.telemetry_at}

    def mark_seen(self, robot_id: str, now: float) -> None:
        """Note that a robot said something."""
        robot = self._robots.get(robot_id)
        if robot is not None:
            robot.heard = now
        elif len(self._robots) < self._limit:
            self._robots[robot_id] = _Robot(heard=now)

    def telemetry(self, robot_id: str, fields: dict[str, Any], heard_at: str, now: float) -> Entity | None:
        """Take telemetry; return the whole robot to push, or None for a robot that is not stored yet."""
        robot = self._robots.get(robot_id)
        if robot is None:
            if len(self._robots) >= self._limit:
                return None
            robot = self._robots[robot_id] = _Robot(heard=now)
        robot.heard = now
        robot.telemetry = {**robot.telemetry, **fields}
        robot.telemetry_at = heard_at
        robot.waiting = True
        self._due[robot_id] = None
        self.version += 1
        return self.overlay(robot.entity) if robot.entity else None

    def current(self) -> list[Entity]:
        """Return the robots whose telemetry is newer than what is stored, as they look now."""
        return [self.overlay(robot.entity) for robot in self._robots.values() if robot.entity and robot.telemetry]

    def due(self, now: float) -> list[tuple[str, dict[str, Any], str]]:
        """Return (robot_id, fields, heard_at) of telemetry that is to be stored now, and take it as handed over."""
        ready = []
        for name in list(self._due):
            robot = self._robots.get(name)
            if robot is None or not robot.waiting:
                del self._due[name]
            elif now - robot.stored >= STORE_INTERVAL_S or robot.silent:
                robot.stored, robot.waiting, robot.silent = now, False, False
                ready.append((name, robot.telemetry, robot.telemetry_at))
                del self._due[name]
        return ready

    def extend_deadlines(self, seconds: float) -> None:
        """Do not count time in which we ourselves did not listen: the process stood still, and with it all robots seemed to."""
        for robot in self._robots.values():
            robot.heard += seconds

    def vanished(self, now: float) -> list[str]:
        """Return robots that have just been silent for too long; each is named once."""
        names = []
        for name, robot in self._robots.items():
            if robot.entity is None or robot.silent:
                continue
            if now - robot.heard >= self._offline_after_s:
                robot.silent = True
                names.append(name)
        return names
