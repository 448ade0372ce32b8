"""Device bytes -> frames, and answers -> bytes (SPEC section 5).

A TCP connection starts with `Detector`, which finds the framing once and hands on; a serial port starts with
`TextFramer(crc="required")` or `TextFramer(crc="none")`. A framer is fed whatever the wire delivered and returns what is
complete: frames, or problems that the shell answers with an error. It holds at most one message of `max_bytes`, and what of
the last bytes was beyond the `limit`.

    >>> framer = Detector(max_bytes=64)
    >>> framer.feed(b'{"a":1}\\n{"b"'), framer.feed(b":2}\\n")
    ([Frame(body=b'{"a":1}', checked=False)], [Frame(body=b'{"b":2}', checked=False)])
"""

import re
import sys
import zlib
from typing import Literal, NamedTuple, Protocol

import orjson

SILENCE_S = 0.05
"""A raw message is complete when its JSON is, and this much time passed without a byte."""

INCOMPLETE_S = 5.0
"""How long an unfinished message may take."""

NO_LIMIT = sys.maxsize

_CRC_SUFFIX = re.compile(rb"\}\s*\*([0-9A-Fa-f]{8})$")
_SPACE = b" \t\r\n"


class Frame(NamedTuple):
    """The bytes of one device message; `checked`: it carried a CRC that was right."""

    body: bytes
    checked: bool


class Problem(NamedTuple):
    """What arrived is no frame. `answer=False`: only counted. `fatal`: the stream cannot be read any further."""

    code: str
    text: str
    answer: bool = True
    fatal: bool = False


Item = Frame | Problem


class Framer(Protocol):
    """One direction of one wire."""

    @property
    def name(self) -> str:
        """Name of the framing for logs and metrics."""
        ...

    @property
    def pending(self) -> bool:
        """Whether bytes are held that were not returned."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether more may be complete than the last `feed` was to return; `feed(b"")` returns it."""
        ...

    def feed(self, data: bytes, limit: int = NO_LIMIT) -> list[Item]:
        """Take bytes, return what became complete, in order: at most `limit` items."""
        ...

    def silence(self) -> list[Item]:
        """Tell that `SILENCE_S` passed without a byte; return what this completes."""
        ...

    def encode(self, answer: bytes, *, success: bool, checked: bool) -> bytes:
        """Return the wire bytes of an answer (JSON) to a frame that was `checked`."""
        ...


def with_crc(body: bytes) -> bytes:
    """Return `{...}*XXXXXXXX\\n`, the CRC line of a JSON text."""
    return b"%s*%08X\n" % (body, zlib.crc32(body))


class TextFramer:
    """JSON Lines with or without CRC, and raw objects.

    Args:
        max_bytes: longest message; a longer line is one `TOO_LARGE` problem and skipped to its end.
        crc: `"required"`: a line without a right CRC is noise, counted and not answered (serial). `"optional"`: checked
            where there is one (TCP). `"none"`: never.
        raw: whether an object without any newline may be taken after silence (TCP).
    """

    def __init__(self, *, max_bytes: int, crc: Literal["required", "optional", "none"], raw: bool = False) -> None:
        self._max_bytes = max_bytes
        self._crc = crc
        self._may_be_raw = raw
        self._is_raw = False
        self._skipping = False
        self._buffer = bytearray()
        self._lines = b""  # whole lines that are not returned yet

    @property
    def name(self) -> str:
        return "raw" if self._is_raw else "crc" if self._crc == "required" else "lines"

    @property
    def pending(self) -> bool:
        return bool(self._lines) or (bool(self._buffer) and not self._buffer.isspace())

    @property
    def has_more(self) -> bool:
        return bool(self._lines)

    def feed(self, data: bytes, limit: int = NO_LIMIT) -> list[Item]:
        if self._lines:
            data, self._lines = self._lines + data, b""
        *lines, rest = data.split(b"\n", limit)
        if not lines:
            return self._hold(data)
        self._may_be_raw = False
        if self._buffer:
            lines[0] = bytes(self._buffer) + lines[0]
            self._buffer.clear()
        items: list[Item] = []
        if self._skipping:
            self._skipping = False
            del lines[0]
        for line in lines:
            if len(line) > self._max_bytes + 16:  # 16: CRC suffix and \r
                items.append(self._too_large())
            elif line := line.strip(_SPACE):
                items.append(self._item(line))
        if b"\n" in rest:
            self._lines = rest
        elif rest:
            items += self._hold(rest)
        return items

    def _hold(self, data: bytes) -> list[Item]:
        """Keep the beginning of a message, unless it grew too long."""
        if self._skipping:
            return []
        self._buffer += data
        if len(self._buffer) <= self._max_bytes + 16:
            return []
        self._buffer.clear()
        self._skipping = True
        return [self._too_large()]

    def _too_large(self) -> Problem:
        return Problem("TOO_LARGE", f"message over {self._max_bytes} bytes", answer=self._crc != "required")

    def _item(self, line: bytes) -> Item:
        if self._crc == "none":
            return Frame(line, False)
        # Most lines end with their object: those need no search.
        match = None if line.endswith(b"}") else _CRC_SUFFIX.search(line)
        if match is None:
            if self._crc == "optional":
                return Frame(line, False)
            return Problem("CRC_MISSING", "line without CRC", answer=False)
        # Noise before the line does not cost the message: the CRC tells whether what follows it is whole.
        start = line.find(b"{") if self._crc == "required" else 0
        body = line[max(start, 0) : line.rindex(b"*")]
        if zlib.crc32(body) == int(match[1], 16):
            return Frame(body.strip(_SPACE), True)
        return Problem("INVALID_PAYLOAD", "CRC does not match", answer=self._crc == "optional")

    def silence(self) -> list[Item]:
        if not (self._may_be_raw or self._is_raw) or not self._buffer:
            return []
        body = bytes(self._buffer).strip(_SPACE)
        try:
            if not isinstance(orjson.loads(body), dict):
                return []
        except orjson.JSONDecodeError:
            return []
        self._is_raw = True
        self._buffer.clear()
        return [Frame(body, False)]

    def encode(self, answer: bytes, *, success: bool, checked: bool) -> bytes:
        if self._is_raw:
            return b"OK" if success else b"ERROR"
        return with_crc(answer) if checked or self._crc == "required" else answer + b"\n"


class LengthFramer:
    """4-byte big-endian length, then the JSON. A message that is too long is skipped; an absurd length is fatal."""

    name = "length"

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._skip_limit = 16 * max_bytes
        self._skip = 0
        self._failed = False
        self._buffer = bytearray()
        self.has_more = False

    @property
    def pending(self) -> bool:
        return bool(self._buffer) or self._skip > 0

    def feed(self, data: bytes, limit: int = NO_LIMIT) -> list[Item]:
        items: list[Item] = []
        self.has_more = False
        if self._failed:
            return items
        self._buffer += data
        while True:
            if len(items) >= limit:
                self.has_more = len(self._buffer) >= 4
                return items
            if self._skip:
                skipped = min(self._skip, len(self._buffer))
                del self._buffer[:skipped]
                self._skip -= skipped
            if self._skip or len(self._buffer) < 4:
                return items
            size = int.from_bytes(self._buffer[:4], "big")
            if size > self._skip_limit:
                self._failed = True
                self._buffer.clear()
                items.append(Problem("TOO_LARGE", f"length {size} is over {self._max_bytes} bytes", fatal=True))
                return items
            if size > self._max_bytes:
                items.append(Problem("TOO_LARGE", f"message of {size} bytes is over {self._max_bytes} bytes"))
                self._skip = size + 4
                continue
            if len(self._buffer) < 4 + size:
                return items
            items.append(Frame(bytes(self._buffer[4 : 4 + size]), False))
            del self._buffer[: 4 + size]

    def silence(self) -> list[Item]:
        return []

    def encode(self, answer: bytes, *, success: bool, checked: bool) -> bytes:
        return len(answer).to_bytes(4, "big") + answer


class Detector:
    """Finds the framing of a TCP connection from its first byte that is not white space, then stands aside."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._framer: Framer | None = None
        self._failed = False

    @property
    def name(self) -> str:
        return self._framer.name if self._framer else "unknown"

    @property
    def found(self) -> Framer | None:
        """The framer of the framing that was found; it may be asked directly from then on."""
        return self._framer

    @property
    def pending(self) -> bool:
        return self._framer is not None and self._framer.pending

    @property
    def has_more(self) -> bool:
        return self._framer is not None and self._framer.has_more

    def feed(self, data: bytes, limit: int = NO_LIMIT) -> list[Item]:
        if self._framer is None:
            if self._failed or not (data := data.lstrip(_SPACE)):
                return []
            if data[0] == 0:
                self._framer = LengthFramer(max_bytes=self._max_bytes)
            elif data[:1] == b"{":
                self._framer = TextFramer(max_bytes=self._max_bytes, crc="optional", raw=True)
            else:
                self._failed = True
                return [Problem("INVALID_PAYLOAD", "expected JSON, or a 4-byte length and JSON", fatal=True)]
        return self._framer.feed(data, limit)

    def silence(self) -> list[Item]:
        return self._framer.silence() if self._framer else []

    def encode(self, answer: bytes, *, success: bool, checked: bool) -> bytes:
        if self._framer is None:
            return answer + b"\n"
        return self._framer.encode(answer, success=success, checked=checked)
