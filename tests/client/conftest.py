"""A running server for each test module, and a fresh one on demand."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server that all tests of a module share; they must leave it well."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running
        assert running.is_running, running.log()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with settings of the test's own: `start_server(HUB__PING_INTERVAL_S="1")`."""
    started: list[Server] = []

    def start(**settings: str) -> Server:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Server(folder, **settings).start())
        return started[-1]

    yield start
    for running in started:
        running.__exit__()
