"""A topic's watchers: snapshots, updates, pace, pause, slow ones, recovery."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from robodyne_rt.model.access import Principal
from tests.hub.harness import Rig

ANYONE = Principal("screen", frozenset({"display"}), frozenset({"*"}))


def robots(rig: Rig, *names: str) -> None:
    for name in names:
        rig.sql("INSERT INTO robot(robot_id) VALUES (?)", name)


def battery(rig: Rig, name: str, level: float) -> None:
    rig.sql("UPDATE robot SET battery_level = ? WHERE robot_id = ?", level, name)


def by_name(messages: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(entity["robot_id"], entity["battery_level"]) for message in messages for entity in message["data"]]


async def test_the_first_message_is_the_whole_state_also_when_empty(rig: Rig) -> None:
    screen = await rig.connect("robots")
    assert screen.take() == [
        {"type": "update", "topic": "robots", "data": [], "snapshot": True, "offset": 0, "epoch": rig.epoch}
    ]


async def test_updates_follow_without_gaps_and_the_same_bytes_go_to_all(rig: Rig) -> None:
    first, second = await rig.connect("robots"), await rig.connect("robots")
    robots(rig, "a", "b")
    await rig.feed()
    battery(rig, "a", 5)
    await rig.feed()
    assert first.transport.written[-1] is second.transport.written[-1]
    messages = first.take()
    assert [(m.get("prev"), m["offset"]) for m in messages[1:]] == [(0, 2), (2, 3)]
    rig.sql("DELETE FROM robot WHERE robot_id = 'a'")
    await rig.feed()
    (message,) = first.take()
    assert (message["data"], message["removed"]) == ([], [1])


async def test_what_comes_in_one_turn_of_the_loop_leaves_in_one_write(rig: Rig) -> None:
    screen = await rig.connect("robots")
    screen.take()
    robots(rig, "a", "b")
    assert rig.publish_next("robots", 1) and rig.publish_next("robots", 1)
    assert screen.transport.written == []
    await rig.feed()
    assert len(screen.transport.written) == 1
    assert len(screen.take()) == 2


async def test_snapshots_come_from_memory_for_any_number_of_clients(rig: Rig) -> None:
    robots(rig, "a")
    await rig.feed()
    for _ in range(20):
        await rig.connect("robots")
    battery(rig, "a", 3)
    await rig.feed()
    late = await rig.connect("robots")
    assert by_name(late.take()) == [("a", 3)]
    assert rig.reader.windows == 0


async def test_an_update_that_says_nothing_is_not_sent_and_the_next_one_covers_it(rig: Rig) -> None:
    robots(rig, "a")
    await rig.feed()
    screen = await rig.connect("robots")
    screen.take()
    rig.sql("INSERT OR IGNORE INTO robot(robot_id) VALUES ('a')")
    await rig.feed()
    assert screen.take() == []
    battery(rig, "a", 3)
    await rig.feed()
    (message,) = screen.take()
    assert message["prev"] == 1 and message["offset"] > 2


@pytest.mark.parametrize("restarted", [False, True])
async def test_who_was_away_gets_one_compacted_message(rig: Rig, restarted: bool) -> None:
    robots(rig, *[f"r{number}" for number in range(10)])
    await rig.feed()
    for number in range(500):
        battery(rig, f"r{number % 10}", number % 100)
        if number % 50 == 0:
            await rig.feed()
    await rig.feed()
    if restarted:
        rig.start()
    screen = await rig.connect("robots", since=10, epoch=rig.epoch)
    (message,) = screen.take()
    assert (message["recovered"], message["prev"], message["offset"], message["epoch"]) == (True, 10, 510, rig.epoch)
    assert len(message["data"]) == 10
    assert {entity["robot_id"]: entity["battery_level"] for entity in message["data"]} == {
        f"r{number % 10}": number % 100 for number in range(490, 500)
    }


async def test_who_missed_nothing_is_told_so(rig: Rig) -> None:
    robots(rig, "a")
    await rig.feed()
    screen = await rig.connect("robots", since=1, epoch=rig.epoch)
    (message,) = screen.take()
    assert message["data"] == [] and message["recovered"] and (message["prev"], message["offset"]) == (1, 1)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    ("since", "epoch"), [("3", "other"), ("3", None), ("99", ""), ("-1", ""), ("x", ""), ("1", ""), ("9" * 30, "")]
)
async def test_a_position_that_is_no_good_gets_a_snapshot(rig: Rig, since: str, epoch: str | None, restarted: bool) -> None:
    robots(rig, "a", "b", "c")
    battery(rig, "a", 5)
    await rig.feed()
    rig.sql('DELETE FROM change WHERE "offset" <= 2')
    rig.start()
    await rig.feed()
    payload, offset = await rig.poll("robots", ANYONE, since, rig.epoch if epoch == "" else epoch)
    assert b'"snapshot":true' in payload and offset == 4


async def test_a_snapshot_is_sent_where_it_is_smaller(rig: Rig) -> None:
    for number in range(60):
        rig.sql("INSERT INTO event(id, type, timestamp) VALUES (?, 'CALL', '2026-11-21T00:00:00Z')", number + 1)
        await rig.feed()
    for start, expected in ((50, "recovered"), (41, "recovered"), (10, "snapshot")):
        payload, _ = await rig.poll("events", ANYONE, str(start), rig.epoch)
        assert f'"{expected}":true'.encode() in payload, start
        assert payload.count(b'"type":"CALL"') == min(60 - start, 20)


async def test_an_events_snapshot_shows_the_newest_only_and_stays_so(rig: Rig) -> None:
    for number in range(30):
        rig.sql("INSERT INTO event(id, type, timestamp) VALUES (?, 'CALL', '2026-11-21T00:00:00Z')", number + 1)
    await rig.feed()
    first = await rig.connect("events")
    rig.sql("INSERT INTO event(id, type, timestamp) VALUES (31, 'CALL', '2026-11-21T00:00:00Z')")
    await rig.feed()
    second = await rig.connect("events")
    assert [entity["id"] for entity in first.take()[0]["data"]] == list(range(11, 31))
    assert [entity["id"] for entity in second.take()[0]["data"]] == list(range(12, 32))


async def test_a_paced_client_gets_the_newest_state_once_per_interval(rig: Rig) -> None:
    robots(rig, "a", "b")
    await rig.feed()
    screen = await rig.connect("robots", interval_s=1.0)
    screen.take()
    received = []
    for step in range(40):
        battery(rig, "a", step)
        await rig.feed()
        rig.tick(0.1)
        received += [(step, message) for message in screen.take()]
    assert len(received) in (3, 4)
    assert all(entity["battery_level"] == step for step, message in received for entity in message["data"])
    assert [len(message["data"]) for _, message in received] == [1] * len(received)


async def test_pause_stops_updates_and_resume_gives_one_catch_up(rig: Rig) -> None:
    robots(rig, "a", "b")
    await rig.feed()
    screen = await rig.connect("robots")
    screen.take()
    screen.say(type="pause")
    for step in range(30):
        battery(rig, "a", step)
        await rig.feed()
        rig.tick(1.0)
    assert all(message["type"] == "ping" for message in screen.take())
    screen.say(type="resume")
    (message,) = screen.take()
    assert by_name([message]) == [("a", 29)] and message["prev"] == 2
    battery(rig, "b", 1)
    await rig.feed()
    assert by_name(screen.take()) == [("b", 1)]


async def test_a_slow_client_is_caught_up_when_it_has_drained(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(send_buffer_limit_bytes=2000)
    robots(rig, "a", "b")
    await rig.feed()
    slow, quick = await rig.connect("robots"), await rig.connect("robots")
    slow.take(), quick.take()
    slow.transport.takes = False
    for step in range(50):
        battery(rig, "a", step)
        await rig.feed()
        rig.tick(0.1)
    assert slow.transport.unsent < 2000 + 1000
    assert len(quick.take()) == 50
    slow.transport.drain()
    rig.tick(0.1)
    messages = slow.take()
    assert by_name(messages)[-1] == ("a", 49)
    assert len(messages) < 15


async def test_a_client_that_never_drains_is_closed_and_aborted(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(send_buffer_limit_bytes=2000, slow_client_timeout_s=30)
    robots(rig, "a")
    await rig.feed()
    slow = await rig.connect("robots")
    slow.transport.takes = False
    for step in range(20):
        battery(rig, "a", step)
        await rig.feed()
    rig.tick(0.1)
    rig.tick(29.8)
    assert not slow.connection.closing
    rig.tick(0.3)
    assert slow.connection.closing and slow.transport.close_reason() == (4005, "too_slow")
    rig.tick(5.1)
    assert slow.transport.aborted


async def test_a_client_further_behind_than_memory_is_caught_up_from_the_log(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    task = asyncio.ensure_future(rig.hub.run())
    await asyncio.sleep(0)
    screen = await rig.connect("tables")
    screen.take()
    screen.say(type="pause")
    for number in range(1, 3001):
        rig.sql("INSERT INTO table_(table_number) VALUES (?)", number)
    await rig.feed()
    screen.say(type="resume")
    while screen.replica.offset != 3000:
        await asyncio.sleep(0.01)
        screen.take()
    assert len(screen.replica.entities) == 3000
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_telemetry_is_pushed_whole_and_volatile_and_never_jumps_back(rig: Rig) -> None:
    robots(rig, "a")
    rig.sql("UPDATE robot SET last_seen = '2026-11-21T00:00:00Z'")
    await rig.feed()
    screen = await rig.connect("robots")
    screen.take()
    rig.hub.push_telemetry("a", {"x": 1.0, "y": 2.0}, rig.clock.stamp())
    rig.hub.push_telemetry("a", {"x": 1.5, "y": 2.5}, rig.clock.stamp())
    await rig.feed()
    (message,) = screen.take()
    assert message["volatile"] and "offset" not in message
    assert (message["data"][0]["x"], message["data"][0]["status"]) == (1.5, "IDLE")
    battery(rig, "a", 5)
    await rig.feed()
    (message,) = screen.take()
    assert (message["data"][0]["x"], message["data"][0]["battery_level"]) == (1.5, 5)
    late = await rig.connect("robots")
    assert late.take()[0]["data"][0]["x"] == 1.5
    rig.tick(0.05)
    assert rig.store.telemetry == [("a", {"x": 1.5, "y": 2.5})]


async def test_a_flood_of_telemetry_takes_its_share_of_the_time_only_and_the_newest_arrives(rig: Rig) -> None:
    robots(rig, "a")
    await rig.feed()
    screen = await rig.connect("robots")
    screen.take()
    written = screen.transport.write

    def slow(data: bytes) -> None:
        rig.clock.at += 0.002
        written(data)

    screen.transport.write = slow  # type: ignore[method-assign]
    started, real = rig.clock.at, asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - real < 0.3:
        rig.hub.push_telemetry("a", {"x": rig.clock.at}, rig.clock.stamp())
        await asyncio.sleep(0)
    assert rig.clock.at - started < 0.15
    rig.hub.push_telemetry("a", {"x": -1.0}, rig.clock.stamp())
    async with asyncio.timeout(5):
        while not any(message["data"][0]["x"] == -1.0 for message in screen.take()):
            await asyncio.sleep(0.01)


async def test_a_paced_client_sees_telemetry_in_its_pace(rig: Rig) -> None:
    robots(rig, "a")
    await rig.feed()
    screen = await rig.connect("robots", interval_s=1.0)
    screen.take()
    for step in range(30):
        rig.hub.push_telemetry("a", {"x": float(step)}, rig.clock.stamp())
        await rig.feed()
        rig.tick(0.1)
    messages = screen.take()
    assert len(messages) in (2, 3) and messages[-1]["volatile"]


async def test_a_hole_in_the_log_gives_everybody_a_snapshot(rig: Rig) -> None:
    task = asyncio.ensure_future(rig.hub.run())
    await asyncio.sleep(0)
    robots(rig, "a")
    await rig.feed()
    screen = await rig.connect("robots")
    paused = await rig.connect("robots")
    paused.say(type="pause")
    screen.take(), paused.take()
    robots(rig, "b")
    snapshot = rig.reader.log.snapshot("robots")
    rig.positions["robots"] = snapshot.offset
    rig.hub.publish([snapshot])
    await rig.feed()
    (message,) = screen.take()
    assert message["snapshot"] and len(message["data"]) == 2
    paused.say(type="resume")
    while len(paused.replica.entities) < 2:
        await asyncio.sleep(0.001)
        paused.take()
    assert len(paused.replica.entities) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_clients_that_come_at_any_moment_of_a_snapshots_reading_share_it(rig: Rig) -> None:
    robots(rig, "a")
    await rig.feed()

    async def come(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await rig.connect("robots")

    rig.clock.at += 61  # what stands in memory since the start is too old now
    async with asyncio.timeout(10):
        await asyncio.gather(*(come(turns % 12) for turns in range(60)))
    assert rig.reader.windows == 1


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_write_that_fails_costs_nobody_else_and_is_told_only_where_the_peer_is_there(
    rig: Rig, caplog: pytest.LogCaptureFixture, is_gone: bool
) -> None:
    broken, other = await rig.connect("robots"), await rig.connect("robots")
    other.take()

    def refuse(data: bytes) -> None:
        broken.transport.aborted = is_gone
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")  # uvloop

    broken.transport.write = refuse  # type: ignore[method-assign]
    robots(rig, "a")
    await rig.feed()
    assert [entity["robot_id"] for message in other.take() for entity in message["data"]] == ["a"]
    assert bool(caplog.records) is not is_gone
    assert broken.transport.aborted


async def test_of_a_crowd_that_comes_for_the_status_at_once_the_first_has_it_computed(rig: Rig) -> None:
    computed = 0
    overview = rig.reader.overview

    async def count() -> Any:
        nonlocal computed
        computed += 1
        return await overview()

    rig.reader.overview = count  # type: ignore[method-assign]
    screens = [await rig.connect("status") for _ in range(20)]
    assert computed == 1 and all(len(screen.transport.messages()) == 1 for screen in screens)


async def test_who_asks_for_the_status_once_gets_it_as_it_is_now(rig: Rig) -> None:
    await rig.poll("status", ANYONE, None, None)
    robots(rig, "a")
    await rig.feed()
    asked = asyncio.create_task(rig.poll("status", ANYONE, None, None))
    await asyncio.sleep(0.1)
    assert not asked.done()
    rig.clock.at += 0.25
    payload, _ = await asyncio.wait_for(asked, 5)
    assert len(json.loads(payload)["data"]["robots"]["list"]) == 1
