"""Who may read what. Users, roles and tokens follow; until then a peer is known by its address only (SPEC section 8)."""

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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


class AccessPolicy:
    """Decides from the settings of `[auth]` who may read a topic."""

    def __init__(self, *, mode: str, anonymous_topics: Iterable[str], anonymous_networks: Iterable[str]) -> None:
        self._open = mode == "off"
        self._topics = frozenset(anonymous_topics)
        self._networks = Networks(anonymous_networks)

    def may_read(self, topic: str, address: str | None) -> bool:
        """Return whether a peer at `address` may read `topic` without a token."""
        return self._open or (topic in self._topics and address in self._networks)

    def may_look(self, address: str | None) -> bool:
        """Return whether a peer may see metrics and the verbose health report."""
        return self._open or address in self._networks or address in _LOOPBACK

    def may_administer(self, *, is_local: bool) -> bool:
        """Return whether a peer may change what the server keeps: over the control socket, or where nobody is checked."""
        return self._open or is_local


_LOOPBACK = Networks(["127.0.0.0/8", "::1/128"])
