"""What may go wrong for a client."""

from typing import Any


class ClientError(Exception):
    """Base of all."""


class Refused(ClientError):
    """The server does not want this client; coming back as it is would not help. `reason` is one of the fixed words."""

    def __init__(self, text: str, *, code: int = 0, reason: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.reason = reason


class LoginFailed(Refused):
    """No such user, or another password."""


class Unreachable(ClientError):
    """No server answered, for as many tries as were allowed."""


class RequestFailed(ClientError):
    """The final answer of a request is an error; `code` says which, `details` what else is known (`retry_after`)."""

    def __init__(self, code: str, text: str, details: dict[str, Any]) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.details = details
