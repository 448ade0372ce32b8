"""One topic that a client watches: its state, and whoever reads what happens to it."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio

from robodyne_rt.client.errors import ClientError
from robodyne_rt.client.state import STATUS_KEY, Change, Entity, TopicState


class Topic:
    """One topic that is watched; `async for change in topic` yields what happens, compacted for who reads slowly."""

    def __init__(self, name: str, *, interval_s: float) -> None:
        self.name = name
        self.interval_s = interval_s
        self._state = TopicState()
        self._ready = anyio.Event()
        self._readers: list[_Reader] = []
        self._error: ClientError | None = None
        self._is_over = False

    @property
    def entities(self) -> Mapping[Any, Entity]:
        """The entities by id; that of `status` is under "status"."""
        return self._state.entities

    @property
    def status(self) -> Entity:
        """The one object of the topic `status`."""
        return self._state.entities.get(STATUS_KEY, {})

    @property
    def offset(self) -> int | None:
        """How far the state has come."""
        return self._state.offset

    async def ready(self) -> None:
        """Wait for the first snapshot.

        Raises:
            Refused, Unreachable: it will not come.
        """
        await self._ready.wait()
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[Change]:
        reader = _Reader()
        if self._state.offset is not None:
            reader.add(Change(dict(self._state.entities), snapshot=True))
        self._readers.append(reader)
        try:
            while (change := await reader.next(self)) is not None:
                yield change
        finally:
            self._readers.remove(reader)

    def take(self, message: dict[str, Any]) -> None:
        """Take an update.

        Raises:
            Gap: something is missing.
        """
        change = self._state.apply(message)
        self._ready.set()
        for reader in self._readers:
            reader.add(change)

    def fail(self, error: ClientError) -> None:
        """End it for all who wait."""
        self._error = error
        self._ready.set()
        for reader in self._readers:
            reader.wake.set()

    def close(self) -> None:
        """End it for all who read, after what came."""
        self._is_over = True
        for reader in self._readers:
            reader.wake.set()

    @property
    def error(self) -> ClientError | None:
        """Why nothing comes any more."""
        return self._error

    @property
    def is_over(self) -> bool:
        """Whether nobody watches it any more."""
        return self._is_over

    def position(self) -> dict[str, Any]:
        """Return where to go on from."""
        return self._state.position()


class _Reader:
    def __init__(self) -> None:
        self._pending: Change | None = None
        self.wake = anyio.Event()

    def add(self, change: Change) -> None:
        if self._pending is None:
            self._pending = Change(dict(change.changed), list(change.removed), change.snapshot, change.volatile)
        else:
            self._pending.merge(change)
        self.wake.set()

    async def next(self, topic: Topic) -> Change | None:
        while self._pending is None:
            if topic.error is not None:
                raise topic.error
            if topic.is_over:
                return None
            self.wake = anyio.Event()
            await self.wake.wait()
        change, self._pending = self._pending, None
        return change
