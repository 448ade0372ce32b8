"""What a client decides, without I/O: when it comes back, what it was asked already, what it has heard (SPEC section 10).

`client.py` (a session) and `follow.py` (one topic) are the shells around it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from robodyne_rt.client.errors import ClientError, Refused, Unreachable
from robodyne_rt.core.retry import Backoff
from robodyne_rt.protocol.errors import retry_after_close

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
STEADY_S = 10.0
"""A connection that lasted this long ends the backoff."""

POLL_AFTER = 3
"""Handshakes that fail in a row before topics are polled over HTTP."""

EXPIRED = 4001
MAX_SEEN = 10_000
"""Staff messages that are remembered, so that each is told once."""


def jitter() -> float:
    """Return the factor of a wait: clients that lost the server together do not come back together."""
    return random.uniform(0.5, 1.0)


class Wait(NamedTuple):
    """Try again after so long; `polls`: ask over HTTP meanwhile."""

    seconds: float
    polls: bool = False


class End(NamedTuple):
    """Do not try again."""

    error: ClientError


class Reconnection:
    """When a client comes back, and when not.

    Args:
        url: for its errors.
        tries: how often in a row it may fail before it gives up; None: never.
        renews: whether it can get another token.
        jitter: returns the factor of each wait.

    Attributes:
        wants_fresh: whether the next token has to be a new one.
    """

    def __init__(self, url: str, *, tries: int | None, renews: bool, jitter: Callable[[], float]) -> None:
        self.wants_fresh = False
        self._url = url
        self._tries = tries
        self._renews = renews
        self._jitter = jitter
        self._backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._began = 0.0
        self._is_open = False
        self._unopened = self._in_vain = 0

    def begin(self, now: float) -> None:
        """Note that it tries to connect."""
        self._began, self._is_open = now, False

    def opened(self) -> None:
        """Note that the handshake was answered."""
        self._is_open, self._unopened = True, 0

    def greeted(self) -> None:
        """Note that the server took its token."""
        self.wants_fresh = False

    def closed(self, code: int | None, reason: str) -> Refused | None:
        """Take the server's close; return why not to come back, None where coming back makes sense."""
        if code == EXPIRED:
            if self._renews and not self.wants_fresh:
                self.wants_fresh = True
                return None
            return Refused(f"{self._url}: the token is not good any more: {reason}", code=code, reason=reason)
        if code is not None and retry_after_close(code, reason) in ("never", "after_login"):
            text = f"{self._url}: refused: {reason} (close code {code})"
            return Refused(text, code=code, reason=reason)
        return None

    def lost(self, why: str, now: float, *, polled: bool = False) -> Wait | End:
        """Return what follows the end of a connection, or of a try.

        Args:
            polled: whether topics get through over HTTP meanwhile: that is no failure.
        """
        is_steady = self._is_open and now - self._began >= STEADY_S
        if is_steady:
            self._backoff.reset()
        self._unopened += not self._is_open
        self._in_vain = 0 if is_steady or polled else self._in_vain + 1
        if self._tries is not None and self._in_vain >= self._tries:
            return End(Unreachable(f"{self._url}: gave up after {self._in_vain} tries: {why}"))
        return Wait(self._backoff.next_s() * self._jitter(), polls=self._unopened >= POLL_AFTER)


@dataclass(eq=False, slots=True)
class Asked:
    """A question to this application, until the request that it is for is answered.

    Attributes:
        about: what is asked.
        request_id: the id under which it was asked last.
        connection: on which connection that was.
        deadline: until when an answer is taken.
        answer: what the application answered; None until then.
    """

    about: dict[str, Any]
    request_id: str
    connection: int
    deadline: float
    answer: dict[str, Any] | None = None


class AskedOnce:
    """The open questions to this application: one that comes again after a broken link is not asked again."""

    def __init__(self) -> None:
        self._by_query: dict[str, Asked] = {}

    def take(self, message: dict[str, Any], *, connection: int, now: float) -> tuple[Asked, bool]:
        """Return the question that a message asks, and whether it is new; a known one has a later deadline now.

        Args:
            connection: number of the connection that it came over.
        """
        about = {name: value for name, value in message.items() if name not in ("requestId", "timeout")}
        deadline = now + message.get("timeout", 120.0)
        known = self._by_query.get(message["queryId"])
        # Another id on the same connection: the same is asked a second time, and meant so.
        is_again = known is not None and (known.request_id == message["requestId"] or known.connection < connection)
        if known is not None and is_again and known.about == about:
            known.request_id, known.connection, known.deadline = message["requestId"], connection, deadline
            return known, False
        asked = self._by_query[message["queryId"]] = Asked(about, message["requestId"], connection, deadline)
        return asked, True

    def over(self, query_id: str) -> None:
        """Forget what was asked for a request: it is answered."""
        self._by_query.pop(query_id, None)


class Heard:
    """What came in a session, in numbers.

    Attributes:
        answered: number of the newest final answer that came: what is after it is sent when the session comes back.
        connections: how many there were.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.connections = 0
        self._seen: dict[int, None] = {}

    def connected(self, *, resumed: bool) -> None:
        """Note a new connection; a new session counts from one."""
        self.connections += 1
        if not resumed:
            self.answered = 0

    def final(self, seq: int | None) -> None:
        """Note a final answer; one that is repeated on request bears no number."""
        if seq is not None:
            self.answered = max(self.answered, seq)

    def is_new(self, message_id: int) -> bool:
        """Return whether a staff message was not told before."""
        if message_id in self._seen:
            return False
        self._seen[message_id] = None
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        return True
