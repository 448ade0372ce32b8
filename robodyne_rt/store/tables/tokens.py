"""Tokens in the database, see `users.py`."""

from collections.abc import Collection
from typing import Any

from robodyne_rt.model import times
from robodyne_rt.model.access import ROLES
from robodyne_rt.model.changes import Entity
from robodyne_rt.model.rows import TokenRow
from robodyne_rt.protocol.errors import ResourceNotFound
from robodyne_rt.store.engine.database import DbConnection, insert
from robodyne_rt.store.tables import names

_TOKEN = ("id", "kind", "user_name", "roles", "label", "created_at", "expires_at", "revoked_at")


def list_tokens(db: DbConnection) -> list[TokenRow]:
    """Return the tokens that were given out and are not over, newest first."""
    rows = db.execute(f"SELECT {', '.join(_TOKEN)} FROM token ORDER BY id DESC LIMIT 1000").fetchall()
    return [
        TokenRow(
            id=id,
            kind=kind,
            user=user,
            roles=names.load_list(roles),
            label=label,
            created_at=db.time_text(created_at) or "",
            expires_at=db.time_text(expires_at) or "",
            revoked_at=db.time_text(revoked_at),
        )
        for id, kind, user, roles, label, created_at, expires_at, revoked_at in rows
    ]


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
    address: str | None = None,
    known_roles: Collection[str] = ROLES,
) -> None:
    """Note that a token is given out.

    Args:
        address: where its user logged in.
    Raises:
        InvalidPayload: a role that does not exist.
    """
    if roles is not None:
        names.checked_roles(roles, known_roles)
    insert(
        db,
        "token",
        {
            "id": id,
            "kind": kind,
            "user_name": names.checked_user_name(user),
            "roles": None if roles is None else names.dump_list(roles),
            "label": label,
            "refresh_digest": refresh_digest,
            "created_at": times.to_text(now),
            "expires_at": times.to_text(expires_at),
            "address": address,
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
    if not revoke_where(db, now, "id = ?", id):
        raise ResourceNotFound(f"no token {id} that is good")
    return {"id": id, "revoked": True}


def revoke_where(db: DbConnection, now: float, condition: str, value: Any) -> int:
    done = db.execute(f"UPDATE token SET revoked_at = ? WHERE {condition} AND revoked_at IS NULL", (times.to_text(now), value))
    return int(done.rowcount)


def forget_expired(db: DbConnection, *, now: float) -> int:
    """Delete tokens that were over a day ago."""
    return int(db.execute("DELETE FROM token WHERE expires_at < ?", (times.to_text(now - 86400),)).rowcount)
