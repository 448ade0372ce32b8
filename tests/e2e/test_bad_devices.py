"""Bad device bytes: each gets its answer, nothing wrong is stored, and no other device notices (PITFALLS section 4, D1, D3)."""

import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.raw import (
    Wire,
    memory_grows_at_most,
    open_files,
    open_socket,
    others_are_served,
    stays_well,
    wait_until,
)
from tests.e2e.server import Server

MIB = 1 << 20
LIMIT_BYTES = 65536
INCOMPLETE_S = 5.0
EVENT = b'{"msg_type":"Event","type":"INFO","description":"good"}'


@pytest.fixture(autouse=True)
def well(server: Server) -> Iterator[None]:
    with stays_well(server):
        yield


def dial(server: Server, **options: Any) -> Wire:
    return Wire(server.devices_port, **options)


def prefixed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def with_crc(body: bytes) -> bytes:
    return b"%s*%08x\n" % (body, zlib.crc32(body))


def lives(wire: Wire) -> bool:
    """Return whether the next good line on the connection is answered with success."""
    wire.send(EVENT + b"\n")
    return bool(wire.line()["status"] == "success")


def assert_error(answer: dict[str, Any], *codes: str) -> None:
    """The answer is an error with one of these codes and a short text."""
    assert answer["status"] == "error", answer
    assert answer["error_code"] in codes, answer
    assert 0 < len(answer["message"]) < 1000


def refused(server: Server, body: bytes, *codes: str) -> dict[str, Any]:
    """Send one bad line; it must be refused and the connection live on. Return the answer."""
    with dial(server) as wire:
        wire.send(body + b"\n")
        answer = wire.line()
        assert_error(answer, *codes)
        assert lives(wire)
    return answer


def events(server: Server, description: str) -> int:
    return int(server.sql("SELECT count(*) FROM event WHERE description = ?", description)[0][0])


# -- D1: what is no message ----------------------------------------------------------------------------------------

GARBAGE: dict[str, bytes] = {
    "a word": b"hello\n",
    "a word without an end": b"hello",
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "an HTTP request with a body": b"POST /api/device-messages HTTP/1.1\r\nContent-Length: 54\r\n\r\n" + EVENT + b"\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(range(154)),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a length of 2^31": b"\x80\x00\x00\x00" + EVENT,
    "a length of 2^32 - 1": b"\xff\xff\xff\xff",
    "a list": b"[" + EVENT + b"]\n",
    "a text": b'"Event"\n',
    "a byte order mark": b"\xef\xbb\xbf" + EVENT + b"\n",
    "UTF-16": EVENT.decode().encode("utf-16"),
    "a control character": b"\x03",
    "white space and then a word": b" \r\n\t hello\n",
    "a megabyte of noise": b"\xaa\x55" * (MIB // 2),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_gets_one_error_line_and_is_closed(server: Server, name: str) -> None:
    with dial(server) as wire:
        wire.send(GARBAGE[name])
        lines = wire.rest().splitlines(keepends=True)
    assert len(lines) == 1, lines
    assert lines[0].endswith(b"\n")
    assert_error(json.loads(lines[0]), "INVALID_PAYLOAD")


def test_white_space_alone_is_no_message(server: Server) -> None:
    with dial(server) as wire:
        wire.send(b"\r\n \t\r\n" * 1000)
        assert lives(wire)


def test_white_space_without_end_costs_nothing(server: Server) -> None:
    with memory_grows_at_most(server, 8 * MIB), others_are_served(server), dial(server) as wire:
        wire.send(b" " * (20 * MIB))
        assert lives(wire)
        wire.send(b" " * (20 * MIB))
        wire.send(b"\n")
        assert_error(wire.line(), "TOO_LARGE")


def test_unfinished_messages_are_told_and_closed_after_five_seconds_and_silent_devices_stay(server: Server) -> None:
    line, length = EVENT[:20], prefixed(EVENT)
    unfinished = {
        "half a line": ([line], Wire.line),
        "a brace": ([b"{"], Wire.line),
        "half a line after a whole one": ([EVENT + b"\n" + line], Wire.line),
        "a whole object without its newline after a line": ([EVENT + b"\n" + EVENT], Wire.line),
        "a length": ([length[:4]], Wire.prefixed),
        "one byte of a length": ([length[:1]], Wire.prefixed),
        "half a body": ([length[:30]], Wire.prefixed),
        "half a body after a whole one": ([length + length[:30]], Wire.prefixed),
        "half of what is too large": ([prefixed(b"x" * 70_000)[:1000]], Wire.prefixed),
        "a line in drips": ([EVENT[at : at + 1] for at in range(20)], Wire.line),
        "a body in drips": ([length[at : at + 1] for at in range(20)], Wire.prefixed),
        "white space in drips within a line": ([line, *[b" "] * 20], Wire.line),
    }

    def hold(pieces: list[bytes], read: Callable[[Wire], dict[str, Any]]) -> tuple[float, dict[str, Any], bytes]:
        with dial(server, timeout_s=15) as wire:
            started = time.monotonic()
            for piece in pieces:
                if not wire.send(piece):
                    break
                if len(pieces) > 1:
                    time.sleep(0.4)
            while (answer := read(wire)).get("error_code") in (None, "TOO_LARGE"):
                pass
            rest = wire.rest()
            return time.monotonic() - started, answer, rest

    with dial(server) as silent, dial(server) as quiet, ThreadPoolExecutor(len(unfinished)) as pool:
        assert lives(quiet)
        running = {name: pool.submit(hold, *case) for name, case in unfinished.items()}
        outcomes = {name: case.exception() or case.result() for name, case in running.items()}
        assert lives(silent)
        assert lives(quiet)
    for name, outcome in outcomes.items():
        assert not isinstance(outcome, BaseException), (name, outcome)
        seconds, answer, rest = outcome
        assert_error(answer, "TIMEOUT")
        assert rest == b"", name
        assert INCOMPLETE_S - 0.5 < seconds < 3 * INCOMPLETE_S, (name, seconds)


def test_a_device_that_leaves_in_the_middle_of_anything_leaves_nothing(server: Server) -> None:
    before = open_files(server)
    pieces = [b"", b" ", b"{", EVENT[:20], EVENT, EVENT + b"\n", b"\0", prefixed(EVENT)[:10], prefixed(EVENT), b"x", b"\xff"]
    for piece in pieces * 10:
        with dial(server) as wire:
            wire.send(piece)
        with dial(server) as wire:
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))  # a reset
            wire.send(piece)
        with dial(server) as wire:
            wire.send(piece)
            wire.sock.shutdown(socket.SHUT_WR)
            wire.rest()
    assert wait_until(lambda: open_files(server) <= before, within_s=15), open_files(server) - before


def test_many_dials_keep_no_device_out_and_fill_no_log(server: Server) -> None:
    before, logged = open_files(server), len(server.log().splitlines())
    with dial(server) as device, others_are_served(server):
        for _ in range(1500):
            with dial(server) as wire:
                wire.send(b"x")
        assert lives(device)
    assert wait_until(lambda: open_files(server) <= before, within_s=15), open_files(server) - before
    assert len(server.log().splitlines()) - logged < 20


def test_devices_over_the_limit_are_told_and_closed(start_server: Callable[..., Server]) -> None:
    server = start_server(DEVICES__MAX_CONNECTIONS="3")
    with stays_well(server):
        devices = [dial(server) for _ in range(3)]
        assert all(lives(device) for device in devices)
        logged = len(server.log().splitlines())
        for _ in range(300):
            with dial(server) as wire:
                assert_error(json.loads(wire.rest()), "RATE_LIMITED")
        assert len(server.log().splitlines()) - logged < 20
        assert all(lives(device) for device in devices)
        devices.pop().sock.close()

        def let_in() -> bool:
            with dial(server) as wire:
                wire.send(EVENT + b"\n")
                return bool(wire.line()["status"] == "success")

        assert wait_until(let_in, within_s=5)
        for device in devices:
            device.sock.close()


def test_devices_of_a_network_that_is_not_trusted_are_told_and_closed(start_server: Callable[..., Server]) -> None:
    server = start_server(DEVICES__AUTH="none", DEVICES__TRUSTED_NETWORKS='["10.0.0.0/8"]')
    with stays_well(server):
        for first in (EVENT + b"\n", b"", prefixed(EVENT), b"GET / HTTP/1.1\r\n\r\n"):
            with dial(server) as wire:
                wire.send(first)
                assert_error(json.loads(wire.rest()), "UNAUTHORIZED")
        assert server.sql("SELECT count(*) FROM event") == [(0,)]
        assert server.log().count("device_refused") < 10


# -- D3: sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LIMIT_BYTES + 100, 200_000, 5 * MIB])
def test_an_over_long_line_is_told_once_and_the_connection_lives(server: Server, size: int) -> None:
    with memory_grows_at_most(server, 8 * MIB), dial(server) as wire:
        wire.send(b'{"msg_type":"Event","type":"INFO","data":"' + b"x" * size + b'"}\n')
        assert_error(wire.line(), "TOO_LARGE")
        assert lives(wire)


def test_a_line_of_exactly_the_limit_is_taken(server: Server) -> None:
    body = b'{"msg_type":"Event","type":"INFO","junk":"%s"}'
    body = body % (b"x" * (LIMIT_BYTES - len(body) + 2))
    assert len(body) == LIMIT_BYTES
    with dial(server) as wire:
        wire.send(body + b"\r\n")
        assert wire.line()["status"] == "success"
        wire.send(with_crc(body))
        assert wire.take_until(b"\n").startswith(b'{"status":"success"')
    with dial(server) as wire:
        wire.send(prefixed(body))
        assert wire.prefixed()["status"] == "success"


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 200_000])
def test_an_over_large_prefixed_message_is_told_and_the_connection_lives(server: Server, size: int) -> None:
    with memory_grows_at_most(server, 8 * MIB), dial(server) as wire:
        wire.send(prefixed(EVENT) + prefixed(b"x" * size) + prefixed(EVENT))
        assert wire.prefixed()["status"] == "success"
        assert_error(wire.prefixed(), "TOO_LARGE")
        assert wire.prefixed()["status"] == "success"


@pytest.mark.parametrize("size", [2**24 - 1, 2 * MIB])
def test_an_absurd_length_is_told_before_it_comes(server: Server, size: int) -> None:
    with dial(server) as wire:
        wire.send(size.to_bytes(4, "big") + b"x" * 100)
        assert_error(wire.prefixed(), "TOO_LARGE")


@pytest.mark.parametrize("length", [b"\x80\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"])
def test_an_absurd_length_after_a_good_message_is_told(server: Server, length: bytes) -> None:
    with memory_grows_at_most(server, 8 * MIB), dial(server) as wire:
        wire.send(prefixed(EVENT) + length + b"x" * 100_000)
        assert wire.prefixed()["status"] == "success"
        assert_error(wire.prefixed(), "TOO_LARGE")


def test_a_prefixed_message_of_no_length_is_refused(server: Server) -> None:
    with dial(server) as wire:
        wire.send(bytes(4) + prefixed(EVENT))
        assert_error(wire.prefixed(), "INVALID_PAYLOAD")
        assert wire.prefixed()["status"] == "success"


# -- D3: contents --------------------------------------------------------------------------------------------------

NOT_JSON: dict[str, bytes] = {
    "truncated": b'{"msg_type":"Event","type":"IN',
    "text in braces": b"{hello}",
    "two objects": EVENT + EVENT,
    "trailing comma": b'{"msg_type":"Event",}',
    "NaN": b'{"msg_type":"Albabot","robot_id":"nan","world_x":NaN}',
    "Infinity": b'{"msg_type":"Albabot","robot_id":"nan","world_x":Infinity}',
    "invalid UTF-8": b'{"msg_type":"Event","type":"INFO","description":"\xff\xfe"}',
    "overlong UTF-8": b'{"msg_type":"Event","type":"INFO","description":"\xc0\xaf"}',
    "lone surrogate": b'{"msg_type":"Event","type":"INFO","description":"\\ud800"}',
    "control character": b'{"msg_type":"Event","type":"INFO","description":"\x01"}',
    "NUL": b'{"msg_type":"Event"}\0',
    "20,000 nested lists": b'{"msg_type":"Event","type":"INFO","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "10,000 nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "60,000 brackets": b'{"a":' + b"[" * 60_000,
}

NOT_AN_OBJECT: dict[str, bytes] = {"list": b"[]", "text": b'"x"', "number": b"5", "null": b"null", "word": b"hello"}

WRONG: dict[str, bytes] = {
    "Albabot without robot_id": b'{"msg_type":"Albabot"}',
    "empty robot_id": b'{"msg_type":"Albabot","robot_id":""}',
    "robot_id of spaces": b'{"msg_type":"Albabot","robot_id":"   "}',
    "robot_id with a newline": b'{"msg_type":"Albabot","robot_id":"a\\nb"}',
    "robot_id with an escape": b'{"msg_type":"Albabot","robot_id":"a\\u001b[31m"}',
    "robot_id with NUL": b'{"msg_type":"Albabot","robot_id":"a\\u0000b"}',
    "robot_id of 60,000 characters": b'{"msg_type":"Albabot","robot_id":"' + b"x" * 60_000 + b'"}',
    "robot_id list": b'{"msg_type":"Albabot","robot_id":["a"]}',
    "unknown status": b'{"msg_type":"Albabot","robot_id":"w","status":"EVIL"}',
    "status object": b'{"msg_type":"Albabot","robot_id":"w","status":{"a":1}}',
    "battery beyond any number": b'{"msg_type":"Albabot","robot_id":"w","battery_level":1e999}',
    "pose beyond any number": b'{"msg_type":"Albabot","robot_id":"w","world_x":1e999,"world_y":0}',
    "table without a number": b'{"msg_type":"Table","status":"OCCUPIED"}',
    "table 0": b'{"msg_type":"Table","table_number":0}',
    "table -1": b'{"msg_type":"Table","table_number":-1}',
    "table 1.5": b'{"msg_type":"Table","table_number":1.5}',
    "table of 5,000 digits": b'{"msg_type":"Table","table_number":' + b"9" * 5000 + b"}",
    "table 2^64": b'{"msg_type":"Table","table_number":18446744073709551616}',
    "table with -5 guests": b'{"msg_type":"Table","table_number":1,"customer_count":-5}',
    "table with 2^63 guests": b'{"msg_type":"Table","table_number":1,"customer_count":9223372036854775808}',
    "unknown table status": b'{"msg_type":"Table","table_number":1,"status":"ON_FIRE"}',
    "event without a type": b'{"msg_type":"Event"}',
    "event of an odd type": b'{"msg_type":"Event","type":"<script>"}',
    "unknown severity": b'{"msg_type":"Event","type":"INFO","severity":"PANIC"}',
    "description that is an object": b'{"msg_type":"Event","type":"INFO","description":{"a":1}}',
    "order of nothing": b'{"msg_type":"Order","table_number":1,"items":[]}',
    "order of an unknown dish": b'{"msg_type":"Order","table_number":1,"items":[{"menu_item_id":999999}]}',
    "order of a dish without a name": b'{"msg_type":"Order","table_number":1,"items":[{}]}',
    "order of -1": b'{"msg_type":"Order","table_number":1,"items":[{"name":"ramyeon","quantity":-1}]}',
    "order that is a text": b'{"msg_type":"Order","table_number":1,"items":"all"}',
    "order of 10,000 dishes": b'{"msg_type":"Order","table_number":1,"items":[' + b"{}," * 10_000 + b"{}]}",
    "unknown order": b'{"msg_type":"Order","order_id":424242,"status":"READY"}',
    "order_id beyond 2^53": b'{"msg_type":"Order","order_id":9007199254740993,"status":"READY"}',
    "order_id beyond 64 bits": b'{"msg_type":"Order","order_id":36893488147419103232,"status":"READY"}',
    "unknown ingredient": b'{"msg_type":"Ingredient","name":"unobtainium","count":1}',
    "negative stock": b'{"msg_type":"Ingredient","name":"rice","count":-1}',
    "stock beyond any number": b'{"msg_type":"Inventory","id":1,"count":1e999}',
    "face of no table": b'{"msg_type":"Face","exist":true}',
    "face that is a number": b'{"msg_type":"Face","table_id":1,"exist":7}',
    "question that is missing": b'{"msg_type":"Chatbot"}',
    "log of nothing": b'{"msg_type":"Log","message":""}',
    "log of an unknown level": b'{"msg_type":"Log","level":"WHISPER","message":"x"}',
    "result of no command": b'{"msg_type":"CommandResult","status":"EXECUTED"}',
    "progress of 200": b'{"msg_type":"CommandAck","command_id":"c","progress":200}',
    "hello of nobody": b'{"msg_type":"Hello"}',
    "hello with a newline": b'{"msg_type":"Hello","device_id":"a\\n<3>{}"}',
    "id that is a list": b'{"msg_type":"Event","type":"INFO","id":[1]}',
    "id that is an object": b'{"msg_type":"Event","type":"INFO","id":{}}',
    "id of 60,000 characters": b'{"msg_type":"Event","type":"INFO","id":"' + b"x" * 60_000 + b'"}',
    "ts that is a word": b'{"msg_type":"Event","type":"INFO","ts":"yesterday"}',
    "ts that is true": b'{"msg_type":"Event","type":"INFO","ts":true}',
    "ts that is a list": b'{"msg_type":"Event","type":"INFO","ts":[1]}',
}

LEFT_OUT: dict[str, bytes] = {
    "battery_level": b'{"msg_type":"Albabot","robot_id":"w","battery_level":100.4}',
    "battery_level ": b'{"msg_type":"Albabot","robot_id":"w","battery_level":"full"}',
    "world_x": b'{"msg_type":"Albabot","robot_id":"w","world_x":1e300,"world_y":0}',
    "angle_1": b'{"msg_type":"Cookbot","robot_id":"w","angle_1":[1]}',
}

UNKNOWN: dict[str, bytes] = {
    "unknown": b'{"msg_type":"Evil"}',
    "lower case": b'{"msg_type":"event","type":"INFO"}',
    "missing": b'{"type":"INFO"}',
    "nothing": b"{}",
    "null": b'{"msg_type":null}',
    "number": b'{"msg_type":5}',
    "list": b'{"msg_type":["Event"]}',
    "object": b'{"msg_type":{"Event":1}}',
    "long": b'{"msg_type":"' + b"x" * 60_000 + b'"}',
    "with an escape": b'{"msg_type":"\\u001b[31m\\u0000"}',
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_a_line_that_is_no_json_is_refused(server: Server, name: str) -> None:
    with dial(server) as wire:
        wire.send(EVENT + b"\n" + NOT_JSON[name] + b"\n")
        assert wire.line()["status"] == "success"
        assert_error(wire.line(), "INVALID_PAYLOAD")
        assert lives(wire)


@pytest.mark.parametrize("name", NOT_JSON)
def test_a_prefixed_message_that_is_no_json_is_refused(server: Server, name: str) -> None:
    with dial(server) as wire:
        wire.send(prefixed(NOT_JSON[name]) + prefixed(EVENT))
        assert_error(wire.prefixed(), "INVALID_PAYLOAD")
        assert wire.prefixed()["status"] == "success"


@pytest.mark.parametrize("name", NOT_AN_OBJECT)
def test_a_message_that_is_no_object_is_refused(server: Server, name: str) -> None:
    with dial(server) as wire:
        wire.send(EVENT + b"\n" + NOT_AN_OBJECT[name] + b"\n")
        assert wire.line()["status"] == "success"
        assert_error(wire.line(), "INVALID_PAYLOAD")
        assert lives(wire)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_refused_and_the_connection_lives(server: Server, name: str) -> None:
    refused(server, WRONG[name], "INVALID_PAYLOAD")


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_number_that_cannot_be_taken_is_left_out_of_a_robots_state(server: Server, name: str) -> None:
    with dial(server) as wire:
        wire.send(LEFT_OUT[name] + b"\n")
        answer = wire.line()
        assert (answer["status"], answer["details"]) == ("success", {"left_out": [name.strip()]})
        assert lives(wire)


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_type_is_refused_and_the_connection_lives(server: Server, name: str) -> None:
    refused(server, UNKNOWN[name], "UNKNOWN_TYPE", *(() if name in ("unknown", "lower case", "long") else ("INVALID_PAYLOAD",)))


def test_an_error_names_the_message(server: Server) -> None:
    assert refused(server, b'{"msg_type":"Evil","id":"m-1"}', "UNKNOWN_TYPE")["id"] == "m-1"
    assert refused(server, b'{"msg_type":"Albabot","id":"m-2"}', "INVALID_PAYLOAD")["id"] == "m-2"


def test_a_raw_message_that_is_wrong_is_answered_with_one_word(server: Server) -> None:
    with dial(server) as wire:
        wire.send(b'{"msg_type":"Evil"}')
        assert wire.take(5) == b"ERROR"
        wire.send(EVENT)
        assert wire.take(2) == b"OK"
        wire.send(b'{"msg_type":"Albabot"}')
        assert wire.take(5) == b"ERROR"
        assert not wire.received


DEEP: dict[str, tuple[str, bytes]] = {
    "event": ("events", b'{"msg_type":"Event","type":"INFO","data":%s}'),
    "event with id": ("events", b'{"msg_type":"Event","type":"INFO","id":"deep","data":%s}'),
    "log": ("systemlogs", b'{"msg_type":"Log","message":"deep","data":%s}'),
    "order": ("orders", b'{"msg_type":"Order","table_number":1,"items":[{"name":"ramyeon","options":%s}]}'),
}


@pytest.mark.parametrize("name", DEEP)
def test_data_at_any_depth_is_stored_or_refused_and_stops_no_screen(start_server: Callable[..., Server], name: str) -> None:
    topic, body = DEEP[name]
    server = start_server()
    patient: dict[str, Any] = {"timeout_s": 3.0}
    with (
        stays_well(server),
        open_socket(server, f"/ws/{topic}", **patient) as screen,
        open_socket(server, "/ws/robots", **patient) as other,
    ):
        server.sql("INSERT INTO menu_item(name) VALUES ('ramyeon')")
        assert screen.message()["snapshot"] is True
        assert other.message()["snapshot"] is True
        for depth in (100, *range(245, 260), 300, 1000):
            deep = body % (b"[" * depth + b"]" * depth)
            with dial(server, **patient) as wire:
                # In one write, so that one transaction and one delivery hold what is deep and what is not.
                wire.send(
                    deep.replace(b'"deep"', b'"deep-%d"' % depth) + b'\n{"msg_type":"Albabot","robot_id":"r-%d"}\n' % depth
                )
                answer = wire.line()
                assert answer.get("error_code") in (None, "INVALID_PAYLOAD"), (depth, answer)
                assert wire.line()["status"] == "success", depth
            if answer["status"] == "success":
                assert screen.message()["type"] == "update"
            assert other.message()["data"][0]["robot_id"] == f"r-{depth}"
            assert server.get(f"/api/{topic}")[0] == 200, depth


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (depth, message)
        for depth in (100, 254, 300, 1000)
        for message in (
            b'{"msg_type":"Face","table_id":1,"exist":true,"history":%s}',
            b'{"msg_type":"Chatbot","question":"?","junk":%s}',
            b'{"msg_type":"CommandResult","command_id":"c","status":"EXECUTED","result":%s}',
            b'{"msg_type":"Inventory","name":"rice","count":1,"position":%s}',
        )
    ],
)
def test_other_deep_fields_are_no_server_error(server: Server, depth: int, message: bytes) -> None:
    with dial(server) as wire:
        wire.send(message % (b"[" * depth + b"]" * depth) + b"\n")
        assert wire.line().get("error_code") in (None, "INVALID_PAYLOAD")
        assert lives(wire)


@pytest.mark.parametrize("depth", [253, 1500])
def test_deep_data_of_a_foreign_program_stops_no_screen(start_server: Callable[..., Server], depth: int) -> None:
    server = start_server()
    with stays_well(server), open_socket(server, "/ws/events", timeout_s=3.0) as screen:
        assert screen.message()["snapshot"] is True
        server.tell({"msg_type": "Event", "type": "INFO", "description": "before"})
        assert screen.message()["data"][0]["description"] == "before"
        server.sql("UPDATE event SET data = ?", "[" * depth + "]" * depth)
        assert screen.message()["type"] == "update"
        assert server.get("/api/events")[0] == 200
        server.tell({"msg_type": "Event", "type": "INFO", "description": "after"})
        while "after" not in [event["description"] for event in screen.message()["data"]]:
            pass


@pytest.mark.parametrize("number", [b"1e308", b"-1e308", b"1e999", b"9" * 5000, b"18446744073709551616", b"0.1e-999", b"-0"])
def test_numbers_in_data_are_stored_or_refused(server: Server, number: bytes) -> None:
    with dial(server) as wire:
        wire.send(b'{"msg_type":"Event","type":"INFO","data":{"n":' + number + b"}}\n")
        assert wire.line().get("error_code") in (None, "INVALID_PAYLOAD")
        assert lives(wire)
    assert server.get("/api/events")[0] == 200


TEXTS = [
    "<script>alert(1)</script>",
    "'; DROP TABLE event; --",
    "=cmd|' /C calc'!A0",
    "a\x00b",
    "a\x1b[31mb",
    "a\r\n<3>{}",
    "로봇🤖",
    "\u202e",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_reaches_the_screens_as_it_was(server: Server, text: str) -> None:
    lines = len(server.log().splitlines())
    (answer,) = server.tell({"msg_type": "Event", "type": "INFO", "description": text})
    if answer["status"] == "success":
        with open_socket(server, "/ws/events") as screen:
            assert screen.message()["data"][-1]["description"] == text
    else:
        assert_error(answer, "INVALID_PAYLOAD")
    assert len(server.log().splitlines()) == lines


# -- D3: CRC -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crc", [b"00000000", b"ffffffff", b"FFFFFFFF"])
def test_a_wrong_crc_is_refused_and_never_stored(server: Server, crc: bytes) -> None:
    body = b'{"msg_type":"Event","type":"INFO","description":"bad crc"}'
    with dial(server) as wire:
        wire.send(body + b"*" + crc + b"\n")
        assert_error(json.loads(wire.take_until(b"\n").partition(b"*")[0]), "INVALID_PAYLOAD")
        assert lives(wire)
    assert events(server, "bad crc") == 0


@pytest.mark.parametrize("at", range(0, 58, 5))
def test_a_flipped_bit_under_a_crc_is_refused_and_never_stored(server: Server, at: int) -> None:
    line = bytearray(with_crc(b'{"msg_type":"Event","type":"INFO","description":"flipped"}'))
    line[at] ^= 0x04
    with dial(server) as wire:
        wire.send(EVENT + b"\n" + line)
        assert wire.line()["status"] == "success"
        assert_error(json.loads(wire.take_until(b"\n").partition(b"*")[0]), "INVALID_PAYLOAD")
        assert lives(wire)
    assert events(server, "flipped") == 0


@pytest.mark.parametrize("suffix", [b"*", b"*1234567", b"*123456789", b"*zzzzzzzz", b"**00000000", b"*00000000*00000000"])
def test_what_only_looks_like_a_crc_is_refused(server: Server, suffix: bytes) -> None:
    body = b'{"msg_type":"Event","type":"INFO","description":"odd crc"}'
    with dial(server) as wire:
        wire.send(body + suffix + b"\n")
        assert_error(json.loads(wire.take_until(b"\n").partition(b"*")[0]), "INVALID_PAYLOAD")
    assert events(server, "odd crc") == 0


def test_a_right_crc_is_answered_with_one(server: Server) -> None:
    with dial(server) as wire:
        wire.send(with_crc(EVENT))
        body, _, crc = wire.take_until(b"\n").rpartition(b"*")
        assert json.loads(body)["status"] == "success"
        assert zlib.crc32(body) == int(crc, 16)


# -- D3: ids -------------------------------------------------------------------------------------------------------


def test_a_message_that_comes_twice_is_answered_alike_and_changes_nothing(server: Server) -> None:
    message = {
        "msg_type": "Event",
        "type": "CALL",
        "table_number": 7,
        "description": "twice",
        "id": "twice-1",
        "ts": time.time(),
    }
    first, second = server.tell(message, message)
    (third,) = server.tell(message | {"ts": time.time() + 1})
    (fourth,) = server.tell(dict(reversed(message.items())))
    assert first["status"] == second["status"] == third["status"] == fourth["status"] == "success"
    assert first["details"]["event_id"] == second["details"]["event_id"]
    assert {answer["id"] for answer in (first, second, third, fourth)} == {"twice-1"}
    assert events(server, "twice") == 1


def test_a_duplicate_announces_nothing(server: Server) -> None:
    message = {"msg_type": "Albabot", "robot_id": "dup-1", "status": "SERVING", "id": "dup"}
    server.tell(message, {"msg_type": "Albabot", "robot_id": "dup-1", "status": "IDLE"})
    before = server.sql("SELECT \"offset\" FROM topic_head WHERE topic = 'robots'")
    (answer,) = server.tell(message)
    assert answer["status"] == "success"
    assert server.sql("SELECT \"offset\" FROM topic_head WHERE topic = 'robots'") == before
    assert server.sql("SELECT status FROM robot WHERE robot_id = 'dup-1'") == [("IDLE",)]


@pytest.mark.parametrize(
    "other",
    [
        {"description": "other"},
        {"severity": "ERROR"},
        {"type": "BIRTHDAY"},
        {"data": None},
        {"data": {"a": 2}},
        {"data": {"a": 1.5}},
        {"data": {"a": "1"}},
        {"junk": 1},
    ],
)
def test_an_id_with_another_body_is_a_conflict(server: Server, other: dict[str, Any]) -> None:
    message = {
        "msg_type": "Event",
        "type": "INFO",
        "table_number": 8,
        "description": "first",
        "data": {"a": 1},
        "id": "conflict-1",
    }
    (first,) = server.tell(message)
    assert first["status"] == "success"
    answer, again = server.tell(message | other, message)
    assert_error(answer, "CONFLICT")
    assert answer["id"] == "conflict-1"
    assert again["status"] == "success"
    assert events(server, "first") == 1
    assert events(server, "other") == 0


def test_an_id_of_a_refused_message_may_be_used_again(server: Server) -> None:
    bad = {"msg_type": "Order", "order_id": 424242, "status": "READY", "table_number": 9, "id": "again-1"}
    good = {"msg_type": "Event", "type": "INFO", "table_number": 9, "description": "again", "id": "again-1"}
    answers = server.tell(bad, good)
    assert_error(answers[0], "INVALID_PAYLOAD")
    assert answers[1]["status"] == "success"


def test_an_id_of_another_device_is_another_id(server: Server) -> None:
    message = {"msg_type": "Event", "type": "INFO", "description": "whose", "id": "whose-1"}
    answers = server.tell(message | {"table_number": 1}, message | {"table_number": 2}, message | {"robot_id": "alba-9"})
    assert [answer["status"] for answer in answers] == ["success"] * 3
    assert events(server, "whose") == 3


def test_the_same_id_a_hundred_times_at_once_is_stored_once(server: Server) -> None:
    message = {"msg_type": "Event", "type": "INFO", "table_number": 3, "description": "at once", "id": "at-once"}
    with ThreadPoolExecutor(10) as pool:
        answers = [answer for batch in pool.map(lambda _: server.tell(*[message] * 10), range(10)) for answer in batch]
    assert [answer["status"] for answer in answers] == ["success"] * 100
    assert events(server, "at once") == 1


# -- D3: time ------------------------------------------------------------------------------------------------------

CLOCK_FAULTS: list[Any] = [
    0,
    1,
    -1,
    -1e18,
    1e18,
    2**63,
    2**64,
    "1970-01-01T00:00:00Z",
    "2099-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    253402300799,
]


@pytest.mark.parametrize("ts", CLOCK_FAULTS)
def test_a_time_that_cannot_be_meant_is_ignored(server: Server, ts: Any) -> None:
    robot = f"clock-{CLOCK_FAULTS.index(ts)}"
    select = "SELECT status FROM robot WHERE robot_id = ?"
    (answer,) = server.tell({"msg_type": "Albabot", "robot_id": robot, "status": "SERVING", "ts": ts})
    assert answer["status"] == "success"
    assert server.sql(select, robot) == [("SERVING",)]
    # It must not count as the newest either: a good message, with and without a time, still changes the robot.
    server.tell({"msg_type": "Albabot", "robot_id": robot, "status": "CHARGING", "ts": time.time()})
    assert server.sql(select, robot) == [("CHARGING",)]
    server.tell({"msg_type": "Albabot", "robot_id": robot, "status": "CLEANING", "ts": ts})
    assert server.sql(select, robot) == [("CLEANING",)]
    server.tell({"msg_type": "Albabot", "robot_id": robot, "status": "IDLE"})
    assert server.sql(select, robot) == [("IDLE",)]


def test_clock_faults_are_counted(server: Server) -> None:
    def counted() -> float:
        lines = server.get("/metrics")[2].decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith("robodyne_device_clock_faults_total"))

    before = counted()
    server.tell(*({"msg_type": "Event", "type": "INFO", "ts": ts} for ts in (0, time.time() + 3600, time.time())))
    assert counted() - before == 2


def test_an_event_of_1970_bears_the_time_of_the_server(server: Server) -> None:
    server.tell({"msg_type": "Event", "type": "INFO", "description": "of 1970", "ts": 0})
    (stamp,) = server.sql("SELECT timestamp FROM event WHERE description = 'of 1970'")[0]
    assert not str(stamp).startswith("1970")


def test_an_older_report_changes_nothing(server: Server) -> None:
    now = time.time()
    report = {"msg_type": "Albabot", "robot_id": "older-1"}
    answers = server.tell(report | {"status": "SERVING", "ts": now}, report | {"status": "IDLE", "ts": now - 5})
    assert [answer["status"] for answer in answers] == ["success", "success"]
    assert server.sql("SELECT status FROM robot WHERE robot_id = 'older-1'") == [("SERVING",)]


# -- too much ------------------------------------------------------------------------------------------------------


def test_robots_and_tables_are_not_made_without_end(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with stays_well(server), others_are_served(server):
        answers = server.tell(*({"msg_type": "Albabot", "robot_id": f"r-{number}"} for number in range(700)))
        assert [answer["status"] for answer in answers[:500]] == ["success"] * 500
        for answer in answers[500:]:
            assert_error(answer, "INVALID_PAYLOAD", "RATE_LIMITED")
        answers = server.tell(*({"msg_type": "Table", "table_number": number} for number in range(1, 701)))
        for answer in answers[500:]:
            assert_error(answer, "INVALID_PAYLOAD", "RATE_LIMITED")
        with dial(server) as wire:
            wire.send(b"".join(b'{"msg_type":"Telemetry","robot_id":"t-%d","x":1,"y":1}\n' % n for n in range(3000)))
            assert lives(wire)
        server.tell(*({"msg_type": "Event", "type": "INFO", "robot_id": f"e-{number}"} for number in range(600)))
        time.sleep(1.5)  # telemetry is stored once a second
        assert server.sql("SELECT count(*) FROM robot")[0][0] <= 500
        assert server.sql("SELECT count(*) FROM table_")[0][0] <= 500
        assert server.log().count('"level":"ERROR"') < 5, server.log()[-3000:]


def flood(wire: Wire, data: bytes, *, times: int) -> int:
    """Send without reading until the server takes no more; return how often `data` was sent."""
    wire.sock.settimeout(1.0)
    for sent in range(times):
        if not wire.send(data):
            return sent
    return times


@pytest.mark.parametrize(
    "line",
    [
        b'{"msg_type":"Evil","id":"' + b"x" * 190 + b'"}\n',
        EVENT + b"\n",
        b'{"msg_type":"Albabot"}\n',
        b"{}*00000000\n",
    ],
)
def test_a_device_that_never_reads_its_answers_is_not_read_from(server: Server, line: bytes) -> None:
    block = line * (65536 // len(line))
    with memory_grows_at_most(server, 48 * MIB), others_are_served(server), dial(server, receive_buffer=4096) as wire:
        assert flood(wire, block, times=3000) < 3000
        with dial(server) as other:
            assert lives(other)


def test_answers_come_in_order_whatever_is_wrong_between(server: Server) -> None:
    good = b'{"msg_type":"Event","type":"INFO","id":"order-%d"}\n'
    bad = [b'{"msg_type":"Evil"}\n', b"{\n", b"{}*00000000\n", b"x" * 70_000 + b"\n"]
    codes = ["UNKNOWN_TYPE", "INVALID_PAYLOAD", "INVALID_PAYLOAD", "TOO_LARGE"]
    with dial(server) as wire:
        wire.send(b"".join(good % number + bad[number % 4] for number in range(400)))
        for number in range(400):
            answer = wire.line()
            assert (answer["status"], answer["id"]) == ("success", f"order-{number}")
            assert_error(wire.line(), codes[number % 4])


# -- the end -------------------------------------------------------------------------------------------------------


def test_none_of_this_filled_the_log_or_left_a_connection(server: Server) -> None:
    def quiet() -> bool:
        return b'robodyne_device_connections{port="tcp"} 0.0' in server.get("/metrics")[2]

    assert wait_until(quiet, within_s=10)
    assert len(server.log().splitlines()) < 100, server.log()[-5000:]
    assert "Traceback" not in server.log()
