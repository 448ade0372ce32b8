"""Devices that prove a key, and those that cannot (SPEC section 5, "Device authentication"; PITFALLS D1 and D2)."""

import contextlib
import json
import secrets
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.authority import Authority
from tests.e2e.people import Device, add_device, control, do, proof, unique
from tests.e2e.raw import Wire, memory_grows_at_most, stays_well, wait_until
from tests.e2e.server import Server

REFUSED = ("error", "UNAUTHORIZED", "authentication failed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("keys"), AUTH__MODE="local", DEVICES__TRUSTED_NETWORKS="[]") as running:
        yield running
        assert running.is_running, running.log()


@pytest.fixture(autouse=True)
def well(server: Server) -> Iterator[None]:
    with stays_well(server):
        yield


_next_address = iter(range(2, 250))


class Line(Wire):
    """A device's wire, of one of the two framings, from an address of its own: failures are counted by address."""

    def __init__(self, server: Server, *, prefixed: bool = False, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        address = f"127.9.0.{next(_next_address)}"
        self.sock = socket.create_connection(("127.0.0.1", port or server.devices_port), 10, source_address=(address, 0))
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.received = bytearray()
        self.ended = False
        self.prefixed_frames = prefixed

    def say(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        self.send(len(data).to_bytes(4, "big") + data if self.prefixed_frames else data + b"\n")

    def answer(self) -> Any:
        return self.prefixed() if self.prefixed_frames else self.line()

    def ask(self, message: dict[str, Any]) -> Any:
        self.say(message)
        return self.answer()

    def challenge(self, device_id: str, client_nonce: str | None = None) -> tuple[str, str]:
        """Ask for a challenge; return both nonces."""
        client_nonce = client_nonce or secrets.token_hex(16)
        answer = self.ask({"msg_type": "Hello", "device_id": device_id, "client_nonce": client_nonce})
        assert answer["status"] == "challenge", answer
        assert len(bytes.fromhex(answer["nonce"])) >= 16
        return answer["nonce"], client_nonce

    def prove(self, device: Device, **more: Any) -> Any:
        """Do the whole handshake; return the answer to the proof."""
        nonce, client_nonce = self.challenge(device.id)
        said = proof(device.key, device.id, nonce, client_nonce)
        return self.ask({"msg_type": "Hello", "device_id": device.id, "proof": said, **more})

    def is_closed(self) -> bool:
        return self.rest() == b""


def verdict(answer: Any) -> tuple[str, str, str]:
    return answer["status"], answer.get("error_code", ""), answer["message"]


def connect(server: Server, device: Device, **options: Any) -> Line:
    line = Line(server, **options)
    answer = line.prove(device)
    assert answer["status"] == "success", answer
    return line


@pytest.mark.parametrize("prefixed", [False, True])
def test_a_device_that_proves_its_key_may_speak(server: Server, prefixed: bool) -> None:
    device = add_device(server)
    with connect(server, device, prefixed=prefixed) as line:
        answer = line.ask({"msg_type": "Albabot", "robot_id": device.id, "status": "IDLE", "id": "1"})
        assert answer["status"] == "success"
        assert line.ask({"msg_type": "Event", "type": "CALL", "table_number": 3, "id": "2"})["status"] == "success"


def test_a_proof_with_robots_of_others_puts_nobody_out(server: Server) -> None:
    device = add_device(server)
    with connect(server, device) as line, Line(server) as other:
        answer = other.prove(device, robots=["somebody-elses"])
        assert answer["error_code"] == "UNAUTHORIZED" and "somebody-elses" in answer["message"]
        report = {"msg_type": "Albabot", "robot_id": device.id, "status": "IDLE"}
        assert other.ask(report)["error_code"] == "UNAUTHORIZED"
        assert line.ask(report)["status"] == "success"


def test_the_proof_may_be_in_capitals_and_the_hello_may_have_an_id(server: Server) -> None:
    device = add_device(server)
    with Line(server) as line:
        nonce, client_nonce = line.challenge(device.id)
        said = proof(device.key, device.id, nonce, client_nonce).upper()
        assert line.ask({"msg_type": "Hello", "device_id": device.id, "proof": said, "id": "h"})["status"] == "success"


def test_a_device_that_uses_the_same_id_for_each_hello_is_let_in_each_time(server: Server) -> None:
    """The proof differs each time, and so does the body: that is no conflict."""
    device = add_device(server)
    for _ in range(3):
        with Line(server) as line:
            answer = line.prove(device, id="hello")
            assert answer["status"] == "success", answer
            assert line.ask({"msg_type": "Albabot", "robot_id": device.id})["status"] == "success"


SPOKEN: list[dict[str, Any]] = [
    {"msg_type": "Hello", "device_id": "alba-1"},
    {"msg_type": "Hello", "device_id": "alba-1", "robots": ["alba-1"]},
    {"msg_type": "Bye"},
    {"msg_type": "Bye", "robot_id": "alba-1"},
    {"msg_type": "Albabot", "robot_id": "alba-1"},
    {"msg_type": "Cookbot", "robot_id": "alba-1"},
    {"msg_type": "Telemetry", "robot_id": "alba-1", "x": 1, "y": 1},
    {"msg_type": "Table", "table_number": 1, "status": "CALLING"},
    {"msg_type": "Event", "type": "EMERGENCY"},
    {"msg_type": "Order", "table_number": 1, "items": [{"name": "x"}]},
    {"msg_type": "Ingredient", "name": "x", "count": 1},
    {"msg_type": "Inventory", "name": "x", "count": 1},
    {"msg_type": "Face", "table_id": 1, "exist": True},
    {"msg_type": "Chatbot", "question": "x"},
    {"msg_type": "Log", "message": "x"},
    {"msg_type": "CommandAck", "command_id": "1"},
    {"msg_type": "CommandResult", "command_id": "1", "status": "EXECUTED"},
]


def counts(server: Server) -> list[tuple[Any, ...]]:
    tables = ("robot", "table_", "event", "order_", "system_log", "chat_message")
    return [server.sql(f"SELECT count(*) FROM {table}")[0] for table in tables]


def test_before_the_proof_nothing_but_hello_is_taken(server: Server) -> None:
    before = counts(server)
    with Line(server) as line:
        for message in SPOKEN:
            answer = line.ask(message | {"id": "x"})
            assert answer["error_code"] == "UNAUTHORIZED" and answer["id"] == "x", (message, answer)
        line.challenge("alba-1")  # and between challenge and proof neither
        for message in SPOKEN:
            assert line.ask(message)["error_code"] == "UNAUTHORIZED", message
    assert counts(server) == before


def test_what_is_sent_along_with_a_proof_that_fails_is_not_taken(server: Server) -> None:
    device = add_device(server)
    before = counts(server)
    with Line(server) as line:
        line.challenge(device.id)
        both = [{"msg_type": "Hello", "device_id": device.id, "proof": "0" * 64}, *SPOKEN]
        line.send(b"".join(json.dumps(message).encode() + b"\n" for message in both))
        answers = [json.loads(text) for text in line.rest().splitlines()]
        assert answers and all(answer["error_code"] == "UNAUTHORIZED" for answer in answers)
    assert counts(server) == before


def test_every_bad_proof_is_refused_with_the_same_words_and_the_wire_ends(server: Server) -> None:
    device, other = add_device(server), add_device(server)
    revoked = add_device(server)
    do(server, "DELETE", f"/api/devices/{revoked.id}")

    def proving(name: str, make: Callable[[str, str], str]) -> Callable[[Line], Any]:
        def run(line: Line) -> Any:
            nonce, client_nonce = line.challenge(name)
            return line.ask({"msg_type": "Hello", "device_id": name, "proof": make(nonce, client_nonce)})

        return run

    def for_another(line: Line) -> Any:
        nonce, client_nonce = line.challenge(other.id)
        said = proof(device.key, device.id, nonce, client_nonce)
        return line.ask({"msg_type": "Hello", "device_id": device.id, "proof": said})

    def renamed(line: Line) -> Any:
        nonce, client_nonce = line.challenge(device.id)
        said = proof(device.key, device.id, nonce, client_nonce)
        return line.ask({"msg_type": "Hello", "device_id": other.id, "proof": said})

    def no_challenge(line: Line) -> Any:
        return line.ask({"msg_type": "Hello", "device_id": device.id, "proof": proof(device.key, device.id, "", "")})

    def both_at_once(line: Line) -> Any:
        nonce = secrets.token_hex(16)
        said = {"client_nonce": nonce, "proof": proof(device.key, device.id, nonce, nonce)}
        return line.ask({"msg_type": "Hello", "device_id": device.id, **said})

    def older_challenge(line: Line) -> Any:
        nonce, client_nonce = line.challenge(device.id)
        line.challenge(device.id)
        said = proof(device.key, device.id, nonce, client_nonce)
        return line.ask({"msg_type": "Hello", "device_id": device.id, "proof": said})

    def reflected(line: Line) -> Any:
        nonce, _ = line.challenge(device.id)
        again, _ = line.challenge(device.id, nonce)
        return line.ask({"msg_type": "Hello", "device_id": device.id, "proof": proof(b"", device.id, again, nonce)})

    def good(nonce: str, client_nonce: str) -> str:
        return proof(device.key, device.id, nonce, client_nonce)

    cases: dict[str, Callable[[Line], Any]] = {
        "another key": proving(device.id, lambda n, c: proof(other.key, device.id, n, c)),
        "an empty key": proving(device.id, lambda n, c: proof(b"", device.id, n, c)),
        "the key as text": proving(device.id, lambda n, c: proof(device.key.hex().encode(), device.id, n, c)),
        "an unknown device": proving("nobody", lambda n, c: proof(device.key, "nobody", n, c)),
        "no name that can be": proving(device.id + " x", good),
        "a revoked device": proving(revoked.id, lambda n, c: proof(revoked.key, revoked.id, n, c)),
        "cut short": proving(device.id, lambda n, c: good(n, c)[:-1]),
        "half": proving(device.id, lambda n, c: good(n, c)[:32]),
        "empty": proving(device.id, lambda n, c: ""),
        "too long": proving(device.id, lambda n, c: good(n, c) + "0"),
        "no hex": proving(device.id, lambda n, c: "é" * 64),
        "nonces exchanged": proving(device.id, lambda n, c: good(c, n)),
        "its own nonce twice": proving(device.id, lambda n, c: good(c, c)),
        "the server's nonce twice": proving(device.id, lambda n, c: good(n, n)),
        "the nonce itself": proving(device.id, lambda n, c: n),
        "no label": proving(device.id, lambda n, c: proof(device.key, "", n, c)),
        "for another device's challenge": for_another,
        "under another name": renamed,
        "without a challenge": no_challenge,
        "nonce and proof at once": both_at_once,
        "for an older challenge": older_challenge,
        "with the server's nonce": reflected,
    }
    wrong = {}
    for name, run in cases.items():
        with Line(server) as line:
            answer = run(line)
            if verdict(answer) != REFUSED or not line.is_closed():
                wrong[name] = answer
    assert not wrong


def test_the_same_bytes_are_good_once(server: Server) -> None:
    device = add_device(server)
    with Line(server) as line:
        nonce, client_nonce = line.challenge(device.id)
        said = {"msg_type": "Hello", "device_id": device.id, "proof": proof(device.key, device.id, nonce, client_nonce)}
        assert line.ask(said)["status"] == "success"
        assert verdict(line.ask(said)) == REFUSED  # again on the same wire
    with Line(server) as line:  # again on another
        line.challenge(device.id, client_nonce)
        assert verdict(line.ask(said)) == REFUSED
    with Line(server) as line:  # a client nonce is used once, even with a good proof
        nonce, _ = line.challenge(device.id, client_nonce)
        said["proof"] = proof(device.key, device.id, nonce, client_nonce)
        assert verdict(line.ask(said)) == REFUSED


BAD_NONCES: list[Any] = [
    "",
    "00",
    "a" * 30,
    "a" * 31,
    "a" * 33,
    "g" * 32,
    "é" * 32,
    "a" * 600,
    " " + "a" * 32,
    "a" * 32 + "\n",
    5,
    [],
    None,
]


@pytest.mark.parametrize("client_nonce", BAD_NONCES, ids=lambda value: repr(value)[:12])
def test_a_nonce_that_is_not_random_bytes_is_refused(server: Server, client_nonce: Any) -> None:
    with Line(server) as line:
        answer = line.ask({"msg_type": "Hello", "device_id": "alba-1", "client_nonce": client_nonce})
        assert answer["status"] == "error" and answer["error_code"] in ("INVALID_PAYLOAD", "UNAUTHORIZED")


def test_nonces_of_the_server_never_come_twice(server: Server) -> None:
    with Line(server) as line:
        assert len({line.challenge("alba-1")[0] for _ in range(300)}) == 300


def test_an_unknown_device_takes_as_long_as_a_wrong_key(server: Server) -> None:
    device = add_device(server)
    took: dict[str, list[float]] = {device.id: [], "nobody-at-all": []}
    for number in range(40):
        name = list(took)[number % 2]
        with Line(server) as line:
            line.challenge(name)
            started = time.perf_counter()
            assert verdict(line.ask({"msg_type": "Hello", "device_id": name, "proof": "0" * 64})) == REFUSED
            took[name].append(time.perf_counter() - started)
    known, unknown = (statistics.median(times) for times in took.values())
    assert 0.2 < known / unknown < 5.0


def test_who_guesses_from_one_address_is_told_nothing_more_and_others_are_served(server: Server) -> None:
    device = add_device(server)
    for _ in range(25):
        with Wire(server.devices_port) as wire:
            for message in ({"client_nonce": secrets.token_hex(16)}, {"proof": "0" * 64}):
                wire.send(json.dumps({"msg_type": "Hello", "device_id": device.id, **message}).encode() + b"\n")
                wire.line()
    connect(server, device).__exit__()


def test_a_stranger_that_proves_nothing_is_closed_in_five_seconds(server: Server) -> None:
    with Line(server) as silent, Line(server) as talker, Line(server) as asker:
        asker.challenge("alba-1")
        started = time.monotonic()
        talker.send(b'{"msg_type":"Bye"}\n')
        for line in (silent, talker, asker):
            last = line.rest(within_s=9).splitlines()[-1]
            assert json.loads(last)["error_code"] == "UNAUTHORIZED"
        assert 2 < time.monotonic() - started < 9


# -- what a proven device may say -----------------------------------------------------------------------------------


def test_a_device_speaks_for_its_own_robots_only(server: Server) -> None:
    mine, second, other = unique("alba"), unique("alba"), unique("alba")
    device = add_device(server, mine, second)
    owner = add_device(server, other)
    with connect(server, owner) as line:
        assert (
            line.ask({"msg_type": "Albabot", "robot_id": other, "status": "IDLE", "battery_level": 50})["status"] == "success"
        )
    before = server.sql("SELECT status, battery_level, link, x FROM robot WHERE robot_id = ?", other)
    with connect(server, device) as line:
        for robot in (mine, second, f" {mine} "):
            assert line.ask({"msg_type": "Albabot", "robot_id": robot})["status"] == "success"
        for message in (
            {"msg_type": "Albabot", "robot_id": other, "status": "ERROR"},
            {"msg_type": "Cookbot", "robot_id": other, "status": "ERROR"},
            {"msg_type": "Telemetry", "robot_id": other, "x": 9, "y": 9},
            {"msg_type": "Bye", "robot_id": other},
            {"msg_type": "Event", "type": "EMERGENCY", "robot_id": other},
            {"msg_type": "Hello", "device_id": device.id, "robots": [mine, other]},
            {"msg_type": "Log", "message": "x", "robot_id": other},
            {"msg_type": "Chatbot", "question": "x", "robot_id": other},
            {"msg_type": "CommandAck", "command_id": "1", "robot_id": other},
            {"msg_type": "CommandResult", "command_id": "1", "status": "EXECUTED", "robot_id": other},
            {"msg_type": "Albabot", "robot_id": f" {other} ", "status": "ERROR"},
            {"msg_type": "Albabot", "robot_id": "unheard-of"},
            {"msg_type": "Albabot", "robot_id": 7},
        ):
            answer = line.ask(message)
            assert answer["error_code"] == "UNAUTHORIZED", (message, answer)
        assert line.ask({"msg_type": "Bye"})["status"] == "success"  # its own, not everybody's
    assert server.sql("SELECT status, battery_level, link, x FROM robot WHERE robot_id = ?", other) == before
    assert server.sql("SELECT link FROM robot WHERE robot_id = ?", mine) == [("OFFLINE",)]


def test_a_device_for_all_robots_speaks_for_all(server: Server) -> None:
    with connect(server, add_device(server, "*")) as line:
        assert line.ask({"msg_type": "Albabot", "robot_id": unique("any")})["status"] == "success"


def order(server: Server, robot: str) -> dict[str, Any]:
    """Return an order that can be placed, to be served by a robot."""
    server.sql("INSERT INTO menu_item (name, price) VALUES ('tea', 1) ON CONFLICT DO NOTHING")
    server.sql("INSERT INTO robot (robot_id) VALUES (?) ON CONFLICT DO NOTHING", robot)
    return {"msg_type": "Order", "table_number": 4, "items": [{"name": "tea"}], "robot_id": robot}


def test_a_device_without_robots_may_still_place_orders(server: Server) -> None:
    kiosk = unique("kiosk")
    made = do(server, "POST", "/api/devices", {"device_id": kiosk, "robots": []})
    with connect(server, Device(kiosk, bytes.fromhex(made["key"]))) as line:
        answer = line.ask(order(server, unique("alba")))
        assert answer["status"] == "success", answer
        assert line.ask({"msg_type": "Albabot", "robot_id": kiosk})["error_code"] == "UNAUTHORIZED"


def test_a_proven_device_cannot_take_the_name_of_another_without_its_key(server: Server) -> None:
    """Under the other's name it could use up the ids that the other will use, and their messages would be lost."""
    victim, thief = add_device(server), add_device(server)
    event = {"msg_type": "Event", "type": "CALL", "table_number": 8, "id": "e-1"}
    with connect(server, thief) as line:
        answer = line.ask({"msg_type": "Hello", "device_id": victim.id})
        line.ask(event)
        line.ask(event | {"id": "e-2", "table_number": 9})
    assert answer["status"] == "error" and answer["error_code"] == "UNAUTHORIZED"
    with connect(server, victim) as line:
        before = server.sql("SELECT count(*) FROM event")
        assert line.ask(event)["status"] == "success"
        assert line.ask(event | {"id": "e-2"})["status"] == "success"
        (after,) = server.sql("SELECT count(*) FROM event")[0]
        assert after == before[0][0] + 2, "the victim's messages were swallowed"


def test_an_order_that_names_a_robot_is_no_sign_of_life_of_it(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", DEVICES__TRUSTED_NETWORKS="[]", DEVICES__OFFLINE_AFTER_S="1")
    robot, kiosk = add_device(server), add_device(server)
    with connect(server, robot) as line:
        assert line.ask({"msg_type": "Albabot", "robot_id": robot.id})["status"] == "success"
    placed = order(server, robot.id)

    def is_noticed() -> bool:
        assert line.ask(placed)["status"] == "success"
        return server.sql("SELECT link FROM robot WHERE robot_id = ?", robot.id) == [("CONNECTIONBROKEN",)]

    with connect(server, kiosk) as line:
        assert wait_until(is_noticed, within_s=6, every_s=0.2), "orders kept a dead robot alive"


def test_one_device_cannot_name_robots_without_end(server: Server) -> None:
    device = add_device(server, "*")
    with connect(server, device) as line, memory_grows_at_most(server, 8 << 20):
        for number in range(200):
            names = [f"{'r' * 150}-{number}-{place}" for place in range(300)]
            line.ask({"msg_type": "Hello", "device_id": device.id, "robots": names})


def test_a_second_connection_of_a_device_ends_the_first(server: Server) -> None:
    device = add_device(server)
    with connect(server, device) as first, connect(server, device) as second:
        assert first.is_closed()
        assert second.ask({"msg_type": "Albabot", "robot_id": device.id})["status"] == "success"
        with Line(server) as thief:  # one that only says so does not
            thief.challenge(device.id)
            assert verdict(thief.ask({"msg_type": "Hello", "device_id": device.id, "proof": "0" * 64})) == REFUSED
        assert second.ask({"msg_type": "Albabot", "robot_id": device.id})["status"] == "success"


def test_one_wire_that_proves_two_devices_is_the_newer_one(server: Server) -> None:
    one, two = add_device(server), add_device(server)
    with connect(server, one) as line:
        assert line.prove(two)["status"] == "success"
        assert line.ask({"msg_type": "Albabot", "robot_id": one.id})["error_code"] == "UNAUTHORIZED"
        # Another device changes, which asks everybody's rights anew; it must not turn into its older self.
        add_device(server)
        assert line.ask({"msg_type": "Albabot", "robot_id": one.id})["error_code"] == "UNAUTHORIZED"
        assert line.ask({"msg_type": "Albabot", "robot_id": two.id})["status"] == "success"
        # The older name is free: who takes it, or its end, does not cut this wire.
        with connect(server, one):
            assert line.ask({"msg_type": "Albabot", "robot_id": two.id})["status"] == "success"


# -- keys that change ------------------------------------------------------------------------------------------------


def test_a_rotation_leaves_no_gap_and_ends_with_finish(server: Server) -> None:
    device = add_device(server)
    with connect(server, device) as line:
        made = do(server, "POST", f"/api/devices/{device.id}/rotate")
        newer = Device(device.id, bytes.fromhex(made["key"]))
        assert newer.key != device.key
        assert line.ask({"msg_type": "Albabot", "robot_id": device.id})["status"] == "success"
    for either in (device, newer, device):
        connect(server, either).__exit__()
    with connect(server, newer) as line:
        do(server, "POST", f"/api/devices/{device.id}/rotate", {"finish": True})
        assert line.ask({"msg_type": "Albabot", "robot_id": device.id})["status"] == "success"
    with Line(server) as line:
        assert verdict(line.prove(device)) == REFUSED
    connect(server, newer).__exit__()


def test_a_revoked_device_is_cut_off(server: Server) -> None:
    def by_sql(device: Device) -> None:
        server.sql("UPDATE device SET revoked = 1 WHERE device_id = ?", device.id)

    def by_api(device: Device) -> None:
        do(server, "DELETE", f"/api/devices/{device.id}")

    def deleted(device: Device) -> None:
        server.sql("DELETE FROM device WHERE device_id = ?", device.id)

    for revoke in (by_api, by_sql, deleted):
        device, neighbour = add_device(server), add_device(server)
        with connect(server, device) as line, connect(server, neighbour) as other:
            revoke(device)
            assert line.is_closed()
            assert other.ask({"msg_type": "Albabot", "robot_id": neighbour.id})["status"] == "success"
        with Line(server) as line:
            assert verdict(line.prove(device)) == REFUSED
    # The same name gets another key.
    assert add_device(server, name=device.id).key != device.key


def test_robots_that_are_taken_away_are_gone_at_once(server: Server) -> None:
    device = add_device(server)
    with connect(server, device) as line:
        server.sql("UPDATE device SET robots = '[\"other\"]' WHERE device_id = ?", device.id)

        def refused() -> bool:
            return bool(line.ask({"msg_type": "Albabot", "robot_id": device.id}).get("error_code") == "UNAUTHORIZED")

        assert wait_until(refused, within_s=5)


@pytest.mark.parametrize("value", ["5", '"alba-*"', "no json", '{"*": 1}', "[null, [1]]"])
def test_robots_that_another_program_garbled_open_nothing_and_stop_nothing(
    start_server: Callable[..., Server], value: str
) -> None:
    server = start_server(AUTH__MODE="local", DEVICES__TRUSTED_NETWORKS="[]")
    device, neighbour = add_device(server), add_device(server)
    with connect(server, device) as line, connect(server, neighbour) as other:
        server.sql("UPDATE device SET robots = ? WHERE device_id = ?", value, device.id)
        do(server, "DELETE", f"/api/devices/{neighbour.id}")
        assert other.is_closed()
        with contextlib.suppress(EOFError):  # it may be cut off
            assert line.ask({"msg_type": "Albabot", "robot_id": "somebody-else"})["error_code"] == "UNAUTHORIZED"
    third = add_device(server)
    connect(server, third).__exit__()
    assert control(server, "GET", "/api/devices")[0] == 200
    assert "Traceback" not in server.log()


def test_a_name_in_any_form_has_one_key(server: Server) -> None:
    """A name that is typed on another keyboard may come decomposed (NFC and NFD); the key that is printed must be good."""
    composed, decomposed = "k\u00fcche", "ku\u0308che"
    key = bytes.fromhex(do(server, "POST", "/api/devices", {"device_id": decomposed})["key"])
    connect(server, Device(composed, key)).__exit__()


def test_over_http_a_stranger_says_nothing(server: Server) -> None:
    for message in SPOKEN:
        body = json.dumps(message).encode()
        lines = ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
        with Wire(server.port) as wire:
            wire.send("\r\n".join(["POST /api/device-messages HTTP/1.1", "Host: localhost", *lines]).encode() + body)
            assert wire.answer().status == 401


# -- certificates ------------------------------------------------------------------------------------------------------


def test_a_client_certificate_stands_for_the_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost")
    settings = {"DEVICES__TLS_CERT": cert, "DEVICES__TLS_KEY": key, "DEVICES__TLS_CLIENT_CA": str(authority.path)}
    with Server(tmp_path, AUTH__MODE="local", DEVICES__TRUSTED_NETWORKS="[]", **settings) as server:
        device, other, revoked = add_device(server), add_device(server), add_device(server)
        do(server, "DELETE", f"/api/devices/{revoked.id}")
        with Line(server, tls=authority.client(device.id)) as line:
            assert line.ask({"msg_type": "Albabot", "robot_id": device.id})["status"] == "success"
            assert line.ask({"msg_type": "Albabot", "robot_id": other.id})["error_code"] == "UNAUTHORIZED"
            assert line.ask({"msg_type": "Hello", "device_id": other.id})["error_code"] == "UNAUTHORIZED"
            with Line(server, tls=authority.client(device.id)) as second:
                assert second.ask({"msg_type": "Albabot", "robot_id": device.id})["status"] == "success"
                assert line.rest() == b""
                do(server, "DELETE", f"/api/devices/{device.id}")
                assert second.rest() == b""
        # Whose name is not known, is revoked, or is two names, proves a key as everybody does.
        for names in (("nobody",), (revoked.id,), (other.id, other.id), (), (other.id.upper(),), ("*",)):
            with Line(server, tls=authority.client(*names)) as line:
                assert line.ask({"msg_type": "Albabot", "robot_id": other.id})["error_code"] == "UNAUTHORIZED", names
                assert line.prove(other)["status"] == "success"
                assert line.ask({"msg_type": "Albabot", "robot_id": other.id})["status"] == "success"
        # A certificate of another authority, or one that is over, does not even come in.
        (tmp_path / "foreign").mkdir()
        foreign = Authority(tmp_path / "foreign", "foreign authority").client(other.id)
        foreign.load_verify_locations(str(authority.path))
        for context in (foreign, authority.client(other.id, days=-1)):
            with pytest.raises((OSError, EOFError)), Line(server, tls=context) as line:
                line.sock.settimeout(5)
                line.say({"msg_type": "Albabot", "robot_id": other.id})
                while line.sock.recv(100):
                    pass
                raise EOFError
        assert server.is_running and "Traceback" not in server.log(), server.log()
