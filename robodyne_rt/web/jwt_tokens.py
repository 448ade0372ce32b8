"""JSON Web Tokens: made with the local secret, checked against it or against an issuer's published keys (SPEC section 8).

What a token may be signed with is decided here, by its issuer, never by the token: HS256 for our own, RS256 or ES256 for an
OIDC issuer's, one family for each key (RFC 8725 section 3.1). Whatever is wrong, the answer is the same word.
"""

import base64
import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

import jwt
import orjson
from jwt.types import Options

from robodyne_rt.core.identity_registry import IdentityRegistry
from robodyne_rt.model.access import Principal, Profile, is_reserved, issuers_user, normal_name
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import RobodyneError, TokenExpired, TokenInvalid
from robodyne_rt.protocol.json_depth import is_too_deep
from robodyne_rt.secret import Secret
from robodyne_rt.web.jwks import KeySet

logger = logging.getLogger(__name__)

LOCAL_NAME = "robodyne-rt"
"""Issuer and audience of our own tokens where the settings name none."""

MAX_TOKEN_BYTES = 8192
LEEWAY_S = 30
LIFETIME_CAP_S = 12 * 3600
"""Longest life of a token that has no row here, and therefore cannot be taken back."""

ISSUER_ALGORITHMS = {"RSA": ["RS256"], "EC": ["ES256"]}
_REQUIRED = ["exp", "iat", "iss", "aud", "sub"]


class Tokens:
    """Makes and checks tokens.

    Args:
        mode: `local`, `oidc` or `off`.
        issuer: of the OIDC issuer, or of our own tokens; empty for the usual name.
        clients: to which the OIDC issuer may have given a token; empty for all.
        roles: those that there are.
        role_map: what the OIDC issuer's words mean here; empty: those that bear the name of a role mean it.
        keys: of the OIDC issuer; None where there is none.
        identities: who is known.
    """

    def __init__(
        self,
        *,
        secret: Secret,
        mode: str,
        issuer: str,
        audience: str,
        clients: Collection[str],
        roles: Collection[str],
        role_map: Mapping[str, str],
        keys: KeySet | None,
        identities: IdentityRegistry,
        clock: Clock,
    ) -> None:
        self._secret = secret
        self._clock = clock
        self._identities = identities
        self._keys = keys
        self._clients = clients
        self._role_map = role_map or {role: role for role in roles}
        self._trusted_issuer = issuer if mode == "oidc" else None
        self._local_issuer = LOCAL_NAME if mode == "oidc" else issuer or LOCAL_NAME
        self._audience = audience or LOCAL_NAME

    def issue(self, *, name: str, roles: list[str] | None, token: int | None, lifetime_s: float) -> str:
        """Return a signed token.

        Args:
            token: the row it depends on.
        """
        return sign(
            self._secret,
            issuer=self._local_issuer,
            audience=self._audience,
            name=name,
            roles=roles,
            token=token,
            now=self._clock.wall(),
            lifetime_s=lifetime_s,
        )

    def renewed(self, principal: Principal) -> Principal:
        """Return what somebody may do now.

        Raises:
            TokenInvalid, TokenExpired: nothing any more.
        """
        return self._identities.renewed(principal, self._clock.wall())

    async def principal(self, text: str) -> Principal:
        """Return who a token speaks for.

        Raises:
            TokenInvalid: nobody, or nobody any more.
            TokenExpired: it was good until a while ago.
        """
        try:
            return await self._checked(text)
        except (TokenInvalid, TokenExpired):
            raise
        except jwt.ExpiredSignatureError:
            raise TokenExpired("the token has expired") from None
        except RobodyneError:
            raise
        except Exception as error:  # the library raises TypeError, ValueError and its own: none of them is our fault
            logger.debug("token refused: %s", type(error).__name__)
            raise TokenInvalid("the token is not valid") from None

    async def _checked(self, text: str) -> Principal:
        if len(text) > MAX_TOKEN_BYTES or not text.isascii():
            raise TokenInvalid("the token is not valid")
        header, claims = _peek(text)
        issuer = claims.get("iss")
        if self._trusted_issuer is not None and issuer == self._trusted_issuer:
            return await self._of_issuer(text, header)
        if issuer != self._local_issuer:
            raise TokenInvalid("the token is not valid")
        if header.get("alg") != "HS256" or "crit" in header:
            raise TokenInvalid("the token is not valid")
        claims = self._decode(text, self._secret.key, ["HS256"], self._local_issuer)
        token = claims.get("sid")
        if token is not None and (type(token) is not str or not (token.isascii() and token.isdigit()) or len(token) > 18):
            raise TokenInvalid("the token is not valid")
        return self._speaks(claims, claims["sub"], claims.get("roles"), int(token) if token else None)

    async def _of_issuer(self, text: str, header: dict[str, Any]) -> Principal:
        assert self._keys is not None and self._trusted_issuer is not None
        if "crit" in header or header.get("alg") not in ("RS256", "ES256") or header.get("typ", "JWT") not in ("JWT", "at+jwt"):
            raise TokenInvalid("the token is not valid")
        key = await self._keys.find(header.get("kid"))
        if key is None:
            raise TokenInvalid("the token is not valid")
        claims = self._decode(text, key, ISSUER_ALGORITHMS[key.key_type or ""], self._trusted_issuer)
        if claims.get("typ") in ("ID", "Refresh"):  # Keycloak says so of tokens that are not for servers
            raise TokenInvalid("the token is not valid")
        if self._clients and claims.get("azp", claims.get("client_id")) not in self._clients:  # the latter in RFC 9068
            raise TokenInvalid("the token is not valid")
        subject, username = claims["sub"], claims.get("preferred_username")
        words: list[Any] = _list(_dict(claims.get("realm_access")).get("roles"))
        words += _list(_dict(_dict(claims.get("resource_access")).get(self._audience)).get("roles"))
        roles = [self._role_map[word] for word in words if isinstance(word, str) and word in self._role_map]
        if not isinstance(subject, str) or not subject or not subject.isprintable():
            raise TokenInvalid("the token is not valid")
        profile = Profile(
            username=normal_name(username if isinstance(username, str) else subject),
            full_name=_text(claims.get("name")),
            email=_text(claims.get("email")),
            company=_text(claims.get("company")) or _first_text(claims.get("organization")),
        )
        name = issuers_user(self._trusted_issuer, subject)
        return self._speaks(claims, name, list(dict.fromkeys(roles)), None, profile=profile)

    def _decode(self, text: str, key: Any, algorithms: list[str], issuer: str) -> dict[str, Any]:
        options: Options = {"require": _REQUIRED, "enforce_minimum_key_length": False}
        claims: dict[str, Any] = jwt.decode(
            text, key, algorithms=algorithms, issuer=issuer, audience=self._audience, leeway=LEEWAY_S, options=options
        )
        return claims

    def _speaks(
        self, claims: dict[str, Any], name: Any, roles: Any, token: int | None, *, profile: Profile | None = None
    ) -> Principal:
        called = name if profile is None else profile.username
        if not isinstance(called, str) or not 0 < len(called) <= 200 or not called.isprintable():
            raise TokenInvalid("the token is not valid")
        if is_reserved(normal_name(called)):
            raise TokenInvalid("the token is not valid")
        life_s = claims["exp"] - claims["iat"]
        if not math.isfinite(life_s) or (token is None and life_s > LIFETIME_CAP_S):
            raise TokenInvalid("the token is not valid")
        if claims["iat"] > self._clock.wall() + LEEWAY_S:
            raise TokenInvalid("the token is not valid")
        return self._identities.principal(
            normal_name(name) if profile is None else name,
            claimed_roles=[role for role in _list(roles) if isinstance(role, str)][:20],
            token=token,
            profile=profile,
            # The leeway is for clocks that differ, so not for our own; it holds for as long as the token is in use.
            expires_at=float(claims["exp"]) + (0 if profile is None else LEEWAY_S),
            now=self._clock.wall(),
        )


def sign(
    secret: Secret,
    *,
    issuer: str,
    audience: str,
    name: str,
    roles: list[str] | None,
    token: int | None,
    now: float,
    lifetime_s: float,
) -> str:
    """Return a local token (HS256); `sid` is its row, `roles` only where no row says them."""
    claims: dict[str, Any] = {"iss": issuer, "aud": audience, "sub": name, "iat": int(now), "exp": int(now + lifetime_s)}
    if token is not None:
        claims["sid"] = str(token)
    if roles is not None:
        claims["roles"] = roles
    return jwt.encode(claims, secret.key, algorithm="HS256")


def _peek(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a token says, unchecked: enough to know which key would have to have signed it."""
    parts = text.split(".")
    if len(parts) != 3:
        raise TokenInvalid("the token is not valid")
    found = []
    for part in parts[:2]:
        value = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        if not isinstance(value, dict) or is_too_deep(value):
            raise TokenInvalid("the token is not valid")
        found.append(value)
    return found[0], found[1]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


MAX_FACT_LENGTH = 200


def _text(value: Any) -> str | None:
    """Return a fact about a user that can be shown; None where it is none."""
    is_good = isinstance(value, str) and 0 < len(value) <= MAX_FACT_LENGTH and value.isprintable()
    return value if is_good else None


def _first_text(value: Any) -> str | None:
    """Return the first of what may be a text, a list of them, or an object by them (Keycloak's `organization`)."""
    return next(filter(None, map(_text, value)), None) if isinstance(value, list | dict) else _text(value)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []
