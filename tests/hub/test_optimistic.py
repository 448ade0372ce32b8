"""What is pushed before it is stored: whole entities, nothing jumps back, and what fails is taken back."""

from typing import Any

import pytest

from robodyne_rt.model.changes import OptimisticChange
from tests.hub.harness import Rig, Screen


@pytest.fixture
def robot(rig: Rig) -> dict[str, Any]:
    rig.sql("INSERT INTO robot(robot_id, battery_level, status) VALUES ('a', 50, 'IDLE')")
    return {"id": 1}


def show_optimistic(rig: Rig, **fields: Any) -> None:
    entity = {**rig.hub.current("robots")[1], **fields}
    rig.hub.show_optimistic("robots", {1: OptimisticChange(entity, fields)})


async def shown(screen: Screen) -> list[dict[str, Any]]:
    await screen.rig.feed()
    return [
        {**{key: entity[key] for key in ("battery_level", "status")}, "volatile": message.get("volatile", False)}
        for message in screen.take()
        if message["type"] == "update"
        for entity in message["data"]
    ]


async def test_what_is_optimistic_leaves_at_once_and_again_when_it_is_stored(rig: Rig, robot: Any) -> None:
    await rig.feed()
    screen = await rig.connect("robots")
    screen.take()
    show_optimistic(rig, battery_level=7)
    assert await shown(screen) == [{"battery_level": 7, "status": "IDLE", "volatile": True}]
    rig.sql("UPDATE robot SET battery_level = 7")
    assert await shown(screen) == [{"battery_level": 7, "status": "IDLE", "volatile": False}]
    rig.hub.confirm("robots", [1])
    assert await shown(screen) == []


async def test_an_older_stored_state_does_not_make_a_screen_jump_back(rig: Rig, robot: Any) -> None:
    await rig.feed()
    screen = await rig.connect("robots")
    screen.take()
    show_optimistic(rig, battery_level=7)
    await shown(screen)
    rig.sql("UPDATE robot SET battery_level = 30, status = 'SERVING'")  # stored meanwhile, older than what is optimistic
    assert await shown(screen) == [{"battery_level": 7, "status": "SERVING", "volatile": False}]
    newcomer = await rig.connect("robots")
    assert await shown(newcomer) == [{"battery_level": 7, "status": "SERVING", "volatile": False}]


async def test_telemetry_does_not_undo_what_is_optimistic(rig: Rig, robot: Any) -> None:
    await rig.feed()
    screen = await rig.connect("robots")
    screen.take()
    show_optimistic(rig, status="SERVING")
    await shown(screen)
    rig.hub.push_telemetry("a", {"x": 3.0}, rig.clock.stamp())
    assert await shown(screen) == [{"battery_level": 50, "status": "SERVING", "volatile": True}]


async def test_what_fails_is_followed_by_what_is_stored(rig: Rig, robot: Any) -> None:
    await rig.feed()
    live, paced = await rig.connect("robots"), await rig.connect("robots", interval_s=1.0)
    live.take(), paced.take()
    show_optimistic(rig, battery_level=7)
    rig.tick(1.1)
    assert [message["battery_level"] for message in await shown(paced)] == [7]
    await shown(live)
    gone = await rig.connect("robots")
    gone.take()
    rig.hub.gone(gone.connection)
    rig.hub.revert("robots", [1])
    assert await shown(live) == [{"battery_level": 50, "status": "IDLE", "volatile": False}]
    rig.tick(1.1)
    assert await shown(paced) == [{"battery_level": 50, "status": "IDLE", "volatile": False}]
    back = await rig.connect("robots", since=1, epoch=rig.epoch)
    assert await shown(back) == [{"battery_level": 50, "status": "IDLE", "volatile": False}]


async def test_an_event_that_is_never_stored_is_removed_everywhere(rig: Rig) -> None:
    live = await rig.connect("events")
    live.take()
    event = {"id": 77, "type": "CALL", "description": "ghost"}
    rig.hub.show_optimistic("events", {77: OptimisticChange(event, event)})
    await rig.feed()
    (message,) = live.take()
    assert message["volatile"] and message["data"] == [event]
    newcomer = await rig.connect("events")
    (snapshot,) = newcomer.take()
    assert snapshot["snapshot"] and snapshot["data"] == [event]
    rig.hub.gone(newcomer.connection)
    rig.hub.revert("events", [77])
    await rig.feed()
    (message,) = live.take()
    assert (message["data"], message["removed"]) == ([], [77])
    back = await rig.connect("events", since=0, epoch=rig.epoch)
    (message,) = back.take()
    assert message["recovered"] and message["removed"] == [77]


async def test_a_storm_of_optimistic_events_keeps_the_newest_of_the_window(rig: Rig) -> None:
    for id in range(1, 101):
        event = {"id": id, "type": "CALL"}
        rig.hub.show_optimistic("events", {id: OptimisticChange(event, event)})
    screen = await rig.connect("events")
    (snapshot,) = screen.take()
    assert [event["id"] for event in snapshot["data"]] == list(range(81, 101))


async def test_a_new_history_gives_everybody_the_whole_state_under_its_epoch(rig: Rig, robot: Any) -> None:
    await rig.feed()
    live, lagging = await rig.connect("robots"), await rig.connect("robots", interval_s=1.0)
    live.take(), lagging.take()
    rig.reader.epoch = "new"
    rig.hub.begin_history([rig.reader.log.snapshot("robots")])
    rig.tick(1.1)
    await rig.feed()
    for screen in (live, lagging):
        messages = screen.take()
        if not messages:  # read anew in a task of the hub, which does not run here
            continue
        assert messages[-1]["snapshot"] and messages[-1]["epoch"] == "new"
    back = await rig.connect("robots", since=1, epoch=rig.epoch)
    (message,) = back.take()
    assert message["snapshot"] and message["epoch"] == "new"
