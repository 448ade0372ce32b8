"""What was acknowledged is known while the database cannot be written: from memory, else from a file that can be read."""

import json
from typing import Any

import pytest

from robodyne_rt.protocol.device_messages import parse
from robodyne_rt.protocol.errors import Conflict, DeadLettered
from robodyne_rt.store.intake import acknowledged as module
from robodyne_rt.store.intake.acknowledged import Acknowledged
from robodyne_rt.store.intake.spool import SpooledRow
from robodyne_rt.store.intake.writes import MessageWrite, dump
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from robodyne_rt.testing.database import MemoryConnection, MemoryDatabase


class Readable(MemoryDatabase):
    """A file that can be read while it is locked."""

    def open_instant_reader(self) -> MemoryConnection:
        return self.open_reader()


def write(id: str | None = "1", row: int = 5, **more: Any) -> MessageWrite:
    message, digest = parse(json.dumps({"msg_type": "Event", "type": "CALL", **({"id": id} if id else {}), **more}).encode())
    return MessageWrite(message, "d", digest, "2026-11-21T00:00:00.000000Z", [row])


def test_memory_answers_a_repetition_and_sees_a_conflict() -> None:
    known = Acknowledged(MemoryDatabase())
    assert known.answer(write()) is None
    known.note(write(), {"event_id": 5})
    assert known.answer(write(row=6)) == ({"event_id": 5}, None)
    result, refusal = known.answer(write(severity="ERROR")) or (1, None)
    assert result is None and isinstance(refusal, Conflict)


def test_without_an_id_nothing_is_a_repetition() -> None:
    known = Acknowledged(MemoryDatabase())
    known.note(write(None), {"event_id": 5})
    assert known.answer(write(None)) is None


def test_the_oldest_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    known = Acknowledged(MemoryDatabase())
    for id in ("1", "2", "3"):
        known.note(write(id), {})
    assert [known.newest(write(id)) is not None for id in ("1", "2", "3")] == [False, True, True]


def test_a_file_that_can_be_read_answers_what_memory_does_not_hold() -> None:
    database = Readable()
    tables = DeviceMessageWriter(database.open_writer())
    write().apply(tables)
    known = Acknowledged(database)
    assert known.answer(write(row=6)) == ({"event_id": 5}, None)
    assert known.newest(write()) is None
    assert isinstance((known.answer(write(severity="ERROR")) or (0, None))[1], Conflict)
    letter = {"id": 9, "kind": "message", "device": "d", "message_id": "2", "payload": "{}", "error": "e", "attempts": 3}
    letter |= {"first_at": "2026-01-01T00:00:00Z", "last_at": "2026-01-01T00:00:00Z"}
    tables.store_dead_letter(letter, write("2").digest)
    assert isinstance((known.answer(write("2")) or (0, None))[1], DeadLettered)


def test_what_an_earlier_run_left_in_the_spool_is_known_by_its_first_row() -> None:
    class Spool:
        def rows(self, after: int, limit: int) -> list[SpooledRow]:
            rows = [write("1", 5), write("1", 6, severity="ERROR"), write("2", 7)]
            return [SpooledRow(seq, dump(row).decode()) for seq, row in enumerate(rows, 1)] + [SpooledRow(4, "torn")]

    known = Acknowledged(MemoryDatabase())
    known.note_spooled(Spool())  # type: ignore[arg-type]
    assert known.answer(write("1")) == ({"event_id": 5}, None)
    assert known.answer(write("2")) == ({"event_id": 7}, None)
