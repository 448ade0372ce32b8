"""What the store is asked to write: one object from the device's answer callback to the commit, the spool or the dead letters.

A write is applied by the writer inside its transaction. `dump` and `load` turn it into JSON and back, for the spool file and
the dead letters; what need not survive (`spoolable = False`) is refused instead where the database is away.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import orjson

from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Outcome
from robodyne_rt.protocol import device_messages
from robodyne_rt.protocol.device_messages import DeviceMessage, OrderReport
from robodyne_rt.protocol.errors import RobodyneError
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter, details


class Write(ABC):
    """Base of all writes.

    Attributes:
        number: counts writes in the order in which they were submitted.
        submitted_at: monotonic time of submission, in seconds.
        outcome: called once, on the loop, when it is durable or refused; None where nobody asks.
        expected: what the prediction said of it: (result, refusal); None where nobody asked.
        spoolable: whether it goes to the spool where the database is away.
        leaves_dead_letter: whether it becomes a dead letter where the database refuses it after it was acknowledged.
    """

    __slots__ = ("expected", "number", "outcome", "submitted_at")
    kind: str = ""
    spoolable: ClassVar[bool] = True
    leaves_dead_letter: ClassVar[bool] = True

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome = outcome
        self.number = 0
        self.submitted_at = 0.0
        self.expected: tuple[Any, RobodyneError | None] | None = None

    @classmethod
    def from_fields(cls, fields: Entity) -> "Write":
        """Return the write that gave these `fields`."""
        return cls(**fields)

    @abstractmethod
    def apply(self, tables: DeviceMessageWriter) -> Any:
        """Write it, in the caller's transaction; return what the outcome is told."""

    def fields(self) -> Entity:
        """Return what `load` needs, JSON-ready; nothing for what is not spoolable."""
        return {}

    def dead_letter_columns(self) -> Entity:
        """Return the columns of a dead letter that tell what this is."""
        return {"id": self.row_id, "kind": self.kind, "device": None, "message_id": None, "payload": dump(self).decode()}

    @property
    def row_id(self) -> int | None:
        """Id of the row that it makes, where it brings one along."""
        return None

    @property
    def newest_id(self) -> int:
        """The newest of the ids that were given to it."""
        return self.row_id or 0

    @property
    def digest(self) -> str:
        """What tells its body from another one with the same id; empty where it has none."""
        return ""

    @property
    def claim_key(self) -> tuple[str, str] | None:
        """Device and id that a repetition of it would bear as well."""
        return None

    def result_of(self, row: int) -> Any:
        """Return what its outcome is told where its name was taken for this row."""
        return row

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Topic and id of the rows whose ids it brings along."""
        return []


class MessageWrite(Write):
    """One device message; `ids` are for the rows it makes."""

    __slots__ = ("_digest", "device", "heard_at", "ids", "message")
    kind = "message"

    def __init__(  # noqa: PLR0917
        self,
        message: DeviceMessage,
        device: str,
        digest: str,
        heard_at: str,
        ids: Sequence[int],
        outcome: Outcome | None = None,
    ) -> None:
        # Every slot here: this is made for each message, and calling the base costs as much again.
        self.message = message
        self.device = device
        self._digest = digest
        self.heard_at = heard_at
        self.ids = ids
        self.outcome = outcome
        self.number = 0
        self.submitted_at = 0.0
        self.expected = None

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def claim_key(self) -> tuple[str, str] | None:
        return (self.device, self.message.id) if self._digest and self.message.id else None

    def result_of(self, row: int) -> Any:
        return details(self.message, [row])

    def apply(self, tables: DeviceMessageWriter) -> Any:
        return tables.message(self.message, self.device, self._digest, self.heard_at, self.ids)

    def fields(self) -> Entity:
        return {
            "message": self.message.model_dump(),
            "device": self.device,
            "digest": self._digest,
            "heard_at": self.heard_at,
            "ids": list(self.ids),
        }

    def dead_letter_columns(self) -> Entity:
        return super().dead_letter_columns() | {"device": self.device, "message_id": self.message.id}

    @property
    def row_id(self) -> int:
        return self.ids[0]

    @property
    def newest_id(self) -> int:
        return max(self.ids)

    @property
    def keys(self) -> list[tuple[str, int]]:
        topic = {"Event": "events", "Chatbot": "events", "Log": "systemlogs", "Order": "orders"}.get(self.message.msg_type)
        if topic is None or (isinstance(self.message, OrderReport) and self.message.order_id is not None):
            return []
        return [(topic, self.ids[0])]

    @classmethod
    def from_fields(cls, fields: Entity) -> "MessageWrite":
        message = device_messages.check(fields["message"], may_be_deep=False).message
        return cls(message, fields["device"], fields["digest"], fields["heard_at"], fields["ids"])


class TelemetryWrite(Write):
    """The newest telemetry of a robot; newer comes within a second."""

    __slots__ = ("columns", "heard_at", "robot_id")
    kind = "telemetry"
    spoolable = False

    def __init__(self, robot_id: str, columns: Entity, heard_at: str) -> None:
        super().__init__()
        self.robot_id = robot_id
        self.columns = columns
        self.heard_at = heard_at

    def apply(self, tables: DeviceMessageWriter) -> Any:
        tables.telemetry(self.robot_id, self.columns, self.heard_at)


class VanishedWrite(Write):
    """A robot fell silent."""

    __slots__ = ("heard_at", "id", "robot_id")
    kind = "vanished"

    def __init__(self, robot_id: str, heard_at: str, id: int) -> None:
        super().__init__()
        self.robot_id = robot_id
        self.heard_at = heard_at
        self.id = id

    def apply(self, tables: DeviceMessageWriter) -> Any:
        if tables.has_event(self.id):
            return  # by a commit that was never answered
        tables.vanished(self.robot_id, self.heard_at, self.id)

    def fields(self) -> Entity:
        return {"robot_id": self.robot_id, "heard_at": self.heard_at, "id": self.id}

    def dead_letter_columns(self) -> Entity:
        return super().dead_letter_columns() | {"device": self.robot_id}

    @property
    def row_id(self) -> int:
        return self.id

    @property
    def keys(self) -> list[tuple[str, int]]:
        return [("events", self.id)]


class EventWrite(Write):
    """An event that the server itself has to tell: a dead letter, a value that cannot be read, lost history."""

    __slots__ = ("at", "data", "description", "id", "severity", "type")
    kind = "event"

    def __init__(self, id: int, type: str, severity: str, description: str, data: Any, at: str) -> None:  # noqa: PLR0917
        super().__init__()
        self.id = id
        self.type = type
        self.severity = severity
        self.description = description
        self.data = data
        self.at = at

    def apply(self, tables: DeviceMessageWriter) -> Any:
        if tables.has_event(self.id):
            return  # by a commit that was never answered
        tables.event(self.id, self.type, self.severity, None, None, self.description, self.data, self.at)

    def fields(self) -> Entity:
        return {name: getattr(self, name) for name in ("id", "type", "severity", "description", "data", "at")}

    @property
    def row_id(self) -> int:
        return self.id

    @property
    def keys(self) -> list[tuple[str, int]]:
        return [("events", self.id)]


class ServerLineWrite(Write):
    """A line of the server's own log, for technicians: not kept where it cannot be stored now."""

    __slots__ = ("at", "data", "id", "level", "message")
    kind = "server_line"
    spoolable = False

    def __init__(self, id: int, level: str, message: str, data: Any, at: str, outcome: Outcome) -> None:  # noqa: PLR0917
        super().__init__(outcome)
        self.id = id
        self.level = level
        self.message = message
        self.data = data
        self.at = at

    def apply(self, tables: DeviceMessageWriter) -> Any:
        tables.server_line(self.id, self.level, self.message, self.data, self.at)


def are_server_lines(writes: Iterable[Write]) -> bool:
    """Return whether writes are lines of the server's own log, and nothing else."""
    found = False
    for write in writes:
        if not isinstance(write, ServerLineWrite):
            return False
        found = True
    return found


class CallWrite(Write):
    """A function of what writes are applied to; for what must not outlive this process."""

    __slots__ = ("function",)
    kind = "call"
    spoolable = False

    def __init__(self, function: Callable[[DeviceMessageWriter], Any], outcome: Outcome | None = None) -> None:
        super().__init__(outcome)
        self.function = function

    def apply(self, tables: DeviceMessageWriter) -> Any:
        return self.function(tables)


def dump(write: Write) -> bytes:
    """Return a write as JSON."""
    return orjson.dumps({"kind": write.kind, **write.fields()})
