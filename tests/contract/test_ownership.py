"""One process writes to a database: the next one is refused and touches nothing, on both stores."""

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from robodyne_rt.settings import ConfigError
from robodyne_rt.store.engine import postgres
from robodyne_rt.store.engine.database import write_meta
from robodyne_rt.store.errors import DataOwned, SchemaMismatch, SchemaTooNew
from tests.contract.running import Running
from tests.stores import Store


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_a_second_writer_is_told_who_the_first_one_is(store: Store) -> None:
    first = store.database().open_writer()
    with pytest.raises(DataOwned, match=r"is in use by robodyne-rt, process \d+ on .* \(backend \d+, from .*\), since 20"):
        store.database().open_writer()
    store.database().open_reader().close()
    first.close()
    store.database().open_writer().close()


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_another_schema_of_the_same_server_has_another_owner(store: Store) -> None:
    first = store.database().open_writer()
    with store.foreign() as foreign:
        foreign.execute("CREATE SCHEMA other")
    other = Store(store.kind, store.url + ("&" if "?" in store.url else "?") + "options=-csearch_path%3Dother", store.path)
    other.database().open_writer().close()
    first.close()


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_who_lost_its_connection_writes_again_only_as_the_owner(store: Store, tmp_path: Path) -> None:
    running = Running(store, tmp_path)
    await running.tell(msg_type="Event", type="INFO", id="1")
    url = store.url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as thief:
        owner = "FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid = %s"
        thief.execute(f"SELECT pg_terminate_backend(pid) {owner}", (postgres.OWNER_LOCK,))
        while not thief.execute(
            "SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))", (postgres.OWNER_LOCK,)
        ).fetchone()[0]:  # type: ignore[index]
            pass
        for number in (2, 3):
            assert isinstance(await running.tell(msg_type="Event", type="INFO", id=str(number)), dict)
        await running.until(lambda: "in use by" in running.writer.stats.trouble)
        assert running.state == "spooling"
        assert store.ask("SELECT count(*) FROM event WHERE type = 'INFO'") == [(1,)]
    await running.until(lambda: running.state == "ok")
    assert store.ask("SELECT count(*) FROM event WHERE type = 'INFO'") == [(3,)]
    await running.stop()


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_a_pooler_in_transaction_mode_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = psycopg.Connection.execute

    def forgetful(connection: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        """Forgets what it was told to listen to, as the next transaction's connection would."""
        result = honest(connection, query, *arguments, **options)
        if query == "LISTEN robodyne_probe":
            honest(connection, "UNLISTEN *")
        return result

    monkeypatch.setattr(psycopg.Connection, "execute", forgetful)
    with pytest.raises(ConfigError, match="pooler in transaction mode"):
        store.database().open_writer()


def test_commands_refuse_the_schema_of_another_version(store: Store) -> None:
    database = store.database()
    db = database.open_writer()
    with pytest.raises(SchemaMismatch, match=r"no tables of this server.*migrate"):
        database.check_schema(db)
    database.prepare(db)
    database.check_schema(db)
    write_meta(db, "schema_version", "2")
    with pytest.raises(SchemaMismatch, match=r"schema version 2, .*migrate"):
        database.check_schema(db)
    write_meta(db, "schema_version", "99")
    with pytest.raises(SchemaTooNew, match="schema version 99"):
        database.check_schema(db)
    db.close()


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_a_reader_that_cannot_be_set_up_leaves_no_connection(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_SESSION_SETTINGS", ("SET no_such_setting = 1",))
    with pytest.raises(psycopg.Error) as caught:
        store.database().open_reader()
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for _ in range(100):  # the server lets go of a closed connection a moment later
        if (left := store.ask(query)) == [(0,)]:
            break
        time.sleep(0.02)
    assert left == [(0,)], caught.value
