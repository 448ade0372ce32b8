"""The one registry of topics: adding a topic is one model and one line here (SPEC section 2).

Read by the store (which triggers and queries to make), the hub (which topics exist) and the web (which paths).
"""

from dataclasses import dataclass, field

from sqlmodel import SQLModel

from robodyne_rt.model import entities

QUIET_COLUMNS = frozenset({"last_seen", "updated_at", "reported_at"})
"""Columns whose change announces nothing."""

STATUS = "status"
"""The topic without a table: the whole system at a glance."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a snapshot holds where a topic grows without end.

    Without SQL: the newest rows, by id. With `open_sql` and `recent_sql`: rows that are open, and those younger than a
    number of minutes (each `?` is the oldest time to show). The number is a setting of `[topics]`, or `fixed`.
    """

    setting: str = ""
    fixed: int = 0
    open_sql: str = ""
    recent_sql: str = ""


@dataclass(frozen=True, slots=True)
class Nested:
    """Rows of another table that are shown inside their parent."""

    model: type[SQLModel]
    parent_column: str
    field: str


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: `name` on the wire, `model` in the database."""

    name: str
    model: type[SQLModel]
    window: Window | None = None
    nested: tuple[Nested, ...] = ()
    columns: tuple[str, ...] = field(init=False)
    table: str = field(init=False)

    def __post_init__(self) -> None:
        table = self.model.__table__  # type: ignore[attr-defined]
        object.__setattr__(self, "columns", tuple(column.name for column in table.columns))
        object.__setattr__(self, "table", table.name)


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("robots", entities.Robot),
        Topic("tables", entities.Table),
        Topic("events", entities.Event, window=Window(setting="events_window")),
        Topic(
            "orders",
            entities.Order,
            window=Window(
                setting="orders_finished_minutes",
                open_sql="status IN ('PLACED', 'PREPARING', 'READY', 'SERVING')",
                recent_sql="served_at >= ? OR (status = 'CANCELLED' AND timestamp >= ?)",
            ),
            nested=(Nested(entities.OrderItem, "order_id", "items"),),
        ),
        Topic("systemlogs", entities.SystemLog, window=Window(setting="systemlogs_window")),
        Topic("customers", entities.Customer, window=Window(fixed=60, open_sql="left_at IS NULL", recent_sql="left_at >= ?")),
        Topic("inventory", entities.Inventory),
        Topic("video_streams", entities.VideoStream),
    )
}

TOPIC_NAMES: tuple[str, ...] = (*TOPICS, STATUS)
