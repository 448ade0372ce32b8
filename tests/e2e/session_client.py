"""A small foreign client of sessions, and what a foreign program needs beside it. It imports nothing of the server.

Everything that a client hears is kept raw, in order, with the number of the connection that brought it: tests judge the server
by these logs alone.
"""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import websockets
from websockets.asyncio.client import ClientConnection

Message = dict[str, Any]


def mint(folder: Path, user: str, *roles: str, lifetime_s: float = 3600.0) -> str:
    """Return a token as a program that knows the secret makes one."""
    key = (folder / "secret.key").read_text().strip()
    now = int(time.time())
    claims = {"iss": "robodyne-rt", "aud": "robodyne-rt", "sub": user, "iat": now, "exp": now + int(lifetime_s)}
    return jwt.encode(claims | {"roles": list(roles)}, key, algorithm="HS256")


def faults_logged(server: Any) -> list[str]:
    """Return the beginnings of what a server logged as an unforeseen error."""
    lines = server.log().splitlines()
    return [f"{line[:300]} ... {line[-400:]}" for line in lines if "Traceback" in line][:3]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=15)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(15)
        self.sock.connect(str(self._path))


def control(folder: Path, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Ask the server over its control socket, as an administrator of the machine; return (status, JSON)."""
    connection = _UnixConnection(folder / "robodyne-rt.sock")
    with contextlib.closing(connection):
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")


def call(port: int, method: str, path: str, body: object = None, *, token: str = "", **headers: str) -> tuple[int, Any]:
    """Send one HTTP request; return (status, JSON) whatever the status. `Idempotency_Key=` becomes a header."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    if data is not None:
        sent["Content-Type"] = "application/json"
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def older_names(answer: Any) -> Any:
    """Return an answer without the snake_case names that stand beside older ones."""
    if isinstance(answer, list):
        return [older_names(item) for item in answer]
    if not isinstance(answer, dict):
        return answer
    twins = {re.sub(r"(?<=[a-z0-9])[A-Z]", lambda found: f"_{found[0]}", name).lower() for name in answer if not name.islower()}
    return {name: older_names(value) for name, value in answer.items() if name not in twins}


def final_of(message: Message) -> str | None:
    """Return the requestId that a message is the final answer to, None where it is none."""
    if message.get("type") == "response" or message.get("action") == "messageResponse":
        return str(message["requestId"])
    if message.get("type") == "error":
        found = message.get("requestId") or message["data"].get("requestId")
        return None if found is None else str(found)
    return None


class Final(NamedTuple):
    """One final answer as it was heard."""

    request_id: str
    seq: int | None
    session_id: str
    connection: int
    message: Message


class SessionClient:
    """One user's app: keeps its session token, comes back with it, and logs what it hears.

    Args:
        port: of the server.
        confirm: how it says what it has: `ack`, `pong`, or not at all (`none`).
        answered: whether it says the newest number it has when it comes back.
    """

    def __init__(
        self,
        port: int,
        *,
        token: str = "",
        device: str = "",
        capabilities: str = "",
        confirm: str = "pong",
        answered: bool = True,
    ) -> None:
        self.port = port
        self.token = token
        self.device = device
        self.capabilities = capabilities
        self.confirm = confirm
        self.answered = answered
        self.path = "/ws"
        self.session_token = ""
        self.session_id = ""
        self.greeting: Message = {}
        self.heard: list[Message] = []
        self.finals: list[Final] = []
        self.highest = 0
        self.connections = 0
        self.closed: tuple[int, str] | None = None
        self.on_message: Callable[[Message], None] = lambda message: None
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    # -- coming and going --------------------------------------------------------------------------------------------

    async def connect(self, **query: str) -> "SessionClient":
        """Connect, with what is known of the session; further words of the query string as keywords."""
        words = {"device": self.device, "session": self.session_token, "capabilities": self.capabilities, "token": self.token}
        if self.session_token and self.answered:
            words["answered"] = str(self.highest)
        words = {name: value for name, value in (words | query).items() if value}
        url = f"ws://127.0.0.1:{self.port}{self.path}?{urllib.parse.urlencode(words)}"
        self._socket = await websockets.connect(url, max_size=None, compression=None, ping_interval=None, open_timeout=20)
        self.closed = None
        self.connections += 1
        try:
            greeting = json.loads(await asyncio.wait_for(self._socket.recv(), 20))
        except websockets.ConnectionClosed as end:
            self.closed = (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")
            raise
        assert greeting["type"] == "connected", greeting
        self.greeting = greeting
        if greeting["sessionId"] != self.session_id:
            self.highest = 0
        self.session_token, self.session_id = greeting["sessionToken"], greeting["sessionId"]
        self._reader = asyncio.create_task(self._read(self._socket, self.connections))
        return self

    async def _read(self, link: ClientConnection, number: int) -> None:
        try:
            async for text in link:
                await self._take(json.loads(text), link, number)
        except websockets.ConnectionClosed:
            pass
        finally:
            if link is self._socket:
                self.closed = (link.close_code or 1006, link.close_reason or "")
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, message: Message, link: ClientConnection, number: int) -> None:
        self.heard.append(message)
        if (request_id := final_of(message)) is not None:
            seq = message.get("seq")
            self.finals.append(Final(request_id, seq, self.session_id, number, message))
            self.highest = max(self.highest, seq or 0)
            if self.confirm == "ack" and seq:
                await link.send(json.dumps({"type": "ack", "seq": seq}))
        elif message.get("type") == "ping" and self.confirm == "pong":
            await link.send(json.dumps({"type": "pong", "data": message["data"]}))
        self.on_message(message)
        async with self._changed:
            self._changed.notify_all()

    def abort(self) -> None:
        """Cut the line, as a walk out of the Wi-Fi does."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def close(self) -> None:
        """Leave in order."""
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)

    async def __aenter__(self) -> "SessionClient":
        return self if self._socket is not None else await self.connect()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # -- saying ------------------------------------------------------------------------------------------------------

    async def send(self, **message: Any) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps(message))

    async def send_raw(self, text: str | bytes) -> None:
        assert self._socket is not None
        await self._socket.send(text)

    async def query(self, request_id: str, text: str, **more: Any) -> None:
        await self.send(type="query", requestId=request_id, message=text, **more)

    async def ask(self, request_id: str, text: str, **more: Any) -> Message:
        """Ask, and return the final answer."""
        await self.query(request_id, text, **more)
        return await self.final(request_id)

    # -- hearing -----------------------------------------------------------------------------------------------------

    async def until(self, fact: Callable[[], Any], *, within_s: float = 20.0) -> Any:
        """Wait until `fact()` holds after something was heard; return it."""
        async with asyncio.timeout(within_s):
            async with self._changed:
                while not (found := fact()):
                    await self._changed.wait()
                return found

    async def message(self, fits: Callable[[Message], bool], *, after: int = 0, within_s: float = 20.0) -> Message:
        """Return the first message heard, from number `after` on, that fits."""
        found: Message = await self.until(
            lambda: next((message for message in self.heard[after:] if fits(message)), None), within_s=within_s
        )
        return found

    async def final(self, request_id: str, *, within_s: float = 20.0) -> Message:
        """Return the first final answer to a request."""
        return await self.message(lambda message: final_of(message) == request_id, within_s=within_s)

    async def of_type(self, type: str, *, after: int = 0, within_s: float = 20.0) -> Message:
        """Return the first message of a type."""
        return await self.message(lambda message: message.get("type") == type, after=after, within_s=within_s)

    async def settled(self) -> int:
        """Wait until everything sent before was dealt with, by an answer that is refused at once; return how much was heard."""
        mark = f"mark-{time.monotonic_ns()}"
        await self.send(type="available_data", requestId=mark, data=[])
        await self.message(lambda message: message.get("data", {}) != [] and _refuses(message, mark))
        return len(self.heard)

    async def ended(self, *, within_s: float = 20.0) -> tuple[int, str]:
        """Wait for the end of the connection; return code and reason."""
        found: tuple[int, str] = await self.until(lambda: self.closed, within_s=within_s)
        return found

    def answers(self, request_id: str) -> list[Final]:
        """Return every final answer to a request that was heard."""
        return [final for final in self.finals if final.request_id == request_id]

    def accepted(self) -> list[Final]:
        """Return the final answers that a client takes which remembers the highest number of its session."""
        highest: dict[str, int] = {}
        taken = []
        for final in self.finals:
            if final.seq is None:
                taken.append(final)
            elif final.seq > highest.get(final.session_id, 0):
                highest[final.session_id] = final.seq
                taken.append(final)
        return taken


def _refuses(message: Message, request_id: str) -> bool:
    return message.get("type") == "error" and message["data"].get("requestId") == request_id
