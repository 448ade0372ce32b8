"""The database goes away and comes back: what was acknowledged is in it once and in order, and screens go on meanwhile."""

import asyncio
import contextlib
import itertools
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from robodyne_rt.core import spooling
from robodyne_rt.protocol.errors import Conflict, DeadLettered, StorageUnavailable
from robodyne_rt.sim.cluster import Cluster
from robodyne_rt.store.engine import database, sqlite
from robodyne_rt.store.errors import FilesReplaced
from robodyne_rt.store.log import reader_pool
from robodyne_rt.store.log.history import History
from robodyne_rt.store.repositories import MessageRepository
from tests import stores
from tests.contract.running import Running
from tests.stores import Store


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A server that these tests may stop."""
    with stores.cluster() as cluster:
        yield cluster


class Outage:
    """Takes one kind of database away: a Postgres server is stopped, a SQLite file is locked."""

    def __init__(self, store: Store, cluster: Cluster | None) -> None:
        self._store = store
        self._cluster = cluster
        self._lock: sqlite3.Connection | None = None

    def begin(self) -> None:
        if self._cluster is not None:
            self._cluster.stop(signal.SIGQUIT)
        else:
            self._lock = sqlite3.connect(self._store.path, isolation_level=None, check_same_thread=False)
            self._lock.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        if self._cluster is not None:
            if self._cluster._process is None:
                self._cluster.start()
        elif self._lock is not None:
            self._lock.execute("ROLLBACK")
            self._lock.close()
            self._lock = None


@pytest.fixture(params=stores.KINDS)
def outage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Outage]]:
    if request.param == "sqlite":
        monkeypatch.setitem(sqlite.PRAGMAS, "busy_timeout", 200)
        store = stores.make_store("sqlite", tmp_path, lambda: pytest.fail("no cluster"))
        yield store, Outage(store, None)
        return
    cluster: Cluster = request.getfixturevalue("own_cluster")
    store = stores.make_store("postgres", tmp_path, lambda: cluster)
    outage = Outage(store, cluster)
    yield store, outage
    outage.end()


@pytest.fixture
async def running(outage: tuple[Store, Outage], tmp_path: Path) -> AsyncIterator[Running]:
    run = Running(outage[0], tmp_path, push_deadline_s=0.02)
    yield run
    outage[1].end()
    await run.stop()
    assert run.failure is None


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"msg_type": "Event", "type": "INFO", "description": f"n-{number}", "id": str(number), **more}


async def test_what_comes_while_the_database_is_away_is_acknowledged_shown_and_stored_in_order(
    running: Running, outage: tuple[Store, Outage]
) -> None:
    store, fault = outage
    numbers = itertools.count()
    acknowledged: list[int] = []

    async def load(stop: asyncio.Event) -> None:
        while not stop.is_set():
            number = next(numbers)
            result = await running.tell(**event(number))
            assert isinstance(result, dict), result
            acknowledged.append(number)
            await asyncio.sleep(0.002)

    stop = asyncio.Event()
    loads = [asyncio.create_task(load(stop)) for _ in range(4)]
    await running.until(lambda: len(acknowledged) > 50)
    await asyncio.to_thread(fault.begin)
    before = len(acknowledged)
    await running.until(lambda: len(acknowledged) > before + 200)
    assert running.state == "spooling"
    shown = {change.entity["description"] for topic, changes in running.screens.optimistic for change in changes.values()}
    assert shown
    await asyncio.to_thread(fault.end)
    await running.until(lambda: running.state == "ok")
    after = len(acknowledged)
    await running.until(lambda: len(acknowledged) > after + 50)
    stop.set()
    await asyncio.gather(*loads)
    stored = [text for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id")]
    assert sorted(stored) == sorted(f"n-{number}" for number in acknowledged)
    order = [int(text) for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id")
             for text in [text.removeprefix("n-")]]  # fmt: skip
    assert order == sorted(order)
    await running.until(lambda: not running.screens.optimistic or running.screens.settled)
    assert running.intake._overlay.is_empty
    assert running.spool is not None and running.writer._drain is not None
    assert not running.spool.rows(running.writer._drain.drained_upto, 10)


async def test_messages_are_checked_while_the_database_is_away(running: Running, outage: tuple[Store, Outage]) -> None:
    store, fault = outage
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO menu_item(name, station) VALUES ('kimchi', 'stew')")
        foreign.execute("INSERT INTO robot(robot_id) VALUES ('alba-1')")
    await running.until(lambda: running.intake._overlay.lookups.get("menu_item") and running.screens.entities["robots"])
    await asyncio.to_thread(fault.begin)
    placed = await running.tell(msg_type="Order", table_number=3, items=[{"name": "kimchi"}], id="a")
    assert placed["order_id"] > 0
    assert await running.tell(msg_type="Order", table_number=3, items=[{"name": "kimchi"}], id="a") == placed
    assert isinstance(await running.tell(msg_type="Order", table_number=4, items=[{"name": "kimchi"}], id="a"), Conflict)
    assert isinstance(
        await running.tell(msg_type="Order", table_number=3, items=[{"name": "stone"}], id="b"), StorageUnavailable
    )
    assert isinstance(await running.tell(msg_type="Order", order_id=77, status="READY", id="c"), StorageUnavailable)
    assert await running.tell(msg_type="Order", order_id=placed["order_id"], status="READY", id="d") == placed
    assert await running.tell(msg_type="Albabot", robot_id="alba-1", status="SERVING", battery_level=40) is None
    optimistic = {topic: changes for topic, changes in running.screens.optimistic}
    (order,) = optimistic["orders"].values()
    assert [item["name"] for item in order.entity["items"]] == ["kimchi"]
    assert (order.entity["status"], order.entity["table_id"]) == ("READY", None)  # its table has no id yet
    (robot,) = optimistic["robots"].values()
    assert (robot.entity["robot_id"], robot.entity["status"], robot.fields["battery_level"]) == ("alba-1", "SERVING", 40)
    assert "tables" not in optimistic
    await asyncio.to_thread(fault.end)
    await running.until(lambda: running.intake.state == "ok")
    assert store.ask("SELECT status, (SELECT table_number FROM table_ t WHERE t.id = table_id) FROM order_") == [("READY", 3)]
    assert store.ask("SELECT status FROM robot") == [("SERVING",)]
    assert store.ask("SELECT count(*) FROM dead_letter") == [(0,)]


async def test_ids_are_known_across_spool_and_store(running: Running, outage: tuple[Store, Outage]) -> None:
    store, fault = outage
    first = await running.tell(**event(1))
    await asyncio.to_thread(fault.begin)
    assert await running.tell(**event(1)) == first
    assert isinstance(await running.tell(**event(1, severity="ERROR")), Conflict)
    second = await running.tell(**event(2))
    assert await running.tell(**event(2)) == second
    running.forget_answers()
    if store.kind == "sqlite":  # which can be read while it is locked
        assert await running.tell(**event(1)) == first
        assert isinstance(await running.tell(**event(1, severity="ERROR")), Conflict)
    for number in (1, 2, 3):
        assert isinstance(await running.tell(**event(number)), dict)
    await asyncio.to_thread(fault.end)
    await running.until(lambda: running.intake.state == "ok")
    assert isinstance(await running.tell(**event(2)), dict)
    assert isinstance(await running.tell(**event(3, severity="ERROR")), Conflict)
    assert store.ask("SELECT description FROM event ORDER BY id") == [("n-1",), ("n-2",), ("n-3",)]
    assert running.intake._acknowledged._reader is None  # a connection of an outage ends with it
    # A duplicate that was shown before the database could tell is taken back.
    assert any(failed for _, _, failed in running.screens.settled) == (store.kind == "postgres")


async def test_a_body_that_conflicts_with_a_stored_one_is_parked_when_it_was_acknowledged(
    running: Running, outage: tuple[Store, Outage]
) -> None:
    store, fault = outage
    await running.tell(**event(1))
    await asyncio.to_thread(fault.begin)
    running.forget_answers()
    told = await running.tell(**event(1, severity="CRITICAL"))
    if store.kind == "sqlite":  # which can be read while it is locked
        assert isinstance(told, Conflict)
        return
    assert isinstance(told, dict)  # nobody can know yet
    await asyncio.to_thread(fault.end)
    await running.until(lambda: running.intake.state == "ok")
    ((id, error),) = store.ask("SELECT message_id, error FROM dead_letter")
    assert id is None and "Conflict" in error
    assert isinstance(await running.tell(**event(1)), dict)  # the first body is still the one that counts
    await running.until(lambda: store.ask("SELECT count(*) FROM event WHERE type = 'ERROR'") == [(1,)])


async def test_what_became_a_dead_letter_is_no_success_while_the_file_is_locked(
    running: Running, outage: tuple[Store, Outage]
) -> None:
    store, fault = outage
    poison(store)
    first = await running.tell(**event(1, severity="WARNING"))
    assert isinstance(first, DeadLettered)
    await asyncio.to_thread(fault.begin)
    again = await running.tell(**event(1, severity="WARNING"))
    if store.kind == "sqlite":  # which can be read while it is locked
        assert isinstance(again, DeadLettered) and again.details["dead_letter"] == first.details["dead_letter"]
    await asyncio.to_thread(fault.end)
    await running.until(lambda: running.intake.state == "ok")
    assert store.ask("SELECT count(*) FROM dead_letter") == [(1,)]


async def test_a_full_spool_refuses_and_forgets_nothing(outage: tuple[Store, Outage], tmp_path: Path) -> None:
    store, fault = outage
    running = Running(store, tmp_path / "small", spool_max_bytes=200_000)
    try:
        await running.tell(**event(0))
        await asyncio.to_thread(fault.begin)
        acknowledged, refused = [0], 0
        for number in range(1, 400):
            result = await running.tell(**event(number, data={"text": "x" * 2000}))
            if isinstance(result, StorageUnavailable):
                refused += 1
                assert result.details["retry_after_s"] > 0
                if refused > 5:
                    break
            else:
                assert isinstance(result, dict), result
                acknowledged.append(number)
        assert refused and len(acknowledged) > 10
        await asyncio.to_thread(fault.end)
        await running.until(lambda: running.intake.state == "ok")
        stored = [text for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id")]
        assert stored == [f"n-{number}" for number in acknowledged]
        assert isinstance(await running.tell(**event(1000)), dict)
    finally:
        fault.end()
        await running.stop()


async def test_without_a_spool_devices_keep_their_messages(outage: tuple[Store, Outage], tmp_path: Path) -> None:
    store, fault = outage
    running = Running(store, tmp_path, spool_max_bytes=0)
    try:
        await running.tell(**event(0))
        await asyncio.to_thread(fault.begin)
        assert isinstance(await running.tell(**event(1)), StorageUnavailable)
        await asyncio.to_thread(fault.end)
        await running.until(lambda: running.intake.state == "ok")
        assert isinstance(await running.tell(**event(1)), dict)
        assert store.ask("SELECT description FROM event ORDER BY id") == [("n-0",), ("n-1",)]
    finally:
        fault.end()
        await running.stop()


async def test_poison_in_the_spool_is_parked_and_its_neighbours_are_stored(
    running: Running, outage: tuple[Store, Outage]
) -> None:
    store, fault = outage
    await running.tell(**event(0))
    poison(store)
    await asyncio.to_thread(fault.begin)
    for number in range(1, 30):
        result = await running.tell(**event(number, **({"severity": "WARNING"} if number == 13 else {})))
        assert isinstance(result, dict)
    await asyncio.to_thread(fault.end)
    await running.until(lambda: running.intake.state == "ok")
    stored = [text for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id")]
    assert stored == [f"n-{number}" for number in range(30) if number != 13]
    assert store.ask("SELECT message_id, attempts FROM dead_letter") == [("13", 1)]


async def test_a_receipt_for_what_is_stored_under_another_id_holds_up_nobody(
    running: Running, outage: tuple[Store, Outage]
) -> None:
    """Repeated while the database cannot be read a message has another id for a while; who read that one is asked again."""
    store, fault = outage
    readers = reader_pool.ReaderPool(running.database, history=History(running.epoch), windows=stores.WINDOWS)
    records = MessageRepository(readers=readers, intake=running.intake)
    message: dict[str, Any] = {"id": 1, "sender": "lee", "recipient": "kim", "message": "come", "message_type": "TEXT"}
    message |= {"audio_url": None, "timestamp": "2026-11-21T19:42:00.000001Z", "websocket_sent": True}
    assert await records.store(message, "k", "d") == 1
    running.forget_answers()
    await asyncio.to_thread(fault.begin)
    id = await records.store(message | {"id": 2}, "k", "d")
    if store.kind == "sqlite":  # which can be read while it is locked
        assert id == 1
        return readers.close()
    assert id == 2
    assert await records.read(2, "kim", ["kim"], message["timestamp"]) == "lee"
    assert isinstance(await running.tell(**event(1)), dict)
    await asyncio.to_thread(fault.end)
    await running.until(lambda: running.intake.state == "ok")
    assert store.ask("SELECT description FROM event WHERE type = 'INFO'") == [("n-1",)]
    assert store.ask("SELECT count(*) FROM dead_letter") == [(0,)]
    assert [one["id"] for one in await records.unread("kim", ["kim"], own="kim")] == [1]
    readers.close()


async def test_what_a_crash_left_in_the_spool_though_it_was_stored_is_waited_for_by_nobody(
    outage: tuple[Store, Outage], tmp_path: Path
) -> None:
    """The process may die between the commit of what was drained and its end in the spool."""
    store, fault = outage
    running = Running(store, tmp_path)
    await asyncio.to_thread(fault.begin)
    assert isinstance(await running.tell(**event(1)), dict)
    running.spool.forget = lambda upto: None  # type: ignore[method-assign, union-attr]
    await asyncio.to_thread(fault.end)
    await running.until(lambda: running.intake.spool_backlog == 0)
    await running.stop()
    again = Running(store, tmp_path)
    try:
        assert again.spool is not None and again.spool.rows_at_start == 1
        await again.intake.wait_until_drained(0)
        assert again.intake.state == "ok"
        assert isinstance(await again.tell(**event(2)), dict)
        assert store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id") == [("n-1",), ("n-2",)]
        with contextlib.closing(sqlite3.connect(again.spool.path)) as link:
            await again.until(lambda: link.execute("SELECT count(*) FROM spool").fetchone() == (0,))
    finally:
        await again.stop()


async def test_rows_of_the_spool_that_were_committed_unheard_are_not_waited_for(
    running: Running, outage: tuple[Store, Outage], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, fault = outage
    writer = running.writer
    await asyncio.to_thread(fault.begin)
    assert isinstance(await running.tell(**event(1)), dict)
    lost = psycopg.OperationalError("the line broke") if store.kind == "postgres" else sqlite3.OperationalError("locked")
    if isinstance(lost, sqlite3.Error):
        lost.sqlite_errorcode = sqlite3.SQLITE_BUSY
    unheard: list[database.DbConnection] = []
    commit = database.DbConnection.commit

    def commit_unheard(db: database.DbConnection) -> None:
        is_drain = writer._is_drain_due()
        commit(db)
        if is_drain and not unheard:
            unheard.append(db)
            raise lost

    monkeypatch.setattr(database.DbConnection, "commit", commit_unheard)
    await asyncio.to_thread(fault.end)
    await running.until(lambda: unheard)
    await running.until(lambda: running.intake.state == "ok")
    assert running.intake.spool_backlog == 0
    assert isinstance(await running.tell(**event(2)), dict)
    assert store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id") == [("n-1",), ("n-2",)]


def poison(store: Store) -> None:
    """Let another program's rule refuse events of severity WARNING."""
    with store.foreign() as foreign:
        if store.kind == "sqlite":
            foreign.execute(
                "CREATE TRIGGER poison BEFORE INSERT ON event WHEN NEW.severity = 'WARNING'"
                " BEGIN SELECT RAISE(ABORT, 'poison'); END"
            )
        else:
            foreign.execute("ALTER TABLE event ADD CONSTRAINT poison CHECK (severity <> 'WARNING')")


@pytest.mark.parametrize("rounds", [4])
async def test_postgres_restarted_at_once_again_and_again_loses_and_doubles_nothing(
    own_cluster: Cluster, tmp_path: Path, rounds: int
) -> None:
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    running = Running(store, tmp_path)
    numbers = itertools.count()
    acknowledged: list[int] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            # No ids: what is doubled here nobody filters out.
            number = next(numbers)
            result = await running.tell(msg_type="Event", type="INFO", description=str(number))
            assert isinstance(result, dict), result
            acknowledged.append(number)
            await asyncio.sleep(0.01)  # a spool takes far more than a database drains in the time of a test

    loads = [asyncio.create_task(load()) for _ in range(20)]
    try:
        for _ in range(rounds):
            await running.until(lambda: running.intake.state == "ok")  # commits are hit, not the spool
            before = len(acknowledged)
            await running.until(lambda before=before: len(acknowledged) > before + 100)
            await asyncio.to_thread(own_cluster.stop, signal.SIGQUIT)
            await asyncio.to_thread(own_cluster.start)
        await running.until(lambda: running.intake.state == "ok")
    finally:
        stop.set()  # a test that fails must not load on for ever
    await asyncio.gather(*loads)
    await running.stop()
    assert running.failure is None
    stored = [int(text) for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO'")]
    assert sorted(stored) == sorted(acknowledged)


async def test_terminated_backends_are_replaced(own_cluster: Cluster, tmp_path: Path) -> None:
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    running = Running(store, tmp_path)
    for number in range(10):
        await running.tell(**event(number))
        with store.foreign() as foreign, suppress(psycopg.Error):
            foreign.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert isinstance(await running.tell(**event(100 + number)), dict)
    await running.until(lambda: running.intake.state == "ok")
    with store.foreign() as foreign:
        foreign.execute("INSERT INTO table_(table_number) VALUES (77)")
    await running.until(lambda: any(t["table_number"] == 77 for t in running.screens.entities["tables"].values()))
    await running.stop()
    assert store.ask("SELECT count(*) FROM event") == [(20,)]


async def test_a_server_that_hangs_is_taken_for_away(
    own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "PATIENCE_S", 0.5)
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    running = Running(store, tmp_path)
    await running.tell(**event(0))
    own_cluster.send(signal.SIGSTOP)
    try:
        for number in range(1, 6):
            assert isinstance(await running.tell(**event(number)), dict)
        assert running.state == "spooling"
    finally:
        own_cluster.send(signal.SIGCONT)
    await running.until(lambda: running.state == "ok")
    assert isinstance(await running.tell(**event(6)), dict)
    await running.stop()
    assert store.ask("SELECT description FROM event ORDER BY id") == [(f"n-{number}",) for number in range(7)]


async def test_a_read_that_hangs_is_given_up(own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_pool, "READ_PATIENCE_S", 0.3)
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    running = Running(store, tmp_path)
    readers = reader_pool.ReaderPool(running.database, history=History(running.epoch), windows=stores.WINDOWS)
    assert (await readers.snapshot("events")).offset == 0
    own_cluster.send(signal.SIGSTOP)
    try:
        for _ in range(4):
            with pytest.raises(StorageUnavailable):
                await readers.snapshot("events")
    finally:
        own_cluster.send(signal.SIGCONT)
    async with asyncio.timeout(20):
        while True:
            try:
                assert (await readers.snapshot("events")).offset == 0
                break
            except StorageUnavailable:
                await asyncio.sleep(0.1)
    readers.close()
    await running.stop()


async def test_a_standby_that_took_over_without_all_changes_is_a_new_history(own_cluster: Cluster, tmp_path: Path) -> None:
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    running = Running(store, tmp_path)
    for number in range(5):
        await running.tell(**event(number))
    name = store.url.rsplit("/", 1)[1]
    with psycopg.connect(own_cluster.libpq_url, autocommit=True) as link:
        # What a standby that was behind would have: the same epoch, and not the last changes.
        link.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        link.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        await running.until(lambda: running.writer._is_away or running.writer.stats.failures)
        link.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        with store.foreign() as foreign:
            foreign.execute("SET robodyne.quiet = 'on'")
            foreign.execute("BEGIN; DELETE FROM change WHERE \"offset\" > 3; DELETE FROM event WHERE description > 'n-2';")
            foreign.execute("DELETE FROM inbox; UPDATE topic_head SET \"offset\" = 3 WHERE topic = 'events'; COMMIT")
    assert isinstance(await running.tell(**event(9)), dict)
    await running.until(lambda: running.intake.state == "ok" and running.screens.epochs)
    assert running.screens.epochs == [store.ask("SELECT value FROM meta WHERE key = 'epoch'")[0][0]] != [running.epoch]
    assert running.writer.stats.regressions == 1
    await running.until(lambda: bool(store.ask("SELECT 1 FROM event WHERE type = 'ERROR' AND description LIKE '%older%'")))
    await running.stop()


async def test_another_database_under_the_same_name_ends_the_writer(own_cluster: Cluster, tmp_path: Path) -> None:
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    running = Running(store, tmp_path)
    assert isinstance(await running.tell(**event(1)), dict)
    name = store.url.rsplit("/", 1)[1]
    with psycopg.connect(own_cluster.libpq_url, autocommit=True) as link:
        link.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        link.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        await running.until(lambda: running.writer._is_away or running.writer.stats.failures)
        link.execute(f"ALTER DATABASE {name} RENAME TO {name}_old")
        link.execute(f"CREATE DATABASE {name} TEMPLATE {name}_old")
    await running.until(lambda: running.failure is not None)
    assert isinstance(running.failure, FilesReplaced) and "another database" in str(running.failure)
    assert store.ask("SELECT count(*) FROM event") == [(1,)]
    running.intake.stop()


async def test_a_role_with_no_rights_but_its_own_can_serve(own_cluster: Cluster, tmp_path: Path) -> None:
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    name = store.url.rsplit("/", 1)[1]
    with psycopg.connect(own_cluster.libpq_url, autocommit=True) as link:
        link.execute("CREATE ROLE plain LOGIN")
        link.execute(f"ALTER DATABASE {name} OWNER TO plain")
    with psycopg.connect(own_cluster.libpq_url.rsplit("/", 1)[0] + f"/{name}", autocommit=True) as link:
        link.execute("ALTER SCHEMA public OWNER TO plain")
    store = Store("postgres", store.url.replace("robodyne@", "plain@"), store.path)
    running = Running(store, tmp_path)
    assert isinstance(await running.tell(**event(1)), dict)
    await running.stop()


async def test_a_commit_refused_while_draining_is_taken_apart(own_cluster: Cluster, tmp_path: Path) -> None:
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    running = Running(store, tmp_path)
    with store.foreign() as foreign:
        foreign.execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF NEW.description = 'n-7' THEN RAISE 'too late'; END IF; RETURN NULL; END $$"
        )
        foreign.execute(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON event DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION late()"
        )
    own_cluster.stop(signal.SIGQUIT)
    for number in range(20):
        assert isinstance(await running.tell(**event(number)), dict)
    await asyncio.to_thread(own_cluster.start)
    await running.until(lambda: running.intake.state == "ok")
    await running.stop()
    stored = [text for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id")]
    assert stored == [f"n-{number}" for number in range(20) if number != 7]
    assert store.ask("SELECT message_id, attempts FROM dead_letter") == [("7", 1)]
