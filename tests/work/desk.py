"""The desk without a server: fakes around it, a clock that runs."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio

from robodyne_rt.core.rate_limit import SlidingWindow
from robodyne_rt.model.access import Principal
from robodyne_rt.ports import Clock
from robodyne_rt.sessions.manager import SessionManager
from robodyne_rt.sessions.memory import MemorySessions
from robodyne_rt.work.requests import RequestDesk

ALL = "available_data,api,clarification"


class FakeRecords:
    """Stores nothing."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self._id = 0

    def next_id(self) -> int:
        self._id += 1
        return self._id

    async def take(self, columns: Any) -> None:
        return None

    async def answer(self, columns: Any) -> None:
        self.answers.append(columns)

    async def find(self, *names: Any) -> None:
        return None

    async def pending(self) -> list[Any]:
        return []

    def create(self, columns: Any) -> None: ...

    def refresh(self, seen: Any) -> None: ...


class TwoRobots:
    """A restaurant of which nothing else is known; implements `ports.Restaurant`."""

    async def entities(self, topic: str) -> list[dict[str, Any]]:
        unknown = {"name": None, "battery_level": None, "x": None, "y": None, "last_seen": None}
        known = {"type": "ALBABOT", "status": "IDLE", "link": "ONLINE"}
        return [{"robot_id": f"alba-{id}", "id": id, **known, **unknown} for id in (1, 2)] if topic == "robots" else []

    async def events_since(self, epoch_s: float) -> list[dict[str, Any]]:
        return []

    def wall(self) -> float:
        return 0.0


class FakeLink:
    """A connection that writes into a list."""

    principal = Principal("anna", frozenset({"kitchen"}), frozenset({"query", "read:*"}))
    is_gone = False

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.sent: list[bytes] = []

    def send(self, payload: bytes) -> None:
        self.sent.append(payload)

    send_undelivered = send

    async def has_room(self) -> bool:
        return True

    def expect_pong(self) -> None: ...

    def close(self, error: Exception) -> None: ...


class Desk:
    """A desk whose requests have little time, and an answerer that does what the test says."""

    def __init__(
        self, answer: Callable[[Any], Any], *, ask_undeclared: bool = False, renewed: Any = lambda principal, now: principal
    ) -> None:
        self.records, self.link, clock = FakeRecords(), FakeLink(), Clock()
        self.sessions = SessionManager(
            store=MemorySessions(),
            repository=self.records,
            ttl_s=60,
            stale_after_s=60,
            single=False,
            clock=clock,
            on_presence=lambda: None,
            on_gone=lambda session: self.desk.session_gone(session),  # noqa: PLW0108 - it is built on the sessions
        )
        self.answer = answer
        self.desk = RequestDesk(
            sessions=self.sessions,
            repository=self.records,
            answerer=self,
            limit=SlidingWindow(limit=100, window_s=60),
            shared=True,
            renewed=renewed,
            ask_undeclared=ask_undeclared,
            clock=clock,
        )

    @contextlib.asynccontextmanager
    async def running(self, capabilities: frozenset[str] | None = frozenset(ALL.split(","))) -> AsyncIterator[Any]:
        session = await self.sessions.attach(
            self.link,
            device="",
            token=None,
            confirmed=None,
            capabilities=capabilities,
            more={},
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.desk.run)
            with anyio.fail_after(10):
                yield session
            tasks.cancel_scope.cancel()

    async def answered(self, count: int = 1) -> dict[str, Any]:
        while len(self.records.answers) < count:
            await anyio.sleep(0.005)
        return self.records.answers[count - 1]
