"""Which page sends a request, by its Origin header (RFC 6454; SPEC section 3): our own, one that is listed, or another one.

`web/middleware.py` refuses what may not come.

Origins are compared by scheme, host and port as numbers and names, not as text: `HTTP://KDS.example:80` is
`http://kds.example`. `null`, what a page from a file has, and what is no origin at all equal nothing, not even themselves.
"""

import enum
import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

DEFAULT_PORTS = {"http": 80, "https": 443}

MAX_ORIGIN_LENGTH = 300
"""A host name has at most 253 characters."""

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)")
_AUTHORITY = re.compile(r"(\[[^\[\]]+\]|[^\[\]:/?#@\\\s,]+)(?::([0-9]{0,5}))?")


class Origin(NamedTuple):
    """A page's origin; `port` is None where it is left out and the scheme has no default."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        is_usual = self.port is None or self.port == DEFAULT_PORTS.get(self.scheme)
        return f"{self.scheme}://{self.host}" + ("" if is_usual else f":{self.port}")


class OriginKind(enum.Enum):
    """Whose page sends a request."""

    ABSENT = "absent"
    """It does not say: a program, or a browser that only follows a link."""
    OWN = "own"
    LISTED = "listed"
    FOREIGN = "foreign"


class Origins:
    """Knows our own pages by the host that was asked for, and those of `[server] allowed_origins`."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = {parse(text.removesuffix("/")) for text in allowed} - {None}

    def kind(self, origin: str | None, *, host: str) -> OriginKind:
        """Return whose page sends a request.

        Args:
            origin: its Origin header; None where there is none.
            host: its Host header, which must be checked: that it is a name of ours.
        """
        if origin is None:
            return OriginKind.ABSENT
        parsed = parse(origin)
        if parsed is None:
            return OriginKind.FOREIGN
        if parsed in self._allowed:
            return OriginKind.LISTED
        # A proxy may end the TLS: what a Host without a port means is known by the page's scheme only.
        is_own = parsed.scheme in DEFAULT_PORTS and _authority(host, parsed.scheme) == (parsed.host, parsed.port)
        return OriginKind.OWN if is_own else OriginKind.FOREIGN


def parse(text: str) -> Origin | None:
    """Return an origin in its one form; None for `null` and for what is no origin."""
    if len(text) > MAX_ORIGIN_LENGTH or (found := _ORIGIN.fullmatch(text.lower())) is None:
        return None
    scheme, rest = found.groups()
    authority = _authority(rest, scheme)
    return None if authority is None else Origin(scheme, *authority)


def _authority(text: str, scheme: str) -> tuple[str, int | None] | None:
    """Return host and port of `host:port`; None where it is none."""
    if (found := _AUTHORITY.fullmatch(text.lower())) is None:
        return None
    host, digits = found.groups()
    try:
        if host.startswith("["):
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        elif not host.isascii():
            host = host.encode("idna").decode()  # as browsers send what a person wrote into the settings
    except ValueError:
        return None
    port = int(digits) if digits else DEFAULT_PORTS.get(scheme)
    return None if port is not None and not 0 < port < 65536 else (host, port)
