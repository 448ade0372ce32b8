"""Tickets: each opens one connection, for a short while, for a page that cannot send a token (SPEC section 8)."""

import hashlib
import secrets

from robodyne_rt.model.access import Principal
from robodyne_rt.protocol.errors import RateLimited, TokenInvalid

TICKET_S = 30.0
MAX_OPEN = 1000
MAX_TICKETS = 20
"""Open tickets of one user."""


def digest(text: str) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(text.encode()).hexdigest()


class Tickets:
    """One connection each, within 30 s, for the page that asked for it; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Principal, str | None, float]] = {}

    def issue(self, principal: Principal, *, origin: str | None, now: float) -> str:
        """Return a ticket for somebody.

        Args:
            origin: of the page that asks; only a page of the same origin may use it.
        Raises:
            RateLimited: too many are open.
        """
        self._open = {key: entry for key, entry in self._open.items() if entry[2] > now}
        own = sum(entry[0].name == principal.name for entry in self._open.values())
        if len(self._open) >= MAX_OPEN or own >= MAX_TICKETS:
            raise RateLimited("too many tickets are open", retry_after=TICKET_S)
        text = secrets.token_urlsafe(32)
        self._open[digest(text)] = (principal, origin, now + TICKET_S)
        return text

    def redeem(self, text: str, *, origin: str | None, now: float) -> Principal:
        """Return who a ticket is for; it is void from then on.

        Raises:
            TokenInvalid: unknown, used, too old, or of another page.
        """
        principal, wanted, deadline = self._open.pop(digest(text), (None, None, 0.0))
        if principal is None or now >= deadline or (wanted is not None and wanted != origin):
            raise TokenInvalid("the ticket is not valid")
        return principal
