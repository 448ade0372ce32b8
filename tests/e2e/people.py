"""Users, tokens and devices for tests, made as a technician makes them; and a plain HTTP client that sends what it is told.

They are made over the server's control socket, which is the API of an administrator without a token.
"""

import base64
import hashlib
import hmac
import http.client
import itertools
import json
import secrets
import socket
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jwt

from tests.e2e.raw import Answer, Socket, ask, head, open_socket
from tests.e2e.server import Server

LOCAL = "robodyne-rt"
"""Issuer and audience of the server's own tokens."""

OUTSIDE = "203.0.113.9"
"""An address that nothing is open to; `Outside` says it behind a trusted proxy."""

LEEWAY_S = 30

_numbers = itertools.count(1)


def unique(word: str) -> str:
    """Return a name that no other test of the module has."""
    return f"{word}-{next(_numbers)}"


class _Local(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


def control(server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Ask the control socket; return (status, decoded answer)."""
    link = _Local(str(server.folder / "robodyne-rt.sock"))
    try:
        data = None if body is None else json.dumps(body).encode()
        link.request(method, path, data, {"Content-Type": "application/json"} if data is not None else {})
        response = link.getresponse()
        text = response.read()
        return response.status, json.loads(text)
    finally:
        link.close()


def do(server: Server, method: str, path: str, body: Any = None) -> Any:
    """Ask the control socket for what must succeed."""
    status, answer = control(server, method, path, body)
    assert status < 300, (status, answer)
    return answer


class User(NamedTuple):
    name: str
    password: str


def add_user(server: Server, *roles: str, name: str | None = None, password: str = "correct horse") -> User:
    """Add a user with a password."""
    name = name or unique("user")
    do(server, "POST", "/api/users", {"name": name, "roles": list(roles), "password": password})
    return User(name, password)


def give_token(server: Server, user: str, *roles: str, days: float = 1) -> tuple[str, int]:
    """Give out a token; return it and the id of its row. Without roles it has those of the user."""
    given = do(server, "POST", "/api/tokens", {"user": user, "days": days} | ({"roles": list(roles)} if roles else {}))
    return given["token"], given["id"]


class Device(NamedTuple):
    id: str
    key: bytes


def add_device(server: Server, *robots: str, name: str | None = None) -> Device:
    """Add a device; without robots it speaks for the one of its own name."""
    name = name or unique("device")
    made = do(server, "POST", "/api/devices", {"device_id": name} | ({"robots": list(robots)} if robots else {}))
    return Device(name, bytes.fromhex(made["key"]))


def proof(key: bytes, device_id: str, nonce: str, client_nonce: str) -> str:
    """Return a device's proof, from the text of SPEC section 5 and nothing of ours."""
    return hmac.new(key, f"robodyne-rt\n{device_id}\n{nonce}\n{client_nonce}".encode(), hashlib.sha256).hexdigest()


# -- tokens ----------------------------------------------------------------------------------------------------------


def key_of(server: Server) -> bytes:
    """Return what the server signs its tokens with."""
    return (server.folder / "secret.key").read_bytes().strip()


def claims(name: str, *roles: str, **changed: Any) -> dict[str, Any]:
    """Return the claims of a good local token without a row; None leaves a claim out."""
    now = int(time.time())
    said = {"iss": LOCAL, "aud": LOCAL, "sub": name, "iat": now, "exp": now + 600, "roles": list(roles), **changed}
    return {name: value for name, value in said.items() if value is not None}


def sign(server: Server, name: str, *roles: str, **changed: Any) -> str:
    """Return a local token as only the server could make it."""
    return jwt.encode(claims(name, *roles, **changed), key_of(server), algorithm="HS256")


def encoded(value: Any) -> str:
    """Return a part of a token: JSON in base64url."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def handmade(header: Any, payload: Any, key: bytes, digest: str = "sha256") -> str:
    """Return a token with a header of any kind, with an HMAC."""
    text = f"{encoded(header)}.{encoded(payload)}"
    return f"{text}.{encoded(hmac.new(key, text.encode(), digest).digest())}"


# -- asking ----------------------------------------------------------------------------------------------------------


def call(server: Server, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str) -> Answer:
    """Send one request with JSON and a token; headers by name with `_` for `-`."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    data = b""
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    elif method != "GET":
        lines.append("Content-Length: 0")
    return ask(server, head(server, f"{method} {path}", *lines) + data)


def told(answer: Answer) -> Any:
    """Return the JSON of an answer that must be good."""
    assert answer.status < 300, answer
    return json.loads(answer.body)


def cookie_of(answer: Answer) -> str:
    """Return the cookie that an answer sets, as a `Cookie` header has it."""
    return answer.headers["set-cookie"].partition(";")[0]


def log_in(server: Server, user: User, **more: Any) -> Any:
    """Log in; return what is given."""
    return told(call(server, "POST", "/api/auth/login", {"user": user.name, "password": user.password, **more}))


def watch(server: Server, path: str, token: str | None = None, *lines: str) -> Socket:
    """Open a WebSocket with a token."""
    return open_socket(server, path, *([f"Authorization: Bearer {token}"] if token is not None else []), *lines)


def ended(server: Server, path: str, token: str | None = None, *lines: str) -> tuple[int, str]:
    """Return how a WebSocket ends that must not stay."""
    with watch(server, path, token, *lines) as socket:
        socket.sock.settimeout(5)
        try:
            return socket.close_frame()
        except TimeoutError:
            raise AssertionError(f"{path} was let in and stayed") from None


def until(socket: Socket, kind: str, **fields: Any) -> dict[str, Any]:
    """Return the next message of a type, with these fields, whatever comes before."""
    while True:
        message = socket.message()
        if message["type"] == kind and all(message.get(name) == value for name, value in fields.items()):
            return message


def is_alive(socket: Socket, label: str) -> bool:
    """Return whether a connection still answers: a ping that nobody else sent comes back."""
    mark = secrets.token_hex(4)
    socket.say({"type": "ping", "data": mark})
    while True:
        message = socket.message()
        if message["type"] == "error" and message["data"]["code"] == "RATE_LIMITED":
            time.sleep(message["data"]["retry_after"])
            socket.say({"type": "ping", "data": mark})
        elif message["type"] == "pong" and message.get("data") == mark:
            return bool(message.get("topic", label) == label)


def stamp(after_s: float = 0.0) -> str:
    """Return a time as the database keeps it."""
    return datetime.fromtimestamp(time.time() + after_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
