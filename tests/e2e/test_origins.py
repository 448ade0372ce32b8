"""Pages of other sites (SPEC section 3): a good token of the page's own opens what it opens; place and cookie open nothing."""

import json
from collections.abc import Iterator

import pytest

from tests.e2e.people import add_user, call, cookie_of, ended, log_in, sign, told, unique, until, watch
from tests.e2e.raw import Answer, Wire, ask, head, open_socket, upgrade
from tests.e2e.server import Server

LISTED, FOREIGN = "https://till.example", "https://evil.example"
FOREIGN_PAGES = (FOREIGN, "null", "http://127.0.0.1", "https://till.example:444")
GUEST = "X-Forwarded-For: 198.51.100.7"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of whose address everybody may read robots and send as a device."""
    settings = {
        "SERVER__ALLOWED_ORIGINS": f'["{LISTED}"]',
        "SERVER__ALLOWED_HOSTS": '["kds.example"]',
        "SERVER__TRUSTED_PROXIES": '["127.0.0.0/8"]',
        "AUTH__ANONYMOUS_TOPICS": '["robots"]',
        "AUTH__ANONYMOUS_NETWORKS": '["198.51.100.0/24"]',
        "DEVICES__TRUSTED_NETWORKS": '["127.0.0.0/8", "198.51.100.0/24"]',
    }
    with Server(tmp_path_factory.mktemp("server"), AUTH__MODE="local", **settings) as running:
        yield running
        assert running.is_running and "Traceback" not in running.log(), running.log()


def cors(answer: Answer) -> dict[str, str]:
    """Return what an answer says to browsers about other pages."""
    return {name[15:]: value for name, value in answer.headers.items() if name.startswith("access-control-")}


OWN = [
    ("kds.example:80", "http://kds.example"),
    ("kds.example", "http://kds.example:80"),
    ("kds.example:443", "https://kds.example"),
    ("kds.example", "https://kds.example"),
    ("KDS.example:8000", "http://kds.example:8000"),
    ("[::1]:80", "http://[::1]"),
]


@pytest.mark.parametrize(("host", "origin"), OWN)
def test_a_default_port_is_no_difference(server: Server, host: str, origin: str) -> None:
    lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Origin: {origin}", GUEST]
    lines.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    assert ask(server, head(server, "GET /ws/robots", *lines, host=host)).status == 101
    lines[3] = f"Origin: {origin.replace('example', 'evil').replace('::1', '::2')}"
    assert ask(server, head(server, "GET /ws/robots", *lines, host=host)).status == 403
    lines[3] = f"Origin: {origin.removesuffix(':80').removesuffix(':8000')}:81"
    assert ask(server, head(server, "GET /ws/robots", *lines, host=host)).status == 403


@pytest.mark.parametrize("page", FOREIGN_PAGES)
def test_any_page_gets_what_its_own_token_opens_and_no_more(server: Server, page: str) -> None:
    token, origin = sign(server, unique("kim"), "staff"), f"Origin: {page}"
    for path, lines in ((f"/ws/customers?token={token}", []), ("/ws/customers", [f"Authorization: Bearer {token}"])):
        with open_socket(server, path, origin, *lines) as socket:
            assert socket.message()["snapshot"]
    with watch(server, f"/ws?token={token}", None, origin, GUEST) as session:
        rights = session.message()["rights"]
        assert "read:customers" in rights and not {"look", "send_device_messages"} & set(rights), "those are the place's"
        session.say({"type": "query", "requestId": unique("q"), "message": "robots?"})
        until(session, "response")
    answer = call(server, "GET", "/api/customers", token=token, Origin=page)
    assert answer.status == 200 and cors(answer)["allow-origin"] == "*" and "allow-credentials" not in cors(answer)
    given = told(call(server, "POST", "/api/auth/ticket", token=token, Origin=page))["ticket"]
    with open_socket(server, f"/ws?ticket={given}", origin) as session:
        assert session.message()["userId"].startswith("kim")
    nobody = sign(server, unique("nobody"), "no such role")
    event = {"msg_type": "Event", "type": "INFO"}
    for headers in ({"X_Forwarded_For": "198.51.100.7"}, {}):
        assert call(server, "GET", "/api/robots", token=nobody, Origin=page, **headers).status == 403
        assert call(server, "GET", "/metrics", token=nobody, Origin=page, **headers).status == 403
        assert call(server, "POST", "/api/device-messages", event, token=nobody, Origin=page, **headers).status == 403
    assert call(server, "GET", "/api/robots", token=nobody, X_Forwarded_For="198.51.100.7").status == 200, "the place's"
    assert ended(server, f"/ws/robots?token={nobody}", None, origin, GUEST) == (1008, "forbidden")


@pytest.mark.parametrize("page", FOREIGN_PAGES)
def test_a_page_without_a_good_token_gets_nothing_from_the_place_or_a_cookie(server: Server, page: str) -> None:
    cookie = f"Cookie: robodyne={sign(server, 'boss', 'admin')}"
    for more in ([], [cookie], ["Cookie: robodyne=old"]):
        lines = [GUEST, *more, f"Origin: {page}"]
        assert ask(server, upgrade(server, "/ws/robots", *lines)).status == 403
        for start in ("GET /api/robots", "GET /metrics", "POST /api/device-messages", "GET /livez"):
            answer = ask(server, head(server, start, *lines, "Content-Length: 0"))
            assert answer.status == 403 and not cors(answer) and answer.headers["vary"] == "Origin", (start, answer)
        assert call_head(server, "/api/robots", *lines).status == 403
    # A bad token is none of these: it is refused, and the page may read why.
    assert ended(server, "/ws/robots?token=bad", None, f"Origin: {page}", GUEST) == (4001, "token_invalid")
    assert ended(server, "/ws/robots?ticket=bad", None, f"Origin: {page}", GUEST) == (4001, "token_invalid")
    for token in ("bad", sign(server, "kim", "staff", exp=1)):
        answer = call(server, "GET", "/api/robots", token=token, Origin=page, X_Forwarded_For="198.51.100.7")
        assert answer.status == 401 and cors(answer)["allow-origin"] == "*", answer


def test_a_listed_page_does_what_ours_do(server: Server) -> None:
    user = add_user(server, "staff")
    body = {"user": user.name, "password": user.password}
    answer = call(server, "POST", "/api/auth/login", body, Origin=LISTED)
    assert cors(answer) == {
        "allow-origin": LISTED,
        "allow-credentials": "true",
        "expose-headers": "ETag, Location, Retry-After",
    }
    token = told(answer)["accessToken"]
    given = told(call(server, "POST", "/api/auth/ticket", token=token, Origin=LISTED))["ticket"]
    with open_socket(server, f"/ws/customers?ticket={given}", f"Origin: {LISTED}") as socket:
        assert socket.message()["snapshot"]
    polled = call(server, "GET", "/api/customers", token=token, Origin=LISTED)
    assert polled.status == 200 and cors(polled)["allow-origin"] == LISTED and polled.headers["etag"]
    cookie = cookie_of(call(server, "POST", "/api/auth/login", body | {"cookie": True}, Origin=LISTED))
    assert call(server, "GET", "/api/customers", Origin=LISTED, Cookie=cookie).status == 200
    with open_socket(server, "/ws/customers", f"Origin: {LISTED}", f"Cookie: {cookie}") as socket:
        assert socket.message()["snapshot"]
    place = call(server, "GET", "/api/robots", Origin=LISTED, X_Forwarded_For="198.51.100.7")
    assert place.status == 200 and cors(place)["allow-origin"] == LISTED
    for refused in (
        call(server, "GET", "/api/robots", Origin=LISTED, X_Forwarded_For="203.0.113.9"),
        call(server, "POST", "/api/auth/login", body | {"password": "wrong"}, Origin=LISTED),
        call(server, "GET", "/api/nothing", Origin=LISTED),
        call(server, "DELETE", "/livez", Origin=LISTED),
    ):
        assert refused.status in (401, 404, 405) and cors(refused)["allow-origin"] == LISTED, refused
    assert cors(call(server, "GET", "/api/robots", Origin="HTTPS://Till.example:443"))["allow-credentials"] == "true"


def test_preflights_name_what_pages_may_send(server: Server) -> None:
    for page, origin in ((LISTED, LISTED), (FOREIGN, "*"), ("null", "*")):
        for path in ("/api/messages", "/api/auth/login", "/api/robots", "/api/dead-letters/1"):
            asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,content-type"}
            answer = call(server, "OPTIONS", path, Origin=page, **asked)
            said = cors(answer)
            assert (answer.status, answer.body, said["allow-origin"]) == (204, b"", origin)
            assert ("allow-credentials" in said) == (page == LISTED) and "Origin" in answer.headers["vary"]
            assert {word.strip() for word in said["allow-headers"].split(",")} == {
                *(
                    "authorization",
                    "content-type",
                    "if-match",
                    "if-none-match",
                    "idempotency-key",
                    "x-session-id",
                    "traceparent",
                )
            }
            assert {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} <= {
                word.strip() for word in said["allow-methods"].split(",")
            }
    assert call(server, "OPTIONS", "/api/robots").status == 405
    assert call(server, "OPTIONS", "/api/robots", Origin=FOREIGN).status == 403, "no preflight"
    preflight = head(
        server, "OPTIONS /api/robots", f"Origin: {LISTED}", "Access-Control-Request-Method: GET", host="evil.example"
    )
    assert ask(server, preflight).status == 421


def test_where_nobody_is_checked_a_token_opens_nothing_to_other_sites(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"SERVER__ALLOWED_ORIGINS": f'["{LISTED}"]'}
    with Server(tmp_path_factory.mktemp("open"), **settings) as server:
        token = sign(server, "boss", "admin")
        for page in (FOREIGN, "null"):
            line = f"Origin: {page}"
            assert ask(server, upgrade(server, f"/ws/robots?token={token}", line)).status == 403
            assert ask(server, upgrade(server, "/ws/robots?ticket=x", line)).status == 403
            answer = call(server, "GET", "/api/robots", token=token, Origin=page)
            assert answer.status == 403 and not cors(answer)
            asked = {"Access_Control_Request_Method": "GET"}
            assert not cors(call(server, "OPTIONS", "/api/robots", Origin=page, **asked))
        assert cors(call(server, "GET", "/api/robots", Origin=LISTED))["allow-origin"] == LISTED
        assert call(server, "GET", "/api/robots", Origin=f"http://127.0.0.1:{server.port}").status == 200


def test_a_token_in_an_address_counts_for_a_websocket_only(server: Server) -> None:
    token = sign(server, "boss", "admin")
    for method, path in (("GET", "/api/users"), ("GET", "/api/robots"), ("POST", "/api/auth/ticket"), ("GET", "/livez")):
        for lines in ([], ["Upgrade: websocket", "Connection: Upgrade"]):
            answer = ask(server, head(server, f"{method} {path}?token={token}", *lines, "Content-Length: 0"))
            assert (answer.status, answer.problem["code"]) == (401, "INVALID_CREDENTIALS"), (method, path, answer)
    assert ended(server, "/ws/nothing?token=bad") == (4001, "token_invalid")


def test_an_old_cookie_is_none_and_a_good_one_needs_a_page(server: Server) -> None:
    user = add_user(server, "staff")
    log_in(server, user)
    body = {"user": user.name, "password": user.password}
    for cookie in ("robodyne=old", "robodyne="):
        assert call(server, "POST", "/api/auth/login", body, Cookie=cookie).status == 200
        assert ask(server, upgrade(server, "/ws/robots", GUEST, f"Cookie: {cookie}")).status == 101
    good = f"robodyne={sign(server, 'boss', 'admin')}"
    assert call(server, "POST", "/api/auth/login", body, Cookie=good).status == 403
    assert ask(server, upgrade(server, "/ws/robots", GUEST, f"Cookie: {good}")).status == 403


def test_two_origins_are_none_of_ours(server: Server) -> None:
    own = f"Origin: http://127.0.0.1:{server.port}"
    assert ask(server, upgrade(server, "/ws/robots", own, own, GUEST)).status == 403
    assert ask(server, upgrade(server, "/ws/robots", f"Origin: {LISTED}", f"Origin: {FOREIGN}", GUEST)).status == 403


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/", "/static/robodyne-client.js", "/api/robots", "/api/auth/me", "/metrics"]
)
def test_head_says_what_get_would_and_sends_no_body(server: Server, path: str) -> None:
    token = sign(server, "boss", "admin")
    got = call(server, "GET", path, token=token)
    answer = call_head(server, path, f"Authorization: Bearer {token}")
    assert answer.status == got.status == 200 and answer.body == b""
    if path != "/metrics":
        varies = {"date", "etag"}
        assert {k: v for k, v in answer.headers.items() if k not in varies} == {
            k: v for k, v in got.headers.items() if k not in varies
        }


def call_head(server: Server, path: str, *lines: str) -> Answer:
    """Send HEAD, and check that nothing but a next answer follows its head."""
    with Wire(server.port) as wire:
        wire.send(head(server, f"HEAD {path}", *lines))
        first = wire.take_until(b"\r\n\r\n").decode().split("\r\n")
        wire.send(head(server, "GET /livez"))
        assert wire.answer().body == b"ok\n", "a body would stand before it"
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in first[1:] if line)}
    return Answer(int(first[0].split()[1]), headers, b"")


def test_head_of_what_is_refused_or_is_no_page(server: Server) -> None:
    assert call_head(server, "/api/users").status == 401
    assert call_head(server, "/api/nothing").status == 404
    assert call_head(server, "/api/device-messages").status == 405
    assert call_head(server, "/ws/robots").status == 426
    assert ask(server, upgrade(server, "/ws/robots", GUEST, method="HEAD") + head(server, "GET /livez")).status == 426


def test_head_takes_no_token_from_a_screen_that_was_approved(server: Server) -> None:
    screen = told(call(server, "POST", "/api/pairings", {}))
    label, boss = unique("wall"), sign(server, "boss", "admin")
    approved = call(server, "POST", "/api/pairings/approve", {"code": screen["code"], "label": label}, token=boss)
    assert approved.status == 201
    path = f"/api/pairings/{screen['pairing']}"
    assert "set-cookie" not in call_head(server, f"{path}?cookie=1").headers
    assert json.loads(call(server, "GET", path).body)["token"]
