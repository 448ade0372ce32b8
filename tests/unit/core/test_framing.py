"""Device bytes become frames, however they are cut."""

import itertools
import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.core.framing import Detector, Frame, Framer, Item, LengthFramer, Problem, TextFramer, with_crc


def bodies(items: list[Item]) -> list[bytes]:
    return [item.body for item in items if isinstance(item, Frame)]


def crc_line(body: bytes) -> bytes:
    """A CRC line made independently of our own code."""
    return body + b"*" + f"{zlib.crc32(body):08x}".encode() + b"\n"


def test_a_length_prefixed_message_comes_back_whole() -> None:
    framer = LengthFramer(max_bytes=64)
    assert bodies(framer.feed(b"\0\0\0\2{}\0")) == [b"{}"]
    assert framer.pending
    assert framer.encode(b"{}", success=True, checked=False) == b"\0\0\0\2{}"


def test_a_length_prefixed_message_that_is_too_long_is_skipped_and_the_next_is_read() -> None:
    framer = LengthFramer(max_bytes=8)
    first, second = framer.feed(b"\0\0\0\x10" + b"x" * 16 + b"\0\0\0\2{}")
    assert isinstance(first, Problem) and first.code == "TOO_LARGE" and not first.fatal
    assert second == Frame(b"{}", False)


def test_an_absurd_length_ends_the_stream() -> None:
    (problem,) = LengthFramer(max_bytes=65536).feed(b"\x7f\xff\xff\xff")
    assert isinstance(problem, Problem) and problem.fatal and problem.code == "TOO_LARGE"


def test_lines_come_back_with_and_without_crc() -> None:
    framer = Detector(max_bytes=64)
    items = framer.feed(b'\r\n {"a":1}\r\n' + crc_line(b'{"b":2}') + b'{"c"')
    assert items == [Frame(b'{"a":1}', False), Frame(b'{"b":2}', True)]
    assert bodies(framer.feed(b":3}\n")) == [b'{"c":3}']
    assert framer.encode(b"{}", success=True, checked=True) == with_crc(b"{}") == crc_line(b"{}").upper()
    assert framer.encode(b"{}", success=True, checked=False) == b"{}\n"


def test_a_wrong_crc_on_tcp_is_a_problem_and_no_frame() -> None:
    (item,) = Detector(max_bytes=64).feed(b'{"b":2}*00000000\n')
    assert isinstance(item, Problem) and item.answer


@pytest.mark.parametrize("line", [b'{"a":1}\n', b'{"a":1}*00000000\n', b"noise\n", b"\xff\xfe\x00\n", b"*12345678\n"])
def test_serial_counts_but_does_not_answer_what_has_no_right_crc(line: bytes) -> None:
    (item,) = TextFramer(max_bytes=64, crc="required").feed(line)
    assert isinstance(item, Problem) and not item.answer


def test_noise_before_a_serial_line_does_not_cost_the_line() -> None:
    framer = TextFramer(max_bytes=64, crc="required")
    assert bodies(framer.feed(b"\x00\xffnoise" + crc_line(b'{"a":1}'))) == [b'{"a":1}']


@pytest.mark.parametrize("crc", ["required", "optional", "none"])
def test_a_line_that_is_too_long_is_one_problem_and_skipped_to_its_end(crc: str) -> None:
    framer = TextFramer(max_bytes=32, crc=crc)  # type: ignore[arg-type]
    items = framer.feed(b"{" + b"x" * 100) + framer.feed(b"y" * 100) + framer.feed(b"}\n" + crc_line(b'{"a":1}'))
    assert [item.code for item in items if isinstance(item, Problem)] == ["TOO_LARGE"]
    assert len(items) == 2


def test_a_raw_object_is_taken_after_silence_only() -> None:
    framer = Detector(max_bytes=64)
    assert framer.feed(b'{"a":') == [] and framer.silence() == []
    assert framer.feed(b"1}") == []
    assert framer.silence() == [Frame(b'{"a":1}', False)]
    assert framer.name == "raw"
    assert framer.encode(b"{}", success=True, checked=False) == b"OK"
    assert framer.encode(b"{}", success=False, checked=False) == b"ERROR"
    assert framer.feed(b'{"b":2}') == [] and bodies(framer.silence()) == [b'{"b":2}']


def test_after_a_newline_nothing_is_raw_any_more() -> None:
    framer = Detector(max_bytes=64)
    framer.feed(b'{"a":1}\n{"b":2}')
    assert framer.silence() == []
    assert bodies(framer.feed(b"\n")) == [b'{"b":2}']


def test_anything_else_is_one_problem() -> None:
    framer = Detector(max_bytes=64)
    (item,) = framer.feed(b"GET / HTTP/1.1\r\n")
    assert isinstance(item, Problem) and item.fatal
    assert framer.feed(b"{}\n") == []


objects = st.dictionaries(st.text(max_size=8), st.one_of(st.integers(-9, 9), st.text(max_size=12)), max_size=3)
messages = st.lists(objects.map(lambda value: json.dumps(value).encode()), max_size=8)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    points = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *points], [*points, len(data)], strict=True)]


def fed(framer: Framer, chunks: list[bytes]) -> list[Item]:
    return [item for chunk in chunks for item in framer.feed(chunk)]


@given(messages, st.lists(st.integers(0, 10_000), max_size=12))
def test_length_prefixed_cut_anywhere_equals_whole(texts: list[bytes], places: list[int]) -> None:
    data = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
    assert fed(LengthFramer(max_bytes=64), cut(data, places)) == LengthFramer(max_bytes=64).feed(data)
    assert bodies(LengthFramer(max_bytes=1000).feed(data)) == texts


@given(messages, st.lists(st.integers(0, 10_000), max_size=12), st.randoms())
def test_lines_cut_anywhere_equal_whole(texts: list[bytes], places: list[int], rng: random.Random) -> None:
    data = b"".join(crc_line(text) if rng.random() < 0.5 else text + b"\n" for text in texts)
    assert fed(Detector(max_bytes=40), cut(data, places)) == Detector(max_bytes=40).feed(data)
    assert bodies(Detector(max_bytes=1000).feed(data)) == texts


@given(st.binary(max_size=400), st.lists(st.integers(0, 10_000), max_size=12))
def test_noise_cut_anywhere_equals_whole_and_never_raises(data: bytes, places: list[int]) -> None:
    for make in (
        lambda: Detector(max_bytes=32),
        lambda: TextFramer(max_bytes=32, crc="required"),
        lambda: TextFramer(max_bytes=32, crc="none"),
        lambda: LengthFramer(max_bytes=32),
    ):
        assert fed(make(), cut(data, places)) == make().feed(data)


def test_ten_thousand_lines_through_bit_errors_bring_no_wrong_message() -> None:
    rng = random.Random(5)
    sent, data = set(), bytearray()
    for number in range(10_000):
        body = json.dumps({"msg_type": "Event", "type": "CALL", "table_number": number % 20 + 1, "id": str(number)}).encode()
        sent.add(body)
        data += crc_line(body)
    for _ in range(int(len(data) * 8 * 1e-4)):
        bit = rng.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
    framer = TextFramer(max_bytes=65536, crc="required")
    arrived = bodies(fed(framer, [bytes(data[at : at + 997]) for at in range(0, len(data), 997)]))
    assert set(arrived) <= sent
    assert 8000 < len(arrived) < 10_000
    # The control: without the check, wrong messages would have been taken.
    unchecked = TextFramer(max_bytes=65536, crc="none").feed(bytes(data))
    assert any(body.rpartition(b"*")[0] not in sent for body in bodies(unchecked))


@given(
    st.lists(st.sampled_from([b"{}", b'{"a":1}', b" ", b"x" * 90, b'{"b":2}*00000000']), max_size=30),
    st.integers(1, 5),
    st.lists(st.integers(0, 300), max_size=6),
    st.booleans(),
)
def test_what_is_taken_in_budgets_is_what_is_taken_at_once(
    bodies: list[bytes], limit: int, cuts: list[int], text: bool
) -> None:
    def framer() -> Framer:
        return TextFramer(max_bytes=64, crc="optional") if text else LengthFramer(max_bytes=64)

    data = b"".join(body + b"\n" if text else len(body).to_bytes(4, "big") + body for body in bodies)
    taken, budgeted = [], framer()
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        chunk = data[start:end]
        while True:
            items = budgeted.feed(chunk, limit)
            assert len(items) <= limit + 1  # a line that grew too long is told at once
            taken += items
            chunk = b""
            if not budgeted.has_more:
                break
    whole = framer()
    at_once = [item for start, end in itertools.pairwise(edges) for item in whole.feed(data[start:end])]
    assert taken == at_once
    assert not budgeted.pending or whole.pending


def test_what_is_beyond_the_budget_is_held_and_said_to_be_there() -> None:
    framer = TextFramer(max_bytes=64, crc="none")
    assert len(framer.feed(b"{}\n{}\n{}\n{", 2)) == 2 and framer.has_more and framer.pending
    assert len(framer.feed(b"", 2)) == 1 and not framer.has_more and framer.pending
    assert bodies(framer.feed(b"}\n", 2)) == [b"{}"] and not framer.pending


def test_a_line_that_never_ends_is_refused_when_it_is_too_long() -> None:
    framer = TextFramer(max_bytes=64, crc="none")
    assert framer.feed(b"x" * 80) == []
    assert [item.code for item in framer.feed(b"x") if isinstance(item, Problem)] == ["TOO_LARGE"]
    assert framer.feed(b"x" * 10_000) == [] and not framer.pending
