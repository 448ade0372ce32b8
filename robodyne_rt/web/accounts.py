"""Logins, tokens that are given out, users and devices: what the handlers do with the one writer, the secret and the
directory (SPEC section 8).
"""

import contextlib
import hmac
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from robodyne_rt.core.identity_registry import IdentityRegistry, ends_at, rotated_at
from robodyne_rt.core.tickets import digest
from robodyne_rt.model import times
from robodyne_rt.model.access import ROLES, Principal, normal_name
from robodyne_rt.model.changes import Entity
from robodyne_rt.model.rows import UserRow
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import Conflict, ResourceNotFound, StorageUnavailable, TokenExpired, TokenInvalid
from robodyne_rt.secret import Secret
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.intake.intake import Intake
from robodyne_rt.store.log.reader_pool import ReaderPool
from robodyne_rt.store.tables import names, tokens, users
from robodyne_rt.web import passwords
from robodyne_rt.web.jwt_tokens import Tokens
from robodyne_rt.web.passwords import Passwords

logger = logging.getLogger(__name__)

ACCESS_S = 3600.0
LOGIN_S = 30 * 86400.0
DISPLAY_S = 400 * 86400.0
API_S = 90 * 86400.0
COOKIE_S = {"LOGIN": LOGIN_S, "DISPLAY": DISPLAY_S}
"""How long what a browser keeps lives after it was last used."""

PROLONGED_EVERY_S = 86400.0
LONGEST_S = 400 * 86400.0

DEVICE_COOKIE = "robodyne-device"
"""With the account's number behind it: one tablet knows many people."""

LOST_ANSWER_S = 60.0
"""A refresh token may be used again for so long after it was replaced: the answer may have been lost."""

NOTE_DEADLINE_S = 1.0
NOTED_AGAIN_S = 60.0
"""Who an issuer's user is, is noted within this, and not tried again sooner than that: storage may be away."""
MAX_NOTED = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a login or a refresh gives. `refresh` is None where the database is away: then log in again when it is over."""

    name: str
    roles: list[str]
    access: str
    access_s: float
    refresh: str | None
    row: int | None
    row_expires_at: float


class Accounts:
    """The service behind `/api/auth`, `/api/users`, `/api/tokens` and `/api/devices`."""

    def __init__(
        self,
        *,
        intake: Intake,
        readers: ReaderPool,
        identities: IdentityRegistry,
        secret: Secret,
        tokens: Tokens,
        roles: Collection[str],
        clock: Clock,
    ) -> None:
        self._intake = intake
        self._readers = readers
        self._identities = identities
        self._secret = secret
        self._tokens = tokens
        self._roles = roles
        self._clock = clock
        self._noted_at: dict[str, float] = {}
        self.passwords = Passwords()

    async def remember(self, principal: Principal) -> None:
        """Note who an issuer's user is, so that others can name them; once, and again when that changes."""
        profile, now = principal.profile, self._clock.now()
        if profile is None or not principal.rights:
            return
        known = self._identities.user(principal.name)
        if known is not None and all(known.get(fact) == value for fact, value in profile._asdict().items()):
            return
        if now - self._noted_at.get(principal.name, -NOTED_AGAIN_S) < NOTED_AGAIN_S:
            return
        if len(self._noted_at) >= MAX_NOTED:
            self._noted_at.clear()
        self._noted_at[principal.name] = now
        with anyio.move_on_after(NOTE_DEADLINE_S), contextlib.suppress(StorageUnavailable):  # next time then
            await self.change(users.remember_issuers_user, principal.name, profile)

    def resolve(self, name: str) -> str:
        """Return the user that a name means, see `IdentityRegistry.resolve`."""
        return self._identities.resolve(name)

    def label(self, name: str) -> str:
        """Return what people call a user."""
        return self._identities.label(name)

    def has_name(self, name: str) -> bool:
        """Return whether a user, a program or a screen has a name here."""
        return self._identities.has_name(name)

    async def read(self, query: Callable[[DbConnection], T]) -> T:
        """Read from the database."""
        return await self._readers.read(query)

    async def change(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Run a function of `store/tables` with the connection that writes."""
        return await self._intake.call(lambda tables: function(tables.db, *arguments, **named))

    # -- device cookies ------------------------------------------------------------------------------------------

    def device_cookie(self, name: str) -> tuple[str, str]:
        """Return name and value of the cookie that says that a device logged in to an account: for that account alone."""
        id, at = self._row_id(name), int(self._clock.wall())
        return f"{DEVICE_COOKIE}-{id}", f"{at}.{self._secret.signature(f'device {id} {at}')}"

    def is_device_known(self, name: str, cookies: Mapping[str, str]) -> bool:
        """Return whether a device shows that it logged in to an account before."""
        id = self._row_id(name)
        at, _, seal = cookies.get(f"{DEVICE_COOKIE}-{id}", "").partition(".")
        if id is None or not (at.isascii() and at.isdigit() and len(at) < 16 and seal.isascii()):
            return False
        is_ours = hmac.compare_digest(seal, self._secret.signature(f"device {id} {at}"))
        return is_ours and self._clock.wall() - int(at) < LONGEST_S

    def is_place_known(self, name: str, source: str) -> bool:
        """Return whether a user logged in from an address lately."""
        return self._identities.has_logged_in_from(name, source)

    def _row_id(self, name: str) -> int | None:
        user = self._identities.user(name)
        return None if user is None else user["id"]

    # -- logging in ----------------------------------------------------------------------------------------------

    async def log_in(self, name: str, password: str, *, label: str | None, source: str, is_known: bool) -> Grant:
        """Return tokens for a user.

        Args:
            source: the address it comes from, which is no stranger's from then on.
            is_known: whether it goes before strangers.
        Raises:
            TokenInvalid: no such user, or another password; which of them is not told, and takes the same time.
        """
        name = normal_name(name)
        user = self._identities.user(name)
        known = user["password_hash"] if user is not None and not user["disabled"] else None
        if not await self.passwords.matches(known, password, is_known=is_known) or user is None:
            raise TokenInvalid("wrong name or password")
        now = self._clock.wall()
        row = self._intake.next_id()
        refresh = self._refresh_token(row)
        expires_at = now + LOGIN_S
        try:
            await self.change(tokens.add_token, row, "LOGIN", name, None, label, digest(refresh), expires_at, now, source)
        except StorageUnavailable:
            # Nobody can note it, so it lives for an hour and cannot be renewed; the kitchen can work.
            logger.warning("a login cannot be noted: the database is away", extra={"action": "login_unnoted"})
            access = self._tokens.issue(name=name, roles=None, token=None, lifetime_s=ACCESS_S)
            return Grant(name, user["roles"], access, ACCESS_S, None, None, now + ACCESS_S)
        logger.info("%s logged in", name, extra={"action": "user_logged_in"})
        return self._grant(name, user["roles"], row, refresh, expires_at)

    def _grant(self, name: str, roles: list[str], row: int, refresh: str | None, expires_at: float) -> Grant:
        access = self._tokens.issue(name=name, roles=None, token=row, lifetime_s=ACCESS_S)
        return Grant(name, roles, access, ACCESS_S, refresh, row, expires_at)

    async def refresh(self, refresh: str) -> Grant:
        """Return new tokens for a refresh token, which is replaced.

        Raises:
            TokenInvalid: it is not known, or was replaced long ago; in that case somebody else has it, and all of its login
                is void.
            TokenExpired: its login is over.
        """
        row = self._row_of(refresh)
        token = self._identities.token(row) if row is not None else None
        if token is None or token["revoked_at"] is not None or token["refresh_digest"] is None:
            raise TokenInvalid("the refresh token is not valid")
        now, id = self._clock.wall(), token["id"]
        if now >= ends_at(token):
            raise TokenExpired("the login is over")
        user = self._identities.user(token["user_name"])
        if user is None or user["disabled"]:
            raise TokenInvalid("the refresh token is not valid")
        given, new, expires_at = digest(refresh), self._refresh_token(id, after=refresh), now + LOGIN_S
        if given == token["refresh_digest"]:
            try:
                is_good = await self.change(tokens.rotate_token, id, old=given, new=digest(new), expires_at=expires_at, now=now)
            except StorageUnavailable:
                return self._grant(user["name"], user["roles"], id, refresh, ends_at(token))
        else:
            is_good = given == token["previous_digest"] and now - rotated_at(token) <= LOST_ANSWER_S
            if not is_good:
                # It is ours (its seal is good) and was replaced: two parties have it, and one of them should not.
                logger.warning("a refresh token was used again: its login is void", extra={"action": "token_reused"})
                await self._void(id)
        if not is_good:
            raise TokenInvalid("the refresh token is not valid")
        return self._grant(user["name"], user["roles"], id, new, expires_at)

    def _refresh_token(self, row: int, *, after: str = "") -> str:
        """Return a refresh token, sealed so that each one we ever gave out can be told from a guess: a new one, or the one
        that replaces `after`, the same each time."""
        text = f"{row}.{self._secret.signature(f'after {after}') if after else secrets.token_urlsafe(24)}"
        return f"{text}.{self._secret.signature(text)}"

    def _row_of(self, refresh: str) -> int | None:
        """Return the row that a refresh token of ours belongs to."""
        text, _, seal = refresh.rpartition(".")
        row = text.partition(".")[0]
        if not hmac.compare_digest(seal.encode(), self._secret.signature(text).encode()):
            return None
        return int(row)

    def cookie(self, grant: Grant) -> str:
        """Return the token that a browser keeps as a cookie: good for as long as its row."""
        return self._tokens.issue(
            name=grant.name, roles=None, token=grant.row, lifetime_s=grant.row_expires_at - self._clock.wall()
        )

    async def access_for(self, name: str, row: int | None, roles: list[str]) -> Grant:
        """Return a short token beside a cookie, for the connections of its page; what is in use lives on."""
        token = self._identities.token(row) if row is not None else None
        if token is None:
            raise TokenInvalid("the cookie is not valid")
        expires_at = ends_at(token)
        wanted = self._clock.wall() + COOKIE_S.get(token["kind"], 0.0)
        if wanted - expires_at > PROLONGED_EVERY_S:
            with contextlib.suppress(StorageUnavailable):  # next time then
                await self.change(tokens.prolong_token, token["id"], expires_at=wanted)
                expires_at = wanted
        return self._grant(name, roles, token["id"], None, expires_at)

    async def log_out(self, row: int) -> None:
        """Void a login."""
        await self._void(row)

    async def _void(self, row: int) -> None:
        with contextlib.suppress(ResourceNotFound):  # it is void already
            await self.change(tokens.revoke_token, row, now=self._clock.wall())

    # -- giving out ----------------------------------------------------------------------------------------------

    async def give(self, kind: str, user: str, roles: list[str] | None, *, label: str | None, lifetime_s: float) -> Entity:
        """Return a token that can be revoked, as `{token, id, user, roles, expires_at}`."""
        now, id = self._clock.wall(), self._intake.next_id()
        return await self.change(
            give_out,
            self._tokens.issue,
            id=id,
            kind=kind,
            user=user,
            roles=roles,
            label=label,
            lifetime_s=lifetime_s,
            known_roles=self._roles,
            now=now,
        )

    async def add_user(self, name: str, roles: list[str], password: str | None) -> UserRow:
        """Add a user."""
        password_hash = await self.passwords.hashed(passwords.check(password)) if password is not None else None
        return await self.change(
            users.add_user,
            name=name,
            roles=roles,
            password_hash=password_hash,
            known_roles=self._roles,
            now=self._clock.wall(),
        )

    async def change_user(self, name: str, changes: Entity) -> UserRow:
        """Change roles, password or whether somebody is disabled."""
        if "password" in changes:
            changes["password_hash"] = await self.passwords.hashed(passwords.check(changes.pop("password")))
        return await self.change(users.change_user, name, now=self._clock.wall(), known_roles=self._roles, **changes)

    # -- devices -------------------------------------------------------------------------------------------------

    def key_of(self, device_id: str, key_id: str) -> str:
        """Return a device's key, in hex."""
        return self._secret.device_key(device_id, key_id).hex()


def give_out(
    db: DbConnection,
    issue: Callable[..., str],
    *,
    id: int,
    kind: str,
    user: str,
    roles: list[str] | None,
    label: str | None,
    lifetime_s: float,
    now: float,
    known_roles: Collection[str] = ROLES,
) -> Entity:
    """Note a token in the database, and return it; `roles` None takes those of the user.

    Raises:
        ResourceNotFound: there is no such user.
        Conflict: there is one: a program or a screen of that name would read the user's messages, and keep its roles when
            the user loses theirs.
    """
    lifetime_s = min(lifetime_s, LONGEST_S)
    user = names.checked_user_name(user)
    is_user = users.stored_name(db, user) is not None
    if roles is None and not is_user:
        raise ResourceNotFound(f"there is no user {user!r}; name a role to make a token for a program")
    if roles is not None and is_user:
        raise Conflict(f"{user!r} is a user, whose tokens have the user's roles: name none, or choose another name")
    tokens.add_token(db, id, kind, user, roles, label, None, now + lifetime_s, now, known_roles=known_roles)
    token = issue(name=user, roles=None, token=id, lifetime_s=lifetime_s)
    return {"token": token, "id": id, "user": user, "roles": roles, "expires_at": times.to_text(now + lifetime_s)}
