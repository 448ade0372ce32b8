"""Pairing: a screen on a wall shows a code, and waits for an administrator who approves it (SPEC section 8)."""

import secrets
from dataclasses import dataclass

from robodyne_rt.core.places import Places
from robodyne_rt.core.tickets import digest
from robodyne_rt.model.access import source_of
from robodyne_rt.protocol.errors import RateLimited, ResourceNotFound

PAIRING_S = 600.0
MAX_OPEN = 1000


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
        self._places: Places[str] = Places(limit=MAX_OPEN)

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
