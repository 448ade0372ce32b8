"""Who is asking, and what they may do (SPEC section 8).

What the table of rights means; the table itself and its defaults are `settings.Rights`.
"""

import hashlib
import ipaddress
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from robodyne_rt.model.topics import TOPIC_NAMES
from robodyne_rt.settings import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ROLES = ("admin", "manager", "kitchen", "staff", "display", "technician")


class Networks:
    """A list of networks that can be asked about an address: `"10.1.2.3" in Networks(["10.0.0.0/8"])`."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(text, strict=False) for text in networks]
        self._known: dict[str, bool] = {}

    def __contains__(self, address: str | None) -> bool:
        if not address:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) > 4096:
                self._known.clear()
            known = self._known[address] = self._holds(address)
        return known

    def _holds(self, text: str) -> bool:
        try:
            address: Address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        # A dual-stack socket reports IPv4 peers as ::ffff:a.b.c.d.
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks if network.version == address.version)


def source_of(address: str) -> str:
    """Return what counts as one place for an address: an IPv6 /64, which is one household's to choose from, is one."""
    try:
        parsed: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def host_of(text: str) -> str:
    """Return the address in what a proxy says, `1.2.3.4:5678` or `[2001:db8::1]:5678`: some add the port."""
    if found := _WITH_PORT.fullmatch(text):
        return found[1] or found[2]
    return text


_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([0-9.]+))(?::[0-9]{1,5})?")


class Profile(NamedTuple):
    """What an issuer says of a user: for people to read, and never to decide by."""

    username: str
    full_name: str | None = None
    email: str | None = None
    company: str | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was identified, and what they may do just now.

    Attributes:
        name: of the user, or what the token was given out for; of an issuer's user the id, see `issuers_user`.
        roles: the words of the table of rights.
        rights: what those roles allow: `read:robots`, `query`, ..., or `*`.
        place_rights: what everybody may who comes from there.
        claimed_roles: what the token says; counts only where this server knows no better.
        token: the row of `token` that it depends on; None for tokens of an issuer, and for those who bear none.
        expires_at: epoch seconds.
        is_anonymous: whether nobody said who it is.
        is_bearer: whether it depends on a token.
        profile: what an issuer says of its user; None for those who are known here by name.
    """

    name: str
    roles: frozenset[str]
    rights: frozenset[str]
    place_rights: frozenset[str] = frozenset()
    claimed_roles: frozenset[str] = frozenset()
    token: int | None = None
    expires_at: float = math.inf
    is_anonymous: bool = False
    is_bearer: bool = False
    profile: Profile | None = None

    def may(self, right: str) -> bool:
        """Return whether it has a right."""
        if right in self.rights or "*" in self.rights or right in self.place_rights:
            return True
        return right.startswith("read:") and ("read:*" in self.rights or "read:*" in self.place_rights)

    def may_read(self, topic: str) -> bool:
        """Return whether it may see a topic."""
        return self.may(f"read:{topic}")

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name if self.profile is None else self.profile.username

    @property
    def is_display(self) -> bool:
        """Whether it may take the places that are reserved for screens."""
        return "display" in self.roles


ISSUER_PREFIX = "oidc:"
"""Before issuer and subject, which are the name of an issuer's user here: what such a user is called is not theirs alone."""


def issuers_user(issuer: str, subject: str) -> str:
    """Return the name of an issuer's user, `oidc:ISSUER#SUBJECT`; a digest of it where that cannot be kept as it is."""
    name = f"{ISSUER_PREFIX}{issuer}#{subject}"
    return name if name.isascii() and len(name) <= MAX_ID_LENGTH else ISSUER_PREFIX + hashlib.sha256(name.encode()).hexdigest()


MAX_ID_LENGTH = 200
"""The longest name that the database keeps."""

ANONYMOUS = "anonymous"
LOCAL = "local"
RESERVED_NAMES = frozenset({ANONYMOUS, LOCAL})
"""What those are called who have no name."""

ROLE_PREFIX = "role:"
"""Before the name of a role where a name of a user may stand as well."""


FORMER_SUFFIX = "@oidc"
"""Behind the name of an issuer's user, in what earlier versions kept; nobody else may be called so."""


def is_reserved(name: str) -> bool:
    """Return whether a name has a meaning of its own, so that nobody can bear it."""
    return name in RESERVED_NAMES or name.startswith((ROLE_PREFIX, ISSUER_PREFIX)) or name.endswith(FORMER_SUFFIX)


def normal_name(text: str) -> str:
    """Return a user's name in the one form in which they are compared (NFKC; capitals count): however it was typed, it is one
    person."""
    return unicodedata.normalize("NFKC", text)


class AccessPolicy:
    """The table of rights, from `[rights]` and `[auth]`.

    Args:
        rights: by role.
    Raises:
        ConfigError: it names topics that do not exist; a line for each key.
    """

    def __init__(
        self,
        *,
        mode: str,
        rights: Mapping[str, Iterable[str]],
        anonymous_topics: Iterable[str],
        anonymous_networks: Iterable[str],
        device_networks: Iterable[str],
    ) -> None:
        self.is_open = mode == "off"
        self._rights = {role: frozenset(words) for role, words in rights.items()}
        topics = frozenset(anonymous_topics)
        named = {f"[rights] {role}": {word[5:] for word in words if word.startswith("read:")} for role, words in rights.items()}
        wrong = [
            f"{key}: unknown topic {unknown[0]!r}; known: {', '.join(TOPIC_NAMES)}"
            for key, names in (named | {"[auth] anonymous_topics": topics}).items()
            if (unknown := sorted(names - {*TOPIC_NAMES, "*"}))
        ]
        if wrong:
            raise ConfigError("\n".join(wrong))
        self._networks = Networks(anonymous_networks)
        self._device_networks = Networks(device_networks)
        self._guest = frozenset(f"read:{topic}" for topic in topics) | {"look"}
        self.local = Principal(LOCAL, frozenset({"admin"}), frozenset({"*"}))
        """Who comes over the control socket, or where nobody is checked."""

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles that there are."""
        return tuple(self._rights)

    def rights_of(self, roles: Iterable[str]) -> frozenset[str]:
        """Return what these roles allow; unknown roles allow nothing."""
        return frozenset().union(*(self._rights.get(role, frozenset()) for role in roles))

    def place_rights(self, address: str | None) -> frozenset[str]:
        """Return what everybody may who comes from `address`."""
        rights = self._guest if address in self._networks else _LOOK if address in _LOOPBACK else _NOTHING
        return rights | _SEND if address in self._device_networks else rights

    def anonymous(self, address: str | None) -> Principal:
        """Return who comes from `address` without a token."""
        if self.is_open:
            return self.local
        return Principal(ANONYMOUS, _NOTHING, _NOTHING, self.place_rights(address), is_anonymous=True)


_NOTHING: frozenset[str] = frozenset()
_SEND = frozenset({"send_device_messages"})
_LOOK = frozenset({"look"})
_LOOPBACK = Networks(["127.0.0.0/8", "::1/128"])
