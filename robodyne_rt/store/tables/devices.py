"""Devices and their keys in the database, see `users.py`."""

import secrets

from robodyne_rt.model import times
from robodyne_rt.model.names import nfc
from robodyne_rt.model.rows import DeviceRow
from robodyne_rt.protocol.errors import Conflict, InvalidPayload, ResourceNotFound
from robodyne_rt.store.engine.database import DbConnection, insert
from robodyne_rt.store.tables import names

MAX_ROBOTS = 500

ALL_ROBOTS = "*"

_DEVICE = ("device_id", "robots", "revoked", "created_at", "key_id", "previous_key_id")


def list_devices(db: DbConnection) -> list[DeviceRow]:
    """Return all devices, by name; `keys` is how many are good."""
    rows = db.execute(f"SELECT {', '.join(_DEVICE)} FROM device ORDER BY device_id").fetchall()
    return [
        DeviceRow(
            device_id=device_id,
            robots=names.load_list(robots) or [],
            revoked=bool(revoked),
            created_at=db.time_text(created_at) or "",
            keys=0 if revoked else sum(bool(key) for key in keys),
        )
        for device_id, robots, revoked, created_at, *keys in rows
    ]


def stored_name(db: DbConnection, device_id: str) -> str:
    """Return how a device's name is written in its row; the name in NFC where there is no such device."""
    return names.stored_name(db, "device", "device_id", device_id, nfc) or nfc(device_id)


def add_device(db: DbConnection, device_id: str, *, robots: list[str] | None, now: float) -> str:
    """Add a device, or give a revoked one a new life; return the id of its key.

    Args:
        robots: which robots it speaks for; None for the one of its own name, `["*"]` for all.
    Raises:
        Conflict: there is one with this name.
        InvalidPayload: a name that cannot be used.
    """
    device_id = names.checked_name(device_id, "device")
    if device_id == ALL_ROBOTS or device_id.startswith("table:"):  # names that mean something else
        raise InvalidPayload("device: expected a name of its own")
    spoken_for = [names.checked_name(robot, "robot") for robot in (robots if robots is not None else [device_id])]
    if len(spoken_for) > MAX_ROBOTS:
        raise InvalidPayload(f"robots: at most {MAX_ROBOTS}; {ALL_ROBOTS!r} stands for all")
    stored = stored_name(db, device_id)
    row = db.execute("SELECT revoked FROM device WHERE device_id = ?", (stored,)).fetchone()
    if row is not None and not row[0]:
        raise Conflict(f"there is a device {device_id!r} already; rotate its key, or revoke it first")
    key_id = secrets.token_hex(8)
    if row is not None:
        db.execute(
            "UPDATE device SET robots = ?, key_id = ?, previous_key_id = NULL, revoked = 0, created_at = ? WHERE device_id = ?",
            (names.dump_list(spoken_for), key_id, times.to_text(now), stored),
        )
    else:
        columns = {
            "device_id": device_id,
            "robots": names.dump_list(spoken_for),
            "key_id": key_id,
            "created_at": times.to_text(now),
        }
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
    device_id = stored_name(db, device_id)
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


def finish_rotation(db: DbConnection, device_id: str) -> DeviceRow:
    """Let a device's older key be good no more.

    Raises:
        ResourceNotFound: no such device.
    """
    device_id = stored_name(db, device_id)
    done = db.execute("UPDATE device SET previous_key_id = NULL WHERE device_id = ? AND revoked = 0", (device_id,))
    if not done.rowcount:
        raise ResourceNotFound(f"no device {device_id!r}")
    return names.one(list_devices(db), "device_id", device_id)


def revoke_device(db: DbConnection, device_id: str) -> DeviceRow:
    """Let a device speak no more.

    Raises:
        ResourceNotFound: no such device.
    """
    device_id = stored_name(db, device_id)
    if not db.execute("UPDATE device SET revoked = 1 WHERE device_id = ? AND revoked = 0", (device_id,)).rowcount:
        raise ResourceNotFound(f"no device {device_id!r}")
    return names.one(list_devices(db), "device_id", device_id)
