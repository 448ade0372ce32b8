"""The published keys of an OIDC issuer (RFC 7517): fetched seldom, kept for bad days.

A key that is not known leads to one fetch, at most every 30 s whoever asks; where the issuer is away the last good set
counts, also after a restart without a network.
"""

import logging
import re
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import jwt
import orjson

from robodyne_rt import durable_files
from robodyne_rt.ports import Clock

logger = logging.getLogger(__name__)

FRESH_S = 600.0
ASK_AGAIN_S = 30.0
FETCH_TIMEOUT_S = 3.0
MAX_BYTES = 65536
MAX_KEYS = 50
_KID = re.compile(r"[A-Za-z0-9._=+/-]{1,128}")


class KeySet:
    """The keys at one URL.

    Args:
        kept: file of the last good set.
    """

    def __init__(self, url: str, *, kept: Path, clock: Clock) -> None:
        self._url = url
        self._kept = kept
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_at = float("-inf")
        self._fetching = anyio.Lock()
        try:
            self._keys = _parse(kept.read_bytes())
        except FileNotFoundError:
            pass
        except Exception as error:
            logger.warning("%s cannot be used: %s", kept, error, extra={"action": "jwks_unreadable"})

    async def find(self, kid: Any) -> jwt.PyJWK | None:
        """Return a key by its id; a set of one key needs no id."""
        if kid is not None and not (isinstance(kid, str) and _KID.fullmatch(kid)):
            return None
        key = self._look(kid)
        if key is None:
            async with self._fetching:
                key = self._look(kid)
                if key is None and self._clock.now() - self._asked_at >= ASK_AGAIN_S:
                    await self._fetch()
                    key = self._look(kid)
        return key

    async def run(self) -> None:
        """Keep the set current until cancelled: what the issuer withdraws is good for ten minutes more."""
        while True:
            async with self._fetching:
                await self._fetch()
            await anyio.sleep(FRESH_S)

    def _look(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    async def _fetch(self) -> None:
        self._asked_at = self._clock.now()
        try:
            timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.get(self._url, allow_redirects=False, headers={"Accept-Encoding": "identity"}) as response,
            ):
                if response.status != 200:
                    raise ValueError(f"HTTP {response.status}")
                body = b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise ValueError(f"over {MAX_BYTES} bytes")
            keys = _parse(body)
        except Exception as error:  # of the network, or of a document that anybody may have written
            logger.warning(
                "the keys at %s cannot be had (%s); the last good ones count", self._url, error, extra={"action": "jwks_failed"}
            )
            return
        self._keys = keys
        try:
            await anyio.to_thread.run_sync(durable_files.replace, self._kept, body)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._kept, error, extra={"action": "jwks_not_kept"})


def _parse(body: bytes) -> dict[str, jwt.PyJWK]:
    """Return the signing keys of a set that we can use.

    Raises:
        ValueError: no set, or none of its keys is for us.
    """
    data = orjson.loads(body)
    if not isinstance(data, dict) or not isinstance(data.get("keys"), list):
        raise ValueError("no key set")
    found: dict[str, jwt.PyJWK] = {}
    for item in data["keys"][:MAX_KEYS]:
        # Symmetric keys (`oct`) are never published by an honest issuer.
        if not isinstance(item, dict) or item.get("kty") not in ("RSA", "EC") or item.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(item, algorithm="RS256" if item["kty"] == "RSA" else "ES256")
        except Exception as error:  # PyJWT's, cryptography's, or of a field of another type
            logger.warning("a published key cannot be used: %s", error, extra={"action": "jwk_unusable"})
            continue
        found[str(item.get("kid", ""))] = key
    if not found:
        raise ValueError("no key of the set can be used")
    return found
