"""Users, tokens and devices in the database: plain functions for one session, used by the running server and by commands
without one (SPEC section 8). What changes here reaches everybody through the change log.
"""

import secrets
from typing import Any

import orjson

from robodyne_rt.core import times
from robodyne_rt.core.directory import FOREIGN_SUFFIX
from robodyne_rt.errors import Conflict, InvalidPayload, ResourceNotFound
from robodyne_rt.model.access import RESERVED_NAMES, ROLE_PREFIX, ROLES, normal_name
from robodyne_rt.model.changes import Entity
from robodyne_rt.store.engine.database import DbConnection, insert

MAX_NAME_LENGTH = 100
MAX_ROBOTS = 500

ALL_ROBOTS = "*"


# -- users -----------------------------------------------------------------------------------------------------------


def users(db: DbConnection) -> list[Entity]:
    """Return all users, by name."""
    rows = db.execute("SELECT name, roles, disabled, password_hash IS NOT NULL, created_at FROM user_ ORDER BY name")
    return [
        {
            "name": name,
            "roles": _loads(roles),
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
    name = checked_name(name, "user")
    checked_roles(roles)
    if db.execute("SELECT 1 FROM user_ WHERE name = ?", (name,)).fetchone():
        raise Conflict(f"there is a user {name!r} already")
    if _has_namesake(db, name, now):
        raise Conflict(f"{name!r} is the name of a program or a screen, which would read this user's messages")
    columns = {"name": name, "roles": _dumps(roles), "password_hash": password_hash, "created_at": times.to_text(now)}
    insert(db, "user_", columns)
    return _one(users(db), "name", name)


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
        checked_roles(changes["roles"])
        changes["roles"] = _dumps(changes["roles"])
    if "disabled" in changes:
        changes["disabled"] = int(changes["disabled"])
    sets = ", ".join(f"{column} = ?" for column in changes)
    if not db.execute(f"UPDATE user_ SET {sets} WHERE name = ?", (*changes.values(), name)).rowcount:
        raise ResourceNotFound(f"no user {name!r}")
    if "password_hash" in changes or changes.get("disabled"):
        _revoke(db, now, "user_name = ? AND kind = 'LOGIN'", name)
    return _one(users(db), "name", name)


def remove_user(db: DbConnection, name: str, *, now: float) -> Entity:
    """Remove a user and revoke all that was given out for them. What they said and were told stays under a name that tells them
    from whoever bears theirs next.

    Raises:
        ResourceNotFound: there is none.
    """
    name = normal_name(name)
    if not db.execute("DELETE FROM user_ WHERE name = ?", (name,)).rowcount:
        raise ResourceNotFound(f"no user {name!r}")
    _revoke(db, now, "user_name = ?", name)
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


# -- tokens ----------------------------------------------------------------------------------------------------------

_TOKEN = ("id", "kind", "user_name", "roles", "label", "created_at", "expires_at", "revoked_at")


def tokens(db: DbConnection) -> list[Entity]:
    """Return the tokens that were given out and are not over, newest first."""
    rows = db.execute(f"SELECT {', '.join(_TOKEN)} FROM token ORDER BY id DESC LIMIT 1000").fetchall()
    found = []
    for row in rows:
        token = dict(zip(_TOKEN, row, strict=True))
        token |= {name: db.time_text(token[name]) for name in ("created_at", "expires_at", "revoked_at")}
        token["roles"] = _loads(token["roles"])
        token["user"] = token.pop("user_name")
        found.append(token)
    return found


def add_token(  # noqa: PLR0917
    db: DbConnection,
    id: int,
    kind: str,
    user: str,
    roles: list[str] | None,
    label: str | None,
    refresh_digest: str | None,
    expires_at: float,
    now: float,
) -> None:
    """Note that a token is given out.

    Raises:
        InvalidPayload: a role that does not exist.
    """
    if roles is not None:
        checked_roles(roles)
    insert(
        db,
        "token",
        {
            "id": id,
            "kind": kind,
            "user_name": checked_name(user, "user"),
            "roles": None if roles is None else _dumps(roles),
            "label": label,
            "refresh_digest": refresh_digest,
            "created_at": times.to_text(now),
            "expires_at": times.to_text(expires_at),
        },
    )


def rotate_token(db: DbConnection, id: int, *, old: str, new: str, expires_at: float, now: float) -> bool:
    """Replace a refresh token's digest `old` by `new`; return whether `new` is the newest now, replaced here or by the same
    request a moment ago."""
    done = db.execute(
        "UPDATE token SET refresh_digest = ?, previous_digest = ?, rotated_at = ?, expires_at = ?"
        " WHERE id = ? AND refresh_digest = ? AND revoked_at IS NULL",
        (new, old, times.to_text(now), times.to_text(expires_at), id, old),
    )
    if done.rowcount:
        return True
    row = db.execute("SELECT 1 FROM token WHERE id = ? AND refresh_digest = ? AND revoked_at IS NULL", (id, new)).fetchone()
    return row is not None


def prolong_token(db: DbConnection, id: int, *, expires_at: float) -> None:
    """Let a login live longer, if it was not taken back."""
    db.execute("UPDATE token SET expires_at = ? WHERE id = ? AND revoked_at IS NULL", (times.to_text(expires_at), id))


def revoke_token(db: DbConnection, id: int, *, now: float) -> Entity:
    """Take a token back.

    Raises:
        ResourceNotFound: there is none, or it was taken back already.
    """
    if not _revoke(db, now, "id = ?", id):
        raise ResourceNotFound(f"no token {id} that is good")
    return {"id": id, "revoked": True}


def _revoke(db: DbConnection, now: float, condition: str, value: Any) -> int:
    done = db.execute(f"UPDATE token SET revoked_at = ? WHERE {condition} AND revoked_at IS NULL", (times.to_text(now), value))
    return int(done.rowcount)


def forget_expired(db: DbConnection, *, now: float) -> int:
    """Delete tokens that were over a day ago."""
    return int(db.execute("DELETE FROM token WHERE expires_at < ?", (times.to_text(now - 86400),)).rowcount)


# -- devices ---------------------------------------------------------------------------------------------------------

_DEVICE = ("device_id", "robots", "key_id", "previous_key_id", "revoked", "created_at")


def devices(db: DbConnection) -> list[Entity]:
    """Return all devices, by name; `keys` is how many are good."""
    rows = db.execute(f"SELECT {', '.join(_DEVICE)} FROM device ORDER BY device_id").fetchall()
    found = []
    for row in rows:
        device = dict(zip(_DEVICE, row, strict=True))
        keys = [id for id in (device.pop("key_id"), device.pop("previous_key_id")) if id]
        device["robots"] = _loads(device["robots"])
        device["created_at"] = db.time_text(device["created_at"])
        device["revoked"] = bool(device["revoked"])
        found.append(device | {"keys": 0 if device["revoked"] else len(keys)})
    return found


def add_device(db: DbConnection, device_id: str, *, robots: list[str] | None, now: float) -> str:
    """Add a device, or give a revoked one a new life; return the id of its key.

    Args:
        robots: which robots it speaks for; None for the one of its own name, `["*"]` for all.
    Raises:
        Conflict: there is one with this name.
        InvalidPayload: a name that cannot be used.
    """
    device_id = checked_name(device_id, "device")
    if device_id == ALL_ROBOTS or device_id.startswith("table:"):  # names that mean something else
        raise InvalidPayload("device: expected a name of its own")
    names = [checked_name(robot, "robot") for robot in (robots if robots is not None else [device_id])]
    if len(names) > MAX_ROBOTS:
        raise InvalidPayload(f"robots: at most {MAX_ROBOTS}; {ALL_ROBOTS!r} stands for all")
    row = db.execute("SELECT revoked FROM device WHERE device_id = ?", (device_id,)).fetchone()
    if row is not None and not row[0]:
        raise Conflict(f"there is a device {device_id!r} already; rotate its key, or revoke it first")
    key_id = secrets.token_hex(8)
    if row is not None:
        db.execute(
            "UPDATE device SET robots = ?, key_id = ?, previous_key_id = NULL, revoked = 0, created_at = ? WHERE device_id = ?",
            (_dumps(names), key_id, times.to_text(now), device_id),
        )
    else:
        columns = {"device_id": device_id, "robots": _dumps(names), "key_id": key_id, "created_at": times.to_text(now)}
        insert(db, "device", columns)
    return key_id


def rotate_device(db: DbConnection, device_id: str, *, again: bool = False) -> str:
    """Give a device a second key; the one it has stays good until `finish_rotation`.

    Args:
        again: whether the second key may be replaced by another one, where there are two.
    Raises:
        ResourceNotFound: no such device.
        Conflict: it has two keys, and one of them may be the one in use.
    """
    row = db.execute("SELECT previous_key_id FROM device WHERE device_id = ? AND revoked = 0", (device_id,)).fetchone()
    if row is None:
        raise ResourceNotFound(f"no device {device_id!r}")
    if row[0] is not None and not again:
        raise Conflict(
            f"device {device_id!r} has two keys: --finish lets the older one go, --again replaces the newer one if it was lost"
        )
    key_id = secrets.token_hex(8)
    db.execute(
        "UPDATE device SET previous_key_id = coalesce(previous_key_id, key_id), key_id = ? WHERE device_id = ?",
        (key_id, device_id),
    )
    return key_id


def finish_rotation(db: DbConnection, device_id: str) -> Entity:
    """Let a device's older key be good no more.

    Raises:
        ResourceNotFound: no such device.
    """
    done = db.execute("UPDATE device SET previous_key_id = NULL WHERE device_id = ? AND revoked = 0", (device_id,))
    if not done.rowcount:
        raise ResourceNotFound(f"no device {device_id!r}")
    return _one(devices(db), "device_id", device_id)


def revoke_device(db: DbConnection, device_id: str) -> Entity:
    """Let a device speak no more.

    Raises:
        ResourceNotFound: no such device.
    """
    if not db.execute("UPDATE device SET revoked = 1 WHERE device_id = ? AND revoked = 0", (device_id,)).rowcount:
        raise ResourceNotFound(f"no device {device_id!r}")
    return _one(devices(db), "device_id", device_id)


# -- names -----------------------------------------------------------------------------------------------------------


def checked_name(name: Any, what: str) -> str:
    """Return a name as it is stored (NFC).

    Raises:
        InvalidPayload: not a text of 1 to 100 printable characters without space at its ends.
    """
    if isinstance(name, str):
        name = normal_name(name)
        if name in RESERVED_NAMES or name.startswith(ROLE_PREFIX) or name.endswith(FOREIGN_SUFFIX):
            raise InvalidPayload(f"{what}: {name[:MAX_NAME_LENGTH]!r} has a meaning of its own; choose another name")
        if 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable() and name == name.strip():
            return str(name)
    raise InvalidPayload(f"{what}: expected a name of 1 to {MAX_NAME_LENGTH} printable characters")


def checked_roles(roles: Any) -> None:
    """Check a list of roles.

    Raises:
        InvalidPayload: not a list of roles that exist.
    """
    if not isinstance(roles, list) or not roles or not all(role in ROLES for role in roles):
        raise InvalidPayload(f"roles: expected some of {', '.join(ROLES)}")


def _one(rows: list[Entity], name: str, value: str) -> Entity:
    return next(row for row in rows if row[name] == value)


def _dumps(value: list[str]) -> str:
    return orjson.dumps(list(dict.fromkeys(value))).decode()


def _loads(value: Any) -> Any:
    try:
        return orjson.loads(value) if isinstance(value, str | bytes) else value
    except orjson.JSONDecodeError:
        return None  # another program's; it opens nothing
