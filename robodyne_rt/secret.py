"""The server's own secret: it signs tokens, and all device keys are derived from it. A file for the server's user only."""

import contextlib
import hashlib
import hmac
import os
import secrets
import unicodedata
from pathlib import Path

from robodyne_rt.settings import ConfigError

MIN_BYTES = 32
MIN_DISTINCT_BYTES = 8
"""Of what is random, 32 bytes have more of them, also as hexadecimal digits."""


class Secret:
    """Made by `load`; shows itself nowhere."""

    def __init__(self, key: bytes, *, is_new: bool = False) -> None:
        self.key = key
        """What local tokens are signed with (HS256)."""
        self.is_new = is_new
        """Whether it was made just now."""

    def device_key(self, device_id: str, key_id: str) -> bytes:
        """Return the 32 bytes that a device proves to have; its name may be in any form."""
        name = unicodedata.normalize("NFC", device_id)
        return hmac.digest(self.key, f"robodyne-rt device key\n{name}\n{key_id}".encode(), hashlib.sha256)

    def signature(self, text: str) -> str:
        """Return what only this server can write under a text."""
        return hmac.digest(self.key, f"robodyne-rt seal\n{text}".encode(), hashlib.sha256).hex()[:32]

    def __repr__(self) -> str:
        return "Secret(***)"


def load(file: str) -> Secret:
    """Return the secret in a file, which is made (0600) where there is none.

    Raises:
        ConfigError: it cannot be read or made, is no secret (too short, or what a power cut leaves), or others may read it.
    """
    path = Path(file).absolute()
    is_new = not path.exists()
    if is_new:
        try:
            _make(path)
        except OSError as error:
            raise ConfigError(f"[auth] secret_file {path}: cannot be made: {error}") from error
    try:
        key = path.read_bytes().strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"[auth] secret_file {path}: cannot be read: {error}") from error
    if (fault := _fault(key)) is not None:
        raise ConfigError(
            f"[auth] secret_file {path}: {fault}: put its copy back. Without a copy delete it for a new one:"
            " all tokens and device keys are void then"
        )
    if mode & 0o077:
        raise ConfigError(f"[auth] secret_file {path}: others may read it; chmod 600 {path}")
    return Secret(key, is_new=is_new)


def _fault(key: bytes) -> str | None:
    """Return why anybody could guess a key, None where nobody can."""
    if len(key) < MIN_BYTES:
        return f"expected at least {MIN_BYTES} bytes"
    if b"\0" * 4 in key or len(set(key)) < MIN_DISTINCT_BYTES:
        return "its content is not random (a power cut may have emptied it)"
    return None


def _make(path: Path) -> None:
    """Make a secret, whole or not at all: what a power cut leaves half done would lock everybody out."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as made:
            made.write(secrets.token_hex(MIN_BYTES) + "\n")
            made.flush()
            os.fsync(made.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # never over another one: a command may make one at the same moment
    finally:
        part.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
