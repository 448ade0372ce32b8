"""Other programs write into the database, and the screens see it."""

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.server import Replica, Server, receive, updates_until

FOREIGN_WRITER = """
import random, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
rng = random.Random(1)
for number in range(1000):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE table_ SET customer_count = ? WHERE id = ?", (number % 1000, number % 20 + 1))
    if number % 7 == 0:
        connection.execute("INSERT INTO table_(table_number) VALUES (?)", (1000 + number,))
    if number % 20 == 3:
        connection.execute("DELETE FROM table_ WHERE table_number >= 1000 AND table_number < ?", (1000 + number - 50,))
    connection.execute("ROLLBACK" if number % 20 == 13 else "COMMIT")
    time.sleep(rng.random() * 0.004)
"""


async def test_an_update_by_another_program_is_seen_in_time(server: Server) -> None:
    server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "battery_level": 81})
    async with server.watch("/ws/robots") as screen:
        await receive(screen)
        delays = []
        for level in range(20):
            server.sql("UPDATE robot SET battery_level = ? WHERE robot_id = 'alba-1'", level)
            committed = time.monotonic()
            message = await receive(screen)
            delays.append(time.monotonic() - committed)
            assert message["data"][0]["battery_level"] == level
        assert sorted(delays)[len(delays) // 2] < 0.25


@pytest.mark.parametrize("notify", ["true", "false"])
async def test_a_thousand_foreign_writes_between_ours_are_all_seen(start_server: Callable[..., Server], notify: str) -> None:
    server = start_server(DATABASE__NOTIFY=notify, HUB__FALLBACK_INTERVAL_S="0.3")
    server.tell(*({"msg_type": "Table", "table_number": number + 1} for number in range(20)))
    async with server.watch("/ws/tables") as screen:
        replica = Replica()
        replica.apply(await receive(screen))
        writer = subprocess.Popen([sys.executable, "-c", FOREIGN_WRITER, str(server.database)])
        ours = 0
        while writer.poll() is None:
            server.tell({"msg_type": "Table", "table_number": ours % 20 + 1, "status": ("CALLING", "OCCUPIED")[ours // 20 % 2]})
            ours += 1
            await asyncio.sleep(0.02)
        assert writer.returncode == 0
        ((head,),) = server.sql("SELECT \"offset\" FROM topic_head WHERE topic = 'tables'")
        while replica.offset < head:
            replica.apply(await receive(screen))
        shown = {(t["id"], t["table_number"], t["status"], t["customer_count"]) for t in replica.entities.values()}
        assert shown == set(server.sql("SELECT id, table_number, status, customer_count FROM table_"))
        assert server.sql("SELECT count(*) FROM change WHERE topic = 'tables'") == [(head,)]
        assert ours > 10 and head > 900


async def test_a_value_that_cannot_be_read_becomes_null_with_one_error_event(server: Server) -> None:
    server.tell({"msg_type": "Albabot", "robot_id": "odd-1", "status": "IDLE"})
    async with server.watch("/ws/robots") as robots, server.watch("/ws/events") as events:
        await receive(robots), await receive(events)
        server.sql("UPDATE robot SET joints = 'no json', battery_level = 5 WHERE robot_id = 'odd-1'")
        message = await receive(robots)
        assert (message["data"][0]["joints"], message["data"][0]["battery_level"]) == (None, 5)
        event = (await receive(events))["data"][0]
        assert event["type"] == "ERROR" and "robot.joints" in event["description"]
        server.sql("UPDATE robot SET battery_level = 6 WHERE robot_id = 'odd-1'")
        assert (await receive(robots))["data"][0]["battery_level"] == 6
        with pytest.raises(asyncio.TimeoutError):
            await updates_until(events, lambda message: "joints" in str(message["data"]), within_s=0.7)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE robot SET battery_level = 101",
        "UPDATE robot SET status = 'FLYING'",
        "UPDATE robot SET battery_level = 'full'",
        "UPDATE robot SET last_seen = 'yesterday'",
        "INSERT INTO event(type, severity, timestamp) VALUES ('CALL', 'LOUD', '2026-11-21T00:00:00Z')",
        "INSERT INTO inventory(name, count) VALUES ('rice', -1)",
    ],
)
def test_the_database_itself_refuses_what_no_screen_could_show(server: Server, statement: str) -> None:
    server.tell({"msg_type": "Albabot", "robot_id": "strict"})
    with pytest.raises(sqlite3.IntegrityError):
        server.sql(statement)


async def test_inventory_status_follows_its_count(server: Server) -> None:
    server.sql("INSERT INTO inventory(name, count, threshold) VALUES ('rice', 50, 10)")
    async with server.watch("/ws/inventory") as screen:
        # Written a moment ago, it is in the snapshot or in the update after it.
        (*_, message) = await updates_until(screen, lambda message: message["data"])
        assert message["data"][0]["status"] == "IN_STOCK"
        server.sql("UPDATE inventory SET count = 10")
        assert (await receive(screen))["data"][0]["status"] == "LOW_STOCK"
        server.tell({"msg_type": "Inventory", "name": "rice", "count": 0})
        assert (await receive(screen))["data"][0]["status"] == "OUT_OF_STOCK"


async def test_a_foreign_program_that_locks_the_database_holds_up_no_device_and_loses_nothing(server: Server) -> None:
    lock = sqlite3.connect(server.database, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with server.dial() as sock:
        sock.sendall(b'{"msg_type":"Event","type":"CALL","table_number":1,"id":"held"}\n')
        sock.settimeout(15)
        assert json.loads(sock.recv(1000))["status"] == "success"
    calls = "SELECT count(*) FROM event WHERE type = 'CALL'"
    held = server.sql(calls)
    lock.execute("ROLLBACK")
    lock.close()
    assert held == [(0,)]
    async with asyncio.timeout(15):
        while server.sql(calls) != [(1,)]:
            await asyncio.sleep(0.05)
    async with server.watch("/ws/events") as screen:
        assert [event["type"] for event in (await receive(screen))["data"]].count("CALL") == 1


async def test_orders_carry_their_items_and_follow_them(server: Server) -> None:
    server.sql("INSERT INTO menu_item(name, name_en, station) VALUES ('비빔밥', 'Bibimbap', 'rice')")
    async with server.watch("/ws/orders") as screen:
        await receive(screen)
        (answer,) = server.tell(
            {"msg_type": "Order", "table_number": 4, "items": [{"name": "Bibimbap", "quantity": 2, "note": "맵게"}], "id": "o1"}
        )
        order_id = answer["details"]["order_id"]
        order = (await receive(screen))["data"][0]
        assert order["id"] == order_id and order["status"] == "PLACED" and order_id < 2**53
        assert order["table_number"] == 4
        (item,) = order["items"]
        assert (item["name"], item["quantity"], item["note"], item["station"]) == ("비빔밥", 2, "맵게", "rice")
        server.sql("UPDATE order_item SET status = 'READY' WHERE order_id = ?", order_id)
        assert (await receive(screen))["data"][0]["items"][0]["status"] == "READY"
        server.tell({"msg_type": "Order", "order_id": order_id, "status": "SERVED"})
        served = (await updates_until(screen, lambda message: message["data"][0]["status"] == "SERVED"))[-1]
        assert served["data"][0]["served_at"]
        (late,) = server.tell({"msg_type": "Order", "order_id": order_id, "status": "READY"})
        assert (late["status"], late["details"]) == ("success", {"ignored": "stale", "current": "SERVED"})
        server.sql("UPDATE table_ SET table_number = 77 WHERE table_number = 4")
        (moved,) = await updates_until(screen, lambda message: message["data"][0]["table_number"] == 77)
        assert moved["data"][0]["status"] == "SERVED", "what is late shows nothing"
        server.sql("DELETE FROM order_ WHERE id = ?", order_id)
        assert (await receive(screen))["removed"] == [order_id]
        assert server.sql("SELECT count(*) FROM order_item") == [(0,)]


async def test_a_robot_that_another_program_wrote_decomposed_is_the_one_that_speaks(server: Server) -> None:
    stored = unicodedata.normalize("NFD", "알바-1")
    server.sql("INSERT INTO robot(robot_id, link) VALUES (?, 'OFFLINE')", stored)
    async with server.watch("/ws/robots") as screen:
        await receive(screen)
        (told,) = server.tell({"msg_type": "Albabot", "robot_id": "알바-1", "battery_level": 100.4, "world_x": 1, "world_y": 1})
        assert told["details"] == {"left_out": ["battery_level"]}

        def of_it(message: dict[str, Any]) -> list[dict[str, Any]]:
            return [row for row in message["data"] if row["robot_id"] == stored]  # others may fall silent meanwhile

        here = await updates_until(
            screen, lambda message: "offset" in message and [row["link"] for row in of_it(message)] == ["ONLINE"]
        )
        (robot,) = of_it(here[-1])
        assert robot["x"] == 1
        with server.dial() as sock:
            sock.sendall('{"msg_type":"Telemetry","robot_id":"알바-1","x":2,"y":1,"battery_level":"?"}\n'.encode())
            pushed = await updates_until(screen, lambda message: [row["x"] for row in of_it(message)] == [2])
        assert pushed[-1]["volatile"] and [row["id"] for row in of_it(pushed[-1])] == [robot["id"]]
    names = [name for (name,) in server.sql("SELECT robot_id FROM robot")]
    assert [name for name in names if unicodedata.normalize("NFC", name) == "알바-1"] == [stored]


async def test_a_dropped_trigger_is_put_back_within_seconds_and_screens_catch_up(start_server: Callable[..., Server]) -> None:
    server = start_server(HUB__FALLBACK_INTERVAL_S="0.3")
    server.tell({"msg_type": "Albabot", "robot_id": "alba-1", "battery_level": 50})
    async with server.watch("/ws/robots") as screen:
        await receive(screen)
        connection = sqlite3.connect(server.database, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute('DROP TRIGGER "zz_robot_update"')
        connection.execute("UPDATE robot SET battery_level = 7")
        connection.execute("COMMIT")
        connection.close()
        (update,) = await updates_until(screen, lambda message: message["data"][0]["battery_level"] == 7)
        assert update["snapshot"] is True
    assert "trigger_missing" in server.log() and "trigger_mended" in server.log()
    assert server.get("/readyz")[0] == 200
