"""What a client knows of one topic: snapshots replace it, updates are laid over it, a gap is never passed over (SPEC section 3,
the rules for a client). No I/O.
"""

from dataclasses import dataclass, field
from typing import Any

Entity = dict[str, Any]

STATUS_KEY = "status"
"""Under which the one object of the topic `status` is kept."""


@dataclass(slots=True)
class Change:
    """What a message, or several together, did to a topic.

    Attributes:
        changed: entities by id, as they are now.
        removed: ids that are no more.
        snapshot: everything was replaced.
        volatile: nothing of it is stored yet.
    """

    changed: dict[Any, Entity] = field(default_factory=dict)
    removed: list[Any] = field(default_factory=list)
    snapshot: bool = False
    volatile: bool = False

    def merge(self, newer: "Change") -> None:
        """Take a newer change in: for who reads slowly, only the newest state of each entity counts."""
        if newer.snapshot:
            self.changed, self.removed, self.snapshot = {}, [], True
        for key in newer.removed:
            self.changed.pop(key, None)
            if key not in self.removed:
                self.removed.append(key)
        for key in newer.changed:
            if key in self.removed:
                self.removed.remove(key)
        self.changed |= newer.changed
        self.volatile = self.volatile and newer.volatile


class Gap(Exception):
    """An update that does not follow what is known: ask again from the position that is known."""


class TopicState:
    """Entities of one topic, and the position they stand for."""

    def __init__(self) -> None:
        self.entities: dict[Any, Entity] = {}
        self.offset: int | None = None
        self.epoch: str | None = None

    def apply(self, message: dict[str, Any]) -> Change:
        """Take one `update` message.

        Raises:
            Gap: something before it is missing; nothing was changed.
        """
        volatile, snapshot = bool(message.get("volatile")), bool(message.get("snapshot"))
        if not volatile and not snapshot and (self.offset is None or message["prev"] > self.offset):
            raise Gap(f"{message['topic']}: {self.offset} -> {message['prev']}")
        data = message["data"]
        entities = {entity["id"]: entity for entity in data} if isinstance(data, list) else {STATUS_KEY: data}
        removed = list(message.get("removed", ()))
        if snapshot:
            self.entities = {}
        for key in removed:
            self.entities.pop(key, None)
        self.entities |= entities
        self.offset = message.get("offset", self.offset)
        self.epoch = message.get("epoch", self.epoch)
        return Change(entities, removed, snapshot, volatile)

    def position(self) -> dict[str, Any]:
        """Return where to go on from, as `subscribe` and `?since=` want it; empty where nothing is known."""
        return {} if self.offset is None or self.epoch is None else {"since": self.offset, "epoch": self.epoch}
