"""The judge: compares what devices were told with what the database holds."""

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.faults.load import Ack, Ledger, digest
from tests.faults.store import Store

MAX_NAMED = 3
"""Examples that a text names."""


@dataclass
class Tally:
    """What one fault did.

    Args:
        lost: acknowledged messages that are not there, or not as the device said them.
        doubled: messages that were applied more than once.
        reordered: messages of one connection that stand, or were noted in the change log, before an earlier one.
        false_acks: successes that must not be told.
        violations: other broken promises, in words.
        recovery_s: from the restart, or from the end of the fault, to the first answer to something sent after it.
    """

    trials: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    false_acks: int = 0
    violations: list[str] = field(default_factory=list)
    recovery_s: list[float] = field(default_factory=list)
    note: str = ""

    def __iadd__(self, other: "Tally") -> "Tally":
        for name in ("trials", "acknowledged", "lost", "doubled", "reordered", "false_acks", "violations", "recovery_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.note = "; ".join(dict.fromkeys(filter(None, (self.note, other.note))))
        return self

    @property
    def broken(self) -> int:
        """How many promises were broken."""
        return self.lost + self.doubled + self.reordered + self.false_acks + len(self.violations)


def judge(store: Store, ledger: Ledger) -> Tally:
    """Return what is wrong in a database that nobody writes to any more."""
    tally = Tally(acknowledged=len(ledger.acks))
    events = store.rows("SELECT id, description, type, data FROM event WHERE description LIKE 'device-%'")
    orders = store.rows("SELECT o.id, o.note, i.quantity FROM order_ o JOIN order_item i ON i.order_id = o.id")
    known = Counter((str(device), str(id)) for device, id in store.rows("SELECT device, id FROM device_message"))

    stored: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for id, name, type, data in events:
        stored[name].append((id, digest(*_event_body(type, data))))
    for id, note, quantity in orders:
        stored[note].append((id, digest("order", quantity)))

    lost = [ack.id for ack in ledger.acks if not _is_kept(ack, stored, known)]
    doubled = [name for name, rows in stored.items() if len(rows) > 1]
    tally.lost, tally.doubled = len(lost), len(doubled)
    tally.reordered = _reordered(ledger.acks, stored) + _reordered_in_log(ledger.acks, store)
    tally.false_acks = len(ledger.of_kind("false"))
    tally.note = "; ".join(_examples("lost", lost) + _examples("doubled", doubled))
    # What was lost and then sent again would show here too: the device's repetition has hidden the loss.
    elsewhere = [
        ack.id for ack in ledger.acks if ack.row is not None and stored[ack.id] and ack.row not in dict(stored[ack.id])
    ]
    tally.violations += _examples("not the row that the answer told", elsewhere)
    forgotten = [ack.id for ack in ledger.acks if ack.what != "robot" and ack.has_id and known[ack.device, ack.id] != 1]
    tally.violations += _examples("ids not remembered", sorted(set(forgotten) - set(lost)))
    tally.violations += _examples("answered wrong", [note["text"] for note in ledger.of_kind("wrong")])
    letters = [f"{kind}: {error}" for kind, error in store.rows("SELECT kind, error FROM dead_letter ORDER BY id")]
    tally.violations += _examples("dead letters", letters)
    tally.violations += _log_faults(store)
    if damage := store.damage():
        tally.violations.append(damage)
    return tally


def _event_body(type: str, data: Any) -> tuple[str, object]:
    """Return what `load` made the digest of; a row that is no event of the load's gives another one."""
    content = json.loads(data) if isinstance(data, str) else data
    return ("event" if type == "INFO" else type, content.get("text") if isinstance(content, dict) else None)


def _is_kept(ack: Ack, stored: dict[str, list[tuple[int, str]]], known: Counter[tuple[str, str]]) -> bool:
    if ack.what == "robot":
        return known[ack.device, ack.id] == 1
    return any(body == ack.body for _, body in stored[ack.id])


def _reordered(acks: list[Ack], stored: dict[str, list[tuple[int, str]]]) -> int:
    """Count the messages whose row stands before that of one sent earlier on the same connection."""
    lines: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for ack in acks:
        if ack.orderly and ack.what != "robot" and stored[ack.id]:
            number = int(ack.id.rpartition("-")[2])
            first = ack.row if ack.row is not None else min(id for id, _ in stored[ack.id])
            lines[ack.device, ack.connection].append((number, first))
    count = 0
    for line in lines.values():
        ids = [id for _, id in sorted(line)]
        count += sum(later < earlier for earlier, later in itertools.pairwise(ids))
    return count


def _reordered_in_log(acks: list[Ack], store: Store) -> int:
    """Count the messages that were stored before one sent earlier on the same connection, as far as the log goes back. The
    ids of rows are given when a message is heard, and do not tell that."""
    places = {
        (topic, key): place
        for topic, key, place in store.rows(
            "SELECT topic, key, min(\"offset\") FROM change WHERE op = 'upsert' GROUP BY topic, key"
        )
    }
    lines: dict[tuple[str, int, str], list[tuple[int, int]]] = defaultdict(list)
    for ack in acks:
        place = places.get((f"{ack.what}s", ack.row or 0))
        if ack.orderly and place is not None:
            lines[ack.device, ack.connection, ack.what].append((int(ack.id.rpartition("-")[2]), place))
    count = 0
    for line in lines.values():
        found = [place for _, place in sorted(line)]
        count += sum(later < earlier for earlier, later in itertools.pairwise(found))
    return count


def _log_faults(store: Store) -> list[str]:
    """Return what is wrong with the change log: holes, another end than its head, events that it never told of."""
    faults = []
    heads = dict(store.rows('SELECT topic, "offset" FROM topic_head'))
    offsets: dict[str, list[int]] = defaultdict(list)
    for topic, offset in store.rows('SELECT topic, "offset" FROM change ORDER BY topic, "offset"'):
        offsets[topic].append(offset)
    for topic, lines in offsets.items():
        if lines != list(range(heads[topic] - len(lines) + 1, heads[topic] + 1)):
            faults.append(f"the log of {topic} is not gapless up to its head {heads[topic]}")
    ((events,),) = store.rows("SELECT count(*) FROM event")
    if heads["events"] != events:
        faults.append(f"{events} events, but the log tells of {heads['events']} changes of them")
    return faults


def _examples(what: str, found: list[str]) -> list[str]:
    return [f"{what}: {len(found)}, as {', '.join(found[:MAX_NAMED])}"] if found else []
