"""The pretend restaurant: what it says is what devices say, the same seed gives the same evening, and guests are served."""

from collections import Counter
from itertools import count

import orjson
import pytest

from robodyne_rt.protocol import device_messages
from robodyne_rt.sim.restaurant import Hang, Message, Restaurant, Say

HOUR_S = 3600


def evening(seed: int, seconds: float = HOUR_S, dt: float = 0.5, tables: int = 8) -> list[Say | Hang]:
    """Return what is said in an evening in which every message is answered."""
    restaurant = Restaurant(seed=seed, robots=3, arms=2, tables=tables)
    orders, said = count(1), list[Say | Hang]()

    def say(acts: list[Say | Hang]) -> None:
        while acts:
            act = acts.pop(0)
            said.append(act)
            if isinstance(act, Say):
                acts += restaurant.answered(act, answer(act.message))

    def answer(message: Message) -> Message:
        details = {"order_id": next(orders)} if message["msg_type"] == "Order" and "items" in message else {}
        return {"status": "success", "details": details}

    say([*restaurant.open()])
    for _ in range(int(seconds / dt)):
        say(restaurant.tick(dt))
    say([*restaurant.close()])
    return said


@pytest.fixture(scope="module")
def said() -> list[Say | Hang]:
    return evening(1)


def test_every_message_is_one_that_the_server_takes(said: list[Say | Hang]) -> None:
    for act in said:
        if isinstance(act, Say):
            device_messages.parse(orjson.dumps(act.message | {"id": "1"}))


def test_the_same_seed_gives_the_same_evening() -> None:
    first, second, other = (evening(seed, 300) for seed in (5, 5, 6))
    assert [act.message for act in first if isinstance(act, Say)] == [act.message for act in second if isinstance(act, Say)]
    assert [act.message for act in first if isinstance(act, Say)] != [act.message for act in other if isinstance(act, Say)]


def test_guests_are_seated_served_and_leave(said: list[Say | Hang]) -> None:
    messages = [act.message for act in said if isinstance(act, Say)]
    kinds = Counter(message["msg_type"] for message in messages)
    assert {"Albabot", "Cookbot", "Table", "Event", "Order", "Telemetry"} <= kinds.keys()
    steps: dict[int, list[str]] = {}
    for message in messages:
        if message["msg_type"] == "Order" and "order_id" in message:
            steps.setdefault(message["order_id"], []).append(message["status"])
    served = [order for order, words in steps.items() if words[-1] == "SERVED"]
    assert len(served) >= 3
    order = ["PREPARING", "READY", "SERVING", "SERVED"]
    for words in steps.values():
        assert words == sorted(words, key=order.index)  # never backwards
    tables = {message["table_number"] for message in messages if message["msg_type"] == "Table"}
    assert tables <= set(range(1, 9))


def test_robots_stay_in_the_hall_and_charge_when_they_are_low(said: list[Say | Hang]) -> None:
    batteries: dict[str, list[float]] = {}
    for act in said:
        if isinstance(act, Say) and act.message["msg_type"] == "Telemetry":
            assert -1 <= act.message["x"] <= 21 and -1 <= act.message["y"] <= 13
            batteries.setdefault(act.message["robot_id"], []).append(act.message["battery_level"])
    assert len(batteries) == 3
    assert all(0 <= level <= 100 for levels in batteries.values() for level in levels)


def test_a_restaurant_without_robots_or_tables_has_little_to_say() -> None:
    restaurant = Restaurant(seed=1, robots=0, arms=0, tables=0)
    said = [*restaurant.open()] + [act for _ in range(100) for act in restaurant.tick(0.5)] + [*restaurant.close()]
    assert not any(isinstance(act, Say) and act.message["msg_type"] in ("Albabot", "Order") for act in said)
