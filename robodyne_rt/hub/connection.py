"""One live socket that watches one topic: what it may be sent, and how it ends.

The hub writes ready-made frames straight to the transport and never awaits a client. The socket's own coroutine
(web/sockets.py) feeds what the client says to `received`.
"""

import asyncio
import logging
from collections import Counter
from typing import Any, Literal, Protocol

from robodyne_rt.core import wire
from robodyne_rt.core.heartbeat import Heartbeat
from robodyne_rt.core.ratelimit import TokenBucket
from robodyne_rt.errors import Abuse, RobodyneError

logger = logging.getLogger(__name__)

BAD_MESSAGES = 20
BAD_WINDOW_S = 60.0
FLOOD_PER_S = 50.0
FLOOD_BURST = 200.0

HeartbeatKind = Literal["message", "protocol"]


class HubStats:
    """Plain numbers that `/metrics` reads."""

    def __init__(self) -> None:
        self.bytes_sent = 0
        self.closes: Counter[tuple[int, str]] = Counter()
        self.errors: Counter[str] = Counter()
        self.loop_lag_s = 0.0


class Owner(Protocol):
    """What a connection asks of the hub."""

    stats: HubStats

    def close(self, connection: "Connection", code: int, reason: str) -> None: ...

    def gone(self, connection: "Connection") -> None: ...

    def pause(self, connection: "Connection") -> None: ...

    def resume(self, connection: "Connection") -> None: ...


class Watched(Protocol):
    """What a connection knows of its topic's feed."""

    name: str


class Connection:
    """Built by `ConnectionManager.connect`.

    Args:
        interval_s: least time between two updates; 0 sends each at once.
        heartbeat_kind: judged by `pong` messages, or by protocol pongs.
    """

    __slots__ = (
        "_bad",
        "_client_pings",
        "_flood",
        "catching_up",
        "closing",
        "feed",
        "heartbeat",
        "heartbeat_kind",
        "interval_s",
        "manager",
        "next_update_at",
        "offset",
        "paused",
        "peer",
        "role",
        "seen_version",
        "slow_since",
        "transport",
    )

    def __init__(
        self,
        manager: Owner,
        transport: asyncio.Transport,
        feed: Watched | None,
        *,
        peer: str,
        role: str | None,
        interval_s: float,
        heartbeat: Heartbeat,
        heartbeat_kind: HeartbeatKind,
    ) -> None:
        self.manager = manager
        self.transport = transport
        self.feed = feed
        self.peer = peer
        self.role = role
        self.interval_s = interval_s
        self.heartbeat = heartbeat
        self.heartbeat_kind = heartbeat_kind
        self.offset = -1
        self.seen_version = 0
        self.next_update_at = 0.0
        self.paused = False
        self.catching_up = False
        self.slow_since: float | None = None
        self.closing = False
        # Made when first needed: most screens never say anything but pong.
        self._flood: TokenBucket | None = None
        self._client_pings: TokenBucket | None = None
        self._bad: list[float] | None = None

    @property
    def topic(self) -> str:
        """Name of the topic it watches."""
        return self.feed.name if self.feed else ""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the peer has not taken yet and the kernel no longer holds."""
        return self.transport.get_write_buffer_size()

    def write(self, frame: bytes) -> None:
        """Hand bytes to the transport; never waits."""
        if not self.closing:
            self.transport.write(frame)
            self.manager.stats.bytes_sent += len(frame)

    def send(self, payload: bytes) -> None:
        """Send one message (JSON)."""
        self.write(wire.frame(payload))

    def close(self, error: RobodyneError) -> None:
        """End the connection with the close code and reason of `error`; it has left the hub when this returns."""
        self.manager.close(self, error.close_code, error.close_reason)

    # -- what the client says --------------------------------------------------------------------------------------

    def received(self, text: bytes, now: float) -> None:
        """Take one message of the client."""
        if self.closing or not self.admit(now):
            return
        try:
            message = wire.parse_client(text)
        except wire.BadMessage as error:
            self.bad_message(error.word, error.text, now, error.details)
            return
        match message.type:
            case "pong":
                if self.heartbeat_kind == "message":
                    self.heartbeat.pong()
            case "ping":
                self._answer_ping(message.data, now)
            case "pause":
                self.manager.pause(self)
            case "resume":
                self.manager.resume(self)
            case "token":
                self.bad_message("FORBIDDEN", "this server knows no tokens yet", now, {})

    def received_pong(self, now: float) -> None:
        """Take a protocol pong."""
        if self.admit(now) and self.heartbeat_kind == "protocol":
            self.heartbeat.pong()

    def received_ping(self, data: bytes, now: float) -> None:
        """Answer a protocol ping, unless they come as a flood."""
        if not self.closing and self.admit(now):
            self.write(wire.frame(data, wire.OPCODE_PONG))

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
            self.send(wire.pong(self.topic, data))

    def error(self, code: str, text: str, details: dict[str, Any]) -> None:
        """Tell the client what was wrong; the connection lives."""
        self.manager.stats.errors[code] += 1
        self.send(wire.error(self.topic, code, text, details))

    def bad_message(self, code: str, text: str, now: float, details: dict[str, Any]) -> None:
        """Answer a message that cannot be taken; too many of them end the connection."""
        self.error(code, text, details)
        if self._bad is None:
            self._bad = []
        self._bad = [at for at in self._bad if now - at < BAD_WINDOW_S] + [now]
        if len(self._bad) >= BAD_MESSAGES:
            self.close(Abuse("too many bad messages"))

    def admit(self, now: float) -> bool:
        """Count one message against the flood limit; a flood ends the connection."""
        if self._flood is None:
            self._flood = TokenBucket(rate_per_s=FLOOD_PER_S, burst=FLOOD_BURST)
        if self._flood.take(now):
            self.close(Abuse("flood"))
            return False
        return True
