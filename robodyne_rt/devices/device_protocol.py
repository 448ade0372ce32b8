"""One wire to a device, as an asyncio protocol: bytes -> frames -> receiver, answers -> bytes, in order.

The TCP and the serial shell differ in how the wire is opened, not in what is said on it. What is read is taken in turns
(`devices/turns.py`), one batch of messages each.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import cast

from robodyne_rt.core.framing import INCOMPLETE_S, SILENCE_S, Detector, Framer, Item, Problem
from robodyne_rt.devices.receiver import Peer, Receiver, Reply
from robodyne_rt.devices.turns import ReadingTurns

logger = logging.getLogger(__name__)

MAX_UNANSWERED = 128
MAX_UNANSWERED_SHARED = 32
"""Messages on one wire that wait for their answer, where it is alone and where others speak as well; the device is not read
from until some are answered. What one has under way the next message of another waits for: a commit or two."""

TURN_MESSAGES = 32
TURN_BYTES = 65536
"""What one wire may bring in one turn of the loop."""

PROVEN_WITHIN_S = 5.0
"""How long a device that needs a key may take to prove it."""

UNSENT_ANSWERS_BYTES = 65536
ANSWERS_TAKEN_WITHIN_S = 30.0
"""A device that does not take its answers for this long is cut off: it must not hold its place for ever."""

ENDED_WITHIN_S = 15.0
"""A wire that we end is cut off after so long: storage answers within 10 s, and the peer may be gone."""


class DeviceProtocol(asyncio.Protocol):
    """The protocol of one wire.

    Args:
        turns: shared by all wires.
        make_framer: returns a fresh framer of the wire's framing.
        closes_on_timeout: whether an unfinished message ends the wire (TCP) or is dropped as noise (serial).
        on_lost: called once when the wire is gone.
    """

    def __init__(
        self,
        *,
        receiver: Receiver,
        turns: ReadingTurns,
        peer: Peer,
        make_framer: Callable[[], Framer],
        closes_on_timeout: bool,
        on_lost: Callable[["DeviceProtocol", Exception | None], None],
    ) -> None:
        self.peer = peer
        self._receiver = receiver
        self._turns = turns
        self._make_framer = make_framer
        self._framer = make_framer()
        self._closes_on_timeout = closes_on_timeout
        self._on_lost = on_lost
        self._loop = turns.loop
        self._transport: asyncio.Transport | None = None
        self.heard_at = self._loop.time()
        """When bytes came last, in the loop's time."""
        self._unread = b""  # read from the wire, not given to the framer yet
        self._replies: deque[Reply] = deque()
        self.waits_for_store = False
        self._flush_planned = False
        self._is_reading = True
        self._waits_for_room = False
        self._is_at_eof = False
        self._answers_stuck: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._incomplete: asyncio.TimerHandle | None = None
        self._ending = False
        self.is_displaced = False
        self._cut: asyncio.TimerHandle | None = None
        self._unproven: asyncio.TimerHandle | None = None
        peer.end = self.end

    # -- asyncio's side --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are asyncio's in behaviour only
        self._transport.set_write_buffer_limits(high=UNSENT_ANSWERS_BYTES)
        if self.peer.is_unproven:
            self._unproven = self._loop.call_later(PROVEN_WITHIN_S, self._check_proven)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self.heard_at = self._loop.time()
        self._unread = self._unread + data if self._unread else data
        self._go_on()

    def eof_received(self) -> bool:
        # Half-closed (`nc -q1`): what was sent is still answered, then we close.
        self._is_at_eof = True
        self._go_on()
        return self._transport is not None and self._transport.get_extra_info("sslcontext") is None  # TLS has no such half

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for timer in (self._silence, self._incomplete, self._answers_stuck, self._unproven, self._cut):
            if timer is not None:
                timer.cancel()
        self._silence = self._incomplete = self._answers_stuck = None
        self._is_at_eof = True
        self._go_on()  # who sends and leaves without waiting for answers is taken all the same
        if self._ending:
            self._turns.forget(self)
        self._receiver.left(self.peer)
        self._on_lost(self, error)

    def _check_proven(self) -> None:
        """A stranger holds a place for a few seconds only."""
        if self.peer.is_unproven:
            text = f"no key was proven within {PROVEN_WITHIN_S:.0f} s"
            self._take([Problem("UNAUTHORIZED", text, fatal=True)])

    def pause_writing(self) -> None:
        self._answers_stuck = self._loop.call_later(ANSWERS_TAKEN_WITHIN_S, self.abort)
        self._govern_reading(self._room(), self._has_input())

    def resume_writing(self) -> None:
        if self._answers_stuck is not None:
            self._answers_stuck.cancel()
            self._answers_stuck = None
        self._go_on()

    # -- taking what was read --------------------------------------------------------------------------------------

    # One message goes through here many thousand times a second: nothing is asked twice.

    def _has_input(self) -> bool:
        """Return whether something was read that is not taken yet."""
        return bool(self._unread) or self._framer.has_more

    def _room(self) -> int:
        """Return how many more messages may be taken now: the writer keeps up, and their answers have a place."""
        if self._ending or self._answers_stuck is not None or self._receiver.store.is_behind:
            return 0
        return (MAX_UNANSWERED_SHARED if self._turns.are_shared else MAX_UNANSWERED) - len(self._replies)

    def _go_on(self) -> None:
        """Take what was read when it is our turn, and read on where there is room."""
        had_its_turn = (self._has_input() or self._is_at_eof) and self._turns.ask(self)
        if not had_its_turn:
            self._govern_reading(self._room(), self._has_input())

    def take_turn(self) -> bool:
        """Take one budget of what was read; return whether more is there that could be taken."""
        room = self._room()
        if room <= 0:
            self._govern_reading(room, self._has_input())
            return False
        data, self._unread = self._unread, b""
        if len(data) > TURN_BYTES:
            data, self._unread = data[:TURN_BYTES], data[TURN_BYTES:]
        items = self._framer.feed(data, room if room < TURN_MESSAGES else TURN_MESSAGES)
        if isinstance(self._framer, Detector) and self._framer.found is not None:
            self._framer = self._framer.found
        has_input = self._has_input()
        if self._is_at_eof and not has_input:
            items += self._framer.silence()
            self._ending = True
        if items:
            self._take(items)
        if has_input:
            room = self._room()
            self._govern_reading(room, has_input)
            return room > 0
        if self._ending:
            self._close_when_answered()
            if self._transport is None:
                self._turns.forget(self)
        else:
            self._watch_unfinished(fresh=bool(items))
            self._govern_reading(self._room(), has_input)
        return False

    def _take(self, items: list[Item]) -> None:
        replies = self._receiver.take(items, self.peer, self._plan_flush)
        self._replies.extend(replies)
        # Of all, not of some: one event among telemetry must not make the whole turn free.
        self.waits_for_store = len(replies) == len(items) and not any([reply.body for reply in replies])

    def _watch_unfinished(self, *, fresh: bool) -> None:
        """Start or stop the clocks of a message that is not complete."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if not self._framer.pending:
            if self._incomplete is not None:
                self._incomplete.cancel()
                self._incomplete = None
            return
        self._silence = self._loop.call_later(SILENCE_S, self._fell_silent)
        if fresh and self._incomplete is not None:
            self._incomplete.cancel()
            self._incomplete = None
        if self._incomplete is None:
            self._incomplete = self._loop.call_later(INCOMPLETE_S, self._gave_up)

    def _fell_silent(self) -> None:
        self._silence = None
        if not self._has_input() and (items := self._framer.silence()):
            self._take(items)
            self._watch_unfinished(fresh=True)

    def _gave_up(self) -> None:
        if not self._is_reading:  # it may have come, but we do not look
            self._incomplete = self._loop.call_later(INCOMPLETE_S, self._gave_up)
            return
        self._incomplete = None
        if not self._closes_on_timeout:
            self._framer = self._make_framer()
            self._receiver.stats.noise["TIMEOUT"] += 1
            return
        text = f"the message was not complete within {INCOMPLETE_S:.0f} s"
        self._take([Problem("TIMEOUT", text, fatal=True)])

    # -- answers ---------------------------------------------------------------------------------------------------

    def _plan_flush(self) -> None:
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write the answers that are next in order, in one write."""
        self._flush_planned = False
        replies, encode = self._replies, self._framer.encode
        ready = []
        while replies and (body := replies[0].body) is not None:
            reply = replies.popleft()
            ready.append(encode(body, success=reply.is_success, checked=reply.checked))
        if ready and self._transport is not None:
            self._transport.write(b"".join(ready))
        if self._ending:
            self._close_when_answered()
        elif not self._is_reading:
            self._go_on()

    # -- backpressure and the end ----------------------------------------------------------------------------------

    def _govern_reading(self, room: int, has_input: bool) -> None:
        """Read only while what was read is taken."""
        if self._ending:
            return
        should = room > 0 and not has_input and not self._is_at_eof
        if should != self._is_reading and self._transport is not None:
            self._is_reading = should
            if should:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
        if room <= 0 and self._receiver.store.is_behind and not self._waits_for_room:
            self._waits_for_room = True
            self._receiver.store.when_caught_up(self._caught_up)

    def _caught_up(self) -> None:
        self._waits_for_room = False
        self._go_on()

    @property
    def unanswered(self) -> int:
        """Messages whose answer is not written yet."""
        return len(self._replies)

    @property
    def is_ending(self) -> bool:
        """Whether it takes nothing more."""
        return self._ending

    def end(self) -> None:
        """Take nothing more; close when everything is answered."""
        if self._ending:
            return
        self._ending = True
        if self._transport is not None:
            if self._is_reading:
                self._is_reading = False
                self._transport.pause_reading()
            self._cut = self._loop.call_later(ENDED_WITHIN_S, self.abort)
            self._plan_flush()  # not at once: the answer that says why may be on its way

    def _close_when_answered(self) -> None:
        if not self._replies and self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        self.abort()

    def displace(self) -> None:
        """Cut the wire, whose place is another one's from now on."""
        self.is_displaced = True
        self.abort()

    def abort(self) -> None:
        """Cut the wire."""
        if self._transport is not None:
            self._transport.abort()
