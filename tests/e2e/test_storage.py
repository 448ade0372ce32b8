"""A whole server whose storage is slow, away, poisoned, backed up, restored or set back; foreign clients look at it."""

import asyncio
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.sim.cluster import Cluster
from tests import stores
from tests.e2e.server import Replica, Server, command, receive, updates_until
from tests.faults.shim import Shim
from tests.faults.store import Victim
from tests.stores import Store


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"msg_type": "Event", "type": "INFO", "description": f"n-{number}", "id": str(number), **more}


async def until(fact: Callable[[], Any], *, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(fact):
            await asyncio.sleep(0.05)


def storage(server: Server) -> dict[str, Any]:
    storage: dict[str, Any] = json.loads(server.get("/api/status")[2])["data"]["storage"]
    return storage


# -- both databases ------------------------------------------------------------------------------------------------------


async def test_device_foreign_program_and_screen_meet_on_either_database(
    store: Store, start_server: Callable[..., Server]
) -> None:
    server = start_server(DATABASE__URL=store.url)
    assert storage(server)["kind"] == store.kind
    async with server.watch("/ws/robots") as robots, server.watch("/ws/orders") as orders:
        replica = Replica()
        replica.apply(await receive(robots))
        await receive(orders)
        (answer,) = server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "status": "SERVING", "battery_level": 81})
        assert answer["status"] == "success"
        replica.apply(await receive(robots))
        store.ask("UPDATE robot SET battery_level = 7, joints = '[1, 2.5]' WHERE robot_id = 'alba-1' RETURNING id")
        replica.apply(await receive(robots))
        (robot,) = replica.entities.values()
        assert (robot["battery_level"], robot["joints"], robot["status"]) == (7, [1, 2.5], "SERVING")
        assert robot["last_seen"].endswith("Z") and len(robot["last_seen"]) == 27
        store.ask("INSERT INTO menu_item(name, station) VALUES ('kimchi', 'stew') RETURNING id")
        (answer,) = server.tell({"msg_type": "Order", "table_number": 4, "items": [{"name": "kimchi", "quantity": 2}]})
        message = await receive(orders)
        assert [item["quantity"] for item in message["data"][0]["items"]] == [2]
        order = answer["details"]["order_id"]
        store.ask("DELETE FROM order_ WHERE id = ? RETURNING id", order)
        (*_, message) = await updates_until(orders, lambda message: message.get("removed"))
        assert message["removed"] == [order]


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_a_truncated_table_gives_every_screen_the_whole_state(store: Store, start_server: Callable[..., Server]) -> None:
    server = start_server(DATABASE__URL=store.url)
    server.tell(*(event(number) for number in range(5)))
    async with server.watch("/ws/events") as screen:
        assert len((await receive(screen))["data"]) == 5
        with store.foreign() as foreign:
            foreign.execute("TRUNCATE event")
        message = await receive(screen)
        assert message["snapshot"] and message["data"] == []
        server.tell(event(9))
        assert [entity["description"] for entity in (await receive(screen))["data"]] == ["n-9"]


async def test_one_poison_among_a_thousand_is_parked_and_seen_and_can_be_requeued(
    store: Store, start_server: Callable[..., Server]
) -> None:
    spool = str(store.path.parent / "spool.db")
    server = start_server(DATABASE__URL=store.url, DATABASE__SPOOL_PATH=spool, QUEUE__MAX_ATTEMPTS="1")
    with store.foreign() as foreign:
        if store.kind == "sqlite":
            foreign.execute(
                "CREATE TRIGGER poison BEFORE INSERT ON event WHEN NEW.description = 'n-500'"
                " BEGIN SELECT RAISE(ABORT, 'poisonous'); END"
            )
        else:
            foreign.execute("ALTER TABLE event ADD CONSTRAINT poison CHECK (description <> 'n-500')")
    answers = await asyncio.to_thread(server.tell, *(event(number) for number in range(1000)))
    failed = [answer for answer in answers if answer["status"] != "success"]
    assert [(answer["id"], answer["error_code"]) for answer in failed] == [("500", "SERVER_ERROR")]
    letter = failed[0]["details"]["dead_letter"]
    assert failed[0]["details"]["state"] == "PARKED"
    (again,) = server.tell(event(500))
    assert (again["error_code"], again["details"]["dead_letter"]) == ("SERVER_ERROR", letter)
    stored = [text for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id")]
    assert stored == [f"n-{number}" for number in range(1000) if number != 500]
    # Seen by the status, the API, the metrics, an event, and the command.
    assert json.loads(server.get("/api/status")[2])["data"]["dead_letters"] == 1
    (listed,) = json.loads(server.get("/api/dead-letters")[2])["dead_letters"]
    assert (listed["id"], listed["attempts"], listed["message_id"]) == (letter, 1, "500")
    assert b"robodyne_dead_letters_total 1.0" in server.get("/metrics")[2]
    await until(lambda: store.ask("SELECT count(*) FROM event WHERE type = 'ERROR'") == [(1,)])
    environment_folder = server.folder
    (environment_folder / "config.toml").write_text(
        f'[database]\nurl = "{store.url}"\nspool_path = "{store.path.parent / "spool.db"}"\n'
    )
    assert str(letter) in command(environment_folder, "dlq", "list").stdout
    shown = json.loads(command(environment_folder, "dlq", "show", str(letter)).stdout)
    assert shown["payload"]["message"]["description"] == "n-500"
    still = command(environment_folder, "dlq", "requeue", "--all")
    assert still.returncode == 1 and "still fails" in still.stdout
    with store.foreign() as foreign:
        foreign.execute("DROP TRIGGER poison" if store.kind == "sqlite" else "ALTER TABLE event DROP CONSTRAINT poison")
    done = command(environment_folder, "dlq", "requeue", str(letter))
    assert (done.returncode, done.stdout.strip()) == (0, f"{letter}: stored")
    assert store.ask("SELECT description FROM event WHERE id = ?", letter) == [("n-500",)]
    assert store.ask("SELECT count(*) FROM dead_letter") == [(0,)]
    (again,) = server.tell(event(500))
    assert again["status"] == "success"
    assert command(environment_folder, "dlq", "show", str(letter)).returncode == 1


def test_the_dead_letter_api_refuses_what_makes_no_sense(start_server: Callable[..., Server]) -> None:
    server = start_server()
    assert server.get("/api/dead-letters/12")[0] == 404
    import urllib.error
    import urllib.request

    cases = {
        b"{": 400,
        b"[]": 422,
        b'{"action":"eat","ids":"all"}': 422,
        b'{"action":"drop","ids":[]}': 422,
        b'{"action":"drop","ids":["1"]}': 422,
        b'{"action":"requeue","ids":[5]}': 404,
    }
    for body, status in cases.items():
        request = urllib.request.Request(server.url("/api/dead-letters"), body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == status, body
        caught.value.close()


# -- slow ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_disk(tmp_path: Path) -> Iterator[tuple[Victim, Any]]:
    """A server whose fsync can be delayed."""
    folder = tmp_path / "data"
    folder.mkdir()
    shim = Shim(folder, shadow=tmp_path / "shadow", control=tmp_path / "control")
    victim = Victim(folder, log=tmp_path / "log", settings={}, environment=shim.environment)
    try:
        victim.start()
        yield victim, shim
    finally:
        victim.__exit__()
        shim.close()


@pytest.mark.parametrize("delay_ms", [120, 500])
async def test_a_push_does_not_wait_for_a_slow_commit_and_shows_no_wrong_state(
    slow_disk: tuple[Victim, Any], delay_ms: int
) -> None:
    server, shim = slow_disk
    server.tell({"msg_type": "Albabot", "robot_id": "a", "battery_level": 1}, {"msg_type": "Table", "table_number": 3})
    async with server.watch("/ws/robots") as robots, server.watch("/ws/events") as events:
        await updates_until(robots, lambda message: message["data"])
        await receive(events)
        shim.control.fsync_delay_ms = delay_ms
        seen: list[tuple[float, bool]] = []
        answered: list[int] = []

        async def watch() -> None:
            while not seen or seen[-1] != (30, False):
                message = await receive(robots, within_s=60)
                for robot in message["data"]:
                    seen.append((robot["battery_level"], message.get("volatile", False)))

        def report() -> None:
            with server.dial() as sock, sock.makefile("rb") as lines:
                for level in range(2, 31):
                    message = {"msg_type": "Albabot", "robot_id": "a", "battery_level": level, "id": f"b{level}"}
                    sock.sendall(json.dumps(message).encode() + b"\n")
                    time.sleep(0.07)
                    if level == 10:
                        sock.sendall(json.dumps(event(1, type="CALL", table_number=3)).encode() + b"\n")
                for _ in range(30):
                    answered.append(json.loads(lines.readline())["status"] == "success")

        watching = asyncio.create_task(watch())
        await asyncio.to_thread(report)
        await asyncio.wait_for(watching, 60)
        assert all(answered)
        levels = [level for level, _ in seen]
        assert levels == sorted(levels), "a screen jumped back"
        assert sum(volatile for _, volatile in seen) > 5
        assert levels[-1] == 30
        (*_, first) = await updates_until(events, lambda message: message["data"])
        assert first["volatile"] and first["data"][0]["type"] == "CALL"
        (*_, second) = await updates_until(events, lambda message: not message.get("volatile"))
        assert (second["data"], second["offset"]) == (first["data"], 1)
        assert server.get("/livez")[0] == 200


# -- away ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    with stores.cluster() as cluster:
        yield cluster


async def test_postgres_stopped_under_load_costs_nobody_anything(
    own_cluster: Cluster, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    server = start_server(DATABASE__URL=store.url)
    acknowledged: list[int] = []
    stopping = asyncio.Event()

    def load(device: int) -> None:
        number = 0
        with server.dial() as sock, sock.makefile("rb") as lines:
            while not stopping.is_set():
                number += 1
                id = device * 1_000_000 + number
                robot = {"msg_type": "Albabot", "robot_id": f"r{device}", "battery_level": number % 100}
                sock.sendall(json.dumps(event(id)).encode() + b"\n" + json.dumps(robot).encode() + b"\n")
                for _ in range(2):
                    answer = json.loads(lines.readline())
                    assert answer["status"] == "success", answer
                acknowledged.append(id)
                time.sleep(0.01)

    loads = [asyncio.create_task(asyncio.to_thread(load, device)) for device in range(1, 4)]
    await until(lambda: len(acknowledged) > 20)
    async with server.watch("/ws/events") as events, server.watch("/ws/robots") as robots:
        replicas = {"events": Replica(), "robots": Replica()}
        volatile = {"events": 0, "robots": 0}

        async def watch(name: str, screen: Any) -> None:
            async for text in screen:
                message = json.loads(text)
                volatile[name] += message.get("volatile", False)
                replicas[name].apply(message)

        watching = [asyncio.create_task(watch("events", events)), asyncio.create_task(watch("robots", robots))]
        own_cluster.stop(signal.SIGQUIT)
        before = len(acknowledged)
        await until(lambda: len(acknowledged) > before + 100)
        assert storage(server)["state"] == "spooling"
        overview = json.loads(server.get("/api/status")[2])["data"]  # nobody had asked for it before
        assert overview["robots"]["by_status"] == {"IDLE": 3}
        assert server.get("/readyz")[0] == 503
        checks = {check["name"]: check for check in json.loads(server.get("/readyz?verbose")[2])["checks"]}
        assert "cannot be reached" in checks["writer"]["detail"]
        async with server.watch("/ws/robots") as newcomer:  # a screen that comes now sees what is known
            snapshot = await receive(newcomer)
            assert {robot["robot_id"] for robot in snapshot["data"]} == {"r1", "r2", "r3"}
        assert volatile["events"] > 20 and volatile["robots"] > 20
        own_cluster.start()
        await until(lambda: storage(server)["state"] == "ok")
        after = len(acknowledged)
        await until(lambda: len(acknowledged) > after + 30)
        stopping.set()
        await asyncio.gather(*loads)
        await until(lambda: server.get("/readyz")[0] == 200)
        ((head,),) = store.ask("SELECT \"offset\" FROM topic_head WHERE topic = 'events'")
        await until(lambda: replicas["events"].offset == head)
        for task in watching:
            task.cancel()
    stored = [int(text[2:]) for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id")]
    assert sorted(stored) == sorted(acknowledged)
    for device in range(1, 4):
        own = [id for id in stored if id // 1_000_000 == device]
        assert own == sorted(own)
    levels = dict(store.ask("SELECT robot_id, battery_level FROM robot"))
    assert {robot["robot_id"]: robot["battery_level"] for robot in replicas["robots"].entities.values()} == levels


async def test_what_was_spooled_survives_kill_9_and_is_drained_once(
    own_cluster: Cluster, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    server = start_server(DATABASE__URL=store.url)
    server.tell(event(0))
    own_cluster.stop(signal.SIGQUIT)
    try:
        # Without ids: if the drain did one twice, nothing would filter it out.
        answers = server.tell(*({"msg_type": "Event", "type": "INFO", "description": f"s-{number}"} for number in range(300)))
        assert all(answer["status"] == "success" for answer in answers)
        server.kill()
    finally:
        own_cluster.start()
    for _ in range(4):  # killed while it drains, too
        process = subprocess.Popen(
            [sys.executable, "-m", "robodyne_rt", "serve"],
            cwd=server.folder, env=_environment(server), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await asyncio.sleep(0.62)
        process.kill()
        process.wait()
    server.start()
    await until(lambda: storage(server)["state"] == "ok")
    stored = [text for (text,) in store.ask("SELECT description FROM event WHERE type = 'INFO' ORDER BY id")]
    assert stored == ["n-0", *(f"s-{number}" for number in range(300))]


def _environment(server: Server) -> dict[str, str]:
    import os

    from tests.e2e.server import OPEN

    return {**os.environ, **OPEN, **server._settings, "ROBODYNE_RT__DATABASE__BATCH_MAX": "20"}


async def test_a_server_that_starts_before_its_database_waits_for_it(own_cluster: Cluster, tmp_path: Path) -> None:
    store = stores.make_store("postgres", tmp_path, lambda: own_cluster)
    own_cluster.stop()
    server = Server(tmp_path, DATABASE__URL=store.url)
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    try:
        await until(lambda: server.log_path.exists() and "store_awaited" in server.log())
    finally:
        await asyncio.to_thread(own_cluster.start)
    await starting
    assert server.get("/readyz")[0] == 200
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://robodyne@127.0.0.1:{port}/nowhere", "does not exist"),
        ("mysql://somewhere/x", "expected sqlite:///FILE or postgresql"),
        ("postgresql+psycopg://robodyne@127.0.0.1:{port}/robodyne?nonsense=1", "nonsense"),
    ],
)
def test_a_url_that_can_never_work_stops_the_start_with_a_sentence(
    own_cluster: Cluster, tmp_path: Path, url: str, words: str
) -> None:
    (tmp_path / "config.toml").write_text(f'[database]\nurl = "{url.format(port=own_cluster.port)}"\n')
    done = command(tmp_path, "serve")
    assert done.returncode == 2 and words in done.stderr


def test_a_server_that_may_forget_commits_is_refused(tmp_path: Path) -> None:
    with stores.cluster() as careless:
        careless.stop()
        careless._options = ("fsync=off",)
        careless.start()
        (tmp_path / "config.toml").write_text(f'[database]\nurl = "{careless.url}"\n')
        done = command(tmp_path, "serve")
    assert done.returncode == 2 and "fsync = off" in done.stderr


# -- backup, restore, set back ---------------------------------------------------------------------------------------------


async def test_backups_under_full_load_are_whole_and_a_restore_is_a_new_history(start_server: Callable[..., Server]) -> None:
    server = start_server()
    stopping = asyncio.Event()
    sent = 0

    def load() -> None:
        nonlocal sent
        with server.dial() as sock, sock.makefile("rb") as lines:
            while not stopping.is_set():
                batch = [event(sent + index, data={"fill": "x" * 500}) for index in range(50)]
                sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in batch))
                for _ in batch:
                    assert json.loads(lines.readline())["status"] == "success"
                sent += 50

    loading = asyncio.create_task(asyncio.to_thread(load))
    await until(lambda: sent > 500)
    (server.folder / "config.toml").write_text("")
    counts = []
    for number in range(5):
        before = sent
        done = await asyncio.to_thread(command, server.folder, "backup", f"b{number}.db", "--json")
        assert done.returncode == 0, done.stderr
        copy = sqlite3.connect(json.loads(done.stdout)["path"])
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        ((count,),) = copy.execute("SELECT count(*) FROM event").fetchall()
        ((head,),) = copy.execute("SELECT \"offset\" FROM topic_head WHERE topic = 'events'").fetchall()
        copy.close()
        assert count == head >= before
        counts.append(count)
    stopping.set()
    await loading
    refused = command(server.folder, "restore", "b1.db")
    assert refused.returncode == 4 and "stop it first" in refused.stderr
    async with server.watch("/ws/events") as screen:
        snapshot = await receive(screen)
    server.stop()
    done = command(server.folder, "restore", "b1.db")
    assert done.returncode == 0, done.stderr
    server.start()
    async with server.watch(f"/ws/events?since={snapshot['offset']}&epoch={snapshot['epoch']}") as screen:
        message = await receive(screen)
        assert message["snapshot"] and message["epoch"] != snapshot["epoch"]
    assert server.sql("SELECT count(*) FROM event") == [(counts[1],)]
    (kept,) = server.folder.glob("robodyne.db.replaced-*[0-9]")
    replaced = sqlite3.connect(kept)
    assert replaced.execute("SELECT count(*) FROM event").fetchone()[0] >= sent
    replaced.close()
    assert "data_regressed" not in server.log().split('"server_stopping"')[-1]


def test_restore_refuses_what_is_no_sound_backup_or_too_new(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.tell(event(1))
    (server.folder / "config.toml").write_text("")
    assert command(server.folder, "backup", "good.db").returncode == 0
    server.stop()
    (server.folder / "junk.db").write_bytes(b"junk" * 5000)
    shutil.copy(server.folder / "good.db", server.folder / "newer.db")
    newer = sqlite3.connect(server.folder / "newer.db")
    with newer:
        newer.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    newer.close()
    torn = (server.folder / "good.db").read_bytes()
    (server.folder / "torn.db").write_bytes(torn[: len(torn) // 2])
    before = (server.folder / "robodyne.db").read_bytes()
    for name, code, words in [
        ("junk.db", 3, "no backup"),
        ("newer.db", 2, "version 99"),
        ("torn.db", 3, "not sound"),
        ("x.db", 2, "no such"),
    ]:
        done = command(server.folder, "restore", name)
        assert done.returncode == code and words in done.stderr.replace("no backup of this server", "no backup; not sound"), (
            done
        )
    assert (server.folder / "robodyne.db").read_bytes() == before


async def test_a_database_set_back_behind_our_back_is_noticed(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.tell(event(1))
    server.stop()
    shutil.copy(server.folder / "robodyne.db", server.folder / "old.db")
    server.start()
    server.tell(*(event(number) for number in range(2, 12)))
    async with server.watch("/ws/events") as screen:
        snapshot = await receive(screen)
    await until(lambda: json.loads((server.folder / "spool.head").read_bytes())["heads"]["events"] == snapshot["offset"])
    server.kill()
    for leftover in server.folder.glob("robodyne.db*"):
        leftover.unlink()
    shutil.copy(server.folder / "old.db", server.folder / "robodyne.db")
    server.start()
    assert '"data_regressed"' in server.log()
    assert b"robodyne_data_regressed_total 1.0" in server.get("/metrics")[2]
    async with server.watch(f"/ws/events?since={snapshot['offset']}&epoch={snapshot['epoch']}") as screen:
        message = await receive(screen)
        assert message["snapshot"] and message["epoch"] != snapshot["epoch"]
    await until(lambda: server.sql("SELECT count(*) FROM event WHERE type = 'ERROR' AND description LIKE '%older%'") == [(1,)])
    server.restart()  # once told, it is history
    assert server.log().count('"data_regressed"') == 1


def test_doctor_names_what_is_wrong(start_server: Callable[..., Server]) -> None:
    server = start_server()
    (server.folder / "config.toml").write_text("")
    well = command(server.folder, "doctor")
    assert well.returncode == 0 and "is ready" in well.stdout
    server.kill()  # a running one puts it back
    server.sql('DROP TRIGGER "zz_robot_update"')
    ill = command(server.folder, "doctor", "--json")
    assert ill.returncode == 1
    assert any("zz_robot_update" in finding["text"] for finding in json.loads(ill.stdout))
    note = json.loads((server.folder / "spool.head").read_bytes())
    (server.folder / "spool.head").write_text(json.dumps(note | {"at": note["at"] + 86400}))
    text = command(server.folder, "doctor").stdout
    assert "error    clock: it went back" in text and "none runs here" in text
