"""The simulated restaurant against a server in this process: over TCP and over serial lines, with the real bytes."""

import argparse
from pathlib import Path

import pytest

from robodyne_rt.cli import sim
from robodyne_rt.sim.seed_data import seed_data
from tests.shells.web.app import running


def options(port: int, **given: object) -> argparse.Namespace:
    wanted: dict[str, object] = {
        "host": "127.0.0.1", "port": port, "robots": 2, "arms": 1, "tables": 4, "speed": 40.0, "seed": 3, "duration": 2.0,
        "serial_dir": None, "furnish": None,
    }  # fmt: skip
    return argparse.Namespace(**(wanted | given))


async def test_robots_and_guests_show_on_the_topics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"port": str(tmp_path / "lines" / name)} for name in ("robot", "buttons")]
    async with running(tmp_path, serial=lines, devices={"auth": "none"}) as server:
        admin = server.token("root", "admin")
        seed_data(f"sqlite:///{tmp_path}/robodyne.db", tables=4)
        assert await sim._simulate(options(server.ports.devices, serial_dir=tmp_path / "lines")) == 0
        robots = {robot["robot_id"] for robot in (await server.do("GET", "/api/robots", token=admin))["data"]}
        tables = (await server.do("GET", "/api/tables", token=admin))["data"]
        events = (await server.do("GET", "/api/events", token=admin))["data"]
    assert {"alba-2"} <= robots and tables and events
    said = capsys.readouterr().err
    assert "messages sent, 0 refused" in said


async def test_nobody_at_the_port_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await sim._simulate(options(9, duration=0.2)) == 1
    assert "nobody answers at 127.0.0.1 port 9" in capsys.readouterr().err
