"""Watches the robots by the clock: stores their newest telemetry when it is due, and that one fell silent (SPEC section 5)."""

import logging

from robodyne_rt.core.robot_presence import RobotPresence
from robodyne_rt.ports import Clock, MessageStore

logger = logging.getLogger(__name__)

TICK_S = 0.1
STOOD_STILL_S = 1.0
"""A tick this late means that the process itself stood still (a suspended machine); robots were not silent then."""


class RobotMonitor:
    """One task beside the hub, which shows the same robots.

    Args:
        store: takes telemetry and vanished robots for storing.
    """

    def __init__(self, robot_presence: RobotPresence, *, store: MessageStore, clock: Clock) -> None:
        self._robot_presence = robot_presence
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            late_s = await self._clock.tick(TICK_S)
            if late_s > STOOD_STILL_S:
                self._robot_presence.extend_deadlines(late_s)
            self.tick(self._clock.now())

    def tick(self, now: float) -> None:
        """Do what is due at `now`."""
        for robot_id, fields, heard_at in self._robot_presence.due(now):
            self._store.store_telemetry(robot_id, fields, heard_at)
        for robot_id in self._robot_presence.vanished(now):
            logger.info("robot %s fell silent", robot_id, extra={"action": "robot_vanished"})
            self._store.store_vanished(robot_id, self._clock.stamp())
