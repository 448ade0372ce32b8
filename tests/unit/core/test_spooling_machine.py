"""The ledger against a model: whatever happens in whatever order, with a crash between any two decisions, its six invariants
hold; and a ledger that breaks one of them is found out.

`SPOOLING_EXAMPLES=20000` runs as many; the suite runs a few hundred.
"""

import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from robodyne_rt.core import spooling
from robodyne_rt.core.spooling import Acknowledge, Answered, Decision, SpoolingLedger
from tests.unit.core.spooling_world import Entry, World

EXAMPLES = int(os.environ.get("SPOOLING_EXAMPLES", "150"))
SABOTAGED_EXAMPLES = 1000


class SpoolingMachine(RuleBasedStateMachine):
    """One life of a server, with its crashes."""

    ledger: type[SpoolingLedger[Entry]] = SpoolingLedger

    @initialize(acknowledge=st.sampled_from(["stored", "queued"]), is_certain=st.booleans())
    def begin(self, acknowledge: str, is_certain: bool) -> None:
        self.world = World(acknowledge, is_certain=is_certain, ledger=self.ledger)

    def perform(self, steps: int | None) -> None:
        """Carry out what was decided; with `steps` the process dies after so many decisions."""
        if steps is None:
            self.world.obey_all()
            return
        for _ in range(min(steps, len(self.world.decisions))):
            self.world.obey_one()
        self.world.crash()
        self.world.obey_all()

    dies = st.one_of(st.none(), st.none(), st.none(), st.none(), st.integers(0, 4))

    @rule(devices=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=6), dies=dies)
    def submit(self, devices: list[tuple[int, int]], dies: int | None) -> None:
        for device, kind in devices:
            self.world.submit(device, kind > 0)
        self.world.obey(self.world.ledger.turn_ended(self.world.now))
        self.perform(dies)

    @rule(is_heard=st.sampled_from([True, True, True, False]), dies=dies)
    def write(self, is_heard: bool, dies: int | None) -> None:
        self.world.write(is_heard=is_heard or self.world.is_certain)
        self.perform(dies)

    @rule(dies=dies)
    def hear(self, dies: int | None) -> None:
        self.world.hear()
        self.perform(dies)

    @rule(may_be_stored=st.booleans(), dies=dies)
    def append(self, may_be_stored: bool, dies: int | None) -> None:
        self.world.append(may_be_stored=may_be_stored)
        self.perform(dies)

    @rule(works=st.booleans(), is_locked=st.booleans())
    def database(self, works: bool, is_locked: bool) -> None:
        self.world.database_works, self.world.is_locked = works, is_locked
        self.world.write()

    @rule(device=st.integers(0, 2), is_locked=st.booleans())
    def outage(self, device: int, is_locked: bool) -> None:
        """What mostly happens: a device goes on speaking while the database goes away and comes back."""
        for works in (False, True):
            self.world.database_works, self.world.is_locked = works, is_locked
            self.world.write()
            while self.world.reports:
                self.world.hear()
                self.perform(None)
            self.submit([(device, 1)], None)
            self.world.append()
            self.perform(None)

    @rule(works=st.sampled_from([True, True, False]))
    def spool(self, works: bool) -> None:
        self.world.spool_works = works

    @rule()
    def damage_spool(self) -> None:
        self.world.spool_is_readable = False

    @rule(dies=dies)
    def lose_spool(self, dies: int | None) -> None:
        self.world.obey(self.world.ledger.spool_lost(self.world.now))
        self.perform(None if dies is None else max(1, dies))  # its rows are gone in any case

    @rule(seconds=st.sampled_from([0.01, 0.06, 1.2, 5.2, 11.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.perform(None)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()


def run(machine: type[SpoolingMachine], examples: int, **options: Any) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            database=None,
            max_examples=examples,
            stateful_step_count=18,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


@pytest.mark.timeout(3600)
def test_every_invariant_holds_whatever_happens() -> None:
    run(SpoolingMachine, EXAMPLES)


class AcknowledgesTooEarly(SpoolingLedger[Entry]):
    """1: tells success when the append begins."""

    def checked(self, accepted: Sequence[Answered[Entry]]) -> list[Decision[Entry]]:
        decisions = super().checked(accepted)
        for append in self._appending:
            append.entries = []
        return [Acknowledge(list(accepted)), *decisions] if accepted else decisions


class AnswersTwice(SpoolingLedger[Entry]):
    """2: does not forget what it answered."""

    def failed(self, generation: int, now: float, **options: Any) -> list[Decision[Entry]]:
        before = dict(self._direct)
        decisions = super().failed(generation, now, **options)
        self._direct = before
        return decisions


class NeverGivesUp(SpoolingLedger[Entry]):
    """2: lets devices wait for as long as it takes."""

    def _time_out(self, now: float) -> list[Decision[Entry]]:
        return []


class MixesUp(SpoolingLedger[Entry]):
    """3: takes back what the writer had in another order."""

    def _in_order(self, entries: list[Entry]) -> list[Entry]:
        return entries[::-1]


class NumbersAgain(SpoolingLedger[Entry]):
    """4: begins to count rows anew at each start."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._next_seq = 1


class Overtakes(SpoolingLedger[Entry]):
    """5: takes the direct way as soon as the database is back, whatever the spool holds."""

    def recovered(self) -> list[Decision[Entry]]:
        self._leave_below_rows = 1 << 30
        return super().recovered()

    def _give(self) -> list[Decision[Entry]]:
        gathered, self._gathered = self._gathered, []
        return [spooling.Give(self._generation, 0, gathered)] if gathered else []


class WaitsForTheSpool(SpoolingLedger[Entry]):
    """6: waits for a spool that nobody can read."""

    def drain_failed(self, fault: Any, now: float) -> list[Decision[Entry]]:
        return []


class KeepsItsGeneration(SpoolingLedger[Entry]):
    """2: goes on under the generation that failed, so that the writer writes what the spool has as well."""

    def failed(self, generation: int, now: float, **options: Any) -> list[Decision[Entry]]:
        decisions = super().failed(generation, now, **options)
        self._generation = generation
        return decisions


class CountsGenerationsWrong(SpoolingLedger[Entry]):
    """2 and 3: gives batches under the generation before."""

    def _give(self) -> list[Decision[Entry]]:
        return [
            give._replace(generation=give.generation - 1) if isinstance(give, spooling.Give) else give
            for give in super()._give()
        ]


@pytest.mark.parametrize(
    "ledger",
    [
        AcknowledgesTooEarly,
        AnswersTwice,
        NeverGivesUp,
        MixesUp,
        NumbersAgain,
        Overtakes,
        WaitsForTheSpool,
        CountsGenerationsWrong,
        KeepsItsGeneration,
    ],
)
def test_a_ledger_that_breaks_an_invariant_is_found_out(ledger: type[SpoolingLedger[Entry]]) -> None:
    machine = type("Sabotaged", (SpoolingMachine,), {"ledger": ledger})
    with pytest.raises(AssertionError):
        run(machine, SABOTAGED_EXAMPLES, phases=[Phase.generate], report_multiple_bugs=False, derandomize=True)
