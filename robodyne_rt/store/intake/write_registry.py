"""All kinds of writes that may lie in the spool or among the dead letters, and the way back from there."""

import orjson

from robodyne_rt.store.intake.people_writes import AnswerWrite, ReceiptWrite, RequestWrite, SessionWrite, StaffMessageWrite
from robodyne_rt.store.intake.writes import EventWrite, MessageWrite, VanishedWrite, Write

_KINDS: dict[str, type[Write]] = {
    kind.kind: kind
    for kind in (
        MessageWrite,
        VanishedWrite,
        EventWrite,
        RequestWrite,
        AnswerWrite,
        SessionWrite,
        StaffMessageWrite,
        ReceiptWrite,
    )
}


def load(payload: bytes | str) -> Write:
    """Return the write that `writes.dump` made JSON of.

    Raises:
        ValueError, KeyError, TypeError, RobodyneError: it is none, or of a version that knew other messages.
    """
    fields = orjson.loads(payload)
    kind = fields.pop("kind")
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of write {kind!r}")
    return _KINDS[kind].from_fields(fields)
