"""A server in this process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.shells.web.app import Running, running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as server:
        yield server


@pytest.fixture
def admin(server: Running) -> str:
    """A token that may everything."""
    return server.token("root", "admin")
