"""Hashes run two at a time, and known devices go before strangers."""

from typing import Any

import anyio
import pytest

from robodyne_rt.web.passwords import MAX_WAITING, PASSWORD_CONCURRENCY, Passwords


class Hashing:
    """A hash that takes until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: list[str] = []
        self.gates: dict[str, anyio.Event] = {}
        self.most = 0

        async def run_sync(function: Any, known: str | None, password: str, **options: Any) -> bool:
            self.running.append(password)
            self.most = max(self.most, len(self.running) - sum(gate.is_set() for gate in self.gates.values()))
            gate = self.gates.setdefault(password, anyio.Event())
            await gate.wait()
            return True

        monkeypatch.setattr("anyio.to_thread.run_sync", run_sync)

    async def finish(self, password: str) -> None:
        self.gates[password].set()
        await anyio.wait_all_tasks_blocked()


async def test_two_at_a_time_and_known_devices_first(monkeypatch: pytest.MonkeyPatch) -> None:
    hashing, queue = Hashing(monkeypatch), Passwords()

    async def log_in(password: str, is_known: bool) -> None:
        await queue.matches(None, password, is_known=is_known)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(log_in, f"stranger {number}", False)
            await anyio.wait_all_tasks_blocked()
        tasks.start_soon(log_in, "known", True)
        await anyio.wait_all_tasks_blocked()
        assert hashing.running == ["stranger 0", "stranger 1"]
        await hashing.finish("stranger 0")
        assert hashing.running[2:] == ["known"]
        for password in ("known", "stranger 1", "stranger 2", "stranger 3"):
            await hashing.finish(password)
    assert hashing.most == PASSWORD_CONCURRENCY
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log_in, "later", False)
        await anyio.wait_all_tasks_blocked()
        await hashing.finish("later")


async def test_who_gives_up_waiting_takes_nobody_s_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    hashing, queue = Hashing(monkeypatch), Passwords()

    async def log_in(password: str, scope: anyio.CancelScope | None = None) -> None:
        with scope or anyio.CancelScope():
            await queue.matches(None, password)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log_in, "a")
        tasks.start_soon(log_in, "b")
        await anyio.wait_all_tasks_blocked()
        scope = anyio.CancelScope()
        tasks.start_soon(log_in, "gone", scope)
        tasks.start_soon(log_in, "c")
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        await hashing.finish("a")
        assert hashing.running == ["a", "b", "c"]
        await hashing.finish("b")
        await hashing.finish("c")
    assert not queue.is_busy(is_known=False)


async def test_strangers_that_wait_do_not_make_it_busy_for_known_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    hashing, queue = Hashing(monkeypatch), Passwords()

    async def log_in(password: str) -> None:
        await queue.matches(None, password)

    async with anyio.create_task_group() as tasks:
        for number in range(PASSWORD_CONCURRENCY + MAX_WAITING):
            assert not queue.is_busy(is_known=False)
            tasks.start_soon(log_in, str(number))
            await anyio.wait_all_tasks_blocked()
        assert queue.is_busy(is_known=False)
        assert not queue.is_busy(is_known=True)
        tasks.cancel_scope.cancel()
    assert hashing.running == ["0", "1"]
