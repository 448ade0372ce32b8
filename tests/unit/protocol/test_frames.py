"""WebSocket frames, byte by byte (RFC 6455 section 5.2): the length has three forms."""

import pytest

from robodyne_rt.protocol import frames


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (127, b"\x81\x7e\x00\x7f"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        (1 << 20, b"\x81\x7f\x00\x00\x00\x00\x00\x10\x00\x00"),
    ],
)
def test_the_head_says_how_long_the_payload_is(size: int, head: bytes) -> None:
    assert frames.frame(b"x" * size) == head + b"x" * size


def test_a_close_has_its_code_and_reason_and_fits_into_a_control_frame() -> None:
    assert frames.close_frame(4001, "token_expired") == b"\x88\x0f\x0f\xa1token_expired"
    assert len(frames.close_frame(1008, "x" * 500)) == 2 + 125


def test_a_ping_is_a_control_frame() -> None:
    assert frames.ping_frame(1.5) == b"\x89\x031.5"
