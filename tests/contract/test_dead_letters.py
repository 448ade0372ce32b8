"""A write at fault is parked after three attempts, alone; and what people do with it."""

import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.protocol.errors import Conflict, DeadLettered, ResourceNotFound
from robodyne_rt.store.intake import requeue
from robodyne_rt.store.intake.people_writes import AnswerWrite, RequestWrite
from robodyne_rt.store.intake.requeue import DeadLetters
from robodyne_rt.store.log.history import History
from robodyne_rt.store.log.reader_pool import ReaderPool
from robodyne_rt.store.tables import dead_letters
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter
from tests.contract.running import Running
from tests.stores import WINDOWS, Store


@pytest.fixture
async def running(store: Store, tmp_path: Path) -> AsyncIterator[Running]:
    run = Running(store, tmp_path)
    forbid(store)
    yield run
    await run.stop()
    assert run.failure is None


@pytest.fixture
async def desk(running: Running) -> AsyncIterator[DeadLetters]:
    readers = ReaderPool(running.database, history=History(running.epoch), windows=WINDOWS)
    yield DeadLetters(readers=readers, submissions=running.intake, clock=running.clock)
    readers.close()


def forbid(store: Store) -> None:
    """Let another program's rule refuse what is described as bad."""
    with store.foreign() as foreign:
        if store.kind == "sqlite":
            foreign.execute(
                "CREATE TRIGGER rule BEFORE INSERT ON event WHEN NEW.description = 'bad' BEGIN SELECT RAISE(ABORT, 'rule'); END"
            )
        else:
            foreign.execute("ALTER TABLE event ADD CONSTRAINT rule CHECK (description <> 'bad')")


def allow(store: Store) -> None:
    with store.foreign() as foreign:
        foreign.execute("DROP TRIGGER rule" if store.kind == "sqlite" else "ALTER TABLE event DROP CONSTRAINT rule")


def bad(id: str = "1", **more: Any) -> dict[str, Any]:
    return {"msg_type": "Event", "type": "CALL", "description": "bad", "table_number": 3, "id": id, **more}


async def test_a_parked_message_leaves_nothing_but_its_letter(running: Running, store: Store, desk: DeadLetters) -> None:
    told = await running.tell(**bad())
    assert isinstance(told, DeadLettered)
    assert store.ask("SELECT count(*) FROM table_") == [(0,)]  # it had marked its table before it failed
    letter = await desk.shown(told.details["dead_letter"])
    assert (letter["device"], letter["message_id"], letter["attempts"]) == ("d", "1", 1)
    assert "rule" in letter["error"] and letter["payload"]["message"]["table_number"] == 3
    assert letter["first_at"] == letter["last_at"] and letter["first_at"].endswith("Z")
    again = await running.tell(**bad())
    assert isinstance(again, DeadLettered) and again.details["dead_letter"] == told.details["dead_letter"]
    assert again.details["state"] == "RETRYING" and 0 <= again.details["retry_in_s"] <= 2
    assert isinstance(await running.tell(**bad(severity="ERROR")), Conflict)


async def test_a_fault_that_goes_away_is_healed_by_itself(running: Running, store: Store, desk: DeadLetters) -> None:
    told = await running.tell(**bad())
    allow(store)
    await running.until(lambda: store.ask("SELECT id FROM event WHERE type = 'CALL'") == [(told.details["dead_letter"],)])
    await running.until(lambda: told.details["dead_letter"] in running.screens.entities["events"])
    assert await running.tell(**bad()) == {"event_id": told.details["dead_letter"]}
    assert await desk.listed() == [] and store.ask("SELECT count(*) FROM event WHERE type = 'ERROR'") == [(0,)]


async def test_messages_without_an_id_are_parked_as_well(running: Running, desk: DeadLetters) -> None:
    message = bad()
    del message["id"]
    for _ in range(2):
        assert isinstance(await running.tell(**message), DeadLettered)
    assert [letter["message_id"] for letter in await desk.listed()] == [None, None]


async def test_requeued_it_is_stored_or_stays_with_one_attempt_more(running: Running, store: Store, desk: DeadLetters) -> None:
    told = await running.tell(**bad())
    id = told.details["dead_letter"]
    (result,) = await desk.act("requeue", [id])
    assert not result["stored"] and "rule" in result["error"]
    letter = await desk.shown(id)
    assert letter["attempts"] == 2 and letter["last_at"] > letter["first_at"]
    allow(store)
    assert await desk.act("requeue", None) == [{"id": id, "stored": True, "error": None}]
    assert store.ask("SELECT id, description FROM event WHERE type = 'CALL'") == [(id, "bad")]
    assert store.ask("SELECT status FROM table_") == [("CALLING",)]
    await running.until(lambda: id in running.screens.entities["events"])
    assert await running.tell(**bad()) == {"event_id": id}
    assert await desk.listed() == []


async def test_dropped_it_is_forgotten_and_may_come_again(running: Running, store: Store, desk: DeadLetters) -> None:
    told = await running.tell(**bad())
    id = told.details["dead_letter"]
    assert await desk.act("drop", [id]) == [{"id": id, "dropped": True}]
    allow(store)
    assert isinstance(await running.tell(**bad()), dict)


async def test_an_unknown_letter_touches_none(running: Running, desk: DeadLetters) -> None:
    told = await running.tell(**bad())
    for action in ("requeue", "drop"):
        with pytest.raises(ResourceNotFound):
            await desk.act(action, [told.details["dead_letter"], 5])
    assert len(await desk.listed()) == 1


@pytest.mark.parametrize("store", ["postgres"], indirect=True)  # SQLite defers foreign keys only, which no message can break
async def test_a_refusal_of_the_whole_commit_is_found_one_by_one(running: Running, store: Store) -> None:
    with store.foreign() as foreign:
        foreign.execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF NEW.description = 'late' THEN RAISE 'too late'; END IF; RETURN NULL; END $$"
        )
        foreign.execute(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON event DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION late()"
        )
    futures = [running.say(msg_type="Event", type="INFO", description=text, id=text) for text in ("a", "late", "b")]
    results = [await future for future in futures]
    assert [isinstance(result, DeadLettered) for result in results] == [False, True, False]
    assert store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id") == [("a",), ("b",)]
    assert store.ask("SELECT message_id, attempts FROM dead_letter") == [("late", 1)]


async def test_letters_are_kept_for_their_time_and_no_longer(store: Store, tmp_path: Path) -> None:
    running = Running(store, tmp_path, retention_days=14)
    forbid(store)
    await running.tell(**bad())
    running.writer._maintenance.started_at -= 13 * 86400
    await running.until(lambda: running.writer._tables.age_s > 12 * 86400)
    await running.tell(**bad("2"))
    running.writer._maintenance.started_at -= 2 * 86400
    await running.until(lambda: store.ask("SELECT message_id FROM dead_letter") == [("2",)])
    await running.stop()


async def test_the_command_finds_them_without_a_server(store: Store, tmp_path: Path) -> None:
    running = Running(store, tmp_path)
    forbid(store)
    told = await running.tell(**bad())
    await running.stop()
    db = store.database().open_writer()
    try:
        (letter,) = dead_letters.listed(db)
        assert letter["id"] == told.details["dead_letter"]
        allow(store)
        db.begin()
        assert requeue.act(DeviceMessageWriter(db), "requeue", None, 0.0)[0]["stored"]
        db.assign_offsets()
        db.commit()
    finally:
        db.close()
    assert store.ask("SELECT description FROM event WHERE type = 'CALL'") == [("bad",)]


async def test_ids_that_a_foreign_program_took_do_not_make_good_messages_fail(store: Store, tmp_path: Path) -> None:
    running = Running(store, tmp_path)
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO table_(id, table_number) VALUES (1, 901), (2, 902), (3, 903)")
        foreign.execute("INSERT INTO robot(id, robot_id) VALUES (1, 'x')")
    for number in (1, 2, 3):
        assert isinstance(await running.tell(msg_type="Table", table_number=number, status="OCCUPIED"), type(None))
    assert await running.tell(msg_type="Albabot", robot_id="a") is None
    assert store.ask("SELECT count(*) FROM dead_letter") == [(0,)]
    assert store.ask("SELECT count(*) FROM table_") == [(6,)]
    await running.stop()


async def test_what_shares_an_id_or_has_none_is_parked_and_stops_nobody(
    running: Running, store: Store, desk: DeadLetters
) -> None:
    """A question and its answer bear one id: both letters have to find room, or the writer would try them for ever."""
    with store.foreign() as foreign:
        if store.kind == "sqlite":
            foreign.execute("CREATE TRIGGER mute BEFORE INSERT ON chat_message BEGIN SELECT RAISE(ABORT, 'mute'); END")
        else:
            foreign.execute("ALTER TABLE chat_message ADD CONSTRAINT mute CHECK (question <> 'why')")
    asked = {"id": 7, "user_name": "kim", "session_id": "s", "request_id": "r", "dialect": "session", "question": "why"}
    asked |= {"timestamp": "2026-11-21T19:42:00.000001Z"}
    told = {"status": "COMPLETED", "code": None, "response": "so", "seq": 1, "answered_at": asked["timestamp"]}
    letters = []
    for kind, columns in ((RequestWrite, asked), (AnswerWrite, asked | told), (RequestWrite, asked)):
        with pytest.raises(DeadLettered) as parked:
            await running.intake.write(functools.partial(kind, columns))
        letters.append(parked.value.details["dead_letter"])
    assert letters[0] == letters[2] == 7 != letters[1]
    assert {letter["id"]: letter["kind"] for letter in await desk.listed()} == {7: "request", letters[1]: "answer"}
    assert await running.tell(msg_type="Event", type="INFO", id="e") is not None
    assert store.ask("SELECT count(*) FROM event WHERE type = 'INFO'") == [(1,)]


async def test_a_rule_that_refuses_what_tells_of_its_refusals_is_told_once(
    running: Running, store: Store, desk: DeadLetters
) -> None:
    with store.foreign() as foreign:
        if store.kind == "sqlite":
            foreign.execute("CREATE TRIGGER mute BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'mute'); END")
        else:
            foreign.execute("ALTER TABLE event ADD CONSTRAINT mute CHECK (type = 'NONE')")
    assert isinstance(await running.tell(msg_type="Event", type="INFO"), DeadLettered)
    assert await running.tell(msg_type="Table", table_number=1, id="t") is None
    assert await running.tell(msg_type="Table", table_number=2, id="u") is None
    assert [letter["kind"] for letter in await desk.listed()] == ["event", "message"]
