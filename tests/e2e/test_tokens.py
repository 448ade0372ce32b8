"""Tokens that are not good, that end, that are taken back (PITFALLS section 4, A1 to A5 and W9; SPEC section 8)."""

import asyncio
import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from robodyne_rt.ports import Clock
from robodyne_rt.web.jwks import KeySet
from tests.e2e.people import (
    LEEWAY_S,
    LOCAL,
    add_user,
    call,
    claims,
    control,
    do,
    encoded,
    ended,
    give_token,
    handmade,
    is_alive,
    key_of,
    sign,
    stamp,
    told,
    unique,
    until,
    watch,
)
from tests.e2e.raw import Answer, Wire, head, stays_well
from tests.e2e.server import Server, command

AUDIENCE = "robodyne-api"
BAD = {"kid": "../../x", "sql": "' OR 1=1; DROP TABLE token; --", "long": "k" * 1024, "list": ["a"], "number": 7}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("local"), AUTH__MODE="local") as running:
        yield running
        assert running.is_running, running.log()


@pytest.fixture(autouse=True)
def well(server: Server) -> Iterator[None]:
    with stays_well(server):
        yield


INVALID = {"type": "about:blank", "title": "Invalid credentials", "status": 401, "code": "INVALID_CREDENTIALS"}


def assert_unauthorized(answer: Answer, code: str) -> None:
    assert answer.status == 401, answer
    assert answer.headers["www-authenticate"].startswith("Bearer"), answer
    assert answer.problem["code"] == code, answer


def assert_refused(server: Server, token: str, reason: str = "token_invalid") -> None:
    """In the header, in the query, on HTTP and on WebSockets: the same refusal, which does not tell what was wrong."""
    code = {"token_invalid": "INVALID_CREDENTIALS", "token_expired": "TOKEN_EXPIRED"}[reason]
    answer = call(server, "GET", "/api/robots", token=token)
    assert_unauthorized(answer, code)
    if reason == "token_invalid":
        assert answer.problem == INVALID | {"detail": "the token is not valid"}
    in_query = quote(token, safe="")
    assert_unauthorized(call(server, "GET", f"/api/robots?token={in_query}"), code)
    assert ended(server, "/ws/robots", token) == (4001, reason)
    assert ended(server, f"/ws?token={in_query}") == (4001, reason)


# -- A1: none, and nonsense ------------------------------------------------------------------------------------------


def test_without_a_token_the_door_is_closed_and_says_so(server: Server) -> None:
    for path in ("/api/robots", "/api/users", "/api/sessions", "/api/messages"):
        answer = call(server, "GET", path)
        assert_unauthorized(answer, "AUTHENTICATION_REQUIRED")
    for path in ("/ws/robots", "/ws/customers", "/ws", "/ws/copilot"):
        assert ended(server, path) == (1008, "token_missing")


def test_an_unknown_topic_is_unknown_and_private_tables_are_no_topics(server: Server) -> None:
    token = sign(server, "boss", "admin")
    for topic in ("nonsense", "users", "tokens", "devices", "user_", "session"):
        assert ended(server, f"/ws/{topic}", token) == (1003, "unknown_topic")
        with watch(server, "/ws", token) as session:
            session.say({"type": "subscribe", "topic": topic})
            assert until(session, "error")["data"]["code"] == "NOT_FOUND"


MALFORMED = {
    "a word": "nonsense",
    "dots": "..",
    "too few parts": "a.b",
    "too many parts": "a.b.c.d.e",
    "no base64": "!!!.???.###",
    "no JSON": f"{encoded(b'no json')}.{encoded(b'none')}.x",
    "a list": f"{encoded([])}.{encoded([])}.{encoded(b'x')}",
    "a number": f"{encoded(1)}.{encoded(2)}.{encoded(b'x')}",
    "null": f"{encoded(None)}.{encoded(None)}.{encoded(b'x')}",
    "deep": f"{encoded({'alg': 'HS256'})}.{encoded(b'[' * 3000)}.x",
    "deep objects": f"{encoded({'alg': 'HS256'})}." + encoded(b'{"iss":' * 500 + b"1" + b"}" * 500) + ".x",
    "bad UTF-8": f"{encoded(bytes([255, 254]))}.{encoded(bytes([255]))}.x",
    "spaces inside": "a b.c d.e f",
    "8 KiB and more in the query": "a" * 5000 + "." + "b" * 2000 + "." + "c" * 900,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_token_is_refused(server: Server, name: str) -> None:
    token = MALFORMED[name]
    assert_unauthorized(call(server, "GET", f"/api/robots?token={quote(token, safe='')}"), "INVALID_CREDENTIALS")
    assert ended(server, f"/ws/robots?token={quote(token, safe='')}") == (4001, "token_invalid")
    if len(token) < 8000:
        assert_unauthorized(call(server, "GET", "/api/robots", token=token), "INVALID_CREDENTIALS")


@pytest.mark.parametrize(
    "header", ["Basic YWRtaW46YWRtaW4=", "Bearer", "Bearer ", "bearer\t", "Token abc", ",", "Bearer a, Bearer b"]
)
def test_another_scheme_is_refused(server: Server, header: str) -> None:
    assert_unauthorized(call(server, "GET", "/api/robots", Authorization=header), "INVALID_CREDENTIALS")


def test_a_token_of_a_megabyte_is_refused_before_it_is_read(server: Server) -> None:
    for request in (
        head(server, "GET /api/robots", "Authorization: Bearer " + "a" * (1 << 20)),
        head(server, "GET /api/robots?token=" + "a" * (1 << 20)),
        head(server, "GET /ws/robots?token=" + "a" * (1 << 20), "Upgrade: websocket", "Connection: Upgrade"),
    ):
        with Wire(server.port) as wire:
            wire.send(request)
            assert wire.answer().status in (400, 414, 431)


def test_two_tokens_in_one_request_are_refused_whatever_they_are_worth(server: Server) -> None:
    good = sign(server, "anybody", "admin")
    assert call(server, "GET", f"/api/robots?token={good}", token=good).status == 400
    assert call(server, "GET", f"/api/robots?token={good}&token={good}").status == 400
    assert call(server, "GET", f"/api/robots?token={good}&ticket=x").status == 400


# -- A2 and A3: wrong algorithms, wrong claims ------------------------------------------------------------------------


def now(offset_s: float = 0) -> int:
    return int(time.time() + offset_s)


FORGED: dict[str, Callable[[bytes], str]] = {
    "alg none": lambda key: f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(claims('x', 'admin'))}.",
    "alg NoNe": lambda key: f"{encoded({'alg': 'NoNe', 'typ': 'JWT'})}.{encoded(claims('x', 'admin'))}.",
    "alg none with a signature": lambda key: handmade({"alg": "none"}, claims("x", "admin"), key),
    "no alg": lambda key: handmade({"typ": "JWT"}, claims("x", "admin"), key),
    "alg a list": lambda key: handmade({"alg": ["HS256"]}, claims("x", "admin"), key),
    "alg null": lambda key: handmade({"alg": None}, claims("x", "admin"), key),
    "HS512 with the right key": lambda key: jwt.encode(claims("x", "admin"), key, algorithm="HS512"),
    "HS384 with the right key": lambda key: handmade({"alg": "HS384"}, claims("x", "admin"), key, "sha384"),
    "another key": lambda key: jwt.encode(claims("x", "admin"), key[::-1], algorithm="HS256"),
    "an empty key": lambda key: handmade({"alg": "HS256"}, claims("x", "admin"), b""),
    "the key with its newline": lambda key: handmade({"alg": "HS256"}, claims("x", "admin"), key + b"\n"),
    "no signature": lambda key: jwt.encode(claims("x", "admin"), key, algorithm="HS256").rpartition(".")[0] + ".",
    "half a signature": lambda key: jwt.encode(claims("x", "admin"), key, algorithm="HS256")[:-20],
    "an unknown critical header": lambda key: handmade({"alg": "HS256", "crit": ["x"], "x": 1}, claims("x", "admin"), key),
    "an empty crit": lambda key: handmade({"alg": "HS256", "crit": []}, claims("x", "admin"), key),
    "a detached payload": lambda key: handmade({"alg": "HS256", "b64": False, "crit": ["b64"]}, claims("x", "admin"), key),
    "b64 without crit": lambda key: handmade({"alg": "HS256", "b64": False}, claims("x", "admin"), key),
    "its own key in the header": lambda key: handmade(
        {"alg": "HS256", "jwk": {"kty": "oct", "k": encoded(b"mine")}}, claims("x", "admin"), b"mine"
    ),
    **{f"no {name}": lambda key, name=name: signed(key, **{name: None}) for name in ("exp", "iat", "iss", "aud", "sub")},  # type: ignore[misc]
    "nbf in the future": lambda key: signed(key, nbf=now(LEEWAY_S + 60)),
    "nbf no number": lambda key: signed(key, nbf="tomorrow"),
    "iat in the future": lambda key: signed(key, iat=now(LEEWAY_S + 60)),
    "iat no number": lambda key: signed(key, iat="now"),
    "exp no number": lambda key: signed(key, exp="never"),
    "exp digits in quotes": lambda key: signed(key, exp=str(now(600))),
    "exp an object": lambda key: signed(key, exp={}),
    "exp NaN": lambda key: signed(key, exp=float("nan")),
    "exp infinite": lambda key: signed(key, exp=float("inf")),
    "exp of 400 digits": lambda key: signed(key, exp=10**400),
    "exp in the year 300000": lambda key: signed(key, exp=9_400_000_000_000),
    "13 hours long": lambda key: signed(key, exp=now(13 * 3600)),
    "begun long ago": lambda key: signed(key, iat=now(-13 * 3600)),
    "iat negative": lambda key: signed(key, iat=-(10**15)),
    "iss a prefix": lambda key: signed(key, iss=LOCAL[:-1]),
    "iss longer": lambda key: signed(key, iss=LOCAL + "x"),
    "iss with a slash": lambda key: signed(key, iss=LOCAL + "/"),
    "iss with a newline": lambda key: signed(key, iss=LOCAL + "\n"),
    "iss in capitals": lambda key: signed(key, iss=LOCAL.upper()),
    "iss a list": lambda key: signed(key, iss=[LOCAL]),
    "iss empty": lambda key: signed(key, iss=""),
    "aud another": lambda key: signed(key, aud="account"),
    "aud a prefix": lambda key: signed(key, aud=LOCAL[:-1]),
    "aud a list without us": lambda key: signed(key, aud=["account", LOCAL + "x"]),
    "aud an empty list": lambda key: signed(key, aud=[]),
    "aud an object": lambda key: signed(key, aud={LOCAL: 1}),
    "aud a list of lists": lambda key: signed(key, aud=[[LOCAL]]),
    "sub a number": lambda key: signed(key, sub=7),
    "sub empty": lambda key: signed(key, sub=""),
    "sub a list": lambda key: signed(key, sub=["x"]),
    "sub with control characters": lambda key: signed(key, sub="x\x1b[31m\n"),
    "sub of 10,000 characters": lambda key: signed(key, sub="x" * 5000),
    "a row that is not there": lambda key: signed(key, sid="1"),
    "a row that is no number": lambda key: signed(key, sid="1; DROP TABLE token"),
    "a row in other digits": lambda key: signed(key, sid="²"),
    "a row that is a number": lambda key: signed(key, sid=1),
    "a row of 100 digits": lambda key: signed(key, sid="1" * 100),
    "expired and forged": lambda key: signed(key[::-1], exp=now(-600), iat=now(-1200)),
}


def signed(key: bytes, **changed: Any) -> str:
    return handmade({"alg": "HS256", "typ": "JWT"}, claims("x", "admin", **changed), key)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_refused_with_the_same_word(server: Server, name: str) -> None:
    assert_refused(server, FORGED[name](key_of(server)))


def test_good_tokens_are_taken_so_that_refusals_mean_something(server: Server) -> None:
    key = key_of(server)
    for token in (
        signed(key),
        signed(key, aud=[LOCAL, "account"]),
        signed(key, nbf=now(LEEWAY_S - 15)),
        signed(key, iat=now(LEEWAY_S - 15)),
        signed(key, exp=now(11 * 3600)),
    ):
        assert call(server, "GET", "/api/users", token=token).status == 200
        assert_unauthorized(call(server, "GET", f"/api/users?token={token}"), "INVALID_CREDENTIALS")
        with watch(server, f"/ws/robots?token={token}") as socket:
            assert socket.message()["snapshot"]


def test_an_expired_token_says_that_it_is_expired(server: Server) -> None:
    assert_refused(server, sign(server, "x", "admin", iat=now(-1200), exp=now(-LEEWAY_S - 5)), "token_expired")


def test_a_token_with_a_row_may_live_long_but_not_longer_than_its_row(server: Server) -> None:
    token, row = give_token(server, unique("till"), "staff", days=90)
    assert call(server, "GET", "/api/robots", token=token).status == 200
    server.sql("UPDATE token SET expires_at = ? WHERE id = ?", stamp(-1), row)
    wait(lambda: call(server, "GET", "/api/robots", token=token).status == 401)
    assert_refused(server, token, "token_expired")


def test_a_row_is_good_for_its_own_user_only(server: Server) -> None:
    _, row = give_token(server, unique("till"), "admin")
    assert_refused(server, sign(server, "somebody-else", "admin", sid=str(row)))


def test_roles_that_do_not_exist_allow_nothing(server: Server) -> None:
    for roles in (["root"], ["*"], ["ADMIN"], [["admin"]], [{"admin": 1}], [None], "admin", {"admin": True}, 7):
        token = sign(server, "x", roles=roles)
        answer = call(server, "GET", "/api/users", token=token)
        assert answer.status in (401, 403), (roles, answer)
        assert call(server, "GET", "/api/robots", token=token).status in (401, 403)


def wait(fact: Callable[[], bool], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- an issuer --------------------------------------------------------------------------------------------------------


class Issuer:
    """Something like Keycloak on a free port of this machine; `mode` says how it behaves."""

    def __init__(self) -> None:
        issuer = self
        self.mode = "good"
        self.fetches = 0
        self.keys: dict[str, Any] = {}
        self.more: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetches += 1
                with contextlib.suppress(ConnectionError):
                    issuer.answer(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.name = f"{self.url}/realms/robodyne"
        self.released = threading.Event()
        threading.Thread(target=self.http.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"keys": [jwk_of(kid, key) for kid, key in self.keys.items()] + self.more}).encode()
        match self.mode:
            case "slow":
                self.released.wait(20)
            case "redirect" if handler.path != "/elsewhere":
                handler.send_response(302)
                handler.send_header("Location", f"{self.url}/elsewhere")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            case "big":
                body = body[:-1] + b" " * (10 << 20) + b"}"
            case "text":
                body = b"<html>we will be back soon</html>"
            case "error":
                handler.send_error(503)
                return
            case "empty":
                body = b'{"keys":[]}'
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def stop(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()

    def token(self, kid: str, key: Any, algorithm: str = "RS256", header: Any = None, **changed: Any) -> str:
        said = {
            "iss": self.name,
            "aud": [AUDIENCE, "account"],
            "sub": "f:1b5d:7",
            "typ": "Bearer",
            "azp": "robodyne-web",
            "preferred_username": "kim",
            "iat": now(),
            "exp": now(300),
            "realm_access": {"roles": ["kitchen", "offline_access", "uma_authorization"]},
            **changed,
        }
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, key, algorithm=algorithm, headers={"kid": kid} | (header or {}))


def jwk_of(kid: str, key: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    name = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    jwk: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    return jwk | {"kid": kid, "use": "sig", "alg": name}


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def issuer(rsa_key: Any, ec_key: Any) -> Iterator[Issuer]:
    made = Issuer()
    made.keys = {"rsa-1": rsa_key, "ec-1": ec_key}
    yield made
    made.stop()


@pytest.fixture(scope="module")
def shared_issuer(rsa_key: Any, ec_key: Any) -> Iterator[Issuer]:
    made = Issuer()
    made.keys = {"rsa-1": rsa_key, "ec-1": ec_key}
    yield made
    made.stop()


def settings_of(issuer: Issuer) -> dict[str, str]:
    return {
        "AUTH__MODE": "oidc",
        "AUTH__ISSUER": issuer.name,
        "AUTH__AUDIENCE": AUDIENCE,
        "AUTH__JWKS_URL": f"{issuer.url}/certs",
    }


@pytest.fixture(scope="module")
def oidc(tmp_path_factory: pytest.TempPathFactory, shared_issuer: Issuer) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("oidc"), **settings_of(shared_issuer)) as running:
        yield running
        assert running.is_running, running.log()
        assert "Traceback" not in running.log()


def test_tokens_of_the_issuer_are_taken_with_their_roles(
    oidc: Server, shared_issuer: Issuer, rsa_key: Any, ec_key: Any
) -> None:
    for token in (
        shared_issuer.token("rsa-1", rsa_key),
        shared_issuer.token("ec-1", ec_key, "ES256"),
        shared_issuer.token("rsa-1", rsa_key, aud=AUDIENCE),
        shared_issuer.token("rsa-1", rsa_key, realm_access=None, resource_access={AUDIENCE: {"roles": ["kitchen"]}}),
    ):
        me = told(call(oidc, "GET", "/api/auth/me", token=token))
        assert (me["user"], me["roles"]) == ("kim", ["kitchen"])
        assert call(oidc, "GET", "/api/orders", token=token).status == 200
        assert call(oidc, "GET", "/api/customers", token=token).status == 403
        assert ended(oidc, "/ws/customers", token) == (1008, "forbidden")
    assert shared_issuer.fetches == 1


def test_roles_of_other_clients_count_for_nothing(oidc: Server, shared_issuer: Issuer, rsa_key: Any) -> None:
    token = shared_issuer.token("rsa-1", rsa_key, realm_access=None, resource_access={"account": {"roles": ["admin"]}})
    assert call(oidc, "GET", "/api/orders", token=token).status == 403
    for strange in ({"roles": "admin"}, {"roles": [["admin"]]}, ["admin"], "admin", {"roles": {"admin": 1}}):
        token = shared_issuer.token("rsa-1", rsa_key, realm_access=strange, resource_access=strange)
        assert call(oidc, "GET", "/api/users", token=token).status == 403, strange


def test_an_issuer_s_user_is_not_the_user_of_that_name_here(oidc: Server, shared_issuer: Issuer, rsa_key: Any) -> None:
    """Names are the issuer's to give, and often its users' own to choose: they open nobody's letters here."""
    boss = add_user(oidc, "admin")
    mine, _ = give_token(oidc, boss.name)
    call(oidc, "POST", "/api/messages", {"recipient": boss.name, "message": "letter to the boss"}, token=mine)
    call(oidc, "POST", "/api/messages", {"recipient": "role:admin", "message": "letter to the boss"}, token=mine)
    with watch(oidc, "/ws", mine) as session:
        session.say({"type": "query", "requestId": unique("q"), "message": "letter to the boss about robots"})
        until(session, "response")
    for name in (boss.name, "role:admin"):
        token = shared_issuer.token("rsa-1", rsa_key, preferred_username=name)
        for path in ("/api/messages", "/api/messages?unread=1", "/api/chat"):
            assert b"letter to the boss" not in call(oidc, "GET", path, token=token).body, (name, path)


def test_an_issuer_s_user_is_issuer_and_subject_whatever_the_name(oidc: Server, shared_issuer: Issuer, rsa_key: Any) -> None:
    name, subject = unique("lee"), unique("subject")

    def token(**changed: Any) -> str:
        return shared_issuer.token("rsa-1", rsa_key, **{"sub": subject, "preferred_username": name} | changed)

    with watch(oidc, "/ws", token()) as session:
        greeting = session.message()
        assert (greeting["userId"], greeting["userName"]) == (f"oidc:{shared_issuer.name}#{subject}", name)
        session.say({"type": "query", "requestId": unique("q"), "message": "robots?", "userId": name})
        until(session, "response")
        add_user(oidc, "staff", name=name)
        assert is_alive(session, "session")
    resumed = f"/ws?session={greeting['sessionToken']}"
    with watch(oidc, resumed, token(preferred_username=unique("married"))) as session:
        assert session.message()["resumed"], "the same one under another name"
    with watch(oidc, resumed, token(sub=unique("subject"))) as session:
        assert not session.message()["resumed"], "another one of the same name"
    asked = call(oidc, "GET", "/api/chat", token=token(preferred_username=name.upper()))
    assert [item["question"] for item in told(asked)["messages"]] == ["robots?"]
    assert told(call(oidc, "GET", "/api/chat", token=token(sub=unique("subject"))))["messages"] == []


def test_what_an_issuer_says_of_its_users_is_kept(oidc: Server, shared_issuer: Issuer, rsa_key: Any) -> None:
    said: dict[str, Any] = {
        "sub": unique("subject"),
        "preferred_username": unique("han"),
        "name": "한지민",
        "email": "han@example.com",
        "organization": {"robodyne": {"id": "7"}},
    }
    facts = {"userName": said["preferred_username"], "fullName": "한지민", "email": "han@example.com", "company": "robodyne"}
    token = shared_issuer.token("rsa-1", rsa_key, **said)
    id = f"oidc:{shared_issuer.name}#{said['sub']}"
    me = told(call(oidc, "GET", "/api/auth/me", token=token))
    assert me.items() >= (facts | {"user": said["preferred_username"], "userId": id}).items()
    with watch(oidc, "/ws", token) as session:
        assert session.message().items() >= (facts | {"userId": id}).items()
        (present,) = [item for item in do(oidc, "GET", "/api/sessions")["sessions"] if item["userId"] == id]
        assert present.items() >= facts.items()
    (row,) = [user for user in do(oidc, "GET", "/api/users")["users"] if user["name"] == id]
    assert (row["username"], row["full_name"], row["email"], row["company"]) == tuple(facts.values())
    changed = shared_issuer.token("rsa-1", rsa_key, **said | {"email": None, "company": "Another", "name": "x" * 300})
    with watch(oidc, "/ws", changed) as session:
        greeting = session.message()
        assert "email" not in greeting and "fullName" not in greeting and greeting["company"] == "Another"
    nobody = unique("subject")
    assert (
        call(oidc, "GET", "/api/auth/me", token=shared_issuer.token("rsa-1", rsa_key, sub=nobody, realm_access=None)).status
        == 200
    )
    assert not any(nobody in user["name"] for user in do(oidc, "GET", "/api/users")["users"]), "who may nothing is not kept"


def test_a_message_is_for_an_id_or_for_the_one_who_is_called_so(oidc: Server, shared_issuer: Issuer, rsa_key: Any) -> None:
    name = unique("park")

    def token(subject: str, username: str = name) -> str:
        return shared_issuer.token("rsa-1", rsa_key, sub=subject, preferred_username=username)

    def send(recipient: str, text: str) -> Answer:
        return call(oidc, "POST", "/api/messages", {"recipient": recipient, "message": text}, token=sender)

    def inbox(subject: str) -> list[str]:
        messages = told(call(oidc, "GET", "/api/messages?unread=1", token=token(subject)))["messages"]
        return [item["message"] for item in messages if item["recipient"] != "role:kitchen"]

    first, second = unique("subject"), unique("subject")
    sender = token(unique("subject"), unique("boss"))
    me = told(call(oidc, "GET", "/api/auth/me", token=sender))
    id = told(call(oidc, "GET", "/api/auth/me", token=token(first)))["userId"]
    sent = told(send(name, "one"))
    assert (sent["recipient"], sent["recipientKnown"]) == (id, True)
    (message,) = told(call(oidc, "GET", "/api/messages?unread=1", token=token(first)))["messages"]
    assert (message["sender"], message["senderName"]) == (me["userId"], me["user"])
    other = told(call(oidc, "GET", "/api/auth/me", token=token(second)))["userId"]
    refused = send(name, "two")
    assert refused.status == 409 and sorted(refused.problem["ids"]) == sorted([id, other])
    assert told(send(other, "three"))["recipient"] == other
    add_user(oidc, "staff", name=name)
    assert told(send(name, "four"))["recipient"] == name, "somebody here is meant first"
    assert told(send(unique("nobody"), "five"))["recipientKnown"] is False
    assert (inbox(first), inbox(second)) == (["one"], ["three"])


def test_an_issuer_s_user_is_kept_out_by_id_and_by_a_disabled_name(oidc: Server, shared_issuer: Issuer, rsa_key: Any) -> None:
    name, subject = unique("choi"), unique("subject")
    token = shared_issuer.token("rsa-1", rsa_key, sub=subject, preferred_username=name)
    id = f"oidc:{shared_issuer.name}#{subject}"
    with watch(oidc, "/ws", token) as session:
        assert session.message()["userId"] == id
        assert command(oidc.folder, "user", "disable", id).returncode == 0
        assert session.close_frame() == (4001, "token_invalid")
    assert call(oidc, "GET", "/api/orders", token=token).status == 401
    assert command(oidc.folder, "user", "enable", name).returncode == 0, "the one who is called so"
    assert call(oidc, "GET", "/api/orders", token=token).status == 200
    for change in ({"roles": ["admin"]}, {"password": "long enough"}):
        assert control(oidc, "PATCH", f"/api/users/{quote(id, safe='')}", change)[0] == 422
    assert control(oidc, "POST", "/api/users", {"name": id, "roles": ["staff"]})[0] == 422
    add_user(oidc, "staff", name=name)
    do(oidc, "PATCH", f"/api/users/{name}", {"disabled": True})
    assert call(oidc, "GET", "/api/orders", token=token).status == 401, "who bears a disabled name"
    never_came = unique("subject")
    assert command(oidc.folder, "user", "disable", f"oidc:{shared_issuer.name}#{never_came}").returncode == 0
    assert_refused(oidc, shared_issuer.token("rsa-1", rsa_key, sub=never_came, preferred_username=unique("x")))
    assert command(oidc.folder, "user", "disable", unique("nobody")).returncode == 1
    listed = command(oidc.folder, "user", "list")
    assert listed.returncode == 0 and id in listed.stdout and name in listed.stdout, listed


def test_an_issuer_s_words_are_mapped_and_only_those(start_server: Callable[..., Server], issuer: Issuer, rsa_key: Any) -> None:
    role_map = {"platform_admin": "admin", "Küche": "kitchen", "courier-app": "courier"}
    server = start_server(
        **settings_of(issuer),
        AUTH__ROLE_MAP=json.dumps(role_map),
        RIGHTS__COURIER='["read:tables", "message"]',
        RIGHTS__KITCHEN='["read:robots"]',
    )

    def me(*words: Any, claim: str = "realm_access") -> Any:
        said: dict[str, Any] = {"realm_access": None} | {
            claim: {"roles": list(words)} if claim == "realm_access" else {AUDIENCE: {"roles": words}}
        }
        return told(call(server, "GET", "/api/auth/me", token=issuer.token("rsa-1", rsa_key, **said)))

    assert me("platform_admin")["roles"] == me("platform_admin", claim="resource_access")["roles"] == ["admin"]
    assert me("admin", "kitchen", "courier")["roles"] == [], "an issuer's own words are nobody's here"
    assert me("Küche", "platform_admin", "Küche", 5, ["x"], None)["roles"] == ["admin", "kitchen"]
    courier = me("courier-app")
    assert (courier["roles"], courier["rights"]) == (["courier"], ["look", "message", "read:tables", "send_device_messages"])
    assert "read:orders" not in me("Küche")["rights"], "what is written out stands instead of the default"
    token = issuer.token("rsa-1", rsa_key, realm_access={"roles": ["courier-app"]})
    assert call(server, "POST", "/api/messages", {"recipient": "role:courier", "message": "x"}, token=token).status == 201
    assert call(server, "POST", "/api/messages", {"recipient": "role:nobody", "message": "x"}, token=token).status == 404
    rider = add_user(server, "courier")
    assert [user["roles"] for user in do(server, "GET", "/api/users")["users"] if user["name"] == rider.name] == [["courier"]]
    own = {"ROBODYNE_RT__RIGHTS__COURIER": '["read:tables"]'}
    assert command(server.folder, "user", "roles", rider.name, "--role", "courier", **own).returncode == 0
    refused = command(server.folder, "user", "roles", rider.name, "--role", "courir", **own)
    assert refused.returncode == 2 and "no role 'courir'; known: admin" in refused.stderr
    program, _ = give_token(server, unique("printer"), "courier")
    assert call(server, "GET", "/api/tables", token=program).status == 200
    assert control(server, "POST", "/api/users", {"name": "x", "roles": ["nobody"]})[0] == 422


def public(key: Any, encoding: Encoding, form: PublicFormat) -> bytes:
    data: bytes = key.public_key().public_bytes(encoding, form)
    return data


OF_ISSUER: dict[str, Callable[[Issuer, Any, Any, Any], str]] = {
    "HS256 with the public key as PEM": lambda i, r, e, m: handmade(
        {"alg": "HS256", "kid": "rsa-1"}, m, public(r, Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ),
    "HS256 with the public key as PKCS 1 PEM": lambda i, r, e, m: handmade(
        {"alg": "HS256", "kid": "rsa-1"}, m, public(r, Encoding.PEM, PublicFormat.PKCS1)
    ),
    "HS256 with the public key as DER": lambda i, r, e, m: handmade(
        {"alg": "HS256", "kid": "rsa-1"}, m, public(r, Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ),
    "HS256 with the public key as JWK": lambda i, r, e, m: handmade(
        {"alg": "HS256", "kid": "rsa-1"}, m, json.dumps(jwk_of("rsa-1", r)).encode()
    ),
    "HS256 with the modulus": lambda i, r, e, m: handmade(
        {"alg": "HS256", "kid": "rsa-1"}, m, base64.urlsafe_b64decode(jwk_of("rsa-1", r)["n"] + "==")
    ),
    "HS256 with an oct key of the set": lambda i, r, e, m: handmade({"alg": "HS256", "kid": "oct-1"}, m, b"k" * 32),
    "alg none": lambda i, r, e, m: f"{encoded({'alg': 'none', 'kid': 'rsa-1'})}.{encoded(m)}.",
    "RS512": lambda i, r, e, m: jwt.encode(m, r, algorithm="RS512", headers={"kid": "rsa-1"}),
    "PS256": lambda i, r, e, m: jwt.encode(m, r, algorithm="PS256", headers={"kid": "rsa-1"}),
    "RS256 under the kid of the EC key": lambda i, r, e, m: i.token("ec-1", r),
    "ES256 under the kid of the RSA key": lambda i, r, e, m: i.token("rsa-1", e, "ES256"),
    "another RSA key": lambda i, r, e, m: i.token("rsa-1", rsa.generate_private_key(65537, 2048)),
    "no kid, of two keys": lambda i, r, e, m: jwt.encode(m, r, algorithm="RS256"),
    "crit": lambda i, r, e, m: i.token("rsa-1", r, header={"crit": ["x"], "x": 1}),
    "its own JWK": lambda i, r, e, m: i.token("mine", r, header={"jwk": jwk_of("mine", r), "jku": i.url + "/certs"}),
    "an ID token": lambda i, r, e, m: i.token("rsa-1", r, typ="ID"),
    "a refresh token": lambda i, r, e, m: i.token("rsa-1", r, typ="Refresh"),
    "an ID token by its header": lambda i, r, e, m: i.token("rsa-1", r, header={"typ": "logout+jwt"}),
    "iss a prefix": lambda i, r, e, m: i.token("rsa-1", r, iss=i.name[:-1]),
    "iss with a slash": lambda i, r, e, m: i.token("rsa-1", r, iss=i.name + "/"),
    "iss a list": lambda i, r, e, m: handmade_with(r, m | {"iss": [i.name]}),
    "aud account": lambda i, r, e, m: i.token("rsa-1", r, aud="account"),
    "aud none": lambda i, r, e, m: i.token("rsa-1", r, aud=None),
    "aud ours": lambda i, r, e, m: i.token("rsa-1", r, aud=LOCAL),
    "aud a list without us": lambda i, r, e, m: i.token("rsa-1", r, aud=["account", "broker"]),
    "no sub": lambda i, r, e, m: i.token("rsa-1", r, sub=None),
    "no exp": lambda i, r, e, m: i.token("rsa-1", r, exp=None),
    "no iat": lambda i, r, e, m: i.token("rsa-1", r, iat=None),
    "a day long": lambda i, r, e, m: i.token("rsa-1", r, exp=now(86400)),
    "nbf in the future": lambda i, r, e, m: i.token("rsa-1", r, nbf=now(LEEWAY_S + 60)),
    "a row of ours": lambda i, r, e, m: handmade_with(r, m | {"iss": LOCAL, "sid": "1"}),
    "a name with control characters": lambda i, r, e, m: i.token("rsa-1", r, preferred_username="kim\x1b[31m\nroot"),
    **{
        f"kid {name}": lambda i, r, e, m, kid=kid: raw_with(r, {"alg": "RS256", "kid": kid}, m)  # type: ignore[misc]
        for name, kid in BAD.items()
    },
}


def handmade_with(key: rsa.RSAPrivateKey, payload: Any) -> str:
    return raw_with(key, {"alg": "RS256", "kid": "rsa-1"}, payload)


def raw_with(key: rsa.RSAPrivateKey, header: Any, payload: Any) -> str:
    text = f"{encoded(header)}.{encoded(payload)}"
    signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(text.encode(), key)
    return f"{text}.{encoded(signature)}"


@pytest.mark.parametrize("name", OF_ISSUER)
def test_a_forged_token_of_the_issuer_is_refused(
    oidc: Server, shared_issuer: Issuer, rsa_key: Any, ec_key: Any, name: str
) -> None:
    said = jwt.decode(shared_issuer.token("rsa-1", rsa_key), options={"verify_signature": False})
    said["realm_access"] = {"roles": ["admin"]}
    assert_refused(oidc, OF_ISSUER[name](shared_issuer, rsa_key, ec_key, said))


def test_an_expired_token_of_the_issuer_says_so(oidc: Server, shared_issuer: Issuer, rsa_key: Any) -> None:
    token = shared_issuer.token("rsa-1", rsa_key, iat=now(-1200), exp=now(-LEEWAY_S - 5))
    assert_refused(oidc, token, "token_expired")


def test_tokens_that_the_issuer_gave_to_other_apps_count_for_nothing_where_ours_are_named(
    start_server: Callable[..., Server], issuer: Issuer, rsa_key: Any
) -> None:
    server = start_server(**settings_of(issuer), AUTH__CLIENTS='["robodyne-web","till"]')
    ours: list[dict[str, Any]] = [{}, {"azp": "till"}, {"azp": None, "client_id": "till"}]
    for said in ours:
        assert call(server, "GET", "/api/orders", token=issuer.token("rsa-1", rsa_key, **said)).status == 200, said
    others: list[dict[str, Any]] = [
        {"azp": "games"},
        {"azp": None},
        {"azp": ""},
        {"azp": ["till"]},
        {"azp": {"till": 1}},
        {"azp": "games", "client_id": "till"},
    ]
    for said in others:
        assert_refused(server, issuer.token("rsa-1", rsa_key, **said))


def test_a_thousand_unknown_kids_are_asked_for_once(start_server: Callable[..., Server], issuer: Issuer, rsa_key: Any) -> None:
    server = start_server(**settings_of(issuer))
    with Wire(server.port) as wire:
        for number in range(1000):
            token = issuer.token(f"unknown-{number}", rsa_key) if number < 5 else forged_kid(f"unknown-{number}")
            wire.send(head(server, "GET /api/robots", f"Authorization: Bearer {token}"))
            assert wire.answer().status == 401
    assert issuer.fetches == 1
    assert call(server, "GET", "/api/orders", token=issuer.token("rsa-1", rsa_key)).status == 200
    assert issuer.fetches == 1


def forged_kid(kid: str) -> str:
    return f"{encoded({'alg': 'RS256', 'kid': kid})}.{encoded({'iss': 'x'})}.x"


def test_a_server_that_starts_while_the_issuer_is_away_knows_its_keys(tmp_path: Path, issuer: Issuer, rsa_key: Any) -> None:
    server = Server(tmp_path, **settings_of(issuer))
    with server.start():
        assert call(server, "GET", "/api/orders", token=issuer.token("rsa-1", rsa_key)).status == 200
        issuer.mode = "error"
        server.restart()
        for _ in range(3):
            assert call(server, "GET", "/api/orders", token=issuer.token("rsa-1", rsa_key)).status == 200
        assert issuer.fetches <= 2
        issuer.stop()
        server.restart()
        assert call(server, "GET", "/api/orders", token=issuer.token("rsa-1", rsa_key)).status == 200
        assert_refused(server, issuer.token("rsa-9", rsa_key))
        # Broken in one way or another, it is as if it were not there; the server starts.
        for content in (b"", b"[]", b'{"keys":[{"kty":"RSA","n":5,"e":7,"kid":"x"}]}', b"\xff\xfe"):
            (tmp_path / "jwks.json").write_bytes(content)
            server.restart()
            assert_refused(server, issuer.token("rsa-1", rsa_key))
        assert "Traceback" not in server.log()


def test_a_slow_issuer_holds_nobody_up_for_long(start_server: Callable[..., Server], issuer: Issuer, rsa_key: Any) -> None:
    issuer.mode = "slow"
    server = start_server(**settings_of(issuer))
    waiting = [
        threading.Thread(target=call, args=(server, "GET", "/api/orders"), kwargs={"token": issuer.token("rsa-1", rsa_key)})
    ]
    waiting[0].start()
    wait(lambda: issuer.fetches == 1)
    assert call(server, "GET", "/livez").status == 200
    assert call(server, "GET", "/api/robots", token=sign(server, "x", "staff", aud=AUDIENCE)).status == 200
    assert_refused(server, issuer.token("rsa-1", rsa_key))
    waiting[0].join(20)
    assert issuer.fetches == 1


# -- the key set by itself --------------------------------------------------------------------------------------------


class HandClock(Clock):
    """A clock that a test turns."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0

    def now(self) -> float:
        return self.at


@pytest.mark.parametrize("mode", ["error", "redirect", "big", "text", "empty"])
async def test_an_issuer_that_answers_badly_leaves_the_known_keys_good(tmp_path: Path, issuer: Issuer, mode: str) -> None:
    clock = HandClock()
    keys = KeySet(f"{issuer.url}/certs", kept=tmp_path / "jwks.json", clock=clock)
    assert await keys.find("rsa-1") is not None
    kept = (tmp_path / "jwks.json").read_bytes()
    issuer.mode = mode
    clock.at += 3600
    for _ in range(50):
        assert await keys.find("rsa-1") is not None
        assert await keys.find("rsa-2") is None
    assert issuer.fetches == 2
    assert (tmp_path / "jwks.json").read_bytes() == kept
    clock.at += 31
    issuer.mode = "good"
    assert await keys.find("rsa-2") is None
    assert issuer.fetches == 3


async def test_a_new_key_is_taken_after_one_fetch_and_an_old_one_ends_with_it(
    tmp_path: Path, issuer: Issuer, rsa_key: Any, ec_key: Any
) -> None:
    clock = HandClock()
    keys = KeySet(f"{issuer.url}/certs", kept=tmp_path / "jwks.json", clock=clock)
    assert await keys.find("rsa-1") is not None
    issuer.keys = {"rsa-2": rsa_key}
    clock.at += 31
    found = await asyncio.gather(*(keys.find("rsa-2") for _ in range(100)))
    assert all(key is not None for key in found)
    assert issuer.fetches == 2
    assert await keys.find("rsa-1") is None
    assert await keys.find(None) is not None, "a set of one key needs no id"
    assert issuer.fetches == 2


async def test_one_key_that_cannot_be_used_does_not_take_the_others_along(tmp_path: Path, issuer: Issuer) -> None:
    issuer.more = [
        5,
        "key",
        None,
        {"kty": "RSA", "kid": "a"},
        {"kty": "RSA", "kid": "b", "n": 5, "e": []},
        {"kty": "EC", "kid": "c", "crv": 7, "x": None, "y": None},
        {"kty": "EC", "kid": "d", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "oct", "kid": "e", "k": encoded(b"k" * 32)},
        {"kty": ["RSA"], "kid": "f"},
        {"kty": "OKP", "kid": "g", "crv": "Ed25519", "x": "AA"},
        {"kty": "RSA", "kid": ["h"], "n": "AQAB", "e": "AQAB"},
    ]
    keys = KeySet(f"{issuer.url}/certs", kept=tmp_path / "jwks.json", clock=HandClock())
    assert await keys.find("rsa-1") is not None
    for kid in "acdefg":
        assert await keys.find(kid) is None


# -- W9: what ends while one is connected ------------------------------------------------------------------------------


def short_token(server: Server, name: str, *roles: str, left_s: float) -> str:
    """Return a token that is good for a moment; our own clock needs no leeway."""
    return sign(server, name, *roles, iat=now(-600), exp=int(time.time() + left_s))


def test_a_token_that_ends_ends_its_connections_unless_it_is_renewed(server: Server) -> None:
    name = unique("waiter")
    short, good = short_token(server, name, "staff", left_s=4), sign(server, name, "staff")
    with (
        watch(server, "/ws/robots", short) as topic,
        watch(server, "/ws", short) as session,
        watch(server, "/ws/robots", short) as renewed_topic,
        watch(server, "/ws", short) as renewed_session,
        watch(server, "/ws/robots", good) as shortened,
    ):
        assert topic.message()["snapshot"] and renewed_topic.message()["snapshot"] and shortened.message()["snapshot"]
        session.say({"type": "subscribe", "topic": "robots"})
        until(session, "update")
        renewed_topic.say({"type": "token", "data": {"token": good}})
        renewed_session.say({"type": "token", "token": good})
        until(renewed_session, "token")
        shortened.say({"type": "token", "data": {"token": short}})  # what one says last counts
        for socket in (topic, session, shortened):
            socket.sock.settimeout(LEEWAY_S + 10)
        assert topic.close_frame(within_s=LEEWAY_S + 10) == (4001, "token_expired")
        assert session.close_frame() == (4001, "token_expired")
        assert shortened.close_frame() == (4001, "token_expired")
        assert is_alive(renewed_topic, "robots")
        assert is_alive(renewed_session, "session")


def test_the_token_of_another_user_is_refused_in_a_living_connection(server: Server) -> None:
    mine, other = sign(server, unique("kim"), "display"), sign(server, unique("lee"), "admin")
    bad: list[Any] = [other, "nonsense", "", None, 5, {"token": "x"}, sign(server, "x", iat=now(-900), exp=now(-300))]
    with watch(server, "/ws/robots", mine) as topic, watch(server, "/ws", mine) as session:
        assert topic.message()["snapshot"]
        for token in bad:
            topic.say({"type": "token", "data": {"token": token}})
            assert until(topic, "error")["data"]["code"] == "FORBIDDEN"
            session.say({"type": "token", "token": token})
            assert until(session, "error")["data"]["code"] == "FORBIDDEN"
        session.say({"type": "subscribe", "topic": "customers"})
        assert until(session, "error", topic="customers")["data"]["code"] == "FORBIDDEN"
        assert is_alive(topic, "robots") and is_alive(session, "session")


def test_a_token_that_is_taken_back_ends_its_connections_at_once(server: Server) -> None:
    def by_sql(row: int) -> None:
        server.sql("UPDATE token SET revoked_at = ? WHERE id = ?", stamp(), row)

    def by_api(row: int) -> None:
        do(server, "DELETE", f"/api/tokens/{row}")

    def deleted(row: int) -> None:
        server.sql("DELETE FROM token WHERE id = ?", row)

    for take_back in (by_api, by_sql, deleted):
        token, row = give_token(server, unique("till"), "staff")
        other, _ = give_token(server, unique("till"), "staff")
        with (
            watch(server, "/ws/robots", token) as topic,
            watch(server, "/ws", token) as session,
            watch(server, "/ws/robots", other) as neighbour,
        ):
            assert topic.message()["snapshot"]
            assert session.message()["type"] == "connected"
            take_back(row)
            assert topic.close_frame() == (4001, "token_invalid")
            assert session.close_frame() == (4001, "token_invalid")
            assert is_alive(neighbour, "robots")
        assert_refused(server, token)


def test_a_ticket_of_a_token_that_was_taken_back_is_void(server: Server) -> None:
    token, row = give_token(server, unique("till"), "staff")
    for path in ("/ws/robots", "/ws"):
        ticket = told(call(server, "POST", "/api/auth/ticket", token=token))["ticket"]
        if path == "/ws/robots":
            with watch(server, f"{path}?ticket={ticket}") as socket:
                assert socket.message()["snapshot"], "so that the refusal means something"
    do(server, "DELETE", f"/api/tokens/{row}")
    assert ended(server, f"/ws/robots?ticket={ticket}") == (4001, "token_invalid")


def test_a_disabled_user_is_out_at_once_and_so_is_a_removed_one(server: Server) -> None:
    def by_api(name: str) -> None:
        do(server, "PATCH", f"/api/users/{name}", {"disabled": True})

    def by_sql(name: str) -> None:
        server.sql("UPDATE user_ SET disabled = 1 WHERE name = ?", name)

    def removed(name: str) -> None:
        do(server, "DELETE", f"/api/users/{name}")

    for put_out in (by_api, by_sql, removed):
        user = add_user(server, "staff")
        token, _ = give_token(server, user.name)
        with watch(server, "/ws/robots", token) as topic, watch(server, "/ws", token) as session:
            assert topic.message()["snapshot"]
            assert session.message()["type"] == "connected"
            put_out(user.name)
            assert topic.close_frame() == (4001, "token_invalid")
            assert session.close_frame() == (4001, "token_invalid")
        assert_refused(server, token)


def test_a_user_that_is_not_ours_is_unknown_and_a_name_may_be_in_any_form(server: Server) -> None:
    """A name that is typed on another keyboard may come decomposed; it is the same name (NFC)."""
    composed, decomposed = "Zo\u00eb", "Zoe\u0308"
    assert (
        control(server, "POST", "/api/users", {"name": decomposed, "roles": ["staff"], "password": "correct horse"})[0] == 201
    )
    for name in (composed, decomposed):
        login = call(server, "POST", "/api/auth/login", {"user": name, "password": "correct horse"})
        assert login.status == 200, name
        assert call(server, "GET", "/api/robots", token=told(login)["accessToken"]).status == 200
        token, _ = give_token(server, name)
        assert call(server, "GET", "/api/robots", token=token).status == 200, f"a token given to {name!r}"
