"""A TOML file as people save it, and where in it each key stands. Used by `settings`, which knows what the keys mean.

[server]            lines(text) == {("server",): 1, ("server", "port"): 2}
port = 8000
"""

import codecs
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Location = tuple[str | int, ...]
"""The way to a value: names of tables and keys, numbers of items."""

_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""What Windows' Notepad writes, by the mark at the beginning; "UTF-8" there may bear a mark too."""

_CLOSINGS = ("", "\n]", '\n"""', "\n'''")
"""What may be missing behind a line: nothing, or the end of an array or of a text that goes on in further lines."""


class TomlError(Exception):
    """The file is no TOML.

    Attributes:
        line: where, counted from 1; None where that cannot be said.
    """

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


def read(path: Path) -> str:
    """Return the text of a file, with `\\n` at the end of each line.

    Raises:
        TomlError: it cannot be read, or is not UTF-8 (nor UTF-16 with its mark).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TomlError(f"cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in _ENCODINGS.items() if raw.startswith(mark)), "utf-8-sig")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TomlError(f"cannot be read: not {error.encoding.upper()}; save it with the encoding UTF-8", line) from error
    if "\0" in text:
        raise TomlError("cannot be read: not UTF-8, perhaps UTF-16; save it with the encoding UTF-8", 1)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(text: str) -> dict[str, Any]:
    """Return what a text says.

    Raises:
        TomlError: it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r" \(at line (\d+), column \d+\)", str(error))
        raise TomlError(f"not TOML: {error}", int(line[1]) if line else text.rstrip().count("\n") + 1) from error
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, a thousand brackets
        raise TomlError(f"not TOML: {error}") from error


def lines(text: str) -> dict[Location, int]:
    """Return in which line, counted from 1, each table, key and item of a TOML text begins.

    The parser itself says so: a key is in the first line up to which the text holds it. However it is written (dotted, quoted,
    inline), it is found; a text of some hundred lines takes some tenths of a second.
    """
    found: dict[Location, int] = {}
    whole = text.split("\n")
    for number, line in enumerate(whole, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        begun = "\n".join(whole[:number])
        for closing in _CLOSINGS:
            try:
                values = tomllib.loads(begun + closing)
            except (ValueError, RecursionError):
                continue
            for location in _locations(values, ()):
                found.setdefault(location, number)
            break
    return found


def _locations(value: Any, at: Location) -> Iterator[Location]:
    items: Iterator[tuple[str | int, Any]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*at, key)
        yield from _locations(item, (*at, key))
