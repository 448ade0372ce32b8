"""Neighbours of the devices' shells: a transport and a store that keep what they were told."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import ReceivedMessage


class FakeTransport(asyncio.Transport):
    """A wire whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_reading_paused = False
        self.ended: str = ""
        """`closed` or `aborted`."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class FakeStore:
    """Implements `ports.MessageStore`; the test settles what it was given."""

    def __init__(self) -> None:
        self.is_behind = False
        self.calls: list[list[ReceivedMessage]] = []
        self.waiting: list[ReceivedMessage] = []
        self._resumes: list[Callable[[], None]] = []

    @property
    def given(self) -> list[ReceivedMessage]:
        """Everything that was given, in order."""
        return [message for call in self.calls for message in call]

    def store_messages(self, messages: Sequence[ReceivedMessage]) -> None:
        self.calls.append(list(messages))
        self.waiting += messages

    def store_telemetry(self, robot_id: str, fields: dict[str, Any], heard_at: str) -> None:
        raise AssertionError("telemetry is stored by the clock, not by a wire")

    def store_vanished(self, robot_id: str, heard_at: str) -> None:
        raise AssertionError("a wire does not say who fell silent")

    def when_caught_up(self, resume: Callable[[], None]) -> None:
        self._resumes.append(resume)

    def settle(self, count: int | None = None, error: BaseException | None = None) -> None:
        """Answer the oldest that wait: all, or so many."""
        count = len(self.waiting) if count is None else count
        settled, self.waiting = self.waiting[:count], self.waiting[count:]
        for message in settled:
            message.outcome(None, error)

    def catch_up(self) -> None:
        """Be behind no more."""
        self.is_behind = False
        resumes, self._resumes = self._resumes, []
        for resume in resumes:
            resume()


class FakeTelemetry:
    """Implements `ports.TelemetrySink`."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.pushed: list[tuple[str, Entity]] = []

    def mark_seen(self, robot_id: str) -> None:
        self.seen.append(robot_id)

    def push_telemetry(self, robot_id: str, fields: Entity, heard_at: str) -> None:
        self.pushed.append((robot_id, fields))
