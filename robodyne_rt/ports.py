"""Protocols between neighbours: what one part may expect of another, told at the place both may import.

Each says what happens to order, what may be lost, and what happens when it is full. `app/` hands the implementations over.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import anyio

from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity, Keys, OptimisticChange, Update
from robodyne_rt.model.rows import RequestRow, SessionRow
from robodyne_rt.protocol.device_messages import DeviceMessage

MAX_STAMPS_AHEAD_US = 1_000_000
"""How far stamps may run ahead of the clock; further, and it was put back."""

_BUILT_AT_US = int(times.BUILT_AT_S * 1e6)


class Clock:
    """Wall and monotonic time; handed over so that tests may bring their own.

    Args:
        noted_at: newest time that an earlier run noted, in epoch seconds. Where the machine's clock shows a time before this
            program was made, it cannot be meant, and time goes on from the note.
    """

    def __init__(self, *, noted_at: float = 0.0) -> None:
        self._noted_at = noted_at
        self._noted_now = time.monotonic()
        self._last_stamp_us = 0
        self._second = -1
        self._second_text = ""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Return epoch seconds."""
        wall = time.time()
        return wall if wall >= times.BUILT_AT_S else max(wall, self._noted_at + time.monotonic() - self._noted_now)

    async def tick(self, interval_s: float) -> float:
        """Sleep until the next multiple of an interval; return how late it is then, in seconds.

        What is due at the same time wakes the process once: waking costs more than what most ticks do.
        """
        now = self.now()
        due = (math.floor(now / interval_s + 0.5) + 1) * interval_s
        await anyio.sleep(due - now)
        return max(0.0, self.now() - due)

    def stamp(self) -> str:
        """Return the wall time as text, later than the stamp before: two messages never bear the same. A clock that was put
        back is followed."""
        now_us = time.time_ns() // 1000
        if now_us < _BUILT_AT_US:
            now_us = int(self.wall() * 1e6)
        if now_us <= self._last_stamp_us < now_us + MAX_STAMPS_AHEAD_US:
            now_us = self._last_stamp_us + 1
        stamp_us = self._last_stamp_us = now_us
        second, fraction_us = divmod(stamp_us, 1_000_000)
        if second != self._second:
            self._second, self._second_text = second, times.to_text(second)[:-7]
        return f"{self._second_text}{fraction_us:06d}Z"


class Outcome(Protocol):
    """Called on the loop, once, when a write is durable (its result) or refused (an exception)."""

    def __call__(self, result: Any, error: BaseException | None) -> None: ...


class ChangeSink(Protocol):
    """Where the store's changes go: the hub. Every call returns at once; order is kept, nothing is lost on the way."""

    def publish(self, updates: list[Update]) -> None:
        """Take what the change log brought, in order."""
        ...

    def begin_history(self, snapshots: list[Update]) -> None:
        """Start over: history was lost, everybody gets the whole state under the new epoch of `ChangeReader.epoch`."""
        ...

    def current(self, topic: str) -> dict[int, Entity]:
        """Return the stored entities of a topic's window, from memory; as many as are known."""
        ...

    def show_optimistic(self, topic: str, changes: dict[int, OptimisticChange]) -> None:
        """Push what is not stored yet, and lay it over whatever is sent until `confirm` or `revert`."""
        ...

    def confirm(self, topic: str, ids: list[int]) -> None:
        """Lay nothing more over these entities: they are stored."""
        ...

    def revert(self, topic: str, ids: list[int]) -> None:
        """Lay nothing more over these entities; whoever saw them gets what is stored instead, or their removal."""
        ...

    def touch_status(self) -> None:
        """Note that something changed that the topic `status` counts and no other topic shows."""
        ...


class TelemetrySink(Protocol):
    """Where live telemetry goes: the hub. Every call returns at once; of a robot's telemetry only the newest counts."""

    def mark_seen(self, robot_id: str) -> None:
        """Note that a robot said something."""
        ...

    def push_telemetry(self, robot_id: str, fields: Entity, heard_at: str) -> None:
        """Push telemetry that is not stored; `heard_at` is the wall time of receipt as text."""
        ...


class LiveState(Protocol):
    """What screens show now, from memory: for who answers questions."""

    def shown(self, topic: str) -> list[Entity]:
        """Return the entities of a topic's window as screens show them."""
        ...

    def overlaid(self, topic: str, entities: list[Entity]) -> list[Entity]:
        """Return stored entities with what is newer laid over them."""
        ...


class ReceivedMessage(NamedTuple):
    """A device message on its way to the store.

    Attributes:
        device: under which name its `id` counts.
        digest: what tells its body from another one with the same `id`.
        heard_at: wall time of receipt as text; no two are the same.
    """

    message: DeviceMessage
    device: str
    digest: str
    heard_at: str
    outcome: Outcome


class MessageStore(Protocol):
    """Takes device messages for storing. Order is kept; nothing is lost once `outcome` said so.

    Full is not an error here: shells stop reading from their device while `is_behind`.
    """

    @property
    def is_behind(self) -> bool:
        """Whether so much is waiting that devices should not be read from."""
        ...

    def store_messages(self, messages: Sequence[ReceivedMessage]) -> None:
        """Queue messages; never waits."""
        ...

    def store_telemetry(self, robot_id: str, fields: dict[str, Any], heard_at: str) -> None:
        """Queue the newest telemetry of a robot; never waits, nobody is told."""
        ...

    def store_vanished(self, robot_id: str, heard_at: str) -> None:
        """Queue that a robot fell silent; never waits, nobody is told."""
        ...

    def when_caught_up(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, on the loop, when `is_behind` is over."""
        ...


@dataclass(slots=True)
class Presence:
    """Who is there: one session as everybody may see it (SPEC section 4).

    Attributes:
        presence: `online`, or `away` while it has no connection.
        connected_at, last_seen: wall time as text.
        ttl_s: how long it may stay silent before it is forgotten.
        user_name, full_name, email, company: what an issuer says of its user; None for others.
    """

    session_id: str
    user_id: str
    roles: list[str]
    device: str
    node_id: str
    connected_at: str
    last_seen: str
    presence: str
    topics: list[str]
    ttl_s: float
    user_name: str | None = None
    full_name: str | None = None
    email: str | None = None
    company: str | None = None


class SessionStore(Protocol):
    """Who is there, on all nodes. A cache, never the truth of what was said: nothing is lost with it but presence."""

    async def put(self, presence: Presence) -> None:
        """Note a session, or its newest state."""
        ...

    async def remove(self, session_id: str) -> None:
        """Forget a session."""
        ...

    async def all(self) -> list[Presence]:
        """Return who is there, the longest connected first."""
        ...


class CannotAsk(Exception):
    """The client cannot be asked this, or gave nothing that can be used."""


class NoReply(CannotAsk):
    """The client was asked, and nobody answered in time."""


class Conversation(Protocol):
    """What an answerer may do while it works on one question; time spent waiting for the client does not count."""

    question: str
    user: str

    @property
    def capabilities(self) -> frozenset[str]:
        """What the client can be asked: `available_data`, `api`, `clarification`."""
        ...

    def may_read(self, topic: str) -> bool:
        """Return whether who asks may see a topic; what an answer tells is seen."""
        ...

    def progress(self, text: str) -> None:
        """Tell the client that work goes on."""
        ...

    async def clarify(self, question: str, options: list[str]) -> str:
        """Return what the person said.

        Raises:
            NoReply: nobody answered in time.
            CannotAsk: the client cannot ask its user.
        """
        ...

    async def available_data(self, question: str) -> list[Any]:
        """Return what the client says it has; an empty list is an answer.

        Raises:
            NoReply: it did not say in time.
            CannotAsk: it has no data of its own.
        """
        ...

    async def api(self, name: str, params: dict[str, Any]) -> Any:
        """Return what the client got from one of its own sources.

        Raises:
            NoReply: it did not in time.
            CannotAsk: it cannot.
        """
        ...


class Restaurant(Protocol):
    """The live state, for who answers questions."""

    async def entities(self, topic: str) -> list[Entity]:
        """Return what a topic's snapshot would show, with what is newer laid over it."""
        ...

    async def events_since(self, epoch_s: float) -> list[Entity]:
        """Return the events after a time, newest first.

        Raises:
            StorageUnavailable: it cannot be known now.
        """
        ...

    def wall(self) -> float:
        """Return the time, in epoch seconds."""
        ...


class Answerer(Protocol):
    """Answers questions of people. Many at a time; whoever asked is told the text, or that it took too long."""

    async def answer(self, conversation: Conversation) -> str:
        """Return the answer."""
        ...


class ChangeReader(Protocol):
    """Reads entities and the change log; every call is one short read transaction in a thread of its own. When too many read
    at once, the others wait their turn."""

    @property
    def epoch(self) -> str:
        """The history that offsets count in; it changes on the loop only, together with `ChangeSink.begin_history`."""
        ...

    async def snapshot(self, topic: str, *, limit_bytes: int | None = None) -> Update:
        """Return the whole state of a topic's window; the position is taken before the state is read. One that takes more
        memory than `limit_bytes` has no entities (`Update.is_whole`)."""
        ...

    async def window(self, topic: str) -> Keys:
        """Return what a snapshot would show now; the position is taken before."""
        ...

    async def changed(self, topic: str, offset: int) -> Keys | None:
        """Return what changed after `offset`; None when the log does not reach back or a snapshot is smaller."""
        ...

    async def entities(self, topic: str, keys: Sequence[int]) -> dict[int, Entity]:
        """Return those of the entities that exist."""
        ...

    async def overview(self) -> Entity:
        """Return the counts that the topic `status` shows."""
        ...


class SessionRepository(Protocol):
    """What of sessions is stored. Writes keep their order; where the database is away they wait, and what is only presence
    may be lost with the process."""

    async def find(self, token_digest: str, since: float) -> SessionRow | None:
        """Return a session with its undelivered answers, by its token; None where it was silent since before `since` (epoch
        seconds).

        Raises:
            StorageUnavailable: it cannot be known now.
        """
        ...

    def create(self, columns: Entity) -> None:
        """Store a new session."""
        ...

    def refresh(self, seen: list[tuple[str, int, float]]) -> None:
        """Note of sessions by id which answers arrived, and when (epoch seconds) each was seen last."""
        ...


class RequestRepository(Protocol):
    """What of requests is stored; each is durable when its coroutine returns.

    All raise `StorageUnavailable` where nothing can be stored, or known.
    """

    def next_id(self) -> int:
        """Return the id of a new request, above all before it."""
        ...

    async def take(self, columns: Entity) -> RequestRow | None:
        """Store a new request; return the one that had its user and requestId before, if any."""
        ...

    async def answer(self, columns: Entity) -> None:
        """Store a final answer."""
        ...

    async def find(self, user: str, request_id: str) -> RequestRow | None:
        """Return a request."""
        ...

    async def pending(self) -> list[RequestRow]:
        """Return what an earlier run took and did not answer, oldest first."""
        ...


class MessageRepository(Protocol):
    """What of staff messages is stored; writes keep their order, and go through the spool while the database is away.

    All coroutines raise `StorageUnavailable` where nothing can be stored, or known.
    """

    def next_id(self) -> int:
        """Return the id of a new message, above all before it."""
        ...

    @property
    def is_persisted(self) -> bool:
        """Whether all that was accepted is in the database, and nothing in the spool only."""
        ...

    async def first(self, sender: str, key: str) -> int | None:
        """Return the message for which a sender used a key first."""
        ...

    async def find(self, id: int) -> Entity | None:
        """Return a message as clients see it."""
        ...

    async def store(self, columns: Entity, key: str | None, digest: str) -> int:
        """Store a message; return its id, or that of the one which the key was used for with the same digest.

        Raises:
            Conflict: the key was used for another message.
        """
        ...

    async def unread(
        self, user: str, recipients: list[str], *, own: str, before: int | None = None, limit: int = ...
    ) -> list[Entity]:
        """Return the newest that a user has not read, oldest first; not what `own` sent to a role."""
        ...

    async def listed(self, user: str, recipients: list[str], before: int | None, limit: int) -> list[Entity]:
        """Return what a user sent and was sent, newest first, each with who read it."""
        ...

    async def read(self, message_id: int, user: str, recipients: list[str], at: str) -> str | None:
        """Note that a user read a message; return its sender, None where it was noted before."""
        ...

    def mark_sent(self, ids: list[int]) -> None:
        """Note that messages went over a WebSocket."""
        ...
