"""The one table of errors: one class per meaning, with its word on each wire, and what a client does next.

A part raises by meaning; the shell that talks to the peer reads the class attributes: HTTP answers `status` and `code` (SPEC
section 7), a device reads `device_code` (section 5), a living WebSocket `session_code`, and one that has to go `close_code` and
the fixed word `close_reason` (section 3). The Python client reads this table; the JavaScript client's is made from it
(`scripts/contract`).
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

Retry = Literal["never", "after_login", "after_refresh", "wait", "with_position"]
"""Whether, and when, the same may be tried again: a connection that returns `with_position` misses nothing."""


class RobodyneError(Exception):
    """Base of all errors with a meaning on a wire. The text is for people and safe to show.

    Args:
        text: one sentence that says what is wrong and, where possible, what to do.
        details: further JSON-ready facts for the peer, e.g. `retry_after=2.5`.
    """

    code: ClassVar[str] = "SYSTEM_ERROR"
    status: ClassVar[int] = 500
    device_code: ClassVar[str] = "SERVER_ERROR"
    session_code: ClassVar[str] = "INTERNAL"
    close_code: ClassVar[int] = 1011
    close_reason: ClassVar[str] = "internal"
    retry: ClassVar[Retry] = "wait"

    def __init__(self, text: str = "", **details: Any) -> None:
        super().__init__(text or self.close_reason)
        self.text = text or self.close_reason
        self.details = details


# -- the request itself is wrong -----------------------------------------------------------------------------------


class BadRequest(RobodyneError):
    """Cannot be parsed."""

    code, status, device_code = "BAD_REQUEST", 400, "INVALID_PAYLOAD"
    session_code = "INVALID_MESSAGE"
    retry = "never"


class InvalidPayload(RobodyneError):
    """Parsed, but a value is wrong, or names something that does not exist."""

    code, status, device_code = "VALIDATION_ERROR", 422, "INVALID_PAYLOAD"
    session_code = "INVALID_MESSAGE"
    retry = "never"


class UnknownMessageType(RobodyneError):
    """A message type that this server does not know."""

    code, status, device_code = "VALIDATION_ERROR", 422, "UNKNOWN_TYPE"
    session_code = "UNKNOWN_TYPE"
    retry = "never"


class TooLarge(RobodyneError):
    """Over a size limit."""

    code, status, device_code = "TOO_LARGE", 413, "TOO_LARGE"
    close_code, close_reason = 1009, "too_large"
    session_code = "TOO_LARGE"
    retry = "with_position"


class UnsupportedMediaType(RobodyneError):
    """A body in a format that is not JSON."""

    code, status = "UNSUPPORTED_MEDIA_TYPE", 415
    retry = "never"


class MethodNotAllowed(RobodyneError):
    """The path exists, the method does not."""

    code, status = "METHOD_NOT_ALLOWED", 405
    retry = "never"


class ResourceNotFound(RobodyneError):
    """No such path or entity."""

    code, status = "RESOURCE_NOT_FOUND", 404
    session_code = "NOT_FOUND"
    retry = "never"


class UnknownTopic(ResourceNotFound):
    """No such topic."""

    close_code, close_reason = 1003, "unknown_topic"


class Misdirected(RobodyneError):
    """A Host header that is not ours: DNS rebinding or a wrong proxy."""

    code, status = "MISDIRECTED", 421
    retry = "never"


class RequestTimeout(RobodyneError):
    """The peer began a message and did not finish it."""

    code, status, device_code = "REQUEST_TIMEOUT", 408, "TIMEOUT"
    session_code = "TIMEOUT"
    retry = "wait"


class Conflict(RobodyneError):
    """Same id, other body."""

    code, status, device_code = "CONFLICT", 409, "CONFLICT"
    retry = "never"


class InvalidRequestId(RobodyneError):
    """An answer to a question that was not asked, not of this user, or is over."""

    code, status = "INVALID_REQUEST_ID", 409
    session_code = "INVALID_REQUEST_ID"
    retry = "never"


class Abuse(RobodyneError):
    """A flood, or too many bad messages."""

    code, status = "RATE_LIMITED", 429
    close_code, close_reason = 1008, "abuse"
    session_code = "RATE_LIMITED"
    retry = "never"


# -- who is asking -------------------------------------------------------------------------------------------------


class TokenMissing(RobodyneError):
    """Nobody said who is asking."""

    code, status, device_code = "AUTHENTICATION_REQUIRED", 401, "UNAUTHORIZED"
    close_code, close_reason = 1008, "token_missing"
    session_code = "FORBIDDEN"
    retry = "after_login"


class TokenInvalid(RobodyneError):
    """A token that nobody gave out, or that was taken back. The text never says which check failed."""

    code, status, device_code = "INVALID_CREDENTIALS", 401, "UNAUTHORIZED"
    close_code, close_reason = 4001, "token_invalid"
    session_code = "FORBIDDEN"
    retry = "after_login"


class TokenExpired(RobodyneError):
    """A token that was good until a while ago."""

    code, status, device_code = "TOKEN_EXPIRED", 401, "UNAUTHORIZED"
    close_code, close_reason = 4001, "token_expired"
    session_code = "FORBIDDEN"
    retry = "after_refresh"


class RateLimited(RobodyneError):
    """Too often; `details["retry_after"]` says in how many seconds again."""

    code, status, device_code = "RATE_LIMITED", 429, "RATE_LIMITED"
    session_code = "RATE_LIMITED"
    retry = "wait"


class Forbidden(RobodyneError):
    """Known, but not allowed."""

    code, status, device_code = "PERMISSION_DENIED", 403, "UNAUTHORIZED"
    close_code, close_reason = 1008, "forbidden"
    session_code = "FORBIDDEN"
    retry = "never"


# -- the connection ------------------------------------------------------------------------------------------------


class ShuttingDown(RobodyneError):
    """The server stops or restarts."""

    code, status, device_code = "STORAGE_UNAVAILABLE", 503, "STORAGE_UNAVAILABLE"
    close_code, close_reason = 1001, "shutting_down"
    retry = "wait"


class TopicFull(RobodyneError):
    """Over the connections that a topic may have."""

    code, status = "RATE_LIMITED", 429
    close_code, close_reason = 1008, "topic_full"
    session_code = "TOPIC_FULL"
    retry = "wait"


class SessionReplaced(RobodyneError):
    """A newer session of the same user and device, or the same session on a newer socket."""

    close_code, close_reason = 4004, "session_replaced"
    retry = "never"


class HeartbeatLost(RobodyneError):
    """Pings stayed unanswered."""

    close_code, close_reason = 4003, "heartbeat_lost"
    retry = "with_position"


class TooSlow(RobodyneError):
    """The client could not catch up in time."""

    close_code, close_reason = 4005, "too_slow"
    retry = "with_position"


# -- our own side --------------------------------------------------------------------------------------------------


class StorageUnavailable(RobodyneError):
    """Not stored; the sender keeps what it sent. `details["retry_after_s"]` may say when to try again."""

    code, status, device_code = "STORAGE_UNAVAILABLE", 503, "STORAGE_UNAVAILABLE"
    session_code = "STORAGE_UNAVAILABLE"
    retry = "wait"


class StorageTimeout(StorageUnavailable):
    """Storage did not answer in time: it may be stored, or not."""

    device_code = "TIMEOUT"


class DeadLettered(RobodyneError):
    """Taken, but its own fault keeps it from being stored: it is parked, and `details["dead_letter"]` names it."""

    retry = "never"

    def __init__(self, text: str = "the message cannot be stored; it is kept as a dead letter", **details: Any) -> None:
        super().__init__(text, **details)


class Internal(RobodyneError):
    """Anything unforeseen; the cause stands in our log and nowhere else."""

    retry = "wait"


# -- of the wire itself --------------------------------------------------------------------------------------------


class ProtocolError(RobodyneError):
    """The peer breaks the WebSocket protocol (RFC 6455)."""

    close_code, close_reason = 1002, "protocol_error"
    retry = "with_position"


class InvalidUtf8(RobodyneError):
    """A text message that is no UTF-8."""

    close_code, close_reason = 1007, "invalid_utf8"
    retry = "with_position"


# -- the table, read the other way ---------------------------------------------------------------------------------


def all_errors(base: type[RobodyneError] = RobodyneError) -> Iterator[type[RobodyneError]]:
    """Return all classes of the table, each once, in the order they stand here."""
    for error in base.__subclasses__():
        if error.__module__ == __name__:
            yield error
            yield from all_errors(error)


def of_status(status: int) -> type[RobodyneError] | None:
    """Return the general meaning of an HTTP status, None where the table has none."""
    return next((error for error in RobodyneError.__subclasses__() if vars(error).get("status") == status), None)


def status_of_device_code(code: str | None) -> int:
    """Return the HTTP status of what a device reads as `error_code`; of none, that of success.

    Where several meanings share a code it is the last one's: what is parsed is wrong, who is known may not.
    """
    if code is None:
        return 200
    found = [error.status for error in RobodyneError.__subclasses__() if vars(error).get("device_code") == code]
    return found[-1] if found else RobodyneError.status


def closes() -> dict[str, Retry]:
    """Return what a client does after a close: by its reason, and by its code where the reason is lost on the way."""
    own = [error for error in all_errors() if error.close_code != RobodyneError.close_code]
    by_code: dict[str, Retry] = {}
    for error in own:
        by_code.setdefault(str(error.close_code), error.retry)
    # Whoever is refused and is not told why had better not come back.
    return by_code | {"1008": "never"} | {error.close_reason: error.retry for error in own}


def retry_after_close(code: int | None, reason: str) -> Retry:
    """Return what a client does after a close."""
    table = closes()
    return table.get(reason) or table.get(str(code)) or "with_position"
