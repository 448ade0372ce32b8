"""Whose turn it is: wires share the loop's time, so that one that floods holds up nobody (SPEC section 5, "Fairness").

A wire takes a small budget of messages in a turn of the loop. What it brought beyond that waits for the next round, and
meanwhile nothing more is read from it. When the wires together have taken more than their part of the time, those that were
served rest for a moment: the writer's thread, the screens and the wires that have said nothing yet go first.
"""

import asyncio
from typing import Protocol

from robodyne_rt.core.ratelimit import TimeShare

READING_SHARE = 0.4
"""Part of the loop's time that may go into taking messages."""

READING_BURST_S = 0.001


class Wire(Protocol):
    """Whoever has input to take in turns."""

    def take_turn(self) -> bool:
        """Take one budget of what was read; return whether more is there that could be taken."""
        ...


class ReadingTurns:
    """Gives the wires their turns; all on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._share = TimeShare(share=READING_SHARE, burst_s=READING_BURST_S)
        self._served: dict[Wire, None] = {}
        self._waiting: dict[Wire, None] = {}
        self._next_round: asyncio.Handle | None = None
        self._is_resting = False

    def ask(self, wire: Wire) -> None:
        """Let a wire take its turn: now, or after the rest if it had one before it."""
        if wire in self._waiting:
            return
        if self._is_resting and wire in self._served:
            self._waiting[wire] = None
        else:
            self._serve(wire)

    def forget(self, wire: Wire) -> None:
        """Give no more turns to a wire that is gone."""
        self._served.pop(wire, None)
        self._waiting.pop(wire, None)

    def _serve(self, wire: Wire) -> None:
        self._served[wire] = None
        started = self.loop.time()
        if wire.take_turn():
            self._waiting[wire] = None
        rest_s = self._share.spend(started, self.loop.time())
        if rest_s and not self._is_resting:
            self._is_resting = True
            if self._next_round is not None:
                self._next_round.cancel()
            self._next_round = self.loop.call_later(rest_s, self._round)
        elif self._waiting and self._next_round is None:
            self._next_round = self.loop.call_soon(self._round)

    def _round(self) -> None:
        self._next_round = None
        self._is_resting = False
        self._served.clear()
        waiting, self._waiting = list(self._waiting), {}
        for index, wire in enumerate(waiting):
            if self._is_resting:
                self._waiting = dict.fromkeys(waiting[index:]) | self._waiting
                break
            self._serve(wire)
