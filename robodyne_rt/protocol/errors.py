"""Every error that leaves the process: one class per meaning, one table for all wires.

A part raises by meaning; the shell that talks to the peer reads the class attributes: HTTP answers `status` and
`code` (SPEC section 7), a device reads `device_code` (section 5), a WebSocket that has to go reads `close_code` and the
fixed word `close_reason` (section 3). `client_does` is what a well-behaved peer does next.
"""

from typing import Any, ClassVar


class RobodyneError(Exception):
    """Base of all errors with a meaning on a wire. The text is for people and safe to show.

    Args:
        text: one sentence that says what is wrong and, where possible, what to do.
        details: further JSON-ready facts for the peer, e.g. `retry_after=2.5`.
    """

    code: ClassVar[str] = "SYSTEM_ERROR"
    status: ClassVar[int] = 500
    device_code: ClassVar[str] = "SERVER_ERROR"
    close_code: ClassVar[int] = 1011
    close_reason: ClassVar[str] = "internal"
    client_does: ClassVar[str] = "waits and retries"

    def __init__(self, text: str = "", **details: Any) -> None:
        super().__init__(text or self.close_reason)
        self.text = text or self.close_reason
        self.details = details


# -- the request itself is wrong -----------------------------------------------------------------------------------


class BadRequest(RobodyneError):
    """Cannot be parsed."""

    code, status, device_code = "BAD_REQUEST", 400, "INVALID_PAYLOAD"
    client_does = "repairs the request"


class InvalidPayload(RobodyneError):
    """Parsed, but a value is wrong, or names something that does not exist."""

    code, status, device_code = "VALIDATION_ERROR", 422, "INVALID_PAYLOAD"
    client_does = "repairs the message"


class UnknownMessageType(RobodyneError):
    """A message type that this server does not know."""

    code, status, device_code = "VALIDATION_ERROR", 422, "UNKNOWN_TYPE"
    client_does = "repairs the message"


class TooLarge(RobodyneError):
    """Over a size limit."""

    code, status, device_code = "TOO_LARGE", 413, "TOO_LARGE"
    close_code, close_reason = 1009, "too_large"
    client_does = "repairs the message"


class UnsupportedMediaType(RobodyneError):
    """A body in a format that is not JSON."""

    code, status = "UNSUPPORTED_MEDIA_TYPE", 415
    client_does = "sends application/json"


class MethodNotAllowed(RobodyneError):
    """The path exists, the method does not."""

    code, status = "METHOD_NOT_ALLOWED", 405
    client_does = "uses a method of the Allow header"


class ResourceNotFound(RobodyneError):
    """No such path or entity."""

    code, status = "RESOURCE_NOT_FOUND", 404
    client_does = "stops"


class UnknownTopic(ResourceNotFound):
    """No such topic."""

    close_code, close_reason = 1003, "unknown_topic"


class Misdirected(RobodyneError):
    """A Host header that is not ours: DNS rebinding or a wrong proxy."""

    code, status = "MISDIRECTED", 421
    client_does = "uses the server's own name or address"


class RequestTimeout(RobodyneError):
    """The peer began a message and did not finish it."""

    code, status, device_code = "REQUEST_TIMEOUT", 408, "TIMEOUT"
    client_does = "sends again"


class Conflict(RobodyneError):
    """Same id, other body."""

    code, status, device_code = "CONFLICT", 409, "CONFLICT"
    client_does = "takes a new id"


class InvalidRequestId(RobodyneError):
    """An answer to a question that was not asked, not of this user, or is over."""

    code, status = "INVALID_REQUEST_ID", 409
    client_does = "drops the answer"


class Abuse(RobodyneError):
    """A flood, or too many bad messages."""

    code, status = "RATE_LIMITED", 429
    close_code, close_reason = 1008, "abuse"
    client_does = "stops"


# -- who is asking -------------------------------------------------------------------------------------------------


class TokenMissing(RobodyneError):
    """Nobody said who is asking."""

    code, status, device_code = "AUTHENTICATION_REQUIRED", 401, "UNAUTHORIZED"
    close_code, close_reason = 1008, "token_missing"
    client_does = "logs in"


class TokenInvalid(RobodyneError):
    """A token that nobody gave out, or that was taken back. The text never says which check failed."""

    code, status, device_code = "INVALID_CREDENTIALS", 401, "UNAUTHORIZED"
    close_code, close_reason = 4001, "token_invalid"
    client_does = "logs in"


class TokenExpired(RobodyneError):
    """A token that was good until a while ago."""

    code, status, device_code = "TOKEN_EXPIRED", 401, "UNAUTHORIZED"
    close_code, close_reason = 4001, "token_expired"
    client_does = "refreshes"


class RateLimited(RobodyneError):
    """Too often; `details["retry_after"]` says in how many seconds again."""

    code, status, device_code = "RATE_LIMITED", 429, "RATE_LIMITED"
    client_does = "waits retry_after seconds"


class Forbidden(RobodyneError):
    """Known, but not allowed."""

    code, status, device_code = "PERMISSION_DENIED", 403, "UNAUTHORIZED"
    close_code, close_reason = 1008, "forbidden"
    client_does = "stops"


# -- the connection ------------------------------------------------------------------------------------------------


class ShuttingDown(RobodyneError):
    """The server stops or restarts."""

    code, status, device_code = "STORAGE_UNAVAILABLE", 503, "STORAGE_UNAVAILABLE"
    close_code, close_reason = 1001, "shutting_down"
    client_does = "returns, with jitter"


class TopicFull(RobodyneError):
    """Over the connections that a topic may have."""

    code, status = "RATE_LIMITED", 429
    close_code, close_reason = 1008, "topic_full"
    client_does = "returns later"


class SessionReplaced(RobodyneError):
    """A newer session of the same user and device, or the same session on a newer socket."""

    close_code, close_reason = 4004, "session_replaced"
    client_does = "stops"


class HeartbeatLost(RobodyneError):
    """Pings stayed unanswered."""

    close_code, close_reason = 4003, "heartbeat_lost"
    client_does = "returns with its position"


class TooSlow(RobodyneError):
    """The client could not catch up in time."""

    close_code, close_reason = 4005, "too_slow"
    client_does = "returns with its position"


# -- our own side --------------------------------------------------------------------------------------------------


class StorageUnavailable(RobodyneError):
    """Not stored; the sender keeps what it sent. `details["retry_after_s"]` may say when to try again."""

    code, status, device_code = "STORAGE_UNAVAILABLE", 503, "STORAGE_UNAVAILABLE"
    client_does = "keeps the message and sends it again"


class StorageTimeout(StorageUnavailable):
    """Storage did not answer in time: it may be stored, or not."""

    device_code = "TIMEOUT"
    client_does = "sends it again with the same id"


class DeadLettered(RobodyneError):
    """Taken, but its own fault keeps it from being stored: it is parked, and `details["dead_letter"]` names it."""

    def __init__(self, text: str = "the message cannot be stored; it is kept as a dead letter", **details: Any) -> None:
        super().__init__(text, **details)

    client_does = "tells its technician"


class Internal(RobodyneError):
    """Anything unforeseen; the cause stands in our log and nowhere else."""

    client_does = "waits and retries"
