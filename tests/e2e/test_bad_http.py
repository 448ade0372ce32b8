"""Bad HTTP: whatever comes is refused with the right answer, and nobody else notices (PITFALLS section 4, H1 to H10)."""

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.e2e.raw import (
    Answer,
    Wire,
    ask,
    cpu_s,
    head,
    memory_grows_at_most,
    others_are_served,
    stays_well,
    wait_until,
)
from tests.e2e.server import Server

MIB = 1 << 20
KEEPALIVE_S = 15.0
SLACK_S = 5.0
LIMIT_BYTES = 65536
MESSAGES = "POST /api/device-messages"
JSON = "Content-Type: application/json"
SMUGGLED = b'{"msg_type":"Event","type":"INFO","description":"smuggled"}'


@pytest.fixture(autouse=True)
def well(server: Server) -> Iterator[None]:
    with stays_well(server):
        yield


def post(server: Server, body: bytes, *lines: str) -> Answer:
    """POST one device message as JSON."""
    return ask(server, head(server, MESSAGES, JSON, f"Content-Length: {len(body)}", *lines) + body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def assert_refused_and_closed(server: Server, data: bytes, *statuses: int) -> None:
    """One answer of these statuses, then the end: nothing that follows in `data` may be taken for a request."""
    with Wire(server.port) as wire:
        wire.send(data)
        answers = re.split(rb"HTTP/1\.[01] (?=\d{3} )", wire.rest())[1:]
    assert len(answers) == 1, answers
    assert int(answers[0][:3]) in statuses, answers


def test_a_good_message_is_taken_so_that_refusals_mean_something(server: Server) -> None:
    answer = post(server, b'{"msg_type":"Event","type":"INFO","description":"good","id":"good-1"}')
    assert answer.status == 200
    assert json.loads(answer.body)["status"] == "success"


# -- H1, H2: heads -------------------------------------------------------------------------------------------------

_SIZE = f"Content-Length: {len(SMUGGLED)}"
_NEXT = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

AMBIGUOUS = {
    "length and chunked": ([JSON, _SIZE, "Transfer-Encoding: chunked"], b"0\r\n\r\n" + SMUGGLED),
    "two lengths": ([JSON, _SIZE, "Content-Length: 5"], SMUGGLED),
    "two lengths in one line": ([JSON, f"{_SIZE}, 5"], SMUGGLED),
    "negative length": ([JSON, "Content-Length: -1"], SMUGGLED),
    "length with a plus": ([JSON, f"Content-Length: +{len(SMUGGLED)}"], SMUGGLED),
    "hexadecimal length": ([JSON, f"Content-Length: {len(SMUGGLED):#x}"], SMUGGLED),
    "length with an underscore": ([JSON, "Content-Length: 5_9"], SMUGGLED),
    "empty length": ([JSON, "Content-Length: "], SMUGGLED),
    "length in other digits": ([JSON, "Content-Length: \xb2\xb9"], SMUGGLED),
    "length beyond 64 bits": ([JSON, f"Content-Length: {2**64 + len(SMUGGLED)}"], SMUGGLED),
    "xchunked": ([JSON, "Transfer-Encoding: xchunked"], chunk(SMUGGLED) + b"0\r\n\r\n"),
    "chunked twice": ([JSON, "Transfer-Encoding: chunked, chunked"], chunk(SMUGGLED) + b"0\r\n\r\n"),
    "chunked is not last": ([JSON, "Transfer-Encoding: chunked, identity"], chunk(SMUGGLED) + b"0\r\n\r\n"),
    "two hosts": ([JSON, _SIZE, "Host: evil.example"], SMUGGLED),
    "folded header": ([JSON, _SIZE, "X-Folded: a", " b"], SMUGGLED),
    "space before the colon": ([JSON, f"Content-Length : {len(SMUGGLED)}"], SMUGGLED),
    "header without a name": ([JSON, _SIZE, ": x"], SMUGGLED),
    "header without a colon": ([JSON, _SIZE, "nonsense"], SMUGGLED),
    "NUL in a value": ([JSON, _SIZE, "X-Nul: a\0b"], SMUGGLED),
    "NUL in a name": ([JSON, _SIZE, "X-\0Nul: a"], SMUGGLED),
    "bare CR in a value": ([JSON, _SIZE, "X-Cr: a\rb"], SMUGGLED),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_head_that_can_be_read_in_two_ways_is_refused(server: Server, name: str) -> None:
    lines, body = AMBIGUOUS[name]
    assert_refused_and_closed(server, head(server, MESSAGES, *lines) + body + _NEXT, 400, 501)


MALFORMED = {
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: 127.0.0.1\n\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "HTTP/9.9": b"GET /livez HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "version in lower case": b"GET /livez http/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "tab in the request line": b"GET\t/livez\tHTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "NUL in the path": b"GET /liv\0ez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "unknown characters as the method": b"G@T /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(range(154)),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "a device that took the wrong port": SMUGGLED + b"\n\r\n\r\n",
    "noise": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_http_is_refused_and_closed(server: Server, name: str) -> None:
    assert_refused_and_closed(server, MALFORMED[name], 400, 505)


BAD_CHUNKS = {
    "size that is no number": b"xyz\r\n",
    "negative size": b"-1\r\nx\r\n",
    "size beyond 64 bits": b"fffffffffffffffff\r\nx",
    "bare line feeds": b"3b\n" + SMUGGLED + b"\n0\n\n",
    "data longer than its size": b"2\r\n" + SMUGGLED + b"\r\n0\r\n\r\n",
    "endless trailer": chunk(b"{}") + b"0\r\nX-Trailer: " + b"x" * 100_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunks_are_refused_and_closed(server: Server, name: str) -> None:
    data = head(server, MESSAGES, JSON, "Transfer-Encoding: chunked") + BAD_CHUNKS[name] + _NEXT
    assert_refused_and_closed(server, data, 400)


def test_no_refused_head_ran_a_handler(server: Server) -> None:
    assert server.sql("SELECT count(*) FROM event WHERE description = 'smuggled'") == [(0,)]


OVER_LONG = {
    "path": (f"GET /{'x' * 9000}", []),
    "query": (f"GET /livez?{'x' * 9000}", []),
    "method": (f"{'X' * 9000} /livez", []),
    "header value": ("GET /livez", [f"X-Long: {'x' * 9000}"]),
    "header name": ("GET /livez", [f"{'X' * 9000}: x"]),
    "cookie": ("GET /livez", [f"Cookie: {'a=b; ' * 2000}"]),
    "129 headers": ("GET /livez", [f"X-{number}: x" for number in range(129)]),
    "10,000 headers": ("GET /livez", [f"X-{number}: x" for number in range(10_000)]),
}


@pytest.mark.parametrize("name", OVER_LONG)
def test_an_over_long_head_is_refused_and_closed(server: Server, name: str) -> None:
    start, lines = OVER_LONG[name]
    assert_refused_and_closed(server, head(server, start, *lines), 400, 414, 431)


def test_a_head_that_never_ends_is_cut_off(server: Server) -> None:
    # What the socket delivers in one turn of the loop may be held, whatever is wrong with it.
    with memory_grows_at_most(server, 24 * MIB), others_are_served(server), Wire(server.port) as wire:
        wire.send(b"GET /livez HTTP/1.1\r\nX-Long: ")
        assert not all(wire.send(b"x" * 65536) for _ in range(1600))
        wire.rest()


def test_a_chunk_extension_that_never_ends_costs_no_memory(server: Server) -> None:
    with memory_grows_at_most(server, 8 * MIB), others_are_served(server), Wire(server.port, timeout_s=2) as wire:
        wire.send(head(server, MESSAGES, JSON, "Transfer-Encoding: chunked") + b"1;")
        all(wire.send(b"x" * 65536) for _ in range(400))


# -- H3, H4, H5: bodies --------------------------------------------------------------------------------------------


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(server: Server) -> None:
    answer = ask(server, head(server, MESSAGES, JSON, f"Content-Length: {LIMIT_BYTES + 1}"))
    assert (answer.status, answer.problem["code"]) == (413, "TOO_LARGE")


@pytest.mark.parametrize("size", [100 * MIB, 2**62])
def test_a_body_of_absurd_length_costs_no_memory(server: Server, size: int) -> None:
    with memory_grows_at_most(server, 8 * MIB), Wire(server.port) as wire:
        wire.send(head(server, MESSAGES, JSON, f"Content-Length: {size}"))
        all(wire.send(b"x" * 65536) for _ in range(160))
        assert wire.answer().status == 413
        wire.rest()


def test_a_chunked_body_over_the_limit_is_refused(server: Server) -> None:
    with memory_grows_at_most(server, 8 * MIB), Wire(server.port) as wire:
        wire.send(head(server, MESSAGES, JSON, "Transfer-Encoding: chunked"))
        all(wire.send(chunk(b"x" * 60_000)) for _ in range(200))
        answer = wire.answer()
        assert (answer.status, answer.problem["code"]) == (413, "TOO_LARGE")
        wire.rest()


def test_a_body_of_exactly_the_limit_is_read(server: Server) -> None:
    body = b'{"msg_type":"Event","type":"INFO","junk":"%s"}'
    body = body % (b"x" * (LIMIT_BYTES - len(body) + 2))
    assert len(body) == LIMIT_BYTES
    assert post(server, body).status == 200


COMPRESSED = {
    "a message": gzip.compress(SMUGGLED),
    "50 MB of zeros": gzip.compress(bytes(50_000_000)),
    "100,000 empty members": gzip.compress(b"") * 100_000,
    "broken gzip": b"\x1f\x8b\x08\x00 this is no gzip",
    "nothing": b"",
}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP"])
@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_bodies_are_refused_unread(server: Server, name: str, encoding: str) -> None:
    before = cpu_s(server)
    with memory_grows_at_most(server, 6 * MIB):
        answer = post(server, COMPRESSED[name], f"Content-Encoding: {encoding}")
    assert (answer.status, answer.problem["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert cpu_s(server) - before < 1.0


BAD_JSON = {
    "nothing": b"",
    "white space": b"   ",
    "truncated": b'{"msg_type":"Event","type":"IN',
    "text": b"hello",
    "two objects": SMUGGLED + SMUGGLED,
    "trailing comma": b'{"msg_type":"Event",}',
    "single quotes": b"{'msg_type':'Event'}",
    "invalid UTF-8": b'{"msg_type":"Event","type":"INFO","description":"\xff\xfe"}',
    "UTF-16": '{"msg_type":"Event","type":"INFO"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + SMUGGLED,
    "lone surrogate": b'{"msg_type":"Event","type":"INFO","description":"\\ud800"}',
    "NaN": b'{"msg_type":"Telemetry","robot_id":"r","x":NaN}',
    "Infinity": b'{"msg_type":"Telemetry","robot_id":"r","x":-Infinity}',
    "NUL": b'{"msg_type":"Event"}\0',
    "60,000 brackets": b"[" * 60_000,
    "30,000 nested lists": b"[" * 30_000 + b"]" * 30_000,
    "10,000 nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep data": b'{"msg_type":"Event","type":"INFO","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
}

NOT_A_MESSAGE = {
    "a list": b"[]",
    "a text": b'"Event"',
    "a number": b"5",
    "a number of 5,000 digits": b"9" * 5000,
    "null": b"null",
    "an empty object": b"{}",
    "an unknown msg_type": b'{"msg_type":"Evil"}',
    "a msg_type that is a list": b'{"msg_type":["Event"]}',
    "a msg_type that is an object": b'{"msg_type":{"Event":1}}',
    "a missing field": b'{"msg_type":"Albabot"}',
    "a field of the wrong type": b'{"msg_type":"Table","table_number":{"a":1}}',
    "an id that is a list": b'{"msg_type":"Event","type":"INFO","id":[1]}',
    "a table_number of 5,000 digits": b'{"msg_type":"Table","table_number":' + b"9" * 5000 + b"}",
    "a table_number of 1e999": b'{"msg_type":"Table","table_number":1e999}',
    "a battery beyond any number": b'{"msg_type":"Albabot","robot_id":"r","battery_level":1e999}',
    "an order_id beyond 64 bits": b'{"msg_type":"Order","order_id":36893488147419103232,"status":"READY"}',
    "an unknown order": b'{"msg_type":"Order","order_id":4,"status":"READY"}',
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_a_body_that_cannot_be_parsed_is_400_problem_json(server: Server, name: str) -> None:
    answer = post(server, BAD_JSON[name])
    assert (answer.status, answer.problem["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("name", NOT_A_MESSAGE)
def test_what_cannot_be_parsed_is_a_problem_and_what_can_gets_the_answer_a_device_would_read(server: Server, name: str) -> None:
    answer = post(server, NOT_A_MESSAGE[name])
    if answer.status == 400:
        assert answer.problem["code"] == "BAD_REQUEST"
        return
    assert answer.status == 422, answer
    body = json.loads(answer.body)
    assert body["status"] == "error" and body["error_code"] in ("INVALID_PAYLOAD", "UNKNOWN_TYPE")


@pytest.mark.parametrize("depth", [100, 250, 300, 1000])
@pytest.mark.parametrize("id", [b"", b'"id":"deep",'])
def test_data_at_any_depth_is_stored_or_refused_and_never_a_server_error(server: Server, depth: int, id: bytes) -> None:
    body = b'{"msg_type":"Event","type":"INFO",%s"data":%s}' % (id, b"[" * depth + b"]" * depth)
    assert post(server, body).status in (200, 400, 409, 422)
    assert server.get("/api/events")[0] == 200


def test_a_key_that_comes_twice_is_refused_or_read_as_one_value(server: Server) -> None:
    answer = post(server, b'{"msg_type":"Event","msg_type":"Log","type":"INFO","message":"twice"}')
    assert answer.status in (200, 400, 422)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application",
        "; charset=utf-8",
        "text/plain; application/json",
    ],
)
def test_another_content_type_is_415(server: Server, content_type: str | None) -> None:
    lines = [] if content_type is None else [f"Content-Type: {content_type}"]
    answer = ask(server, head(server, MESSAGES, *lines, _SIZE) + SMUGGLED)
    assert (answer.status, answer.problem["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/livez", "GET"),
        ("POST", "/livez", "GET"),
        ("POST", "/readyz", "GET"),
        ("PUT", "/metrics", "GET"),
        ("PUT", "/api/device-messages", "POST"),
        ("GET", "/api/device-messages", "POST"),
        ("POST", "/api/robots", "GET"),
        ("PATCH", "/api/robots", "GET"),
        ("POST", "/", "GET"),
        ("POST", "/ws/robots", "GET"),
        ("TRACE", "/livez", "GET"),
        ("PROPFIND", "/api/robots", "GET"),
    ],
)
def test_another_method_is_405_and_told_what_is_allowed(server: Server, method: str, path: str, allowed: str) -> None:
    answer = ask(server, head(server, f"{method} {path}", "Content-Length: 0"))
    assert answer.status == 405, answer
    assert allowed in answer.headers["allow"].replace(" ", "").split(",")
    assert answer.problem["code"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize("target", ["*", "evil.example:80"])
def test_targets_that_are_no_path_are_refused(server: Server, target: str) -> None:
    method = "OPTIONS" if target == "*" else "CONNECT"
    assert 400 <= ask(server, head(server, f"{method} {target}")).status < 500


def test_a_path_that_is_hidden_looks_like_one_that_is_absent(server: Server) -> None:
    paths = ("/nothing", "/api/nothing", "/api/user", "/api/device_message", "/api/change", "/api/sqlite_master", "/static/")
    answers = {path: ask(server, head(server, f"GET {path}")) for path in paths}
    assert {answer.status for answer in answers.values()} == {404}
    assert answers["/nothing"].problem["code"] == "RESOURCE_NOT_FOUND"
    assert {answer.body for answer in answers.values()} == {answers["/nothing"].body}


# -- H6, H7: slow peers --------------------------------------------------------------------------------------------


def drip(wire: Wire, data: bytes, within_s: float) -> float:
    """Send a byte a second until the server ends it; return how long that took."""
    started = time.monotonic()
    wire.sock.settimeout(1.0)
    for at in range(int(within_s) + 1):
        wire.send(data[at : at + 1])
        try:
            while wire.receive():
                pass
            break
        except TimeoutError:
            continue
    return time.monotonic() - started


def ends_within(server: Server, data: bytes, *, dripped: bytes = b"") -> tuple[float, bytes]:
    """Send `data`, then one byte a second of `dripped` (or nothing); return when the server ended it, and its answers."""
    bound = KEEPALIVE_S + SLACK_S
    with Wire(server.port) as wire:
        wire.send(data)
        if dripped:
            return drip(wire, dripped, bound), bytes(wire.received)
        started = time.monotonic()
        wire.rest(bound + 1)
        return time.monotonic() - started, bytes(wire.received)


def test_slow_heads_and_bodies_are_closed_in_time(server: Server) -> None:
    live = head(server, "GET /livez")
    stalled_body = head(server, MESSAGES, JSON, "Content-Length: 100") + b'{"msg_type":'
    heads = {
        "says nothing": (b"", b""),
        "stalls in the head": (live[:20], b""),
        "drips its head": (b"", live[:-2] + b"X-Slow: " + b"x" * 100),
        "idles after a request": (live, b""),
        "stalls in its second head": (live + live[:20], b""),
        "drips its second head": (live, live[:-2] + b"X-Slow: " + b"x" * 100),
    }
    bodies = {
        "stalls in its body": (stalled_body, b""),
        "drips its body": (stalled_body, b" " * 100),
        "never begins its body": (head(server, MESSAGES, JSON, "Content-Length: 100"), b""),
        "stalls in its chunks": (head(server, MESSAGES, JSON, "Transfer-Encoding: chunked") + b"5\r\n{", b""),
        "stalls between its chunks": (head(server, MESSAGES, JSON, "Transfer-Encoding: chunked") + chunk(b"{"), b""),
    }
    unread = {
        "stalls in a body that is of the wrong type": (head(server, MESSAGES, "Content-Length: 100"), b"", b"415"),
        "stalls in a body of a GET": (head(server, "GET /livez", "Content-Length: 100"), b"", b"200"),
        "stalls in a body for no path": (head(server, "POST /nothing", "Content-Length: 100"), b"", b"404"),
        "drips a body for no path": (head(server, "POST /nothing", "Content-Length: 100"), b"x" * 100, b"404"),
    }
    cases: dict[str, Callable[[], tuple[float, bytes]]] = {}
    for name, (data, dripped, *_) in {**heads, **bodies, **unread}.items():
        cases[name] = partial(ends_within, server, data, dripped=dripped)
    with ThreadPoolExecutor(len(cases)) as pool:
        running = {name: pool.submit(case) for name, case in cases.items()}
        outcomes = {name: case.exception() or case.result() for name, case in running.items()}
    wrong = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, BaseException):
            wrong[name] = repr(outcome)
            continue
        seconds, answers = outcome
        bound = KEEPALIVE_S if name in bodies else KEEPALIVE_S + SLACK_S
        if seconds > bound:
            wrong[name] = f"closed after {seconds:.1f} s"
        elif (name in bodies and not answers.startswith(b"HTTP/1.1 408 ")) or (
            name in unread and not answers.startswith(b"HTTP/1.1 " + unread[name][2])
        ):
            wrong[name] = f"answered {answers!r}"
    assert not wrong


# -- H8: many small things -----------------------------------------------------------------------------------------


def test_a_thousand_pipelined_requests_are_answered_in_order_and_others_too(server: Server) -> None:
    request = head(server, "GET /livez")
    with memory_grows_at_most(server, 8 * MIB), others_are_served(server), Wire(server.port, timeout_s=20) as wire:
        wire.send(request * 1000)
        answers = [wire.answer().status for _ in range(1000)]
        assert answers == [200] * 1000


def test_pipelined_requests_whose_answers_nobody_reads_are_bounded(server: Server) -> None:
    request = head(server, "GET /metrics")
    with (
        memory_grows_at_most(server, 12 * MIB),
        others_are_served(server),
        Wire(server.port, timeout_s=1, receive_buffer=4096) as wire,
    ):
        all(wire.send(request * 1000) for _ in range(100))


def test_a_hundred_thousand_chunks_of_one_byte_are_bounded(server: Server) -> None:
    with memory_grows_at_most(server, 8 * MIB), others_are_served(server), Wire(server.port, timeout_s=20) as wire:
        wire.send(head(server, MESSAGES, JSON, "Transfer-Encoding: chunked"))
        wire.send(chunk(b"x") * 100_000)
        assert wire.answer().status == 413


def test_a_body_within_the_limit_in_chunks_of_one_byte_is_read(server: Server) -> None:
    body = b'{"msg_type":"Event","type":"INFO","junk":"%s"}' % (b"x" * 50_000)
    with memory_grows_at_most(server, 8 * MIB), others_are_served(server), Wire(server.port, timeout_s=20) as wire:
        wire.send(head(server, MESSAGES, JSON, "Transfer-Encoding: chunked"))
        wire.send(b"".join(chunk(body[at : at + 1]) for at in range(len(body))) + b"0\r\n\r\n")
        assert wire.answer().status == 200


def test_five_hundred_idle_connections_keep_nobody_out(server: Server) -> None:
    wires = [Wire(server.port) for _ in range(500)]
    try:
        with others_are_served(server):
            for wire in wires:
                wire.send(b"GET /livez HTTP/1.1\r\n")
    finally:
        for wire in wires:
            wire.sock.close()


# -- H9: paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/../../../../etc/passwd",
        "/..",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/..%5c..%5cetc%5cpasswd",
        "/..%c0%af..%c0%afetc/passwd",
        "/%252e%252e/etc/passwd",
        "//etc/passwd",
        "//evil.example/livez",
        "/static/../index.html",
        "/static/..%2f__init__.py",
        "/static/%2e%2e/__init__.py",
        "/static//etc/passwd",
        "/static/__init__.py",
        "/static/index.html%00.js",
        "/static/",
        "/static",
        "/index.html",
        "/%00",
        "/livez%00",
        "/livez/",
        "/LIVEZ",
        "/api/",
        "/api/robots/",
        "/api/robots%00",
        "/api/robots%2f..%2fevents",
        "/api/..%2flivez",
        "/api/%2e%2e",
        "/api/robot;--",
        "/api/robots'%20OR%201=1",
        "/api/%ff%fe",
        "/api/%F0%9F%A4%96",
        "/.git/config",
        "/robodyne.db",
        "/api/ROBOTS",
    ],
)
def test_a_path_that_leads_elsewhere_is_404(server: Server, target: str) -> None:
    answer = ask(server, head(server, f"GET {target}"))
    assert answer.status == 404, answer
    assert answer.problem["code"] == "RESOURCE_NOT_FOUND"


# -- H10, Host and Origin ------------------------------------------------------------------------------------------

FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil-localhost",
    "localhost@evil.example",
    "evil.example@localhost",
    "[evil.example]",
    "127.0.0.1 evil.example",
    "",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.parametrize("start", ["GET /livez", "GET /api/robots", "GET /", MESSAGES, "GET /nothing"])
def test_a_host_that_is_not_ours_is_misdirected(server: Server, host: str, start: str) -> None:
    answer = ask(server, head(server, start, "Content-Length: 0", host=host.format(port=server.port)))
    assert answer.status in (400, 421), answer
    if host.startswith("evil.example") and "@" not in host:
        assert (answer.status, answer.problem["code"]) == (421, "MISDIRECTED")


def test_the_host_of_an_absolute_target_counts(server: Server) -> None:
    assert ask(server, head(server, "GET http://evil.example/livez")).status in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]", "10.1.2.3:8000"])
def test_our_own_names_and_addresses_are_answered(server: Server, host: str) -> None:
    assert ask(server, head(server, "GET /livez", host=host)).status == 200


FOREIGN_ORIGINS = [
    "http://evil.example",
    "https://evil.example",
    "http://evil.example:{port}",
    "null",
    "",
    "http://127.0.0.1.evil.example:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "http://127.0.0.1:{port}@evil.example",
    "http://evil.example/http://127.0.0.1:{port}",
    "http://127.0.0.1:1",
    "file://127.0.0.1:{port}",
    "127.0.0.1:{port}",
    "http://[::1",
    "http://" + "x" * 5000,
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_page_of_another_site_may_not_post(server: Server, origin: str) -> None:
    answer = post(server, SMUGGLED, f"Origin: {origin.format(port=server.port)}")
    assert (answer.status, answer.problem["code"]) == (403, "PERMISSION_DENIED")
    assert "access-control-allow-origin" not in answer.headers


def test_our_own_page_may_post(server: Server) -> None:
    body = b'{"msg_type":"Event","type":"INFO","description":"own page"}'
    assert post(server, body, f"Origin: http://127.0.0.1:{server.port}").status == 200


def test_a_preflight_from_another_site_is_not_granted(server: Server) -> None:
    lines = ["Origin: http://evil.example", "Access-Control-Request-Method: POST", "Content-Length: 0"]
    answer = ask(server, head(server, "OPTIONS /api/device-messages", *lines))
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_listed_origin_and_host_are_let_in(start_server: Callable[..., Server]) -> None:
    server = start_server(SERVER__ALLOWED_ORIGINS='["https://pos.example"]', SERVER__ALLOWED_HOSTS='["box.example"]')
    body = b'{"msg_type":"Event","type":"INFO"}'
    with stays_well(server):
        lines = [JSON, f"Content-Length: {len(body)}"]
        assert ask(server, head(server, MESSAGES, *lines, "Origin: https://pos.example") + body).status == 200
        assert ask(server, head(server, MESSAGES, *lines, "Origin: https://pos.example.evil") + body).status == 403
        assert ask(server, head(server, "GET /livez", host="box.example:8000")).status == 200
        assert ask(server, head(server, "GET /livez", host="box.example.evil")).status == 421


def test_the_word_of_a_proxy_that_nobody_trusts_is_ignored(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", DEVICES__TRUSTED_NETWORKS='["10.0.0.0/8"]')
    with stays_well(server):
        for line in ("X-Forwarded-For: 10.0.0.1", "X-Real-IP: 10.0.0.1", "Forwarded: for=10.0.0.1", "Client-IP: 10.0.0.1"):
            answer = post(server, SMUGGLED, line)
            assert (answer.status, answer.problem["code"]) == (401, "AUTHENTICATION_REQUIRED")


# -- the end -------------------------------------------------------------------------------------------------------


def test_none_of_this_stored_a_thing_or_filled_the_log(server: Server) -> None:
    assert server.sql("SELECT count(*) FROM event WHERE description = 'smuggled'") == [(0,)]
    assert len(server.log().splitlines()) < 100, server.log()[-5000:]


def test_the_server_holds_no_connection_of_ours_any_more(server: Server) -> None:
    def quiet() -> bool:
        return b'robodyne_ws_connections{topic="robots"} 0' in server.get("/metrics")[2]

    assert wait_until(quiet, within_s=10)
