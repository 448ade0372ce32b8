"""Things that are good once and for a short while: tickets for pages, codes that pair a screen (SPEC section 8)."""

import hashlib
import secrets
from dataclasses import dataclass

from robodyne_rt.core.places import Places
from robodyne_rt.errors import RateLimited, ResourceNotFound, TokenInvalid
from robodyne_rt.model.access import Principal, source_of

TICKET_S = 30.0
PAIRING_S = 600.0
OPEN_AT_MOST = 1000
TICKETS_AT_MOST = 20
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
        if len(self._open) >= OPEN_AT_MOST or own >= TICKETS_AT_MOST:
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


@dataclass(slots=True)
class Pairing:
    """A screen that shows its code and waits. `token` is what it was given, once it was approved."""

    code: str
    deadline: float
    address: str
    label: str = ""
    token: str = ""


class Pairings:
    """Screens that wait; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._by_id: dict[str, Pairing] = {}
        self._places: Places[str] = Places(limit=OPEN_AT_MOST)

    def begin(self, *, address: str, now: float) -> tuple[str, Pairing]:
        """Return the screen's own secret, and its pairing with the six digits to show. Where very many wait, the oldest one of
        the address with the most gives way.

        Raises:
            RateLimited: too many screens wait.
        """
        for key in [key for key, pairing in self._by_id.items() if pairing.deadline <= now]:
            self._end(key)
        taken = {pairing.code for pairing in self._by_id.values()}
        code = next(code for code in iter(lambda: f"{secrets.randbelow(10**6):06d}", None) if code not in taken)
        secret = secrets.token_urlsafe(32)
        key = digest(secret)
        is_taken, other = self._places.take(source_of(address), key)
        if not is_taken:
            raise RateLimited("too many screens wait to be paired", retry_after=60.0)
        if other is not None:
            del self._by_id[other]
        pairing = self._by_id[key] = Pairing(code, now + PAIRING_S, address)
        return secret, pairing

    def waiting(self, now: float) -> list[Pairing]:
        """Return the screens that are not approved yet."""
        return [pairing for pairing in self._by_id.values() if pairing.deadline > now and not pairing.token]

    def by_code(self, code: str, now: float) -> Pairing:
        """Return the screen that shows a code.

        Raises:
            ResourceNotFound: none does, or not any more.
        """
        for pairing in self.waiting(now):
            if secrets.compare_digest(pairing.code.encode(), code.encode()):
                return pairing
        raise ResourceNotFound("no screen shows this code now; codes are good for ten minutes")

    def approve(self, pairing: Pairing, *, label: str, token: str) -> None:
        """Give a screen its token; it keeps its place until it has it.

        Raises:
            ResourceNotFound: it was approved, or gave way, a moment ago.
        """
        key = next((key for key, waiting in self._by_id.items() if waiting is pairing), None)
        if key is None or pairing.token:
            raise ResourceNotFound("the screen was approved, or is gone, since a moment ago")
        pairing.label, pairing.token = label, token
        self._places.pin(source_of(pairing.address), key)

    def look(self, secret: str, now: float, *, takes: bool = True) -> Pairing:
        """Return a screen's own pairing; once it has taken its token, it is over.

        Args:
            takes: whether it takes the token, where there is one.
        Raises:
            ResourceNotFound: unknown, over, or too old.
        """
        key = digest(secret)
        pairing = self._by_id.get(key)
        if pairing is None or pairing.deadline <= now:
            raise ResourceNotFound("this pairing is over; begin again")
        if pairing.token and takes:
            self._end(key)
        return pairing

    def _end(self, key: str) -> None:
        pairing = self._by_id.pop(key)
        self._places.leave(source_of(pairing.address), key)
