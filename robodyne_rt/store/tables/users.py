"""Users in the database: plain functions for one connection, used by the running server and by commands without one (SPEC
section 8). What changes here reaches everybody through the change log.
"""

from collections.abc import Collection
from typing import Any

from robodyne_rt.model import times
from robodyne_rt.model.access import ISSUER_PREFIX, MAX_ID_LENGTH, ROLES, Profile, normal_name
from robodyne_rt.model.changes import Entity
from robodyne_rt.model.rows import UserRow
from robodyne_rt.protocol.errors import Conflict, InvalidPayload, ResourceNotFound
from robodyne_rt.store.engine.database import DbConnection, insert
from robodyne_rt.store.tables import names
from robodyne_rt.store.tables.tokens import revoke_where

_FACTS = ("username", "full_name", "email", "company")


def list_users(db: DbConnection) -> list[UserRow]:
    """Return all users, by name; an issuer's users with what it says of them."""
    columns = f"name, roles, disabled, password_hash IS NOT NULL, created_at, {', '.join(_FACTS)}"
    rows = db.execute(f"SELECT {columns} FROM user_ ORDER BY name")
    found = []
    for name, roles, disabled, has_password, created_at, *facts in rows.fetchall():
        user = UserRow(
            name=name,
            roles=names.load_list(roles) or [],
            disabled=bool(disabled),
            password=bool(has_password),
            created_at=db.time_text(created_at),
        )
        user.update({fact: value for fact, value in zip(_FACTS, facts, strict=True) if value is not None})  # type: ignore[typeddict-item]
        found.append(user)
    return found


def stored_name(db: DbConnection, name: str) -> str | None:
    """Return how a user's name is written in its row, None where there is no such user."""
    return names.stored_name(db, "user_", "name", name, normal_name)


def add_user(
    db: DbConnection,
    *,
    name: str,
    roles: list[str],
    password_hash: str | None,
    now: float,
    known_roles: Collection[str] = ROLES,
) -> UserRow:
    """Add a user.

    Raises:
        InvalidPayload: the name or a role cannot be used.
        Conflict: there is one with this name.
    """
    name = names.checked_user_name(name)
    names.checked_roles(roles, known_roles)
    if stored_name(db, name) is not None:
        raise Conflict(f"there is a user {name!r} already")
    if _has_namesake(db, name, now):
        raise Conflict(f"{name!r} is the name of a program or a screen, which would read this user's messages")
    columns = {"name": name, "roles": names.dump_list(roles), "password_hash": password_hash, "created_at": times.to_text(now)}
    insert(db, "user_", columns)
    return names.one(list_users(db), "name", name)


def remember_issuers_user(db: DbConnection, name: str, profile: Profile) -> None:
    """Note an issuer's user and what the issuer says of them now. Since when there is such a user, only the issuer knows."""
    facts = profile._asdict()
    sets = ", ".join(f"{fact} = ?" for fact in facts)
    if not db.execute(f"UPDATE user_ SET {sets} WHERE name = ?", (*facts.values(), name)).rowcount:
        insert(db, "user_", {"name": name, "roles": "[]", **facts})


def _found(db: DbConnection, name: str) -> str:
    """Return how the name of who is meant is written: by it, or an issuer's user by what only they are called.

    Raises:
        ResourceNotFound, Conflict: nobody is, or several are.
    """
    name = normal_name(name)
    if (stored := stored_name(db, name)) is not None:
        return stored
    called = [row[0] for row in db.execute("SELECT name FROM user_ WHERE username = ? ORDER BY name", (name,)).fetchall()]
    if len(called) > 1:
        raise Conflict(f"{len(called)} users are called {name!r}; say which by id: {', '.join(called[:20])}")
    if not called:
        raise ResourceNotFound(f"no user {name!r}")
    return str(called[0])


def _has_namesake(db: DbConnection, name: str, now: float) -> bool:
    """Return whether a token with roles of its own, for a program or a screen, is good under a name."""
    condition = "user_name = ? AND roles IS NOT NULL AND revoked_at IS NULL AND expires_at > ?"
    return db.execute(f"SELECT 1 FROM token WHERE {condition}", (name, times.to_text(now))).fetchone() is not None


def change_user(db: DbConnection, name: str, *, now: float, known_roles: Collection[str] = ROLES, **changes: Any) -> UserRow:
    """Change `roles`, `password_hash` or `disabled` of a user; a new password, or none any more, ends all logins.

    Raises:
        ResourceNotFound, Conflict, InvalidPayload.
    """
    is_new = name.startswith(ISSUER_PREFIX) and stored_name(db, name) is None
    if is_new and changes.keys() == {"disabled"} and len(name) <= MAX_ID_LENGTH:
        insert(db, "user_", {"name": name, "roles": "[]"})  # kept out before they come
    stored = _found(db, name)
    name = normal_name(stored)
    if name.startswith(ISSUER_PREFIX) and changes.keys() != {"disabled"}:
        raise InvalidPayload("roles and password of an issuer's user are the issuer's to change")
    if "roles" in changes:
        names.checked_roles(changes["roles"], known_roles)
        changes["roles"] = names.dump_list(changes["roles"])
    if "disabled" in changes:
        changes["disabled"] = int(changes["disabled"])
    sets = ", ".join(f"{column} = ?" for column in changes)
    db.execute(f"UPDATE user_ SET {sets} WHERE name = ?", (*changes.values(), stored))
    if "password_hash" in changes or changes.get("disabled"):
        revoke_where(db, now, "user_name = ? AND kind = 'LOGIN'", name)
    return names.one(list_users(db), "name", stored)


def remove_user(db: DbConnection, name: str, *, now: float) -> Entity:
    """Remove a user and revoke all that was given out for them. What they said and were told stays under a name that tells them
    from whoever bears theirs next.

    Raises:
        ResourceNotFound, Conflict: there is none, or several.
    """
    stored = _found(db, name)
    name = normal_name(stored)
    db.execute("DELETE FROM user_ WHERE name = ?", (stored,))
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
