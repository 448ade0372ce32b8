"""Commands in this process, in a folder of their own, where no server runs."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from robodyne_rt.cli.main import main

PASSWORD = "correct horse battery"


class Done(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """A prompt in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str, stdin: str = "") -> Done:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse's own way to say that usage is wrong
            code = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return Done(code, out, err)

    def done(self, *arguments: str, stdin: str = "") -> Any:
        """Run a command that must succeed; return what it prints as JSON."""
        done = self(*arguments, "--json", stdin=stdin)
        assert done.code == 0, done
        return done.json


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    for name in ("SERVER__HOST", "DEVICES__HOST"):  # the ports of other programs on this machine are no matter of ours
        monkeypatch.setenv(f"ROBODYNE_RT__{name}", "127.0.0.1")
    for name in ("SERVER__PORT", "DEVICES__PORT"):
        monkeypatch.setenv(f"ROBODYNE_RT__{name}", "0")
    yield Shell(tmp_path, capsys, monkeypatch)


@pytest.fixture(scope="module")
def after_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `init` makes; a password takes long to hash, on purpose."""
    folder = tmp_path_factory.mktemp("init")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
        assert main(["init", "--password-stdin", "--json"]) == 0
    return folder


@pytest.fixture
def ready(shell: Shell, after_init: Path) -> Shell:
    """A folder after `init`."""
    for path in after_init.iterdir():
        shutil.copy(path, shell.folder)
    return shell
