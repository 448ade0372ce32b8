"""The load: foreign devices in a process of their own, and the ledger of what they were answered.

`Load` starts and ends that process, `python -m tests.faults.load PLAN`, which imports nothing of the server's. Its devices
behave as docs/protocol-devices.md asks: many messages under way, ids kept, everything unanswered sent again after a
reconnect or when an answer is late. A share is sent twice, and some ids are sent again with another body. A share has no id
and is sent once: if that is doubled, nobody filters it out.

The ledger is a file of JSON lines, appended and fsynced; `Ledger` reads it. A line is an `Ack`, or has a `kind`:

    {"kind": "refused", "id": "device-1-7", "code": "STORAGE_UNAVAILABLE"}    told to keep it: will be sent again
    {"kind": "false", "text": ...}     a success that must not be: another body under a known id
    {"kind": "wrong", "text": ...}     any other broken promise
    {"kind": "parked", "id": "device-1-7"}     became a dead letter, and its device was told so
    {"kind": "cut", "device": "device-1", "text": ...}                       a connection ended, not by the device
    {"kind": "end", "sent": 1234, "conflicts_refused": 12}
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]

TICK_S = 0.01
LEDGER_INTERVAL_S = 0.02
MAX_KNOWN = 2000
"""Acknowledged messages per device that may be sent again."""

DISH = "bibimbap"
"""The one dish on the menu that a store under test begins with."""


@dataclass(frozen=True)
class Plan:
    """What the devices do.

    Args:
        window: messages of one device under way at most.
        per_second: new and repeated messages of one device.
        duplicates: share of what is sent that was sent before.
        conflicts: share that carries a known id and another body.
        shuffled: whether what is sent again after a reconnect comes in any order.
        hang_up_every: messages after which a device cuts its own connection; 0 never.
        patience_s: how late an answer may be before the device reconnects.
        anonymous: share of the events and orders that have no id.
        kinds: what is sent; an event, an order and a robot's state each leave another trace in the database. A `poison` is
            an event that may become a dead letter: its severity is CRITICAL.
    """

    port: int = 0
    ledger: str = ""
    seed: int = 0
    devices: int = 4
    window: int = 60
    per_second: int = 250
    duplicates: float = 0.3
    conflicts: float = 0.02
    shuffled: bool = False
    hang_up_every: int = 0
    patience_s: float = 3.0
    anonymous: float = 0.0
    kinds: tuple[str, ...] = ("event",) * 8 + ("order", "robot")


def digest(*parts: object) -> str:
    """Return the short hash by which a body is compared with what became of it."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


# -- the ledger ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ack:
    """One message at its first success.

    Args:
        id: of the message; what has none bears this in its text only.
        row: id of its row, as told; None for kinds that make none.
        orderly: it was answered at its first sending, so that its place among the others of its connection is known.
        sent_at, at: monotonic seconds of the last sending before, and of the answer.
    """

    id: str
    device: str
    what: str
    body: str
    row: int | None
    connection: int
    orderly: bool
    sent_at: float
    at: float
    has_id: bool = True


class Ledger:
    """What the load has written so far; reads on from where it stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self.acks: list[Ack] = []
        self.notes: list[dict[str, Any]] = []

    def read(self) -> "Ledger":
        """Take in what is new."""
        if not self._path.exists():
            return self
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self._read_bytes += len(content)
        for line in content.splitlines():
            entry = json.loads(line)
            if "kind" in entry:
                self.notes.append(entry)
            else:
                self.acks.append(Ack(**entry))
        return self

    def of_kind(self, kind: Literal["refused", "false", "wrong", "parked", "cut", "end"]) -> list[dict[str, Any]]:
        return [note for note in self.notes if note["kind"] == kind]


class _LedgerFile:
    """The writing side, inside the load's process."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lines: list[str] = []

    def note(self, kind: str, **facts: object) -> None:
        self._lines.append(json.dumps({"kind": kind, **facts, "at": time.monotonic()}))

    def acknowledged(self, ack: Ack) -> None:
        self._lines.append(json.dumps(vars(ack)))

    def flush(self) -> None:
        if self._lines:
            os.write(self._fd, ("\n".join(self._lines) + "\n").encode())
            os.fsync(self._fd)
            self._lines = []


# -- devices -------------------------------------------------------------------------------------------------------


@dataclass
class _Message:
    """One message and what is known of it."""

    id: str
    what: str
    wire: dict[str, Any]
    body: str
    connection: int = 0
    orderly: bool = True
    sent_at: float = 0.0
    is_acknowledged: bool = False
    row: int | None = None

    @property
    def has_id(self) -> bool:
        return "id" in self.wire


class _Cut(Exception):
    """The connection is of no more use."""


@dataclass
class _Device:
    """One device: a new connection whenever the last one ended, until all is answered at the end."""

    name: str
    plan: Plan
    ledger: _LedgerFile
    rng: random.Random
    ending: asyncio.Event
    number: int = 0
    connections: int = 0
    sent: int = 0
    conflicts_refused: int = 0
    unanswered: dict[str, _Message] = field(default_factory=dict)
    known: deque[_Message] = field(default_factory=lambda: deque(maxlen=MAX_KNOWN))
    flight: deque[tuple[_Message | None, bool]] = field(default_factory=deque)
    """What the next answers are for, and whether it was a conflicting body; None is our Hello."""
    refused: list[tuple[float, _Message]] = field(default_factory=list)

    async def live(self) -> None:
        """Connect again and again."""
        while not (self.ending.is_set() and not self.unanswered):
            self.connections += 1
            self.flight.clear()
            self.refused.clear()
            try:
                await self._connection()
            except (OSError, _Cut, TimeoutError) as error:
                if not isinstance(error, ConnectionRefusedError):
                    self.ledger.note("cut", device=self.name, text=f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.03)

    async def _connection(self) -> None:
        # Not wait_for: that of Python 3.11 can swallow a cancellation, and the task group would wait for ever.
        async with asyncio.timeout(self.plan.patience_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.plan.port)
        try:
            self._write(writer, None, {"msg_type": "Hello", "device_id": self.name})
            again = list(self.unanswered.values())
            if self.plan.shuffled:
                self.rng.shuffle(again)
            for message in again:
                message.orderly = False
                self._send(writer, message)
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(self._speak(writer))
                while not sender.done():
                    await self._listen(reader)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            writer.transport.abort()

    async def _speak(self, writer: asyncio.StreamWriter) -> None:
        """Send at the planned pace; return when there is nothing more to say, or when it is time to hang up."""
        budget = 0.0
        sent_before = self.sent
        while True:
            now = time.monotonic()
            due = [message for at, message in self.refused if at <= now]
            self.refused = [(at, message) for at, message in self.refused if at > now]
            for message in due:
                message.orderly = False
                self._send(writer, message)
            if self.ending.is_set():
                if not self.unanswered and not self.flight:
                    return
            else:
                budget = min(budget + self.plan.per_second * TICK_S, self.plan.window)
                while budget >= 1 and len(self.flight) + len(self.refused) < self.plan.window:
                    budget -= 1
                    self._say_something(writer)
            if self.plan.hang_up_every and self.sent - sent_before >= self.plan.hang_up_every and not self.ending.is_set():
                return
            async with asyncio.timeout(self.plan.patience_s):
                await writer.drain()
            await asyncio.sleep(TICK_S)

    def _say_something(self, writer: asyncio.StreamWriter) -> None:
        dice = self.rng.random()
        if dice < self.plan.conflicts and self.known:
            message = self.rng.choice(self.known)
            if message.what == "event":
                self._write(writer, message, message.wire | {"data": {"text": "another body"}}, conflicting=True)
                return
        if dice < self.plan.conflicts + self.plan.duplicates:
            # What is refused just now comes again by itself, at its time.
            waiting = {id(message) for _, message in self.refused}
            candidates = [message for message in self.unanswered.values() if id(message) not in waiting]
            if candidates or self.known:
                message = self.rng.choice(candidates if candidates and self.rng.random() < 0.5 else self.known or candidates)
                self._write(writer, message, message.wire)
                return
        message = self._new()
        if message.has_id:
            self.unanswered[message.id] = message
        self._send(writer, message)

    def _new(self) -> _Message:
        self.number += 1
        id = f"{self.name}-{self.number}"
        what = self.rng.choice(self.plan.kinds)
        message = self._named(id, what)
        if self.plan.anonymous and what in ("event", "order") and self.rng.random() < self.plan.anonymous:
            del message.wire["id"]
        return message

    def _named(self, id: str, what: str) -> _Message:
        if what == "order":
            quantity = self.rng.randint(1, 9)
            wire = {"msg_type": "Order", "table_number": 1, "items": [{"name": DISH, "quantity": quantity}], "note": id}
            return _Message(id, what, wire | {"id": id}, digest("order", quantity))
        if what == "robot":
            wire = {"msg_type": "Albabot", "robot_id": self.name, "status": "SERVING", "battery_level": self.number % 100}
            return _Message(id, what, wire | {"id": id}, "")
        text = self.rng.randbytes(self.rng.randint(1, 60)).hex()
        wire = {"msg_type": "Event", "type": "INFO", "description": id, "data": {"text": text}}
        if what == "poison":
            wire["severity"] = "CRITICAL"
        return _Message(id, what, wire | {"id": id}, digest("event", text))

    def _send(self, writer: asyncio.StreamWriter, message: _Message) -> None:
        """Send a message that is not acknowledged yet."""
        message.connection, message.sent_at = self.connections, time.monotonic()
        self._write(writer, message, message.wire)

    def _write(
        self, writer: asyncio.StreamWriter, message: _Message | None, wire: dict[str, Any], *, conflicting: bool = False
    ) -> None:
        if writer.transport.is_closing():
            raise _Cut("the server hung up")
        self.sent += 1
        self.flight.append((message, conflicting))
        writer.write(json.dumps(wire).encode() + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Take the answers that have come; wait for one as long as the device's patience goes."""
        if not self.flight:
            await asyncio.sleep(TICK_S / 2)
            return
        try:
            async with asyncio.timeout(self.plan.patience_s):
                line = await reader.readline()
        except TimeoutError:
            raise _Cut(f"no answer for {self.plan.patience_s} s") from None
        if not line.endswith(b"\n"):
            raise _Cut("the server hung up")
        answer = json.loads(line)
        message, conflicting = self.flight.popleft()
        if message is None:
            if answer["status"] != "success" and answer.get("error_code") != "STORAGE_UNAVAILABLE":
                self.ledger.note("wrong", text=f"Hello was answered {answer}")
            return
        if answer.get("id") != message.wire.get("id"):
            self.ledger.note("wrong", text=f"answers out of order: expected {message.id}: {answer}")
            raise _Cut("answers out of order")
        if answer["status"] == "success":
            self._succeeded(message, conflicting, answer)
        else:
            self._failed(message, conflicting, answer)

    def _succeeded(self, message: _Message, conflicting: bool, answer: dict[str, Any]) -> None:
        details = answer.get("details") or {}
        row: int | None = details.get("event_id", details.get("order_id"))
        if conflicting:
            self.ledger.note("false", text=f"another body under {message.id} was taken: {answer}")
        elif not message.is_acknowledged:
            message.is_acknowledged, message.row = True, row
            self.unanswered.pop(message.id, None)
            self.refused = [(at, other) for at, other in self.refused if other is not message]
            if message.has_id:
                self.known.append(message)
            self.ledger.acknowledged(
                Ack(
                    message.id,
                    self.name,
                    message.what,
                    message.body,
                    row,
                    message.connection,
                    message.orderly,
                    message.sent_at,
                    time.monotonic(),
                    message.has_id,
                )
            )
        elif message.row != row:
            self.ledger.note("wrong", text=f"{message.id} was stored as row {message.row}, and again as row {row}")

    def _failed(self, message: _Message, conflicting: bool, answer: dict[str, Any]) -> None:
        code = answer.get("error_code")
        if conflicting:
            self.conflicts_refused += code == "CONFLICT"
            if code not in ("CONFLICT", "STORAGE_UNAVAILABLE"):
                self.ledger.note("wrong", text=f"another body under {message.id} was answered {answer}")
            return
        if message.what == "poison" and code == "SERVER_ERROR" and "dead_letter" in (answer.get("details") or {}):
            self.ledger.note("parked", id=message.id)
            self.unanswered.pop(message.id, None)
            self.refused = [(at, other) for at, other in self.refused if other is not message]
            return
        if code != "STORAGE_UNAVAILABLE":
            self.ledger.note("wrong", text=f"{message.id} was answered {answer}")
        self.ledger.note("refused", id=message.id, code=code)
        message.orderly = False
        if message.has_id and not message.is_acknowledged and all(other is not message for _, other in self.refused):
            wait_s = float((answer.get("details") or {}).get("retry_after_s", 1))
            self.refused.append((time.monotonic() + min(wait_s, 0.5), message))


async def _run(plan: Plan) -> None:
    ledger = _LedgerFile(plan.ledger)
    ending = asyncio.Event()
    devices = [
        _Device(f"device-{index}", plan, ledger, random.Random(f"{plan.seed}-{index}"), ending) for index in range(plan.devices)
    ]
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(sys.stdin.fileno())
        ending.set()

    loop.add_reader(sys.stdin.fileno(), end)

    async def keep_ledger() -> None:
        while True:
            await asyncio.sleep(LEDGER_INTERVAL_S)
            ledger.flush()

    keeper = asyncio.create_task(keep_ledger())
    await asyncio.gather(*(device.live() for device in devices))
    keeper.cancel()
    ledger.note(
        "end",
        sent=sum(device.sent for device in devices),
        conflicts_refused=sum(device.conflicts_refused for device in devices),
    )
    ledger.flush()


# -- the rig's side ------------------------------------------------------------------------------------------------


class Load:
    """The load's process. `plan.port` is where the devices connect."""

    def __init__(self, plan: Plan, ledger: Path) -> None:
        self.ledger = Ledger(ledger)
        arguments = json.dumps(dataclasses.asdict(dataclasses.replace(plan, ledger=str(ledger))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.load", arguments], cwd=ROOT, stdin=subprocess.PIPE
        )

    def wait_for_first(self, *, within_s: float = 20.0) -> None:
        """Wait until something was acknowledged.

        Raises:
            TimeoutError: nothing was, or the load ended.
        """
        deadline = time.monotonic() + within_s
        while not self.ledger.read().acks:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError("nothing was acknowledged")
            time.sleep(0.01)

    def finish(self, *, within_s: float = 30.0) -> bool:
        """Send nothing new, and wait until everything is answered; return whether it was."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            return self._process.wait(within_s) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.kill()
            self.ledger.read()

    def kill(self) -> None:
        """End it at once, where it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        if self._process.stdin is not None:
            self._process.stdin.close()


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    asyncio.run(_run(Plan(**settings | {"kinds": tuple(settings["kinds"])})))
