"""`robodyne-rt device`: robots, kiosks and buttons, and their keys; through the running server, or without one."""

import argparse
import time
from typing import Any

from robodyne_rt import secret
from robodyne_rt.cli import control
from robodyne_rt.cli.actions import Common, Load, add_action, argument, ask
from robodyne_rt.model.changes import Entity
from robodyne_rt.settings import ConfigError, Settings
from robodyne_rt.store.engine.database import DbConnection
from robodyne_rt.store.tables import devices


def add_command(commands: Any, common: Common, load: Load) -> None:
    """Add it to the command line."""
    parser = commands.add_parser(
        "device",
        help="give robots, kiosks and buttons their keys",
        description="Devices that prove a key before they may speak. A key is shown once; docs/protocol-devices.md says how it "
        "is used.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    device = argument("device_id")
    add_action(actions, "list", "list them", _list_devices, common, load)
    add_action(
        actions,
        "add",
        "add one and print its key",
        _add_one_device,
        common,
        load,
        device,
        argument("--robot", action="append", metavar="ID", help="a robot it speaks for (default: its own name); '*' for all"),
    )
    add_action(
        actions,
        "rotate",
        "print a second key for one; the first is good until --finish",
        _rotate,
        common,
        load,
        device,
        argument("--finish", action="store_true", help="let the older key be good no more"),
        argument("--again", action="store_true", help="replace a second key that was lost; the first stays good"),
    )
    add_action(actions, "revoke", "let one speak no more; its wire is cut", _revoke_device, common, load, device)


def _list_devices(options: argparse.Namespace, settings: Settings) -> Any:
    return ask(settings, lambda path: control.do(path, "GET", "/api/devices")["devices"], devices.list_devices)


def _add_one_device(options: argparse.Namespace, settings: Settings) -> Any:
    def in_database(db: DbConnection) -> Entity:
        key_id = devices.add_device(db, options.device_id, robots=options.robot, now=time.time())
        return _with_key(settings, options.device_id, key_id)

    return ask(
        settings,
        lambda path: control.do(path, "POST", "/api/devices", {"device_id": options.device_id, "robots": options.robot}),
        in_database,
    )


def _rotate(options: argparse.Namespace, settings: Settings) -> Any:
    if options.finish and options.again:
        raise ConfigError("--finish lets the older key go, --again replaces the newer one: choose one of them")

    def in_database(db: DbConnection) -> Any:
        if options.finish:
            return devices.finish_rotation(db, options.device_id)
        return _with_key(settings, options.device_id, devices.rotate_device(db, options.device_id, again=options.again))

    body = {"finish": options.finish, "again": options.again}
    target = f"/api/devices/{control.quoted(options.device_id)}/rotate"
    return ask(settings, lambda path: control.do(path, "POST", target, body), in_database)


def _revoke_device(options: argparse.Namespace, settings: Settings) -> Any:
    return ask(
        settings,
        lambda path: control.do(path, "DELETE", f"/api/devices/{control.quoted(options.device_id)}"),
        lambda db: devices.revoke_device(db, options.device_id),
    )


def _with_key(settings: Settings, device_id: str, key_id: str) -> Entity:
    return {"device_id": device_id, "key": secret.load(settings.auth.secret_file).device_key(device_id, key_id).hex()}
