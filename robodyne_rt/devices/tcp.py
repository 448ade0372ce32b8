"""The TCP port for devices: who may connect, how many, and one protocol each."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, cast

import anyio

from robodyne_rt.core.device_auth import Identity
from robodyne_rt.core.framing import Detector
from robodyne_rt.devices.device_protocol import DeviceProtocol
from robodyne_rt.devices.receiver import Peer, Receiver
from robodyne_rt.devices.turns import ReadingTurns
from robodyne_rt.model.access import Networks
from robodyne_rt.protocol import device_messages

logger = logging.getLogger(__name__)

HANDSHAKE_S = 5.0
"""How long a TLS handshake may take."""

UNPROVEN_PART = 4
MIN_UNPROVEN = 5
"""Beside the places of devices there are a part of as many for those that have not proven their key yet: silent dials keep
nobody out."""

DEAD_PEER_TIMEOUT_MS = 30_000
"""Unacknowledged bytes for this long mean that the cable is out (TCP_USER_TIMEOUT)."""

PROBE_AFTER_S = 30
PROBE_EVERY_S = 10
PROBES = 3
"""A peer that says nothing is asked by the kernel whether it is there; one that lost its power is let go within 60 s."""

DISPLACED_AFTER_S = 10.0
"""Where all places are taken, a newcomer takes that of a connection of its own address that was silent for so long."""


class DeviceServer:
    """Listens for devices.

    Args:
        trusted_networks: whence devices may come without a key.
        keys: whether devices from elsewhere may come with one.
        identity_of: who bears a name, for client certificates.
        max_connections: over it, a device is told so and closed.
    """

    def __init__(
        self,
        *,
        receiver: Receiver,
        turns: ReadingTurns,
        trusted_networks: Networks,
        keys: bool,
        identity_of: Callable[[str], Identity | None],
        max_message_bytes: int,
        max_connections: int,
    ) -> None:
        self._receiver = receiver
        self._turns = turns
        self._keys = keys
        self._identity_of = identity_of
        self._trusted = trusted_networks
        self._max_message_bytes = max_message_bytes
        self._max_connections = max_connections
        self._protocols: dict[DeviceProtocol, None] = {}
        self._server: asyncio.Server | None = None
        self._logged_at = float("-inf")

    async def start(self, *, host: str, port: int, sock: socket.socket | None = None, tls: ssl.SSLContext | None = None) -> int:
        """Bind and listen, on `sock` where systemd handed one over; return the port."""
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"backlog": 512}
        if tls is not None:
            options |= {"ssl": tls, "ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": HANDSHAKE_S}
        if sock is not None:
            self._server = await loop.create_server(self._protocol, sock=sock, **options)
        else:
            self._server = await loop.create_server(self._protocol, host, port, **options)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def _protocol(self) -> asyncio.Protocol:
        return _Accepting(self)

    def accept(self, transport: asyncio.Transport) -> DeviceProtocol | None:
        """Return the protocol of a new connection, or None after it was told why not."""
        address = str((transport.get_extra_info("peername") or ("local",))[0])
        identity = self._of_certificate(transport)
        is_trusted = address in self._trusted or identity is not None
        if not is_trusted and not self._keys:
            self._refuse(transport, address, "UNAUTHORIZED", "devices from this network are not taken")
            return None
        peer = Peer(address, must_prove=not is_trusted)
        if identity is not None:
            self._receiver.proven(peer, identity)
        if refusal := self._no_place_for(peer):
            self._receiver.left(peer)
            self._refuse(transport, address, "RATE_LIMITED", refusal)
            return None
        _watch_for_death(transport)
        protocol = DeviceProtocol(
            receiver=self._receiver,
            turns=self._turns,
            peer=peer,
            make_framer=lambda: Detector(max_bytes=self._max_message_bytes),
            closes_on_timeout=True,
            on_lost=self._lost,
        )
        peer.no_place = lambda: self._no_place_for(peer)
        self._protocols[protocol] = None
        self._receiver.stats.connections["tcp"] = len(self._protocols)
        logger.debug("= device connected from %s", address)
        return protocol

    def _no_place_for(self, peer: Peer) -> str:
        """Return why there is no place for a peer; nothing where there is one, which a silent connection may have made.

        Strangers have places of their own for the seconds that a proof takes, so that a device whose old connection is dead
        can prove who it is and take that one's place. What has proved nothing never displaces what has.
        """
        if len(self._protocols) >= 2 * self._max_connections + MIN_UNPROVEN:
            return "too many connections are ending"
        others = [
            protocol
            for protocol in self._protocols
            if not (protocol.is_ending or protocol.is_displaced) and protocol.peer is not peer
        ]
        if peer.is_unproven:
            strangers = sum(protocol.peer.is_unproven for protocol in others)
            is_full = strangers >= max(MIN_UNPROVEN, self._max_connections // UNPROVEN_PART)
            return "too many devices are proving who they are" if is_full else ""
        taken = [protocol for protocol in others if not protocol.peer.is_unproven]
        if len(taken) < self._max_connections:
            return ""
        silent_since = self._turns.loop.time() - DISPLACED_AFTER_S
        silent = [
            protocol
            for protocol in taken
            if protocol.peer.address == peer.address
            and protocol.heard_at < silent_since
            and (protocol.peer.identity is None or peer.identity is not None)
        ]
        if not silent:
            return f"{self._max_connections} devices are connected already"
        logger.info("device at %s takes the place of a silent connection", peer.address, extra={"action": "device_displaced"})
        min(silent, key=lambda protocol: protocol.heard_at).displace()
        return ""

    def _of_certificate(self, transport: asyncio.Transport) -> Identity | None:
        """Return whom a checked client certificate names (the common name of its subject), if it is a device of ours."""
        certificate = transport.get_extra_info("peercert") or {}
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        return self._identity_of(names[0]) if len(names) == 1 else None

    def _refuse(self, transport: asyncio.Transport, address: str, code: str, text: str) -> None:
        self._receiver.stats.refused[code] += 1
        now = time.monotonic()
        if now - self._logged_at >= 1.0:  # one line a second: a scanner must not fill the log
            self._logged_at = now
            logger.warning("device at %s refused: %s", address, text, extra={"action": "device_refused"})
        transport.write(device_messages.problem(code, text) + b"\n")
        transport.close()

    def _lost(self, protocol: DeviceProtocol, error: Exception | None) -> None:
        self._protocols.pop(protocol, None)
        self._receiver.stats.connections["tcp"] = len(self._protocols)
        name = protocol.peer.device or ", ".join(list(protocol.peer.robots)[:5]) or protocol.peer.name
        logger.debug("= device gone: %s%s", name, f" ({error})" if error else "")

    async def stop(self, deadline_s: float) -> None:
        """Take nothing more, answer what was taken, close; cut off who does not take its answers in time."""
        if self._server is not None:
            self._server.close()
        for protocol in list(self._protocols):
            protocol.end()
        with anyio.move_on_after(deadline_s):
            while self._protocols:
                await anyio.sleep(0.01)
        for protocol in list(self._protocols):
            protocol.abort()


def _watch_for_death(transport: asyncio.Transport) -> None:
    """Let the kernel end a connection whose peer is gone without a word."""
    if (sock := transport.get_extra_info("socket")) is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER_S),
        ("TCP_KEEPINTVL", PROBE_EVERY_S),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", DEAD_PEER_TIMEOUT_MS),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Accepting(asyncio.Protocol):
    """Stands in until the peer's address is known, then hands its transport to the device's own protocol."""

    def __init__(self, server: DeviceServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's transports are asyncio's in behaviour only
        if (protocol := self._server.accept(stream)) is not None:
            stream.set_protocol(protocol)
            protocol.connection_made(stream)
