"""What is done with one device message, whichever wire it came by: check, push telemetry, queue the rest, answer.

Used by the TCP and serial protocols and by `POST /api/device-messages`, so that all give the same answers.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from robodyne_rt.core import device_messages, times
from robodyne_rt.core.device_auth import Challenge, DeviceAuth, Identity, Known
from robodyne_rt.core.device_messages import Bye, DeviceMessage, Hello, OrderReport, RobotReport, Telemetry
from robodyne_rt.core.ratelimit import SlidingWindow
from robodyne_rt.errors import Forbidden, Internal, RobodyneError
from robodyne_rt.ports import Clock, MessageStore, TelemetrySink

logger = logging.getLogger(__name__)

ROBOTS_PER_PEER = 500
FAILURES_AT_MOST = 20
"""Failed proofs from one address in a minute; after that nothing from there is good for a while."""

Answer = Callable[[bytes, bool], None]
"""Called once, on the loop, with the answer's JSON and whether it tells success."""


class Peer:
    """Who speaks on one wire: what it said and proved of itself, and which robots it spoke for.

    Args:
        name: of the wire: an address, a serial port.
        must_prove: whether it has to prove a key before it may say anything.
        address: whence it comes, for counting failures.
    """

    __slots__ = ("address", "challenge", "device", "end", "identity", "must_prove", "name", "robots")

    def __init__(self, name: str, *, must_prove: bool = False) -> None:
        self.name = name
        self.address = name
        self.must_prove = must_prove
        self.identity: Identity | None = None
        self.challenge: Challenge | None = None
        self.device: str | None = None
        self.robots: dict[str, None] = {}
        # Ends the wire, once everything is answered.
        self.end: Callable[[], None] | None = None

    @property
    def is_stranger(self) -> bool:
        """Whether it may say nothing but Hello."""
        return self.must_prove and self.identity is None


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

    def __init__(self, *, store: MessageStore, telemetry: TelemetrySink, auth: DeviceAuth, clock: Clock) -> None:
        self.stats = ReceiverStats()
        self.store = store
        self._telemetry_sink = telemetry
        self._auth = auth
        self._clock = clock
        self._proven: dict[str, Peer] = {}
        self._failures = SlidingWindow(limit=FAILURES_AT_MOST, window_s=60.0)

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
        try:
            if isinstance(message, Hello) and (message.client_nonce is not None or message.proof is not None):
                self._shake_hands(message, peer, answer)
                return True
            if peer.is_stranger:
                raise Forbidden("say Hello with a nonce first: devices from this network prove a key")
            if peer.identity is not None:
                _check_robots(message, peer.identity)
        except RobodyneError as error:
            self.stats.messages[kind, error.device_code] += 1
            answer(device_messages.failure(error, message.id), False)
            return True
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

    # -- who it is -----------------------------------------------------------------------------------------------

    def _shake_hands(self, message: Hello, peer: Peer, answer: Answer) -> None:
        """Challenge a device, or take its proof.

        Raises:
            Forbidden: the proof is not good; its wire ends.
        """
        now = self._clock.now()
        if message.proof is None:
            peer.challenge = self._auth.challenge(message.device_id, message.client_nonce or "", now)
            answer(device_messages.challenge(peer.challenge.nonce, message.id), True)
            return
        challenge, peer.challenge = peer.challenge, None
        try:
            identity = self._auth.prove(challenge, message.device_id, message.proof, now)
            if self._failures.look(peer.address, now).retry_after:
                raise Forbidden("authentication failed")  # guessing is told nothing
        except Forbidden:
            self._failures.take(peer.address, now)
            self.stats.refused["UNAUTHORIZED"] += 1
            logger.warning("a device at %s was not who it said", peer.name, extra={"action": "device_not_proven"})
            if peer.end is not None:
                peer.end()
            raise
        _check_robots(message, identity)
        self.proven(peer, identity)
        self._note(message, peer)
        self.stats.messages[message.msg_type, "success"] += 1
        answer(device_messages.success("welcome", message.id), True)  # there is nothing to store, least of all a proof

    def proven(self, peer: Peer, identity: Identity) -> None:
        """Take a peer for a device; an older wire of the same one ends."""
        if peer.identity is not None and peer.identity.device_id != identity.device_id:
            self.left(peer)
        older = self._proven.get(identity.device_id)
        if older is not None and older is not peer and older.end is not None:
            older.end()
        peer.identity = identity
        peer.device = identity.device_id
        self._proven[identity.device_id] = peer
        logger.info("device %s is here", identity.device_id, extra={"action": "device_up"})

    def left(self, peer: Peer) -> None:
        """Note that a wire is gone."""
        if peer.identity is not None and self._proven.get(peer.identity.device_id) is peer:
            del self._proven[peer.identity.device_id]
            logger.info("device %s is gone", peer.identity.device_id, extra={"action": "device_down"})

    def recheck(self, known: Callable[[str], Known]) -> None:
        """Ask what devices may do now; whose key is good no more is cut off."""
        for device_id, peer in list(self._proven.items()):
            identity = known(device_id).still(peer.identity) if peer.identity is not None else None
            if identity is not None:
                peer.identity = identity
            elif peer.end is not None:
                peer.end()

    def _note(self, message: DeviceMessage, peer: Peer) -> None:
        """Remember who this is and who was heard."""
        if isinstance(message, Hello):
            peer.device = message.device_id
            room = ROBOTS_PER_PEER - len(peer.robots)
            peer.robots.update(dict.fromkeys(message.robots[: max(0, room)]))
        elif isinstance(message, Bye):
            names = list(peer.robots) if message.robot_id is None else []
            for name in names:
                self.store.store_message(
                    Bye(msg_type="Bye", robot_id=name), device=name, digest="", heard_at=self._clock.stamp(), outcome=_ignore
                )
        elif isinstance(message, RobotReport):
            self._telemetry_sink.mark_seen(message.robot_id)
            if len(peer.robots) < ROBOTS_PER_PEER:
                peer.robots[message.robot_id] = None
        elif not isinstance(message, OrderReport) and (robot_id := message.__dict__.get("robot_id")):
            self._telemetry_sink.mark_seen(robot_id)  # an order is said by somebody else

    def _telemetry(self, message: Telemetry, peer: Peer, heard_at: str) -> None:
        if len(peer.robots) < ROBOTS_PER_PEER:
            peer.robots[message.robot_id] = None
        self._telemetry_sink.push_telemetry(message.robot_id, message.fields(), heard_at)


def _check_robots(message: DeviceMessage, identity: Identity) -> None:
    """Check that a device speaks for its own robots only; an order may name any, it is not the robot that speaks.

    Raises:
        Forbidden: it does not.
    """
    if isinstance(message, OrderReport):
        return
    if isinstance(message, Hello) and message.device_id != identity.device_id:
        raise Forbidden(f"this wire is device {identity.device_id!r}")
    named = [*message.robots] if isinstance(message, Hello) else []
    if (robot_id := message.__dict__.get("robot_id")) is not None:
        named.append(robot_id)
    for robot_id in named:
        if not identity.may_speak_for(robot_id):
            raise Forbidden(f"device {identity.device_id!r} may not speak for robot {robot_id!r}")


def _ignore(result: Any, error: BaseException | None) -> None:
    """The robots of a `Bye` without a name: its own answer tells the device; one that is unknown needs none."""
    if error is not None and not isinstance(error, RobodyneError):
        logger.error("a robot's Bye could not be stored: %s", error, extra={"action": "bye_failed"})
