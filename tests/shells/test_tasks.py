"""What is started in a task group survives what its neighbours and its own inputs do to it."""

import errno
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import jwt
import pytest

from robodyne_rt import systemd
from robodyne_rt.app import process
from robodyne_rt.settings import ConfigError, Settings
from robodyne_rt.store.engine.postgres_listener import PostgresChangeListener
from robodyne_rt.web import jwks
from tests.hub.harness import Rig
from tests.work.desk import Desk


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


async def test_a_tick_of_the_hub_that_fails_is_not_its_last(rig: Rig) -> None:
    ticks: list[float] = []

    def tick(now: float) -> None:
        ticks.append(now)
        if len(ticks) == 1:
            raise ZeroDivisionError

    rig.hub.tick = tick  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        await tasks.start(rig.hub.run)
        with anyio.fail_after(5):
            while len(ticks) < 3:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert rig.hub._supervisor.failures["hub"] == 1


async def test_a_catch_up_that_fails_takes_nobody_along(rig: Rig) -> None:

    async def overview() -> Any:
        raise KeyError("oldest_placed_at")

    rig.reader.overview = overview  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        await tasks.start(rig.hub.run)
        rig.hub._spawn(rig.hub.status._refresh)
        with anyio.fail_after(5):
            while not rig.hub._supervisor.failures["catch-up"]:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "error", [ValueError("filedescriptor out of range in select()"), KeyError("x"), OSError(errno.EMFILE, "x")]
)
def test_a_listener_tries_again_whatever_its_driver_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robodyne_rt.store.engine.postgres_listener.FIRST_RETRY_S", 0.01)
    tries: list[int] = []

    def connect() -> Any:
        tries.append(1)
        if len(tries) == 3:
            listener.stop()
        raise error

    listener = PostgresChangeListener(connect, lambda: None)
    thread = threading.Thread(target=listener.run)
    thread.start()
    thread.join(10)
    assert len(tries) == 3 and listener.trouble.startswith("not listening: ")


class FakeLink:
    """A connection whose descriptor is above 1023."""

    class pgconn:
        status = 0

        @staticmethod
        def consume_input() -> None: ...

        @staticmethod
        def notifies() -> None: ...

    def __init__(self, sock: socket.socket, probed: Callable[[], None]) -> None:
        self._sock = sock
        self._probed = probed

    def fileno(self) -> int:
        return self._sock.fileno()

    def execute(self, statement: str) -> None:
        self._probed()


def test_a_listener_hears_above_1024_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robodyne_rt.store.engine.postgres_listener.LISTEN_PROBE_S", 0.05)
    held = [socket.socket() for _ in range(1030)]
    ours, theirs = socket.socketpair()
    try:
        assert ours.fileno() > 1023
        with pytest.raises(ValueError, match="out of range"):
            select.select([ours.fileno()], [], [], 0)  # the control
        listener = PostgresChangeListener(lambda: None, lambda: None)  # type: ignore[arg-type, return-value]
        link: Any = FakeLink(ours, listener.stop)
        listener._listen(link)  # one probe, and the stop that it makes
        listener._wake.close()
        listener._woken.close()
    finally:
        for sock in (*held, ours, theirs):
            sock.close()


def test_systemd_is_not_told_where_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*arguments: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setenv("NOTIFY_SOCKET", "@nowhere")
    monkeypatch.setattr(socket, "socket", no_more)
    assert not systemd.notify("WATCHDOG=1")


def test_systemd_that_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(systemd, "NOTIFY_TIMEOUT_S", 0.05)
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{tmp_path}/notify")
        count = 0
        while systemd.notify("WATCHDOG=1"):
            count += 1
            assert count < 100_000
        assert count > 0


async def test_a_question_whose_stored_answer_cannot_be_read_does_not_stop_the_next_one() -> None:
    async def answer(conversation: Any) -> str:
        return "done"

    desk = Desk(answer)

    async def take(columns: Any) -> Any:
        return {"status": "COMPLETED"} if columns["request_id"] == "1" else None

    desk.records.take = take  # type: ignore[method-assign]
    async with desk.running() as session:
        await desk.desk.ask(session, "1", "q", "session")
        await desk.desk.ask(session, "2", "q", "session")
        assert (await desk.answered())["response"] == "done"
    assert any(b'"INTERNAL"' in payload and b'"requestId":"1"' in payload for payload in desk.link.sent)


@pytest.mark.parametrize("error", [OverflowError(), AttributeError("encode"), RuntimeError("unsupported")])
def test_a_published_key_that_cannot_be_used_takes_no_other_along(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(item: Any, algorithm: str) -> Any:
        if item["kid"] == "bad":
            raise error
        return item

    monkeypatch.setattr(jwt, "PyJWK", make)
    keys = [{"kty": "RSA", "kid": "bad"}, {"kty": "RSA", "kid": "good"}]
    assert set(jwks._parse(json.dumps({"keys": keys}).encode())) == {"good"}


@pytest.mark.parametrize("error", [RecursionError(), OSError(errno.EIO, "x"), ConfigError("x")])
def test_a_reload_that_fails_changes_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(path: Any) -> Any:
        raise error

    monkeypatch.setattr(process, "load", fails)
    process._reload(None, Settings())
    assert [record.action for record in caplog.records] == ["reload_failed"]  # type: ignore[attr-defined]
