"""Connections of foreign clients: caps, closes, recovery over restarts, pace and pause, shutdown."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.server import Replica, Server, receive


async def closed_with(client: object, *, within_s: float = 10.0) -> tuple[int, str]:
    """Read until the server closes; return code and reason."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                await client.recv()  # type: ignore[attr-defined]
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return closed.rcvd.code, closed.rcvd.reason


def drive(server: Server, rounds: int, robots: int = 10, first: int = 0) -> None:
    """`rounds` changes spread over `robots`."""
    server.tell(
        *(
            {"msg_type": "Albabot", "robot_id": f"r{number % robots}", "battery_level": (first + number) % 100}
            for number in range(rounds)
        )
    )


async def test_the_101st_connection_is_refused_and_the_others_live(server: Server) -> None:
    async with asyncio.timeout(30):
        clients = [await server.connect("/ws/video_streams") for _ in range(101)]
    assert await closed_with(clients[100]) == (1008, "topic_full")
    for client in clients[:100]:
        assert (await receive(client))["snapshot"]
        await client.close()


async def test_an_unknown_topic_and_a_missing_token_are_told_by_their_codes(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", AUTH__ANONYMOUS_TOPICS='["robots"]', AUTH__ANONYMOUS_NETWORKS='["127.0.0.0/8"]')
    async with server.watch("/ws/robots") as client:
        assert (await receive(client))["snapshot"]
    async with server.watch("/ws/customers") as client:
        assert await closed_with(client) == (1008, "token_missing")
    async with server.watch("/ws/nonsense") as client:
        assert await closed_with(client) == (1003, "unknown_topic")
    assert server.get("/api/robots")[0] == 200
    status, headers, body = server.get("/api/customers")
    assert status == 401 and headers["Content-Type"] == "application/problem+json"
    assert json.loads(body)["code"] == "AUTHENTICATION_REQUIRED"
    assert headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_client_that_does_not_answer_pings_is_closed_with_4003(start_server: Callable[..., Server]) -> None:
    server = start_server(HUB__PING_INTERVAL_S="0.4", HUB__PONG_TIMEOUT_S="0.2")
    async with (
        server.watch("/ws/robots") as silent,
        server.watch("/ws/robots") as alive,
        server.watch("/ws/robots?heartbeat=protocol") as by_protocol,
    ):

        async def answer() -> None:
            async for text in alive:
                message = json.loads(text)
                if message["type"] == "ping":
                    assert abs(message["data"]["timestamp"] - time.time()) < 5
                    await alive.send(json.dumps({"type": "pong", "data": message["data"]}))

        answering = asyncio.ensure_future(answer())
        assert await closed_with(silent) == (4003, "heartbeat_lost")
        await by_protocol.recv()
        await asyncio.sleep(1.0)
        await by_protocol.send('{"type":"ping","data":{}}')
        assert (await receive(by_protocol))["type"] == "pong"
        assert not answering.done()
        answering.cancel()


@pytest.mark.parametrize("restart", [False, True])
async def test_who_was_away_during_500_changes_gets_ten_robots_in_one_message(server: Server, restart: bool) -> None:
    drive(server, 10)
    async with server.watch("/ws/robots") as client:
        first = await receive(client)
    drive(server, 500)
    if restart:
        server.restart()
    async with server.watch(f"/ws/robots?since={first['offset']}&epoch={first['epoch']}") as client:
        message = await receive(client)
        assert message["recovered"] and message["prev"] == first["offset"] and len(message["data"]) == 10
        assert [robot["battery_level"] for robot in sorted(message["data"], key=lambda r: r["robot_id"])] == list(
            range(90, 100)
        )
        drive(server, 1)
        following = await receive(client)
        assert following["prev"] == message["offset"]


@pytest.mark.parametrize(
    "query", ["since=1", "since=1&epoch=other", "since=-1&epoch={epoch}", "since=x&epoch={epoch}", "since=999999&epoch={epoch}"]
)
async def test_a_position_that_is_no_good_gets_a_snapshot(server: Server, query: str) -> None:
    drive(server, 10)
    epoch = json.loads(server.get("/api/robots")[2])["epoch"]
    async with server.watch(f"/ws/robots?{query.format(epoch=epoch)}") as client:
        message = await receive(client)
        assert message["snapshot"] and message["epoch"] == epoch and len(message["data"]) >= 10


async def test_a_position_older_than_what_is_kept_gets_a_snapshot(start_server: Callable[..., Server]) -> None:
    server = start_server(DATABASE__CHANGES_RETAINED="50")
    drive(server, 10)
    epoch = json.loads(server.get("/api/robots")[2])["epoch"]
    drive(server, 300)
    deadline = time.monotonic() + 10
    while server.sql("SELECT count(*) FROM change WHERE topic = 'robots'")[0][0] > 50:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    server.restart()
    async with server.watch(f"/ws/robots?since=20&epoch={epoch}") as client:
        assert (await receive(client))["snapshot"]
    async with server.watch(f"/ws/robots?since=280&epoch={epoch}") as client:
        assert (await receive(client))["recovered"]


async def test_the_polling_twin_says_the_same_and_knows_etags(server: Server) -> None:
    drive(server, 10)
    status, headers, body = server.get("/api/robots")
    message = json.loads(body)
    assert status == 200 and message["snapshot"]
    async with server.watch("/ws/robots") as client:
        assert await receive(client) == message
    assert server.get("/api/robots", **{"If-None-Match": headers["ETag"]})[0] == 304
    query = f"/api/robots?since={message['offset']}&epoch={message['epoch']}"
    assert json.loads(server.get(query)[2])["data"] == []
    drive(server, 3, robots=3, first=50)
    recovered = json.loads(server.get(query)[2])
    assert recovered["recovered"] and len(recovered["data"]) == 3
    assert server.get("/api/robots", **{"If-None-Match": headers["ETag"]})[0] == 200


async def test_an_interval_gives_at_most_one_message_per_second_with_the_newest_state(server: Server) -> None:
    drive(server, 3, robots=3)
    async with server.watch("/ws/robots?interval=1") as client:
        await receive(client)
        arrivals: list[tuple[float, dict[str, object]]] = []

        async def listen() -> None:
            async for text in client:
                arrivals.append((time.monotonic(), json.loads(text)))

        listening = asyncio.ensure_future(listen())
        for number in range(160):
            await asyncio.to_thread(drive, server, 1, 1, number)
            await asyncio.sleep(0.02)
        await asyncio.sleep(1.2)
        listening.cancel()
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(arrivals)]
    assert len(arrivals) >= 3 and min(gaps) > 0.9
    ((newest,),) = server.sql("SELECT battery_level FROM robot WHERE robot_id = 'r0'")
    assert arrivals[-1][1]["data"][0]["battery_level"] == newest  # type: ignore[index]


async def test_pause_and_resume_give_one_catch_up(server: Server) -> None:
    drive(server, 10)
    async with server.watch("/ws/robots") as client:
        replica = Replica()
        replica.apply(await receive(client))
        await client.send('{"type":"pause"}')
        await client.send('{"type":"ping","data":{"n":1}}')
        assert (await receive(client))["type"] == "pong"
        drive(server, 200)
        await client.send('{"type":"resume"}')
        message = await receive(client)
        assert message["prev"] == replica.offset and len(message["data"]) == 10
        replica.apply(message)
        with pytest.raises(TimeoutError):
            await receive(client, within_s=0.3)


async def test_telemetry_reaches_screens_volatile_and_is_stored_at_most_once_a_second(server: Server) -> None:
    server.tell({"msg_type": "Albabot", "robot_id": "mover", "status": "SERVING"})
    async with server.watch("/ws/robots") as client:
        await receive(client)
        with server.dial() as sock:
            started = time.monotonic()
            for step in range(40):
                sock.sendall(json.dumps({"msg_type": "Telemetry", "robot_id": "mover", "x": step, "y": 1}).encode() + b"\n")
                await asyncio.sleep(0.05)
            seconds = time.monotonic() - started
        seen: list[float] = []
        stored = volatile = 0
        while not seen or seen[-1] < 39:
            message = await receive(client)
            (robot,) = message["data"]
            assert robot["status"] == "SERVING"
            seen.append(robot["x"])
            stored += "offset" in message
            volatile += message.get("volatile", False)
        assert seen == sorted(seen)
        assert volatile >= 30 and stored <= seconds + 2
    await asyncio.sleep(1.2)
    assert server.sql("SELECT x FROM robot WHERE robot_id = 'mover'") == [(39.0,)]


async def test_a_robot_that_vanishes_says_goodbye_or_comes_back(start_server: Callable[..., Server]) -> None:
    server = start_server(DEVICES__OFFLINE_AFTER_S="1")
    async with server.watch("/ws/robots") as robots, server.watch("/ws/events") as events:
        await receive(robots), await receive(events)
        server.tell({"msg_type": "Albabot", "robot_id": "a"})
        assert (await receive(robots))["data"][0]["link"] == "ONLINE"
        assert (await receive(robots))["data"][0]["link"] == "CONNECTIONBROKEN"
        assert "fell silent" in (await receive(events))["data"][0]["description"]
        server.tell({"msg_type": "Albabot", "robot_id": "a"})
        assert (await receive(robots))["data"][0]["link"] == "ONLINE"
        server.tell({"msg_type": "Bye", "robot_id": "a"})
        assert (await receive(robots))["data"][0]["link"] == "OFFLINE"
        with pytest.raises(TimeoutError):
            await receive(robots, within_s=1.6)
        server.tell({"msg_type": "Albabot", "robot_id": "a"})
        assert (await receive(robots))["data"][0]["link"] == "ONLINE"


def test_an_outdated_ts_changes_nothing_and_is_answered_success(server: Server) -> None:
    now = time.time()
    answers = server.tell(
        {"msg_type": "Albabot", "robot_id": "clocked", "battery_level": 50, "ts": now, "id": "c1"},
        {"msg_type": "Albabot", "robot_id": "clocked", "battery_level": 10, "ts": now - 5, "id": "c2"},
        {"msg_type": "Albabot", "robot_id": "clocked", "status": "ERROR", "ts": now + 4000, "id": "c3"},
    )
    assert [answer["status"] for answer in answers] == ["success"] * 3
    assert server.sql("SELECT battery_level, status FROM robot WHERE robot_id = 'clocked'") == [(50.0, "ERROR")]
    server.restart()
    server.tell({"msg_type": "Albabot", "robot_id": "clocked", "battery_level": 10, "ts": now - 5})
    assert server.sql("SELECT battery_level FROM robot WHERE robot_id = 'clocked'") == [(50.0,)]


async def test_shutdown_tells_a_thousand_clients_and_closes_them_with_1001(start_server: Callable[..., Server]) -> None:
    server = start_server(HUB__MAX_CONNECTIONS_PER_TOPIC="1500")
    clients = []
    for _ in range(1000):
        clients.append(await server.connect("/ws/robots"))
        await receive(clients[-1])
    assert server.process is not None
    began = time.monotonic()
    server.process.terminate()

    async def last_words(client: object) -> tuple[dict[str, object], tuple[int, str]]:
        notice = await receive(client)  # type: ignore[arg-type]
        return notice, await closed_with(client)

    ends = await asyncio.gather(*(last_words(client) for client in clients))
    took = time.monotonic() - began
    assert all(notice["type"] == "shutdown" and notice["data"] == {"reason": "restart"} for notice, _ in ends)
    assert {end for _, end in ends} == {(1001, "shutting_down")}
    assert await asyncio.to_thread(server.process.wait, 10) == 0
    assert took < 10, f"{took:.1f} s"


async def test_who_connects_during_shutdown_is_told_1001(start_server: Callable[..., Server]) -> None:
    server = start_server(SERVER__SHUTDOWN_GRACE_S="6")
    assert server.process is not None
    async with server.watch("/ws/robots", close_timeout=60) as stubborn:
        await receive(stubborn)
        # A client that does not take its close keeps the server waiting for a while.
        stubborn.transport.pause_reading()
        server.process.terminate()
        await asyncio.sleep(0.3)
        async with server.watch("/ws/robots") as late:
            assert await closed_with(late) == (1001, "shutting_down")
        stubborn.transport.abort()
    assert await asyncio.to_thread(server.process.wait, 10) == 0


async def test_events_acknowledged_before_a_shutdown_are_there_after_it(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with server.dial() as sock:
        sock.sendall(
            b"".join(
                json.dumps({"msg_type": "Event", "type": "INFO", "robot_id": "d", "id": f"{number}"}).encode() + b"\n"
                for number in range(5000)
            )
        )
        await asyncio.sleep(0.05)
        assert await asyncio.to_thread(server.stop) == 0
        sock.settimeout(5)
        data = b""
        with contextlib.suppress(ConnectionResetError):  # it had more to say than the server still read
            while chunk := sock.recv(65536):
                data += chunk
    answered = [json.loads(line)["id"] for line in data.split(b"\n")[:-1]]
    assert answered
    stored = {id for (id,) in server.sql("SELECT id FROM device_message")}
    assert set(answered) <= stored
