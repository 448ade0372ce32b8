"""WebSocket frames as bytes (RFC 6455 section 5): what a server sends, ready to be written to every subscriber."""

OPCODE_TEXT, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG = 0x1, 0x8, 0x9, 0xA


def frame(payload: bytes, opcode: int = OPCODE_TEXT) -> bytes:
    """Return one final, unmasked frame (RFC 6455 section 5.2; a server never masks)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame; `reason` is one of the fixed words of section 3."""
    return frame(code.to_bytes(2, "big") + reason.encode()[:123], OPCODE_CLOSE)


def ping_frame(timestamp: float) -> bytes:
    """Return the frame of a protocol ping; its pong repeats the timestamp."""
    return frame(repr(timestamp).encode(), OPCODE_PING)
