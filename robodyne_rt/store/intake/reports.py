"""What the writer's thread brings to the loop after a cycle."""

from typing import Any, NamedTuple

from robodyne_rt.core.spooling import Answered
from robodyne_rt.model.changes import Update
from robodyne_rt.store.engine.database import Fault
from robodyne_rt.store.intake.writes import EventWrite, Write
from robodyne_rt.store.log.change_log import Lookups


class DeadLetter(NamedTuple):
    """A write that ran out of attempts, the id of its dead letter, and the reason."""

    write: Write
    id: int
    error: str


class Report:
    """What one cycle of the writer did and saw.

    Attributes:
        generation: of the batches in `done`; where there is a `fault`, the generation that is over.
        updates: what the change log brought; where `epoch` is named, snapshots of everything.
        done: committed writes, and those that the database refused, in order.
        dead_letters: writes that became dead letters.
        fault: why the database cannot be written, None where it can: what was given and is not reported is the intake's again.
        drained: rows of the spool up to this number are stored; 0 where nothing is new.
        drain_failed: whether the spool's rows cannot be read, and trying on will not help.
        reverted: writes out of the spool that were shown and became dead letters instead.
        recovered: whether the database can be written again.
        lookups: rows that messages are checked by while the database is away; None where they were not read.
        epoch: the new epoch, where history was lost.
        unreadable: values that no program can read, as text for people.
        restored_topics: topics whose triggers were gone and are put back.
    """

    __slots__ = (
        "dead_letters",
        "done",
        "drain_failed",
        "drained",
        "epoch",
        "fault",
        "generation",
        "lookups",
        "recovered",
        "restored_topics",
        "reverted",
        "unreadable",
        "updates",
    )  # fmt: skip

    def __init__(self, generation: int = 0, *, fault: Fault | None = None, drained: int = 0, recovered: bool = False) -> None:
        self.generation = generation
        self.updates: list[Update] = []
        self.done: list[Answered[Write]] = []
        self.dead_letters: list[DeadLetter] = []
        self.fault = fault
        self.drained = drained
        self.drain_failed = False
        self.reverted: list[Write] = []
        self.recovered = recovered
        self.lookups: Lookups | None = None
        self.epoch = ""
        self.unreadable: list[str] = []
        self.restored_topics: list[str] = []

    def error_events(self) -> list[tuple[str, Any]]:
        """Return what people are to be told by events, as (text, data)."""
        events: list[tuple[str, Any]] = []
        if not (self.dead_letters or self.unreadable or self.epoch or self.restored_topics):
            return events
        for write, id, reason in self.dead_letters:
            if write.kind == EventWrite.kind:
                continue  # what tells of it would be refused as well, and told, for ever; the log has it
            text = f"a {write.kind} could not be stored and is kept as a dead letter: {reason}".replace("\0", "\ufffd")
            events.append((text[:2000], write.dead_letter_columns() | {"id": id, "payload": None}))
        events += [(text, None) for text in self.unreadable]
        if self.restored_topics:
            text = "another program rebuilt tables without their triggers; they were put back, and all screens read them anew"
            events.append((text, {"topics": self.restored_topics}))
        if self.epoch:
            text = "the database came back older than it was: changes that were confirmed are lost"
            events.append((text, {"epoch": self.epoch}))
        return events

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to bring."""
        return not (
            self.updates
            or self.done
            or self.fault
            or self.drained
            or self.drain_failed
            or self.recovered
            or self.lookups
            or self.unreadable
            or self.restored_topics
        )
