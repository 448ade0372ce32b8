"""Serial ports: one adapter around pyserial-asyncio, which is opened anew whenever the port comes back.

Give ports by their stable name (`/dev/serial/by-id/...`): after an unplug the kernel may number them otherwise.
"""

import asyncio
import errno
import logging
import os
import select
from typing import Any

import anyio
import anyio.to_thread
import serial
import serial_asyncio

from robodyne_rt.core.framing import TextFramer
from robodyne_rt.devices.device_protocol import DeviceProtocol
from robodyne_rt.devices.receiver import Peer, Receiver
from robodyne_rt.devices.turns import ReadingTurns
from robodyne_rt.settings import SerialPort
from robodyne_rt.supervision import Away, Supervisor

logger = logging.getLogger(__name__)


class PortLost(Away):
    """A port cannot be opened, or was unplugged."""

    action = "port_lost"


class SerialLink:
    """One configured port."""

    def __init__(
        self,
        settings: SerialPort,
        *,
        receiver: Receiver,
        turns: ReadingTurns,
        max_message_bytes: int,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.name = settings.port
        self.trouble = "not opened yet"
        """Why it is not served now; empty while it is."""
        self._settings = settings
        self._receiver = receiver
        self._turns = turns
        self._max_message_bytes = max_message_bytes
        self._supervisor = supervisor or Supervisor()
        self._protocol: DeviceProtocol | None = None
        self._opening = anyio.CapacityLimiter(1)

    async def run(self) -> None:
        """Serve the port until cancelled; while it is away, look for it every 1 s to 30 s."""
        await self._supervisor.keep(f"serial port {self._settings.port}", self._serve_once)

    async def _serve_once(self) -> None:
        """Open the port and serve it until it is lost.

        Raises:
            PortLost: it cannot be opened, or was unplugged.
        """
        try:
            await self._serve()
        except PortLost as error:
            self.trouble = str(error)
            raise

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[Exception | None] = loop.create_future()

        def on_lost(protocol: DeviceProtocol, error: Exception | None) -> None:
            if not lost.done():
                lost.set_result(error)

        def make_protocol() -> DeviceProtocol:
            return DeviceProtocol(
                receiver=self._receiver,
                turns=self._turns,
                peer=Peer(self._settings.port),
                make_framer=lambda: TextFramer(
                    max_bytes=self._max_message_bytes, crc="required" if self._settings.framing == "crc" else "none"
                ),
                closes_on_timeout=False,
                on_lost=on_lost,
            )

        port: _Port | None = None
        try:
            # In a thread: a loose plug may keep the kernel waiting for seconds.
            port = await anyio.to_thread.run_sync(
                _open, self._settings.port, self._settings.baudrate, abandon_on_cancel=True, limiter=self._opening
            )
            self._protocol = make_protocol()
            transport = _Transport(loop, self._protocol, port)
        except Exception as error:  # of the kernel, of termios (no OSError), of pyserial: no port, whichever it is
            self._protocol = None
            if port is not None:
                port.close()
            raise PortLost(_why(error)) from error
        logger.info("serial port %s is open", self._settings.port, extra={"action": "port_open"})
        self.trouble = ""
        self._receiver.stats.connections[self._settings.port] = 1
        try:
            cause = await lost
        finally:
            self.trouble = "lost"
            self._receiver.stats.connections[self._settings.port] = 0
            self._protocol = None
            if not lost.done():  # cancelled; a transport that lost its port must not be touched again
                transport.abort()
        raise PortLost(f"lost: {cause}" if cause else "lost")

    @property
    def unanswered(self) -> int:
        """Messages whose answer is not written yet."""
        return self._protocol.unanswered if self._protocol else 0

    def stop(self) -> None:
        """Take nothing more; answer what was taken."""
        if self._protocol is not None:
            self._protocol.end()


class _Port(serial.Serial):  # type: ignore[misc]
    """A port that never waits. Of pyserial's own, `select` fails above 1024 open files, and `flush` waits for a slow line."""

    def read(self, size: int = 1) -> bytes:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if not poll.poll(0):
            return b""
        try:
            data = os.read(self.fd, size)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            raise serial.SerialException(f"read failed: {error.strerror}") from error
        if not data:
            raise serial.SerialException("unplugged")
        return data

    def write(self, data: Any) -> int:
        try:
            return os.write(self.fd, data)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            raise serial.SerialException(f"write failed: {error.strerror}") from error

    def flush(self) -> None:
        """What the kernel has taken it sends by itself."""


class _Transport(serial_asyncio.SerialTransport):  # type: ignore[misc]
    def _fatal_error(self, error: Exception, message: str = "") -> None:
        """A port that is unplugged while somebody writes is lost like any other."""
        self._abort(error)


def _open(name: str, baudrate: int) -> _Port:
    return _Port(name, baudrate=baudrate, timeout=0, write_timeout=0, exclusive=True)


def _why(error: Exception) -> str:
    """Return in one line why a port cannot be opened."""
    if getattr(error, "errno", None) == errno.ENOENT:
        return "no such port (yet)"
    if isinstance(error, OSError) or not error.args:
        return str(error) or type(error).__name__
    return str(error.args[-1])  # termios.error: (number, text)
