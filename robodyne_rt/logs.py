"""How the process logs: JSON lines for the journal, plain lines for a terminal (SPEC section 12)."""

import logging
import re
import sys
from typing import Literal

import orjson

from robodyne_rt import systemd
from robodyne_rt.core import times

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRETS = re.compile(r"((?:token|ticket|proof|password|secret)=)[^&\s\"']+", re.IGNORECASE)

# sd-daemon(3): the journal reads the priority from a leading <n>.
_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


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
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
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


def redacted(text: str) -> str:
    """Return the text without the values of tokens and keys."""
    return _SECRETS.sub(r"\1***", text)


def set_up(*, level: str, style: Literal["auto", "json", "text"]) -> None:
    """Log to stderr: for people on a terminal, else as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    as_text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter(with_priority=systemd.is_journal(sys.stderr)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    # A line per connection at DEBUG of ours is enough; theirs would log each handshake.
    for name in ("asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
