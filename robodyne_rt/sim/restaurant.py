"""The pretend restaurant: guests, tables, kitchen, robots. Pure: `tick(dt)` returns what the devices say (no I/O, no clock).

A hall of 20 x 12 m, the kitchen on the left. Guests arrive, press the button, order at the kiosk; cooking arms cook, serving
robots drive the dishes out and come back, charge when they are low, and lose their link now and then. The same seed
gives the same evening.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from robodyne_rt.sim.seed_data import MENU, Place, table_places

Message = dict[str, Any]

PASS = (3.2, 6.0)
DOCKS_X = 0.8
SPEED_M_S = 0.9
TELEMETRY_EVERY_S = 0.2
STATE_EVERY_S = 1.0
LOW_BATTERY = 20.0


@dataclass(slots=True)
class Say:
    """One message of one device; `about` comes back with the answer."""

    device: str
    message: Message
    about: "Party | None" = None


@dataclass(slots=True)
class Hang:
    """A device's cable is out for a while."""

    device: str
    seconds: float


@dataclass(slots=True)
class Party:
    """A group of guests at one table."""

    table: int
    count: int
    state: str = "seated"
    wait_s: float = 0.0
    order_id: int | None = None
    dishes: list[int] = field(default_factory=list)
    arm: "Arm | None" = None


@dataclass(slots=True)
class Robot:
    """A serving robot."""

    name: str
    x: float
    y: float
    dock: tuple[float, float]
    yaw: float = 0.0
    battery: float = 90.0
    status: str = "IDLE"
    route: list[tuple[float, float]] = field(default_factory=list)
    party: Party | None = None
    errand: str = ""
    pause_s: float = 0.0
    said_state_s: float = 0.0
    said_pose_s: float = 0.0
    silent_s: float = 0.0
    said: tuple[Any, ...] = ()

    @property
    def is_free(self) -> bool:
        return self.status == "IDLE" and not self.errand and self.silent_s <= 0


@dataclass(slots=True)
class Arm:
    """A cooking arm."""

    name: str
    x: float
    y: float
    phase: float = 0.0
    party: Party | None = None
    left_s: float = 0.0
    said_s: float = 0.0


class Restaurant:
    """The world. Device names: robots and arms by their own, `buttons`, `camera`, `kiosk`, `kitchen`."""

    def __init__(self, *, seed: int, robots: int, arms: int, tables: int) -> None:
        self._random = random.Random(seed)
        self.places: list[Place] = table_places(tables)
        docks = [(DOCKS_X, 12.0 * (index + 0.5) / max(1, robots)) for index in range(robots)]
        # They stand about in the hall when the doors open, and go home first.
        self.robots = [
            Robot(
                f"alba-{index + 1}",
                self._random.uniform(5, 18),
                self._random.uniform(0.5, 11.5),
                dock,
                battery=self._random.uniform(55, 100),
                errand="return",
            )
            for index, dock in enumerate(docks)
        ]
        self.arms = [Arm(f"cook-{index + 1}", 2.7, 3.0 + 3.0 * index) for index in range(arms)]
        self._parties: dict[int, Party] = {}
        self._next_arrival_s = 1.0
        self._next_fault_s = self._random.uniform(60, 120)
        self._to_cook: list[Party] = []
        self._to_serve: list[Party] = []
        self._calls: list[int] = []
        self._cleaning: dict[int, float] = {}
        self._stock = {ingredient: 80.0 for dish in MENU for ingredient in dish.ingredients}
        self._chatter_s = 20.0

    def open(self) -> Iterator[Say]:
        """Return what is said when the restaurant opens."""
        for place in self.places:
            yield Say(
                "buttons", {"msg_type": "Table", "table_number": place.number, "status": "AVAILABLE", "customer_count": 0}
            )
        for ingredient, count in self._stock.items():
            yield Say("kitchen", {"msg_type": "Ingredient", "name": ingredient, "count": count})
        yield Say("kitchen", {"msg_type": "Log", "level": "INFO", "message": "kitchen is open"})

    def close(self) -> Iterator[Say]:
        """Return what is said when it closes."""
        for name in [*(robot.name for robot in self.robots), *(arm.name for arm in self.arms)]:
            yield Say(name, {"msg_type": "Bye", "robot_id": name})

    def tick(self, dt: float) -> list[Say | Hang]:
        """Let `dt` seconds pass."""
        said: list[Say | Hang] = []
        said += self._guests(dt)
        said += self._cook(dt)
        self._assign()
        for robot in self.robots:
            said += self._drive(robot, dt)
        said += self._faults(dt)
        return said

    def answered(self, say: Say, answer: Message) -> list[Say | Hang]:
        """Take the answer to something said: the kitchen learns the order's id."""
        party = say.about
        if party is None or answer.get("status") != "success" or "order_id" not in answer.get("details", {}):
            return []
        if party.order_id is None:
            party.order_id = answer["details"]["order_id"]
            self._to_cook.append(party)
        return []

    # -- guests ----------------------------------------------------------------------------------------------------

    def _guests(self, dt: float) -> Iterator[Say]:
        self._next_arrival_s -= dt
        if self._next_arrival_s <= 0:
            self._next_arrival_s = self._random.expovariate(1 / 14)
            yield from self._arrive()
        for number, left in list(self._cleaning.items()):
            self._cleaning[number] = left - dt
            if left <= dt:
                del self._cleaning[number]
                yield self._table(number, "AVAILABLE", 0)
        for party in list(self._parties.values()):
            party.wait_s -= dt
            if party.wait_s <= 0:
                yield from self._next_step(party)

    def _arrive(self) -> Iterator[Say]:
        free = [
            place.number for place in self.places if place.number not in self._parties and place.number not in self._cleaning
        ]
        if not free:
            return
        party = Party(self._random.choice(free), self._random.randint(1, 4), wait_s=self._random.uniform(8, 30))
        self._parties[party.table] = party
        face = {"msg_type": "Face", "table_id": party.table, "exist": True, "nowdetected": party.count, "reliability": 0.97}
        yield Say("camera", face)
        if self._random.random() < 0.1:
            yield self._event("BIRTHDAY", party.table, "a birthday at this table")

    def _next_step(self, party: Party) -> Iterator[Say]:
        match party.state:
            case "seated" if self._random.random() < 0.35:
                party.state, party.wait_s = "called", self._random.uniform(40, 80)
                self._calls.append(party.table)
                yield self._event("CALL", party.table, self._random.choice(["물 주세요", "water, please", "메뉴판 주세요"]))
            case "seated" | "called" | "attended":
                party.state, party.wait_s = "ordered", math.inf
                yield self._order(party)
            case "eating":
                del self._parties[party.table]
                self._cleaning[party.table] = self._random.uniform(15, 30)
                yield Say("camera", {"msg_type": "Face", "table_id": party.table, "exist": False, "reliability": 0.98})
                yield self._table(party.table, "CLEANING", 0)

    def _order(self, party: Party) -> Say:
        party.dishes = [self._random.randrange(len(MENU)) for _ in range(party.count)]
        items = [{"name": MENU[dish].name, "quantity": party.dishes.count(dish)} for dish in sorted(set(party.dishes))]
        if self._random.random() < 0.2:
            items[0]["note"] = self._random.choice(["맵지 않게", "no garlic", "extra spicy"])
        return Say("kiosk", {"msg_type": "Order", "table_number": party.table, "items": items}, about=party)

    # -- kitchen ---------------------------------------------------------------------------------------------------

    def _cook(self, dt: float) -> Iterator[Say]:
        for arm in self.arms:
            arm.said_s -= dt
            if arm.party is None and self._to_cook:
                arm.party = self._to_cook.pop(0)
                arm.left_s = max(MENU[dish].prepare_s for dish in arm.party.dishes) * self._random.uniform(0.04, 0.08)
                arm.said_s = 0
                yield self._move(arm.party, "PREPARING")
                yield from self._use_stock(arm.party)
            if arm.party is not None:
                arm.phase += dt
                arm.left_s -= dt
                if arm.left_s <= 0:
                    yield self._move(arm.party, "READY")
                    self._to_serve.append(arm.party)
                    arm.party, arm.said_s = None, 0
            if arm.said_s <= 0:
                arm.said_s = 0.5 if arm.party else 4.0
                yield self._arm_state(arm)
        self._chatter_s -= dt
        if self._chatter_s <= 0:
            self._chatter_s = self._random.uniform(20, 60)
            level, text = self._random.choice(
                [("INFO", "grill at 220 °C"), ("INFO", "dishwasher cycle done"), ("WARNING", "fryer oil is due for a change")]
            )
            yield Say("kitchen", {"msg_type": "Log", "level": level, "message": text})

    def _use_stock(self, party: Party) -> Iterator[Say]:
        for ingredient in [name for dish in party.dishes for name in MENU[dish].ingredients]:
            left = max(0.0, self._stock[ingredient] - self._random.uniform(0.5, 2.5))
            if left <= 3 and self._random.random() < 0.6:
                left = 80.0
                yield Say("kitchen", {"msg_type": "Log", "level": "INFO", "message": f"{ingredient} restocked"})
            self._stock[ingredient] = left
            yield Say("kitchen", {"msg_type": "Ingredient", "name": ingredient, "count": round(left, 1)})

    def _arm_state(self, arm: Arm) -> Say:
        swing = [math.sin(arm.phase * (0.7 + 0.2 * joint)) * 1.2 if arm.party else 0.0 for joint in range(6)]
        message: Message = {
            "msg_type": "Cookbot",
            "robot_id": arm.name,
            "status": "COOKING" if arm.party else "IDLE",
            "endpoint_x": round(arm.x + 0.2 * swing[0], 3),
            "endpoint_y": round(arm.y + 0.2 * swing[1], 3),
            "endpoint_z": 0.9,
        }
        return Say(arm.name, message | {f"angle_{joint + 1}": round(swing[joint], 4) for joint in range(6)})

    # -- robots ----------------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Give the robot with the most charge the next thing to do."""
        for robot in sorted((robot for robot in self.robots if robot.is_free), key=lambda robot: -robot.battery):
            if robot.battery < LOW_BATTERY:
                robot.errand, robot.status, robot.route = "charge", "CHARGING", [robot.dock]
            elif self._to_serve:
                robot.party = self._to_serve.pop(0)
                robot.errand, robot.status, robot.route = "fetch", "PICKUP", [PASS]
            elif self._calls:
                number = self._calls.pop(0)
                if number in self._parties:
                    robot.party = self._parties[number]
                    robot.errand, robot.status, robot.route = "attend", "SETTING", self._way_to(number)
            else:
                continue
            return

    def _drive(self, robot: Robot, dt: float) -> Iterator[Say]:
        if robot.silent_s > 0:
            robot.silent_s -= dt
        if robot.pause_s > 0:
            robot.pause_s -= dt
        elif robot.route:
            self._step(robot, dt)
        elif robot.errand:
            yield from self._arrived(robot)
        if robot.status == "CHARGING" and not robot.route:
            robot.battery = min(100.0, robot.battery + 0.8 * dt)
        robot.said_pose_s -= dt
        robot.said_state_s -= dt
        if robot.silent_s > 0:
            return
        if robot.route and robot.said_pose_s <= 0:
            robot.said_pose_s = TELEMETRY_EVERY_S
            yield Say(robot.name, {"msg_type": "Telemetry", "robot_id": robot.name, **self._pose(robot, "")})
        state = (robot.status, int(robot.battery), bool(robot.route))
        if (state != robot.said and robot.said_state_s <= STATE_EVERY_S) or robot.said_state_s <= 0:
            robot.said, robot.said_state_s = state, 3 * STATE_EVERY_S
            message = {"msg_type": "Albabot", "robot_id": robot.name, "status": robot.status, **self._pose(robot, "world_")}
            yield Say(robot.name, message)

    def _pose(self, robot: Robot, prefix: str) -> Message:
        return {
            f"{prefix}x": round(robot.x, 3),
            f"{prefix}y": round(robot.y, 3),
            f"{prefix}yaw": round(robot.yaw, 3),
            "battery_level": round(robot.battery, 1),
        }

    def _step(self, robot: Robot, dt: float) -> None:
        x, y = robot.route[0]
        distance = math.hypot(x - robot.x, y - robot.y)
        reach = SPEED_M_S * dt
        robot.battery = max(1.0, robot.battery - 0.045 * min(reach, distance))
        if distance <= reach:
            robot.x, robot.y = x, y
            robot.route.pop(0)
            return
        robot.yaw = math.atan2(y - robot.y, x - robot.x)
        robot.x += (x - robot.x) / distance * reach
        robot.y += (y - robot.y) / distance * reach

    def _arrived(self, robot: Robot) -> Iterator[Say]:
        party = robot.party
        match robot.errand:
            case "fetch" if party is not None:
                robot.errand, robot.status, robot.pause_s = "serve", "SERVING", 4.0
                robot.route = self._way_to(party.table)
                yield self._move(party, "SERVING", robot)
            case "serve" if party is not None:
                robot.errand, robot.pause_s = "return", 6.0
                party.state, party.wait_s = "eating", self._random.uniform(60, 150)
                yield self._move(party, "SERVED", robot)
            case "attend" if party is not None:
                robot.errand, robot.pause_s = "return", 4.0
                if party.state == "called":
                    party.state, party.wait_s = "attended", self._random.uniform(5, 15)
                yield self._table(party.table, "OCCUPIED", party.count)
            case "return":
                robot.errand, robot.status, robot.party = "home", "IDLE", None
                robot.route = self._way_home(robot)
            case "charge" if robot.battery < 90:
                pass
            case _:
                robot.errand, robot.status = "", "IDLE"

    def _way_to(self, number: int) -> list[tuple[float, float]]:
        place = next(place for place in self.places if place.number == number)
        aisle = place.y - place.height / 2 - 0.6
        return [(4.6, aisle), (place.x, aisle)]

    def _way_home(self, robot: Robot) -> list[tuple[float, float]]:
        return [(4.6, robot.y), (4.6, robot.dock[1]), robot.dock]

    # -- small words -----------------------------------------------------------------------------------------------

    def _faults(self, dt: float) -> Iterator[Say | Hang]:
        self._next_fault_s -= dt
        if self._next_fault_s <= 0 and self.robots:
            self._next_fault_s = self._random.uniform(90, 200)
            robot = self._random.choice(self.robots)
            robot.silent_s = self._random.uniform(14, 25)
            yield Hang(robot.name, robot.silent_s)

    def _move(self, party: Party, status: str, robot: Robot | None = None) -> Say:
        message: Message = {"msg_type": "Order", "order_id": party.order_id, "status": status}
        if robot is not None:
            message["robot_id"] = robot.name
        return Say("kitchen", message)

    def _table(self, number: int, status: str, count: int) -> Say:
        return Say("buttons", {"msg_type": "Table", "table_number": number, "status": status, "customer_count": count})

    def _event(self, type: str, number: int, description: str) -> Say:
        return Say("buttons", {"msg_type": "Event", "type": type, "table_number": number, "description": description})
