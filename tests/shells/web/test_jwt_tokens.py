"""Tokens of our own: what is signed here counts, for a while, and nothing else does."""

import time
from typing import Any

import jwt
import pytest

from robodyne_rt.core.identity_registry import IdentityRegistry
from robodyne_rt.model.access import AccessPolicy
from robodyne_rt.model.changes import Update
from robodyne_rt.ports import Clock
from robodyne_rt.protocol.errors import TokenExpired, TokenInvalid
from robodyne_rt.secret import Secret
from robodyne_rt.web.jwt_tokens import LEEWAY_S, LIFETIME_CAP_S, LOCAL_NAME, MAX_TOKEN_BYTES, Tokens

KEY = bytes(range(64))
RIGHTS = {"admin": ["*"], "staff": ["read:robots"]}


@pytest.fixture
def tokens() -> Tokens:
    policy = AccessPolicy(mode="local", rights=RIGHTS, anonymous_topics=[], anonymous_networks=[], device_networks=[])
    empty = {topic: Update(topic, 0, 0, {}, [], True) for topic in ("users", "tokens", "devices")}
    options: dict[str, Any] = {"issuer": "", "audience": "", "clients": (), "roles": list(RIGHTS), "role_map": {}, "keys": None}
    return Tokens(secret=Secret(KEY), mode="local", identities=IdentityRegistry(policy, empty), clock=Clock(), **options)


def signed(*, key: bytes = KEY, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changed: Any) -> str:
    """Return a token; times are seconds from now."""
    now = int(time.time())
    changed |= {name: now + changed[name] for name in ("iat", "exp") if changed.get(name) is not None}
    claims = {"iss": LOCAL_NAME, "aud": LOCAL_NAME, "sub": "kim", "iat": now, "exp": now + 600, "roles": ["staff"]}
    claims = {name: value for name, value in (claims | changed).items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


async def test_a_token_says_who_and_what_they_may(tokens: Tokens) -> None:
    principal = await tokens.principal(signed())
    assert (principal.name, principal.may("read:robots"), principal.may("administer")) == ("kim", True, False)
    assert principal.roles == {"staff"}
    own = tokens.issue(name="lee", roles=["admin"], token=None, lifetime_s=60.0)
    assert (await tokens.principal(own)).may("administer")


@pytest.mark.parametrize(
    "bad",
    [
        {"key": bytes(64)},
        {"algorithm": "HS512"},
        {"headers": {"crit": ["exp"]}},
        {"iss": "another"},
        {"aud": "another"},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"exp": None},
        {"iat": None},
        {"iat": 10 * LEEWAY_S, "exp": 600 + 10 * LEEWAY_S},
        {"exp": LIFETIME_CAP_S + 60},
        {"sid": "7; DROP"},
        {"sid": "9" * 19},
        {"padding": "x" * MAX_TOKEN_BYTES},
    ],
    ids="-".join,
)
async def test_what_is_not_ours_or_not_whole_is_refused(tokens: Tokens, bad: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        await tokens.principal(signed(**bad))


@pytest.mark.parametrize("text", ["", "a", "a.b.c", "é" * 20, "." * 50])
async def test_what_is_no_token_is_refused(tokens: Tokens, text: str) -> None:
    with pytest.raises(TokenInvalid):
        await tokens.principal(text)


async def test_a_token_ends_and_our_own_clock_needs_no_leeway(tokens: Tokens) -> None:
    with pytest.raises(TokenExpired):
        await tokens.principal(signed(iat=-700, exp=-100))
    with pytest.raises(TokenExpired):
        await tokens.principal(signed(iat=-700, exp=-LEEWAY_S // 2))


async def test_none_signs_nothing(tokens: Tokens) -> None:
    text = jwt.encode({"iss": LOCAL_NAME, "aud": LOCAL_NAME, "sub": "kim", "iat": 0, "exp": 2**40}, "", algorithm="none")
    with pytest.raises(TokenInvalid):
        await tokens.principal(text)
