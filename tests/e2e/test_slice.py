"""From a robot's bytes to a screen."""

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import websockets

from tests.e2e.server import Replica, Server, receive


async def test_a_robots_line_reaches_a_screen(server: Server) -> None:
    async with server.watch("/ws/robots") as screen:
        replica = Replica()
        replica.apply(await receive(screen))
        answers = server.tell(
            {"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING", "battery_level": 81, "id": "1"}
        )
        assert answers == [{"status": "success", "message": "stored", "id": "1"}]
        replica.apply(await receive(screen))
        (robot,) = replica.entities.values()
        assert (robot["robot_id"], robot["status"], robot["battery_level"]) == ("alba-1", "SERVING", 81)


async def test_plain_asyncio_does_as_well_as_uvloop(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('as where it is not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = start_server()
    async with server.watch("/ws/robots") as screen:
        replica = Replica()
        replica.apply(await receive(screen))
        for number in range(20):
            server.tell({"msg_type": "Albabot", "robot_id": f"alba-{number % 4}", "battery_level": number, "id": f"{number}"})
            replica.apply(await receive(screen))
        assert {robot["battery_level"] for robot in replica.entities.values()} == {16, 17, 18, 19}
    assert server.stop() == 0
    assert "Traceback" not in server.log()


async def test_the_same_over_tls(start_server: Callable[..., Server], tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine to make a certificate with: apt install openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout {key} -out {cert}"
    subprocess.run(command.split(), check=True, capture_output=True)
    server = start_server(SERVER__TLS_CERT=str(cert), SERVER__TLS_KEY=str(key))
    trusting = ssl.create_default_context(cafile=str(cert))
    trusting.check_hostname = False
    async with websockets.connect(f"wss://127.0.0.1:{server.port}/ws/robots", ssl=trusting) as screen:
        assert (await receive(screen))["snapshot"]
        server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "battery_level": 5})
        assert (await receive(screen))["data"][0]["battery_level"] == 5
    assert server.stop() == 0
