"""The control socket comes back when it vanishes, and not when the server ends."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from robodyne_rt.app import control_socket
from robodyne_rt.app.control_socket import ControlSocket


@pytest.fixture
async def runner(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[web.AppRunner]:
    monkeypatch.setattr(control_socket, "LOOK_INTERVAL_S", 0.01)
    made = web.AppRunner(web.Application())
    await made.setup()
    yield made
    await made.cleanup()


async def until_there(path: Path) -> None:
    with anyio.fail_after(5):
        while not path.exists():
            await anyio.sleep(0.01)


async def test_it_is_made_again_when_it_vanishes(runner: web.AppRunner, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    commands = ControlSocket(runner, path)
    await commands.listen()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commands.run)
        for _ in range(2):
            path.unlink()
            await until_there(path)
        path.unlink()
        path.mkdir()  # in its way: it is tried until it works
        await anyio.sleep(0.1)
        path.rmdir()
        await until_there(path)
        commands.close()
        tasks.cancel_scope.cancel()
    assert not path.exists()


async def test_one_that_is_being_made_when_the_server_ends_is_taken_away(
    runner: web.AppRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control.sock"
    commands = ControlSocket(runner, path)
    await commands.listen()
    start = web.UnixSite.start

    async def start_slowly(site: web.UnixSite) -> None:
        (tmp_path / "another").touch()  # which takes the number of the first one's inode
        await start(site)
        await anyio.sleep(0.05)

    monkeypatch.setattr(web.UnixSite, "start", start_slowly)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commands.run)
        path.unlink()
        await until_there(path)
        commands.close()
        tasks.cancel_scope.cancel()
    assert not path.exists()


async def test_it_is_not_made_again_while_the_server_ends(runner: web.AppRunner, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    commands = ControlSocket(runner, path)
    await commands.listen()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commands.run)
        commands.close()
        await runner.cleanup()  # may take a while
        await anyio.sleep(0.1)
        assert not path.exists()
        tasks.cancel_scope.cancel()
