"""Connections are bounded for all and for each address; what is worked on stays."""

import logging
from typing import Any

import pytest

from robodyne_rt.model.access import Networks
from robodyne_rt.testing.clock import HandClock
from robodyne_rt.web.connections import TOLD_EVERY_S, HttpConnections


class Connection:
    """Something that can be cut off."""

    is_cut = False
    place = None

    def cut(self) -> None:
        self.is_cut = True


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def admit(connections: HttpConnections, address: str, count: int = 1) -> list[Any]:
    made: list[Any] = [Connection() for _ in range(count)]
    return [connection for connection in made if connections.admit(connection, address)]


def build(clock: HandClock, limit: int = 10, proxies: tuple[str, ...] = ()) -> HttpConnections:
    return HttpConnections(limit=limit, trusted_proxies=Networks(proxies), now=clock.now)


def test_one_address_holds_half_at_most(clock: HandClock) -> None:
    connections = build(clock)
    held = admit(connections, "10.0.0.1", 7)
    assert [item.is_cut for item in held] == [True, True, False, False, False, False, False]
    assert len(connections) == 5
    for item in held[2:]:
        connections.work(item)
    assert admit(connections, "10.0.0.1") == [], "all of its own are worked on"
    assert len(admit(connections, "10.0.0.2")) == 1


def test_the_largest_holder_gives_way_and_networks_of_ipv6_are_one(clock: HandClock) -> None:
    connections = build(clock)
    held = admit(connections, "2001:db8::1", 3) + admit(connections, "2001:db8::2", 2)
    admit(connections, "10.0.0.1", 4)
    assert len(admit(connections, "10.0.0.2", 2)) == 2
    assert [item.is_cut for item in held] == [True, False, False, False, False]


def test_what_is_worked_on_stays_and_waits_longest_from_then(clock: HandClock) -> None:
    connections = build(clock)
    held = admit(connections, "10.0.0.1", 5)
    connections.work(held[0])
    connections.work(held[1])
    connections.wait(held[0])
    admit(connections, "10.0.0.1", 3)
    assert [item.is_cut for item in held] == [False, False, True, True, True]
    admit(connections, "10.0.0.1")
    assert held[0].is_cut and not held[1].is_cut


def test_a_trusted_proxy_brings_many(clock: HandClock) -> None:
    connections = build(clock, proxies=("10.0.0.0/24",))
    held = admit(connections, "10.0.0.1", 8)
    strangers = admit(connections, "10.1.0.1", 4)
    assert not any(item.is_cut for item in held)
    assert [item.is_cut for item in strangers] == [True, True, False, False]


def test_it_is_told_once_a_minute(clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    connections = build(clock)
    with caplog.at_level(logging.WARNING):
        admit(connections, "10.0.0.1", 5)
        assert (caplog.records, connections.cut) == ([], 0)
        admit(connections, "10.0.0.1", 50)
        clock.advance(TOLD_EVERY_S)
        admit(connections, "10.0.0.1", 50)
    assert [record.__dict__["action"] for record in caplog.records] == ["http_full"] * 2
    assert connections.cut == 100


def test_who_leaves_gives_the_place_back(clock: HandClock) -> None:
    connections = build(clock)
    for item in admit(connections, "10.0.0.1", 5):
        connections.leave(item)
        connections.leave(item)
    assert len(connections) == 0
    assert not any(item.is_cut for item in admit(connections, "10.0.0.1", 5))
