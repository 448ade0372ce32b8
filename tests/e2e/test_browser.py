"""The page at / in a real browser: a robot moves, the server restarts, the page recovers without a reload."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.server import Server

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")


@pytest.fixture
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1440, "height": 900}, locale="en-US")
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
        yield page
        assert problems == []
        browser.close()


def at(page: Any, robot: str) -> tuple[float, float]:
    marker = page.locator(f'[data-robot="{robot}"]').first
    return float(marker.get_attribute("data-x")), float(marker.get_attribute("data-y"))


def wait_for_position(page: Any, robot: str, x: float, y: float) -> None:
    page.wait_for_function(
        "([robot, x, y]) => [...document.querySelectorAll(`[data-robot='${robot}']`)].some("
        "m => Math.abs(m.dataset.x - x) < 0.01 && Math.abs(m.dataset.y - y) < 0.01)",
        arg=[robot, x, y],
        timeout=10_000,
    )


def test_the_page_shows_a_moving_robot_and_recovers_from_a_restart(start_server: Callable[..., Server], page: Any) -> None:
    server = start_server()
    server.sql("INSERT INTO table_(table_number, x, y, width, height) VALUES (1, 5, 3, 1.2, 0.9)")
    server.sql("INSERT INTO menu_item(name, name_en) VALUES ('비빔밥', 'Bibimbap')")
    server.tell(
        {"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING", "battery_level": 81, "world_x": 1, "world_y": 1}
    )
    page.goto(server.url("/"))
    page.wait_for_selector('html[data-connection="connected"]', timeout=10_000)
    wait_for_position(page, "alba-1", 1, 1)
    with server.dial() as sock:
        for step in range(1, 11):
            body = {"msg_type": "Telemetry", "robot_id": "alba-1", "x": 1 + step / 2, "y": 1, "yaw": 0}
            sock.sendall(json.dumps(body).encode() + b"\n")
        wait_for_position(page, "alba-1", 6, 1)
    (answer,) = server.tell({"msg_type": "Order", "table_number": 1, "items": [{"name": "Bibimbap"}], "id": "o1"})
    page.wait_for_selector(f'[data-order="{answer["details"]["order_id"]}"]', timeout=10_000)
    hostile = '<img src=x onerror="document.title=1">'
    (answer,) = server.tell({"msg_type": "Event", "type": "CALL", "table_number": 1, "description": hostile, "id": "e1"})
    page.wait_for_selector(f'[data-event="{answer["details"]["event_id"]}"]', timeout=10_000)
    assert page.locator('img[src="x"]').count() == 0
    page.evaluate("window.sameDocument = true")

    server.stop()
    page.wait_for_selector('html:not([data-connection="connected"])', timeout=5_000)
    # What changes while the page is away must be there when it is back.
    server._settings |= {
        "ROBODYNE_RT__SERVER__PORT": str(server.port),
        "ROBODYNE_RT__DEVICES__PORT": str(server.devices_port),
    }
    server.sql("UPDATE robot SET battery_level = 12, status = 'CHARGING', x = 2, y = 2")
    server.start()
    page.wait_for_selector('html[data-connection="connected"]', timeout=30_000)
    wait_for_position(page, "alba-1", 2, 2)
    marker = page.locator('[data-robot="alba-1"]').first
    page.wait_for_function(
        "m => m.dataset.status === 'CHARGING' && Number(m.dataset.battery) === 12", arg=marker.element_handle(), timeout=10_000
    )
    assert page.evaluate("window.sameDocument") is True
    assert page.locator("svg [data-robot='alba-1']").count() == 1


def test_a_lost_connection_is_seen_within_three_seconds_even_without_a_close(
    start_server: Callable[..., Server], page: Any
) -> None:
    import signal

    server = start_server()
    page.goto(server.url("/"))
    page.wait_for_selector('html[data-connection="connected"]', timeout=10_000)
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        page.wait_for_selector('html:not([data-connection="connected"])', timeout=6_000)
    finally:
        server.process.send_signal(signal.SIGCONT)
    page.wait_for_selector('html[data-connection="connected"]', timeout=40_000)
