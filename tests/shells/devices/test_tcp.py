"""Who gets a place at the device port, and who makes room."""

import json
import secrets
import socket
from typing import Any

import pytest

from robodyne_rt.core.device_auth import DeviceAuth, Identity, Known, proof
from robodyne_rt.devices import tcp
from robodyne_rt.devices.device_protocol import DeviceProtocol
from robodyne_rt.devices.receiver import Receiver
from robodyne_rt.devices.tcp import DISPLACED_AFTER_S, DeviceServer
from robodyne_rt.devices.turns import ReadingTurns
from robodyne_rt.model.access import Networks
from robodyne_rt.testing.clock import HandClock, HandLoop
from robodyne_rt.testing.devices import FakeStore, FakeTelemetry, FakeTransport

KEY = b"k" * 32
ELSEWHERE = "192.0.2.9"


class Bench:
    def __init__(self, *, max_connections: int = 3) -> None:
        self.clock = HandClock()
        self.loop = HandLoop(self.clock)
        self.receiver = Receiver(store=FakeStore(), telemetry=FakeTelemetry(), auth=DeviceAuth(self._known), clock=self.clock)
        self.server = DeviceServer(
            receiver=self.receiver,
            turns=ReadingTurns(self.loop),  # type: ignore[arg-type]
            trusted_networks=Networks(["10.0.0.0/8"]),
            keys=True,
            identity_of=lambda name: Identity(name, None),
            max_message_bytes=1000,
            max_connections=max_connections,
        )

    def _known(self, device_id: str) -> Known:
        return Known({"1": KEY}, Identity(device_id, None, "1"))

    def dial(self, address: str = "10.0.0.1", *, certificate: str = "") -> "Device":
        return Device(self, address, certificate)


class Device(FakeTransport):
    """The far end of one connection."""

    def __init__(self, bench: Bench, address: str, certificate: str) -> None:
        super().__init__()
        self._bench, self._address, self._certificate = bench, address, certificate
        self.protocol: DeviceProtocol | None = bench.server.accept(self)
        if self.protocol is not None:
            self.protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peercert" and self._certificate:
            return {"subject": ((("commonName", self._certificate),),)}
        return (self._address, 1234) if name == "peername" else default

    @property
    def is_in(self) -> bool:
        return not self.ended

    @property
    def answers(self) -> list[dict[str, Any]]:
        self._bench.loop.turn()
        return [json.loads(line) for line in self.written.splitlines()]

    def say(self, **fields: Any) -> dict[str, Any]:
        assert self.protocol is not None
        self.protocol.data_received(json.dumps(fields).encode() + b"\n")
        return self.answers[-1] if self.answers else {}

    def prove(self, device_id: str) -> dict[str, Any]:
        mine = secrets.token_hex(16)
        nonce = self.say(msg_type="Hello", device_id=device_id, client_nonce=mine)["nonce"]
        return self.say(msg_type="Hello", device_id=device_id, proof=proof(KEY, device_id, nonce, mine))

    def abort(self) -> None:
        super().abort()
        assert self.protocol is not None
        self.protocol.connection_lost(None)


def test_a_device_whose_place_is_taken_by_its_own_silent_connection_gets_in() -> None:
    bench = Bench()
    first, second, third = (bench.dial() for _ in range(3))
    refused = bench.dial()
    assert refused.answers[0]["error_code"] == "RATE_LIMITED" and not refused.is_in
    bench.loop.advance(DISPLACED_AFTER_S + 0.1)
    first.say(msg_type="Log", level="INFO", message="here")
    assert bench.dial().is_in
    assert first.is_in and not second.is_in and third.is_in


def test_fifty_places_survive_a_device_that_loses_its_power_again_and_again() -> None:
    bench = Bench(max_connections=50)
    for _ in range(200):
        assert bench.dial().is_in
        bench.loop.advance(DISPLACED_AFTER_S / 40)


def test_a_connection_that_was_silent_for_less_keeps_its_place() -> None:
    bench = Bench(max_connections=1)
    first = bench.dial()
    bench.loop.advance(DISPLACED_AFTER_S - 0.1)
    assert not bench.dial().is_in and first.is_in


def test_one_silent_connection_makes_room_for_one() -> None:
    bench = Bench(max_connections=3)
    silent, *others = (bench.dial() for _ in range(3))
    bench.loop.advance(DISPLACED_AFTER_S + 0.1)
    for other in others:
        other.say(msg_type="Log", level="INFO", message="here")
    silent.abort = lambda: None  # type: ignore[method-assign]  # a transport tells of its end a turn later
    assert [bench.dial().is_in for _ in range(3)] == [True, False, False]


def test_nobody_takes_the_place_of_another_address() -> None:
    bench = Bench(max_connections=1)
    first = bench.dial("10.0.0.1")
    bench.loop.advance(100)
    assert not bench.dial("10.0.0.2").is_in and first.is_in


def test_what_has_proved_nothing_never_displaces_what_has() -> None:
    bench = Bench(max_connections=1)
    known = bench.dial(certificate="kiosk")
    bench.loop.advance(100)
    assert not bench.dial().is_in and known.is_in
    assert bench.dial(certificate="other").is_in and not known.is_in


def test_a_device_takes_the_place_of_its_own_old_connection_at_once() -> None:
    bench = Bench(max_connections=1)
    old = bench.dial(ELSEWHERE)
    assert old.prove("alba-1")["status"] == "success"
    new = bench.dial("198.51.100.4")
    assert new.prove("alba-1")["status"] == "success"
    assert new.is_in and not old.is_in


def test_a_certificate_takes_the_place_of_its_own_old_connection_at_once() -> None:
    bench = Bench(max_connections=1)
    old = bench.dial(certificate="kiosk")
    assert bench.dial(certificate="kiosk").is_in
    bench.loop.turn()
    assert not old.is_in


def test_another_device_that_proves_itself_gets_no_place_where_there_is_none() -> None:
    bench = Bench(max_connections=1)
    old = bench.dial(ELSEWHERE)
    old.prove("alba-1")
    new = bench.dial(ELSEWHERE)
    assert new.prove("alba-2")["error_code"] == "RATE_LIMITED"
    assert old.is_in and not new.is_in


def test_strangers_have_few_places_and_take_none_of_the_devices() -> None:
    bench = Bench(max_connections=3)
    strangers = [bench.dial(ELSEWHERE) for _ in range(6)]
    assert [stranger.is_in for stranger in strangers] == [True] * 5 + [False]
    assert all(bench.dial().is_in for _ in range(3))


def test_connections_that_are_ending_are_bounded_as_well() -> None:
    bench = Bench(max_connections=2)
    for _ in range(9):
        device = bench.dial()
        assert device.protocol is not None
        device.say(msg_type="Log", level="INFO", message="unanswered")
        device.protocol.end()
    assert bench.dial().answers[0]["error_code"] == "RATE_LIMITED"
    bench.loop.advance(60)
    assert bench.dial().is_in


def test_the_kernel_lets_a_dead_peer_go_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        transport = FakeTransport()
        monkeypatch.setattr(transport, "get_extra_info", lambda name, default=None: sock)
        tcp._watch_for_death(transport)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, every, probes = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + every * probes <= 60
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
