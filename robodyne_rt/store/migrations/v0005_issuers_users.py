"""Version 5: what an issuer says of its users, and whence people logged in."""

from robodyne_rt.store.migrations.migration import AddColumn, Migration

ISSUERS_USERS = Migration(
    version=5,
    steps=(
        AddColumn("user_", "username", "text"),
        AddColumn("user_", "full_name", "text"),
        AddColumn("user_", "email", "text"),
        AddColumn("user_", "company", "text"),
        AddColumn("token", "address", "text"),
    ),
)
