"""Logins, pairing, the copilot and staff messages at `/`, and the JavaScript session client, in a real browser.

`ROBODYNE_KILL_ROUNDS=20 scripts/test tests/e2e/test_browser_session.py` kills the server more often.
"""

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt import secret
from robodyne_rt.cli import control
from robodyne_rt.web.jwt_tokens import LOCAL_NAME, sign
from tests.e2e.authority import Authority
from tests.e2e.server import Server
from tests.e2e.test_browser import CHROMIUM, wait_for_position
from tests.e2e.test_kill import Load

ROUNDS = int(os.environ.get("ROBODYNE_KILL_ROUNDS", "3"))
PASSWORD = "correct horse battery"
USERS = {"boss": "admin", "minsu": "manager", "cook": "kitchen", "jiwoo": "staff"}

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium"),
    pytest.mark.timeout(90 + 15 * ROUNDS),
]


def ask_server(server: Server, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One request as who sits at the server: over its control socket."""
    return control.do(server.folder / "robodyne-rt.sock", method, path, body)


def add_users(server: Server) -> None:
    for name, role in USERS.items():
        ask_server(server, "POST", "/api/users", {"name": name, "roles": [role], "password": PASSWORD})


def keep_ports(server: Server) -> None:
    server._settings |= {
        "ROBODYNE_RT__SERVER__PORT": str(server.port),
        "ROBODYNE_RT__DEVICES__PORT": str(server.devices_port),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A restaurant where people log in."""
    with Server(tmp_path_factory.mktemp("server"), AUTH__MODE="local") as running:
        add_users(running)
        for number in (1, 2):
            place = {"world_x": 2 * number, "world_y": 1}
            running.tell(
                {"msg_type": "Albabot", "robot_id": f"alba-{number}", "status": "SERVING", "battery_level": 80} | place
            )
        yield running
        assert running.is_running, running.log()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open pages that share nothing: each is a browser of its own."""
    contexts = []
    problems: list[str] = []

    def opened(locale: str = "en-US", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, locale=locale, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def log_in(page: Any, server: Server, user: str, password: str = PASSWORD) -> None:
    page.goto(server.url("/"))
    page.fill("#login [name=user]", user)
    page.fill("#login [name=password]", password)
    page.keyboard.press("Enter")


def wait_until_connected(page: Any) -> None:
    page.wait_for_selector('html[data-connection="connected"]')


def shown(page: Any) -> set[str]:
    return {tile.get_attribute("id") for tile in page.query_selector_all("[data-topics]:not([hidden])")}


def client_page(page: Any, server: Server, user: str = "") -> None:
    """A page of the server that does nothing by itself, with the login of a user."""
    page.goto(server.url("/static/people.css"))
    if user:
        body = {"user": user, "password": PASSWORD, "cookie": True}
        assert page.request.post(server.url("/api/auth/login"), data=body).ok


# -- the page ---------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_told_and_the_right_one_opens_the_page(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page()
    log_in(page, server, "minsu", "wrong password")
    page.wait_for_selector("#login .problem:has-text('Wrong name or password')")
    assert page.get_attribute("html", "data-connection") == "login"
    page.fill("#login [name=password]", PASSWORD)
    page.keyboard.press("Enter")
    wait_until_connected(page)
    assert page.inner_text('[data-opens="account"]') == "Account minsu"
    assert page.locator("#door").is_hidden()
    page.reload()
    wait_until_connected(page)
    other = page.context.new_page()  # with the same login
    other.goto(server.url("/"))
    wait_until_connected(other)
    page.click('[data-opens="account"]')
    page.click("#log-out")
    for left in (page, other):
        left.wait_for_selector("#login", state="visible")
        assert left.locator("#thrown-out").is_hidden()
    assert page.locator("[data-robot]").count() == 0
    assert page.locator("[data-opens]:visible").count() == 0


def test_the_page_shows_what_a_role_may_see_and_follows_when_it_changes(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page()
    log_in(page, server, "minsu")
    wait_until_connected(page)
    assert shown(page) == {"counters", "floor", "orders", "robots", "events", "stock", "logs"}
    page.click('[data-opens="account"]')
    assert page.locator("#approve").is_hidden()
    ask_server(server, "PATCH", "/api/users/minsu", {"roles": ["kitchen"]})
    page.wait_for_selector("#logs", state="hidden")
    wait_until_connected(page)
    assert shown(page) == {"counters", "floor", "orders", "robots", "events", "stock"}
    ask_server(server, "PATCH", "/api/users/minsu", {"roles": ["manager"]})


def test_a_stranger_sees_the_topics_that_are_open_to_the_network(
    start_server: Callable[..., Server], new_page: Callable[..., Any]
) -> None:
    server = start_server(AUTH__MODE="local", AUTH__ANONYMOUS_TOPICS='["robots"]', AUTH__ANONYMOUS_NETWORKS='["127.0.0.0/8"]')
    page = new_page()
    page.goto(server.url("/"))
    wait_until_connected(page)
    assert shown(page) == {"floor", "robots"}
    assert page.locator('[data-opens="copilot"]').is_hidden()
    page.click("#log-in")
    page.wait_for_selector("#login", state="visible")
    page.click("#look-on")
    wait_until_connected(page)


def test_a_screen_is_paired_by_its_code_until_its_token_is_taken_back(server: Server, new_page: Callable[..., Any]) -> None:
    wall, admin = new_page(), new_page()
    wall.goto(server.url("/"))
    wall.focus("#pair")
    wall.keyboard.press("Enter")
    wall.wait_for_function("() => /\\d{3} \\d{3}/.test(document.getElementById('code').textContent)")
    log_in(admin, server, "boss")
    wait_until_connected(admin)
    admin.click('[data-opens="account"]')
    admin.fill("#approve [name=code]", "000 000" if wall.inner_text("#code") != "000 000" else "000 001")
    admin.fill("#approve [name=label]", "kitchen wall")
    admin.keyboard.press("Enter")
    admin.wait_for_selector("#approve .problem:has-text('No screen shows this code')")
    admin.fill("#approve [name=code]", wall.inner_text("#code"))
    admin.keyboard.press("Enter")
    admin.wait_for_selector("#approve .done:has-text('kitchen wall')")
    wait_until_connected(wall)
    wait_for_position(wall, "alba-1", 2, 1)
    assert wall.locator('[data-opens="copilot"]').is_hidden()
    (token,) = [token for token in ask_server(server, "GET", "/api/tokens")["tokens"] if token["label"] == "kitchen wall"]
    ask_server(server, "DELETE", f"/api/tokens/{token['id']}")
    wall.wait_for_selector("#login", state="visible")
    wall.wait_for_selector("#thrown-out:has-text('changed or taken back')")
    assert wall.locator("[data-robot]").count() == 0


def test_whoever_is_thrown_out_reads_why_above_the_login_form(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page("ko-KR")
    ask_server(server, "POST", "/api/users", {"name": "nari", "roles": ["staff"], "password": PASSWORD})
    page.goto(server.url("/"))
    page.wait_for_selector("#login", state="visible")
    assert page.locator("#thrown-out").is_hidden()
    log_in(page, server, "nari")
    wait_until_connected(page)
    ask_server(server, "PATCH", "/api/users/nari", {"password": f"{PASSWORD} 2"})
    page.wait_for_selector("#thrown-out:has-text('로그아웃되었습니다')")
    assert page.evaluate("() => document.activeElement.name") == "user"
    page.fill("#login [name=user]", "nari")
    page.fill("#login [name=password]", f"{PASSWORD} 2")
    page.keyboard.press("Enter")
    wait_until_connected(page)
    assert page.locator("#thrown-out").is_hidden()
    page.evaluate("() => robodyne.session._lost(4001, 'token_expired')")
    page.wait_for_selector("#thrown-out:has-text('다시 로그인하세요')")


def test_enter_twice_on_the_account_logs_nobody_out(server: Server, new_page: Callable[..., Any]) -> None:
    for user, focused in (("boss", "code"), ("cook", None)):
        page = new_page()
        log_in(page, server, user)
        wait_until_connected(page)
        page.focus('[data-opens="account"]')
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert page.evaluate("() => [document.activeElement.name ?? null, document.activeElement.closest('.pane').id]") == [
            focused,
            "account",
        ]
        assert page.evaluate("() => robodyne.session.state") == "connected"


def test_the_copilot_asks_back_and_answers_in_korean_by_keyboard_alone(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page("ko-KR")
    log_in(page, server, "cook")
    wait_until_connected(page)
    page.focus('[data-opens="copilot"]')
    page.keyboard.press("Enter")
    page.keyboard.type("서빙 로봇 어디 있어?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk .options button:focus")
    assert [button.inner_text() for button in page.query_selector_all("#talk .options button")] == ["alba-1", "alba-2"]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk li:last-child:has-text('alba-2는')")
    assert page.locator("#talk .options").is_hidden()
    page.keyboard.type("김치 얘기 해줘")
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk li:last-child:has-text('모릅니다')")
    for _ in range(9):
        page.fill("#ask input", "늦은 주문 있어?")
        page.keyboard.press("Enter")
    page.wait_for_selector("#talk li.failed:has-text('초 뒤에')")
    page.wait_for_function("() => !document.getElementById('talk').innerText.includes('찾는 중')")
    # What was said before is there after a reload; what was never taken is not.
    said = [words for words in page.locator("#talk > li > p:first-child").all_inner_texts() if "초 뒤에" not in words]
    page.reload()
    wait_until_connected(page)
    page.click('[data-opens="copilot"]')
    page.wait_for_selector("#talk li.theirs")
    recalled = page.locator("#talk > li > p:first-child").all_inner_texts()
    assert recalled[:2] == [said[0], said[2]] and "alba-2" in recalled[1]
    # Then they were asked faster than answered; recalled is each answer below its question.
    taken = Counter(words for words in said if "어느" not in words) - Counter(["늦은 주문 있어?"])  # the eleventh was not
    assert Counter(recalled) == taken and len(recalled) == 20
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()


def ask_which_robot(page: Any) -> None:
    page.click('[data-opens="copilot"]')
    page.fill("#ask input", "서빙 로봇 어디 있어?")
    page.keyboard.press("Enter")


def test_a_question_back_does_not_take_the_keys_of_who_goes_on_typing(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page("ko-KR")
    log_in(page, server, "boss")
    wait_until_connected(page)
    ask_which_robot(page)
    page.keyboard.type("늦은 주문")
    page.wait_for_selector("#talk .options button")
    page.keyboard.type(" 있어?")
    assert page.input_value("#ask input") == "늦은 주문 있어?"
    assert page.locator("#talk .options").is_visible()
    page.click("#talk .options button:first-child")
    page.wait_for_selector("#talk li:last-child:has-text('alba-1')")
    # Typed a little later, when the first option has the focus already.
    page.fill("#ask input", "서빙 로봇 어디 있어?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk .options button:focus")
    page.keyboard.type(" 늦은 주문 있어?")
    assert page.input_value("#ask input") == " 늦은 주문 있어?"
    assert page.locator("#talk .options:visible").count() == 1
    # Whoever looks at the options for a while may press one with the space bar.
    page.focus("#talk .options:visible button")
    page.wait_for_timeout(1100)
    page.keyboard.press("Space")
    page.wait_for_selector("#talk .options:visible", state="detached")
    # A message that is being written is not pushed aside; the button says that there is a question.
    page.fill("#ask input", "서빙 로봇 어디 있어?")
    page.keyboard.press("Enter")
    page.click('[data-opens="write"]')
    page.keyboard.press("Tab")
    page.fill("#send [name=message]", "곧")
    page.wait_for_selector('[data-opens="copilot"][data-asks]')
    page.keyboard.type(" 갑니다")
    assert page.input_value("#send [name=message]") == "곧 갑니다"
    page.click('[data-opens="copilot"]')
    page.locator("#talk .options:visible button").first.click()
    page.wait_for_selector('[data-opens="copilot"]:not([data-asks])')


def test_a_question_that_waits_for_an_earlier_answer_says_so(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page()
    questions: list[str] = []
    sockets: list[Any] = []

    def relay(socket: Any) -> None:
        upstream = socket.connect_to_server()
        sockets.append(socket)

        def forward(message: str) -> None:
            if (told := json.loads(message))["type"] == "query":
                questions.append(told["requestId"])
            upstream.send(message)

        socket.on_message(forward)

    page.route_web_socket("**/ws?*", relay)
    log_in(page, server, "boss")
    wait_until_connected(page)
    ask_which_robot(page)
    page.wait_for_selector("#talk .options button:focus")
    assert page.locator("#talk .waiting").count() == 0
    page.fill("#ask input", "Which robots are online?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk .waiting:has-text('Waits for your answer to an earlier question')")
    elsewhere = new_page("ko-KR")
    log_in(elsewhere, server, "boss")
    wait_until_connected(elsewhere)
    ask_which_robot(elsewhere)
    elsewhere.wait_for_selector("#talk .waiting:has-text('앞선 질문에 답해')")
    # The next word of the server takes its place.
    sockets[-1].send(json.dumps({"type": "progress", "requestId": questions[1], "message": "working"}))
    page.wait_for_selector("#talk .waiting:has-text('Looking it up')")
    page.click("#talk .options button:first-child")
    page.wait_for_selector("#talk li:last-child:has-text('online')")
    assert page.locator("#talk .waiting").count() == 0
    elsewhere.click("#talk .options button:first-child")
    elsewhere.wait_for_selector("#talk li:last-child:has-text('alba-1')")


def test_how_long_one_has_to_wait_counts_down_and_ends(
    start_server: Callable[..., Server], new_page: Callable[..., Any]
) -> None:
    server = start_server(AUTH__MODE="local", LIMITS__QUERY_REQUESTS="2")
    add_users(server)
    page = new_page()
    page.clock.install()
    log_in(page, server, "cook")
    wait_until_connected(page)
    page.click('[data-opens="copilot"]')
    for left in (1, 0):
        page.fill("#ask input", "Which orders are late?")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#remaining:has-text('{left} more')")
    page.fill("#ask input", "Which orders are late?")
    page.keyboard.press("Enter")
    failed = page.locator("#talk li.failed")
    failed.wait_for()
    before = int("".join(filter(str.isdigit, failed.inner_text())))
    page.wait_for_function(f"() => !document.querySelector('#talk li.failed').textContent.includes(' {before} s')")
    assert before - 5 < int("".join(filter(str.isdigit, failed.inner_text()))) < before
    page.clock.fast_forward(61_000)
    page.wait_for_selector("#talk li.failed:has-text('you may ask again now')")
    assert page.inner_text("#remaining") == ""


def test_over_tls_the_page_works_and_its_login_never_leaves_in_the_clear(
    start_server: Callable[..., Server], new_page: Callable[..., Any], tmp_path: Path
) -> None:
    cert, key = Authority(tmp_path).issue("localhost")
    server = start_server(AUTH__MODE="local", SERVER__TLS_CERT=cert, SERVER__TLS_KEY=key)
    add_users(server)
    page = new_page(ignore_https_errors=True)
    page.goto(f"https://localhost:{server.port}/")
    page.fill("#login [name=user]", "cook")
    page.fill("#login [name=password]", PASSWORD)
    page.keyboard.press("Enter")
    wait_until_connected(page)
    assert page.locator('[data-opens="account"]').inner_text() == "Account cook"
    cookies = page.context.cookies()
    assert {cookie["path"] for cookie in cookies} == {"/", "/api/auth"}, "the login, and that this device logged in"
    for cookie in cookies:
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
    page.reload()
    wait_until_connected(page)
    page.click('[data-opens="account"]')
    page.click("#log-out")
    page.wait_for_selector("#login", state="visible")
    assert [cookie["path"] for cookie in page.context.cookies()] == ["/api/auth"]


def test_a_staff_message_arrives_and_its_sender_learns_that_it_was_read(server: Server, new_page: Callable[..., Any]) -> None:
    sender, reader, elsewhere = new_page(), new_page(), new_page()
    for page, user in ((sender, "boss"), (reader, "jiwoo"), (elsewhere, "jiwoo")):
        log_in(page, server, user)
        wait_until_connected(page)
    hostile = "<b onclick=1>Table 3 waits</b>"
    sender.click('[data-opens="write"]')
    sender.select_option("#send [name=recipient]", "role:staff")
    sender.fill("#send [name=message]", hostile)
    sender.click("#send [type=submit]")
    reader.wait_for_selector("#inbox li")
    assert hostile in reader.inner_text("#inbox li") and "boss" in reader.inner_text("#inbox li")
    reader.reload()
    reader.wait_for_selector("#inbox li")
    elsewhere.wait_for_selector("#inbox li")
    reader.click("#inbox li button")
    elsewhere.wait_for_selector("#inbox li", state="detached")
    sender.wait_for_selector("#sent li:has-text('read by jiwoo')")
    reader.reload()
    wait_until_connected(reader)
    assert reader.locator("#inbox li").count() == 0


def test_what_one_sent_is_there_after_a_reload_and_a_strange_name_is_told(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page()
    log_in(page, server, "minsu")
    wait_until_connected(page)
    page.click('[data-opens="write"]')
    page.select_option("#send [name=recipient]", "")
    for name, words in (("jiwoo", "Table 5 pays"), ("jivoo", "Table 6 pays")):
        page.fill("#send [name=user]", name)
        page.fill("#send [name=message]", words)
        page.click("#send [type=submit]")
        page.wait_for_selector(f"#sent li:has-text('{words}')")
    assert "nobody of this name" in page.inner_text("#sent li:has-text('jivoo')")
    assert "not read yet" in page.inner_text("#sent li:has-text('jiwoo')")
    reader = new_page()
    log_in(reader, server, "jiwoo")
    reader.click("#inbox li:has-text('Table 5 pays') button")
    page.wait_for_selector("#sent li:has-text('read by jiwoo')")
    page.reload()
    wait_until_connected(page)
    page.click('[data-opens="write"]')
    page.wait_for_selector("#sent li")
    sent = page.locator("#sent li").all_inner_texts()
    assert "Table 6 pays" in sent[0] and "Table 5 pays" in sent[1] and "read by jiwoo" in sent[1]
    with reader.expect_response("**/api/messages?*"):
        reader.click('[data-opens="write"]')
    assert reader.locator("#sent li").count() == 0


def _ends(page: Any) -> list[float]:
    """Return how far each note of the inbox goes below the inbox's end, in pixels, once no note is cut by it."""
    deadline = time.monotonic() + 10
    while True:
        edge = page.locator("#inbox ul").bounding_box()
        notes = [note.bounding_box() for note in page.locator("#inbox li").all()]
        bottom = edge["y"] + edge["height"]
        ends: list[float] = [note["y"] + note["height"] - bottom for note in notes]
        cut = [note for note, end in zip(notes, ends, strict=True) if end > 1 and note["y"] < bottom - 1]
        if cut == [] and ends[0] <= 1:
            return ends
        assert time.monotonic() < deadline, (page.viewport_size, ends)
        time.sleep(0.05)


def test_many_unread_messages_leave_the_wall_its_place(server: Server, new_page: Callable[..., Any]) -> None:
    ask_server(server, "POST", "/api/users", {"name": "chef", "roles": ["technician"], "password": PASSWORD})
    sender, page = new_page(), new_page("ko-KR")
    log_in(sender, server, "boss")
    wait_until_connected(sender)
    send = "([words, type]) => robodyne.session.sendMessage('chef', words, { type })"
    for number in range(9):
        words = f"message {number} " + "goes on and on " * (12 if number == 4 else 0)
        sender.evaluate(send, [words, "ALERT" if number in (3, 6) else "TEXT"])
    log_in(page, server, "chef")
    for width, height in ((1920, 1080), (1024, 768), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function("() => document.querySelectorAll('#inbox li').length === 9")
        page.wait_for_function("() => document.getElementById('inbox').offsetHeight <= innerHeight / 4 + 1")
        ends = _ends(page)
        assert page.locator("#inbox").bounding_box()["height"] > 60
        assert "9개" in page.inner_text("#unread")
        hidden = sum(1 for end in ends if end > 1)
        assert f"{hidden}개 더" in page.inner_text("#unread") if hidden else "더" not in page.inner_text("#unread")
    first = [note.inner_text() for note in page.locator("#inbox li p").all()]
    assert [words.split()[1] for words in first] == ["6", "3", "0", "1", "2", "4", "5", "7", "8"]


def test_orders_come_first_where_the_screen_is_narrow(server: Server, new_page: Callable[..., Any]) -> None:
    ask_server(server, "POST", "/api/users", {"name": "maximiliane-von-hohenberg", "roles": ["kitchen"], "password": PASSWORD})
    for width, height in ((1024, 768), (390, 844)):
        page = new_page()
        page.set_viewport_size({"width": width, "height": height})
        log_in(page, server, "maximiliane-von-hohenberg")
        wait_until_connected(page)
        top = {id: page.locator(f"#{id}").bounding_box()["y"] for id in ("counters", "orders", "floor")}
        assert top["counters"] < top["orders"] < min(top["floor"], height * 0.6)
        buttons = [button.bounding_box()["y"] for button in page.locator("header button:visible").all()]
        assert len(buttons) == 4 and len(set(buttons)) == 1
        assert page.locator("header").bounding_box()["height"] < (60 if width == 1024 else 100)


def test_a_list_says_what_is_below_its_edge_and_robots_in_trouble_come_first(
    start_server: Callable[..., Server], new_page: Callable[..., Any]
) -> None:
    server = start_server()
    for number in range(1, 31):
        state = {"status": {28: "ERROR", 29: "EMERGENCY"}.get(number, "IDLE"), "battery_level": 9 if number == 30 else 80}
        server.tell({"msg_type": "Albabot", "robot_id": f"alba-{number}"} | state)
    page = new_page()
    page.goto(server.url("/"))
    wait_until_connected(page)
    page.wait_for_function("() => document.querySelectorAll('[data-robot-row]').length === 30")
    rows = page.evaluate("() => [...document.querySelectorAll('[data-robot-row]')].map((row) => row.dataset.robotRow)")
    assert rows[:5] == ["alba-28", "alba-29", "alba-30", "alba-1", "alba-2"]
    more = page.locator("#robots li.more")
    more.wait_for()
    assert more.inner_text() == page.evaluate(
        """() => {
          const list = document.querySelector("#robots ul");
          const edge = list.querySelector(".more").getBoundingClientRect().top;
          const rows = [...list.querySelectorAll("[data-robot-row]")];
          return `+${rows.filter((row) => row.getBoundingClientRect().bottom > edge + 1).length} more`;
        }"""
    )
    page.evaluate("() => { const list = document.querySelector('#robots ul'); list.scrollTop = list.scrollHeight; }")
    more.wait_for(state="hidden")
    assert page.locator("#orders li.more").is_hidden()


def test_robots_that_stand_close_do_not_write_over_each_other(
    start_server: Callable[..., Server], new_page: Callable[..., Any]
) -> None:
    server = start_server()
    for number, (status, y) in enumerate([("IDLE", 1.0), ("ERROR", 1.3), ("IDLE", 1.6), ("SERVING", 9.0)], 1):
        place = {"world_x": 2, "world_y": y}
        server.tell({"msg_type": "Albabot", "robot_id": f"alba-{number}", "status": status, "battery_level": 80} | place)
    page = new_page()
    page.goto(server.url("/"))
    wait_for_position(page, "alba-4", 2, 9)
    written = "() => [...document.querySelectorAll('.robot .word')].map((word) => word.textContent)"
    assert sorted(filter(None, page.evaluate(written))) in (["idle", "serving"], ["error", "serving"])
    assert page.locator(".robot .name").all_text_contents() == [f"alba-{number}" for number in range(1, 5)]
    assert "error" in page.get_attribute("[data-robot='alba-2']", "aria-label")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function(f"() => !({written})().some(Boolean)")


def test_on_a_small_wall_words_keep_off_the_next_table_and_robots_keep_their_names(
    start_server: Callable[..., Server], new_page: Callable[..., Any]
) -> None:
    server = start_server()
    columns, long_ago = "robot_id, status, link, x, y, last_seen", "2026-01-01T10:00:00.000000Z"
    server.sql(f"insert into robot({columns}) values ('alba-1', 'IDLE', 'ONLINE', 2, 1, ?)", long_ago)
    for number in range(20):
        server.sql(
            "insert into table_(table_number, status, customer_count, max_customer, x, y, width, height)"
            " values (?, 'OCCUPIED', 3, 4, ?, ?, 0.9, 0.9)",
            number + 1,
            5 + 3 * (number % 5),
            1 + 2.5 * (number // 5),
        )
    page = new_page("en-US")
    page.goto(server.url("/"))
    wait_until_connected(page)
    page.wait_for_function("() => document.querySelectorAll('.table').length === 20")
    written_over = """() => {
      const box = (node) => node.getBoundingClientRect();
      const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2;
      const tables = [...document.querySelectorAll(".table")];
      const plan = box(document.querySelector("#plan"));
      return tables.flatMap((table) => {
        const words = [...table.querySelectorAll(".word, .guests")].filter((word) => word.textContent);
        const others = tables.filter((other) => other !== table).flatMap((other) => [...other.children]);
        const over = (word) => others.some((other) => other.getBBox().width && meet(box(word), box(other)));
        return words.filter((word) => over(word) || box(word).bottom > plan.bottom + 2).map((word) => word.textContent);
      });
    }"""
    cut_off = "() => [...document.querySelectorAll('#robots .title')].some((name) => name.scrollWidth > name.clientWidth)"
    for width, height in ((1280, 720), (1440, 900), (1024, 768), (800, 1280)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(f"() => !({written_over})().length && !({cut_off})()", timeout=5000)
        labels = page.evaluate("() => [...document.querySelectorAll('.table')].map((table) => table.textContent)")
        assert all("3/4" in label for label in labels), (width, labels)


def test_no_word_of_a_robot_hides_the_number_of_a_table(
    start_server: Callable[..., Server], new_page: Callable[..., Any]
) -> None:
    server = start_server()
    for number in range(20):
        place = (4 + 3 * (number % 5), 1 + 2.7 * (number // 5))
        server.sql("insert into table_(table_number, x, y, width, height) values (?, ?, ?, 1.2, 1.2)", number + 1, *place)
    # Where they serve, in front of a table; on their way between two rows; and in trouble, which is always said.
    robots = [(4, -0.1, "SERVING"), (10, 2.6, "SERVING"), (16, 5.3, "IDLE"), (11.5, 5.3, "ERROR"), (5.5, 8.0, "PICKUP")]
    for number, (x, y, status) in enumerate(robots, 1):
        report = {"msg_type": "Albabot", "robot_id": f"alba-{number}", "status": status, "battery_level": 80}
        server.tell(report | {"world_x": x, "world_y": y})
    page = new_page("en-US")
    page.goto(server.url("/"))
    wait_until_connected(page)
    page.wait_for_function("() => document.querySelectorAll('.robot').length === 5")
    hidden = """() => {
      const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 3 && b.top < a.bottom - 3;
      const boxes = (selector) => [...document.querySelectorAll(selector)].filter((node) => node.textContent);
      return boxes(".table .number").flatMap((number) =>
        boxes(".robot .name, .robot .word")
          .filter((words) => meet(words.getBoundingClientRect(), number.getBoundingClientRect()))
          .map((words) => `${words.textContent} over ${number.textContent}`));
    }"""
    for width, height in ((1280, 800), (1440, 900), (1920, 1080), (1024, 768), (800, 1280)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(f"() => ({hidden})().length === 0", timeout=5000)
        page.wait_for_timeout(400)  # what moves there has arrived
        assert page.evaluate(hidden) == [], (width, height)
        assert page.locator(".robot .name").all_text_contents() == [f"alba-{number}" for number in range(1, 6)]
        assert "error" in page.locator(".robot .word").all_text_contents()


# -- the client -------------------------------------------------------------------------------------------------------

START_CLIENT = """async () => {
  const { connect } = await import("/static/robodyne-client.js");
  Object.assign(window, { connects: 0, finals: [], gaps: [], outcomes: [], asked: 0, offsets: {} });
  window.session = connect({
    tries: Infinity,
    random: () => 0,
    onConnected: () => (window.connects += 1),
    onMessage: (message) => {
      const { type, requestId, topic, offset, prev, snapshot, recovered, volatile } = message;
      if (requestId && (type === "response" || type === "error")) finals.push([requestId, message.seq ?? null, connects]);
      if (type !== "update" || volatile) return;
      if (!snapshot && !(prev <= offsets[topic])) gaps.push([topic, offsets[topic], message]);
      offsets[topic] = offset;
    },
  });
  for (const topic of ["robots", "events", "tables"]) session.subscribe(topic);
  window.ask = () => {
    const requestId = `ask-${(asked += 1)}`;
    const settled = (outcome) => outcomes.push([requestId, outcome]);
    const question = asked % 2 ? "늦은 주문 있어?" : "Which robots are online?";
    session.request(question, { requestId }).then((a) => settled(a.response), (e) => settled(e.code));
  };
}"""

STATE = """() => ({
  up: session.state === "connected" && [...session.topics.values()].every((topic) => topic.state === "connected"),
  offsets: Object.fromEntries([...session.topics].map(([name, topic]) => [name, topic.offset])),
  robots: [...session.topics.get("robots").entities.values()].map((robot) => [robot.robot_id, robot.battery_level]).sort(),
  events: [...session.topics.get("events").entities.values()].map((event) => [event.id, event.description]),
  finals, gaps, outcomes, asked, connects,
})"""


def wait_for_head(page: Any, server: Server) -> dict[str, Any]:
    """Wait until the client has answers to everything and stands where the database does; return its state."""
    heads = json.dumps(
        dict(server.sql("SELECT topic, \"offset\" FROM topic_head WHERE topic IN ('robots', 'events', 'tables')"))
    )
    page.wait_for_function(
        f"""() => outcomes.length === asked && session.state === "connected" &&
        Object.entries({heads}).every(([topic, offset]) => session.topics.get(topic).offset === offset)""",
        timeout=60_000,
    )
    return dict(page.evaluate(STATE))


def test_a_session_survives_kills_under_load_without_a_gap_and_with_one_answer_for_each_question(
    start_server: Callable[..., Server], new_page: Callable[..., Any]
) -> None:
    rng = random.Random(4)
    server = start_server(AUTH__MODE="local", LIMITS__QUERY_REQUESTS="100000", DEVICES__OFFLINE_AFTER_S="3600")
    add_users(server)
    keep_ports(server)
    page = new_page()
    client_page(page, server, "cook")
    page.evaluate(START_CLIENT)
    # Links that never last would be tried ever more rarely.
    page.evaluate("() => { setInterval(session.retry, 300); }")
    load = Load(server, "till")
    for round in range(ROUNDS):
        page.wait_for_function("() => session.state === 'connected'", timeout=60_000)
        page.evaluate("() => { window.asking = setInterval(ask, 40); }")
        server.tell({"msg_type": "Albabot", "robot_id": f"alba-{round % 4}", "status": "IDLE", "battery_level": round})
        thread = threading.Thread(target=load.run_until_cut)
        thread.start()
        page.wait_for_timeout(rng.uniform(200, 900))
        server.kill()
        page.evaluate("() => { ask(); clearInterval(asking); ask(); }")
        thread.join(20)
        server.start()
    state = wait_for_head(page, server)
    assert state["gaps"] == []
    assert state["asked"] >= 4 * ROUNDS and state["connects"] >= ROUNDS + 1
    assert Counter(id for id, _ in state["outcomes"]) == {f"ask-{n}": 1 for n in range(1, state["asked"] + 1)}
    assert {outcome for _, outcome in state["outcomes"]} & {"TIMEOUT", "CLOSED", "INTERNAL"} == set()
    heard = Counter(id for id, _, _ in state["finals"])
    doubled = [(id, seq, connection) for id, seq, connection in state["finals"] if heard[id] > 1]
    assert not doubled, f"of {state['asked']} answers these came twice on the wire (seq, connection): {doubled}"
    stored = server.sql("SELECT request_id, count(*) FROM chat_message WHERE status = 'COMPLETED' GROUP BY request_id")
    assert dict(stored) == {f"ask-{n}": 1 for n in range(1, state["asked"] + 1)}
    robots = server.sql("SELECT robot_id, battery_level FROM robot ORDER BY robot_id")
    assert state["robots"] == [list(robot) for robot in robots]
    events = dict(server.sql("SELECT id, description FROM event ORDER BY id"))
    assert dict(state["events"]).items() <= events.items()
    assert set(list(events)[-20:]) <= set(dict(state["events"]))


def test_a_hidden_page_stays_away_and_catches_up_when_it_is_shown(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page()
    page.add_init_script(
        """Object.defineProperty(document, "hidden", { get: () => window.isHidden ?? false });
        window.show = (shown) => { window.isHidden = !shown; document.dispatchEvent(new Event("visibilitychange")); };"""
    )
    log_in(page, server, "boss")
    wait_until_connected(page)
    keep_ports(server)
    page.evaluate("() => { show(false); window.before = robodyne.session.sessionId; }")
    server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "CHARGING", "world_x": 7, "world_y": 1})
    server.stop()
    server.start()
    server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "IDLE", "world_x": 8, "world_y": 1})
    page.wait_for_timeout(1500)
    state = page.evaluate("() => [robodyne.session.state, robodyne.topics.get('robots').entities.get(1).status]")
    assert state == ["reconnecting", "SERVING"]
    page.evaluate("() => show(true)")
    wait_until_connected(page)
    wait_for_position(page, "alba-1", 8, 1)
    assert page.evaluate("() => robodyne.session.sessionId === before"), "the session did not go on"
    # With a living link: paused, and one catch-up.
    page.evaluate("() => show(false)")
    page.wait_for_timeout(300)
    server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING", "world_x": 9, "world_y": 1})
    page.wait_for_timeout(300)
    assert page.evaluate("() => robodyne.topics.get('robots').entities.get(1).x") == 8
    page.evaluate("() => show(true)")
    wait_for_position(page, "alba-1", 9, 1)


def test_a_token_is_renewed_in_the_living_connection_and_asked_for_again_when_it_is_over(
    server: Server, new_page: Callable[..., Any]
) -> None:
    key = secret.load(str(server.folder / "secret.key"))
    claims: dict[str, Any] = {"issuer": LOCAL_NAME, "audience": LOCAL_NAME, "name": "till", "roles": ["kitchen"], "token": None}
    over, good = (sign(key, now=time.time() - ago, lifetime_s=600, **claims) for ago in (3600, 0))
    page = new_page()
    client_page(page, server)
    page.evaluate(
        """async ([over, good]) => {
          const { connect, follow } = await import("/static/robodyne-client.js");
          const firstOver = () => {
            let asked = 0;
            return async () => (asked++ ? good : over);
          };
          window.seen = { connects: 0, tokens: 0, told: 0, reasons: [] };
          const token = () => ({ accessToken: good, expiresIn: 1 + 3 * ++seen.tokens });
          const onMessage = ({ type }) => (seen.told += type === "token");
          window.living = connect({ token, onMessage, onConnected: () => (seen.connects += 1) });
          window.later = connect({ token: firstOver(), onState: (_, { reason }) => seen.reasons.push(reason) });
          window.topic = follow("robots", { token: firstOver() });
          window.refused = follow("systemlogs", { token: good });
          window.fixed = follow("robots", { token: over });
          window.polite = connect({ ticket: async () => (await living.call("POST", "/api/auth/ticket")).ticket });
        }""",
        [over, good],
    )
    page.wait_for_function("() => seen.told === 1 && [living, later, topic, polite].every((one) => one.state === 'connected')")
    page.wait_for_function("() => refused.state === 'stopped' && fixed.state === 'stopped'")
    assert page.evaluate("() => [refused.detail.reason, fixed.detail.reason]") == ["forbidden", "token_expired"]
    assert page.evaluate("() => [seen.connects, seen.tokens, seen.reasons[0]]") == [1, 2, "token_expired"]
    assert page.evaluate("() => [living.userId, polite.userId, topic.entities.size]") == ["till", "till", 2]


def test_a_person_is_asked_once_and_heard_whatever_breaks_meanwhile(tmp_path: Path, new_page: Callable[..., Any]) -> None:
    with Server(tmp_path, AUTH__MODE="local") as server:
        keep_ports(server)
        for number in (1, 2):
            server.tell({"msg_type": "Albabot", "robot_id": f"alba-{number}", "battery_level": 50 + number})
        ask_server(server, "POST", "/api/users", {"name": "kim", "roles": ["kitchen"], "password": PASSWORD})
        page = new_page("ko-KR")
        log_in(page, server, "kim")
        wait_until_connected(page)
        for answers_while_away in (False, True):
            if page.locator("#copilot").is_hidden():
                page.click("[data-opens='copilot']")
            page.fill("#ask [name=question]", "알바봇 어디 있어?")
            page.keyboard.press("Enter")
            choice = page.locator("#talk .options:not([hidden]) button", has_text="alba-2")
            choice.wait_for()
            server.kill()
            page.wait_for_selector('html:not([data-connection="connected"])')
            if answers_while_away:
                choice.click()
            server.start()
            wait_until_connected(page)
            if not answers_while_away:
                page.wait_for_function("() => robodyne.session.state === 'connected'")
                assert choice.count() == 1
                choice.click()
            page.locator("#talk li.theirs p", has_text="52%").last.wait_for()
            assert choice.count() == 0
            page.reload()
            wait_until_connected(page)


def test_a_page_that_is_loaded_anew_while_a_person_is_asked_waits_for_nobody(
    server: Server, new_page: Callable[..., Any]
) -> None:
    page = new_page()
    log_in(page, server, "cook")
    wait_until_connected(page)
    for question in ("where is the serving robot?", "how many orders are open?"):
        page.click("[data-opens='copilot']")
        page.fill("#ask [name=question]", question)
        page.keyboard.press("Enter")
        if question.startswith("where"):
            page.locator("#talk .options:not([hidden]) button").first.wait_for()
            page.reload()
            wait_until_connected(page)
    page.locator("#talk li.theirs p", has_text="open").last.wait_for(timeout=20_000)


def test_the_app_is_asked_for_what_the_server_does_not_know(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page()
    client_page(page, server, "jiwoo")
    answers = page.evaluate(
        """async () => {
          const { connect } = await import("/static/robodyne-client.js");
          const session = connect({
            onAvailableData: async () => ["sales", { name: "forecast", keywords: ["날씨", "weather"] }],
            onApi: (name, { question }) => ({ about: name, question }),
          });
          const first = await session.request("내일 날씨 어때?");
          const second = await session.request("weather?", { capabilities: [] });
          const again = session.request("x".repeat(5000)).catch((error) => error.code);
          const large = session.request("x".repeat(70000)).catch((error) => error.code);
          const late = session.request("weather?", { timeout: 0 }).catch((error) => error.code);
          const codes = await Promise.all([again, large, late]);
          const open = session.request("weather?").catch((error) => error.code);
          session.close();
          return [first.response, second.response, ...codes, await open, session.state];
        }"""
    )
    assert answers[0] == "forecast: about forecast, question 내일 날씨 어때?"
    assert "do not know" in answers[1]
    assert answers[2:] == ["INVALID_MESSAGE", "TOO_LARGE", "TIMEOUT", "CLOSED", "closed"]


def test_an_app_without_handlers_says_that_it_can_be_asked_nothing(
    start_server: Callable[..., Server], new_page: Callable[..., Any]
) -> None:
    server = start_server(ASSISTANT__ASK_UNDECLARED="true")
    page = new_page()
    client_page(page, server)
    answer = page.evaluate(
        """async () => {
          const { connect } = await import("/static/robodyne-client.js");
          const session = connect({});
          const { response } = await session.request("what is the wifi password", { timeout: 9 });
          session.close();
          return response;
        }"""
    )
    assert "do not know" in answer


def test_a_session_gives_up_after_its_tries_with_topics_and_without(
    start_server: Callable[..., Server], new_page: Callable[..., Any]
) -> None:
    server = start_server()
    page = new_page()
    client_page(page, server)
    page.evaluate(
        """async () => {
          const { connect } = await import("/static/robodyne-client.js");
          window.sessions = [[], ["robots"]].map((topics) => {
            const session = connect({ tries: 4, random: () => -0.98 });
            for (const topic of topics) session.subscribe(topic);
            return session;
          });
        }"""
    )
    page.wait_for_function("() => sessions.every((session) => session.state === 'connected')")
    server.kill()
    page.wait_for_function("() => sessions.every((session) => session.state === 'stopped')")
    assert page.evaluate("() => sessions.map((session) => session.detail.reason)") == ["gave_up", "gave_up"]


def test_topics_are_polled_where_websocket_does_not_get_through(server: Server, new_page: Callable[..., Any]) -> None:
    page = new_page()
    page.add_init_script(
        """window.WebSocket = class extends EventTarget {
          constructor() { super(); setTimeout(() => this.dispatchEvent(new CloseEvent("close", { code: 1006 }))); }
          close() {}
        };"""
    )
    log_in(page, server, "cook")
    page.wait_for_function("() => robodyne.session?.state === 'polling'")
    wait_until_connected(page)
    server.tell({"msg_type": "Albabot", "robot_id": "alba-2", "status": "SERVING", "world_x": 3, "world_y": 3})
    wait_for_position(page, "alba-2", 3, 3)


def test_the_example_of_the_docs_works_as_printed(server: Server, new_page: Callable[..., Any]) -> None:
    text = (Path(__file__).parents[2] / "docs/client-javascript.md").read_text()
    example = text.partition("```html\n")[2].partition("```")[0].replace("http://localhost:8000", server.url("").rstrip("/"))
    page = new_page(bypass_csp=True)  # the example's script is inline
    client_page(page, server, "cook")
    page.set_content(example)
    page.wait_for_selector("#robots li:has-text('alba-1')")
    page.fill("input", "Which robots are online?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer:has-text('robots are online')")
