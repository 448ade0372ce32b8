"""A secret is believed for what it holds: who can guess it is an administrator."""

import secrets
from pathlib import Path

import pytest

from robodyne_rt import secret
from robodyne_rt.settings import ConfigError

RANDOM = secrets.token_hex(32).encode()


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 65,
        b"\xff" * 65,
        b"0" * 64,
        b"0123456" * 10,
        RANDOM[:31],
        RANDOM[:40] + b"\0" * 25,
        b"\0" * 32 + RANDOM[32:],
        b" " * 64 + b"\n",
    ],
    ids=["empty", "nul", "ones", "zeros", "seven", "short", "nul tail", "nul head", "blank"],
)
def test_what_anybody_could_guess_is_no_secret(tmp_path: Path, content: bytes) -> None:
    file = written(tmp_path / "secret.key", content)
    with pytest.raises(ConfigError, match="put its copy back"):
        secret.load(file)
    assert Path(file).read_bytes() == content  # a copy may still be found


@pytest.mark.parametrize(
    "content",
    [RANDOM, RANDOM + b"\n", secrets.token_bytes(48), b"correct horse battery staple of our kitchen"],
    ids=["hexadecimal", "line", "bytes", "words"],
)
def test_what_is_random_or_long_is_one(tmp_path: Path, content: bytes) -> None:
    assert secret.load(written(tmp_path / "secret.key", content)).key == content.strip()


def test_a_new_one_is_random_and_for_its_owner_only(tmp_path: Path) -> None:
    made = secret.load(str(tmp_path / "secret.key"))
    assert made.is_new and (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    again = secret.load(str(tmp_path / "secret.key"))
    assert (again.key, again.is_new) == (made.key, False)
