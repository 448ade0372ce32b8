"""The commands as a technician types them, and what systemd is told."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.e2e.server import OPEN, Server

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "robodyne_rt"]


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return processes.run(arguments, folder=cwd, environment=environment, within_s=30)


def test_a_configuration_with_a_mistake_stops_the_start_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[hub]\nping_intervall_s = 3\n")
    bad = run("serve", cwd=tmp_path)
    assert bad.returncode == 2
    assert bad.stderr == 'config.toml:2: unknown key "hub.ping_intervall_s" (did you mean "ping_interval_s"?)\n'


def test_doctor_sees_that_another_program_has_the_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("doctor", cwd=tmp_path, ROBODYNE_RT__SERVER__HOST="127.0.0.1", ROBODYNE_RT__SERVER__PORT=str(port))
    assert done.returncode == 0 and f"warning  [server] port: 127.0.0.1 port {port}: Address already in use" in done.stdout


def test_a_password_that_is_not_given_is_told_in_a_line(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [*COMMAND, "user", "add", "kim", "--role", "kitchen"],
        cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        assert process.stdout is not None
        prompt = ""
        while not prompt.endswith("kim: "):
            prompt += process.stdout.read(1)
        os.write(ours, b"\x04")
        said, _ = process.communicate(timeout=20)
    os.close(ours)
    assert process.returncode == 2 and "no password was given" in said and "Traceback" not in said


def test_open_doors_are_refused_on_the_lan(tmp_path: Path) -> None:
    done = run("serve", cwd=tmp_path, ROBODYNE_RT__AUTH__MODE="off")
    assert done.returncode == 2 and "loopback" in done.stderr


def test_a_broken_database_and_a_taken_port_end_with_their_exit_codes(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    (tmp_path / "robodyne.db").write_text("no database " * 1000)
    assert run("serve", cwd=tmp_path, **OPEN).returncode == 3
    server = start_server()
    (tmp_path / "robodyne.db").unlink()
    taken = run("serve", cwd=tmp_path, **(OPEN | {"ROBODYNE_RT__SERVER__PORT": str(server.port)}))
    assert taken.returncode == 2 and f"[server] cannot listen on 127.0.0.1 port {server.port}" in taken.stderr
    taken = run("serve", cwd=tmp_path, **(OPEN | {"ROBODYNE_RT__DEVICES__PORT": str(server.devices_port)}))
    assert taken.returncode == 2 and f"[devices] cannot listen on 127.0.0.1 port {server.devices_port}" in taken.stderr
    assert (tmp_path / "robodyne.db").stat().st_mode & 0o007 == 0


def test_tail_follows_a_topic_and_comes_back(start_server: Callable[..., Server]) -> None:
    server = start_server()
    command = [*COMMAND, "tail", "robots", "--url", server.url("")]
    people = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    programs = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True)
    try:
        assert people.stdout is not None and programs.stdout is not None
        assert "snapshot of 0 at offset 0" in people.stdout.readline()
        assert json.loads(programs.stdout.readline())["snapshot"]
        server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING"})
        line = people.stdout.readline()
        assert "+ alba-1" in line and "status=SERVING" in line
        server.sql("UPDATE robot SET name = char(27) || '[31mred'")
        line = people.stdout.readline()
        assert "name=?[31mred" in line and "\x1b" not in line
        assert json.loads(programs.stdout.readline())["data"][0]["robot_id"] == "alba-1"
        server.restart()
        server.tell({"msg_type": "Albabot", "robot_id": "alba-2"})
        while "+ alba-2" not in (line := people.stdout.readline()):
            assert line
    finally:
        for process in (people, programs):
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
    unknown = run("tail", "nonsense", cwd=server.folder)
    assert unknown.returncode == 2 and "video_streams" in unknown.stderr


@pytest.mark.timeout(90)
def test_the_demo_serves_a_restaurant_and_ends_cleanly(tmp_path: Path) -> None:
    log = (tmp_path / "demo.log").open("w+")
    arguments = ["demo", "--port", "0", "--devices-port", "0", "--speed", "8", "--folder", str(tmp_path / "data")]
    demo = subprocess.Popen([*COMMAND, *arguments], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60

        def get(url: str) -> Any:
            with urllib.request.urlopen(url, timeout=5) as response:
                return json.load(response)

        def wait_for(what: Callable[[], Any]) -> Any:
            while time.monotonic() < deadline:
                try:
                    if found := what():
                        return found
                except OSError:
                    pass
                time.sleep(0.2)
            raise AssertionError(Path(log.name).read_text())

        (base,) = wait_for(lambda: re.findall(r"http://localhost:\d+(?=/\n)", Path(log.name).read_text()))
        first = wait_for(lambda: {r["robot_id"]: (r["x"], r["y"]) for r in get(base + "/api/robots")["data"] if r["x"]})
        wait_for(lambda: any((r["x"], r["y"]) != first.get(r["robot_id"]) for r in get(base + "/api/robots")["data"]))
        status = wait_for(
            lambda: (
                (data := get(base + "/api/status")["data"])["orders"]["open"]
                and sum(data["robots"]["by_link"].values()) == 8
                and data
            )
        )
        assert sum(status["tables"]["by_status"].values()) == 20
        metrics = urllib.request.urlopen(base + "/metrics", timeout=5)
        with metrics:
            text = metrics.read().decode()
        assert 'robodyne_device_connections{port="' in text and "/serial/robot" in text
        assert not re.search(r'result="(INVALID|CONFLICT|SERVER)', text), text
        demo.send_signal(signal.SIGINT)
        assert demo.wait(15) == 0
        assert "Traceback" not in Path(log.name).read_text()
    finally:
        demo.kill()
        demo.wait()
        log.close()


STUCK_WRITER = """
import sys, time
from robodyne_rt.cli.main import main
from robodyne_rt.store.intake.writes import MessageWrite
apply = MessageWrite.apply
MessageWrite.apply = lambda self, tables: (time.sleep(4), apply(self, tables))[1]
sys.exit(main(sys.argv[1:]))
"""
"""A server whose writer hangs for four seconds at each message."""


def test_systemd_is_told_ready_watchdog_and_stopping(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(20)
        server = subprocess.Popen(
            [sys.executable, "-c", STUCK_WRITER, "serve"],
            cwd=tmp_path,
            env=os.environ | OPEN | {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "900000"},
            stderr=subprocess.DEVNULL,
        )
        try:
            ready = notify.recv(1000)
            assert ready.startswith(b"READY=1")
            devices_port = int(ready.rsplit(b" ", 1)[1])
            assert [notify.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            # The writer is stuck, in a disk that hangs, say: the watchdog must starve.
            with socket.create_connection(("127.0.0.1", devices_port), timeout=10) as sock:
                sock.sendall(b'{"msg_type":"Event","type":"CALL","id":"1"}\n')
                time.sleep(1.0)
            notify.setblocking(False)
            while True:
                try:
                    notify.recv(1000)
                except BlockingIOError:
                    break
            time.sleep(1.5)
            with pytest.raises(BlockingIOError):
                notify.recv(1000)
            notify.settimeout(10)
            assert notify.recv(1000) == b"WATCHDOG=1"
            server.terminate()
            while notify.recv(1000) != b"STOPPING=1":
                pass
            assert server.wait(10) == 0
        finally:
            server.kill()
            server.wait()


HANDED_OVER = (
    "import os, sys; os.dup2({}, 10); os.dup2({}, 11);"
    "os.dup2(10, 3); os.dup2(11, 4); os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()));"
    "os.execv(sys.executable, [sys.executable, '-m', 'robodyne_rt', 'serve'])"
)
"""As systemd does: descriptors 3 and 4, and the child's own pid in LISTEN_PID."""


def test_sockets_handed_over_by_systemd_are_served(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as devices:
        server = subprocess.Popen(
            [sys.executable, "-c", HANDED_OVER.format(http.fileno(), devices.fileno())],
            cwd=tmp_path,
            env=os.environ | OPEN,
            pass_fds=(http.fileno(), devices.fileno()),
            stderr=subprocess.DEVNULL,
        )
        try:
            # Connecting works at once: it waits in the backlog until the server is there.
            url = f"http://127.0.0.1:{http.getsockname()[1]}/readyz"
            with urllib.request.urlopen(url, timeout=20) as response:
                assert response.status == 200
            with socket.create_connection(devices.getsockname(), timeout=10) as sock:
                sock.sendall(b'{"msg_type":"Event","type":"CALL","id":"1"}\n')
                assert json.loads(sock.recv(1000))["status"] == "success"
        finally:
            server.terminate()
            server.wait(10)


def test_where_nobody_is_checked_a_socket_of_systemd_for_all_the_lan_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as http, socket.create_server(("127.0.0.1", 0)) as devices:
        server = subprocess.run(
            [sys.executable, "-c", HANDED_OVER.format(http.fileno(), devices.fileno())],
            cwd=tmp_path,
            env=os.environ | OPEN,
            pass_fds=(http.fileno(), devices.fileno()),
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert server.returncode != 0
    assert b"loopback only" in server.stderr and b"0.0.0.0" in server.stderr and b"Traceback" not in server.stderr


def test_sighup_reloads_the_log_level_and_says_what_needs_a_restart(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[log]\nlevel = "INFO"\n')
    with Server(tmp_path) as server:
        assert server.process is not None
        (tmp_path / "config.toml").write_text('[log]\nlevel = "DEBUG"\n[hub]\nping_interval_s = 5\n')
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while "[hub] need a restart" not in server.log():
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)
        (tmp_path / "config.toml").write_text("[log\n")
        server.process.send_signal(signal.SIGHUP)
        while "the old settings stay" not in server.log():
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)


@pytest.mark.timeout(150)
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine: apt install gcc libc6-dev")
def test_the_benchmark_measures_what_the_guard_leaves_out(tmp_path: Path) -> None:
    """Fan-out, latency and ingest are measured for real after the tests (`scripts/bench --guard`)."""
    result, figures = tmp_path / "bench.json", ("stuck", "memory", "shutdown", "ready", "size", "postgres")
    chosen = [word for figure in figures for word in ("--only", figure)]
    done = subprocess.run(
        [str(ROOT / "scripts/bench"), "--quick", *chosen, "--json", str(result)],
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for figure in figures:
        assert figure in done.stdout
    assert json.loads(result.read_text())


def test_the_install_script_says_what_it_would_do() -> None:
    done = subprocess.run([str(ROOT / "scripts/install"), "--dry-run"], capture_output=True, text=True, timeout=30, check=True)
    assert "/etc/systemd/system/robodyne-rt.service" in done.stdout


def test_a_database_without_one_of_the_tables_is_refused_with_what_to_do(tmp_path: Path) -> None:
    assert run("init", cwd=tmp_path).returncode == 0
    connection = sqlite3.connect(tmp_path / "robodyne.db")
    connection.execute("DROP TABLE video_stream")
    connection.close()
    for command in (["serve"], ["migrate"], ["init"], ["user", "list"], ["dlq", "list"]):
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 2, command
        assert "without video_stream" in done.stderr and "`robodyne-rt migrate`" in done.stderr
        assert "Traceback" not in done.stderr
