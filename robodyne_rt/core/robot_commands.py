"""Commands to robots: when each is sent, asked for, given up (SPEC section 7). Nothing is done twice, nothing is forgotten.

A command is sent by its id, again only where nobody acknowledged it and the robot cannot have heard it without remembering
it. What the robot says decides; where nobody can know, the command ends as UNCONFIRMED, TIMEOUT or LOST. The shell sends,
stores and tells what the decisions say. All times are monotonic seconds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from robodyne_rt.model.operations import (
    FINAL,
    FREE_STATUSES,
    INSTANT_COMMANDS,
    LATCHED_COMMANDS,
    REFUSING_STATUSES,
    OperationError,
    OperationStatus,
    may_follow,
)

PENDING, SENT, ACKED, RUNNING = (
    OperationStatus.PENDING,
    OperationStatus.SENT,
    OperationStatus.ACKED,
    OperationStatus.RUNNING,
)
EXECUTED, FAILED, CANCELLED, EXPIRED = (
    OperationStatus.EXECUTED,
    OperationStatus.FAILED,
    OperationStatus.CANCELLED,
    OperationStatus.EXPIRED,
)

TRIES = 3
ACK_WITHIN_S = 5.0
"""A command that nobody acknowledged is sent again after so long."""

SILENT_S = 300.0
"""A robot that acknowledged a command, and says nothing more of it for so long, is asked."""

ASK_EVERY_S = 5.0
ANSWER_WITHIN_S = 60.0
"""A robot that is here and does not answer what it is asked for so long has no answer."""

AWAY_S = 3600.0
"""After so long nobody waits for a robot that went away with a command."""

HOLD_AT_MOST_S = 30.0
EXPIRES_AFTER_S, QUEUED_EXPIRES_AFTER_S = 30.0, 900.0
"""Until when a command is sent, counted from the end of its hold."""


class Refusal(Exception):
    """A command cannot be taken.

    Attributes:
        code: what is in the way; None where the command itself is wrong.
    """

    def __init__(self, code: OperationError | None, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(eq=False, slots=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        hold_until: it stays PENDING until then, and can be taken back.
        expires_at: it is never sent after this.
        may_wait: whether it waits until its robot is free (`queue`).
        expected_status: what the robot's status has to be when it is posted, and when it is sent.
        tries: how often it was sent.
        heard_at: when it was sent, or its robot said something of it, last.
        asked_since: since when its robot is being asked; None while it is not.
    """

    id: str
    robot_id: str
    name: str
    hold_until: float
    expires_at: float
    parameters: dict[str, Any] = field(default_factory=dict)
    may_wait: bool = False
    expected_status: str | None = None
    status: OperationStatus = PENDING
    progress: int | None = None
    result: Any = None
    error: OperationError | None = None
    reason: str = ""
    tries: int = 0
    heard_at: float = 0.0
    asked_since: float | None = None
    asked_at: float = 0.0
    cancel_requested: bool = False

    @property
    def is_task(self) -> bool:
        """Whether it keeps its robot busy."""
        return self.name not in INSTANT_COMMANDS

    @property
    def is_open(self) -> bool:
        """Whether something may still become of it."""
        return self.status not in FINAL

    @property
    def is_out(self) -> bool:
        """Whether its robot may have it."""
        return self.is_open and self.status is not PENDING


class Send(NamedTuple):
    """Send a command to its robot: `tries` of it says which attempt this is."""

    command: Command


class Ask(NamedTuple):
    """Ask a robot what became of a command (`CommandQuery`)."""

    command: Command


class Cancel(NamedTuple):
    """Tell a robot to end a command; its result decides."""

    command: Command


class Changed(NamedTuple):
    """Store and show a command as it is now."""

    command: Command


Decision = Send | Ask | Cancel | Changed


@dataclass(eq=False, slots=True)
class _Robot:
    """What is known of one robot.

    Attributes:
        commands: names that it takes over its present wire; None while it has none.
        remembers: whether it knows the ids of its commands also after its own restart.
    """

    status: str = ""
    commands: frozenset[str] | None = None
    remembers: bool = False
    away_since: float = 0.0
    is_latched: bool = False
    open: dict[str, Command] = field(default_factory=dict)

    def tasks(self) -> Iterator[Command]:
        return (command for command in self.open.values() if command.is_task)


class RobotCommands:
    """The commands of all robots, from the moment they are taken."""

    def __init__(self) -> None:
        self._robots: dict[str, _Robot] = {}

    def _robot(self, robot_id: str) -> _Robot:
        return self._robots.setdefault(robot_id, _Robot())

    def open(self, robot_id: str) -> list[Command]:
        """Return a robot's open commands, oldest first."""
        return list(self._robot(robot_id).open.values())

    # -- asking ----------------------------------------------------------------------------------------------------

    def check(self, command: Command, now: float) -> None:
        """Check that a new command can be taken.

        Raises:
            Refusal: why not.
        """
        robot = self._robot(command.robot_id)
        if command.hold_until - now > HOLD_AT_MOST_S:
            raise Refusal(None, f"hold_s: expected 0 to {HOLD_AT_MOST_S:.0f}")
        if command.expires_at < command.hold_until:
            raise Refusal(None, "expires_at: earlier than the end of the hold")
        if command.may_wait and not command.is_task:
            raise Refusal(None, f"queue: {command.name} is done at once or not at all")
        if robot.commands is not None and command.name not in robot.commands:
            raise Refusal(None, f"command: {command.robot_id} does not take {command.name}")
        if robot.is_latched and command.name not in LATCHED_COMMANDS:
            raise Refusal(OperationError.STOPPED, f"{command.robot_id} is stopped")
        if command.is_task and robot.status in REFUSING_STATUSES:
            raise Refusal(OperationError.ROBOT_UNAVAILABLE, f"{command.robot_id} is in {robot.status}")
        if command.expected_status not in (None, robot.status):
            raise Refusal(OperationError.CONFLICT, f"{command.robot_id} is in {robot.status}, not {command.expected_status}")
        if command.may_wait:
            return
        if robot.commands is None:
            raise Refusal(OperationError.ROBOT_UNAVAILABLE, f"{command.robot_id} is away, or takes no commands")
        if command.is_task and (robot.status not in FREE_STATUSES or any(robot.tasks())):
            raise Refusal(OperationError.ROBOT_UNAVAILABLE, f"{command.robot_id} is busy")

    def post(self, command: Command, now: float) -> list[Decision]:
        """Take a new command that passed `check` and is stored.

        Raises:
            Refusal: it cannot be taken any more.
        """
        self.check(command, now)
        robot = self._robot(command.robot_id)
        robot.open[command.id] = command
        return [Changed(command), *self._go_on(robot, now)]

    def cancel(self, robot_id: str, id: str, now: float) -> list[Decision]:
        """End a command, or ask its robot to.

        Raises:
            KeyError: there is no such command that is open.
        """
        robot = self._robot(robot_id)
        command = robot.open[id]
        if command.status is PENDING:
            return [*self._end(robot, command, CANCELLED), *self._go_on(robot, now)]
        command.cancel_requested = True
        return [Changed(command), Cancel(command)] if robot.commands is not None else [Changed(command)]

    # -- what robots do and say ----------------------------------------------------------------------------------------

    def robot_is(self, robot_id: str, status: str, now: float) -> list[Decision]:
        """Note a robot's status."""
        robot = self._robot(robot_id)
        robot.status = status
        decisions: list[Decision] = []
        if status in REFUSING_STATUSES:
            for command in [task for task in robot.tasks() if task.status is PENDING]:
                reason = f"the robot went into {status}"
                decisions += self._end(robot, command, FAILED, OperationError.ROBOT_UNAVAILABLE, reason)
        return [*decisions, *self._go_on(robot, now)]

    def linked(self, robot_id: str, commands: Iterable[str], *, remembers: bool, now: float) -> list[Decision]:
        """Note that a wire speaks for a robot: what it may have is asked for, and never sent again blindly."""
        robot = self._robot(robot_id)
        robot.commands, robot.remembers = frozenset(commands), remembers
        decisions: list[Decision] = []
        for command in robot.open.values():
            if command.is_out:
                command.asked_since = now
                decisions += self._ask(command, now)
                if command.cancel_requested:
                    decisions.append(Cancel(command))
        return [*decisions, *self._go_on(robot, now)]

    def unlinked(self, robot_id: str, now: float) -> list[Decision]:
        """Note that no wire speaks for a robot any more."""
        robot = self._robot(robot_id)
        robot.commands = None
        robot.away_since = now
        for command in robot.open.values():
            command.asked_since = None
        if not robot.is_latched:
            return []
        # It may have stopped, and may have not: nobody will hear of these tasks again.
        doubtful = [task for task in robot.tasks() if task.is_out]
        reason = "its link ended before it confirmed the stop"
        return [decision for task in doubtful for decision in self._end(robot, task, FAILED, OperationError.LOST, reason)]

    def acked(self, robot_id: str, id: str, *, is_accepted: bool, reason: str, now: float) -> list[Decision]:
        """Take a robot's answer to a command; one that is final, or nobody's, changes nothing."""
        robot = self._robot(robot_id)
        if (command := self._heard(robot, id, now)) is None:
            return []
        if not is_accepted:
            return [*self._end(robot, command, FAILED, OperationError.REJECTED, reason), *self._go_on(robot, now)]
        return self._step(command, ACKED)

    def resulted(
        self,
        robot_id: str,
        id: str,
        word: str,
        now: float,
        *,
        progress: int | None = None,
        result: Any = None,
        reason: str = "",
    ) -> list[Decision]:
        """Take what a robot says of a command, by itself or asked.

        Args:
            word: `running`, `succeeded`, `failed`, `cancelled`; as an answer also `accepted` or `unknown`.
        """
        robot = self._robot(robot_id)
        if (command := self._heard(robot, id, now)) is None:
            return []
        command.progress = progress if progress is not None else command.progress
        match word:
            case "accepted":
                return self._step(command, ACKED)
            case "running":
                return self._step(command, RUNNING) or [Changed(command)]
            case "succeeded":
                command.result = result
                ended = self._end(robot, command, EXECUTED)
            case "failed":
                ended = self._end(robot, command, FAILED, None, reason)
            case "cancelled":
                ended = self._end(robot, command, CANCELLED, None, reason)
            case _:
                ended = self._unknown(robot, command, now)
        return [*ended, *self._go_on(robot, now)]

    def _heard(self, robot: _Robot, id: str, now: float) -> Command | None:
        """Return the command that a robot speaks of, which is one that it may have."""
        command = robot.open.get(id)
        if command is None or not command.is_out:
            return None
        command.heard_at = now
        command.asked_since = None
        return command

    def _unknown(self, robot: _Robot, command: Command, now: float) -> list[Decision]:
        """The robot knows nothing of a command: it never came, or was forgotten, and only who remembers can tell which."""
        never_came = robot.remembers and command.status is SENT
        if never_came and command.tries < TRIES and now < command.expires_at and not command.cancel_requested:
            return self._send(command, now)
        if never_came and command.cancel_requested:
            return self._end(robot, command, CANCELLED)
        return self._end(robot, command, FAILED, OperationError.LOST, "the robot does not know it")

    # -- stops -----------------------------------------------------------------------------------------------------

    def latched(self, robot_id: str) -> list[Decision]:
        """Note that a robot is being stopped: what waits for it is over at once."""
        robot = self._robot(robot_id)
        robot.is_latched = True
        waiting = [command for command in robot.open.values() if command.status is PENDING]
        return [
            decision
            for command in waiting
            if command.name not in LATCHED_COMMANDS
            for decision in self._end(robot, command, CANCELLED, OperationError.STOPPED)
        ]

    def stop_confirmed(self, robot_id: str) -> list[Decision]:
        """Note that a robot confirmed its stop: it dropped its tasks."""
        robot = self._robot(robot_id)
        dropped = [command for command in robot.tasks() if command.is_out]
        return [decision for command in dropped for decision in self._end(robot, command, CANCELLED, OperationError.STOPPED)]

    def released(self, robot_id: str, now: float) -> list[Decision]:
        """Note that a robot may move again; only a new task moves it."""
        robot = self._robot(robot_id)
        robot.is_latched = False
        return self._go_on(robot, now)

    # -- a restart, and the clock --------------------------------------------------------------------------------------

    def load(self, commands: Iterable[Command], now: float) -> None:
        """Take the commands that were open when the server ended; what may be out is asked for when its robot is here."""
        for command in commands:
            command.heard_at, command.asked_since = now, None
            robot = self._robot(command.robot_id)
            robot.away_since = now
            robot.open[command.id] = command

    def lose_all(self, reason: str) -> list[Decision]:
        """End everything: the history that it stands in is gone (a restore, a new epoch)."""
        return [
            decision
            for robot in self._robots.values()
            for command in list(robot.open.values())
            for decision in self._end(robot, command, FAILED, OperationError.LOST, reason)
        ]

    def tick(self, now: float) -> list[Decision]:
        """Do what is due at `now`."""
        decisions: list[Decision] = []
        for robot in self._robots.values():
            for command in list(robot.open.values()):
                decisions += self._time_out(robot, command, now)
            decisions += self._go_on(robot, now)
        return decisions

    def _time_out(self, robot: _Robot, command: Command, now: float) -> list[Decision]:
        if command.status is PENDING:
            return self._end(robot, command, EXPIRED) if now >= command.expires_at else []
        if robot.commands is None:
            if now - robot.away_since >= AWAY_S:
                return self._end(robot, command, FAILED, OperationError.LOST, "the robot went away with it")
            return []
        if command.asked_since is not None:
            if now - command.asked_since >= ANSWER_WITHIN_S:
                return self._end(robot, command, FAILED, OperationError.TIMEOUT, "the robot does not say what became of it")
            return self._ask(command, now) if now - command.asked_at >= ASK_EVERY_S else []
        silent_s = now - command.heard_at
        if command.status is SENT and silent_s >= ACK_WITHIN_S:
            if command.tries >= TRIES or now >= command.expires_at:
                return self._end(robot, command, FAILED, OperationError.UNCONFIRMED, "it may have acted")
            return self._send(command, now)
        if command.status is not SENT and silent_s >= SILENT_S:
            command.asked_since = now
            return self._ask(command, now)
        return []

    # -- steps that several inputs share -------------------------------------------------------------------------------

    def _go_on(self, robot: _Robot, now: float) -> list[Decision]:
        """Send what may be sent now: instant commands at once, tasks one after the other."""
        if robot.commands is None:
            return []
        decisions: list[Decision] = []
        for command in list(robot.open.values()):
            if command.status is not PENDING or now < command.hold_until or now >= command.expires_at:
                continue
            if robot.is_latched and command.name not in LATCHED_COMMANDS:
                continue
            if command.is_task and (robot.status not in FREE_STATUSES or command is not next(robot.tasks())):
                continue
            if command.expected_status not in (None, robot.status):
                reason = f"the robot is in {robot.status}, not {command.expected_status}"
                decisions += self._end(robot, command, FAILED, OperationError.CONFLICT, reason)
            elif command.name not in robot.commands:
                reason = f"the robot does not take {command.name} any more"
                decisions += self._end(robot, command, FAILED, OperationError.ROBOT_UNAVAILABLE, reason)
            else:
                decisions += self._send(command, now)
        return decisions

    def _send(self, command: Command, now: float) -> list[Decision]:
        command.tries += 1
        command.heard_at = now
        command.status = SENT
        return [Changed(command), Send(command)]

    def _ask(self, command: Command, now: float) -> list[Decision]:
        command.asked_at = now
        return [Ask(command)]

    def _step(self, command: Command, status: OperationStatus) -> list[Decision]:
        if not may_follow(command.status, status):
            return []
        command.status = status
        return [Changed(command)]

    def _end(
        self,
        robot: _Robot,
        command: Command,
        status: OperationStatus,
        error: OperationError | None = None,
        reason: str = "",
    ) -> list[Decision]:
        assert may_follow(command.status, status), (command.status, status)
        command.status, command.error, command.reason = status, error, reason
        del robot.open[command.id]
        return [Changed(command)]
