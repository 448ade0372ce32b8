"""A topic of many megabytes reaches every kind of client, and costs the server little memory."""

import asyncio
import json
import sqlite3
from collections.abc import Callable

from robodyne_rt.client import Client
from tests.e2e.server import Replica, Server
from tests.e2e.test_slow_clients import memory_kib, raw_client

ORDERS = 600
MEMORY_KIB = (128 + 64) * 1024
"""`[hub] memory_limit_bytes`, and what the server takes besides."""

NOTE = "국" * 19_000


def store_orders(server: Server) -> None:
    """Store 34 MB of open orders, as another program would."""
    with sqlite3.connect(server.folder / "robodyne.db") as db:
        db.executemany(
            "INSERT INTO order_(id, status, note, timestamp) VALUES (?, 'PLACED', ?, '2026-01-01T12:00:00.000000Z')",
            [(number, NOTE) for number in range(1, ORDERS + 1)],
        )
    db.close()


async def test_a_large_topic_reaches_a_few_lines_the_client_and_a_poll(start_server: Callable[..., Server]) -> None:
    server = start_server()
    store_orders(server)
    everything = set(range(1, ORDERS + 1))

    replica = Replica()
    async with server.watch("/ws/orders", max_size=2 << 20) as socket:
        async with asyncio.timeout(30):
            while set(replica.entities) != everything or replica.offset == -1:
                replica.apply(json.loads(await socket.recv()))
        server.sql("UPDATE order_ SET priority = 5 WHERE id = 7")
        async with asyncio.timeout(30):
            while replica.entities[7]["priority"] != 5:
                replica.apply(json.loads(await socket.recv()))

    async with Client(f"http://127.0.0.1:{server.port}") as client:
        orders = await client.subscribe("orders")
        async with asyncio.timeout(30):
            async for _ in orders:
                if set(orders.entities) == everything:
                    break

    status, _, body = server.get("/api/orders")
    document = json.loads(body)
    assert status == 200 and {order["id"] for order in document["data"]} == everything
    assert document["snapshot"] and document["offset"] > 0 and document["epoch"]


async def test_clients_that_read_nothing_of_a_large_topic_hold_little(start_server: Callable[..., Server]) -> None:
    server = start_server()
    store_orders(server)
    stuck = [raw_client(server, "orders") for _ in range(20)]
    quick = Replica()
    async with server.watch("/ws/orders", max_size=2 << 20) as socket, asyncio.timeout(30):
        while len(quick.entities) < ORDERS or quick.offset == -1:
            quick.apply(json.loads(await socket.recv()))
    assert memory_kib(server) < MEMORY_KIB
    for peer in stuck:
        peer.close()
