"""Rows of the cold paths as code handles them: people, what lets them and devices in, what they ask, what could not be stored.

Plain dicts with a known shape: they are read by a few columns of SQL, kept in the spool as JSON, and answered as they are. The
tables themselves stand in `model/entities/people.py` and `bookkeeping.py`; what topics show, in `read_models.py`.
"""

from typing import Any, NotRequired, TypedDict


class UserRow(TypedDict):
    """A user; of an issuer's, what it says of them."""

    name: str
    roles: list[str]
    disabled: bool
    password: bool
    created_at: str | None
    username: NotRequired[str]
    full_name: NotRequired[str]
    email: NotRequired[str]
    company: NotRequired[str]


class TokenRow(TypedDict):
    """A token that was given out; `roles` is None where they are its user's."""

    id: int
    kind: str
    user: str
    roles: list[str] | None
    label: str | None
    created_at: str
    expires_at: str
    revoked_at: str | None


class DeviceRow(TypedDict):
    """A device and the robots it speaks for; `keys` is how many are good."""

    device_id: str
    robots: list[str]
    revoked: bool
    created_at: str
    keys: int


class RequestRow(TypedDict):
    """What a user asked, and its answer where there is one; `seq` is the number of that in its session."""

    id: int
    user_name: str
    session_id: str
    request_id: str
    dialect: str | None
    question: str
    response: str | None
    status: str
    code: str | None
    seq: int | None
    timestamp: NotRequired[str]
    answered_at: NotRequired[str]


class SessionRow(TypedDict):
    """A session that may be resumed.

    `acked` is the number of the newest answer that its client confirmed, `seq` that of the newest one; `answers` are those in
    between, oldest first.
    """

    id: str
    user_name: str
    device: str
    token_digest: str
    acked: int
    created_at: str
    seq: int
    answers: list[RequestRow]


class RetriedRow(TypedDict):
    """A letter that is tried again by itself; `payload` is the text of its write."""

    id: int
    kind: str
    device: str | None
    message_id: str | None
    attempts: int
    payload: str


class LetterRow(TypedDict):
    """A message that could not be stored; with `payload` where one is shown."""

    id: int
    kind: str
    device: str | None
    message_id: str | None
    error: str
    attempts: int
    first_at: str
    last_at: str
    state: str
    payload: NotRequired[Any]
