"""A technician at a console sees what the server itself warns of, and nothing of that feeds on itself."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.server import Server, receive, updates_until

MISSING = json.dumps([{"port": "/dev/serial/by-id/usb-button"}])


def skipped(server: Server) -> float:
    _, _, text = server.get("/metrics")
    found = re.search(r"^robodyne_log_lines_skipped_total (.*)$", text.decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_a_warning_reaches_the_topic_systemlogs(start_server: Callable[..., Server]) -> None:
    server = start_server(SERIAL=MISSING)
    async with server.watch("/ws/systemlogs") as client:
        heard = await updates_until(client, lambda message: message["data"])
    (line,) = heard[-1]["data"]
    assert (line["level"], line["source"]) == ("WARNING", "server")
    assert line["message"] == "serial port /dev/serial/by-id/usb-button: no such port (yet); trying again"
    assert line["data"]["action"] == "port_lost"
    assert server.stop() == 0


async def test_a_line_that_cannot_be_stored_is_no_reason_for_another(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    server.sql(
        "CREATE TRIGGER theirs BEFORE INSERT ON system_log WHEN new.source = 'server' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    (server.folder / "robodyne-rt.sock").unlink()  # is warned of, and made again
    deadline = time.monotonic() + 10
    while not skipped(server):
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.05)
    time.sleep(2)
    assert skipped(server) == 1
    assert server.log().count('"write_failed"') == 1
    assert server.tell({"msg_type": "Event", "type": "INFO", "id": "1"})[0]["status"] == "success"
    server.sql("DROP TRIGGER theirs")
    async with server.watch("/ws/systemlogs") as client:
        await receive(client)
        (server.folder / "robodyne-rt.sock").unlink()
        (line,) = (await updates_until(client, lambda message: message["data"]))[-1]["data"]
        assert "vanished" in line["message"] and line["data"]["skipped"] == 1
    assert server.stop() == 0
