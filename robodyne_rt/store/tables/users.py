"""Users in the database: plain functions for one connection, used by the running server and by commands without one (SPEC
section 8). What changes here reaches everybody through the change log.
"""

from typing import Any

from robodyne_rt.core import times
from robodyne_rt.errors import Conflict, ResourceNotFound
from robodyne_rt.model.access import normal_name
from robodyne_rt.model.changes import Entity
from robodyne_rt.store.engine.database import DbConnection, insert
from robodyne_rt.store.tables import names
from robodyne_rt.store.tables.tokens import revoke_where


def list_users(db: DbConnection) -> list[Entity]:
    """Return all users, by name."""
    rows = db.execute("SELECT name, roles, disabled, password_hash IS NOT NULL, created_at FROM user_ ORDER BY name")
    return [
        {
            "name": name,
            "roles": names.load_list(roles),
            "disabled": bool(disabled),
            "password": bool(has_password),
            "created_at": db.time_text(created_at),
        }
        for name, roles, disabled, has_password, created_at in rows.fetchall()
    ]


def add_user(db: DbConnection, *, name: str, roles: list[str], password_hash: str | None, now: float) -> Entity:
    """Add a user.

    Raises:
        InvalidPayload: the name or a role cannot be used.
        Conflict: there is one with this name.
    """
    name = names.checked_name(name, "user")
    names.checked_roles(roles)
    if db.execute("SELECT 1 FROM user_ WHERE name = ?", (name,)).fetchone():
        raise Conflict(f"there is a user {name!r} already")
    if _has_namesake(db, name, now):
        raise Conflict(f"{name!r} is the name of a program or a screen, which would read this user's messages")
    columns = {"name": name, "roles": names.dump_list(roles), "password_hash": password_hash, "created_at": times.to_text(now)}
    insert(db, "user_", columns)
    return names.one(list_users(db), "name", name)


def _has_namesake(db: DbConnection, name: str, now: float) -> bool:
    """Return whether a token with roles of its own, for a program or a screen, is good under a name."""
    condition = "user_name = ? AND roles IS NOT NULL AND revoked_at IS NULL AND expires_at > ?"
    return db.execute(f"SELECT 1 FROM token WHERE {condition}", (name, times.to_text(now))).fetchone() is not None


def change_user(db: DbConnection, name: str, *, now: float, **changes: Any) -> Entity:
    """Change `roles`, `password_hash` or `disabled` of a user; a new password, or none any more, ends all logins.

    Raises:
        ResourceNotFound, InvalidPayload.
    """
    name = normal_name(name)
    if "roles" in changes:
        names.checked_roles(changes["roles"])
        changes["roles"] = names.dump_list(changes["roles"])
    if "disabled" in changes:
        changes["disabled"] = int(changes["disabled"])
    sets = ", ".join(f"{column} = ?" for column in changes)
    if not db.execute(f"UPDATE user_ SET {sets} WHERE name = ?", (*changes.values(), name)).rowcount:
        raise ResourceNotFound(f"no user {name!r}")
    if "password_hash" in changes or changes.get("disabled"):
        revoke_where(db, now, "user_name = ? AND kind = 'LOGIN'", name)
    return names.one(list_users(db), "name", name)


def remove_user(db: DbConnection, name: str, *, now: float) -> Entity:
    """Remove a user and revoke all that was given out for them. What they said and were told stays under a name that tells them
    from whoever bears theirs next.

    Raises:
        ResourceNotFound: there is none.
    """
    name = normal_name(name)
    if not db.execute("DELETE FROM user_ WHERE name = ?", (name,)).rowcount:
        raise ResourceNotFound(f"no user {name!r}")
    revoke_where(db, now, "user_name = ?", name)
    former = f"{name} (until {times.to_text(now)})"
    for table, column, before, after in (
        ("chat_message", "user_name", name, former),
        ("staff_message", "sender", name, former),
        ("staff_message", "recipient", name, former),
        ("staff_message_receipt", "user_name", name, former),
        ("device_message", "device", f"user:{name}", f"user:{former}"),
    ):
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (after, before))
    db.execute("DELETE FROM session WHERE user_name = ?", (name,))
    return {"name": name, "removed": True}
