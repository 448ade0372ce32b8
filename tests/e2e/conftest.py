"""A running server for each test module, a fresh one on demand, and apps that connect."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server
from tests.e2e.session_client import SessionClient, mint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server that all tests of a module share; they must leave it well."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running
        assert running.is_running, running.log()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with settings of the test's own: `start_server(HUB__PING_INTERVAL_S="1")`."""
    numbers = itertools.count()
    with contextlib.ExitStack() as started:

        def start(**settings: str) -> Server:
            folder = tmp_path / str(next(numbers))
            folder.mkdir()
            return started.enter_context(Server(folder, **settings))

        yield start


@pytest.fixture
def usual_role() -> str:
    """The role of who comes with none."""
    return "kitchen"


@pytest.fixture
async def come(rt: Server, usual_role: str) -> AsyncIterator[Callable[..., Any]]:
    """Connect users' apps to the server of the module: `await come("anna", "manager", confirm="ack")`."""
    apps: list[SessionClient] = []

    async def connect(user: str, *roles: str, **options: Any) -> SessionClient:
        apps.append(SessionClient(rt.port, token=mint(rt.folder, user, *(roles or (usual_role,))), **options))
        return await apps[-1].connect()

    yield connect
    for app in apps:
        await app.close()
