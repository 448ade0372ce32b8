"""Bad WebSockets: refused, told or closed with the code of SPEC section 3, and nobody else notices (PITFALLS section 4, W)."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.raw import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Socket,
    Wire,
    ask,
    client_frame,
    memory_grows_at_most,
    open_files,
    open_socket,
    others_are_served,
    stays_well,
    upgrade,
    wait_until,
)
from tests.e2e.server import Replica, Server

MIB = 1 << 20
LIMIT_BYTES = 65536
ABUSE = (1008, "abuse")


@pytest.fixture(autouse=True)
def well(server: Server) -> Iterator[None]:
    with stays_well(server):
        yield


def greeted(server: Server, path: str = "/ws/tables", **options: Any) -> Socket:
    """Open a WebSocket and take its snapshot."""
    wire = open_socket(server, path, **options)
    assert wire.message()["snapshot"] is True
    return wire


def lives(wire: Socket) -> bool:
    """Return whether a ping is answered: the connection took what came before and goes on."""
    wire.send(client_frame(b"still there?", PING))
    while (frame := wire.frame()).opcode != PONG:
        if frame.opcode == CLOSE:
            return False
    return frame.payload == b"still there?"


def assert_closed(wire: Socket, *codes: int) -> None:
    """A close frame with one of these codes, then the end of the stream once we took it."""
    code, reason = wire.close_frame()
    assert code in codes, (code, reason)
    wire.send(client_frame(code.to_bytes(2, "big"), CLOSE))
    wire.rest()


# -- W1, W2: the handshake -----------------------------------------------------------------------------------------

NO_HANDSHAKE: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[int, ...]]] = {
    "no key": ({"Sec_WebSocket_Key": None}, (), (400,)),
    "empty key": ({"Sec_WebSocket_Key": ""}, (), (400,)),
    "short key": ({"Sec_WebSocket_Key": "c2hvcnQ="}, (), (400,)),
    "long key": ({"Sec_WebSocket_Key": "x" * 4000}, (), (400,)),
    "key that is no base64": ({"Sec_WebSocket_Key": "!" * 24}, (), (400,)),
    "two keys": ({}, ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",), (400,)),
    "no version": ({"Sec_WebSocket_Version": None}, (), (400, 426)),
    "version 8": ({"Sec_WebSocket_Version": "8"}, (), (426,)),
    "version 99": ({"Sec_WebSocket_Version": "99"}, (), (426,)),
    "versions 13 and 8": ({"Sec_WebSocket_Version": "13, 8"}, (), (400, 426)),
    "no upgrade": ({"Upgrade": None}, (), (400, 426)),
    "upgrade to something else": ({"Upgrade": "h2c"}, (), (400, 426)),
    "no connection": ({"Connection": None}, (), (400, 426)),
    "connection that closes": ({"Connection": "close"}, (), (400, 426)),
    "connection to be kept alive": ({"Connection": "keep-alive"}, (), (400, 426)),
    "connection word that only contains it": ({"Connection": "x-upgrade-not"}, (), (400, 426)),
    "POST": ({"method": "POST"}, (), (405,)),
    "PUT": ({"method": "PUT"}, (), (405,)),
    "length": ({}, ("Content-Length: 5",), (400,)),
    "negative length": ({}, ("Content-Length: -1",), (400,)),
    "chunked": ({}, ("Transfer-Encoding: chunked",), (400,)),
    "length and chunked": ({}, ("Content-Length: 5", "Transfer-Encoding: chunked"), (400,)),
}


@pytest.mark.parametrize("name", NO_HANDSHAKE)
def test_what_is_no_handshake_is_refused(server: Server, name: str) -> None:
    changed, lines, statuses = NO_HANDSHAKE[name]
    body = b"0\r\n\r\n" if lines and "Key" not in lines[0] else b""
    answer = ask(server, upgrade(server, "/ws/tables", *lines, **changed) + body)
    assert answer.status in statuses, answer
    if answer.status == 426:
        assert answer.headers["sec-websocket-version"] == "13"
        assert answer.headers["upgrade"].lower() == "websocket"
    if answer.status == 405:
        assert "GET" in answer.headers["allow"]


def test_a_handshake_of_http_1_0_is_refused(server: Server) -> None:
    data = upgrade(server, "/ws/tables").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert 400 <= ask(server, data).status < 500


@pytest.mark.parametrize("lines", [["Content-Length: {size}"], ["Transfer-Encoding: chunked"]])
def test_no_request_is_smuggled_in_a_handshakes_body(server: Server, lines: list[str]) -> None:
    body = b'{"msg_type":"Event","type":"INFO","description":"smuggled"}'
    hidden = b"POST /api/device-messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    hidden += b"Content-Length: %d\r\n\r\n" % len(body) + body
    whole = hidden if "Length" in lines[0] else b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden)
    with Wire(server.port) as wire:
        wire.send(upgrade(server, "/ws/tables", *[line.format(size=len(hidden)) for line in lines]) + whole)
        assert wire.answer().status == 400
    assert server.get("/api/events")[0] == 200
    assert server.sql("SELECT count(*) FROM event WHERE description = 'smuggled'") == [(0,)]


def test_frames_that_come_with_the_handshake_are_read(server: Server) -> None:
    with Socket(server.port) as wire:
        wire.send(upgrade(server, "/ws/tables") + client_frame(b"early", PING))
        assert wire.answer().status == 101
        while (frame := wire.frame()).opcode != PONG:
            assert frame.opcode == TEXT
        assert frame.payload == b"early"


def test_compression_is_not_agreed_to(server: Server) -> None:
    for offer in (
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "x-webkit-deflate-frame",
        ";;=,",
        "x" * 4000,
    ):
        answer = ask(server, upgrade(server, "/ws/tables", Sec_WebSocket_Extensions=offer))
        assert answer.status in (101, 400)
        assert "sec-websocket-extensions" not in answer.headers


def test_a_subprotocol_that_nobody_knows_is_not_agreed_to(server: Server) -> None:
    answer = ask(server, upgrade(server, "/ws/tables", Sec_WebSocket_Protocol="evil, graphql-ws"))
    assert answer.status == 101
    assert "sec-websocket-protocol" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://127.0.0.1:{port}", 101),
        ("http://evil.example", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://127.0.0.1.evil.example:{port}", 403),
        ("http://127.0.0.1:{port}.evil.example", 403),
        ("http://127.0.0.1:{port}@evil.example", 403),
        ("http://evil.example#http://127.0.0.1:{port}", 403),
        ("http://127.0.0.1:1", 403),
        ("http://127.0.0.1", 403),
        ("file://", 403),
        ("chrome-extension://abcdef", 403),
        ("http://[::1", 403),
    ],
)
def test_only_our_own_pages_may_open_a_socket(server: Server, origin: str | None, status: int) -> None:
    lines = [] if origin is None else [f"Origin: {origin.format(port=server.port)}"]
    answer = ask(server, upgrade(server, "/ws/tables", *lines))
    assert answer.status == status, answer
    if status == 403:
        assert answer.problem["code"] == "PERMISSION_DENIED"


def test_a_handshake_for_another_host_is_misdirected(server: Server) -> None:
    data = upgrade(server, "/ws/tables").replace(f"127.0.0.1:{server.port}".encode(), b"evil.example")
    assert ask(server, data).status == 421


@pytest.mark.parametrize(
    "topic",
    ["nothing", "table_", "ROBOTS", "user", "session", "robots%00", "%2e%2e", "robots;--", "%F0%9F%A4%96", "x" * 4000],
)
def test_an_unknown_topic_is_told_after_the_handshake(server: Server, topic: str) -> None:
    with open_socket(server, f"/ws/{topic}") as wire:
        assert wire.close_frame() == (1003, "unknown_topic")


@pytest.mark.parametrize("path", ["/ws/", "/ws/robots/", "/ws/robots/x", "/WS/robots", "/ws/../livez", "/ws/robots%2f"])
def test_a_path_that_is_no_topics_never_becomes_a_socket(server: Server, path: str) -> None:
    with Socket(server.port) as wire:
        wire.send(upgrade(server, path))
        answer = wire.answer()
        assert answer.status in (101, 404)
        if answer.status == 101:
            assert wire.close_frame() == (1003, "unknown_topic")


def test_a_topic_of_a_megabyte_is_refused(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.send(upgrade(server, "/ws/" + "x" * MIB))
        assert wire.answer().status in (400, 414, 431)


@pytest.mark.parametrize("interval", ["abc", "-1", "nan", "inf", "-inf", "1e999", "", "0x10", "1;2", "%00", "%F0%9F%A4%96"])
def test_an_interval_that_is_no_time_is_told_and_the_socket_lives(server: Server, interval: str) -> None:
    with open_socket(server, f"/ws/tables?interval={interval}") as wire:
        first, second = wire.message(), wire.message()
        assert sorted((first["type"], second["type"])) == ["error", "update"]
        assert {first["type"]: first, second["type"]: second}["error"]["data"]["code"] == "INVALID_MESSAGE"
        assert lives(wire)


# -- W3, W4: the protocol ------------------------------------------------------------------------------------------

VIOLATIONS: dict[str, bytes] = {
    **{f"opcode {opcode}": client_frame(b"x", opcode) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"reserved bits {bits:03b}": client_frame(b"{}", reserved=bits) for bits in range(1, 8)},
    "reserved bit on a ping": client_frame(b"", PING, reserved=2),
    "reserved bit on a close": client_frame(b"\x03\xe8", CLOSE, reserved=4),
    "ping in fragments": client_frame(b"x", PING, final=False),
    "pong in fragments": client_frame(b"x", PONG, final=False),
    "close in fragments": client_frame(b"\x03\xe8", CLOSE, final=False),
    "ping of 126 bytes": client_frame(b"x" * 126, PING),
    "pong of 70,000 bytes": client_frame(b"x" * 70_000, PONG),
    "close of 126 bytes": client_frame(b"\x03\xe8" + b"x" * 124, CLOSE),
    "continuation of nothing": client_frame(b"x", 0),
    "continuation of nothing, not final": client_frame(b"x", 0, final=False),
    "continuation after a whole message": client_frame(b'{"type":"pong"}') + client_frame(b"x", 0),
    "text within a fragmented text": client_frame(b'{"type"', final=False) + client_frame(b':"pong"}'),
    "binary within a fragmented text": client_frame(b'{"type"', final=False) + client_frame(b"x", BINARY),
    "close of one byte": client_frame(b"\x03", CLOSE),
    **{
        f"close code {code}": client_frame(code.to_bytes(2, "big") + b"why", CLOSE)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_broken_protocol_is_closed_with_1002(server: Server, name: str) -> None:
    with greeted(server) as wire:
        wire.send(VIOLATIONS[name])
        assert_closed(wire, 1002)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 3000, 3999, 4000, 4999])
def test_a_clients_close_is_answered(server: Server, code: int) -> None:
    with greeted(server) as wire:
        wire.send(client_frame(code.to_bytes(2, "big") + "끝".encode(), CLOSE))
        assert wire.close_frame()[0] in (code, 1000)
        wire.rest()


def test_a_close_without_a_code_is_answered(server: Server) -> None:
    with greeted(server) as wire:
        wire.send(client_frame(b"", CLOSE))
        assert wire.close_frame()[0] in (0, 1000)
        wire.rest()


def test_nothing_is_taken_after_a_close(server: Server) -> None:
    with greeted(server) as wire:
        wire.send(client_frame(b"\x03\xe8", CLOSE) + client_frame(b'{"type":"ping","data":{}}') * 10 + client_frame(b"", PING))
        data = wire.rest()
        assert b"pong" not in data


BAD_UTF8: dict[str, bytes] = {
    "lone byte": client_frame(b"\xff"),
    "within JSON": client_frame(b'{"type":"\xc3\x28"}'),
    "overlong": client_frame(b'"\xc0\xaf"'),
    "surrogate": client_frame(b'"\xed\xa0\x80"'),
    "beyond Unicode": client_frame(b'"\xf4\x90\x80\x80"'),
    "cut at the end": client_frame(b'"\xe2\x82'),
    "broken between fragments": client_frame(b'"\xe2\x82', final=False) + client_frame(b'\x28"', 0),
    "in the middle fragment": client_frame(b'"a', final=False) + client_frame(b"\xff", 0, final=False) + client_frame(b'"', 0),
    "cut at the end of fragments": client_frame(b'"', final=False) + client_frame(b"\xf0\x9f\xa4", 0),
    "with a ping in between": client_frame(b'"\xe2', final=False) + client_frame(b"", PING) + client_frame(b"\x28", 0),
    "reason of a close": client_frame(b"\x03\xe8\xff\xfe", CLOSE),
    "reason of a close, cut": client_frame(b"\x03\xe8\xe2\x82", CLOSE),
}


@pytest.mark.parametrize("name", BAD_UTF8)
def test_text_that_is_no_utf8_is_closed_with_1007(server: Server, name: str) -> None:
    with greeted(server) as wire:
        wire.send(BAD_UTF8[name])
        assert_closed(wire, 1007)


def test_a_character_that_is_split_over_fragments_is_whole(server: Server) -> None:
    text = '{"type":"ping","data":"로봇 🤖"}'.encode()
    with greeted(server) as wire:
        wire.send(client_frame(text[:1], final=False))
        wire.send(b"".join(client_frame(text[at : at + 1], 0, final=False) for at in range(1, len(text))))
        wire.send(client_frame(b"middle", PING) + client_frame(b"", 0))
        assert wire.frame() == (PONG, b"middle")
        assert wire.message() == {"type": "pong", "topic": "tables", "data": "로봇 🤖"}


# -- W5, W6, W7: sizes and pieces ----------------------------------------------------------------------------------

TOO_LARGE: dict[str, bytes] = {
    "one byte over": client_frame(b"x" * (LIMIT_BYTES + 1)),
    "one byte over, binary": client_frame(b"x" * (LIMIT_BYTES + 1), BINARY),
    "announced only, 1 MiB": client_frame(b"", size=MIB),
    "announced only, 1 GiB": client_frame(b"x" * 100, size=1 << 30),
    "announced only, 2^62": client_frame(b"", size=1 << 62),
    "in two fragments": client_frame(b"x" * 40_000, final=False) + client_frame(b"x" * 40_000, 0),
    "in many fragments": client_frame(b"x", final=False) + client_frame(b"x" * 1000, 0, final=False) * 100,
    "the last fragment announced only": client_frame(b"x" * 60_000, final=False) + client_frame(b"", 0, size=10_000),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_message_over_the_limit_is_closed_with_1009_before_it_is_held(server: Server, name: str) -> None:
    with memory_grows_at_most(server, 8 * MIB), greeted(server) as wire:
        wire.send(TOO_LARGE[name])
        assert wire.close_frame() == (1009, "too_large")


def test_a_length_of_64_bits_is_refused(server: Server) -> None:
    with greeted(server) as wire:
        wire.send(client_frame(b"", size=(1 << 64) - 1))
        assert wire.close_frame()[0] in (1002, 1009)


def test_a_message_of_exactly_the_limit_is_read(server: Server) -> None:
    text = b'{"type":"ping","data":"%s"}'
    text = text % (b"x" * (LIMIT_BYTES - len(text) + 2))
    assert len(text) == LIMIT_BYTES
    with greeted(server) as wire:
        wire.say(text)
        assert wire.message()["type"] == "pong"


def test_a_frame_without_a_mask_harms_nobody(server: Server) -> None:
    """RFC 6455 wants 1002; aiohttp reads it like any other. A mask protects old proxies, not us."""
    with greeted(server) as wire:
        wire.send(client_frame(b'{"type":"ping","data":1}', masked=False))
        frame = wire.frame()
        assert frame.opcode in (TEXT, CLOSE)
        if frame.opcode == TEXT:
            assert json.loads(frame.payload) == {"type": "pong", "topic": "tables", "data": 1}


def test_a_frame_that_comes_byte_by_byte_is_read(server: Server) -> None:
    with greeted(server) as wire:
        for byte in client_frame(b'{"type":"ping","data":{"timestamp":1}}'):
            wire.send(bytes([byte]))
            time.sleep(0.002)
        assert wire.message()["data"] == {"timestamp": 1}


def test_a_long_frame_in_tiny_writes_costs_little(server: Server) -> None:
    with memory_grows_at_most(server, 8 * MIB), others_are_served(server), greeted(server) as wire:
        data = client_frame(b'{"type":"ping","data":"%s"}' % (b"x" * 60_000))
        for at in range(0, len(data), 7):
            wire.send(data[at : at + 7])
        assert wire.message()["type"] == "pong"


def test_a_hundred_thousand_fragments_of_one_byte_are_cut_off(server: Server) -> None:
    with memory_grows_at_most(server, 16 * MIB), others_are_served(server), greeted(server) as wire:
        wire.send(client_frame(b"x", final=False))
        wire.send(client_frame(b"x", 0, final=False) * 100_000)
        assert wire.close_frame()[0] in (1008, 1009)


def test_a_flood_of_empty_fragments_is_bounded(server: Server) -> None:
    with memory_grows_at_most(server, 8 * MIB), others_are_served(server), greeted(server) as wire:
        wire.send(client_frame(b"", final=False))
        all(wire.send(client_frame(b"", 0, final=False) * 10_000) for _ in range(50))


def test_two_hundred_half_messages_are_bounded_each_by_the_limit(server: Server, start_server: Callable[..., Server]) -> None:
    own = start_server(HUB__MAX_CONNECTIONS_PER_TOPIC="300")
    with stays_well(own), memory_grows_at_most(own, 40 * MIB), others_are_served(own):
        wires = [greeted(own) for _ in range(200)]
        for wire in wires:
            wire.send(client_frame(b"x" * 60_000, size=LIMIT_BYTES))
        for wire in wires:
            wire.sock.close()


# -- W8, W10: what is said -----------------------------------------------------------------------------------------

FLOODS: dict[str, bytes] = {
    "protocol pings": client_frame(b"", PING),
    "protocol pings of 125 bytes": client_frame(b"x" * 125, PING),
    "protocol pongs": client_frame(b"", PONG),
    "pong messages": client_frame(b'{"type":"pong","data":{}}'),
    "ping messages": client_frame(b'{"type":"ping","data":{}}'),
    "pauses": client_frame(b'{"type":"pause"}'),
    "resumes": client_frame(b'{"type":"resume"}'),
    "pauses and resumes": client_frame(b'{"type":"pause"}') + client_frame(b'{"type":"resume"}'),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_closed_as_abuse(server: Server, name: str) -> None:
    with memory_grows_at_most(server, 8 * MIB), others_are_served(server), greeted(server) as wire:
        sender = threading.Thread(target=wire.send, args=(FLOODS[name] * 10_000,))
        sender.start()
        assert wire.close_frame() == ABUSE
        wire.sock.close()
        sender.join(10)


def test_a_burst_of_what_a_screen_says_is_no_flood(server: Server) -> None:
    with greeted(server) as wire:
        wire.send((client_frame(b'{"type":"pause"}') + client_frame(b'{"type":"resume"}')) * 10)
        assert lives(wire)


def test_more_than_one_ping_a_second_is_told_when_to_come_again(server: Server) -> None:
    with greeted(server) as wire:
        for number in range(6):
            wire.say({"type": "ping", "data": {"number": number}})
        answers = [wire.message() for _ in range(6)]
        refused = [answer for answer in answers if answer["type"] == "error"]
        assert answers[0] == {"type": "pong", "topic": "tables", "data": {"number": 0}}
        assert len(refused) >= 4
        for answer in refused:
            assert answer["topic"] == "tables"
            assert answer["data"]["code"] == "RATE_LIMITED"
            assert 0 < answer["data"]["retry_after"] <= 2
            assert "remaining" in answer["data"]
        time.sleep(refused[-1]["data"]["retry_after"])
        wire.say({"type": "ping", "data": "again"})
        assert wire.message() == {"type": "pong", "topic": "tables", "data": "again"}


BAD_MESSAGES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("INVALID_MESSAGE",)),
    "text": (b"hello", ("INVALID_MESSAGE",)),
    "truncated": (b'{"type":"ping"', ("INVALID_MESSAGE",)),
    "two objects": (b'{"type":"pong"}{"type":"pong"}', ("INVALID_MESSAGE",)),
    "list": (b'[{"type":"ping"}]', ("INVALID_MESSAGE",)),
    "number": (b"5", ("INVALID_MESSAGE",)),
    "string": (b'"ping"', ("INVALID_MESSAGE",)),
    "null": (b"null", ("INVALID_MESSAGE",)),
    "NaN": (b'{"type":"ping","data":NaN}', ("INVALID_MESSAGE",)),
    "lone surrogate": (b'{"type":"ping","data":"\\ud800"}', ("INVALID_MESSAGE",)),
    "deep": (b"[" * 60_000, ("INVALID_MESSAGE",)),
    "no type": (b'{"data":{}}', ("INVALID_MESSAGE", "UNKNOWN_TYPE")),
    "type null": (b'{"type":null}', ("INVALID_MESSAGE", "UNKNOWN_TYPE")),
    "type list": (b'{"type":["ping"]}', ("INVALID_MESSAGE", "UNKNOWN_TYPE")),
    "type object": (b'{"type":{"ping":1}}', ("INVALID_MESSAGE", "UNKNOWN_TYPE")),
    "unknown type": (b'{"type":"evil"}', ("UNKNOWN_TYPE",)),
    "type in capitals": (b'{"type":"PING"}', ("UNKNOWN_TYPE",)),
    "a server's type": (b'{"type":"update","data":[]}', ("UNKNOWN_TYPE",)),
    "a session's type": (b'{"type":"subscribe","topic":"robots"}', ("UNKNOWN_TYPE",)),
    "type of 60,000 characters": (b'{"type":"' + b"x" * 60_000 + b'"}', ("UNKNOWN_TYPE",)),
    "type with control characters": (b'{"type":"a\\u0000\\u001b[31m"}', ("UNKNOWN_TYPE",)),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_a_bad_message_is_told_and_the_connection_lives(server: Server, name: str) -> None:
    text, codes = BAD_MESSAGES[name]
    with greeted(server) as wire:
        wire.say(text)
        answer = wire.message()
        assert (answer["type"], answer["topic"]) == ("error", "tables")
        assert answer["data"]["code"] in codes
        assert 0 < len(answer["data"]["message"]) < 500
        assert lives(wire)


def test_a_binary_message_is_told_and_the_connection_lives(server: Server) -> None:
    with greeted(server) as wire:
        wire.send(client_frame(b'{"type":"ping"}', BINARY))
        answer = wire.message()
        assert (answer["type"], answer["data"]["code"]) == ("error", "INVALID_MESSAGE")
        assert lives(wire)


def test_an_error_names_the_request(server: Server) -> None:
    with greeted(server) as wire:
        wire.say({"type": "evil", "requestId": "r-1"})
        assert wire.message()["data"]["requestId"] == "r-1"
        for request_id in ("x" * 60_000, 5, [1], {"a": 1}, None, True):
            wire.say({"type": "evil", "requestId": request_id})
            assert wire.message()["data"]["code"] in ("UNKNOWN_TYPE", "INVALID_MESSAGE")
        assert lives(wire)


@pytest.mark.parametrize("depth", [10, 200, 254, 255, 300, 1000, 1023])
def test_a_ping_with_data_at_any_depth_is_answered(server: Server, depth: int) -> None:
    with greeted(server) as wire:
        wire.say(b'{"type":"ping","data":' + b"[" * depth + b"]" * depth + b"}")
        answer = wire.message()
        assert answer["type"] == "pong" or answer["data"]["code"] == "INVALID_MESSAGE"
        assert lives(wire)


@pytest.mark.parametrize("data", [b"1e999", b"-1e999", b"9" * 5000, b"18446744073709551616", b'"\\u0000"', b"[]", b"null"])
def test_a_ping_with_any_data_is_answered(server: Server, data: bytes) -> None:
    with greeted(server) as wire:
        wire.say(b'{"type":"ping","data":' + data + b"}")
        answer = wire.message()
        assert answer["type"] == "pong" or answer["data"]["code"] == "INVALID_MESSAGE"
        assert lives(wire)


@pytest.mark.parametrize("data", [b"{}", b"null", b'"x"', b"[]", b'{"timestamp":"x"}', b'{"timestamp":1e999}', b'{"token":5}'])
@pytest.mark.parametrize("kind", [b"pong", b"pause", b"resume", b"token"])
def test_known_types_with_any_data_never_end_the_connection(server: Server, kind: bytes, data: bytes) -> None:
    with greeted(server) as wire:
        wire.say(b'{"type":"%s","data":%s}' % (kind, data))
        assert lives(wire)


def test_twenty_bad_messages_are_abuse_and_each_was_told(server: Server) -> None:
    with greeted(server) as wire:
        for number in range(19):
            wire.say([b"hello", b'{"type":"evil"}', b"[]"][number % 3])
            assert wire.message()["type"] == "error"
        assert lives(wire)
        wire.send(client_frame(b"x", BINARY))
        assert wire.close_frame() == ABUSE


def test_the_bad_messages_of_one_client_are_not_anothers(server: Server) -> None:
    with greeted(server) as bad, greeted(server) as good:
        for _ in range(25):
            bad.say(b"bad")
        assert bad.close_frame() == ABUSE
        assert lives(good)


# -- W11: positions ------------------------------------------------------------------------------------------------


def test_a_position_that_leads_nowhere_gets_a_snapshot(server: Server) -> None:
    for number in range(5):
        server.tell({"msg_type": "Table", "table_number": 1, "status": "OCCUPIED", "customer_count": number})
    with open_socket(server, "/ws/tables") as wire:
        first = wire.message()
    epoch, head = first["epoch"], first["offset"]
    assert head >= 5
    with open_socket(server, f"/ws/tables?since={head - 1}&epoch={epoch}") as wire:
        recovered = wire.message()
        assert recovered["recovered"] is True
        assert (recovered["prev"], recovered["offset"], recovered["epoch"]) == (head - 1, head, epoch)
    foreign = ["0" * len(epoch), epoch.upper() + "x", "", "null", "%00", "%F0%9F%A4%96", "x" * 3000]
    nowhere = [
        "-1",
        "1.5",
        "1e1",
        "abc",
        "",
        "null",
        "NaN",
        "%D9%A3",
        "0x1",
        "1_0",
        "%2B1",
        "9" * 30,
        "9" * 3000,
        "%00",
        "1%20",
    ]
    queries = [f"since={head - 1}&epoch={wrong}" for wrong in foreign]
    queries += [f"since={wrong}&epoch={epoch}" for wrong in nowhere]
    queries += [f"since={head - 1}", f"epoch={epoch}", f"since={head + 1}&epoch={epoch}", f"since={2**63}&epoch={epoch}"]
    for query in queries:
        with open_socket(server, f"/ws/tables?{query}") as wire:
            answer = wire.message()
            assert answer.get("snapshot") is True, (query, answer)
            assert (answer["offset"], answer["epoch"]) == (head, epoch), query
            assert answer["data"] == first["data"], query
            assert lives(wire)
        status, _, body = server.get(f"/api/tables?{query}")
        assert status == 200
        assert json.loads(body).get("snapshot") is True, query


def test_a_position_older_than_what_is_kept_gets_a_snapshot(start_server: Callable[..., Server]) -> None:
    server = start_server(DATABASE__CHANGES_RETAINED="10")
    with stays_well(server):
        for number in range(50):
            server.tell({"msg_type": "Table", "table_number": 1 + number % 2, "customer_count": 1 + number})
        kept = "SELECT count(*) FROM change WHERE topic = 'tables'"
        assert wait_until(lambda: server.sql(kept)[0][0] <= 20, within_s=10)
        server.restart()
        with open_socket(server, "/ws/tables") as wire:
            first = wire.message()
        with open_socket(server, f"/ws/tables?since=1&epoch={first['epoch']}") as wire:
            answer = wire.message()
        assert answer.get("snapshot") is True
        assert (answer["data"], answer["offset"]) == (first["data"], first["offset"])


def test_a_position_in_the_status_of_another_start_gets_the_whole(server: Server) -> None:
    for query in ("since=1&epoch=x", "since=-1", f"since={2**70}", "since=abc&epoch="):
        with open_socket(server, f"/ws/status?{query}") as wire:
            assert wire.message()["snapshot"] is True


# -- W12: who does not read ----------------------------------------------------------------------------------------


class Reader(threading.Thread):
    """A client that reads as told: `bytes_per_s` 0 is never."""

    def __init__(self, server: Server, *, bytes_per_s: int) -> None:
        super().__init__(daemon=True)
        self.wire = greeted(server, "/ws/events", receive_buffer=4096)
        self._bytes_per_s = bytes_per_s
        self.over = threading.Event()

    def run(self) -> None:
        while self._bytes_per_s and not self.over.wait(1.0):
            try:
                if not self.wire.sock.recv(self._bytes_per_s):
                    return
            except OSError:
                return


def closes(server: Server, code: int, reason: str) -> int:
    """Return how many WebSockets ended so, by the server's own count."""
    for line in server.get("/metrics")[2].decode().splitlines():
        if line.startswith(f'robodyne_ws_closes_total{{code="{code}",reason="{reason}"}}'):
            return int(float(line.split()[-1]))
    return 0


async def test_clients_that_do_not_read_are_dropped_and_others_get_everything(start_server: Callable[..., Server]) -> None:
    timeout_s = 3
    server = start_server(HUB__SLOW_CLIENT_TIMEOUT_S=str(timeout_s), HUB__SEND_BUFFER_LIMIT_BYTES="16384")
    events = 300
    with stays_well(server):
        async with server.watch("/ws/events") as healthy:
            replica = Replica()
            replica.apply(json.loads(await healthy.recv()))
            assert wait_until(lambda: server.get("/livez")[0] == 200, within_s=5)
            before = open_files(server)
            readers = [Reader(server, bytes_per_s=rate) for rate in (0, 0, 1, 1)]
            late = greeted(server, "/ws/events", receive_buffer=4096)
            for reader in readers:
                reader.start()

            def load() -> None:
                for number in range(events // 10):
                    data = "x" * 20_000
                    message = {"msg_type": "Event", "type": "INFO", "data": data}
                    for answer in server.tell(*({**message, "description": f"{number * 10 + k}"} for k in range(10))):
                        assert answer["status"] == "success"

            with memory_grows_at_most(server, 64 * MIB):
                loading = threading.Thread(target=load)
                loading.start()
                while len(replica.entities) < events:
                    replica.apply(json.loads(await healthy.recv()))
                loading.join()
            loaded_at = time.monotonic()
            seen = sorted(int(entity["description"]) for entity in replica.entities.values())
            assert seen == list(range(events))

            # Whoever reads at last within the time that a close may take learns why.
            assert wait_until(lambda: closes(server, 4005, "too_slow") >= 5, within_s=timeout_s + 15)
            assert late.close_frame() == (4005, "too_slow")
            late.sock.close()

            def gone() -> bool:
                return open_files(server) <= before

            assert wait_until(gone, within_s=timeout_s + 15 - (time.monotonic() - loaded_at)), open_files(server) - before
            for reader in readers:
                reader.over.set()
                reader.wire.sock.close()
            assert closes(server, 4005, "too_slow") == 5

            # The healthy one is still told.
            server.tell({"msg_type": "Event", "type": "INFO", "description": "after"})
            while "after" not in [entity["description"] for entity in replica.entities.values()]:
                replica.apply(json.loads(await healthy.recv()))


def test_a_client_that_never_takes_its_answers_is_bounded(server: Server) -> None:
    """It asks for more than it reads, just below what counts as a flood."""
    text = client_frame(b'{"type":"evil","requestId":"%s"}' % (b"x" * 190)) * 15
    with memory_grows_at_most(server, 16 * MIB), others_are_served(server):
        wires = [open_socket(server, "/ws/tables", receive_buffer=4096) for _ in range(80)]
        for wire in wires:
            wire.send(text)
        for wire in wires:
            wire.sock.close()


def test_a_client_that_vanishes_in_the_middle_of_anything_leaves_nothing(server: Server) -> None:
    before = open_files(server)
    pieces = [
        b"",
        upgrade(server, "/ws/robots")[:50],
        upgrade(server, "/ws/robots"),
        upgrade(server, "/ws/robots") + client_frame(b"x" * 100)[:50],
        upgrade(server, "/ws/robots") + client_frame(b"x", final=False),
        upgrade(server, "/ws/robots") + client_frame(b"\x03\xe8", CLOSE),
        upgrade(server, "/ws/nothing"),
    ]
    for piece in pieces * 20:
        with Wire(server.port) as wire:
            wire.send(piece)
    assert wait_until(lambda: open_files(server) <= before, within_s=15), open_files(server) - before


# -- the end -------------------------------------------------------------------------------------------------------


def test_none_of_this_filled_the_log_or_left_a_connection(server: Server) -> None:
    def quiet() -> bool:
        lines = server.get("/metrics")[2].decode().splitlines()
        return all(line.endswith(" 0.0") for line in lines if line.startswith("robodyne_ws_connections{"))

    assert wait_until(quiet, within_s=10)
    assert len(server.log().splitlines()) < 100, server.log()[-5000:]
