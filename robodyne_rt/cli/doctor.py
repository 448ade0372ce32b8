"""`robodyne-rt doctor`: what is wrong with this machine, its database and its server, and what to do about it."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from robodyne_rt.app import machine_checks
from robodyne_rt.app.health import CHECKS, Finding, finding
from robodyne_rt.cli import control
from robodyne_rt.cli.control import NoServer, Refused
from robodyne_rt.settings import Settings, control_socket, owned_files
from robodyne_rt.store.engine.ownership import owner_of

Load = Callable[[argparse.Namespace], Settings]


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: Callable[..., Any], load: Load
) -> None:
    """Add `doctor` to the command line."""
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong, and what to do",
        description="Look at the configuration, the database, the spool, the disk, the clock and the running server. "
        "Exit code 0: nothing is wrong (there may be warnings); 1: something is.",
    )
    common(parser)
    parser.set_defaults(run=lambda options: _run(options, load(options)))


def _run(options: argparse.Namespace, settings: Settings) -> int:
    findings = list(examine(settings))
    if options.json:
        rows = [_row(found) for found in findings]
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    else:
        for found in findings:
            print(f"{found.severity:<8} {found.name}: {found.evidence}")
            if not found.is_ok:
                print(f"{'':<8} -> {found.check.remedy.en}")
    return 1 if any(found.severity == "error" for found in findings) else 0


def _row(found: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {"id": found.check.id, "name": found.name, "level": found.severity, "text": found.evidence}
    if not found.is_ok:
        row |= {"problem": found.check.problem._asdict(), "remedy": found.check.remedy._asdict()}
    return row


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield one finding after another; nothing is changed."""
    yield machine_checks.configuration(settings)
    yield from _server(settings)
    yield from machine_checks.secret_file(settings)
    yield from machine_checks.database_file(settings)
    yield from machine_checks.disk_usage(settings)
    yield from machine_checks.rescued_files(settings)
    yield from machine_checks.damaged_spools(settings)
    yield from machine_checks.disks(settings)
    yield from machine_checks.clock(settings)


def _server(settings: Settings) -> Iterator[Finding]:
    path = control_socket(settings)
    try:
        status, report = control.ask(path, "GET", "/readyz?verbose")
    except NoServer:
        if owner := next(filter(None, map(owner_of, owned_files(settings))), None):
            yield finding("server", "error", f"{owner} owns the data, but nobody answers at {path}")
            return
        yield finding("server", "warning", f"none runs here (nobody answers at {path})")
        yield from machine_checks.ports(settings)
        yield from machine_checks.serial_ports(settings)
        return
    except Refused as error:
        yield finding("server", "error", str(error))
        return
    if status == 200:
        yield finding("server", "ok", f"version {report['version']} is ready")
    for check in report["checks"]:
        if not check["ok"] and check["id"] != "disk":  # this machine's disks are looked at below
            known = CHECKS.get(check["id"], CHECKS["server"])  # of another version it may be none of ours
            yield Finding(known, check["severity"], check["detail"], f"server, {check['name']}")
