"""A bad network: a TCP proxy whose connections each suffer from something else, by a seed.

It runs in a thread of its own between the load and the server; `calm` lets connections of later on pass unharmed.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TROUBLES = ("latency", "slices", "bandwidth", "reset", "half_close", "black_hole", "slow_close", "cut_answers")

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: close() sends a RST."""


class BadNetwork:
    """Listens on `port` and passes on to `target_port`."""

    def __init__(self, target_port: int, *, seed: int) -> None:
        self._target_port = target_port
        self._rng = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self.seen: Counter[str] = Counter()
        self.calm = False
        self.port = 0

    def __enter__(self) -> "BadNetwork":
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """Cut every connection that is open now."""
        self._call(self._cut())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _cut(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _end(self) -> None:
        self._server.close()
        await self._cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        other = None
        try:
            answers, other = await asyncio.open_connection("127.0.0.1", self._target_port)
            await self._pass_on(reader, writer, answers, other)
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in filter(None, (writer, other)):
                end.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        other: asyncio.StreamWriter,
    ) -> None:
        """Carry one connection until it ends."""
        trouble = "none" if self.calm else self._rng.choice(TROUBLES)
        self.seen[trouble] += 1
        await _Link(trouble, random.Random(self._rng.random())).carry(reader, writer, answers, other)


class _Cut(Exception):
    """The connection ends here."""


class _Link:
    """One connection and its trouble."""

    def __init__(self, trouble: str, rng: random.Random) -> None:
        self._trouble = trouble
        self._rng = rng
        self._passed_bytes = 0
        self._lasts_bytes = rng.randint(200, 60_000)

    async def carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        other: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(_Cut):
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._pass(reader, other, upward=True))
                    tasks.create_task(self._pass(answers, writer, upward=False))
            except BaseExceptionGroup as group:
                error = group.exceptions[0]
                if self._trouble == "reset":
                    for end in (writer, other):
                        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                raise error from group

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upward: bool) -> None:
        while chunk := await reader.read(4096):
            self._passed_bytes += len(chunk)
            is_over = self._passed_bytes > self._lasts_bytes
            match self._trouble:
                case "latency":
                    await asyncio.sleep(self._rng.uniform(0.005, 0.15))
                case "slices":
                    for at in range(min(len(chunk), 300)):
                        writer.write(chunk[at : at + 1])
                        await writer.drain()
                        await asyncio.sleep(0)
                    chunk = chunk[300:]
                case "bandwidth":
                    await asyncio.sleep(len(chunk) / 100_000)
                case "reset" if is_over:
                    writer.write(chunk[: len(chunk) // 2])
                    raise _Cut
                case "half_close" if is_over and upward:
                    writer.write(chunk[: len(chunk) // 2])
                    writer.write_eof()
                    return
                case "cut_answers" if is_over and not upward:
                    raise _Cut
                case "black_hole" if is_over:
                    await asyncio.sleep(60)
            writer.write(chunk)
            await writer.drain()
        if self._trouble == "slow_close":
            await asyncio.sleep(0.3)
        writer.write_eof()
