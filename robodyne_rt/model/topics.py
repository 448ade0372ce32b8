"""The one registry of topics (SPEC section 2). A new one: a model in entities/, a line here, `scripts/schema`, and a
migration, without which databases that exist are refused.

Read by the store (which triggers and queries to make), the hub (which topics exist) and the web (which paths).
"""

from dataclasses import dataclass

QUIET_COLUMNS = frozenset({"last_seen", "updated_at", "reported_at"})
"""Columns whose change announces nothing."""

STATUS = "status"
"""The topic without a table: the whole system at a glance."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a snapshot holds where a topic grows without end.

    Without SQL: the newest rows, by id. With `open_sql` and `recent_sql`: rows that are open, and those younger than a
    number of minutes (each `? AND ?` is the time in which they are shown). The number is a setting of `[topics]`, or `fixed`.
    """

    setting: str = ""
    fixed: int = 0
    open_sql: str = ""
    recent_sql: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """A table, and which of its columns hold more than the database's own types say."""

    table: str
    json: tuple[str, ...] = ()
    boolean: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nested:
    """Rows of another table that are shown inside their parent, as a list under `field`."""

    rows: Rows
    parent_column: str
    field: str


@dataclass(frozen=True, slots=True)
class Joined:
    """A column of the row that `key` refers to, shown beside it: a printer need not know all tables."""

    key: str
    table: str
    column: str


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: `name` on the wire, `rows` in the database.

    What is `private` takes the same way through the change log, so that rights follow the database at once, but no client can
    subscribe to it.
    """

    name: str
    rows: Rows
    window: Window | None = None
    nested: tuple[Nested, ...] = ()
    joined: tuple[Joined, ...] = ()
    private: bool = False

    @property
    def table(self) -> str:
        """Name of its table."""
        return self.rows.table

    @property
    def nested_tables(self) -> tuple[str, ...]:
        """Names of the tables whose rows are shown inside its own."""
        return tuple(nested.rows.table for nested in self.nested)


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("robots", Rows("robot", json=("joints",))),
        Topic("tables", Rows("table_")),
        Topic("events", Rows("event", json=("data",)), window=Window(setting="events_window")),
        Topic(
            "orders",
            Rows("order_"),
            window=Window(
                setting="orders_finished_minutes",
                open_sql="status IN ('PLACED', 'PREPARING', 'READY', 'SERVING')",
                recent_sql="served_at BETWEEN ? AND ? OR (status = 'CANCELLED' AND timestamp BETWEEN ? AND ?)",
            ),
            nested=(Nested(Rows("order_item", json=("options",)), "order_id", "items"),),
            joined=(Joined("table_id", "table_", "table_number"),),
        ),
        Topic("systemlogs", Rows("system_log", json=("data",)), window=Window(setting="systemlogs_window")),
        Topic(
            "customers",
            Rows("customer"),
            window=Window(fixed=60, open_sql="left_at IS NULL", recent_sql="left_at BETWEEN ? AND ?"),
        ),
        Topic("inventory", Rows("inventory")),
        Topic("video_streams", Rows("video_stream", boolean=("recording",))),
        Topic("users", Rows("user_", json=("roles",), boolean=("disabled",)), private=True),
        Topic(
            "tokens",
            Rows("token", json=("roles",)),
            window=Window(fixed=1, open_sql="revoked_at IS NULL", recent_sql="revoked_at BETWEEN ? AND ?"),
            private=True,
        ),
        Topic("devices", Rows("device", json=("robots",), boolean=("revoked",)), private=True),
    )
}

PUBLIC_TOPICS: tuple[str, ...] = tuple(name for name, topic in TOPICS.items() if not topic.private)
"""Topics with a table that clients may subscribe to."""

TOPIC_NAMES: tuple[str, ...] = (*PUBLIC_TOPICS, STATUS)
"""All that clients may subscribe to."""
