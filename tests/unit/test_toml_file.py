"""A configuration file is read as people save it, and each key is found in its line, however it is written."""

import codecs
from pathlib import Path

import pytest

from robodyne_rt import toml_file
from robodyne_rt.toml_file import TomlError

TEXT = '[server]\nname = "로봇"\n\n[hub]\n'


@pytest.mark.parametrize(
    "raw",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.replace("\n", "\r").encode(),
    ],
    ids=["plain", "mark", "utf-16", "utf-16-be", "utf-32", "notepad", "old mac"],
)
def test_a_file_from_any_editor_is_read(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(raw)
    assert toml_file.read(path) == TEXT


@pytest.mark.parametrize(
    ("raw", "line", "wanted"),
    [
        (TEXT.encode("cp949"), 2, "save it with the encoding UTF-8"),
        (TEXT.encode("utf-16-le"), None, "save it with the encoding UTF-8"),
        (b"[server]\x00\n", 1, "perhaps UTF-16"),
        (TEXT.encode("utf-16")[:-1], 4, "not UTF-16"),
    ],
    ids=["korean code page", "utf-16 without mark", "nul", "cut"],
)
def test_what_cannot_be_read_is_told_with_what_to_do(tmp_path: Path, raw: bytes, line: int | None, wanted: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(raw)
    with pytest.raises(TomlError) as error:
        toml_file.read(path)
    assert wanted in str(error.value)
    assert line is None or error.value.line == line


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(TomlError, match=why):
            toml_file.read(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [("[server]\nport = \n", 2), ("\n\n[server\n", 3), ("a = 1\na = 2\n", 2), ("a = [\n1,\n", 2), ("a = " + "[" * 5000, None)],
)
def test_what_is_no_toml_is_told_with_its_line(text: str, line: int | None) -> None:
    with pytest.raises(TomlError, match="not TOML") as error:
        toml_file.parse(text)
    assert error.value.line == line


def test_a_number_of_ten_thousand_digits_is_told() -> None:
    with pytest.raises(TomlError, match="not TOML"):
        toml_file.parse(f"a = {'1' * 10_000}")


def test_each_key_and_item_has_its_line() -> None:
    text = (
        '''# [server] in a comment
hub.topic_limits.robots = 3
server = { port = 1, "name" = "x" }  # inline

[ "auth" ]
issuer = """
[devices]
port = 5
"""
anonymous_topics = [   # in lines
    "robots",

    # "events",
    "tables", "orders",
]

[devices]  # port = 1
port = 8001
'''
        + "[[serial]]\nport = 'a'\n[[serial]]\nport = 'b\u2028c'\nspeed = 1\n"
    )
    assert toml_file.lines(text) == {
        ("hub",): 2,
        ("hub", "topic_limits"): 2,
        ("hub", "topic_limits", "robots"): 2,
        ("server",): 3,
        ("server", "port"): 3,
        ("server", "name"): 3,
        ("auth",): 5,
        ("auth", "issuer"): 6,
        ("auth", "anonymous_topics"): 10,
        ("auth", "anonymous_topics", 0): 11,
        ("auth", "anonymous_topics", 1): 14,
        ("auth", "anonymous_topics", 2): 14,
        ("devices",): 17,
        ("devices", "port"): 18,
        ("serial",): 19,
        ("serial", 0): 19,
        ("serial", 0, "port"): 20,
        ("serial", 1): 21,
        ("serial", 1, "port"): 22,
        ("serial", 1, "speed"): 23,
    }
