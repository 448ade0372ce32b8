"""What is large comes in parts, once for all who need it, and all together hold a bounded memory (SPEC section 3)."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson
import pytest

from robodyne_rt.client.state import TopicState
from robodyne_rt.hub import topic_feed
from robodyne_rt.model.access import Principal
from robodyne_rt.model.changes import OptimisticChange
from robodyne_rt.protocol import topic_messages
from tests.hub.harness import Rig, Screen

NOTE = "국" * 19_000
NOTE_BYTES = 57_000
ANYONE = Principal("screen", frozenset(), frozenset({"*"}))


def orders(rig: Rig, first: int, count: int, *, note: str = NOTE) -> None:
    for key in range(first, first + count):
        rig.sql("INSERT INTO order_(id, status, note, timestamp) VALUES (?, 'PLACED', ?, '2026-11-21T00:00:00Z')", key, note)


@pytest.fixture
async def running(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Rig]]:
    """Makes rigs whose hub runs."""
    monkeypatch.setattr(topic_feed, "ROOM_LOOK_S", 0.001)
    tasks: list[asyncio.Task[None]] = []

    async def make(**settings: Any) -> Rig:
        rig = make_rig(**settings)
        tasks.append(asyncio.create_task(rig.hub.run()))
        await asyncio.sleep(0)
        return rig

    yield make  # type: ignore[misc]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(fact: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not fact():
            await asyncio.sleep(0.002)


async def read_all(rig: Rig, screen: Screen) -> list[dict[str, Any]]:
    """Read until the screen is where the log is."""
    messages: list[dict[str, Any]] = []

    def is_there() -> bool:
        messages.extend(screen.take())
        return screen.replica.offset == rig.reader.log.heads()["orders"]

    await until(is_there)
    return messages


async def test_a_large_snapshot_comes_in_parts_and_only_the_last_has_its_position(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 50)
    await rig.feed()
    head = rig.positions["orders"]
    screen = await rig.connect("orders")
    first, *middle, last = await read_all(rig, screen)
    assert first["snapshot"] and first["offset"] == -1 and first["more"] and "epoch" not in first
    for part in middle:
        assert part["offset"] == -1 and part["prev"] == -1 and part["more"]
        assert "epoch" not in part and "snapshot" not in part
    assert (last["offset"], last["epoch"], last["prev"]) == (head, rig.epoch, -1) and "more" not in last
    assert [entity["id"] for part in (first, *middle, last) for entity in part["data"]] == list(range(1, 51))
    for part in (first, *middle, last):
        assert len(orjson.dumps(part)) <= topic_messages.PART_BYTES + NOTE_BYTES + 1000


async def test_parts_are_made_once_for_all_clients(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 50)
    await rig.feed()
    one, other = await rig.connect("orders"), await rig.connect("orders")
    await until(lambda: len(one.transport.written) >= 3 and len(other.transport.written) >= 3)
    assert all(a is b for a, b in zip(one.transport.written, other.transport.written, strict=True))


async def test_a_client_that_does_not_read_holds_one_part_and_is_closed_in_the_end(running: Any) -> None:
    rig: Rig = await running(slow_client_timeout_s=30)
    orders(rig, 1, 50)
    await rig.feed()
    stuck = Screen(rig)
    stuck.transport.takes = False
    connection = rig.hub.connect(stuck.transport, "orders", peer="stuck", principal=ANYONE)  # type: ignore[arg-type]
    stuck.connection = connection
    await rig.hub.greet(rig.hub.subscribe(connection, "orders"), None, None)
    await asyncio.sleep(0.05)
    assert len(stuck.transport.written) == 1
    quick = await rig.connect("orders")
    await read_all(rig, quick)
    rig.clock.at += 29
    await asyncio.sleep(0.02)
    assert not connection.closing
    stuck.transport.unsent = 0
    await until(lambda: len(stuck.transport.written) == 2)  # the time counts per part
    for _ in range(10):
        await asyncio.sleep(0)
    rig.clock.at += 29
    await asyncio.sleep(0.02)
    assert not connection.closing
    rig.clock.at += 1.1
    await until(lambda: connection.closing)
    assert stuck.transport.close_reason() == (4005, "too_slow")


async def test_a_large_catch_up_comes_in_parts_without_an_offset_before_the_last(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 60, note="")
    await rig.feed()
    screen = await rig.connect("orders")
    screen.take()
    start = screen.replica.offset
    screen.say(type="pause")
    rig.sql("UPDATE order_ SET note = ? WHERE id <= 40", NOTE)
    rig.sql("DELETE FROM order_ WHERE id = 60")
    await rig.feed()
    screen.say(type="resume")
    *parts, last = await read_all(rig, screen)
    assert parts and all("offset" not in part and part["prev"] == start and part["more"] for part in parts)
    assert last["prev"] == start and last["offset"] == rig.positions["orders"]
    assert sorted(key for part in (*parts, last) for key in part.get("removed", [])) == [60]
    assert len(screen.replica.entities) == 59 and screen.replica.entities[40]["note"] == NOTE


async def test_who_comes_back_gets_a_large_recovery_in_parts(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 60, note="")
    await rig.feed()
    start = rig.positions["orders"]
    rig.sql("UPDATE order_ SET note = ? WHERE id <= 40", NOTE)
    await rig.feed()
    screen = await rig.connect("orders", since=start, epoch=rig.epoch)
    first, *rest = await read_all(rig, screen)
    assert first["recovered"] and first["prev"] == start and first["more"]
    assert rest[-1]["offset"] == rig.positions["orders"] and rest[-1]["epoch"] == rig.epoch


async def test_nothing_else_of_the_topic_goes_out_between_the_parts(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 50)
    await rig.feed()
    screen = Screen(rig)
    screen.transport.takes = False
    screen.connection = rig.hub.connect(screen.transport, "orders", peer="x", principal=ANYONE)  # type: ignore[arg-type]
    await rig.hub.greet(rig.hub.subscribe(screen.connection, "orders"), None, None)
    rig.sql("UPDATE order_ SET priority = 3 WHERE id IN (2, 49)")
    rig.sql("DELETE FROM order_ WHERE id = 48")
    await rig.feed()
    screen.transport.drain()
    messages = await read_all(rig, screen)
    parts = [message for message in messages if message.get("more")]
    assert messages[: len(parts)] == parts
    assert len(screen.replica.entities) == 49
    assert {key: screen.replica.entities[key]["priority"] for key in (1, 2, 49)} == {1: 0, 2: 3, 49: 3}


async def test_a_change_of_many_rows_comes_in_parts_to_who_is_live(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 50, note="")
    await rig.feed()
    screen = await rig.connect("orders")
    screen.take()
    rig.sql("UPDATE order_ SET note = ?", NOTE)
    await rig.feed()
    messages = await read_all(rig, screen)
    assert len(messages) > 1 and all(
        len(orjson.dumps(message)) <= topic_messages.PART_BYTES + NOTE_BYTES + 1000 for message in messages
    )
    assert all(entity["note"] == NOTE for entity in screen.replica.entities.values())


async def test_a_history_that_begins_anew_between_parts_gives_a_snapshot(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 50)
    await rig.feed()
    screen = Screen(rig)
    screen.transport.takes = False
    screen.connection = rig.hub.connect(screen.transport, "orders", peer="x", principal=ANYONE)  # type: ignore[arg-type]
    await rig.hub.greet(rig.hub.subscribe(screen.connection, "orders"), None, None)
    rig.sql("DELETE FROM order_ WHERE id > 3")
    rig.reader.epoch = "another"
    snapshot = rig.reader.log.snapshot("orders")
    rig.positions["orders"] = snapshot.offset
    rig.hub.begin_history([snapshot])
    screen.transport.drain()
    await read_all(rig, screen)
    assert sorted(screen.replica.entities) == [1, 2, 3] and screen.replica.epoch == "another"


async def test_get_gives_one_document(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 50)
    await rig.feed()
    payload, offset = await rig.poll("orders", ANYONE, None, None)
    document = json.loads(payload)
    assert [entity["id"] for entity in document["data"]] == list(range(1, 51))
    assert document["snapshot"] and document["offset"] == offset == rig.positions["orders"]
    assert document["epoch"] == rig.epoch and "more" not in document


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_what_holds_the_most_is_given_up_and_read_from_the_database_instead(running: Any) -> None:
    rig: Rig = await running(memory_limit_bytes=2_000_000)
    orders(rig, 1, 50)
    await rig.feed()
    rig.tick(1)
    assert rig.hub.stats.given_up
    rig.tick(1)
    assert rig.hub.stats.held_bytes < 2_000_000
    assert rig.hub.current("orders") == {}
    screen = await rig.connect("orders")
    await read_all(rig, screen)
    assert sorted(screen.replica.entities) == list(range(1, 51)) and rig.reader.entities_read
    payload, _ = await rig.poll("orders", ANYONE, None, None)
    assert len(json.loads(payload)["data"]) == 50


async def test_a_client_that_holds_the_most_is_closed_and_cut_soon(running: Any) -> None:
    rig: Rig = await running(memory_limit_bytes=1_000_000)
    screen = await rig.connect("tables")
    other = await rig.connect("tables")
    screen.transport.takes, screen.transport.unsent = False, 2_000_000
    rig.tick(1)
    assert screen.connection.closing and screen.transport.close_reason() == (4005, "too_slow")
    assert not other.connection.closing
    rig.tick(1.1)
    assert screen.transport.aborted


async def test_a_backlog_and_a_window_take_so_many_bytes_only(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 100)
    await rig.feed()
    window_bytes, backlog_bytes = rig.hub._topic_feeds["orders"].held_bytes
    assert 0 < backlog_bytes <= topic_feed.BACKLOG_BYTES < window_bytes
    orders(rig, 101, 100)
    await rig.feed()
    assert rig.hub._topic_feeds["orders"].held_bytes[0] == 0
    screen = await rig.connect("orders")
    await read_all(rig, screen)
    assert len(screen.replica.entities) == 200


async def test_a_window_that_is_small_again_is_kept_again(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 200)
    await rig.feed()
    assert rig.hub.current("orders") == {}
    rig.sql("DELETE FROM order_ WHERE id > 5")
    await rig.feed()
    rig.clock.at += topic_feed.WINDOW_KEPT_S + 1
    await until(lambda: len(rig.hub.current("orders")) == 5)


async def test_parts_that_are_read_from_the_database_are_made_once_too(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 200)
    await rig.feed()
    screens = [await rig.connect("orders") for _ in range(3)]
    await until(lambda: all(len(screen.transport.written) >= 11 for screen in screens))
    assert rig.reader.entities_read < 2 * 200
    for frames in zip(*(screen.transport.written for screen in screens), strict=True):
        assert frames[0] is frames[1] is frames[2]


async def test_a_window_that_is_too_large_is_not_even_read_at_the_start(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    orders(rig, 1, 200)
    rig.start()
    assert rig.hub.current("orders") == {} and rig.hub._topic_feeds["orders"].offset == 200


# -- the whole window at every update ----------------------------------------------------------------------------------


async def test_mode_full_gives_the_whole_window_at_every_update_and_not_too_often(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 3, note="")
    await rig.feed()
    screen = await rig.connect("orders", since=rig.positions["orders"], epoch=rig.epoch, is_full=True)
    assert [message["snapshot"] for message in screen.take()] == [True]
    for priority in range(10):
        rig.sql("UPDATE order_ SET priority = ? WHERE id = 2", priority + 1)
        await rig.feed()
        rig.tick(0.1)
    messages = screen.take()
    assert 3 <= len(messages) <= 4
    assert all(message["snapshot"] and len(message["data"]) == 3 for message in messages)
    rig.tick(0.3)
    screen.take()
    assert screen.replica.entities[2]["priority"] == 10
    rig.tick(0.3)
    assert screen.take() == []


@pytest.mark.parametrize("grows_later", [False, True])
async def test_a_window_that_is_too_large_for_mode_full_is_refused(running: Any, grows_later: bool) -> None:
    rig: Rig = await running()
    orders(rig, 1, 50, note="" if grows_later else NOTE)
    await rig.feed()
    screen = await rig.connect("orders", is_full=True)
    if grows_later:
        screen.take()
        rig.sql("UPDATE order_ SET note = ?", NOTE)
        await rig.feed()
        rig.tick(0.3)
    assert screen.connection.closing and screen.transport.close_reason() == (1009, "too_large")


# -- what status tells of the robots -----------------------------------------------------------------------------------


async def test_status_tells_where_the_robots_are_once_a_second(running: Any) -> None:
    rig: Rig = await running()
    rig.sql("INSERT INTO robot(robot_id, name, battery_level) VALUES ('alba-1', 'Alba', 80)")
    await rig.feed()
    payload, _ = await rig.poll("status", ANYONE, None, None)
    (robot,) = json.loads(payload)["data"]["robots"]["list"]
    assert (robot["robot_id"], robot["name"], robot["status"], robot["battery_level"]) == ("alba-1", "Alba", "IDLE", 80)
    assert robot["link"] and robot["x"] is None
    screen = await rig.connect("status")
    seen: list[float | None] = []
    for step in range(30):
        rig.hub.push_telemetry("alba-1", {"x": float(step), "y": 0.0}, rig.clock.stamp())
        rig.tick(0.1)
        await asyncio.sleep(0.002)
        seen += [message["data"]["robots"]["list"][0]["x"] for message in screen.transport.messages()]
    assert 2 <= len(set(seen)) <= 5 and seen[-1] is not None and seen[-1] >= 15


# -- what is shown and not stored --------------------------------------------------------------------------------------


def shown(rig: Rig, *keys: int, note: str = "") -> dict[int, OptimisticChange]:
    """Return orders that are shown before they are stored."""
    order = rig.reader.log.entities("orders", [1])[1]
    made = {key: {**order, "id": key, "note": note} for key in keys}
    return {key: OptimisticChange(entity, entity) for key, entity in made.items()}


async def test_much_that_is_not_stored_is_sent_once(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 1, note="")
    await rig.feed()
    screen = await rig.connect("orders")
    screen.say(type="pause")
    rig.hub.show_optimistic("orders", shown(rig, *range(100, 140), note=NOTE))
    screen.say(type="resume")
    await asyncio.sleep(0.2)
    assert len(screen.transport.messages()) <= 5


async def test_a_correction_that_memory_forgot_is_a_snapshot_and_no_end_of_them(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 3, note="")
    await rig.feed()
    screen = await rig.connect("orders")
    screen.take()
    rig.hub.show_optimistic("orders", shown(rig, 9999))
    await rig.feed()
    screen.say(type="pause")
    rig.hub.revert("orders", [9999])
    rig.hub._topic_feeds["orders"].give_up_backlog()
    screen.say(type="resume")
    await asyncio.sleep(0.1)
    (*_, last) = screen.take()
    assert last["snapshot"] and sorted(screen.replica.entities) == [1, 2, 3]
    await asyncio.sleep(0.1)
    assert screen.take() == []


@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize("is_away", [True, False])
async def test_what_was_shown_and_taken_back_stays_nowhere(running: Any, window: bool, is_away: bool) -> None:
    rig: Rig = await running()
    orders(rig, 1, 3, note="")
    await rig.feed()
    topic = rig.hub._topic_feeds["orders"]
    if not window:
        topic.give_up_window()
    screen = await rig.connect("orders")
    await read_all(rig, screen)
    state = TopicState()
    position = {"offset": screen.replica.offset, "epoch": screen.replica.epoch}
    state.apply({"topic": "orders", "data": list(screen.replica.entities.values()), "snapshot": True, **position})
    rig.hub.show_optimistic("orders", shown(rig, 9999))
    await rig.feed()
    for message in screen.transport.messages():
        state.apply(message)
    assert 9999 in state.entities
    if is_away:
        rig.hub.gone(screen.connection)
    else:
        screen.say(type="pause")
    rig.hub.revert("orders", [9999])
    orders(rig, 1000, 1100, note="")  # more than memory remembers
    await rig.feed()
    if is_away:
        screen = await rig.connect("orders", since=state.offset, epoch=state.epoch)
    else:
        screen.say(type="resume")

    def is_there() -> bool:
        for message in screen.transport.messages():
            state.apply(message)
        return state.offset == rig.positions["orders"]

    await until(is_there)
    assert 9999 not in state.entities and len(state.entities) == 1103


async def test_who_wants_the_whole_window_gets_it_whole_when_it_is_not_in_memory(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 5, note="")
    await rig.feed()
    screen = await rig.connect("orders", is_full=True)
    screen.take()
    rig.hub._topic_feeds["orders"].give_up_window()
    rig.sql("UPDATE order_ SET priority = 9 WHERE id = 3")
    await rig.feed()
    rig.tick(0.3)
    await asyncio.sleep(0.1)
    (message,) = screen.take()
    assert message["snapshot"] and len(message["data"]) == 5
    rig.sql("UPDATE order_ SET note = ?", NOTE)
    orders(rig, 6, 30)
    await rig.feed()
    rig.tick(0.3)
    await until(lambda: screen.connection.closing)
    assert screen.transport.close_reason() == (1009, "too_large")


async def test_what_is_shown_while_a_first_message_is_read_is_not_missed(running: Any) -> None:
    rig: Rig = await running()
    orders(rig, 1, 3, note="")
    await rig.feed()
    rig.hub._topic_feeds["orders"].give_up_window()
    rig.hub._topic_feeds["orders"].give_up_backlog()
    entities = rig.reader.entities

    async def read(topic: str, keys: Sequence[int]) -> dict[int, Any]:
        found = await entities(topic, keys)
        rig.reader.entities = entities  # type: ignore[method-assign]
        rig.hub.show_optimistic("orders", shown(rig, 77))
        return found

    rig.reader.entities = read  # type: ignore[method-assign]
    screen = await rig.connect("orders")
    seen: set[int] = set()

    def is_seen() -> bool:
        seen.update(entity["id"] for message in screen.transport.messages() for entity in message["data"])
        rig.tick(0.1)
        return 77 in seen

    await until(is_seen)


async def test_windows_are_given_up_last(running: Any) -> None:
    rig: Rig = await running(memory_limit_bytes=7_000_000)
    orders(rig, 1, 50)
    await rig.feed()
    rig.tick(1)
    assert rig.hub.stats.given_up == 1 and len(rig.hub.current("orders")) == 50
