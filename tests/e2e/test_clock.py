"""The machine's clock is wrong, at start or for a while: what happened last is shown last, and every id can be used."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server

YEAR_S = 365 * 86400

WRONG_CLOCK = """
import sys, time
from robodyne_rt.cli.main import main
offset, honest, honest_ns = float({offset}), time.time, time.time_ns
time.time = lambda: max(0.0, honest() + offset)
time.time_ns = lambda: max(0, honest_ns() + int(offset * 1e9))
sys.exit(main(sys.argv[1:]))
"""


def start(server: Server, offset_s: float) -> Server:
    server.program = ("-c", WRONG_CLOCK.format(offset=offset_s))
    return server.start()


def events(server: Server, first: int, count: int) -> None:
    numbers = range(first, first + count)
    answers = server.tell(*({"msg_type": "Event", "type": "INFO", "description": f"n-{n}", "id": str(n)} for n in numbers))
    assert all(answer["status"] == "success" for answer in answers)


def shown(server: Server) -> list[str]:
    status, _, body = server.get("/api/events")
    assert status == 200
    return [event["description"] for event in json.loads(body)["data"]]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_a_clock_that_was_three_years_ahead_hides_nothing(server: Server) -> None:
    with start(server, 3 * YEAR_S):
        events(server, 0, 25)
    with start(server, 0):
        events(server, 100, 5)
        assert shown(server)[-5:] == [f"n-{n}" for n in range(100, 105)]


@pytest.mark.parametrize("year", [1970, 1976, 2023])
def test_a_boot_in_the_past_gives_ids_that_can_be_used(server: Server, year: int) -> None:
    with start(server, (year - 1970) * YEAR_S - time.time()):
        server.sql("INSERT INTO menu_item(id, name) VALUES (1, 'rice')")
        order: dict[str, Any] = {"msg_type": "Order", "table_number": 3, "items": [{"menu_item_id": 1, "quantity": 1}]}
        (placed,) = server.tell(order | {"id": "o2"})
        assert placed["status"] == "success" and placed["details"]["order_id"] > 0, placed
        (moved,) = server.tell({"msg_type": "Order", "order_id": placed["details"]["order_id"], "status": "READY", "id": "o3"})
        assert moved["status"] == "success", moved
        assert server.sql("SELECT status FROM order_ WHERE id = ?", placed["details"]["order_id"]) == [("READY",)]


def test_where_the_clock_shows_a_time_before_the_program_was_made_the_note_is_believed(server: Server) -> None:
    with start(server, 0):
        events(server, 0, 1)
        time.sleep(1.3)  # the note is written once a second
    with start(server, -time.time()):
        events(server, 1, 1)
        stamps = [text for (text,) in server.sql("SELECT timestamp FROM event WHERE type = 'INFO' ORDER BY id")]
        assert stamps == sorted(stamps) and stamps[1] > "2026"
