"""Pretend devices: they speak the real bytes over real TCP or a real pseudo-terminal, and keep what was not answered.

A device numbers its messages, sends them again after a reconnect or when no answer came, and takes an answer once. That
is what a device of the field should do; the server's de-duplication makes it safe.
"""

import errno
import itertools
import logging
import os
import tty
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import anyio
import anyio.abc
import orjson

from robodyne_rt.core.framing import Frame, TextFramer, with_crc
from robodyne_rt.sim.restaurant import Message, Say

logger = logging.getLogger(__name__)

RESEND_S = 3.0
MAX_KEPT = 500
MAX_BYTES = 65536

Answered = Callable[[Say, Message], None]


class Device(ABC):
    """What both kinds share: numbering, keeping, taking answers.

    Args:
        run: makes the ids of this run different from those of the last.
    """

    def __init__(self, name: str, *, run: str, answered: Answered) -> None:
        self.name = name
        self.sent = 0
        self.answered = 0
        self.refused = 0
        self._run = run
        self._answered = answered
        self._numbers = itertools.count(1)
        # id -> (what was said, when it was last sent)
        self._kept: dict[str, tuple[Say, float]] = {}

    def say(self, say: Say) -> None:
        """Send a message now, or later when the wire is back; telemetry is sent now or never."""
        if say.message["msg_type"] == "Telemetry":
            self.write(orjson.dumps(say.message))
            return
        id = f"{self._run}-{next(self._numbers)}"
        say.message = {**say.message, "id": id}
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[id] = (say, anyio.current_time())
        self.write(orjson.dumps(say.message))
        self.sent += 1

    def hear(self, body: bytes) -> None:
        """Take one answer."""
        answer = orjson.loads(body)
        kept = self._kept.pop(answer.get("id", ""), None)
        self.answered += 1
        if answer.get("status") != "success":
            self.refused += 1
            logger.warning("%s was refused: %s", self.name, body.decode())
        if kept is not None:
            self._answered(kept[0], answer)

    def hello(self) -> None:
        """Say who this is: ids count under this name, so it comes before anything that is sent again."""
        self.write(orjson.dumps({"msg_type": "Hello", "device_id": self.name}))

    def resend(self, *, older_than_s: float) -> None:
        """Send again what got no answer."""
        now = anyio.current_time()
        if any(now - at >= older_than_s for _, at in self._kept.values()):
            self.hello()
        for id, (say, at) in list(self._kept.items()):
            if now - at >= older_than_s:
                self._kept[id] = (say, now)
                self.write(orjson.dumps(say.message))

    @abstractmethod
    def write(self, body: bytes) -> None:
        """Put one message on the wire; lost when there is none."""

    @abstractmethod
    async def run(self) -> None:
        """Keep the wire, until cancelled."""


class Framing(Protocol):
    """How a TCP device puts bytes around a message."""

    def __call__(self, body: bytes) -> bytes: ...


def length_prefixed(body: bytes) -> bytes:
    """4-byte big-endian length, then the message: what the robot managers speak."""
    return len(body).to_bytes(4, "big") + body


def json_line(body: bytes) -> bytes:
    """One message per line."""
    return body + b"\n"


class TcpDevice(Device):
    """A device on the LAN."""

    def __init__(self, name: str, *, host: str, port: int, framing: Framing, run: str, answered: Answered) -> None:
        super().__init__(name, run=run, answered=answered)
        self._address = (host, port)
        self._framing = framing
        self._wire: anyio.abc.SocketStream | None = None
        self._outgoing = bytearray()
        self._has_outgoing = anyio.Event()
        self._silent_until = 0.0

    def write(self, body: bytes) -> None:
        if self._wire is not None and len(self._outgoing) < MAX_BYTES:
            self._outgoing += self._framing(body)
            self._has_outgoing.set()

    def hang(self, seconds: float) -> None:
        """Lose the link."""
        self._silent_until = anyio.current_time() + seconds
        self._has_outgoing.set()

    async def run(self) -> None:
        """Connect, speak, come back; until cancelled."""
        while True:
            await anyio.sleep(max(0.0, self._silent_until - anyio.current_time()))
            try:
                async with await anyio.connect_tcp(*self._address) as self._wire:
                    self._outgoing.clear()
                    self.hello()
                    self.resend(older_than_s=0)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._write_all, self._wire, tasks.cancel_scope)
                        await self._read_all(self._wire)
                        tasks.cancel_scope.cancel()
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ExceptionGroup):
                await anyio.sleep(1.0)
            finally:
                self._wire = None

    async def _write_all(self, wire: anyio.abc.SocketStream, scope: anyio.CancelScope) -> None:
        while anyio.current_time() >= self._silent_until:
            with anyio.move_on_after(RESEND_S):
                await self._has_outgoing.wait()
            self._has_outgoing = anyio.Event()
            self.resend(older_than_s=RESEND_S)
            if self._outgoing:
                data = bytes(self._outgoing)
                self._outgoing.clear()
                await wire.send(data)
        scope.cancel()

    async def _read_all(self, wire: anyio.abc.SocketStream) -> None:
        buffer = bytearray()
        while True:
            buffer += await wire.receive()
            if self._framing is json_line:
                *lines, rest = bytes(buffer).split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    self.hear(line)
                continue
            while len(buffer) >= 4 and len(buffer) >= 4 + (size := int.from_bytes(buffer[:4], "big")):
                self.hear(bytes(buffer[4 : 4 + size]))
                del buffer[: 4 + size]


class SerialDevice(Device):
    """A device on a serial line: a real pseudo-terminal, reachable under a stable name as under /dev/serial/by-id.

    Args:
        link: where the server will find the port; a symbolic link, made anew.
    """

    def __init__(self, name: str, *, link: Path, run: str, answered: Answered) -> None:
        super().__init__(name, run=run, answered=answered)
        self._controller, self._port = os.openpty()
        tty.setraw(self._port)
        os.set_blocking(self._controller, False)
        self._framer = TextFramer(max_bytes=MAX_BYTES, crc="required")
        self._link = link
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._port))

    def write(self, body: bytes) -> None:
        try:
            os.write(self._controller, with_crc(body))
        except BlockingIOError:
            logger.debug("%s: nobody reads the serial line", self.name)

    async def run(self) -> None:
        """Read answers, until cancelled."""
        self.hello()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._resend_all)
                while True:
                    await anyio.wait_readable(self._controller)
                    for item in self._framer.feed(self._read()):
                        if isinstance(item, Frame):
                            self.hear(item.body)
        finally:
            self._link.unlink(missing_ok=True)
            os.close(self._controller)
            os.close(self._port)

    def _read(self) -> bytes:
        try:
            return os.read(self._controller, 4096)
        except OSError as error:
            if error.errno in (errno.EIO, errno.EAGAIN):
                return b""
            raise

    async def _resend_all(self) -> None:
        while True:
            await anyio.sleep(RESEND_S)
            self.resend(older_than_s=RESEND_S)
