"""One live socket, and the topics that are watched on it: what it may be sent, and how it ends.

The hub writes ready-made frames straight to the transport and never awaits a client. The socket's own coroutine
(web/sockets.py) feeds what the client says to `received`.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

from robodyne_rt.core.heartbeat import Heartbeat
from robodyne_rt.core.rate_limit import TokenBucket
from robodyne_rt.model.access import Principal
from robodyne_rt.protocol import frames, topic_messages
from robodyne_rt.protocol.errors import Abuse, RobodyneError, TooSlow

logger = logging.getLogger(__name__)

BAD_MESSAGES = 20
BAD_WINDOW_S = 60.0
FLOOD_PER_S = 50.0
FLOOD_BURST = 200.0

BESIDES_BYTES = 65536
"""What a connection that does not read may be told besides its topics: answers, messages, errors."""

HeartbeatKind = Literal["message", "protocol"]

ROOM_LOOK_S = 0.02

LAG_WINDOW_S = 15.0
"""How long a lag of the loop is remembered: about as long as a scrape of the metrics takes to come again."""

M = TypeVar("M", bound=topic_messages.Message)


class HubStats:
    """Plain numbers that `/metrics` reads."""

    def __init__(self) -> None:
        self.bytes_sent = 0
        self.closes: Counter[tuple[int, str]] = Counter()
        self.errors: Counter[str] = Counter()
        self.loop_lag_s = 0.0
        self._lags = deque[tuple[float, float]]()  # (when, how long), the longest first
        self.held_bytes = 0
        self.given_up = 0

    def note_lag(self, lag_s: float, now: float) -> None:
        """Note how late the loop was, in seconds."""
        self.loop_lag_s = lag_s
        while self._lags and self._lags[-1][1] <= lag_s:
            self._lags.pop()
        self._lags.append((now, lag_s))
        while now - self._lags[0][0] > LAG_WINDOW_S:
            self._lags.popleft()

    @property
    def longest_lag_s(self) -> float:
        """The longest that the loop was late within `LAG_WINDOW_S`, in seconds."""
        return self._lags[0][1] if self._lags else 0.0


class Owner(Protocol):
    """What a connection asks of the hub."""

    stats: HubStats
    send_buffer_limit_bytes: int

    def close(self, connection: "Connection", code: int, reason: str) -> None: ...

    def gone(self, connection: "Connection") -> None: ...

    def pause(self, connection: "Connection") -> None: ...

    def resume(self, connection: "Connection") -> None: ...

    def watch(self, connection: "Connection") -> None: ...


class Listener(Protocol):
    """Who wants to know of a connection what it does not say in messages."""

    def alive(self, data: Any) -> None:
        """A pong came, with the data of its ping: everything sent before that arrived."""
        ...

    def ended(self) -> None:
        """It left the hub; its socket may take a while to close."""
        ...


class Watched(Protocol):
    """What a subscription knows of its topic's feed."""

    name: str


class Subscription:
    """One topic watched on one connection: where it stands, and how it is paced.

    Args:
        interval_s: least time between two updates; 0 sends each at once.
        is_full: whether every update is the whole window (`?mode=full`).
    """

    __slots__ = (
        "catching_up",
        "connection",
        "ended",
        "feed",
        "interval_s",
        "is_full",
        "next_update_at",
        "offset",
        "seen_version",
        "slow_since",
        "transport",
    )

    def __init__(self, connection: "Connection", feed: Watched, *, interval_s: float, is_full: bool = False) -> None:
        self.connection = connection
        self.transport = connection.transport  # here as well: one step less on the hot path
        self.feed = feed
        self.interval_s = interval_s
        self.is_full = is_full
        self.offset = -1
        self.seen_version = 0
        self.next_update_at = 0.0
        self.catching_up = False
        self.slow_since: float | None = None
        self.ended = False

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self.feed.name

    def send(self, payload: bytes) -> None:
        """Send one message (JSON)."""
        if not self.ended:
            self.connection.write(frames.frame(payload))


def _descriptor(transport: asyncio.Transport) -> int:
    """Return the descriptor of a transport whose bytes go to its socket as they are, -1 for any other."""
    if transport.get_extra_info("sslcontext") is not None:
        return -1
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())


class Connection:
    """One live socket: of one topic, or of a session with many. Built by `ConnectionManager.connect`.

    Args:
        label: what its messages name where they are about no topic of their own: the topic, or `session`.
        principal: who it is, and what they may do.
        heartbeat_kind: judged by `pong` messages, or by protocol pongs.
        expires_at: monotonic time at which the token ends.
    """

    __slots__ = (
        "_bad",
        "_besides_bytes",
        "_client_pings",
        "_flood",
        "closing",
        "descriptor",
        "expires_at",
        "heartbeat",
        "heartbeat_kind",
        "label",
        "listener",
        "manager",
        "paused",
        "peer",
        "principal",
        "subscriptions",
        "transport",
        "watched_at",
    )

    def __init__(
        self,
        manager: Owner,
        transport: asyncio.Transport,
        label: str,
        *,
        peer: str,
        principal: Principal,
        expires_at: float,
        heartbeat: Heartbeat,
        heartbeat_kind: HeartbeatKind,
    ) -> None:
        self.manager = manager
        self.transport = transport
        self.descriptor = _descriptor(transport)
        self.label = label
        self.peer = peer
        self.principal = principal
        self.expires_at = expires_at
        self.watched_at = 0.0
        self.heartbeat = heartbeat
        self.heartbeat_kind = heartbeat_kind
        self.subscriptions: tuple[Subscription, ...] = ()
        self.paused = False
        self.closing = False
        self.listener: Listener | None = None
        # Made when first needed: most screens never say anything but pong.
        self._flood: TokenBucket | None = None
        self._client_pings: TokenBucket | None = None
        self._bad: list[float] | None = None
        self._besides_bytes = 0

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more."""
        return self.closing or self.transport.is_closing()

    @property
    def due(self) -> float:
        """When the clock has something to decide about it next."""
        return min(self.heartbeat.due, self.expires_at)

    @property
    def topics(self) -> list[str]:
        """Names of the topics it watches."""
        return [subscription.topic for subscription in self.subscriptions]

    def subscription(self, topic: str) -> Subscription | None:
        """Return how it watches a topic."""
        for subscription in self.subscriptions:
            if subscription.topic == topic:
                return subscription
        return None

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the peer has not taken yet and the kernel no longer holds."""
        return self.transport.get_write_buffer_size()

    def write(self, frame: bytes) -> None:
        """Hand bytes to the transport; never waits, and a line that is gone harms nobody: its own coroutine sees the end."""
        if self.is_gone:
            return
        try:
            self.transport.write(frame)
        except Exception:
            logger.exception("writing to %s failed", self.peer, extra={"action": "write_failed"})
            self.transport.abort()
            return
        self.manager.stats.bytes_sent += len(frame)

    def send(self, payload: bytes) -> None:
        """Send one message (JSON) that is of no topic. Who reads nothing is not told without end: what matters of it comes
        again when its session does."""
        if self.unsent_bytes <= self.manager.send_buffer_limit_bytes:
            self._besides_bytes = 0
        else:
            self._besides_bytes += len(payload)
            if self._besides_bytes > BESIDES_BYTES:
                self.close(TooSlow())
                return
        self.write(frames.frame(payload))

    def send_undelivered(self, payload: bytes) -> None:
        """Send one message (JSON) of those that waited for this connection: they may be many at once."""
        self.write(frames.frame(payload))

    async def has_room(self) -> bool:
        """Wait until what was sent is taken, all but what is allowed to wait; False where nobody is there any more."""
        while not self.is_gone and self.unsent_bytes > self.manager.send_buffer_limit_bytes:
            await asyncio.sleep(ROOM_LOOK_S)
        return not self.is_gone

    def close(self, error: RobodyneError) -> None:
        """End the connection with the close code and reason of `error`; it has left the hub when this returns."""
        self.manager.close(self, error.close_code, error.close_reason)

    # -- what the client says --------------------------------------------------------------------------------------

    def received(self, text: bytes, now: float, parse: Callable[[bytes], M]) -> M | None:
        """Take one message of the client; return it where it is not about the connection itself."""
        if self.closing or not self.admit(now):
            return None
        try:
            message = parse(text)
        except topic_messages.BadMessage as error:
            self.bad_message(error.word, error.text, now, error.details)
            return None
        match message.type:
            case "pong":
                if self.heartbeat_kind == "message":
                    self._pong(message.data, now)
                if self.listener is not None:
                    self.listener.alive(message.data)
            case "ping":
                self._answer_ping(message.data, now)
            case "pause":
                self.manager.pause(self)
            case "resume":
                self.manager.resume(self)
            case _:
                return message
        return None

    def received_pong(self, now: float, data: bytes = b"") -> None:
        """Take a protocol pong."""
        if self.admit(now) and self.heartbeat_kind == "protocol":
            self._pong(data, now)

    def _pong(self, data: Any, now: float) -> None:
        self.heartbeat.pong(now, topic_messages.answered_ping(data))
        if self.due < self.watched_at:
            self.manager.watch(self)

    def received_ping(self, data: bytes, now: float) -> None:
        """Answer a protocol ping, unless they come as a flood."""
        if not self.closing and self.admit(now):
            self.write(frames.frame(data, frames.OPCODE_PONG))

    def received_binary(self, now: float) -> None:
        """Refuse a binary message."""
        if not self.closing and self.admit(now):
            self.bad_message("INVALID_MESSAGE", "expected text", now, {})

    def _answer_ping(self, data: Any, now: float) -> None:
        if self._client_pings is None:
            self._client_pings = TokenBucket(rate_per_s=1.0, burst=2.0)
        if wait_s := self._client_pings.take(now):
            self.error("RATE_LIMITED", "at most one ping per second", {"retry_after": round(wait_s, 3), "remaining": 0})
        else:
            self.send(topic_messages.pong(self.label, data))

    def error(self, code: str, text: str, details: dict[str, Any], *, topic: str = "") -> None:
        """Tell the client what was wrong; the connection lives."""
        self.manager.stats.errors[code] += 1
        self.send(topic_messages.error(topic or self.label, code, text, details))

    def bad_message(self, code: str, text: str, now: float, details: dict[str, Any]) -> None:
        """Answer a message that cannot be taken, and count it."""
        self.error(code, text, details)
        self.count_bad(now)

    def count_bad(self, now: float) -> None:
        """Count a message that could not be taken; too many of them end the connection."""
        if self._bad is None:
            self._bad = []
        self._bad = [at for at in self._bad if now - at < BAD_WINDOW_S] + [now]
        if len(self._bad) >= BAD_MESSAGES:
            self.close(Abuse("too many bad messages"))

    def expect_pong(self) -> None:
        """Note that a ping of ours will be answered: that pong costs nothing of the flood limit."""
        if self._flood is not None:
            self._flood.give()

    def admit(self, now: float) -> bool:
        """Count one message against the flood limit; a flood ends the connection."""
        if self._flood is None:
            self._flood = TokenBucket(rate_per_s=FLOOD_PER_S, burst=FLOOD_BURST)
        if self._flood.take(now):
            self.close(Abuse("flood"))
            return False
        return True
