"""Who is known here: users, the tokens that were given out, devices. A copy in memory of three private topics.

It follows the change log, so that whoever is disabled, in whatever way and on whatever node, is so at once; and it is there
when the database is not.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from robodyne_rt.model import times
from robodyne_rt.model.access import AccessPolicy, Principal, Profile, normal_name
from robodyne_rt.model.changes import Entity, Update
from robodyne_rt.model.names import nfc
from robodyne_rt.protocol.errors import Conflict, TokenExpired, TokenInvalid

_NAMED_BY: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "users": ("name", normal_name),
    "tokens": ("id", int),
    "devices": ("device_id", nfc),
}
"""The column that names a row, and the form in which it is compared."""


class IdentityRegistry:
    """Built from snapshots of the private topics, kept current by `take`."""

    def __init__(self, policy: AccessPolicy, snapshots: Mapping[str, Update]) -> None:
        self._policy = policy
        self._entities: dict[str, dict[int, Entity]] = {topic: {} for topic in _NAMED_BY}
        self._by_name: dict[str, dict[Any, Entity]] = {topic: {} for topic in _NAMED_BY}
        self._token_names: Counter[str] = Counter()
        self._login_places: Counter[tuple[str, str]] = Counter()
        for topic in _NAMED_BY:
            self.take(snapshots[topic])

    def take(self, update: Update) -> set[str]:
        """Take what the change log brought; return the names that nobody bears any more."""
        topic, (column, form) = update.topic, _NAMED_BY[update.topic]
        known, by_name = self._entities[topic], self._by_name[topic]
        gone: set[str] = set()
        for key in list(known) if update.snapshot else (*update.removed, *update.entities):
            old = known.pop(key, None)
            if old is None:
                continue
            if topic == "tokens":
                self._count_token(old, -1)
            name = form(old[column])
            if by_name.get(name) is old:  # else another row bears it by now
                del by_name[name]
                gone.add(name)
        for key, entity in update.entities.items():
            known[key] = entity
            name = form(entity[column])
            # Of two rows of one name the one that is written in its form counts.
            if name not in by_name or entity[column] == name:
                by_name[name] = entity
            if topic == "tokens":
                self._count_token(entity, 1)
        if (gone := gone - by_name.keys()) and topic != "tokens":
            by_name |= {name: entity for entity in known.values() if (name := form(entity[column])) in gone}
        return gone - by_name.keys()

    def _count_token(self, token: Entity, step: int) -> None:
        name = normal_name(token["user_name"])
        self._token_names[name] += step
        if token["kind"] == "LOGIN" and (address := token.get("address")):
            place = name, address
            self._login_places[place] += step
            if not self._login_places[place]:
                del self._login_places[place]

    def user(self, name: str) -> Entity | None:
        """Return a user's row."""
        return self._by_name["users"].get(normal_name(name))

    @property
    def users(self) -> Iterable[Entity]:
        """All users."""
        return self._entities["users"].values()

    def has_logged_in_from(self, name: str, source: str) -> bool:
        """Return whether a user logged in from an address, and used that login within 30 days: so long its row is kept."""
        return self._login_places[normal_name(name), source] > 0

    def resolve(self, name: str) -> str:
        """Return whom a name means: who is called so here, else the one issuer's user who is; the name itself where nobody is.

        Raises:
            Conflict: several are.
        """
        name = normal_name(name)
        if self.has_name(name):
            return name
        called = [user["name"] for user in self.users if name in (user.get("username"), user.get("full_name"))]
        if len(called) > 1:
            raise Conflict(f"{len(called)} users are called {name!r}; say which by id", ids=sorted(called)[:20])
        return str(called[0]) if called else name

    def label(self, name: str) -> str:
        """Return what people call a user."""
        user = self.user(name)
        return name if user is None else user.get("username") or name

    def token(self, id: int) -> Entity | None:
        """Return the row of a token that was given out."""
        return self._by_name["tokens"].get(id)

    def given_out(self, now: float) -> int:
        """Return how many tokens and device keys are good."""
        tokens = [token for token in self._entities["tokens"].values() if token["revoked_at"] is None and ends_at(token) > now]
        return len(tokens) + sum(not device["revoked"] for device in self._entities["devices"].values())

    def device(self, device_id: str) -> Entity | None:
        """Return a device that may speak; None also for one that was revoked."""
        device = self._by_name["devices"].get(nfc(device_id))
        return None if device is None or device["revoked"] else device

    def has_name(self, name: str) -> bool:
        """Return whether a name is one of this server's own, a user's, a program's or a screen's: its messages and questions
        are not for an issuer's namesake."""
        name = normal_name(name)
        return name in self._by_name["users"] or self._token_names[name] > 0

    def principal(
        self,
        name: str,
        *,
        claimed_roles: Iterable[str] = (),
        token: int | None = None,
        profile: Profile | None = None,
        expires_at: float,
        now: float,
    ) -> Principal:
        """Return who a checked token speaks for, by what is known just now; times are epoch seconds.

        Args:
            profile: what an issuer says of its user, whose roles are the issuer's to say.
        Raises:
            TokenInvalid: it was taken back, or its user, or who bears the same name here, is gone or disabled.
            TokenExpired: it, or the login it belongs to, is over.
        """
        if now >= expires_at:
            raise TokenExpired("the token has expired")
        user = self.user(name)
        namesake = self.user(profile.username) if profile is not None else None
        if any(known is not None and known["disabled"] for known in (user, namesake)):
            raise TokenInvalid("the token is not valid")
        roles: Any = user["roles"] if user is not None and profile is None else list(claimed_roles)
        if token is not None:
            row = self.token(token)
            if row is None or row["revoked_at"] is not None or row["user_name"] != name:
                raise TokenInvalid("the token is not valid")
            expires_at = min(expires_at, ends_at(row))
            if now >= expires_at:
                raise TokenExpired("the token has expired")
            if row["roles"] is not None:
                roles = row["roles"]
            elif user is None:
                raise TokenInvalid("the token is not valid")
        # Another program may have written anything there: what is no list of words is no role.
        known = frozenset(role for role in roles if isinstance(role, str)) if isinstance(roles, list) else frozenset()
        return Principal(
            name,
            known,
            self._policy.rights_of(known),
            claimed_roles=frozenset(claimed_roles),
            token=token,
            expires_at=expires_at,
            is_bearer=True,
            profile=profile,
        )

    def renewed(self, principal: Principal, now: float) -> Principal:
        """Return what a principal may do now.

        Raises:
            TokenInvalid, TokenExpired: nothing any more.
        """
        if not principal.is_bearer:
            return principal
        renewed = self.principal(
            principal.name,
            claimed_roles=principal.claimed_roles,
            token=principal.token,
            profile=principal.profile,
            expires_at=principal.expires_at,
            now=now,
        )
        return replace(renewed, place_rights=principal.place_rights)


def ends_at(token: Entity) -> float:
    """Return when a token is over, in epoch seconds."""
    return _epoch_s(token["expires_at"])


def rotated_at(token: Entity) -> float:
    """Return when a login's refresh token was last replaced, in epoch seconds."""
    return _epoch_s(token["rotated_at"])


def _epoch_s(text: Any) -> float:
    """Return a time that another program may have written; where it is none, one that is over for ever."""
    try:
        return times.to_epoch_s(text)
    except (ValueError, TypeError):
        return -math.inf
