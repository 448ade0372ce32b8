"""The whole server in this process and on this loop, with an HTTP client that says who it is."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import orjson

from robodyne_rt.app.lifecycle import App, Ports
from robodyne_rt.settings import Settings

PASSWORD = "correct horse battery"


class Running:
    """A server, and one HTTP session to it."""

    def __init__(self, ports: Ports, http: aiohttp.ClientSession, settings: Settings) -> None:
        self.url = f"http://127.0.0.1:{ports.http}"
        self.ports = ports
        self._http = http
        self._settings = settings

    def token(self, name: str, *roles: str, life_s: float = 600) -> str:
        """Return a token as another program makes one, with the secret."""
        key = Path(self._settings.auth.secret_file).read_text(encoding="ascii").strip()
        now = int(time.time())
        claims = {"iss": "robodyne-rt", "aud": "robodyne-rt", "sub": name, "roles": list(roles), "iat": now}
        return jwt.encode(claims | {"exp": now + life_s}, key, algorithm="HS256")

    async def ask(self, method: str, path: str, body: Any = None, *, token: str = "", **headers: str) -> tuple[int, Any]:
        """Return status and decoded answer."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else orjson.dumps(body)
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        async with self._http.request(method, self.url + path, data=data, headers=headers) as response:
            text = await response.read()
            is_json = "json" in response.content_type
            return response.status, orjson.loads(text) if is_json else text.decode()

    async def do(self, method: str, path: str, body: Any = None, *, token: str = "", **headers: str) -> Any:
        """Return the answer to what must succeed."""
        status, answer = await self.ask(method, path, body, token=token, **headers)
        assert status < 300, (status, answer)
        return answer

    async def socket(self, path: str, *, token: str = "") -> "Socket":
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return Socket(await self._http.ws_connect(self.url + path, headers=headers))


class Socket:
    """A WebSocket that answers pings."""

    def __init__(self, link: aiohttp.ClientWebSocketResponse) -> None:
        self.link = link

    async def next(self, *types: str) -> dict[str, Any]:
        """Return the next message of one of these types."""
        async with asyncio.timeout(10):
            while True:
                message = await self.link.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, message
                found: dict[str, Any] = orjson.loads(message.data)
                if found["type"] == "ping":
                    await self.say(type="pong", data=found["data"])
                if found["type"] in types:
                    return found

    async def say(self, **message: Any) -> None:
        await self.link.send_str(orjson.dumps(message).decode())

    async def closed(self) -> int | None:
        """Return the code with which the server closes."""
        async with asyncio.timeout(10):
            while (await self.link.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        return self.link.close_code


@contextlib.asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Running]:
    """Serve from a folder on free ports; `settings` by section, a list for `[[serial]]`."""
    sections: dict[str, Any] = {
        "server": {"host": "127.0.0.1", "port": 0, "shutdown_grace_s": 1},
        "devices": {"host": "127.0.0.1", "port": 0},
        "database": {"url": f"sqlite:///{folder}/robodyne.db", "spool_path": str(folder / "spool.db")},
        "auth": {"secret_file": str(folder / "secret.key")},
    }
    for name, fields in settings.items():
        sections[name] = sections[name] | fields if name in sections else fields
    made = Settings.model_validate(sections)
    app, ready = App(made), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(app.run(on_ready=ready.set_result))
    await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if serving.done():
            await serving
        # Cookies of a server without a name are kept only where one asks for it.
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
            yield Running(ready.result(), http, made)
    finally:
        app.stop("the test is over")
        await serving
