"""Version 4: the steps of orders and items, ids that every client can read, letters that are tried again."""

from robodyne_rt.store.migrations.migration import AddCheck, AddColumn, Migration, RenumberRows

_REFERENCES = {
    "robot": (("order_", "robot_id"),),
    "table_": (("order_", "table_id"), ("customer", "table_id")),
    "event": (),
    "customer": (("order_", "customer_id"),),
    "order_": (("order_item", "order_id"),),
    "menu_item": (("order_item", "menu_item_id"), ("menu_item_ingredient", "menu_item_id")),
    "order_item": (),
    "ingredient": (("menu_item_ingredient", "ingredient_id"), ("inventory", "ingredient_id")),
    "inventory": (),
    "system_log": (),
    "video_stream": (),
}

ORDER_STEPS = Migration(
    version=4,
    steps=(
        AddColumn("order_", "recalled_at", "time"),
        AddColumn("order_item", "changed_at", "time"),
        AddColumn(
            "dead_letter",
            "state",
            "text",
            default="PARKED",
            check_name="state_is_known",
            check="state = 'RETRYING' OR state = 'PARKED'",
        ),
        AddColumn("dead_letter", "retry_age_s", "integer"),
        AddColumn("topic_head", "next_id", "integer"),
        AddColumn("topic_head", "is_silent", "boolean", default="0"),
        *(RenumberRows(table, references) for table, references in _REFERENCES.items()),
        *(AddCheck(table, "id_in_range", "id BETWEEN 1 AND 9007199254740991") for table in _REFERENCES),
    ),
)
