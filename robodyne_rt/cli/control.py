"""Speaking to the server that runs on this machine, over its control socket."""

import http.client
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from robodyne_rt.model.changes import Entity

TIMEOUT_S = 600.0
"""A backup of a large database takes its time."""


class NoServer(Exception):
    """No server runs here."""


class Refused(Exception):
    """The server answered with an error; the text says why."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        # Through its folder: a path may be longer than a socket's name.
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


def ask(path: Path, method: str, target: str, body: Entity | None = None) -> tuple[int, Any]:
    """Return (status, decoded answer) of one request.

    Raises:
        NoServer: nobody listens at `path`.
        Refused: somebody does, and cannot be asked.
    """
    connection = _Connection(path)
    try:
        data = None if body is None else orjson.dumps(body)
        connection.request(method, target, data, {"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        text = response.read()
        return response.status, orjson.loads(text) if response.headers.get_content_type().endswith("json") else text.decode()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoServer(f"no server answers at {path}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        # There is one, and it must not be gone behind.
        raise Refused(f"the server at {path} cannot be asked: {error}; be its own user, and see whether it is well") from error
    finally:
        connection.close()


def quoted(name: str) -> str:
    """Return a name as a part of a path."""
    return quote(name, safe="")


def do(path: Path, method: str, target: str, body: Entity | None = None) -> Any:
    """Return the answer of a request that must succeed.

    Raises:
        NoServer: nobody listens at `path`.
        Refused: an error was answered.
    """
    status, answer = ask(path, method, target, body)
    if status >= 400:
        raise Refused(answer.get("detail") or answer.get("title") if isinstance(answer, dict) else str(answer))
    return answer
