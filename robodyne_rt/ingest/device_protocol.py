"""One wire to a device, as an asyncio protocol: bytes -> frames -> receiver, answers -> bytes, in order.

The TCP and the serial shell differ in how the wire is opened, not in what is said on it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import cast

from robodyne_rt.core import device_messages
from robodyne_rt.core.framing import INCOMPLETE_S, SILENCE_S, Frame, Framer, Item, Problem
from robodyne_rt.ingest.receiver import Peer, Receiver

logger = logging.getLogger(__name__)

UNANSWERED_AT_MOST = 1000
"""Messages on one wire that wait for their answer; the device is not read from until some are answered."""

PROVEN_WITHIN_S = 5.0
"""How long a device that needs a key may take to prove it."""

UNSENT_ANSWERS_BYTES = 65536
ANSWERS_TAKEN_WITHIN_S = 30.0
"""A device that does not take its answers for this long is cut off: it must not hold its place for ever."""


class _Slot:
    """The place of one answer in the order of answers."""

    __slots__ = ("checked", "wire_bytes")

    def __init__(self, checked: bool) -> None:
        self.checked = checked
        self.wire_bytes: bytes | None = None


class DeviceProtocol(asyncio.Protocol):
    """The protocol of one wire.

    Args:
        framer: fresh, of the wire's framing.
        closes_on_timeout: whether an unfinished message ends the wire (TCP) or is dropped as noise (serial).
        on_lost: called once when the wire is gone.
    """

    def __init__(
        self,
        *,
        receiver: Receiver,
        peer: Peer,
        make_framer: Callable[[], Framer],
        closes_on_timeout: bool,
        on_lost: Callable[["DeviceProtocol", Exception | None], None],
    ) -> None:
        self.peer = peer
        self._receiver = receiver
        self._make_framer = make_framer
        self._framer = make_framer()
        self._closes_on_timeout = closes_on_timeout
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._slots: deque[_Slot] = deque()
        self._flush_planned = False
        self._is_reading = True
        self._answers_stuck: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._incomplete: asyncio.TimerHandle | None = None
        self._ending = False
        self._unproven: asyncio.TimerHandle | None = None
        peer.end = self.end

    # -- asyncio's side --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are asyncio's in behaviour only
        self._transport.set_write_buffer_limits(high=UNSENT_ANSWERS_BYTES)
        if self.peer.is_stranger:
            self._unproven = self._loop.call_later(PROVEN_WITHIN_S, self._check_proven)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        items = self._framer.feed(data)
        self._take(items)
        self._watch_unfinished(fresh=bool(items))

    def eof_received(self) -> bool:
        self._take(self._framer.silence())
        # Half-closed (`nc -q1`): what was sent is still answered, then we close.
        self._ending = True
        return bool(self._slots)

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = True
        self._transport = None
        for timer in (self._silence, self._incomplete, self._answers_stuck, self._unproven):
            if timer is not None:
                timer.cancel()
        self._receiver.left(self.peer)
        self._on_lost(self, error)

    def _check_proven(self) -> None:
        """A stranger holds a place for a few seconds only."""
        if self.peer.is_stranger:
            text = f"no key was proven within {PROVEN_WITHIN_S:.0f} s"
            self._problem(Problem("UNAUTHORIZED", text, fatal=True))

    def pause_writing(self) -> None:
        self._answers_stuck = self._loop.call_later(ANSWERS_TAKEN_WITHIN_S, self.abort)
        self._govern_reading()

    def resume_writing(self) -> None:
        if self._answers_stuck is not None:
            self._answers_stuck.cancel()
            self._answers_stuck = None
        self._govern_reading()

    # -- frames ----------------------------------------------------------------------------------------------------

    def _take(self, items: list[Item]) -> None:
        for item in items:
            if isinstance(item, Frame):
                slot = _Slot(item.checked)
                self._slots.append(slot)
                if not self._receiver.take(item.body, self.peer, self._answer_into(slot)):
                    self._slots.pop()
            else:
                self._problem(item)
        self._govern_reading()

    def _problem(self, problem: Problem) -> None:
        self._receiver.stats.noise[problem.code] += 1
        if problem.answer:
            slot = _Slot(False)
            self._slots.append(slot)
            self._answer_into(slot)(device_messages.problem(problem.code, problem.text), False)
        if problem.fatal:
            self.end()

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
        if items := self._framer.silence():
            self._take(items)
            self._watch_unfinished(fresh=True)

    def _gave_up(self) -> None:
        self._incomplete = None
        if not self._closes_on_timeout:
            self._framer = self._make_framer()
            self._receiver.stats.noise["TIMEOUT"] += 1
            return
        text = f"the message was not complete within {INCOMPLETE_S:.0f} s"
        self._problem(Problem("TIMEOUT", text, fatal=True))

    # -- answers ---------------------------------------------------------------------------------------------------

    def _answer_into(self, slot: _Slot) -> Callable[[bytes, bool], None]:
        def answer(body: bytes, success: bool) -> None:
            slot.wire_bytes = self._framer.encode(body, success=success, checked=slot.checked)
            if not self._flush_planned:
                self._flush_planned = True
                self._loop.call_soon(self._flush)

        return answer

    def _flush(self) -> None:
        """Write the answers that are next in order, in one write."""
        self._flush_planned = False
        ready = []
        while self._slots and (wire_bytes := self._slots[0].wire_bytes) is not None:
            ready.append(wire_bytes)
            self._slots.popleft()
        if self._transport is None:
            return
        if ready:
            self._transport.write(b"".join(ready))
            self._govern_reading()
        if self._ending and not self._slots:
            self._transport.close()

    # -- backpressure and the end ----------------------------------------------------------------------------------

    def _govern_reading(self) -> None:
        """Read only while there is room for answers and the writer keeps up."""
        transport = self._transport
        if transport is None or self._ending:
            return
        behind = self._receiver.store.is_behind
        should = not behind and len(self._slots) < UNANSWERED_AT_MOST and self._answers_stuck is None
        if should == self._is_reading:
            return
        self._is_reading = should
        if should:
            transport.resume_reading()
        else:
            transport.pause_reading()
            if behind:
                self._receiver.store.when_caught_up(self._govern_reading)

    @property
    def unanswered(self) -> int:
        """Messages whose answer is not written yet."""
        return len(self._slots)

    def end(self) -> None:
        """Take nothing more; close when everything is answered."""
        if self._ending:
            return
        self._ending = True
        if self._transport is not None:
            if self._is_reading:
                self._is_reading = False
                self._transport.pause_reading()
            if not self._slots:
                self._transport.close()

    def abort(self) -> None:
        """Cut the wire."""
        if self._transport is not None:
            self._transport.abort()
