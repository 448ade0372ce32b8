"""Who may come in, how connections end, and what happens by the clock."""

import asyncio
import functools
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from robodyne_rt.hub.connection import LAG_WINDOW_S, HeartbeatKind, HubStats
from robodyne_rt.model.access import Principal
from robodyne_rt.protocol import topic_messages
from tests.hub.harness import FakeTransport, Rig, Screen


async def test_the_one_over_the_cap_is_told_topic_full(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(max_connections_per_topic=3, topic_limits={"tables": 1})
    screens = [await rig.connect("robots") for _ in range(4)]
    assert [screen.connection.closing for screen in screens] == [False, False, False, True]
    assert screens[3].transport.close_reason() == (1008, "topic_full")
    await rig.connect("tables")
    assert (await rig.connect("tables")).connection.closing
    rig.hub.gone(screens[0].connection)
    assert not (await rig.connect("robots")).connection.closing


async def test_displays_have_places_of_their_own(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(max_connections_per_topic=3, display_reserve=1)
    others = [await rig.connect("robots", role="staff") for _ in range(3)]
    assert [screen.connection.closing for screen in others] == [False, False, True]
    assert not (await rig.connect("robots", role="display")).connection.closing
    assert (await rig.connect("robots", role="display")).connection.closing


async def test_an_unknown_topic_is_told_so(rig: Rig) -> None:
    assert (await rig.connect("nonsense")).transport.close_reason() == (1003, "unknown_topic")


async def test_a_client_that_answers_pings_lives_and_one_that_does_not_is_closed(rig: Rig) -> None:
    alive, dead = await rig.connect("robots"), await rig.connect("robots")
    alive.take(), dead.take()
    for _ in range(1210):
        rig.tick(0.1)
        for message in alive.take():
            assert message["type"] == "ping" and message["topic"] == "status"
            alive.say(type="pong", data=message["data"])
    assert not alive.connection.closing
    frames = dead.transport.frames()
    assert [json.loads(payload)["type"] for opcode, payload in frames if opcode == 1] == ["ping"] * 3
    assert frames[-1] == (8, (4003).to_bytes(2, "big") + b"heartbeat_lost")


async def test_protocol_pongs_count_only_for_who_asked_for_it(rig: Rig) -> None:
    asked = await rig.connect("robots", heartbeat_kind="protocol")
    other = await rig.connect("robots")
    asked.take(), other.take()
    for _ in range(1210):
        rig.tick(0.1)
        for screen in (asked, other):
            if not screen.connection.closing:
                screen.connection.received_pong(rig.clock.now()) if screen.transport.written else None
                if any(opcode == 9 for opcode, _ in screen.transport.frames()):
                    screen.connection.received_pong(rig.clock.now())
    assert not asked.connection.closing
    assert other.connection.closing


@pytest.mark.parametrize("kind", ["message", "protocol"])
async def test_who_answers_each_ping_twelve_seconds_late_lives_and_the_pong_of_an_old_ping_does_not_count(
    rig: Rig, kind: HeartbeatKind
) -> None:
    late, stuck = [await rig.connect("robots", heartbeat_kind=kind) for _ in range(2)]
    pings: dict[Screen, list[tuple[float, bytes]]] = {late: [], stuck: []}
    for screen in pings:
        screen.take()

    def answer(screen: Screen, ping: bytes) -> None:
        if kind == "protocol":
            screen.connection.received_pong(rig.clock.now(), ping)
        else:
            screen.say(type="pong", data=json.loads(ping)["data"])

    for _ in range(5000):
        rig.tick(0.1)
        for screen, sent in pings.items():
            for opcode, payload in screen.transport.frames():
                if opcode == (9 if kind == "protocol" else 1):
                    sent.append((rig.clock.now(), payload))
                    if screen is stuck:
                        answer(stuck, sent[0][1])
        if pings[late] and rig.clock.now() >= pings[late][0][0] + 12:
            answer(late, pings[late].pop(0)[1])
    assert stuck.connection.closing and not late.connection.closing


async def test_the_next_ping_may_come_before_the_answer_was_due(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(ping_interval_s=1, pong_timeout_s=60)
    screen = await rig.connect("robots")
    screen.take()
    pings = 0
    for _ in range(100):
        rig.tick(0.1)
        for message in screen.take():
            pings += 1
            screen.say(type="pong", data=message["data"])
    assert 9 <= pings <= 10


async def test_a_clients_own_ping_is_answered_at_once_and_limited(rig: Rig) -> None:
    screen = await rig.connect("robots")
    screen.take()
    screen.say(type="ping", data={"n": 1})
    assert screen.take() == [{"type": "pong", "topic": "robots", "data": {"n": 1}}]
    for number in range(3):
        screen.say(type="ping", data={"n": number})
    write_registry = [message["type"] if message["type"] == "pong" else message["data"]["code"] for message in screen.take()]
    assert write_registry == ["pong", "RATE_LIMITED", "RATE_LIMITED"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{", "INVALID_MESSAGE"),
        (b"[]", "INVALID_MESSAGE"),
        (b'{"type":7}', "INVALID_MESSAGE"),
        (b'{"type":"nonsense","requestId":"r1"}', "UNKNOWN_TYPE"),
    ],
)
async def test_a_bad_message_is_answered_and_twenty_end_it(rig: Rig, text: bytes, code: str) -> None:
    screen = await rig.connect("robots")
    screen.take()
    for _ in range(19):
        screen.connection.received(text, rig.clock.now(), topic_messages.parse_client)
        (message,) = screen.take()
        assert message["type"] == "error" and message["data"]["code"] == code
        rig.clock.at += 0.1
    screen.connection.received(text, rig.clock.now(), topic_messages.parse_client)
    assert screen.transport.close_reason() == (1008, "abuse")


async def test_bad_messages_of_long_ago_are_forgiven(rig: Rig) -> None:
    screen = await rig.connect("robots")
    for _ in range(40):
        screen.connection.received(b"{", rig.clock.now(), topic_messages.parse_client)
        rig.clock.at += 4
    assert not screen.connection.closing


async def test_a_flood_ends_the_connection(rig: Rig) -> None:
    screen = await rig.connect("robots")
    screen.take()
    for _ in range(300):
        screen.connection.received_ping(b"x", rig.clock.now())
    assert (8, (1008).to_bytes(2, "big") + b"abuse") in screen.transport.frames()


async def test_draining_tells_everyone_and_newcomers_too(rig: Rig) -> None:
    screens = [await rig.connect(topic) for topic in ("robots", "events", "status")]
    for screen in screens:
        screen.transport.messages()
    rig.hub.drain("restart")
    for screen in screens:
        (_, notice), (opcode, close) = screen.transport.frames()
        assert json.loads(notice) == {"type": "shutdown", "topic": "status", "data": {"reason": "restart"}}
        assert (opcode, close) == (8, (1001).to_bytes(2, "big") + b"shutting_down")
    assert (await rig.connect("robots")).transport.close_reason() == (1001, "shutting_down")


async def test_a_peer_that_does_not_take_its_close_is_aborted(rig: Rig) -> None:
    screen = await rig.connect("nonsense")
    rig.tick(4.9)
    assert not screen.transport.aborted
    rig.tick(0.2)
    assert screen.transport.aborted and rig.hub.connections == 0


@pytest.mark.parametrize("kind", ["message", "protocol"])
async def test_a_peer_that_takes_nothing_any_more_frees_its_place_within_the_heartbeat(
    make_rig: Callable[..., Rig], kind: HeartbeatKind
) -> None:
    rig = make_rig(max_connections_per_topic=1)
    gone = await rig.connect("robots", heartbeat_kind=kind)
    gone.transport.takes = False
    gone.transport.unsent = 1 << 20
    session = Screen(rig)
    session.transport.takes = False
    principal = Principal("anna", frozenset(), frozenset({"*"}))
    join = functools.partial(rig.hub.connect, peer="test", principal=principal, at_most=1)
    session.connection = join(cast(Any, session.transport), "session", heartbeat_kind=kind)
    for topic in ("tables", "status"):
        rig.hub.subscribe(session.connection, topic)
    for _ in range(1195):
        rig.tick(0.1)
    assert (await rig.connect("robots")).connection.closing
    for _ in range(10):
        rig.tick(0.1)
    assert gone.connection.closing and session.connection.closing
    assert rig.hub.connections_by_topic == dict.fromkeys(rig.hub.connections_by_topic, 0)
    # Its socket is there still: what it waits for is nobody's place.
    assert not gone.transport.aborted and not session.transport.aborted
    assert not (await rig.connect("robots")).connection.closing
    assert not join(cast(Any, FakeTransport()), "session").closing
    for _ in range(55):
        rig.tick(0.1)
    assert gone.transport.aborted and session.transport.aborted


async def test_a_silent_robot_is_given_to_the_store_once(rig: Rig) -> None:
    rig.sql("INSERT INTO robot(robot_id) VALUES ('a')")
    await rig.feed()
    for _ in range(40):
        rig.tick(0.5)
    assert rig.store.vanished == ["a"]


async def test_status_is_one_object_and_says_what_changed(rig: Rig) -> None:
    task = asyncio.ensure_future(rig.hub.run())
    await asyncio.sleep(0)
    screen = await rig.connect("status")
    (first,) = screen.transport.messages()
    assert first["snapshot"] and first["offset"] == 1 and first["data"]["robots"]["by_status"] == {}
    rig.sql("INSERT INTO robot(robot_id) VALUES ('a')")
    await rig.feed()
    rig.clock.at += 1
    second: list[dict[str, Any]] = []
    while not second:
        await asyncio.sleep(0.01)
        rig.clock.at += 0.1
        second = [message for message in screen.transport.messages() if message["type"] == "update"]
    assert second[0]["data"]["robots"]["by_status"] == {"IDLE": 1} and second[0]["offset"] == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_longest_lag_of_the_loop_is_remembered_for_a_while() -> None:
    stats = HubStats()
    assert stats.longest_lag_s == 0.0
    for now, lag_s in ((0.0, 0.1), (5.0, 0.5), (10.0, 0.2), (12.0, 0.0)):
        stats.note_lag(lag_s, now)
    assert (stats.longest_lag_s, stats.loop_lag_s) == (0.5, 0.0)
    stats.note_lag(0.01, 5.0 + LAG_WINDOW_S + 0.1)
    assert stats.longest_lag_s == 0.2
    stats.note_lag(0.0, 100.0)
    assert stats.longest_lag_s == 0.0
