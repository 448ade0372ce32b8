"""kill -9 under load: nothing acknowledged is lost, nothing is doubled, offsets have no gaps.

`ROBODYNE_KILL_ROUNDS=200 scripts/test tests/e2e/test_kill.py` runs the long version.
"""

import json
import os
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.server import Server

ROUNDS = int(os.environ.get("ROBODYNE_KILL_ROUNDS", "8"))


class Load:
    """A device that sends events as fast as they are answered, and sends again what was not."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.acknowledged: set[str] = set()
        self.unanswered: list[str] = []
        self.number = 0
        self.duplicates = 0

    def run_until_cut(self) -> None:
        """One connection's life."""
        try:
            with self.server.dial() as sock, sock.makefile("rb") as lines:
                self._send(sock, self.unanswered, hello=True)
                again = set(self.unanswered)
                while True:
                    if len(self.unanswered) < 100:
                        new = [f"{self.name}-{self.number + index}" for index in range(100 - len(self.unanswered))]
                        self.number += len(new)
                        self.unanswered += new
                        self._send(sock, new)
                    line = lines.readline()
                    if not line.endswith(b"\n"):
                        return
                    answer = json.loads(line)
                    assert answer["status"] == "success", answer
                    if "id" in answer:
                        self.acknowledged.add(answer["id"])
                        self.unanswered.remove(answer["id"])
                        self.duplicates += answer["id"] in again
        except OSError:
            return

    def _send(self, sock: socket.socket, ids: list[str], *, hello: bool = False) -> None:
        messages: list[dict[str, str]] = [{"msg_type": "Hello", "device_id": self.name}] if hello else []
        messages += [{"msg_type": "Event", "type": "INFO", "description": id, "id": id} for id in ids]
        sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


@pytest.mark.timeout(120 + 6 * ROUNDS)
def test_kill_under_load_loses_nothing_acknowledged_and_doubles_nothing(start_server: Callable[..., Server]) -> None:
    rng = random.Random(9)
    server = start_server()
    loads = [Load(server, f"device-{number}") for number in range(3)]
    epochs = set()
    for _ in range(ROUNDS):
        epochs.add(json.loads(server.get("/api/events")[2])["epoch"])
        threads = [threading.Thread(target=load.run_until_cut) for load in loads]
        for thread in threads:
            thread.start()
        threading.Event().wait(rng.uniform(0.05, 0.6))
        server.kill()
        for thread in threads:
            thread.join(20)
        server.start()
    stored = [text for (text,) in server.sql("SELECT description FROM event")]
    acknowledged = set().union(*(load.acknowledged for load in loads))
    assert len(acknowledged) > 20 * ROUNDS
    assert acknowledged <= set(stored), f"lost: {sorted(acknowledged - set(stored))[:5]}"
    assert len(stored) == len(set(stored)), "doubled"
    offsets = [offset for (offset,) in server.sql("SELECT \"offset\" FROM change WHERE topic = 'events' ORDER BY 1")]
    ((head,),) = server.sql("SELECT \"offset\" FROM topic_head WHERE topic = 'events'")
    assert offsets == list(range(head - len(offsets) + 1, head + 1))
    assert len(epochs) == 1
    assert server.sql("PRAGMA integrity_check") == [("ok",)]


HANGS_AT_STOP = """
import sys
from robodyne_rt.app import process
from robodyne_rt.cli.main import main
from robodyne_rt.store.intake.writer import Writer
process.STOP_LIMIT_S = 0.5
Writer.stop = lambda self: None  # what a disk that hangs does to its thread
sys.exit(main(sys.argv[1:]))
"""


def test_a_stop_ends_the_server_whatever_hangs(tmp_path: Path) -> None:
    server = Server(tmp_path, SERVER__SHUTDOWN_GRACE_S="0.5")
    server.program = ("-c", HANGS_AT_STOP)
    server.start()
    assert server.stop(wait_s=10) == 1
    assert "stop_forced" in server.log()
