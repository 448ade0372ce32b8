"""One wire: turns, backpressure, order of answers, and its end."""

import json
from typing import Any

import pytest

from robodyne_rt.core.device_auth import DeviceAuth, Identity, Known
from robodyne_rt.core.framing import INCOMPLETE_S, Detector, TextFramer, with_crc
from robodyne_rt.devices import device_protocol
from robodyne_rt.devices.device_protocol import (
    ENDED_WITHIN_S,
    MAX_UNANSWERED,
    MAX_UNANSWERED_SHARED,
    TURN_BYTES,
    TURN_MESSAGES,
    DeviceProtocol,
)
from robodyne_rt.devices.receiver import Peer, Receiver
from robodyne_rt.devices.turns import ALONE_AFTER_S, ReadingTurns
from robodyne_rt.testing.clock import HandClock, HandLoop
from robodyne_rt.testing.devices import FakeStore, FakeTelemetry, FakeTransport
from tests.shells.devices.test_turns import PretendWire


class Bench:
    def __init__(self, *, must_prove: bool = False, is_serial: bool = False) -> None:
        self.clock = HandClock()
        self.loop = HandLoop(self.clock)
        self.store = FakeStore()
        self.telemetry = FakeTelemetry()
        self.receiver = Receiver(store=self.store, telemetry=self.telemetry, auth=DeviceAuth(self._known), clock=self.clock)
        self.turns = ReadingTurns(self.loop)  # type: ignore[arg-type]
        self.lost: list[Exception | None] = []
        self.peer = Peer("10.0.0.7", must_prove=must_prove)
        self.protocol = DeviceProtocol(
            receiver=self.receiver,
            turns=self.turns,
            peer=self.peer,
            make_framer=lambda: TextFramer(max_bytes=65536, crc="required") if is_serial else Detector(max_bytes=65536),
            closes_on_timeout=not is_serial,
            on_lost=lambda protocol, error: self.lost.append(error),
        )
        self.transport = FakeTransport()
        self.protocol.connection_made(self.transport)

    def _known(self, device_id: str) -> Known:
        return Known({"1": b"k" * 32}, Identity(device_id, None, "1"))

    def say(self, *messages: Any) -> None:
        self.protocol.data_received(lines(*messages))

    @property
    def answers(self) -> list[dict[str, Any]]:
        self.loop.turn()
        return [json.loads(line) for line in self.transport.written.splitlines()]


def lines(*messages: Any) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def event(number: int, **fields: Any) -> dict[str, Any]:
    return {"msg_type": "Event", "type": "INFO", "id": str(number), **fields}


def test_what_a_turn_brings_goes_to_the_store_as_one() -> None:
    bench = Bench()
    bench.say(event(1), event(2), event(3))
    assert [[message.message.id for message in call] for call in bench.store.calls] == [["1", "2", "3"]]


def test_a_turn_takes_a_budget_of_messages_and_nothing_more_is_read_until_all_are_taken() -> None:
    bench = Bench()
    bench.say(*(event(number) for number in range(TURN_MESSAGES + 5)))
    assert len(bench.store.given) == TURN_MESSAGES and bench.transport.is_reading_paused
    bench.loop.turn()
    assert [message.message.id for message in bench.store.given] == [str(number) for number in range(TURN_MESSAGES + 5)]
    assert not bench.transport.is_reading_paused


def test_messages_that_cannot_be_taken_count_in_the_budget() -> None:
    bench = Bench()
    bench.protocol.data_received(b"{}\n" * (TURN_MESSAGES * 3))
    assert bench.protocol.unanswered == TURN_MESSAGES
    assert len(bench.answers) == TURN_MESSAGES * 3


def test_telemetry_counts_in_the_budget_and_only_the_newest_of_a_robot_is_pushed() -> None:
    bench = Bench()
    poses = [{"msg_type": "Telemetry", "robot_id": f"r{x % 2}", "x": x, "y": 1} for x in range(TURN_MESSAGES + 2)]
    bench.say(*poses)
    assert bench.telemetry.pushed == [
        ("r0", {"x": TURN_MESSAGES - 2, "y": 1.0}),
        ("r1", {"x": TURN_MESSAGES - 1, "y": 1.0}),
    ]
    bench.loop.turn()
    assert len(bench.telemetry.pushed) == 4 and not bench.answers


def test_fields_of_one_turns_telemetry_are_laid_over_each_other() -> None:
    bench = Bench()
    bench.say(
        {"msg_type": "Telemetry", "robot_id": "r", "x": 1, "y": 1, "battery_level": 50},
        {"msg_type": "Telemetry", "robot_id": "r", "x": 2},
    )
    assert bench.telemetry.pushed == [("r", {"x": 2.0, "y": 1.0, "battery_level": 50.0})]


def test_a_turn_takes_a_budget_of_bytes() -> None:
    bench = Bench()
    big = event(1, description="x" * 15000)
    bench.say(*[big] * 10)
    assert len(bench.store.given) == TURN_BYTES // len(lines(big))
    bench.loop.turn()
    assert len(bench.store.given) == 10


def test_where_others_speak_as_well_fewer_wait_for_their_answer() -> None:
    bench = Bench()
    flood = [event(number) for number in range(MAX_UNANSWERED * 2)]
    bench.turns.ask(PretendWire([], bench.clock, "bell"))
    bench.say(*flood)
    bench.loop.turn()
    assert len(bench.store.given) == MAX_UNANSWERED_SHARED
    bench.loop.advance(ALONE_AFTER_S)
    bench.store.settle(1)
    bench.loop.turn()
    assert len(bench.store.given) == MAX_UNANSWERED + 1
    bench.turns.ask(PretendWire([], bench.clock, "bell"))
    bench.store.settle(MAX_UNANSWERED - MAX_UNANSWERED_SHARED + 1)
    bench.loop.turn()
    assert len(bench.store.waiting) == MAX_UNANSWERED_SHARED


def test_no_more_than_so_many_wait_for_their_answer() -> None:
    bench = Bench()
    bench.say(*(event(number) for number in range(MAX_UNANSWERED + 10)))
    bench.loop.turn()
    assert len(bench.store.given) == MAX_UNANSWERED and bench.transport.is_reading_paused
    bench.store.settle(3)
    bench.loop.turn()
    assert len(bench.store.given) == MAX_UNANSWERED + 3
    bench.store.settle()
    bench.loop.turn()
    bench.store.settle()
    assert [answer["id"] for answer in bench.answers] == [str(number) for number in range(MAX_UNANSWERED + 10)]
    assert not bench.transport.is_reading_paused


def test_answers_come_in_order() -> None:
    bench = Bench()
    bench.say(event(1))
    bench.protocol.data_received(b"{}\n")
    assert bench.answers == []
    bench.store.settle()
    assert [answer["status"] for answer in bench.answers] == ["success", "error"]


def test_a_wire_is_not_read_from_while_the_store_is_behind() -> None:
    bench = Bench()
    bench.store.is_behind = True
    bench.say(event(1))
    bench.loop.turn()
    assert bench.store.given == [] and bench.transport.is_reading_paused
    bench.store.catch_up()
    bench.loop.turn()
    assert len(bench.store.given) == 1 and not bench.transport.is_reading_paused


def test_a_wire_that_takes_no_answers_is_not_read_from_and_cut_off_in_the_end() -> None:
    bench = Bench()
    bench.protocol.pause_writing()
    bench.say(event(1))
    assert bench.store.given == [] and bench.transport.is_reading_paused
    bench.protocol.resume_writing()
    assert len(bench.store.given) == 1 and not bench.transport.is_reading_paused
    bench.protocol.pause_writing()
    bench.loop.advance(device_protocol.ANSWERS_TAKEN_WITHIN_S - 0.1)
    assert not bench.transport.ended
    bench.loop.advance(0.2)
    assert bench.transport.ended == "aborted"


def test_what_came_before_the_end_of_input_is_taken_and_answered_before_the_wire_closes() -> None:
    bench = Bench()
    bench.say(*(event(number) for number in range(TURN_MESSAGES * 2)))
    assert bench.protocol.eof_received()
    bench.loop.turn()
    assert len(bench.store.given) == TURN_MESSAGES * 2 and bench.transport.ended == ""
    bench.store.settle()
    assert len(bench.answers) == TURN_MESSAGES * 2
    assert bench.transport.ended == "closed"


def test_a_raw_message_at_the_end_of_input_is_taken() -> None:
    bench = Bench()
    bench.protocol.data_received(json.dumps(event(1)).encode())
    bench.protocol.eof_received()
    bench.store.settle()
    bench.loop.turn()
    assert bench.transport.written == b"OK" and bench.transport.ended == "closed"


def test_what_was_read_from_a_wire_that_broke_is_taken_all_the_same() -> None:
    bench = Bench()
    bench.say(*(event(number) for number in range(TURN_MESSAGES * 3)))
    bench.protocol.connection_lost(ConnectionResetError())
    assert len(bench.lost) == 1
    bench.loop.turn()
    assert len(bench.store.given) == TURN_MESSAGES * 3
    bench.store.settle()
    bench.loop.turn()
    assert bench.protocol.unanswered == 0


@pytest.mark.parametrize("had_ended", [False, True])
def test_a_wire_that_is_gone_is_forgotten(had_ended: bool) -> None:
    bench = Bench()
    bench.say(event(1))
    if had_ended:
        bench.protocol.end()
    bench.protocol.connection_lost(None)
    bench.loop.turn()
    assert bench.protocol not in bench.turns._served and bench.protocol not in bench.turns._waiting


def test_only_a_turn_that_the_store_has_as_a_whole_is_free() -> None:
    bench = Bench()
    pose = {"msg_type": "Telemetry", "robot_id": "r", "x": 1}
    for said, is_free in (([event(1), event(2)], True), ([pose, event(3)], False), ([{}, event(4)], False), ([pose], False)):
        bench.say(*said)
        assert bench.protocol.waits_for_store == is_free, said


def test_what_cannot_be_read_further_is_told_why_before_the_wire_closes() -> None:
    bench = Bench()
    bench.protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert bench.answers[0]["error_code"] == "INVALID_PAYLOAD" and bench.transport.ended == "closed"


def test_a_message_that_is_not_complete_in_time_ends_the_wire() -> None:
    bench = Bench()
    bench.protocol.data_received(b'{"msg_type":')
    bench.loop.advance(4.9)
    assert bench.transport.ended == ""
    bench.loop.advance(0.2)
    assert bench.answers[0]["error_code"] == "TIMEOUT" and bench.transport.ended == "closed"


def test_time_in_which_a_wire_is_not_read_from_does_not_count_against_its_message() -> None:
    bench = Bench()
    bench.protocol.data_received(b'{"msg_type":')
    bench.store.is_behind = True
    bench.protocol.data_received(b'"Event",')
    bench.loop.advance(20)
    assert not bench.transport.ended
    bench.store.catch_up()
    bench.protocol.data_received(b'"type":"INFO"}\n')
    assert len(bench.store.given) == 1


def test_a_stranger_that_proves_nothing_is_told_so_and_closed() -> None:
    bench = Bench(must_prove=True)
    bench.say(event(1))
    assert bench.answers[0]["error_code"] == "UNAUTHORIZED" and bench.store.given == []
    bench.loop.advance(device_protocol.PROVEN_WITHIN_S + 0.1)
    assert bench.answers[-1]["error_code"] == "UNAUTHORIZED" and bench.transport.ended == "closed"


def test_a_wire_that_is_ended_answers_first_and_is_cut_off_where_the_peer_is_gone() -> None:
    bench = Bench()
    bench.say(event(1))
    bench.protocol.end()
    bench.loop.turn()
    assert bench.transport.ended == ""
    bench.loop.advance(ENDED_WITHIN_S - 0.1)
    assert bench.transport.ended == ""
    bench.loop.advance(0.2)
    assert bench.transport.ended == "aborted"


# -- who is kept online ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        ({"msg_type": "Albabot", "robot_id": "a", "status": "IDLE"}, ["a"]),
        ({"msg_type": "Albabot", "robot_id": "a", "status": "FLYING"}, ["a"]),
        ({"msg_type": "Nonsense", "robot_id": "a"}, ["a"]),
        ({"robot_id": 7}, ["7"]),
        ({"msg_type": "Event", "type": "INFO", "robot_id": "a"}, ["a"]),
        ({"msg_type": "Order", "table_number": 1, "items": [{"name": "soup"}], "robot_id": "a"}, []),
        ({"msg_type": "Order", "table_number": "?", "robot_id": "a"}, []),
        ({"msg_type": "Table", "table_number": 1}, []),
        ([1], []),
    ],
)
def test_any_message_keeps_the_robot_online_that_it_names(message: Any, seen: list[str]) -> None:
    bench = Bench()
    bench.say(message)
    assert bench.telemetry.seen == seen


@pytest.mark.parametrize(
    "said",
    [lines({"msg_type": "Table", "table_number": 1}), b"{broken\n", b"{}\n", lines({"msg_type": "Order", "robot_id": "c"})],
)
def test_a_message_that_names_none_keeps_the_robots_of_the_hello_online(said: bytes) -> None:
    bench = Bench()
    bench.say({"msg_type": "Hello", "device_id": "manager", "robots": ["a", "b"]})
    assert bench.telemetry.seen == ["a", "b"]
    bench.say({"msg_type": "Albabot", "robot_id": "other", "status": "IDLE"})
    bench.telemetry.seen.clear()
    bench.protocol.data_received(said)
    assert bench.telemetry.seen == ["a", "b"]


def test_a_wire_keeps_no_robot_online_that_it_may_not_speak_for() -> None:
    bench = Bench()
    bench.receiver.proven(bench.peer, Identity("d", frozenset({"a"})))
    bench.say({"msg_type": "Albabot", "robot_id": "b", "status": "IDLE"}, {"msg_type": "Nonsense", "robot_id": "b"})
    assert bench.telemetry.seen == []
    bench.say({"msg_type": "Nonsense", "robot_id": "a"})
    assert bench.telemetry.seen == ["a"]


def test_a_stranger_keeps_no_robot_online() -> None:
    bench = Bench(must_prove=True)
    bench.say({"msg_type": "Albabot", "robot_id": "a", "status": "IDLE"}, {"msg_type": "Nonsense", "robot_id": "a"})
    assert bench.telemetry.seen == []


def test_a_bye_of_a_whole_wire_is_one_of_each_of_its_robots() -> None:
    bench = Bench()
    bench.say({"msg_type": "Albabot", "robot_id": "a", "status": "IDLE"}, {"msg_type": "Bye", "id": "9"})
    assert [(m.message.msg_type, m.message.__dict__.get("robot_id")) for m in bench.store.given] == [
        ("Albabot", "a"),
        ("Bye", "a"),
        ("Bye", None),
    ]


def test_half_a_message_on_a_serial_line_does_not_spoil_the_next() -> None:
    bench = Bench(is_serial=True)
    bench.protocol.data_received(b'{"msg_type":"Event","ty')
    bench.loop.advance(INCOMPLETE_S + 0.1)
    assert bench.receiver.stats.noise["TIMEOUT"] == 1 and not bench.lost
    bench.protocol.data_received(with_crc(json.dumps(event(1)).encode()) + b"\n")
    assert [message.message.id for message in bench.store.given] == ["1"]


def test_a_wire_that_proved_one_device_is_no_other() -> None:
    bench = Bench(must_prove=True)
    bench.receiver.proven(bench.peer, Identity("alba-1", None, "1"))
    bench.say({"msg_type": "Hello", "device_id": "alba-2", "id": "1"})
    assert [answer["error_code"] for answer in bench.answers] == ["UNAUTHORIZED"]
    bench.say({"msg_type": "Hello", "device_id": "alba-1", "id": "2"})
    assert [message.message.id for message in bench.store.given] == ["2"]
