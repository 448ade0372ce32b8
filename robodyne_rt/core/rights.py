"""Whether somebody has a right, asked in one place for HTTP and WebSocket (SPEC sections 7 and 8)."""

from robodyne_rt.model.access import Principal
from robodyne_rt.protocol.errors import Forbidden, TokenMissing


def require(principal: Principal, right: str, what: str) -> None:
    """Check that somebody has a right.

    Args:
        right: a word of `[rights]`.
        what: what it is for, as it is told: `topic robots`.
    Raises:
        TokenMissing: not everybody has it, and nobody said who this is.
        Forbidden: this one has it not.
    """
    if principal.may(right):
        return
    if principal.is_anonymous:
        raise TokenMissing(f"{what} needs a token")
    raise Forbidden(
        f"{principal.label} may not: {what} is not among the rights of {', '.join(sorted(principal.roles)) or 'no role'}"
    )


def require_topic(principal: Principal, topic: str) -> None:
    """Check that somebody may read a topic.

    Raises:
        TokenMissing, Forbidden: see `require`.
    """
    require(principal, f"read:{topic}", f"topic {topic}")
