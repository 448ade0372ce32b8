"""How the process logs: JSON lines for the journal, plain lines for a terminal (SPEC section 12).

Nobody waits for whoever reads the log. Lines go through a bounded queue to a thread that writes them; what finds the queue full
is lost, and counted. `print` goes the same way, so that a full pipe holds up no loop and no exit.
"""

import atexit
import contextlib
import io
import logging
import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Literal, TextIO

import orjson

from robodyne_rt import systemd
from robodyne_rt.model import times

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRETS = re.compile(r"((?:token|ticket|proof|password|secret)=)[^&\s\"']+", re.IGNORECASE)

# sd-daemon(3): the journal reads the priority from a leading <n>.
_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


_IS_STORING_LINES = ContextVar("is_storing_lines", default=False)


_NO_LINES = contextlib.nullcontext()


def storing_lines(is_so: bool) -> contextlib.AbstractContextManager[None]:
    """Mark what is logged within as caused by storing lines of this very log, which must not be stored in their turn."""
    return _marked() if is_so else _NO_LINES


@contextlib.contextmanager
def _marked() -> Iterator[None]:
    token = _IS_STORING_LINES.set(True)
    try:
        yield
    finally:
        _IS_STORING_LINES.reset(token)


def is_storing_lines() -> bool:
    """Return whether what is logged now is caused by storing lines of the log."""
    return _IS_STORING_LINES.get()


MAX_QUEUED_BYTES = 1 << 20
"""Of lines that wait for whoever reads them: some thousands."""

WRITE_BYTES = 4096
"""Lines of at most this much together are not torn apart by what other processes write to the same pipe (PIPE_BUF)."""

FLUSH_S = 1.0
"""How long the end of the process waits for its last lines to be read."""


class LineWriter:
    """Writes lines to a descriptor from a thread of its own.

    Args:
        describe_lost: returns the line that tells how many were lost; None where nobody is told.

    Attributes:
        lost: lines that nobody will read: the queue was full, or the reader is gone.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        max_bytes: int = MAX_QUEUED_BYTES,
        describe_lost: Callable[[int], str] | None = None,
    ) -> None:
        self.lost = 0
        self._told_lost = 0
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._describe_lost = describe_lost
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0
        self._is_closing = False
        # Reentrant: a collection of garbage within may warn, and a warning is a line.
        self._changed = threading.Condition(threading.RLock())
        # A daemon: stuck in write(2) it must not hold up the end of the process.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def offer(self, line: str) -> bool:
        """Queue one line, without its end; never waits. Return whether there was room for it."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if self._lines and self._queued_bytes + len(data) > self._max_bytes:
                self.lost += 1
                return False
            self._lines.append(data)
            self._queued_bytes += len(data)
            self._changed.notify()
        return True

    def close(self, deadline_s: float = FLUSH_S) -> bool:
        """Write what is queued, as far as somebody reads it until then; return whether all is written."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._is_closing:
                    self._changed.wait()
                lines, self._lines = self._lines, deque()
                lost, self._told_lost = self.lost - self._told_lost, self.lost
            if lost and self._describe_lost is not None:
                lines.append(self._describe_lost(lost).encode(errors="backslashreplace") + b"\n")
            elif not lines:
                return
            for chunk in _chunks(lines):
                is_written = self._write(b"".join(chunk))
                with self._changed:
                    self._queued_bytes = max(0, self._queued_bytes - sum(map(len, chunk)))
                    if not is_written:
                        self.lost += len(chunk)
                        self._told_lost += len(chunk)  # nobody is there to be told

    def _write(self, data: bytes) -> bool:
        """Write all of it, however long that takes; return False where nobody will ever read it."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # somebody made the pipe that we share with them non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll(1000)
            except OSError:
                return False
        return True


def _chunks(lines: deque[bytes]) -> list[list[bytes]]:
    """Return lines in groups that are written at once."""
    chunks: list[list[bytes]] = []
    size = WRITE_BYTES
    for line in lines:
        if size + len(line) > WRITE_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(line)
        size += len(line)
    return chunks


class LineStream(io.TextIOBase):
    """What stands in the place of `sys.stdout` or `sys.stderr`: takes text, and never waits."""

    def __init__(self, lines: LineWriter, instead_of: TextIO | None) -> None:
        self._lines = lines
        self._instead_of = instead_of
        self._rest = ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._lines.offer(line)
        return len(text)

    def flush(self) -> None:
        """Lines leave by themselves; what is no line yet waits for its end."""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._instead_of is not None and self._instead_of.isatty()

    def fileno(self) -> int:
        if self._instead_of is None:
            raise io.UnsupportedOperation("fileno")
        return self._instead_of.fileno()


class LineHandler(logging.Handler):
    """Hands log lines to a writer."""

    def __init__(self, lines: LineWriter) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.offer(self.format(record))
        except Exception:
            self.handleError(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per line; text of peers can break out of nothing.

    Args:
        with_priority: whether the journal reads the lines; for everybody else a line is JSON alone.
    """

    def __init__(self, *, with_priority: bool = False) -> None:
        super().__init__()
        self._with_priority = with_priority

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": times.to_text(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **own_fields(record),
        }
        if record.exc_info:
            line["error"] = redacted(self.formatException(record.exc_info))
        priority = f"<{_PRIORITIES.get(record.levelname, 6)}>" if self._with_priority else ""
        return priority + orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    """A line for people; control characters of peers are shown, not obeyed."""

    def format(self, record: logging.LogRecord) -> str:
        message = redacted(record.getMessage())
        safe = "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in message)
        text = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} {safe}"
        if record.exc_info:
            text += "\n" + redacted(self.formatException(record.exc_info))
        return text


def own_fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what a line says beside its text (`extra`)."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def redacted(text: str) -> str:
    """Return the text without the values of tokens and keys."""
    return _SECRETS.sub(r"\1***", text)


class Log:
    """The log of this process, as `set_up` made it."""

    def __init__(self, *writers: LineWriter) -> None:
        self._writers = writers

    @property
    def lines_lost(self) -> int:
        """Lines that nobody will read."""
        return sum(writer.lost for writer in self._writers)

    def close(self, deadline_s: float = FLUSH_S) -> None:
        """Write what is queued, as far as somebody reads it until then; the end of the process must not wait for more."""
        until = time.monotonic() + deadline_s
        for writer in self._writers:
            writer.close(max(0.0, until - time.monotonic()))


def set_up(*, level: str, style: Literal["auto", "json", "text"]) -> Log:
    """Log to stderr: for people on a terminal, else as JSON. `print` waits for nobody either from here on."""
    as_text = style == "text" or (style == "auto" and sys.stderr is not None and sys.stderr.isatty())
    formatter = (
        TextFormatter() if as_text else JsonFormatter(with_priority=sys.stderr is not None and systemd.is_journal(sys.stderr))
    )
    lines = LineWriter(_descriptor(sys.stderr), describe_lost=lambda count: formatter.format(_lost(count)))
    # One file for both, a pipe or a terminal: then one queue, so that they keep their order.
    is_same = sys.stdout is not None and sys.stderr is not None and _is_same_file(sys.stdout, sys.stderr)
    printed = lines if is_same else LineWriter(_descriptor(sys.stdout))
    handler = LineHandler(lines)
    handler.setFormatter(formatter)
    sys.stderr, sys.stdout = LineStream(lines, sys.stderr), LineStream(printed, sys.stdout)
    log = Log(*{lines, printed})
    atexit.register(log.close)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    # A line per connection at DEBUG of ours is enough; theirs would log each handshake.
    for name in ("asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
    return log


def _is_same_file(one: TextIO, other: TextIO) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return os.path.sameopenfile(one.fileno(), other.fileno())
    return False


def _descriptor(stream: TextIO | None) -> int:
    """Return where a stream goes to; to nowhere where it was closed: another file may have its number by now."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream is not None:
            stream.flush()
            return stream.fileno()
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _lost(count: int) -> logging.LogRecord:
    text = f"{count} lines of the log were lost: nobody read them in time"
    attributes = {"action": "log_lines_lost", "lost": count}
    return logging.makeLogRecord(
        {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text} | attributes
    )
