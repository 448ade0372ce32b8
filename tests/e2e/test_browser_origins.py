"""Pages that this server did not serve, in a real browser: from a file, from a listed site, from any other one."""

import contextlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.people import add_user, sign
from tests.e2e.server import Server
from tests.e2e.test_browser import CHROMIUM

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")

PAGE = """<!doctype html>
<meta charset="utf-8" />
<ul id="robots"></ul>
<script>
  const socket = new WebSocket("@SOCKET@");
  const robots = new Map();
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type !== "update") return;
    for (const robot of message.data) robots.set(robot.id, robot);
    document.querySelector("#robots").textContent = [...robots.values()].map((r) => `${r.robot_id} ${r.battery_level}`).join();
  };
  socket.onclose = ({ code, reason }) => (document.title = `closed ${code} ${reason}`);
</script>
"""
WITH_CLIENT = """<!doctype html>
<meta charset="utf-8" />
<ul id="robots"></ul>
<script type="module">
  @CLIENT@
  const session = connect({ url: "@URL@", token: "@TOKEN@" });
  session.subscribe("robots", {
    onChange: (robots) => {
      const shown = [...robots.values()].map((r) => `${r.robot_id} ${r.battery_level}`);
      document.querySelector("#robots").textContent = shown.join();
    },
  });
  globalThis.answer = session.request("which robots are online?").then(({ response }) => response);
</script>
"""


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """Serve a folder as another site; yield its origin."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        threading.Thread(target=http.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Two other sites: a listed one, and one that is not."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<!doctype html><title>site</title>")
    with site(folder) as listed, site(folder) as unlisted:
        yield listed, unlisted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sites: tuple[str, str]) -> Iterator[Server]:
    """One that lets this machine read robots without a token."""
    settings = {
        "SERVER__ALLOWED_ORIGINS": json.dumps([sites[0]]),
        "AUTH__ANONYMOUS_TOPICS": '["robots"]',
        "AUTH__ANONYMOUS_NETWORKS": '["127.0.0.0/8"]',
    }
    with Server(tmp_path_factory.mktemp("server"), AUTH__MODE="local", **settings) as running:
        charge(running, 81)
        yield running
        assert running.is_running, running.log()


@pytest.fixture
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        opened = browser.new_page()
        opened.set_default_timeout(15_000)
        yield opened
        browser.close()


def charge(server: Server, level: int) -> None:
    server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING", "battery_level": level})


def open_file(page: Any, folder: Path, text: str) -> None:
    file = folder / "page.html"
    file.write_text(text)
    page.goto(file.as_uri())
    assert page.evaluate("() => origin") == "null"


def test_a_page_from_a_file_with_a_token_gets_updates(server: Server, page: Any, tmp_path: Path) -> None:
    socket = f"ws://127.0.0.1:{server.port}/ws/robots"
    open_file(page, tmp_path, PAGE.replace("@SOCKET@", f"{socket}?token={sign(server, 'kim', 'staff')}"))
    page.wait_for_selector("#robots:has-text('alba-1 81')")
    charge(server, 64)
    page.wait_for_selector("#robots:has-text('alba-1 64')")
    charge(server, 81)
    open_file(page, tmp_path, PAGE.replace("@SOCKET@", socket))
    page.wait_for_function("() => document.title === 'closed 1006'")
    assert page.inner_text("#robots") == "", "what the place may, a page from elsewhere may not"
    open_file(page, tmp_path, PAGE.replace("@SOCKET@", f"{socket}?token=old"))
    page.wait_for_function("() => document.title === 'closed 4001 token_invalid'")


def test_the_client_works_from_a_file(server: Server, page: Any, tmp_path: Path) -> None:
    client = (resources.files("robodyne_rt.web.pages") / "robodyne-client.js").read_text()
    text = WITH_CLIENT.replace("@URL@", server.url("")).replace("@TOKEN@", sign(server, "kim", "staff"))
    text = text.replace("@CLIENT@", client)
    open_file(page, tmp_path, text)
    page.wait_for_selector("#robots:has-text('alba-1 81')")
    assert "robot" in page.evaluate("() => answer")


ASKS = """async ([server, path, options]) => {
  try {
    const response = await fetch(server + path, options);
    return { status: response.status, body: await response.json(), etag: response.headers.get("ETag") };
  } catch (error) {
    return { status: 0 };
  }
}"""
WATCHES = """([server, path]) => new Promise((resolve) => {
  const socket = new WebSocket(server.replace("http", "ws") + path);
  socket.onmessage = ({ data }) => (resolve(JSON.parse(data)), socket.close());
  socket.onclose = ({ code, reason }) => resolve({ type: "close", code, reason });
})"""


def test_a_listed_site_logs_in_takes_a_ticket_and_polls(server: Server, page: Any, sites: tuple[str, str]) -> None:
    page.goto(sites[0])
    user, url = add_user(server, "staff"), server.url("")
    post = {"method": "POST", "headers": {"Content-Type": "application/json"}}
    body = json.dumps({"user": user.name, "password": user.password})
    given = page.evaluate(ASKS, [url, "/api/auth/login", post | {"body": body}])
    assert given["status"] == 200
    bearer = {"Authorization": f"Bearer {given['body']['accessToken']}"}
    ticket = page.evaluate(ASKS, [url, "/api/auth/ticket", {"method": "POST", "headers": bearer}])
    first = page.evaluate(WATCHES, [url, f"/ws/customers?ticket={ticket['body']['ticket']}"])
    assert (first["type"], first["snapshot"]) == ("update", True)
    polled = page.evaluate(ASKS, [url, "/api/customers", {"headers": bearer}])
    assert polled["status"] == 200 and polled["etag"], "it may read the ETag, to ask again with"
    again = page.evaluate(ASKS, [url, "/api/robots", {"headers": {"If-None-Match": polled["etag"]}, "credentials": "include"}])
    assert again["status"] == 200, "the place may read robots, and the page is as good as ours"
    wrong = page.evaluate(ASKS, [url, "/api/auth/login", post | {"body": json.dumps({"user": "x", "password": "y"})}])
    assert wrong["body"]["code"] == "INVALID_CREDENTIALS", "it may read why"


def test_another_site_gets_nothing_but_what_its_own_token_opens(server: Server, page: Any, sites: tuple[str, str]) -> None:
    page.goto(sites[1])
    user, url = add_user(server, "staff"), server.url("")
    assert page.evaluate(WATCHES, [url, "/ws/robots"]) == {"type": "close", "code": 1006, "reason": ""}
    for credentials in ("omit", "include"):
        assert page.evaluate(ASKS, [url, "/api/robots", {"credentials": credentials}])["status"] == 0
    post = {"method": "POST", "headers": {"Content-Type": "application/json"}}
    body = json.dumps({"user": user.name, "password": user.password})
    assert page.evaluate(ASKS, [url, "/api/auth/login", post | {"body": body}])["status"] == 0
    token = sign(server, "kim", "staff")
    bearer = {"headers": {"Authorization": f"Bearer {token}"}}
    assert page.evaluate(WATCHES, [url, f"/ws/robots?token={token}"])["data"][0]["robot_id"] == "alba-1"
    assert page.evaluate(ASKS, [url, "/api/customers", bearer])["status"] == 200
    assert page.evaluate(ASKS, [url, "/api/customers", bearer | {"credentials": "include"}])["status"] == 0
    refused = page.evaluate(ASKS, [url, "/api/customers", {"headers": {"Authorization": "Bearer old"}}])
    assert refused["body"]["code"] == "INVALID_CREDENTIALS", "it may read that its token is over"
