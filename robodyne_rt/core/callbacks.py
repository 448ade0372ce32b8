"""Questions to clients, with a deadline: who may answer which, once (SPEC section 4)."""

import secrets
from dataclasses import dataclass
from typing import Any

from robodyne_rt.protocol.errors import InvalidRequestId
from robodyne_rt.protocol.session_messages import ANSWERED_BY, CallbackKind

TIMEOUT_S = {CallbackKind.DATA: 10.0, CallbackKind.API: 10.0, CallbackKind.CLARIFICATION: 120.0}
"""Programs answer at once or never; people think."""


@dataclass(slots=True, kw_only=True)
class Callback:
    """One open question.

    Attributes:
        id: random, used once.
        session, user: who may answer.
        deadline: monotonic seconds.
        query_id: the request that it is for.
        fields: what is asked, to be sent again to a session that comes back.
    """

    id: str
    kind: CallbackKind
    session: str
    user: str
    deadline: float
    query_id: str
    fields: dict[str, Any]


class PendingCallbacks:
    """All open questions."""

    def __init__(self) -> None:
        self._open: dict[str, Callback] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self, kind: CallbackKind, *, session: str, user: str, query_id: str, fields: dict[str, Any], now: float
    ) -> Callback:
        """Return a new question."""
        id = secrets.token_urlsafe(16)
        callback = Callback(
            id=id, kind=kind, session=session, user=user, deadline=now + TIMEOUT_S[kind], query_id=query_id, fields=fields
        )
        self._open[id] = callback
        return callback

    def answer(self, id: Any, *, answer: str, session: str, user: str, now: float) -> Callback:
        """Return the question that an answer is for; it is over then.

        Args:
            answer: type of the message that answers.
        Raises:
            InvalidRequestId: unknown, asked of somebody else, of another kind, too late, or answered already. Which of them
                is not told: a stranger must not learn what others are asked.
        """
        callback = self._open.get(id) if isinstance(id, str) else None
        if (
            callback is None
            or callback.session != session
            or callback.user != user
            or callback.kind is not ANSWERED_BY[answer]
            or now >= callback.deadline
        ):
            raise InvalidRequestId("no such question is open for this session")
        del self._open[callback.id]
        return callback

    def close(self, id: str) -> None:
        """Forget a question: its time is over, or nobody needs the answer."""
        self._open.pop(id, None)

    def asks_person(self, user: str) -> bool:
        """Return whether a person is being asked something, on any of their screens."""
        return any(callback.user == user and callback.kind is CallbackKind.CLARIFICATION for callback in self._open.values())

    def of_session(self, session: str) -> list[Callback]:
        """Return what a session is asked, oldest first."""
        return [callback for callback in self._open.values() if callback.session == session]
