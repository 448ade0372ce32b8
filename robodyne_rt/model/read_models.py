"""What goes on the wire of each topic: one typed row per topic (SPEC section 2).

`/api/openapi.json`, `/api/asyncapi.json` and the TypeScript types are made from here; a test holds what the server sends
against it. The hot path never builds these objects: it sends rows as the database gives them, as `Entity` dictionaries.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from robodyne_rt.model.enums import (
    Link,
    LogLevel,
    OrderStatus,
    RobotStatus,
    Severity,
    TableStatus,
    VideoSource,
    VideoStatus,
)

Time = Annotated[str, Field(description="UTC, ISO 8601 with Z")]
Metres = Annotated[float | None, Field(description="metres")]
Radians = Annotated[float | None, Field(description="radians")]


class ReadModel(BaseModel):
    """Base of all rows on the wire."""

    model_config = ConfigDict(extra="forbid", defer_build=True, protected_namespaces=())

    id: int


class Robot(ReadModel):
    """A robot and its newest state."""

    robot_id: str
    type: str
    name: str | None
    status: RobotStatus
    battery_level: Annotated[float | None, Field(description="percent")]
    x: Metres
    y: Metres
    z: Metres
    roll: Radians
    pitch: Radians
    yaw: Radians
    joints: Any
    link: Link
    mac_address: str | None
    ip_address: str | None
    last_seen: Time | None
    reported_at: Time | None


class DiningTable(ReadModel):
    """A table of the restaurant, and its place on the plan."""

    table_number: int
    status: TableStatus
    customer_count: int | None
    max_customer: int | None
    x: Metres
    y: Metres
    width: Metres
    height: Metres
    updated_at: Time | None


class Event(ReadModel):
    """Something that happened."""

    type: str
    severity: Severity
    related_entity_type: str | None
    related_entity_id: int | None
    description: str | None
    data: Any
    timestamp: Time
    acknowledged_at: Time | None
    acknowledged_by: str | None


class OrderItem(ReadModel):
    """One line of an order."""

    menu_item_id: int | None
    name: str
    quantity: int
    options: Any
    note: str | None
    station: str | None
    status: OrderStatus
    changed_at: Time | None


class Order(ReadModel):
    """An order with its lines, and the number of its table."""

    table_id: int | None
    table_number: int | None
    customer_id: int | None
    robot_id: int | None
    status: OrderStatus
    priority: int
    note: str | None
    timestamp: Time
    preparing_at: Time | None
    ready_at: Time | None
    served_at: Time | None
    recalled_at: Time | None
    items: list[OrderItem]


class SystemLog(ReadModel):
    """A line of a log."""

    level: LogLevel
    source: str | None
    message: str
    data: Any
    timestamp: Time


class Customer(ReadModel):
    """Guests who came together."""

    count: int
    table_id: int | None
    arrived_at: Time
    left_at: Time | None


class Inventory(ReadModel):
    """What is in stock."""

    ingredient_id: int | None
    name: str
    count: float
    max_count: float
    threshold: float
    status: str | None
    updated_at: Time | None


class VideoStream(ReadModel):
    """A camera."""

    name: str
    source_type: VideoSource
    url: str
    status: VideoStatus
    recording: bool


class Status(BaseModel):
    """The whole system at a glance: one object. Who may not look sees no details."""

    model_config = ConfigDict(extra="allow", defer_build=True)

    server: dict[str, Any]
    storage: dict[str, Any]
    problems: list[dict[str, Any]]
    robots: dict[str, Any]
    sessions: list[dict[str, Any]] = []


ROWS: dict[str, type[ReadModel]] = {
    "robots": Robot,
    "tables": DiningTable,
    "events": Event,
    "orders": Order,
    "systemlogs": SystemLog,
    "customers": Customer,
    "inventory": Inventory,
    "video_streams": VideoStream,
}
"""The row of each topic with a table."""

TopicName = Literal["robots", "tables", "events", "orders", "systemlogs", "customers", "inventory", "video_streams", "status"]
