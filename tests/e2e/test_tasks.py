"""The server goes on where one of its tasks fails; which task does what then stands in one table."""

import json
import os
import re
import time
from pathlib import Path

from robodyne_rt.app import lifecycle
from tests.e2e.server import Server

TERMIOS_FAILS = """
import sys, termios
def fails(*arguments):
    raise termios.error(5, "Input/output error")
termios.tcsetattr = fails
from robodyne_rt.cli.main import main
sys.exit(main())
"""


def tasks_of(server: Server) -> dict[str, float]:
    _, _, text = server.get("/metrics")
    found = re.findall(r'^robodyne_task_failures_total{task="(.*)"} (.*)$', text.decode(), re.MULTILINE)
    return {name: float(count) for name, count in found}


def test_a_loose_serial_plug_does_not_end_the_server_and_every_task_is_in_the_table(tmp_path: Path) -> None:
    controller, port = os.openpty()
    server = Server(tmp_path, SERIAL=json.dumps([{"port": os.ttyname(port)}, {"port": str(tmp_path / "missing")}]))
    server.program = ("-c", TERMIOS_FAILS)
    with server.start():
        deadline = time.monotonic() + 20
        while server.log().count('"port_lost"') < 2:
            assert server.is_running and time.monotonic() < deadline, server.log()
            time.sleep(0.05)
        (answer,) = server.tell({"msg_type": "Event", "type": "CALL", "table_number": 3, "id": "1"})
        assert answer["status"] == "success"
        table = re.findall(r"^\| ([^|]+) \|", lifecycle.__doc__ or "", re.MULTILINE)[1:]
        running = tasks_of(server)
        assert {re.sub("^serial port .*", "serial port NAME", name) for name in running} <= set(table)
        assert {"writer", "spool", "hub", "sessions"} <= set(running)
        assert not any(running.values())
        assert server.stop() == 0
    assert "Traceback" not in server.log()
    os.close(port)
    os.close(controller)
