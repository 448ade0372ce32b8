"""A device proves that it has its key, without sending it (SPEC section 5, "Device authentication").

    device: Hello{device_id, client_nonce}     server: {status: "challenge", nonce}
    device: Hello{device_id, proof}            server: success

    proof = hex HMAC-SHA256(key, "robodyne-rt\\n" + device_id + "\\n" + nonce + "\\n" + client_nonce)

Both nonces are random and used once, so nothing that was heard on the wire is of any use again. An unknown device costs the
same steps as a wrong key, and is told the same.
"""

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from robodyne_rt.model.changes import Entity
from robodyne_rt.model.names import forms, nfc
from robodyne_rt.protocol.errors import Forbidden, InvalidPayload

LABEL = "robodyne-rt"
NONCES_KNOWN = 10_000
CHALLENGE_S = 5.0
ALL_ROBOTS = "*"

_NONCE = re.compile(r"(?:[0-9a-fA-F]{2}){16,64}")


class Identity(NamedTuple):
    """A device that proved a key, or bears a certificate (`key_id` is empty then); `robots` are those it speaks for, None for
    all."""

    device_id: str
    robots: frozenset[str] | None
    key_id: str = ""

    def may_speak_for(self, robot_id: str) -> bool:
        """Return whether a message about a robot may come from it."""
        return self.robots is None or robot_id in self.robots


class Known(NamedTuple):
    """What the server knows of a device: its keys by id, two of them while one is replaced. A stranger has keys as well, that
    nobody knows, so that it costs the same, but no identity."""

    keys: dict[str, bytes]
    identity: Identity | None

    def revalidate(self, identity: Identity) -> Identity | None:
        """Return what a device may now that came by one of its keys; None where that is good no more."""
        if self.identity is None or (identity.key_id and identity.key_id not in self.keys):
            return None
        return self.identity._replace(key_id=identity.key_id)


def known(device: Entity | None, key_of: Callable[[str], bytes]) -> Known:
    """Return what is known of a device, as its row says; of a stranger (None) keys that nobody has.

    Args:
        key_of: the key of this device by the key's id.
    """
    # Always two keys, so that everybody takes as long; nobody was ever given those that stand in for a missing one.
    ids = (device["key_id"], device["previous_key_id"] or "-") if device is not None else ("", "-")
    keys = {id: key_of(id) for id in ids}
    if device is None:
        return Known(keys, None)
    # Another program may have written anything there: what is no list names no robot.
    robots = device["robots"] if isinstance(device["robots"], list) else []
    speaks_for = None if ALL_ROBOTS in robots else frozenset(nfc(robot) for robot in robots if isinstance(robot, str))
    return Known(keys, Identity(nfc(device["device_id"]), speaks_for))


class Challenge(NamedTuple):
    """An answer that is waited for."""

    device_id: str
    nonce: str
    client_nonce: str
    deadline: float


def proof(key: bytes, device_id: str, nonce: str, client_nonce: str) -> str:
    """Return what a device with this key answers."""
    text = f"{LABEL}\n{device_id}\n{nonce}\n{client_nonce}"
    return hmac.digest(key, text.encode(), hashlib.sha256).hex()


class DeviceAuth:
    """Challenges and their proofs, for all wires; `now` is monotonic seconds.

    Args:
        known: tells what is known of a device; never None, so that strangers cost the same.
    """

    def __init__(self, known: Callable[[str], Known]) -> None:
        self._known = known
        self._client_nonces: OrderedDict[tuple[str, str], None] = OrderedDict()

    def challenge(self, device_id: str, client_nonce: str, now: float) -> Challenge:
        """Return a challenge for a device, whether there is such a one or not.

        Raises:
            InvalidPayload: the nonce is not random bytes in hex.
        """
        if not _NONCE.fullmatch(client_nonce):
            raise InvalidPayload("client_nonce: expected 16 to 64 random bytes in hex")
        return Challenge(device_id, secrets.token_hex(16), client_nonce, now + CHALLENGE_S)

    def prove(self, challenge: Challenge | None, device_id: str, given: str, now: float) -> Identity:
        """Return who a device is.

        Raises:
            Forbidden: it is not; why, is not told.
        """
        asked = challenge or Challenge("", "", "", 0.0)
        known = self._known(device_id)
        matches = [
            id
            for id, key in known.keys.items()
            for said in forms(device_id)  # a device computes over its name as it has it
            if hmac.compare_digest(proof(key, said, asked.nonce, asked.client_nonce).encode(), given.lower().encode())
        ]
        used = (asked.device_id, asked.client_nonce)
        in_time = challenge is not None and challenge.device_id == device_id and now < challenge.deadline
        is_reflected = asked.nonce == asked.client_nonce
        if known.identity is None or not matches or not in_time or is_reflected or used in self._client_nonces:
            raise Forbidden("authentication failed")
        # Only now: who merely heard the nonce must not use it up for its owner.
        self._client_nonces[used] = None
        if len(self._client_nonces) > NONCES_KNOWN:
            self._client_nonces.popitem(last=False)
        return known.identity._replace(key_id=matches[0])
