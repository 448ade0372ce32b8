"""Whose turn it is: wires share the loop's time, so that one that floods holds up nobody (SPEC section 5, "Fairness").

A wire takes a small budget of messages in a turn of the loop. What it brought beyond that waits for the next round, and
meanwhile nothing more is read from it. When the wires together have taken more than their part of the time, those that were
served rest for a moment: the writer's thread, the screens and the wires that have said nothing yet go first. Of a crowd that
comes at once, so many are served in one turn as a few milliseconds allow.
"""

import asyncio
import logging
from typing import Protocol

from robodyne_rt.core.rate_limit import TimeShare

logger = logging.getLogger(__name__)

READING_SHARE = 0.4
"""Part of the loop's time that may go into taking messages."""

READING_BURST_S = 0.001

TURN_S = 0.002
"""Time in one turn of the loop after which the wires wait for the next one."""

ALONE_AFTER_S = 1.0
"""A wire is alone when no other one said anything for so long."""

PAUSE_S = 0.0005
"""So long without reading, and another turn has begun."""


class Wire(Protocol):
    """Whoever has input to take in turns.

    Attributes:
        waits_for_store: whether what its last turn brought is being stored: how much of that is under way is bounded already,
            so that its time is not counted.
    """

    waits_for_store: bool

    def take_turn(self) -> bool:
        """Take one budget of what was read; return whether more is there that could be taken."""
        ...

    def cut(self) -> None:
        """End at once."""
        ...


class ReadingTurns:
    """Gives the wires their turns; all on the loop.

    Args:
        turn_s: seconds of reading in one turn of the loop; what is read may cost more later.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, turn_s: float = TURN_S) -> None:
        self.loop = loop
        self._longest_turn_s = turn_s
        self._share = TimeShare(share=READING_SHARE, burst_s=READING_BURST_S)
        self._served: dict[Wire, None] = {}
        self._waiting: dict[Wire, None] = {}
        self._next_round: asyncio.Handle | None = None
        self._is_resting = False
        self._turn_s = 0.0
        self._turn_ended = float("-inf")
        self._last: Wire | None = None
        self._shared_at = float("-inf")

    @property
    def are_shared(self) -> bool:
        """Whether several wires have something to say these days."""
        return self.loop.time() - self._shared_at < ALONE_AFTER_S

    def ask(self, wire: Wire) -> bool:
        """Let a wire take its turn: now, or after the rest if it had one before it; return whether it had it now."""
        if wire is not self._last:
            if self._last is not None:
                self._shared_at = self.loop.time()
            self._last = wire
        if wire in self._waiting:
            return False
        if self._is_turn_over() or (self._is_resting and wire in self._served):
            self._waiting[wire] = None
            self._plan_round()
            return False
        self._serve(wire)
        return True

    def forget(self, wire: Wire) -> None:
        """Give no more turns to a wire that is gone."""
        self._served.pop(wire, None)
        self._waiting.pop(wire, None)
        if self._last is wire:
            self._last = None

    def _is_turn_over(self) -> bool:
        if self.loop.time() - self._turn_ended > PAUSE_S:
            self._turn_s = 0.0
        return self._turn_s >= self._longest_turn_s

    def _serve(self, wire: Wire) -> None:
        self._served[wire] = None
        started = self.loop.time()
        if wire.take_turn():
            self._waiting[wire] = None
        self._turn_ended = self.loop.time()
        self._turn_s += self._turn_ended - started
        rest_s = 0.0 if wire.waits_for_store else self._share.spend(started, self._turn_ended)
        if rest_s and not self._is_resting:
            self._is_resting = True
            if self._next_round is not None:
                self._next_round.cancel()
            self._next_round = self.loop.call_later(rest_s, self._round)
        elif self._waiting:
            self._plan_round()

    def _plan_round(self) -> None:
        if self._next_round is None:
            self._next_round = self.loop.call_soon(self._round)

    def _round(self) -> None:
        self._next_round = None
        self._is_resting = False
        self._turn_s = 0.0
        self._served.clear()
        waiting, self._waiting = list(self._waiting), {}
        for index, wire in enumerate(waiting):
            if self._is_resting or self._is_turn_over():
                self._waiting = dict.fromkeys(waiting[index:]) | self._waiting
                self._plan_round()
                break
            try:
                self._serve(wire)
            except Exception:
                # The others' turn comes all the same.
                logger.exception("a turn failed", extra={"action": "turn_failed"})
                self.forget(wire)
                wire.cut()
