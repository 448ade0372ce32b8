"""What is wrong with the server stands in the topic `status`, in /readyz?verbose, in `doctor` and on the page: one registry."""

import json
import os
import sqlite3
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, command, updates_until
from tests.e2e.session_client import mint
from tests.e2e.test_browser import CHROMIUM, page  # noqa: F401  (a fixture)

PORT = "/dev/serial/by-id/usb-button"


def problem(message: dict[str, Any], id: str) -> dict[str, Any] | None:
    return next((found for found in message["data"].get("problems", ()) if found["id"] == id), None)


async def test_an_absent_port_is_told_by_all_outputs_and_taken_back_when_it_is_there(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    port = tmp_path / "usb-button"
    server = start_server(SERIAL=json.dumps([{"port": str(port)}]))
    (server.folder / "config.toml").write_text("")
    async with server.watch("/ws/status") as client:
        heard = await updates_until(client, lambda message: problem(message, "serial"))
        found = problem(heard[-1], "serial")
        assert found is not None and (found["severity"], found["detail"]) == ("warning", f"{port}: no such port (yet)")
        assert found["since"].endswith("Z")
        assert all(found[name][language] for name in ("text", "remedy") for language in ("en", "ko"))

        status, _, body = server.get("/readyz?verbose")
        (check,) = (check for check in json.loads(body)["checks"] if check["id"] == "serial")
        assert status == 200 and not check["ok"] and check["since"] == found["since"]
        assert {name: check[name] for name in ("severity", "detail", "text", "remedy")} == {
            name: found[name] for name in ("severity", "detail", "text", "remedy")
        }

        doctor = command(server.folder, "doctor")
        assert f"warning  server, serial ports: {port}: no such port (yet)\n" in doctor.stdout
        assert f"-> {found['remedy']['en']}" in doctor.stdout and doctor.returncode == 0

        controller, other = os.openpty()
        tty.setraw(other)
        port.symlink_to(os.ttyname(other))
        await updates_until(client, lambda message: not problem(message, "serial"), within_s=30)
    assert server.stop() == 0
    assert (
        f"warning  serial ports: {PORT}: no such port"
        in command(server.folder, "doctor", ROBODYNE_RT__SERIAL=json.dumps([{"port": PORT}])).stdout
    )
    os.close(other)
    os.close(controller)


async def test_who_may_not_look_sees_no_path(start_server: Callable[..., Server]) -> None:
    server = start_server(
        SERIAL=json.dumps([{"port": PORT}]),
        AUTH__MODE="local",
        SERVER__TRUSTED_PROXIES='["127.0.0.1/32"]',  # this machine's own visitors may look
        RIGHTS__STAFF='["read:*", "sessions"]',
        RIGHTS__KITCHEN='["read:*"]',
        RIGHTS__DISPLAY='["read:*", "look"]',
    )
    for role, may_look, knows_who in (
        ("staff", False, True),
        ("kitchen", False, False),
        ("display", True, False),
        ("technician", True, True),
    ):
        headers = {"X-Forwarded-For": "10.9.8.7", "Authorization": f"Bearer {mint(server.folder, role, role)}"}
        async with server.watch("/ws/status", additional_headers=headers) as client:
            status = (await updates_until(client, lambda message: problem(message, "serial")))[-1]
        _, _, polled = server.get("/api/status", **headers)
        for message in (status, json.loads(polled)):
            found = problem(message, "serial")
            assert found is not None and found["text"]["ko"] and found["severity"] == "warning"
            assert ("detail" in found) == may_look, role
            assert ("sessions" in message["data"]) == knows_who, role
            assert may_look or PORT not in json.dumps(message["data"])


async def test_a_lost_lock_and_a_swollen_spool_are_told(start_server: Callable[..., Server]) -> None:
    server = start_server(DATABASE__SPOOL_MAX_BYTES=str(1 << 20))
    (server.folder / "robodyne.db.lock").unlink()
    async with server.watch("/ws/status") as client:
        heard = await updates_until(client, lambda message: problem(message, "lock"))
        found = problem(heard[-1], "lock")
        assert found is not None and found["severity"] == "error" and "robodyne.db.lock" in found["detail"]

        foreign = sqlite3.connect(server.database, isolation_level=None)
        foreign.execute("BEGIN EXCLUSIVE")
        messages = [
            {"msg_type": "Event", "type": "INFO", "description": "x" * 3000, "id": str(number)} for number in range(250)
        ]
        assert all(answer["status"] == "success" for answer in server.tell(*messages))
        heard = await updates_until(client, lambda message: problem(message, "spool-swollen"))
        storage = problem(heard[-1], "storage")
        assert storage is not None and storage["detail"].startswith("spooling: ")
        foreign.execute("ROLLBACK")
        foreign.close()
        await updates_until(
            client, lambda message: not problem(message, "spool-swollen") and not problem(message, "storage"), within_s=20
        )
    assert server.stop() == 0


async def test_a_parked_dead_letter_is_told(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.sql("CREATE TRIGGER theirs BEFORE INSERT ON event WHEN new.type = 'BIRTHDAY' BEGIN SELECT RAISE(ABORT, 'no'); END")
    async with server.watch("/ws/status") as client:
        server.tell({"msg_type": "Event", "type": "BIRTHDAY"})
        heard = await updates_until(client, lambda message: problem(message, "dead-letters"))
    found = problem(heard[-1], "dead-letters")
    assert found is not None and "robodyne-rt dlq list" in found["remedy"]["ko"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")
def test_the_page_shows_what_is_wrong_and_what_to_do(start_server: Callable[..., Server], page: Any) -> None:  # noqa: F811
    server = start_server(SERIAL=json.dumps([{"port": PORT}]))
    page.goto(server.url("/"))
    page.wait_for_selector('[data-problem="serial"]', timeout=10_000)
    shown = page.locator("#problems").inner_text()
    assert "A serial port is not there" in shown and PORT in shown and "Look at the plug" in shown
    page.click("#language")
    page.locator("#problems", has_text="시리얼 포트가 없습니다").wait_for()
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/problems.png")
