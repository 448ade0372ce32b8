"""Which requests of people are open, answered, left by an earlier run, or not delivered yet (SPEC section 4).

One user's requests wait for each other, in the order in which they were asked; the same id is worked once. The shell around it
(`work/requests.py`) stores, works and sends.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from robodyne_rt.model.rows import RequestRow
from robodyne_rt.protocol.session_messages import Dialect

MAX_WAITING = 100
"""Requests of one user that wait."""

REMEMBERED = 2000
"""Newest answers that are known without asking the database."""


class Asker(Protocol):
    """The session that asks, as far as it matters here."""

    @property
    def id(self) -> str: ...

    @property
    def user(self) -> str: ...


S = TypeVar("S", bound=Asker)


@dataclass(eq=False, slots=True, kw_only=True)
class Request(Generic[S]):
    """One request on its way.

    Attributes:
        id: of its row.
        session: where its answer goes.
        asked_at: empty for one of an earlier run, whose row has it.
        remaining: how many more may be asked now.
        again: whether its client only wants to be sure that it arrived.
        known: what is stored of an earlier request with this id.
        others: further sessions that asked for the same.
    """

    id: int
    user: str
    request_id: str
    text: str
    dialect: Dialect
    session: S
    asked_at: str
    remaining: int | None = None
    again: bool = False
    known: RequestRow | None = None
    others: dict[S, Dialect] = field(default_factory=dict)


class RequestLedger(Generic[S]):
    """All requests of this run that are open, and the newest that were answered."""

    def __init__(self) -> None:
        self._queues: dict[str, list[Request[S]]] = {}
        self._open: dict[tuple[str, str], Request[S]] = {}
        self._answered: OrderedDict[tuple[str, str], RequestRow] = OrderedDict()
        # By session: what an earlier run took and did not answer.
        self._left: dict[str, list[RequestRow]] = {}
        # By session: answers that it asked for as well, and that came while it was away.
        self._undelivered: dict[str, list[tuple[RequestRow, Dialect]]] = {}

    # -- asking --------------------------------------------------------------------------------------------------

    def joins(self, session: S, request_id: str, dialect: Dialect) -> bool:
        """Return whether the request is open already; another session that asks for it is told as well."""
        running = self._open.get((session.user, request_id))
        if running is None:
            return False
        if running.session.id != session.id:
            running.others[session] = dialect
        return True

    def answered(self, user: str, request_id: str) -> RequestRow | None:
        """Return the row of an answer that is remembered."""
        return self._answered.get((user, request_id))

    def is_full(self, user: str) -> bool:
        """Return whether a user has to wait for answers before they may ask more."""
        return len(self._queues.get(user, ())) >= MAX_WAITING

    def enqueue(self, request: Request[S], *, is_older: bool = False) -> bool:
        """Take a request; return whether its user's queue is new, and somebody has to work it.

        Args:
            is_older: asked before everything that this run heard.
        """
        self._open[request.user, request.request_id] = request
        queue = self._queues.get(request.user)
        if queue is None:
            self._queues[request.user] = [request]
            return True
        place = sum(other.id < request.id for other in queue) if is_older else len(queue)
        queue.insert(place, request)
        return False

    def next(self, user: str) -> Request[S] | None:
        """Return the request that a user's others wait for; None, and the queue is over, where none is left."""
        queue = self._queues[user]
        if queue:
            return queue[0]
        del self._queues[user]
        return None

    def waiting_beside(self, request: Request[S]) -> list[Request[S]]:
        """Return the other open requests of the same user, oldest first."""
        return [other for other in self._queues[request.user] if other is not request]

    def done(self, request: Request[S]) -> None:
        """Note that a request was answered, or could not be."""
        del self._open[request.user, request.request_id]
        self._queues[request.user].remove(request)

    def remember(self, request: Request[S], stored: RequestRow) -> None:
        """Keep an answer for who asks again."""
        self._answered[request.user, request.request_id] = stored
        if len(self._answered) > REMEMBERED:
            self._answered.popitem(last=False)

    # -- what an earlier run left ----------------------------------------------------------------------------------

    def found(self, rows: Iterable[RequestRow]) -> list[str]:
        """Take the rows of requests that were not answered when the server ended; return their sessions."""
        for row in rows:
            self._left.setdefault(row["session_id"], []).append(row)
        return list(self._left)

    def take_up(self, session: S) -> list[Request[S]]:
        """Return, once, the requests that wait for a session to come back, as its own."""
        return [
            Request(
                id=row["id"],
                user=row["user_name"],
                request_id=row["request_id"],
                text=row["question"],
                dialect="desktop" if row["dialect"] == "desktop" else "session",
                session=session,
                asked_at="",
            )
            for row in self._left.pop(session.id, ())
            if session.user == row["user_name"]
            and (row["user_name"], row["request_id"]) not in self._open
            and (row["user_name"], row["request_id"]) not in self._answered
        ]

    def is_taken_up(self, request: Request[S], row: RequestRow) -> None:
        """Note that a request that was just asked is one of an earlier run: its row is that one's."""
        request.id = row["id"]
        for rows in self._left.values():
            rows[:] = [left for left in rows if left["id"] != request.id]

    # -- answers for who asked as well -----------------------------------------------------------------------------

    def keep_undelivered(self, session: S, stored: RequestRow, dialect: Dialect) -> None:
        """Keep an answer for a session that asked for it as well and is away; its own are in its outbox."""
        if stored["session_id"] != session.id:
            self._undelivered.setdefault(session.id, []).append((stored, dialect))

    def take_undelivered(self, session: S) -> list[tuple[RequestRow, Dialect]]:
        """Return, once, what was kept for a session."""
        return self._undelivered.pop(session.id, [])
