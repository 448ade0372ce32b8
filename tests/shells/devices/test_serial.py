"""A serial port that cannot be opened, whatever is raised, or that is lost: the port is away, everything else goes on."""

import asyncio
import errno
import os
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import serial

from robodyne_rt.core.device_auth import DeviceAuth, Known
from robodyne_rt.devices import serial as adapter
from robodyne_rt.devices.receiver import Receiver
from robodyne_rt.devices.serial import SerialLink
from robodyne_rt.devices.turns import ReadingTurns
from robodyne_rt.settings import SerialPort
from robodyne_rt.supervision import Supervisor
from robodyne_rt.testing.clock import HandClock


class Nowhere:
    """A store and a screen that nobody needs here."""

    is_behind = False

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


def make_link(port: object) -> SerialLink:
    nowhere: Any = Nowhere()
    receiver = Receiver(store=nowhere, telemetry=nowhere, auth=DeviceAuth(lambda device_id: Known({}, None)), clock=HandClock())
    supervisor = Supervisor(jitter=lambda: 0.01)
    turns = ReadingTurns(asyncio.get_running_loop())
    return SerialLink(
        SerialPort(port=str(port)), receiver=receiver, turns=turns, max_message_bytes=65536, supervisor=supervisor
    )


async def until(fact: Any) -> None:
    with anyio.fail_after(10):
        while not fact():
            await anyio.sleep(0.005)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The device's end of a line, and the name of the other one."""
    controller, other = os.openpty()
    tty.setraw(other)
    path = tmp_path / "usb-button"
    path.symlink_to(os.ttyname(other))
    yield controller, path
    os.close(other)
    os.close(controller)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("call", ["tcgetattr", "tcsetattr", "tcflush"])
async def test_a_loose_plug_is_a_port_that_is_away_and_comes_back(
    call: str, port: tuple[int, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: object) -> None:
        raise termios.error(errno.EIO, "Input/output error")

    link = make_link(port[1])
    async with anyio.create_task_group() as tasks:
        with monkeypatch.context() as broken:
            broken.setattr(termios, call, fails)
            before = open_files()
            tasks.start_soon(link.run)
            await until(lambda: "Input/output error" in link.trouble or "Could not configure" in link.trouble)
            await anyio.sleep(0.1)
            assert open_files() <= before + 1
        await until(lambda: not link.trouble)
        tasks.cancel_scope.cancel()
    assert [record.action for record in caplog.records if record.levelname == "WARNING"] == ["port_lost"]  # type: ignore[attr-defined]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "error",
    [
        termios.error(errno.EIO, "Input/output error"),
        serial.SerialException("x"),
        OSError(errno.EBUSY, "busy"),
        ValueError("Not a valid baudrate"),
        UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"),
        TypeError("x"),
        OverflowError(),
        AttributeError("x"),
    ],
)
async def test_whatever_opening_raises_is_a_port_that_is_away(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, baudrate: int) -> None:
        raise error

    monkeypatch.setattr(adapter, "_open", fails)
    link = make_link("/dev/ttyUSB0")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await until(lambda: link.trouble != "not opened yet")
        await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    assert link._supervisor.failures == {"serial port /dev/ttyUSB0": 0}


@pytest.mark.parametrize("name", ["missing", ".", "file", "fifo", "a\0b"])
async def test_what_is_no_port_is_a_port_that_is_away(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no port")
    os.mkfifo(tmp_path / "fifo")
    link = make_link(f"{tmp_path}/{name}" if name else "")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await until(lambda: link.trouble != "not opened yet")
        tasks.cancel_scope.cancel()
    assert "\n" not in link.trouble


async def test_the_loop_turns_while_a_port_takes_long_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    def slow(name: str, baudrate: int) -> None:
        time.sleep(1.0)
        raise OSError(errno.EIO, "a loose plug")

    monkeypatch.setattr(adapter, "_open", slow)
    link, turns = make_link("/dev/ttyUSB0"), 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        with anyio.move_on_after(0.5):
            while True:
                await anyio.sleep(0.01)
                turns += 1
        tasks.cancel_scope.cancel()
    assert turns > 10


async def test_a_port_is_served_above_1024_open_files(port: tuple[int, Path]) -> None:
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1030)]
    link = make_link(port[1])
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            await until(lambda: not link.trouble)
            os.write(port[0], b'{"msg_type":"Nonsense","id":"1"}*00000000\n')
            await until(lambda: link._receiver.stats.noise)
            tasks.cancel_scope.cancel()
    finally:
        for descriptor in held:
            os.close(descriptor)


async def test_a_port_that_is_lost_is_told_once_and_opened_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "usb-robot"

    def plug() -> tuple[int, int]:
        controller, other = os.openpty()
        tty.setraw(other)
        path.unlink(missing_ok=True)
        path.symlink_to(os.ttyname(other))
        return controller, other

    ends = plug()
    link = make_link(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await until(lambda: not link.trouble)
        for end in ends:
            os.close(end)
        await until(lambda: link.trouble)
        ends = plug()
        await until(lambda: not link.trouble)
        tasks.cancel_scope.cancel()
    for end in ends:
        os.close(end)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
