"""Positions in the change log, and what moved between two of them.

Used by the store, which reads the log, and by the hub, which hands updates on. An offset counts the changes of one topic
from 1 without gaps; an epoch names the history in which it counts (SPEC sections 3 and 6).
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

Entity = dict[str, Any]
"""One entity as clients see it, JSON-ready."""


@dataclass(slots=True)
class Update:
    """The entities of one topic that changed in (prev, offset], each in its latest state.

    A snapshot has `snapshot=True`; its `prev` means nothing and its entities are all that the topic's window shows, or none
    where that is too much to hold (`is_whole=False`).
    """

    topic: str
    prev: int
    offset: int
    entities: dict[int, Entity] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)
    snapshot: bool = False
    is_whole: bool = True


class Keys(NamedTuple):
    """The ids of some entities of a topic, and the offset at which they were looked up."""

    offset: int
    keys: list[int]


class OptimisticChange(NamedTuple):
    """An entity as it will be once a write is stored, and of it the fields that the write changes."""

    entity: Entity
    fields: Entity
