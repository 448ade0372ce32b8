"""Serial ports: one adapter around pyserial-asyncio, which is opened anew whenever the port comes back.

Give ports by their stable name (`/dev/serial/by-id/...`): after an unplug the kernel may number them otherwise.
"""

import asyncio
import errno
import logging

import serial
import serial_asyncio

from robodyne_rt.core.framing import TextFramer
from robodyne_rt.ingest.device_protocol import DeviceProtocol
from robodyne_rt.ingest.receiver import Peer, Receiver
from robodyne_rt.ingest.supervise import supervise
from robodyne_rt.ingest.turns import ReadingTurns
from robodyne_rt.settings import SerialPort

logger = logging.getLogger(__name__)


class SerialLink:
    """One configured port."""

    def __init__(self, settings: SerialPort, *, receiver: Receiver, turns: ReadingTurns, max_message_bytes: int) -> None:
        self._settings = settings
        self._receiver = receiver
        self._turns = turns
        self._max_message_bytes = max_message_bytes
        self._protocol: DeviceProtocol | None = None

    async def run(self) -> None:
        """Serve the port until cancelled; while it is away, look for it every 1 s to 30 s."""
        await supervise(f"serial port {self._settings.port}", self._serve_once)

    async def _serve_once(self) -> None:
        """Open the port and serve it until it is lost.

        Raises:
            OSError: it cannot be opened, or was unplugged.
        """
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[Exception | None] = loop.create_future()

        def on_lost(protocol: DeviceProtocol, error: Exception | None) -> None:
            if not lost.done():
                lost.set_result(error)

        def protocol() -> DeviceProtocol:
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

        connect = serial_asyncio.create_serial_connection(
            loop, protocol, self._settings.port, baudrate=self._settings.baudrate, exclusive=True
        )
        try:
            transport, self._protocol = await connect
        except (serial.SerialException, OSError, ValueError) as error:
            no_port = getattr(error, "errno", None) == errno.ENOENT
            raise OSError("no such port (yet)" if no_port else str(error)) from error
        logger.info("serial port %s is open", self._settings.port, extra={"action": "port_open"})
        self._receiver.stats.connections[self._settings.port] = 1
        try:
            cause = await lost
        finally:
            self._receiver.stats.connections[self._settings.port] = 0
            self._protocol = None
            if not lost.done():  # cancelled; a transport that lost its port must not be touched again
                transport.abort()
        raise OSError(f"lost: {cause}" if cause else "lost")

    @property
    def unanswered(self) -> int:
        """Messages whose answer is not written yet."""
        return self._protocol.unanswered if self._protocol else 0

    def stop(self) -> None:
        """Take nothing more; answer what was taken."""
        if self._protocol is not None:
            self._protocol.end()
