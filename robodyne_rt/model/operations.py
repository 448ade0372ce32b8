"""Operations: the states that they go through, and what robots can be told to do (SPEC section 7)."""

from enum import StrEnum

from robodyne_rt.model.enums import RobotStatus


class OperationStatus(StrEnum):
    PENDING = "PENDING"
    SENT = "SENT"
    ACKED = "ACKED"
    RUNNING = "RUNNING"
    EXECUTED = "EXECUTED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


FINAL = frozenset({OperationStatus.EXECUTED, OperationStatus.FAILED, OperationStatus.CANCELLED, OperationStatus.EXPIRED})
"""A final state never changes."""

_ENDS = frozenset({OperationStatus.EXECUTED, OperationStatus.FAILED, OperationStatus.CANCELLED})

STEPS: dict[OperationStatus, frozenset[OperationStatus]] = {
    OperationStatus.PENDING: FINAL | {OperationStatus.SENT, OperationStatus.RUNNING},
    # A result may come before its ack.
    OperationStatus.SENT: _ENDS | {OperationStatus.ACKED, OperationStatus.RUNNING},
    OperationStatus.ACKED: _ENDS | {OperationStatus.RUNNING},
    OperationStatus.RUNNING: _ENDS,
}
"""Which state may follow which; PENDING becomes RUNNING at once where nobody is sent anything."""


def may_follow(before: OperationStatus, after: OperationStatus) -> bool:
    """Return whether an operation may take this step."""
    return after in STEPS.get(before, frozenset())


class OperationError(StrEnum):
    """Why an operation did not do what was asked."""

    CONFLICT = "CONFLICT"
    LOST = "LOST"
    REJECTED = "REJECTED"
    ROBOT_UNAVAILABLE = "ROBOT_UNAVAILABLE"
    STOPPED = "STOPPED"
    TIMEOUT = "TIMEOUT"
    UNCONFIRMED = "UNCONFIRMED"


INSTANT_COMMANDS = frozenset({"PAUSE", "RESUME", "CANCEL", "STOP", "SPEAK"})
"""These pass the tasks that wait; every other name, also one of a robot's own, is a task."""

LATCHED_COMMANDS = frozenset({"PAUSE", "CANCEL", "STOP", "SPEAK"})
"""What a stopped robot may be told."""

FREE_STATUSES = frozenset({RobotStatus.IDLE, RobotStatus.CHARGING, RobotStatus.PICKUP})
"""A robot in any other is busy."""

REFUSING_STATUSES = frozenset({RobotStatus.EMERGENCY, RobotStatus.ERROR, RobotStatus.MAINTENANCE, RobotStatus.SECURITY})
"""In these a robot takes no task, not even for later."""
