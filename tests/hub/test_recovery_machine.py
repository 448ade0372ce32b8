"""Recovery as a state machine: whatever happens in between, a client that follows the rules is never silently wrong."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from robodyne_rt.hub import topic_feed
from robodyne_rt.protocol import topic_messages
from tests.hub.harness import Rig, Screen

TOPIC = "tables"
clients = st.integers(0, 2)
keys = st.integers(1, 6)


class Recovery(RuleBasedStateMachine):
    """The model is a dict of rows; clients come, go, pause, lag and resume while rows change and the server restarts."""

    part_bytes = topic_messages.PART_BYTES

    @initialize()
    def start(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(topic_messages, "PART_BYTES", self.part_bytes)
        self.patch.setattr(topic_feed, "ROOM_LOOK_S", 0.0)
        self.folder = Path(tempfile.mkdtemp(prefix="recovery-"))
        self.loop = asyncio.new_event_loop()
        self.rig = Rig(self.folder, send_buffer_limit_bytes=600, slow_client_timeout_s=1e9, ping_interval_s=1e9)
        self.running = self.loop.create_task(self.rig.hub.run())
        self.do(asyncio.sleep(0))
        self.rows: dict[int, int] = {}
        self.screens: list[Screen | None] = [None, None, None]
        # What each client remembers of its last visit: entities, offset, epoch.
        self.memory: list[tuple[dict[int, Any], int, str] | None] = [None, None, None]

    def do(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Call something of the hub on the loop, where alone it is called."""

        async def on_loop() -> None:
            function(*arguments, **named)

        self.do(on_loop())

    @rule(key=keys, value=st.integers(0, 99), delete=st.booleans())
    def change(self, key: int, value: int, delete: bool) -> None:
        if delete:
            self.rig.sql("DELETE FROM table_ WHERE id = ?", key)
            self.rows.pop(key, None)
        else:
            self.rig.sql(
                "INSERT INTO table_(id, table_number, customer_count) VALUES (?, ?, ?)"
                " ON CONFLICT(id) DO UPDATE SET customer_count = excluded.customer_count",
                key, key, value,
            )  # fmt: skip
            self.rows[key] = value

    @rule()
    def feed(self) -> None:
        self.do(self.rig.feed())

    @rule(who=clients, interval=st.sampled_from([0.0, 0.0, 1.0]))
    def connect(self, who: int, interval: float) -> None:
        if self.screens[who] is not None:
            return
        memory = self.memory[who]
        since, epoch = (memory[1], memory[2]) if memory else (None, None)
        screen = self.do(self.rig.connect(TOPIC, since=since, epoch=epoch, interval_s=interval))
        if memory:
            screen.replica.entities, screen.replica.offset, screen.replica.epoch = dict(memory[0]), memory[1], memory[2]
        self.screens[who] = screen

    @rule(who=clients)
    def disconnect(self, who: int) -> None:
        screen = self.screens[who]
        if screen is not None:
            screen.take()
            self.remember(who, screen)
            self.call(self.rig.hub.gone, screen.connection)
            self.screens[who] = None

    def remember(self, who: int, screen: Screen) -> None:
        replica = screen.replica
        if replica.offset is not None and replica.epoch is not None:
            self.memory[who] = (dict(replica.entities), replica.offset, replica.epoch)

    @rule(who=clients, reads=st.booleans())
    def reading(self, who: int, reads: bool) -> None:
        if (screen := self.screens[who]) is not None:
            screen.transport.takes = reads
            if reads:
                screen.transport.drain()

    @rule(who=clients, paused=st.booleans())
    def pausing(self, who: int, paused: bool) -> None:
        if (screen := self.screens[who]) is not None:
            self.call(screen.say, type="pause" if paused else "resume")
            self.rig.clock.at += 1

    @rule()
    def restart(self) -> None:
        for who in range(3):
            self.disconnect(who)
        self.running.cancel()
        self.rig.start()
        self.running = self.loop.create_task(self.rig.hub.run())
        self.do(asyncio.sleep(0))

    @rule(backlog=st.booleans())
    def give_up(self, backlog: bool) -> None:
        """What the hub does at its bound of memory."""
        topic = self.rig.hub._topic_feeds[TOPIC]
        if backlog:
            self.call(topic.give_up_backlog)
        else:
            self.call(topic.give_up_window)

    @rule(turns=st.integers(1, 8))
    def let_turns_pass(self, turns: int) -> None:
        for _ in range(turns):
            self.do(asyncio.sleep(0))

    @rule(kept=st.integers(0, 5))
    def prune(self, kept: int) -> None:
        head = self.rig.reader.log.heads()[TOPIC]
        self.rig.sql('DELETE FROM change WHERE topic = ? AND "offset" <= ?', TOPIC, min(head - kept, self.rig.positions[TOPIC]))

    @invariant()
    def a_client_that_is_up_to_date_has_the_state_and_none_ever_met_a_gap(self) -> None:
        if not hasattr(self, "screens"):
            return
        for screen in self.screens:
            if screen is None:
                continue
            screen.take()  # raises where `prev` is above the client's offset
            if screen.replica.offset == self.rig.reader.log.heads()[TOPIC]:
                shown = {key: entity["customer_count"] for key, entity in screen.replica.entities.items()}
                assert shown == self.rows

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        # In the end everybody resumes, drains, and has everything.
        self.feed()
        for who in range(3):
            self.reading(who, True)
            self.pausing(who, False)
        for _ in range(5):
            self.call(self.rig.tick, 1.5)
            self.let_turns_pass(60)
        head = self.rig.reader.log.heads()[TOPIC]
        for screen in self.screens:
            if screen is not None:
                screen.take()
                assert {key: entity["customer_count"] for key, entity in screen.replica.entities.items()} == self.rows
                assert screen.replica.offset is not None and screen.replica.offset <= head
        self.running.cancel()
        self.do(asyncio.gather(self.running, return_exceptions=True))
        self.rig.close()
        self.loop.close()
        self.patch.undo()
        shutil.rmtree(self.folder)


class RecoveryInParts(Recovery):
    """The same, where hardly two entities fit into one message."""

    part_bytes = 150


Recovery.TestCase.settings = RecoveryInParts.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)


@pytest.mark.timeout(240)
class TestRecovery(Recovery.TestCase):  # type: ignore[misc,valid-type]
    """Run by pytest."""


@pytest.mark.timeout(240)
class TestRecoveryInParts(RecoveryInParts.TestCase):  # type: ignore[misc,valid-type]
    """Run by pytest."""
