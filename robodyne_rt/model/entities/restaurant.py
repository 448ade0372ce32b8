"""What there is in a restaurant, and what happens in it."""

from sqlalchemy import CheckConstraint, Computed, ForeignKey, Index
from sqlmodel import Field, SQLModel

from robodyne_rt.model.entities.columns import (
    BOOLEAN,
    INTEGER,
    IS_EXACT,
    JSON,
    MAX_NAME,
    MAX_TEXT,
    REAL,
    TEXT,
    TIME,
    at_most,
    column,
    given_identity,
    identity,
    is_time,
    one_of,
    table_args,
    within,
)
from robodyne_rt.model.enums import Link, LogLevel, OrderStatus, RobotStatus, Severity, TableStatus, VideoSource, VideoStatus


class Robot(SQLModel, table=True):
    """A robot and its newest state. `reported_at` is the newest `ts` that the robot itself gave."""

    __tablename__ = "robot"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("status", RobotStatus),
        one_of("link", Link),
        within("battery_level", 0, 100),
        at_most("robot_id", MAX_NAME),
        at_most("name", MAX_NAME),
        is_time("last_seen"),
        is_time("reported_at"),
    )
    id: int | None = identity()
    robot_id: str = column(TEXT, nullable=False, unique=True)
    type: str = column(TEXT, nullable=False, server_default="ALBABOT")
    name: str | None = column(TEXT)
    status: str = column(TEXT, nullable=False, server_default="IDLE")
    battery_level: float | None = column(REAL)
    x: float | None = column(REAL)
    y: float | None = column(REAL)
    z: float | None = column(REAL)
    roll: float | None = column(REAL)
    pitch: float | None = column(REAL)
    yaw: float | None = column(REAL)
    joints: str | None = column(JSON)
    link: str = column(TEXT, nullable=False, server_default="ONLINE")
    mac_address: str | None = column(TEXT)
    ip_address: str | None = column(TEXT)
    last_seen: str | None = column(TIME)
    reported_at: str | None = column(TIME)


class Table(SQLModel, table=True):
    """A table of the restaurant; `x y width height` are its place on the floor plan in metres."""

    __tablename__ = "table_"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("status", TableStatus),
        within("customer_count", 0, 1000),
        within("max_customer", 0, 1000),
        is_time("updated_at"),
    )
    id: int | None = identity()
    table_number: int = column(INTEGER, nullable=False, unique=True)
    max_customer: int = column(INTEGER, nullable=False, server_default="4")
    status: str = column(TEXT, nullable=False, server_default="AVAILABLE")
    customer_count: int = column(INTEGER, nullable=False, server_default="0")
    x: float | None = column(REAL)
    y: float | None = column(REAL)
    width: float | None = column(REAL)
    height: float | None = column(REAL)
    updated_at: str | None = column(TIME)


class Event(SQLModel, table=True):
    """Something that happened and that a person may have to acknowledge."""

    __tablename__ = "event"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("severity", Severity),
        at_most("type", MAX_NAME),
        at_most("description", MAX_TEXT),
        is_time("timestamp"),
        is_time("acknowledged_at"),
    )
    id: int | None = given_identity()
    type: str = column(TEXT, nullable=False)
    severity: str = column(TEXT, nullable=False, server_default="INFO")
    related_entity_type: str | None = column(TEXT)
    related_entity_id: int | None = column(INTEGER)
    description: str | None = column(TEXT)
    data: str | None = column(JSON)
    timestamp: str = column(TIME, nullable=False)
    acknowledged_at: str | None = column(TIME)
    acknowledged_by: str | None = column(TEXT)


class Customer(SQLModel, table=True):
    """A group of guests, from arrival to leaving."""

    __tablename__ = "customer"
    __table_args__ = table_args(
        IS_EXACT, within("count", 0, 1000), is_time("arrived_at"), is_time("left_at"), Index("customer_by_left_at", "left_at")
    )
    id: int | None = identity()
    count: int = column(INTEGER, nullable=False, server_default="1")
    table_id: int | None = column(INTEGER, references="table_.id")
    arrived_at: str = column(TIME, nullable=False)
    left_at: str | None = column(TIME)


class Order(SQLModel, table=True):
    """An order of a table; its items are nested in the topic."""

    __tablename__ = "order_"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("status", OrderStatus),
        at_most("note", MAX_TEXT),
        is_time("timestamp"),
        is_time("preparing_at"),
        is_time("ready_at"),
        is_time("served_at"),
        is_time("recalled_at"),
        Index("order_by_status", "status", "timestamp"),
        Index("order_by_served_at", "served_at"),
    )
    id: int | None = given_identity()
    table_id: int | None = column(INTEGER, references="table_.id")
    customer_id: int | None = column(INTEGER, references="customer.id")
    robot_id: int | None = column(INTEGER, references="robot.id")
    status: str = column(TEXT, nullable=False, server_default="PLACED")
    priority: int = column(INTEGER, nullable=False, server_default="0")
    note: str | None = column(TEXT)
    timestamp: str = column(TIME, nullable=False)
    preparing_at: str | None = column(TIME)
    ready_at: str | None = column(TIME)
    served_at: str | None = column(TIME)
    recalled_at: str | None = column(TIME)


class MenuItem(SQLModel, table=True):
    """A dish; `price` in the smallest unit of the currency, `prepare_time` in seconds."""

    __tablename__ = "menu_item"
    __table_args__ = table_args(
        IS_EXACT,
        within("available", 0, 1),
        within("price", 0, 10**12),
        within("prepare_time", 0, 86400),
        at_most("name", MAX_NAME),
    )
    id: int | None = identity()
    name: str = column(TEXT, nullable=False, unique=True)
    name_en: str | None = column(TEXT)
    price: int = column(INTEGER, nullable=False, server_default="0")
    prepare_time: int = column(INTEGER, nullable=False, server_default="600")
    station: str | None = column(TEXT)
    image_url: str | None = column(TEXT)
    available: int = column(BOOLEAN, nullable=False, server_default="1")


class OrderItem(SQLModel, table=True):
    """One line of an order; `name` and `station` are copied from the menu, which may change later."""

    __tablename__ = "order_item"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("status", OrderStatus),
        within("quantity", 1, 1000),
        at_most("note", MAX_TEXT),
        is_time("changed_at"),
        Index("order_item_by_order", "order_id"),
    )
    id: int | None = given_identity()
    order_id: int = column(INTEGER, nullable=False, references="order_.id", cascade=True)
    menu_item_id: int | None = column(INTEGER, references="menu_item.id")
    name: str = column(TEXT, nullable=False)
    quantity: int = column(INTEGER, nullable=False, server_default="1")
    options: str | None = column(JSON)
    note: str | None = column(TEXT)
    station: str | None = column(TEXT)
    status: str = column(TEXT, nullable=False, server_default="PLACED")
    changed_at: str | None = column(TIME)


class Ingredient(SQLModel, table=True):
    """What dishes are made of."""

    __tablename__ = "ingredient"
    __table_args__ = table_args(IS_EXACT, at_most("name", MAX_NAME))
    id: int | None = identity()
    name: str = column(TEXT, nullable=False, unique=True)
    name_en: str | None = column(TEXT)


class MenuItemIngredient(SQLModel, table=True):
    """How much of an ingredient one portion takes."""

    __tablename__ = "menu_item_ingredient"
    __table_args__ = table_args(CheckConstraint("quantity > 0", name="quantity_is_positive"))
    menu_item_id: int = Field(
        sa_type=INTEGER, primary_key=True, sa_column_args=[ForeignKey("menu_item.id", ondelete="CASCADE")]
    )
    ingredient_id: int = Field(
        sa_type=INTEGER, primary_key=True, sa_column_args=[ForeignKey("ingredient.id", ondelete="CASCADE")]
    )
    quantity: float = column(REAL, nullable=False)


class Inventory(SQLModel, table=True):
    """Stock of one ingredient; `status` follows `count` and `threshold` by itself."""

    __tablename__ = "inventory"
    __table_args__ = table_args(
        IS_EXACT, within("count", 0, 10**9), within("max_count", 0, 10**9), within("threshold", 0, 10**9), is_time("updated_at")
    )
    id: int | None = identity()
    ingredient_id: int | None = column(INTEGER, references="ingredient.id", unique=True)
    name: str = column(TEXT, nullable=False)
    count: float = column(REAL, nullable=False, server_default="0")
    max_count: float = column(REAL, nullable=False, server_default="100")
    threshold: float = column(REAL, nullable=False, server_default="10")
    status: str | None = Field(
        default=None,
        sa_type=TEXT,
        sa_column_args=[
            Computed(
                "CASE WHEN count <= 0 THEN 'OUT_OF_STOCK' WHEN count <= threshold THEN 'LOW_STOCK' ELSE 'IN_STOCK' END",
                persisted=True,
            )
        ],
    )
    updated_at: str | None = column(TIME)


class SystemLog(SQLModel, table=True):
    """A line that a device or this server wants a technician to see."""

    __tablename__ = "system_log"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("level", LogLevel),
        at_most("source", MAX_NAME),
        at_most("message", MAX_TEXT),
        is_time("timestamp"),
    )
    id: int | None = given_identity()
    level: str = column(TEXT, nullable=False, server_default="INFO")
    source: str | None = column(TEXT)
    message: str = column(TEXT, nullable=False)
    data: str | None = column(JSON)
    timestamp: str = column(TIME, nullable=False)


class VideoStream(SQLModel, table=True):
    """Where a camera's picture can be fetched."""

    __tablename__ = "video_stream"
    __table_args__ = table_args(
        IS_EXACT,
        one_of("source_type", VideoSource),
        one_of("status", VideoStatus),
        within("recording", 0, 1),
        at_most("name", MAX_NAME),
    )
    id: int | None = identity()
    name: str = column(TEXT, nullable=False)
    source_type: str = column(TEXT, nullable=False)
    url: str = column(TEXT, nullable=False)
    status: str = column(TEXT, nullable=False, server_default="INACTIVE")
    recording: int = column(BOOLEAN, nullable=False, server_default="0")
