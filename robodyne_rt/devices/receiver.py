"""What is done with one device message, whichever wire it came by: check, push telemetry, queue the rest, answer.

Used by the TCP and serial protocols and by `POST /api/device-messages`, so that all give the same answers.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from robodyne_rt.core.device_auth import Challenge, DeviceAuth, Identity, Known
from robodyne_rt.core.framing import Item, Problem
from robodyne_rt.core.rate_limit import SlidingWindow
from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Clock, MessageStore, ReceivedMessage, TelemetrySink
from robodyne_rt.protocol import device_messages
from robodyne_rt.protocol.device_messages import Bye, DeviceMessage, Hello, OrderReport, RobotReport, Telemetry
from robodyne_rt.protocol.errors import Forbidden, Internal, RateLimited, RobodyneError

logger = logging.getLogger(__name__)

ROBOTS_PER_PEER = 500
MAX_FAILURES = 20
"""Failed proofs from one address in a minute; after that nothing from there is good for a while."""


class Peer:
    """Who speaks on one wire: what it said and proved of itself, and which robots it spoke for.

    Args:
        name: of the wire: an address, a serial port.
        must_prove: whether it has to prove a key before it may say anything.
        address: whence it comes, for counting failures.
    """

    __slots__ = ("address", "announced", "challenge", "device", "end", "identity", "must_prove", "name", "no_place", "robots")

    def __init__(self, name: str, *, must_prove: bool = False) -> None:
        self.name = name
        self.address = name
        self.must_prove = must_prove
        self.identity: Identity | None = None
        self.challenge: Challenge | None = None
        self.device: str | None = None
        # Those it spoke for, and those of its last Hello.
        self.robots: dict[str, None] = {}
        self.announced: tuple[str, ...] = ()
        # Ends the wire, once everything is answered.
        self.end: Callable[[], None] | None = None
        # Returns why there is no place for it, now that it proved who it is.
        self.no_place: Callable[[], str] = str

    @property
    def is_unproven(self) -> bool:
        """Whether it may say nothing but Hello."""
        return self.must_prove and self.identity is None

    def note_robot(self, robot_id: str) -> None:
        """Remember a robot that it spoke for."""
        if len(self.robots) < ROBOTS_PER_PEER:
            self.robots[robot_id] = None


class ReceiverStats:
    """Plain numbers that `/metrics` reads."""

    def __init__(self) -> None:
        self.messages: Counter[tuple[str, str]] = Counter()
        self.clock_faults = 0
        self.connections: Counter[str] = Counter()
        self.noise: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()


class Reply:
    """What one message is answered: filled by the store's outcome, kept in the order of its wire's answers.

    Attributes:
        body: JSON of the answer; None until it is known.
        is_success: whether it tells success.
        checked: whether the message carried a CRC, as its answer does then.
    """

    __slots__ = ("_answered", "_id", "_kind", "_stats", "body", "checked", "is_success")

    def __init__(self, stats: ReceiverStats, answered: Callable[[], None], kind: str, id: str | None, checked: bool) -> None:
        # By position: this is made for each message.
        self._stats = stats
        self._answered = answered
        self._kind = kind
        self._id = id
        self.checked = checked
        self.body: bytes | None = None
        self.is_success = False

    def __call__(self, result: Any, error: BaseException | None) -> None:
        """Take what became of the message (`ports.Outcome`)."""
        if error is not None:
            self.refuse(error if isinstance(error, RobodyneError) else Internal("the message could not be stored"))
            return
        self._stats.messages[self._kind, "success"] += 1
        self.fill(device_messages.success("stored", self._id, result), is_success=True)

    def refuse(self, error: RobodyneError) -> None:
        """Answer that the message is not taken."""
        self._stats.messages[self._kind, error.device_code] += 1
        self.fill(device_messages.failure(error, self._id), is_success=False)

    def fill(self, body: bytes, *, is_success: bool) -> None:
        """Answer with this JSON."""
        self.body = body
        self.is_success = is_success
        self._answered()


class Receiver:
    """Takes messages; never waits. Who calls it stops reading from its device while `store.is_behind`."""

    def __init__(self, *, store: MessageStore, telemetry: TelemetrySink, auth: DeviceAuth, clock: Clock) -> None:
        self.stats = ReceiverStats()
        self.store = store
        self._telemetry_sink = telemetry
        self._auth = auth
        self._clock = clock
        self._proven: dict[str, Peer] = {}
        self._failures = SlidingWindow(limit=MAX_FAILURES, window_s=60.0)

    def take(self, items: Iterable[Item], peer: Peer, answered: Callable[[], None]) -> list[Reply]:
        """Take what one turn of a wire brought; hand it to the store as one.

        Args:
            answered: called each time one of the replies is filled, also within this call.
        Returns:
            The replies, in order; telemetry gets none.
        """
        replies: list[Reply] = []
        received: list[ReceivedMessage] = []
        telemetry: dict[str, tuple[Entity, str]] = {}
        names_no_robot = False  # whether something was said that tells only of the robots of the Hello
        stats, stamp = self.stats, self._clock.stamp
        for item in items:
            if isinstance(item, Problem):
                names_no_robot |= item.answer
                self._take_problem(item, peer, answered, replies)
                continue
            try:
                message, digest = device_messages.parse(item.body)
            except RobodyneError as error:
                names_no_robot |= not self._excuse(item.body, peer)
                reply = Reply(stats, answered, "invalid", None, item.checked)
                replies.append(reply)
                reply.refuse(error)
                continue
            reply = Reply(stats, answered, message.msg_type, message.id, item.checked)
            if (peer.must_prove or peer.identity is not None or isinstance(message, Hello)) and not self._admit(
                message, peer, reply
            ):
                replies.append(reply)
                continue
            heard_at = stamp()
            if isinstance(message, Telemetry):
                older = telemetry.get(message.robot_id)
                telemetry[message.robot_id] = ({**older[0], **message.fields()} if older else message.fields(), heard_at)
                stats.messages["Telemetry", "pushed"] += 1
                continue
            replies.append(reply)
            if message.ts is not None and device_messages.clock_is_off(message.ts, times.to_epoch_s(heard_at)):
                stats.clock_faults += 1
            if isinstance(message, Bye) and message.robot_id is None:
                received += [_bye(robot_id, stamp()) for robot_id in peer.robots]
            names_no_robot |= not self._note(message, peer)
            received.append(ReceivedMessage(message, message.device(peer.device, peer.name), digest, heard_at, reply))
        for robot_id, (fields, heard_at) in telemetry.items():
            peer.note_robot(robot_id)
            self._telemetry_sink.push_telemetry(robot_id, fields, heard_at)
        if names_no_robot and not peer.is_unproven:
            for robot_id in peer.announced:
                self._telemetry_sink.mark_seen(robot_id)
        if received:
            self.store.store_messages(received)
        return replies

    def _take_problem(self, problem: Problem, peer: Peer, answered: Callable[[], None], replies: list[Reply]) -> None:
        """Count what is no frame, answer it where it is to be, and end the wire where it cannot go on."""
        self.stats.noise[problem.code] += 1
        if problem.answer:
            reply = Reply(self.stats, answered, "", None, checked=False)
            replies.append(reply)
            reply.fill(device_messages.problem(problem.code, problem.text), is_success=False)
        if problem.fatal and peer.end is not None:
            peer.end()

    def _excuse(self, body: bytes, peer: Peer) -> bool:
        """Keep the robot online that a refused message names; return whether it names one."""
        robot_id = device_messages.robot_named_in(body)
        if robot_id is None:
            return False
        if not peer.is_unproven and (peer.identity is None or peer.identity.may_speak_for(robot_id)):
            self._telemetry_sink.mark_seen(robot_id)
        return True

    def _admit(self, message: DeviceMessage, peer: Peer, reply: Reply) -> bool:
        """Return whether a message is for the store; where it is not, its reply is filled."""
        try:
            if isinstance(message, Hello) and (message.client_nonce is not None or message.proof is not None):
                self._shake_hands(message, peer, reply)
                return False
            if peer.is_unproven:
                raise Forbidden("say Hello with a nonce first: devices from this network prove a key")
            if peer.identity is not None:
                _check_robots(message, peer.identity)
        except RobodyneError as error:
            reply.refuse(error)
            return False
        return True

    # -- who it is -----------------------------------------------------------------------------------------------

    def _shake_hands(self, message: Hello, peer: Peer, reply: Reply) -> None:
        """Challenge a device, or take its proof.

        Raises:
            Forbidden: the proof is not good; its wire ends.
        """
        now = self._clock.now()
        if message.proof is None:
            peer.challenge = self._auth.challenge(message.device_id, message.client_nonce or "", now)
            reply.fill(device_messages.challenge(peer.challenge.nonce, message.id), is_success=True)
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
        if refusal := peer.no_place():
            self.left(peer)
            peer.identity = None
            if peer.end is not None:
                peer.end()
            raise RateLimited(refusal)
        self._note(message, peer)
        self.stats.messages[message.msg_type, "success"] += 1
        # There is nothing to store, least of all a proof.
        reply.fill(device_messages.success("welcome", message.id), is_success=True)

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
            identity = known(device_id).revalidate(peer.identity) if peer.identity is not None else None
            if identity is not None:
                peer.identity = identity
            elif peer.end is not None:
                peer.end()

    def _note(self, message: DeviceMessage, peer: Peer) -> bool:
        """Remember who this is, and which robot was heard; return whether the message tells of one."""
        if isinstance(message, Hello):
            peer.device = message.device_id
            peer.announced = tuple(message.robots)
            for name in message.robots:
                peer.note_robot(name)
            return False
        robot_id = message.__dict__.get("robot_id")
        if robot_id is None or isinstance(message, OrderReport):  # an order is said by somebody else
            return False
        if isinstance(message, RobotReport):
            peer.note_robot(robot_id)
        self._telemetry_sink.mark_seen(robot_id)
        return True


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


def _bye(robot_id: str, heard_at: str) -> ReceivedMessage:
    """Return the Bye of one of the robots of a wire that leaves as a whole."""
    return ReceivedMessage(Bye(msg_type="Bye", robot_id=robot_id), robot_id, "", heard_at, _ignore)


def _ignore(result: Any, error: BaseException | None) -> None:
    """The robots of a `Bye` without a name: its own answer tells the device; one that is unknown needs none."""
    if error is not None and not isinstance(error, RobodyneError):
        logger.error("a robot's Bye could not be stored: %s", error, extra={"action": "bye_failed"})
