"""A server whose stdout and stderr are pipes that nobody reads serves all the same, and ends in time."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.e2e.server import OPEN
from tests.ports import free_port


def test_nobody_reads_the_log_and_nobody_waits(tmp_path: Path) -> None:
    port, devices_port = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROBODYNE_RT__")} | OPEN
    environment |= {"ROBODYNE_RT__SERVER__PORT": str(port), "ROBODYNE_RT__DEVICES__PORT": str(devices_port)}
    environment |= {"ROBODYNE_RT__LOG__LEVEL": "DEBUG"}
    process = subprocess.Popen(
        [sys.executable, "-m", "robodyne_rt", "serve"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as response:
            return str(response.read().decode())

    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert get("/livez") == "ok\n"
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.05)
        for number in range(6000):  # each is two lines in the log
            socket.create_connection(("127.0.0.1", devices_port)).close()
            if number % 500 == 499:
                assert get("/livez") == "ok\n"
        with socket.create_connection(("127.0.0.1", devices_port)) as wire, wire.makefile("rb") as answers:
            wire.sendall(json.dumps({"msg_type": "Event", "type": "INFO", "id": "1"}).encode() + b"\n")
            assert json.loads(answers.readline())["status"] == "success"
        lost = re.search(r"^robodyne_log_lines_lost_total (.*)$", get("/metrics"), re.MULTILINE)
        assert lost is not None and float(lost[1]) > 100
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0 and time.monotonic() - began < 8
    finally:
        process.kill()
        process.wait(5)
        process.stdout.close(), process.stderr.close()  # type: ignore[union-attr]
