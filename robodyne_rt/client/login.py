"""A user's tokens: logged in once, refreshed before they end."""

import time
from typing import Any

import aiohttp

from robodyne_rt.client.errors import LoginFailed, Unreachable

EARLY_S = 60.0
TIMEOUT = aiohttp.ClientTimeout(total=10)


class Login:
    """Gives access tokens: `Client(url, token=Login(url, "kim", password))`.

    Args:
        url: of the server, `http://host:8000`.
        device: what the login is called in the server's list of tokens.
    """

    def __init__(self, url: str, user: str, password: str, *, device: str = "") -> None:
        self._url = url.rstrip("/")
        self._credentials = {"user": user, "password": password, **({"device": device} if device else {})}
        self._refresh: str | None = None
        self._access = ""
        self._good_until = 0.0

    async def __call__(self, *, fresh: bool = False) -> str:
        """Return a token that is good for a while; `fresh`: a new one in any case.

        Raises:
            LoginFailed: the server does not take this user.
            Unreachable: there is no server.
        """
        if not fresh and time.monotonic() < self._good_until - EARLY_S:
            return self._access
        if self._refresh is not None:
            try:
                return await self._ask("refresh", {"refresh_token": self._refresh})
            except LoginFailed:
                self._refresh = None
        return await self._ask("login", self._credentials)

    async def _ask(self, path: str, body: dict[str, Any]) -> str:
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT) as http,
                http.post(f"{self._url}/api/auth/{path}", json=body) as response,
            ):
                answer = await response.json(content_type=None)
                if response.status >= 500 or response.status == 429:
                    raise Unreachable(f"{path}: {answer.get('detail', response.status)}")
                if response.status >= 400:
                    raise LoginFailed(f"{path}: {answer.get('detail', response.status)}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unreachable(f"{path}: {error}") from error
        self._access, self._refresh = answer["access_token"], answer.get("refresh_token")
        self._good_until = time.monotonic() + answer["expires_in"]
        return self._access
