"""Requests from outside: each answered exactly once, in order, whatever breaks; repeated, refused, limited, remembered.

`ROBODYNE_KILL_ROUNDS=50 scripts/test tests/e2e/test_requests.py` runs the long version.
"""

import asyncio
import contextlib
import json
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.e2e.server import Server
from tests.e2e.session_client import SessionClient, call, faults_logged, mint
from tests.faults.shim import Kind, Shim
from tests.faults.store import Victim
from tests.ports import free_port
from tests.stores import Store

ROUNDS = int(os.environ.get("ROBODYNE_KILL_ROUNDS", "0"))
STORM_KILLS = ROUNDS or 2
PRECISE_KILLS = ROUNDS or 5
USERS, QUESTIONS = 50, 20


class SlowDisk:
    """A server whose commits take as long as the test wants, and which dies where it wants."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        self.shim = Shim(self.data, shadow=folder / "shadow", control=folder / "control")
        settings = {"AUTH__MODE": "local", "LIMITS__QUERY_REQUESTS": "1000000"} | settings
        settings = settings | {"AUTH__SECRET_FILE": "secret.key"}
        self.server = Victim(self.data, log=folder / "log", settings=settings, environment=self.shim.environment)

    def die_at_commit(self, number: int) -> None:
        """Kill the server right after so many more commits reached the disk, before anybody is told."""
        control = self.shim.control  # not kept: the map cannot be closed while somebody has it
        control.kill_kind, control.kill_after = Kind.SYNC, 1
        control.kill_at = control.calls[Kind.SYNC] + number

    def client(self, user: str, *roles: str, **options: Any) -> SessionClient:
        return SessionClient(self.server.port, token=mint(self.data, user, *(roles or ("kitchen",))), **options)


@contextlib.contextmanager
def running(disk: SlowDisk) -> Iterator[SlowDisk]:
    try:
        disk.server.start()
        disk.server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "battery_level": 50})
        yield disk
    finally:
        disk.server.__exit__()
        disk.shim.close()


@pytest.fixture
def slow_disk(tmp_path: Path) -> Iterator[SlowDisk]:
    with running(SlowDisk(tmp_path / "slow")) as disk:
        yield disk


@pytest.fixture(scope="module")
def rt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with the usual limits; each test has users of its own."""
    folder = tmp_path_factory.mktemp("requests")
    with Server(folder, AUTH__MODE="local", SERVER__PORT=str(free_port())) as running:
        running.tell({"msg_type": "Albabot", "robot_id": "alba-1", "battery_level": 50})
        yield running
        assert running.is_running, running.log()
        assert not faults_logged(running)


# -- exactly once --------------------------------------------------------------------------------------------------------


def faults_of(app: SessionClient, asked: dict[str, str]) -> list[str]:
    """Return what is wrong with what a client heard.

    Args:
        asked: requestId -> word that must stand in its answer, in the order asked.
    """
    faults = []
    first: dict[str, Any] = {}
    by_number: dict[tuple[str, int], Any] = {}
    for final in app.finals:
        if final.request_id not in asked:
            faults.append(f"foreign answer {final.message}")
            continue
        if final.message.get("status") != "completed" or asked[final.request_id] not in final.message["response"]:
            faults.append(f"wrong answer to {final.request_id}: {final.message}")
        if final.seq is None:
            faults.append(f"no number: {final.message}")
            continue
        said = (final.request_id, final.message.get("response"))
        if by_number.setdefault((final.session_id, final.seq), said) != said:
            faults.append(f"number {final.seq} was given twice: {said}, {by_number[final.session_id, final.seq]}")
        first.setdefault(final.request_id, final)
    if missing := [id for id in asked if id not in first]:
        faults.append(f"never answered: {missing}")
    if (order := [id for id in asked if id in first]) != list(first):
        faults.append(f"out of order: asked {order}, answered {list(first)}")
    if (taken := [final.request_id for final in app.accepted()]) != list(asked):
        faults.append(f"a client that remembers the highest number took {taken}")
    return faults


class Storm:
    """Many users who ask many questions on connections that break, while the server is killed again and again."""

    def __init__(self, disk: SlowDisk, rng: random.Random, *, users: int, questions: int) -> None:
        self.disk = disk
        self.rng = rng
        self.up = asyncio.Event()
        self.up.set()
        self.questions = questions
        self.number = 0
        self.apps = {
            f"user-{index}": disk.client(
                f"user-{index}", confirm=("ack", "pong", "none")[index % 3], answered=index % 2 == 0 or index % 3 == 2
            )
            for index in range(users)
        }
        self.asked: dict[str, dict[str, str]] = {user: {} for user in self.apps}

    @property
    def answered(self) -> int:
        return sum(len({final.request_id for final in app.finals}) for app in self.apps.values())

    async def live(self, user: str) -> None:
        """Ask all questions, coming back as often as it takes."""
        app, rng, asked = self.apps[user], self.rng, self.asked[user]
        cuts = rng.randint(0, 4)
        wanted = len(asked) + self.questions
        while True:
            await self.up.wait()
            try:
                await app.connect()
                for id in [id for id in asked if not app.answers(id)]:
                    await app.query(id, f"robot {asked[id]}")
                cut = asyncio.get_running_loop().call_later(rng.uniform(0.01, 0.5), app.abort) if cuts > 0 else None
                cuts -= 1
                while len(asked) < wanted:
                    self.number += 1
                    id = f"q{len(asked)}"  # the same ids for every user
                    asked[id] = f"zulu-{self.number}"
                    await app.query(id, f"robot {asked[id]}")
                    if rng.random() < 0.3:
                        await asyncio.sleep(rng.uniform(0, 0.05))
                await app.until(lambda: app.closed or all(app.answers(id) for id in asked), within_s=15)
                if cut is not None and not app.closed:
                    cut.cancel()
                if all(app.answers(id) for id in asked):
                    return
            except (OSError, websockets.WebSocketException, TimeoutError, EOFError):
                await asyncio.sleep(0.02)

    async def kill_at(self, answered: int) -> None:
        """Kill the server when so many are answered, and start it again."""
        while self.answered < answered:
            await asyncio.sleep(0.001)
        self.up.clear()
        self.disk.server.kill()
        await asyncio.to_thread(self.disk.server.start)
        self.up.set()

    async def guard(self) -> None:
        """A server that ends by itself is the worst that can happen: say so at once."""
        while True:
            await asyncio.sleep(0.01)
            if self.up.is_set() and not self.disk.server.is_running:
                raise AssertionError(f"the server ended by itself:\n{self.disk.server.log()[-2000:]}")

    async def blow(self, kills: int) -> None:
        total = len(self.apps) * self.questions + self.answered
        done = self.answered
        with contextlib.suppress(TimeoutError):  # who waits in vain shows in the logs
            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                guard = tasks.create_task(self.guard())
                async with asyncio.TaskGroup() as lives:
                    for user in self.apps:
                        lives.create_task(self.live(user))
                    for at in sorted(self.rng.sample(range(done + 1, total - 20), kills)):
                        await self.kill_at(at)
                guard.cancel()

    async def faults(self) -> list[str]:
        found = [f"{user}: {fault}" for user, app in self.apps.items() for fault in faults_of(app, self.asked[user])]
        for app in self.apps.values():
            await app.close()
        return found


@pytest.mark.timeout(120 + 15 * STORM_KILLS)
async def test_everybody_gets_each_answer_once_and_in_order_while_lines_break_and_the_server_is_killed(
    store: Store, tmp_path: Path
) -> None:
    with running(SlowDisk(tmp_path / "slow", DATABASE__URL=store.url)) as disk:
        disk.shim.control.fsync_delay_ms = 4  # of the spool, where Postgres keeps the rest
        storm = Storm(disk, random.Random(5), users=USERS, questions=QUESTIONS)
        left = STORM_KILLS
        while left > 0:
            await storm.blow(min(left, 2))
            left -= 2
        assert storm.answered >= USERS * QUESTIONS
        assert not (faults := await storm.faults()), f"{len(faults)} faults, the first: {faults[:5]}"
    # What clients saw is what is stored, once each.
    stored = store.ask("SELECT user_name, request_id, status, count(*) FROM chat_message GROUP BY 1, 2, 3")
    assert sorted(stored) == sorted((user, id, "COMPLETED", 1) for user, ids in storm.asked.items() for id in ids)


@pytest.mark.timeout(60 + 5 * PRECISE_KILLS)
async def test_a_server_that_dies_between_storing_and_sending_answers_when_it_is_back(slow_disk: SlowDisk) -> None:
    server = slow_disk.server
    app = slow_disk.client("anna", confirm="none")
    other = slow_disk.client("bert", confirm="none", answered=False)
    await app.connect()
    await other.connect()
    asked: dict[str, str] = {}
    states = []
    for number in range(PRECISE_KILLS):
        id = f"q{number}"
        asked[id] = f"zulu-{number}"
        # The first commit after now takes the request, the second stores its answer.
        slow_disk.die_at_commit(2 if number % 3 else 1)
        await app.query(id, f"robot {asked[id]}")
        await app.ended()
        assert server.process is not None
        await asyncio.to_thread(server.process.wait, 10)
        states += [state for (state,) in server.sql("SELECT status FROM chat_message WHERE request_id = ?", id)]
        assert not app.answers(id)
        slow_disk.shim.heal()
        await asyncio.to_thread(server.start)
        await app.connect()
        await other.connect()
        if not server.sql("SELECT 1 FROM chat_message WHERE request_id = ?", id):
            await app.query(id, f"robot {asked[id]}")
        await app.final(id)
    assert states.count("COMPLETED") >= 1 and states.count("PENDING") >= 1, states
    assert not faults_of(app, asked)
    assert not other.finals
    await app.close()
    await other.close()


async def test_a_line_that_breaks_at_the_moment_of_its_answer_harms_nobody(slow_disk: SlowDisk) -> None:
    slow_disk.shim.control.fsync_delay_ms = 2
    rng = random.Random(3)
    asked: dict[str, str] = {}
    apps = [slow_disk.client(f"user-{number}", confirm="none") for number in range(40)]
    for round in range(5):
        ids = [f"q{round}-{number}" for number in range(3)]
        asked |= {id: f"zulu-{number}" for number, id in enumerate(ids)}

        async def ask_and_break(app: SessionClient, ids: list[str], asked: dict[str, str]) -> None:
            await app.connect()
            for id in ids:
                await app.query(id, f"robot {asked[id]}")
            await app.settled()
            await asyncio.sleep(rng.uniform(0, 0.02))
            app.abort()
            await app.ended()

        # A server that is gone refuses the next connection.
        await asyncio.gather(*(ask_and_break(app, ids, asked) for app in apps))
        assert slow_disk.server.is_running, slow_disk.server.log()[-2000:]
    for app in apps:
        await app.connect()
        await app.final(list(asked)[-1])
        app.finals = [final for final in app.finals if not final.request_id.startswith("mark")]
        assert not faults_of(app, asked)
        await app.close()
    assert not faults_logged(slow_disk.server)


async def test_what_waits_at_a_kill_is_answered_by_the_rights_of_who_asked(slow_disk: SlowDisk) -> None:
    """The server works it before its user is back; the answer must not become "You may not see that."."""
    app = slow_disk.client("anna")
    await app.connect()
    slow_disk.shim.control.fsync_delay_ms = 50
    for number in range(10):
        await app.query(f"q{number}", f"robot zulu-{number}")
    await app.final("q2")
    slow_disk.server.kill()
    slow_disk.shim.control.fsync_delay_ms = 0
    waiting = slow_disk.server.sql("SELECT count(*) FROM chat_message WHERE status = 'PENDING'")
    await asyncio.to_thread(slow_disk.server.start)
    while slow_disk.server.sql("SELECT 1 FROM chat_message WHERE status = 'PENDING'"):
        await asyncio.sleep(0.02)
        await app.connect() if app.closed else None
    await app.connect()
    for number in range(10):
        await app.query(f"q{number}", f"robot zulu-{number}")
        await app.final(f"q{number}")
    await app.close()
    assert waiting[0][0] > 0
    assert not faults_of(app, {f"q{number}": f"zulu-{number}" for number in range(10)})


async def test_what_waited_at_a_kill_comes_before_what_is_asked_afterwards(slow_disk: SlowDisk) -> None:
    """Whoever comes back at once and asks something new must not overtake their own questions that wait in the database."""
    apps = [slow_disk.client(f"user-{number}", confirm="none") for number in range(60)]
    for app in apps:
        await app.connect()
    await apps[0].settled()
    slow_disk.shim.control.fsync_delay_ms = 40
    for number in range(8):
        for app in apps:
            await app.query(f"q{number}", f"robot zulu-{number}")
    await apps[-1].final("q1")
    await apps[-1].settled()
    slow_disk.server.kill()
    waiting = dict(slow_disk.server.sql("SELECT user_name, count(*) FROM chat_message WHERE status = 'PENDING' GROUP BY 1"))
    assert waiting
    slow_disk.shim.control.fsync_delay_ms = 5
    slow_disk.server.launch()

    async def come_back_and_ask(app: SessionClient) -> None:
        while True:
            with contextlib.suppress(OSError, websockets.WebSocketException, EOFError):
                await app.connect()
                break
            await asyncio.sleep(0.002)
        await app.query("new", "robot zulu-99")

    def has_answers(app: SessionClient, ids: list[str]) -> bool:
        return all(app.answers(id) for id in ids)

    await asyncio.gather(*(come_back_and_ask(app) for app in apps))
    overtaken = []
    for number, app in enumerate(apps):
        ids = [
            id
            for (id,) in slow_disk.server.sql(
                "SELECT request_id FROM chat_message WHERE user_name = ? AND request_id <> 'new' ORDER BY id", f"user-{number}"
            )
        ]
        await app.until(partial(has_answers, app, [*ids, "new"]))
        order = [id for id in dict.fromkeys(final.request_id for final in app.finals) if not id.startswith("mark")]
        if order != [*ids, "new"]:
            overtaken.append(order)
        await app.close()
    assert not overtaken, f"{len(overtaken)} of {len(apps)} users, the first: {overtaken[0]}"


async def test_what_is_answered_while_its_user_is_away_waits_for_them(slow_disk: SlowDisk) -> None:
    app = slow_disk.client("anna", confirm="none")
    await app.connect()
    await app.settled()
    slow_disk.shim.control.fsync_delay_ms = 100
    for number in range(4):
        await app.query(f"q{number}", f"robot zulu-{number}")
    await app.settled()  # now they are the server's
    app.abort()
    await app.ended()
    slow_disk.shim.control.fsync_delay_ms = 0
    while slow_disk.server.sql("SELECT count(*) FROM chat_message WHERE status = 'COMPLETED'") != [(4,)]:
        await asyncio.sleep(0.01)
    assert len(app.finals) < 4
    await app.connect()
    await app.final("q3")  # not asked again
    await app.close()
    app.finals = [final for final in app.finals if not final.request_id.startswith("mark")]
    assert not faults_of(app, {f"q{number}": f"zulu-{number}" for number in range(4)})


@contextlib.contextmanager
def locked(server: Server) -> Iterator[None]:
    """Another program holds the database: it can be read and not written."""
    lock = sqlite3.connect(server.database, isolation_level=None)
    try:
        lock.execute("BEGIN IMMEDIATE")
        yield
        lock.execute("ROLLBACK")
    finally:
        lock.close()


async def test_what_the_spool_held_at_a_kill_is_known_to_who_comes_back_at_once(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", SERVER__PORT=str(free_port()))
    for number in (1, 2):
        server.tell({"msg_type": "Albabot", "robot_id": f"alba-{number}", "battery_level": 50})
    forgetful: dict[str, Any] = {"confirm": "none", "answered": False}
    anna = SessionClient(server.port, token=mint(server.folder, "anna", "manager"), capabilities="clarification", **forgetful)
    bert = SessionClient(server.port, token=mint(server.folder, "bert", "kitchen"), **forgetful)
    await anna.connect()
    await anna.query("q1", "how is alba")
    asked = await anna.of_type("clarification_request")
    with locked(server):
        logs = [{"msg_type": "Log", "level": "INFO", "message": f"n-{number}"} for number in range(3000)]
        await asyncio.to_thread(server.tell, *logs[:1000])
        await asyncio.to_thread(server.tell, *logs[1000:2000])
        await anna.send(type="human_response", requestId=asked["requestId"], response="alba-1")
        first = await anna.final("q1")
        heard = len(anna.heard)
        await anna.query("q2", "how is alba")
        await anna.of_type("clarification_request", after=heard)
        await bert.connect()
        answer = await bert.ask("b1", "robot zulu-9")
        sessions = [anna.greeting["sessionId"], bert.greeting["sessionId"]]
        await asyncio.to_thread(server.tell, *logs[2000:])
        server.kill()
    await asyncio.to_thread(server.start)
    heard = len(anna.heard)
    await asyncio.gather(anna.connect(), bert.connect())
    assert [anna.greeting["sessionId"], bert.greeting["sessionId"]] == sessions
    # q1 is not run again, its answer comes again as it was; q2 is taken up.
    assert (await anna.message(lambda m: m.get("requestId") == "q1", after=heard)) | {"remaining": 0} == first | {
        "remaining": 0
    }
    asked = await anna.of_type("clarification_request", after=heard)
    assert asked["queryId"] == "q2"
    await anna.send(type="human_response", requestId=asked["requestId"], response="alba-2")
    assert (await anna.final("q2"))["seq"] == 2
    assert [m["requestId"] for m in anna.heard[heard:] if m["type"] == "response"] == ["q1", "q2"]
    assert [final.message["response"] for final in bert.answers("b1")] == [answer["response"]] * 2
    rows = server.sql("SELECT request_id, status, seq FROM chat_message ORDER BY id")
    assert rows == [("q1", "COMPLETED", 1), ("q2", "COMPLETED", 2), ("b1", "COMPLETED", 1)]
    await anna.close()
    await bert.close()


async def test_a_repeat_is_not_run_again_while_nothing_can_be_written(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", SERVER__PORT=str(free_port()))
    server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "battery_level": 50})
    anna = SessionClient(server.port, token=mint(server.folder, "anna", "manager"), confirm="ack")
    await anna.connect()
    first = await anna.ask("q1", "how is alba-1")
    await asyncio.to_thread(server.restart)
    await anna.ended()
    await anna.connect()
    server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "battery_level": 20})
    heard = len(anna.heard)
    with locked(server):
        await anna.query("q1", "how is alba-1")
        again = await anna.message(lambda m: m.get("requestId") == "q1" and m["type"] == "response", after=heard, within_s=20)
    assert (again["response"], again["seq"]) == (first["response"], first["seq"]) and "50" in again["response"]
    async with asyncio.timeout(10):
        while json.loads(server.get("/readyz?verbose")[2])["ready"] is not True or server.get("/api/status")[0] == 503:
            await asyncio.sleep(0.05)
    assert server.tell({"msg_type": "Log", "level": "INFO", "message": "stored", "id": "1"})[0]["status"] == "success"
    assert server.sql("SELECT (SELECT count(*) FROM chat_message), (SELECT count(*) FROM dead_letter)") == [(1, 0)]
    await anna.close()


async def test_a_second_session_that_asked_the_same_gets_the_answer_when_it_comes_back(slow_disk: SlowDisk) -> None:
    first, second = slow_disk.client("anna", confirm="none"), slow_disk.client("anna", confirm="none", device="phone")
    await first.connect()
    await second.connect()
    slow_disk.shim.control.fsync_delay_ms = 200
    await first.query("q", "robot zulu-1")
    await second.query("q", "robot zulu-1")
    await second.settled()
    second.abort()
    await second.ended()
    await first.final("q")
    assert not second.answers("q")
    slow_disk.shim.control.fsync_delay_ms = 0
    await second.connect()
    assert second.greeting["resumed"] and "zulu-1" in (await second.final("q"))["response"]  # not asked again
    assert slow_disk.server.sql("SELECT count(*) FROM chat_message") == [(1,)]
    for app in (first, second):
        await app.close()


async def test_an_answer_that_waits_comes_once_also_where_it_was_asked_for_again(slow_disk: SlowDisk) -> None:
    """The line breaks while the stored answer is looked up: it is in the outbox already."""
    app = slow_disk.client("anna", confirm="none", answered=False)
    await app.connect()
    await app.ask("q", "robot zulu-1")
    slow_disk.server.kill()  # without the database it knows nothing now
    await asyncio.to_thread(slow_disk.server.start)
    await app.connect()
    await app.final("q")
    with contextlib.closing(sqlite3.connect(slow_disk.data / "robodyne.db", isolation_level=None, timeout=10)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        await app.query("q", "robot zulu-1")
        await app.settled()
        app.abort()
        await app.ended()
        foreign.execute("ROLLBACK")
    await asyncio.sleep(0.3)
    await app.connect()
    await app.settled()
    assert [final.request_id for final in app.finals if final.connection == app.connections].count("q") == 1
    assert slow_disk.server.sql("SELECT count(*) FROM chat_message") == [(1,)]
    await app.close()


async def test_who_asks_again_to_be_sure_gets_no_second_answer_beside_one_that_is_on_its_way(come: Callable[..., Any]) -> None:
    app = await come("unsure", confirm="none")
    await app.ask("q", "robot zulu-1")
    await app.send(type="query", requestId="q", message="robot zulu-1", again=True)
    await app.settled()
    assert len(app.answers("q")) == 1  # it is not confirmed, so it may have crossed the question
    await app.send(type="query", requestId="q", message="robot zulu-1")
    await app.until(lambda: len(app.answers("q")) == 2)
    await app.send(type="ack", seq=1)
    await app.send(type="query", requestId="q", message="robot zulu-1", again=True)
    await app.until(lambda: len(app.answers("q")) == 3)


async def test_the_hundred_and_first_waiting_request_is_refused_and_the_others_are_answered(slow_disk: SlowDisk) -> None:
    app, other = slow_disk.client("anna"), slow_disk.client("bert")
    await app.connect()
    await other.connect()
    slow_disk.shim.control.fsync_delay_ms = 100
    for number in range(102):
        await app.query(f"q{number}", f"robot zulu-{number}")
    await app.settled()
    refused = {final.request_id: final.message["data"] for final in app.finals if final.request_id.startswith("q1")}
    refused = {id: data for id, data in refused.items() if data}
    assert set(refused) == {"q100", "q101"}
    assert all(data["code"] == "RATE_LIMITED" and data["retry_after"] > 0 for data in refused.values())
    assert (await other.ask("q0", "robot zulu-900"))["status"] == "completed"  # nobody else waits for that
    slow_disk.shim.control.fsync_delay_ms = 0
    await app.final("q99", within_s=60)
    await app.query("q100", "robot zulu-100")  # the id may be used again
    await app.message(lambda message: message.get("requestId") == "q100" and message.get("status") == "completed")
    app.finals = [final for final in app.finals if final.seq]
    await app.close()
    await other.close()
    assert not faults_of(app, {f"q{number}": f"zulu-{number}" for number in range(101)})


# -- what counts as received -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pong", "ack"])
async def test_what_was_confirmed_does_not_come_again(come: Callable[..., Any], rt: Server, how: str) -> None:
    app = await come(f"confirms-by-{how}", confirm=how, answered=False)
    for number in range(3):
        await app.ask(f"q{number}", f"robot zulu-{number}")
    await app.of_type("ping")
    await app.settled()
    app.abort()
    await app.ended()
    heard = len(app.heard)
    await app.connect()
    assert app.greeting["resumed"] is True
    await app.settled()
    assert not [final for final in app.finals if final.connection == 2 and final.seq], app.heard[heard:]


async def test_who_never_confirms_sees_the_same_answers_with_the_same_numbers_again(come: Callable[..., Any]) -> None:
    app = await come("never-confirms", confirm="none", answered=False)
    for number in range(3):
        await app.ask(f"q{number}", f"robot zulu-{number}")
    for _ in range(2):
        app.abort()
        await app.ended()
        await app.connect()
        await app.settled()
    by_connection = [
        [
            (final.request_id, final.seq, final.message["response"])
            for final in app.finals
            if final.connection == n and final.seq
        ]
        for n in (1, 2, 3)
    ]
    assert len(by_connection[0]) == 3
    assert by_connection[1] == by_connection[0] and by_connection[2] == by_connection[0]
    assert [final.request_id for final in app.accepted() if final.seq] == ["q0", "q1", "q2"]


async def test_who_says_what_it_has_when_it_comes_back_gets_the_rest(come: Callable[..., Any]) -> None:
    app = await come("says-answered", confirm="none", answered=False)
    for number in range(4):
        await app.ask(f"q{number}", f"robot zulu-{number}")
    for said, again in {"2": ["q2", "q3"], "x": ["q2", "q3"], "-1": ["q2", "q3"], "99": ["q2", "q3"], "4": []}.items():
        app.abort()
        await app.ended()
        await app.connect(answered=said)
        await app.settled()
        assert [f.request_id for f in app.finals if f.connection == app.connections and f.seq] == again, said


async def test_a_foreign_pong_and_a_wrong_ack_confirm_nothing(come: Callable[..., Any]) -> None:
    app = await come("confirms-nonsense", confirm="none", answered=False)
    await app.ask("q0", "robot zulu-0")
    for data in ({"seq": 99}, {"seq": 0}, {"seq": -1}, {"seq": True}, {"seq": "1"}, {"seq": None}, [1], 1, None):
        await app.send(type="pong", data=data)
    for seq in (99, 0, -5, 2**70, 1.5):
        await app.send(type="ack", seq=seq)
    await app.settled()
    app.abort()
    await app.ended()
    await app.connect()
    await app.settled()
    assert [final.seq for final in app.answers("q0")] == [1, 1]


# -- two dialects, repeated, refused -----------------------------------------------------------------------------------------


async def test_both_dialects_live_on_one_socket(come: Callable[..., Any], rt: Server) -> None:
    app = await come("dialects")
    await app.query("a", "robot zulu-1")
    await app.send(
        action="sendMessage", requestId="b", userId="dialects", message="robot zulu-2", timestamp="2026-01-01T00:00:00Z"
    )
    await app.send(action="sendMessage", requestId="c", userId="somebody-else", message="robot zulu-3")
    a, b, c = [await app.final(id) for id in "abc"]
    assert a == a | {"type": "response", "requestId": "a", "status": "completed", "seq": 1, "remaining": 9}
    assert "zulu-1" in a["response"]
    assert b == b | {"action": "messageResponse", "requestId": "b", "status": "completed", "seq": 2, "remaining": 8}
    assert "zulu-2" in b["response"] and "type" not in b
    assert c == c | {"action": "messageResponse", "requestId": "c", "status": "error", "code": "FORBIDDEN"}


@pytest.mark.parametrize("path", ["/ws", "/ws/copilot"])
async def test_both_addresses_speak_the_same(rt: Server, path: str) -> None:
    app = SessionClient(rt.port, token=mint(rt.folder, "addresses", "kitchen"))
    app.path = path
    async with await app.connect():
        assert (await app.ask(path, "robot zulu-1"))["status"] == "completed"


async def test_a_repeated_request_is_answered_from_what_is_stored(come: Callable[..., Any], rt: Server) -> None:
    """Also on another session of the same user, after a restart, and when the limit is used up; never worked twice."""
    app = await come("repeats", confirm="ack")
    rt.sql("UPDATE robot SET battery_level = 51 WHERE robot_id = 'alba-1'")
    first = await app.ask("same", "alba-1")
    assert "51" in first["response"]
    rt.sql("UPDATE robot SET battery_level = 88 WHERE robot_id = 'alba-1'")
    await app.query("same", "something else altogether")
    await app.until(lambda: len(app.answers("same")) == 2)
    assert app.answers("same")[1].message["response"] == first["response"]
    assert app.answers("same")[1].seq == first["seq"]
    other = await come("repeats", device="tablet")
    assert (await other.ask("same", "alba-1"))["response"] == first["response"]
    await asyncio.to_thread(rt.restart)
    later = await come("repeats", device="phone")
    assert (await later.ask("same", "alba-1"))["response"] == first["response"]
    for number in range(12):
        last = await later.ask(f"q{number}", "alba-1")
    assert last["data"]["code"] == "RATE_LIMITED"
    assert (await later.ask("same", "alba-1"))["response"] == first["response"]
    ((count,),) = rt.sql("SELECT count(*) FROM chat_message WHERE user_name = 'repeats' AND request_id = 'same'")
    assert count == 1


async def test_a_repeat_on_another_session_does_not_disturb_that_sessions_numbers(come: Callable[..., Any]) -> None:
    """A client remembers the highest number that it saw: a number of another session must not stand in an answer."""
    app, tab = await come("two-numberings"), await come("two-numberings", device="tab")
    for number in range(4):
        await app.ask(f"q{number}", f"robot zulu-{number}")
    await tab.ask("q3", "robot zulu-3")
    await tab.ask("own", "robot zulu-9")
    assert [final.request_id for final in tab.accepted()] == ["q3", "own"]


async def test_two_sessions_that_ask_the_same_at_once_both_get_the_answer(slow_disk: SlowDisk) -> None:
    async with slow_disk.client("anna") as app, slow_disk.client("anna", device="tab") as tab:
        await tab.settled()
        slow_disk.shim.control.fsync_delay_ms = 200
        await app.query("q", "robot zulu-1")
        await app.settled()
        await tab.query("q", "robot zulu-1")
        assert "zulu-1" in (await tab.final("q"))["response"]
        slow_disk.shim.control.fsync_delay_ms = 0
        await app.ask("later", "robot zulu-2")
        assert [final.request_id for final in app.accepted() if final.seq] == ["q", "later"]
    ((count,),) = slow_disk.server.sql("SELECT count(*) FROM chat_message WHERE request_id = 'q'")
    assert count == 1


async def test_a_repeat_costs_nothing_of_the_limit_also_after_a_restart(come: Callable[..., Any], rt: Server) -> None:
    app = await come("frugal")
    for number in range(10):
        await app.ask(f"q{number}", f"robot zulu-{number}")
    await asyncio.to_thread(rt.restart)
    app = await come("frugal")
    for number in range(10):
        await app.ask(f"q{number}", f"robot zulu-{number}")
    fresh = await app.ask("fresh", "robot zulu-11")
    assert fresh.get("status") == "completed", fresh
    assert fresh["remaining"] == 9


async def test_the_same_request_id_of_two_users_is_two_requests(come: Callable[..., Any]) -> None:
    anna, bert = await come("anna-2"), await come("bert-2")
    answers = await asyncio.gather(anna.ask("1", "robot zulu-1"), bert.ask("1", "robot zulu-2"))
    assert ["zulu-1" in answers[0]["response"], "zulu-2" in answers[1]["response"]] == [True, True]
    assert len(anna.finals) == len(bert.finals) == 1


BAD: dict[str, dict[str, Any]] = {
    "no requestId": {"message": "alba-1"},
    "a number as requestId": {"requestId": 7, "message": "alba-1"},
    "an empty requestId": {"requestId": "", "message": "alba-1"},
    "a long requestId": {"requestId": "x" * 201, "message": "alba-1"},
    "no message": {"requestId": "bad"},
    "an empty message": {"requestId": "bad", "message": ""},
    "blanks": {"requestId": "bad", "message": " \n\t "},
    "5000 characters": {"requestId": "bad", "message": "x" * 5000},
    "a list": {"requestId": "bad", "message": ["alba-1"]},
    "null": {"requestId": "bad", "message": None},
}


@pytest.mark.parametrize("dialect", [{"type": "query"}, {"action": "sendMessage"}], ids=["session", "desktop"])
async def test_bad_requests_are_refused_and_cost_nothing(come: Callable[..., Any], rt: Server, dialect: dict[str, str]) -> None:
    user = f"bad-{'desktop' if 'action' in dialect else 'session'}"
    app = await come(user)
    for name, fields in BAD.items():
        heard = len(app.heard)
        await app.send(**dialect, **fields)
        refusal = await app.message(lambda message: message.get("type") != "ping", after=heard)
        body = refusal["data"] if refusal.get("type") == "error" else refusal
        assert body["code"] == "INVALID_MESSAGE", name
        assert body.get("requestId") == ("bad" if fields.get("requestId") == "bad" else None), name
    await app.query("bad", "x" * 4000)  # the id is free
    good = await app.message(lambda message: message.get("status") == "completed")
    assert (good["status"], good["remaining"]) == ("completed", 9)
    assert rt.sql("SELECT count(*) FROM chat_message WHERE user_name = ?", user) == [(1,)]


async def test_a_bad_request_of_the_desktop_is_refused_in_its_own_words(come: Callable[..., Any]) -> None:
    """Its app waits for a `messageResponse` with its requestId; it does not know `error`."""
    app = await come("desktop-words")
    await app.send(action="sendMessage", requestId="bad", userId="desktop-words", message="")
    refusal = await app.final("bad")
    assert (refusal.get("action"), refusal.get("status")) == ("messageResponse", "error")


async def test_a_strange_question_is_answered_and_harms_nobody(come: Callable[..., Any]) -> None:
    app = await come("strange", "manager")
    texts = ["a\0b", "'; DROP TABLE robot; --", "%s %d {0} {x}", "🤖" * 1000, "\u202e1-abla", "(((((((((((((", "9" * 4000]
    for number, text in enumerate(texts):
        answer = await app.ask(f"q{number}", text)
        assert answer.get("status") == "completed", (text[:40], answer)
    assert "alba-1" in (await app.ask("still", "robot zulu-1"))["response"]


async def test_who_may_not_ask_is_told_so_in_the_answer(come: Callable[..., Any], rt: Server) -> None:
    app = await come("wall", "display")
    refusal = await app.ask("q", "alba-1")
    assert (refusal["data"]["code"], refusal["requestId"]) == ("FORBIDDEN", "q")
    await app.send(action="sendMessage", requestId="r", message="alba-1")
    assert (await app.final("r"))["code"] == "FORBIDDEN"
    assert rt.sql("SELECT count(*) FROM chat_message WHERE user_name = 'wall'") == [(0,)]


# -- history -----------------------------------------------------------------------------------------------------------------


async def test_everybody_reads_their_own_history_and_an_administrator_that_of_others(
    come: Callable[..., Any], rt: Server
) -> None:
    app = await come("historian", "manager")
    for number in range(5):
        await app.ask(f"q{number}", f"robot zulu-{number}")
    await (await come("other-historian")).ask("q0", "robot zulu-77")
    token, other, admin = (
        mint(rt.folder, user, role)
        for user, role in (("historian", "manager"), ("other-historian", "kitchen"), ("root", "admin"))
    )

    def chat(query: str, token: str) -> tuple[int, Any]:
        return call(rt.port, "GET", f"/api/chat{query}", token=token)

    status, mine = chat("", token)
    assert status == 200
    assert [entry["requestId"] for entry in mine["messages"]] == ["q4", "q3", "q2", "q1", "q0"]
    newest = mine["messages"][0]
    assert newest["question"] == "robot zulu-4" and "zulu-4" in newest["response"] and newest["status"] == "COMPLETED"
    assert newest["timestamp"].endswith("Z") and newest["answered_at"] >= newest["timestamp"]
    _, page = chat(f"?limit=2&before={mine['messages'][1]['id']}", token)
    assert [entry["requestId"] for entry in page["messages"]] == ["q2", "q1"]
    assert [entry["question"] for entry in chat("", other)[1]["messages"]] == ["robot zulu-77"]
    assert chat("?user=historian", other)[1]["code"] == "PERMISSION_DENIED"
    assert chat("?user=other-historian", token)[0] == 403
    assert len(chat("?user=historian", admin)[1]["messages"]) == 5
    assert chat("?user=historian", token)[1] == mine
    assert chat("", "")[0] == 401
    assert chat("", mint(rt.folder, "wall", "display"))[0] == 403
    for bad in ("?limit=0", "?limit=201", "?limit=x", "?before=-1"):
        assert chat(bad, token)[0] == 422, bad


# -- how many ----------------------------------------------------------------------------------------------------------------


async def test_the_eleventh_question_in_a_minute_is_refused_over_all_tabs(come: Callable[..., Any]) -> None:
    tabs = [await come("hasty", device=device) for device in ("left", "right")]
    left = [(await tabs[number % 2].ask(f"q{number}", "robot zulu-1"))["remaining"] for number in range(10)]
    assert left == list(range(9, -1, -1))
    for tab in tabs:
        refusal = await tab.ask("eleventh", "robot zulu-1")
        assert refusal["requestId"] == "eleventh" and refusal["data"]["requestId"] == "eleventh"
        assert refusal["data"]["code"] == "RATE_LIMITED" and refusal["data"]["remaining"] == 0
        assert 0 < refusal["data"]["retry_after"] <= 60
    await tabs[0].send(action="sendMessage", requestId="desk", message="robot zulu-1")
    desk = await tabs[0].final("desk")
    assert (desk["status"], desk["code"], desk["remaining"]) == ("error", "RATE_LIMITED", 0) and desk["retry_after"] > 0
    calm = await come("calm")
    assert (await calm.ask("q", "robot zulu-1"))["remaining"] == 9  # nobody else is concerned


async def test_a_new_session_does_not_refill_the_limit(come: Callable[..., Any]) -> None:
    app = await come("sly")
    for number in range(10):
        await app.ask(f"q{number}", "robot zulu-1")
    await app.close()
    assert (await (await come("sly", device="new")).ask("again", "robot zulu-1"))["data"]["code"] == "RATE_LIMITED"


async def test_the_window_slides_and_each_session_may_have_its_own(start_server: Callable[..., Server]) -> None:
    server = start_server(
        AUTH__MODE="local",
        LIMITS__SHARE_RATE_LIMIT="false",
        LIMITS__QUERY_REQUESTS="2",
        LIMITS__QUERY_WINDOW_S="1.5",
    )
    tabs = [SessionClient(server.port, token=mint(server.folder, "hasty", "kitchen"), device=name) for name in "ab"]
    for tab in tabs:
        await tab.connect()
        assert [(await tab.ask(f"{tab.device}{n}", "robot zulu-1"))["remaining"] for n in range(2)] == [1, 0]
        wait_s = (await tab.ask(f"{tab.device}2", "robot zulu-1"))["data"]["retry_after"]
        assert 0 < wait_s <= 1.5
    await asyncio.sleep(wait_s + 0.05)
    again = await tabs[1].ask("b3", "robot zulu-1")
    assert again.get("status") == "completed", again
    # A session that comes back has what it had.
    await tabs[1].ask("b4", "robot zulu-1")
    tabs[1].abort()
    await tabs[1].ended()
    await tabs[1].connect()
    assert tabs[1].greeting["resumed"]
    assert (await tabs[1].ask("b5", "robot zulu-1")).get("data", {}).get("code") in ("RATE_LIMITED", None)
    for tab in tabs:
        await tab.close()


async def test_a_busy_bump_bar_is_not_blocked_and_costs_no_questions(come: Callable[..., Any]) -> None:
    """30 messages a second for three seconds, of every kind that is no question; a ping each second."""
    app = await come("bump-bar")
    kinds: list[dict[str, Any]] = [
        {"type": "subscribe", "topic": "orders"},
        {"type": "unsubscribe", "topic": "orders"},
        {"type": "ack", "seq": 1},
        {"type": "pong", "data": {"timestamp": 1}},
        {"type": "message_read", "messageId": 12345},
        {"type": "pause"},
        {"type": "resume"},
        {"type": "human_response", "requestId": "none", "response": "x"},
        {"type": "available_data", "requestId": "none", "data": []},
        {"type": "api_result", "requestId": "none", "result": 1},
    ]
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(90):
        await asyncio.sleep(max(0.0, begun + number / 30 - loop.time()))
        await app.send(**kinds[number % len(kinds)])
        if number % 45 == 0:
            await app.send(type="ping", data=number)
    await app.settled()
    assert app.closed is None
    codes = {message["data"]["code"] for message in app.heard if message["type"] == "error"}
    assert codes == {"INVALID_REQUEST_ID", "NOT_FOUND"}
    assert len([message for message in app.heard if message["type"] == "pong"]) == 2
    assert (await app.ask("q", "robot zulu-1"))["remaining"] == 9


async def test_who_may_ask_no_more_may_still_do_everything_else(come: Callable[..., Any]) -> None:
    app = await come("asked-out")
    for number in range(11):
        await app.ask(f"q{number}", "robot zulu-1")
    heard = len(app.heard)
    await app.send(type="subscribe", topic="robots")
    assert (await app.of_type("update", after=heard))["snapshot"] is True
    await app.send(type="ping", data=1)
    await app.of_type("pong", after=heard)


async def test_more_than_one_ping_a_second_is_refused_and_a_flood_ends_the_session(come: Callable[..., Any]) -> None:
    app = await come("pinger")
    for number in range(10):
        await app.send(type="ping", data=number)
    error = await app.of_type("error")
    assert error["data"]["code"] == "RATE_LIMITED" and 0 < error["data"]["retry_after"] <= 1
    assert (await app.ask("q", "robot zulu-1"))["status"] == "completed"
    with contextlib.suppress(websockets.ConnectionClosed):
        for _ in range(2000):
            await app.send_raw(json.dumps({"type": "ack", "seq": 1}))
    assert await app.ended() == (1008, "abuse")
    await app.connect()
    assert app.greeting["resumed"] is True
