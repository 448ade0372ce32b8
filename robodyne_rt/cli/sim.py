"""`robodyne-rt sim`: run the pretend restaurant against a server."""

import argparse
import logging
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

import anyio

from robodyne_rt.settings import ConfigError
from robodyne_rt.sim.devices import Device, SerialDevice, TcpDevice, json_line, length_prefixed
from robodyne_rt.sim.restaurant import Hang, Message, Restaurant, Say
from robodyne_rt.sim.seed_data import CannotSeed, seed_data

TICK_S = 0.1


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `sim` to the command line."""
    parser = commands.add_parser(
        "sim",
        help="simulate a restaurant against a running server",
        description="Simulate a restaurant: robots, cooking arms, guests, buttons. They speak the real bytes over TCP, and "
        "one robot and the buttons over serial with --serial-dir. Runs until Ctrl-C.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where the server's device port is (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8001, help="the server's device port (default: %(default)s)")
    parser.add_argument("--robots", type=int, default=6, help="serving robots (default: %(default)s)")
    parser.add_argument("--arms", type=int, default=2, help="cooking arms (default: %(default)s)")
    parser.add_argument("--tables", type=int, default=20, help="tables (default: %(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, help="how much faster than life (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same evening (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=0.0, help="seconds to run; 0: until Ctrl-C (default: %(default)s)")
    parser.add_argument(
        "--serial-dir",
        type=Path,
        metavar="DIR",
        help="make serial ports here, as DIR/robot and DIR/buttons, for [[serial]] port",
    )
    parser.add_argument(
        "--furnish",
        metavar="URL",
        help="first fill the server's database with tables, a menu and stock, if empty: its [database] url, or a SQLite file",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="sim: %(message)s")
    if options.speed <= 0 or min(options.robots, options.arms, options.tables) < 0:
        raise ConfigError("sim: --speed must be above 0; --robots, --arms and --tables not below")
    if options.furnish is not None:
        try:
            seed_data(options.furnish, tables=options.tables)
        except CannotSeed as error:
            raise ConfigError(f"--furnish: {error}; start the server on this database first") from error
    return anyio.run(_simulate, options)


class _Simulation:
    """The restaurant and its devices."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.restaurant = Restaurant(seed=options.seed, robots=options.robots, arms=options.arms, tables=options.tables)
        run = secrets.token_hex(4)
        self.devices: dict[str, Device] = {}
        names = [*(robot.name for robot in self.restaurant.robots), *(arm.name for arm in self.restaurant.arms)]
        for name in [*names, "buttons", "camera", "kiosk", "kitchen"]:
            self.devices[name] = self._device(name, run)

    def _device(self, name: str, run: str) -> Device:
        options = self._options
        common: dict[str, Any] = {"run": run, "answered": self._answered}
        serial = {"alba-1": "robot", "buttons": "buttons"} if options.serial_dir else {}
        if name in serial:
            options.serial_dir.mkdir(parents=True, exist_ok=True)
            return SerialDevice(name, link=options.serial_dir / serial[name], **common)
        framing = length_prefixed if name.startswith("alba") else json_line
        return TcpDevice(name, host=options.host, port=options.port, framing=framing, **common)

    def _answered(self, say: Say, answer: Message) -> None:
        for consequence in self.restaurant.answered(say, answer):
            self.perform(consequence)

    def perform(self, act: Say | Hang) -> None:
        """Let a device say something, or hang."""
        device = self.devices[act.device]
        if isinstance(act, Say):
            device.say(act)
        elif isinstance(device, TcpDevice):
            device.hang(act.seconds / self._options.speed)


async def _simulate(options: argparse.Namespace) -> int:
    """Run until the end or a signal; return the exit code."""
    simulation = _Simulation(options)
    restaurant = simulation.restaurant
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_signal, tasks.cancel_scope)
        for device in simulation.devices.values():
            tasks.start_soon(device.run)
        await anyio.sleep(0.5)
        for say in restaurant.open():
            simulation.perform(say)
        deadline = anyio.current_time() + (options.duration or float("inf"))
        before = anyio.current_time()
        while anyio.current_time() < deadline:
            await anyio.sleep(TICK_S)
            now = anyio.current_time()
            for act in restaurant.tick((now - before) * options.speed):
                simulation.perform(act)
            before = now
        for say in restaurant.close():
            simulation.perform(say)
        await anyio.sleep(0.5)
        tasks.cancel_scope.cancel()
    sent, answered, refused = (
        sum(getattr(device, count) for device in simulation.devices.values()) for count in ("sent", "answered", "refused")
    )
    if sent and not answered:
        print(f"sim: nobody answers at {options.host} port {options.port}; is the server running?", file=sys.stderr)
        return 1
    print(f"sim: {sent} messages sent, {refused} refused", file=sys.stderr)
    return 0


async def _until_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for _ in received:
            scope.cancel()
            return
