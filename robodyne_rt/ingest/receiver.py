"""What is done with one device message, whichever wire it came by: check, push telemetry, queue the rest, answer.

Used by the TCP and serial protocols and by `POST /api/device-messages`, so that all give the same answers.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from robodyne_rt.core import device_messages, times
from robodyne_rt.core.device_messages import Bye, DeviceMessage, Hello, RobotReport, Telemetry
from robodyne_rt.errors import Internal, RobodyneError
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Clock, MessageStore

logger = logging.getLogger(__name__)

ROBOTS_PER_PEER = 500

Answer = Callable[[bytes, bool], None]
"""Called once, on the loop, with the answer's JSON and whether it tells success."""


class LiveView(Protocol):
    """What the hub offers to ingest."""

    def heard(self, robot_id: str) -> None: ...

    def telemetry(self, robot_id: str, fields: Entity, heard_at: str) -> None: ...


class Peer:
    """Who speaks on one wire: what it said of itself, and which robots it spoke for."""

    __slots__ = ("device", "name", "robots")

    def __init__(self, name: str) -> None:
        self.name = name
        self.device: str | None = None
        self.robots: dict[str, None] = {}


class ReceiverStats:
    """Plain numbers that `/metrics` reads."""

    def __init__(self) -> None:
        self.messages: Counter[tuple[str, str]] = Counter()
        self.clock_faults = 0
        self.connections: Counter[str] = Counter()
        self.noise: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()


class Receiver:
    """Takes messages; never waits. Who calls it stops reading from its device while `store.is_behind`."""

    def __init__(self, *, store: MessageStore, live: LiveView, clock: Clock) -> None:
        self.stats = ReceiverStats()
        self.store = store
        self._live = live
        self._clock = clock

    def take(self, body: bytes, peer: Peer, answer: Answer) -> bool:
        """Take one frame's body; return whether `answer` will be called."""
        try:
            message, digest = device_messages.parse(body)
        except RobodyneError as error:
            self.stats.messages["invalid", error.device_code] += 1
            answer(device_messages.failure(error), False)
            return True
        heard_at = self._clock.stamp()
        kind = message.msg_type
        if isinstance(message, Telemetry):
            self._telemetry(message, peer, heard_at)
            self.stats.messages[kind, "pushed"] += 1
            return False
        if message.ts is not None and device_messages.clock_is_off(message.ts, times.to_epoch_s(heard_at)):
            self.stats.clock_faults += 1
        self._note(message, peer)

        def outcome(result: Any, error: BaseException | None) -> None:
            if error is None:
                self.stats.messages[kind, "success"] += 1
                answer(device_messages.success("stored", message.id, result), True)
                return
            known = error if isinstance(error, RobodyneError) else Internal("the message could not be stored")
            self.stats.messages[kind, known.device_code] += 1
            answer(device_messages.failure(known, message.id), False)

        device = message.device(peer.device, peer.name)
        self.store.store_message(message, device=device, digest=digest, heard_at=heard_at, outcome=outcome)
        return True

    def _note(self, message: DeviceMessage, peer: Peer) -> None:
        """Remember who this is and who was heard."""
        if isinstance(message, Hello):
            peer.device = message.device_id
            peer.robots.update(dict.fromkeys(message.robots))
        elif isinstance(message, Bye):
            names = list(peer.robots) if message.robot_id is None else []
            for name in names:
                self.store.store_message(
                    Bye(msg_type="Bye", robot_id=name), device=name, digest="", heard_at=self._clock.stamp(), outcome=_ignore
                )
        elif isinstance(message, RobotReport):
            self._live.heard(message.robot_id)
            if len(peer.robots) < ROBOTS_PER_PEER:
                peer.robots[message.robot_id] = None
        elif robot_id := message.__dict__.get("robot_id"):
            self._live.heard(robot_id)

    def _telemetry(self, message: Telemetry, peer: Peer, heard_at: str) -> None:
        if len(peer.robots) < ROBOTS_PER_PEER:
            peer.robots[message.robot_id] = None
        self._live.telemetry(message.robot_id, message.fields(), heard_at)


def _ignore(result: Any, error: BaseException | None) -> None:
    """The robots of a `Bye` without a name: its own answer tells the device; one that is unknown needs none."""
    if error is not None and not isinstance(error, RobodyneError):
        logger.error("a robot's Bye could not be stored: %s", error, extra={"action": "bye_failed"})
