"""Commands to robots: sent once, asked for, given up; held against robots that reboot, forget and lose their link."""

import copy
import os
from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from robodyne_rt.core import robot_commands
from robodyne_rt.core.robot_commands import Ask, Cancel, Changed, Command, Decision, Refusal, RobotCommands, Send
from robodyne_rt.model.operations import FINAL, STEPS, OperationError, OperationStatus, may_follow

TASKS = {"GOTO", "RETURN", "STOP", "PAUSE", "SPEAK", "RESUME"}


def make(id: str = "c1", name: str = "GOTO", *, now: float = 0.0, hold_s: float = 0.0, **fields: Any) -> Command:
    wanted = {"expires_at": now + hold_s + (900 if fields.get("may_wait") else 30)} | fields
    return Command(id=id, robot_id="alba-1", name=name, hold_until=now + hold_s, **wanted)


@pytest.fixture
def ledger() -> RobotCommands:
    """A robot that is here, idle, and remembers."""
    ledger = RobotCommands()
    ledger.robot_is("alba-1", "IDLE", 0.0)
    ledger.linked("alba-1", TASKS, remembers=True, now=0.0)
    return ledger


def kinds(decisions: list[Decision]) -> list[str]:
    return [type(decision).__name__ for decision in decisions]


# -- the table ---------------------------------------------------------------------------------------------------------


def test_a_final_state_never_changes() -> None:
    assert not any(may_follow(final, after) for final in FINAL for after in OperationStatus)
    assert set(STEPS) | FINAL == set(OperationStatus)


def test_no_state_is_gone_back_to() -> None:
    order = [OperationStatus.PENDING, OperationStatus.SENT, OperationStatus.ACKED, OperationStatus.RUNNING]
    for place, before in enumerate(order):
        assert not any(may_follow(before, after) for after in order[: place + 1])


# -- taking ------------------------------------------------------------------------------------------------------------


def test_a_command_is_stored_then_sent(ledger: RobotCommands) -> None:
    command = make()
    assert kinds(ledger.post(command, 0.0)) == ["Changed", "Changed", "Send"]
    assert (command.status, command.tries) == ("SENT", 1)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (make(hold_s=30.1), None, "hold_s"),
        (make(hold_s=10, expires_at=9.9), None, "expires_at"),
        (make(name="PAUSE", may_wait=True), None, "queue"),
        (make(name="FLY"), None, "does not take FLY"),
        (make(expected_status="CHARGING"), OperationError.CONFLICT, "not CHARGING"),
    ],
)
def test_what_cannot_be_taken_is_refused(ledger: RobotCommands, command: Command, code: Any, said: str) -> None:
    with pytest.raises(Refusal, match=said) as refused:
        ledger.post(command, 0.0)
    assert refused.value.code is code
    assert ledger.open("alba-1") == []


@pytest.mark.parametrize("may_wait", [False, True])
@pytest.mark.parametrize("status", ["EMERGENCY", "ERROR", "MAINTENANCE", "SECURITY"])
def test_a_robot_in_trouble_takes_no_task_not_even_for_later(ledger: RobotCommands, status: str, may_wait: bool) -> None:
    ledger.robot_is("alba-1", status, 0.0)
    with pytest.raises(Refusal) as refused:
        ledger.post(make(may_wait=may_wait), 0.0)
    assert refused.value.code is OperationError.ROBOT_UNAVAILABLE
    assert kinds(ledger.post(make(name="PAUSE"), 0.0))[-1] == "Send"


@pytest.mark.parametrize("status", ["SERVING", "COOKING", "", "BIRTHDAY"])
def test_a_busy_robot_takes_a_task_for_later_only(ledger: RobotCommands, status: str) -> None:
    ledger.robot_is("alba-1", status, 0.0)
    with pytest.raises(Refusal):
        ledger.post(make(), 0.0)
    assert kinds(ledger.post(make(may_wait=True), 0.0)) == ["Changed"]
    assert kinds(ledger.robot_is("alba-1", "CHARGING", 5.0)) == ["Changed", "Send"]


def test_tasks_are_sent_one_after_the_other_and_instant_commands_pass_them(ledger: RobotCommands) -> None:
    first, second = make("a"), make("b", may_wait=True)
    ledger.post(first, 0.0)
    with pytest.raises(Refusal):
        ledger.post(make("x"), 0.0)
    ledger.post(second, 0.0)
    assert kinds(ledger.post(make("c", "PAUSE"), 0.0)) == ["Changed", "Changed", "Send"]
    assert second.status == "PENDING"
    assert [
        decision.command for decision in ledger.resulted("alba-1", "a", "succeeded", 9.0) if isinstance(decision, Send)
    ] == [second]


def test_a_robot_that_is_away_gets_it_when_it_comes(ledger: RobotCommands) -> None:
    ledger.unlinked("alba-1", 0.0)
    with pytest.raises(Refusal):
        ledger.post(make(), 0.0)
    waiting = make(may_wait=True)
    assert kinds(ledger.post(waiting, 0.0)) == ["Changed"]
    assert kinds(ledger.linked("alba-1", TASKS, remembers=False, now=800.0)) == ["Changed", "Send"]


def test_a_held_command_can_be_taken_back_and_is_never_sent_then(ledger: RobotCommands) -> None:
    command = make(hold_s=3.0)
    assert kinds(ledger.post(command, 0.0)) == ["Changed"]
    assert ledger.tick(2.9) == []
    assert kinds(ledger.cancel("alba-1", "c1", 2.95)) == ["Changed"]
    assert command.status == "CANCELLED" and ledger.tick(3.0) == []


def test_a_hold_that_is_over_is_followed_by_the_command(ledger: RobotCommands) -> None:
    ledger.post(make(hold_s=3.0), 0.0)
    assert kinds(ledger.tick(3.0)) == ["Changed", "Send"]


def test_a_stale_command_is_never_sent(ledger: RobotCommands) -> None:
    ledger.unlinked("alba-1", 0.0)
    command = make(may_wait=True)
    ledger.post(command, 0.0)
    assert kinds(ledger.linked("alba-1", TASKS, remembers=True, now=900.0)) == []
    assert kinds(ledger.tick(900.0)) == ["Changed"] and command.status == "EXPIRED"


def test_what_a_robot_was_to_be_in_is_looked_at_again_when_it_is_sent(ledger: RobotCommands) -> None:
    command = make(hold_s=3.0, expected_status="IDLE")
    ledger.post(command, 0.0)
    ledger.robot_is("alba-1", "CHARGING", 1.0)
    ledger.tick(3.0)
    assert (command.status, command.error) == ("FAILED", OperationError.CONFLICT)


def test_trouble_ends_what_waits_and_not_what_is_out(ledger: RobotCommands) -> None:
    out, waits = make("a"), make("b", may_wait=True)
    ledger.post(out, 0.0)
    ledger.post(waits, 0.0)
    ledger.robot_is("alba-1", "EMERGENCY", 1.0)
    assert (waits.status, waits.error) == ("FAILED", OperationError.ROBOT_UNAVAILABLE)
    assert out.status == "SENT"


# -- what the robot says -------------------------------------------------------------------------------------------------


def test_the_way_of_a_task(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    assert kinds(ledger.acked("alba-1", "c1", is_accepted=True, reason="", now=1.0)) == ["Changed"]
    assert command.status == "ACKED"
    ledger.resulted("alba-1", "c1", "running", 2.0, progress=30)
    assert (command.status, command.progress) == ("RUNNING", 30)
    assert kinds(ledger.resulted("alba-1", "c1", "running", 3.0, progress=60)) == ["Changed"] and command.progress == 60
    ledger.resulted("alba-1", "c1", "succeeded", 4.0, result={"at": 3})
    assert (command.status, command.result, ledger.open("alba-1")) == ("EXECUTED", {"at": 3}, [])
    assert ledger.resulted("alba-1", "c1", "failed", 5.0) == [] and command.status == "EXECUTED"


def test_a_result_may_come_before_its_ack(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    ledger.resulted("alba-1", "c1", "running", 1.0)
    assert ledger.acked("alba-1", "c1", is_accepted=True, reason="", now=1.1) == [] and command.status == "RUNNING"


@pytest.mark.parametrize(("word", "status"), [("failed", "FAILED"), ("cancelled", "CANCELLED"), ("succeeded", "EXECUTED")])
def test_what_a_robot_reports_is_the_end(ledger: RobotCommands, word: str, status: str) -> None:
    command = make()
    ledger.post(command, 0.0)
    ledger.resulted("alba-1", "c1", word, 1.0, reason="tray")
    assert command.status == status


def test_a_rejection_is_told_with_its_reason(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    ledger.acked("alba-1", "c1", is_accepted=False, reason="blocked", now=1.0)
    assert (command.status, command.error, command.reason) == ("FAILED", OperationError.REJECTED, "blocked")


def test_what_nobody_sent_is_nothing_a_robot_can_speak_of(ledger: RobotCommands) -> None:
    held = make(hold_s=3.0)
    ledger.post(held, 0.0)
    assert ledger.resulted("alba-1", "c1", "succeeded", 1.0) == [] and held.status == "PENDING"
    assert ledger.acked("alba-1", "other", is_accepted=True, reason="", now=1.0) == []
    assert ledger.resulted("alba-2", "c1", "succeeded", 1.0) == []


# -- silence -----------------------------------------------------------------------------------------------------------


def test_without_an_ack_it_is_sent_three_times_in_all_and_then_nobody_knows(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    assert ledger.tick(4.9) == []
    assert kinds(ledger.tick(5.0)) == ["Changed", "Send"]
    assert kinds(ledger.tick(10.0)) == ["Changed", "Send"] and command.tries == 3
    assert ledger.tick(14.9) == []
    ledger.tick(15.0)
    assert (command.status, command.error) == ("FAILED", OperationError.UNCONFIRMED)


def test_after_it_expired_it_is_not_sent_again(ledger: RobotCommands) -> None:
    command = make(expires_at=5.0)
    ledger.post(command, 0.0)
    assert kinds(ledger.tick(5.0)) == ["Changed"] and command.error is OperationError.UNCONFIRMED


def test_a_robot_that_says_nothing_more_is_asked_until_it_answers(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    ledger.acked("alba-1", "c1", is_accepted=True, reason="", now=0.0)
    assert ledger.tick(299.9) == []
    assert kinds(ledger.tick(300.0)) == ["Ask"]
    assert ledger.tick(304.9) == [] and kinds(ledger.tick(305.0)) == ["Ask"]
    ledger.resulted("alba-1", "c1", "running", 306.0)
    assert ledger.tick(366.0) == [] and command.status == "RUNNING"


def test_a_robot_that_does_not_answer_has_no_answer(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    ledger.acked("alba-1", "c1", is_accepted=True, reason="", now=0.0)
    ledger.tick(300.0)
    assert ledger.tick(359.9) != [] and command.is_open
    ledger.tick(360.0)
    assert (command.status, command.error) == ("FAILED", OperationError.TIMEOUT)


def test_for_a_robot_that_went_away_with_it_nobody_waits_longer_than_an_hour(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    ledger.unlinked("alba-1", 10.0)
    assert ledger.tick(3609.9) == []
    ledger.tick(3610.0)
    assert (command.status, command.error) == ("FAILED", OperationError.LOST)


# -- links and restarts --------------------------------------------------------------------------------------------------


def test_after_a_lost_link_it_is_asked_for_and_not_sent_again(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    ledger.unlinked("alba-1", 1.0)
    assert ledger.tick(20.0) == []
    assert kinds(ledger.linked("alba-1", TASKS, remembers=True, now=21.0)) == ["Ask"]
    ledger.resulted("alba-1", "c1", "accepted", 22.0)
    assert command.status == "ACKED"


@pytest.mark.parametrize(
    ("remembers", "said_before", "now", "sent_again"),
    [(True, "", 10.0, True), (False, "", 10.0, False), (True, "accepted", 10.0, False), (True, "", 30.0, False)],
)
def test_what_a_robot_does_not_know_is_sent_again_only_where_it_surely_never_came(
    ledger: RobotCommands, remembers: bool, said_before: str, now: float, sent_again: bool
) -> None:
    command = make()
    ledger.post(command, 0.0)
    if said_before:
        ledger.resulted("alba-1", "c1", said_before, 0.5)
    ledger.unlinked("alba-1", 1.0)
    ledger.linked("alba-1", TASKS, remembers=remembers, now=now)
    decisions = ledger.resulted("alba-1", "c1", "unknown", now)
    assert kinds(decisions)[-1] == ("Send" if sent_again else "Changed")
    assert command.error is (None if sent_again else OperationError.LOST)


def test_over_a_restart_what_waits_goes_on_and_what_is_out_is_asked_for() -> None:
    ledger = RobotCommands()
    waits, out = make("a", may_wait=True), make("b", status=OperationStatus.SENT, tries=1)
    ledger.load([out, waits], 100.0)
    ledger.robot_is("alba-1", "IDLE", 100.0)
    assert kinds(ledger.linked("alba-1", TASKS, remembers=True, now=101.0)) == ["Ask"]
    assert [type(decision) for decision in ledger.resulted("alba-1", "b", "succeeded", 102.0)] == [Changed, Changed, Send]


def test_in_another_history_every_open_command_is_lost(ledger: RobotCommands) -> None:
    commands = [make("a"), make("b", may_wait=True)]
    for command in commands:
        ledger.post(command, 0.0)
    ledger.lose_all("restored")
    assert [(command.status, command.error) for command in commands] == [("FAILED", OperationError.LOST)] * 2
    assert ledger.open("alba-1") == []


# -- cancelling and stopping ---------------------------------------------------------------------------------------------


def test_a_command_that_is_out_is_ended_by_its_robot_only(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    assert kinds(ledger.cancel("alba-1", "c1", 1.0)) == ["Changed", "Cancel"]
    assert command.is_open and command.cancel_requested
    ledger.unlinked("alba-1", 2.0)
    assert kinds(ledger.linked("alba-1", TASKS, remembers=True, now=3.0)) == ["Ask", "Cancel"]
    ledger.resulted("alba-1", "c1", "unknown", 4.0)
    assert command.status == "CANCELLED"  # it never came, and nobody wants it any more
    with pytest.raises(KeyError):
        ledger.cancel("alba-1", "c1", 5.0)


def test_a_stop_ends_what_waits_at_once_and_what_is_out_when_the_robot_confirms(ledger: RobotCommands) -> None:
    out, waits = make("a"), make("b", may_wait=True)
    ledger.post(out, 0.0)
    ledger.post(waits, 0.0)
    ledger.latched("alba-1")
    assert (waits.status, waits.error, out.status) == ("CANCELLED", OperationError.STOPPED, "SENT")
    with pytest.raises(Refusal) as refused:
        ledger.post(make("c", "RESUME"), 1.0)
    assert refused.value.code is OperationError.STOPPED
    assert kinds(ledger.post(make("d", "SPEAK"), 1.0))[-1] == "Send"
    ledger.stop_confirmed("alba-1")
    assert (out.status, out.error) == ("CANCELLED", OperationError.STOPPED)
    ledger.released("alba-1", 2.0)
    assert kinds(ledger.post(make("e"), 2.0))[-1] == "Send"


def test_a_robot_that_goes_before_it_confirmed_its_stop_leaves_doubt(ledger: RobotCommands) -> None:
    command = make()
    ledger.post(command, 0.0)
    ledger.latched("alba-1")
    ledger.unlinked("alba-1", 1.0)
    assert (command.status, command.error) == ("FAILED", OperationError.LOST)


# -- against a robot -----------------------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """A robot that acts on each id that it does not know, lines that lose anything, and a server that is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ledger = RobotCommands()
        self.stored: dict[str, Command] = {}
        self.acted: Counter[str] = Counter()
        self.finished: set[str] = set()
        self.to_robot: deque[tuple[str, str]] = deque()
        self.to_server: deque[tuple[str, str]] = deque()
        self.known: dict[str, str] = {}
        self.remembers = True
        self.is_linked = False
        self.count = 0
        self.ledger.robot_is("alba-1", "IDLE", 0.0)

    def obey(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            command = decision.command
            match decision:
                case Changed():
                    before = self.stored.get(command.id)
                    assert before is None or before.is_open, "a final state changed"
                    self.stored[command.id] = copy.copy(command)
                case Send() | Ask() | Cancel() if self.is_linked:
                    self.to_robot.append((type(decision).__name__, command.id))
                case _:
                    raise AssertionError("sent to nobody")

    @rule(name=st.sampled_from(["GOTO", "PAUSE"]), hold_s=st.sampled_from([0.0, 3.0]), may_wait=st.booleans())
    def post(self, name: str, hold_s: float, may_wait: bool) -> None:
        self.count += 1
        command = make(f"c{self.count}", name, now=self.now, hold_s=hold_s, may_wait=may_wait)
        try:
            self.obey(self.ledger.post(command, self.now))
        except Refusal:
            assert command.id not in self.stored

    @rule(index=st.integers(0, 20))
    def cancel(self, index: int) -> None:
        if opened := self.ledger.open("alba-1"):
            self.obey(self.ledger.cancel("alba-1", opened[index % len(opened)].id, self.now))

    @precondition(lambda self: self.to_robot)
    @rule(is_lost=st.booleans())
    def robot_hears(self, is_lost: bool) -> None:
        kind, id = self.to_robot.popleft()
        if is_lost:
            return
        if kind == "Send" and id not in self.known:
            self.acted[id] += 1
            self.known[id] = "accepted"
        if kind == "Cancel" and self.known.get(id) in ("accepted", "running"):
            self.known[id] = "cancelled"
        self.to_server.append((id, self.known.get(id, "unknown")))

    @precondition(lambda self: self.known)
    @rule(index=st.integers(0, 20), word=st.sampled_from(["running", "succeeded", "failed"]))
    def robot_works(self, index: int, word: str) -> None:
        id = [*self.known][index % len(self.known)]
        if self.known[id] in ("accepted", "running"):
            self.known[id] = word
            self.finished |= {id} if word == "succeeded" else set()
            if self.is_linked:
                self.to_server.append((id, word))

    @precondition(lambda self: self.to_server)
    @rule(is_lost=st.booleans())
    def server_hears(self, is_lost: bool) -> None:
        id, word = self.to_server.popleft()
        if not is_lost:
            self.obey(self.ledger.resulted("alba-1", id, word, self.now))

    @precondition(lambda self: self.is_linked)
    @rule()
    def link_ends(self) -> None:
        self.is_linked = False
        self.to_robot.clear()
        self.to_server.clear()
        self.obey(self.ledger.unlinked("alba-1", self.now))

    @precondition(lambda self: not self.is_linked)
    @rule(reboots=st.booleans(), remembers=st.booleans())
    def robot_comes(self, reboots: bool, remembers: bool) -> None:
        if reboots:
            if not self.remembers:
                self.known.clear()
            self.remembers = remembers if not self.known else self.remembers
        self.is_linked = True
        self.obey(self.ledger.linked("alba-1", {"GOTO", "PAUSE"}, remembers=self.remembers, now=self.now))

    @rule()
    def server_is_killed(self) -> None:
        self.is_linked = False
        self.to_robot.clear()
        self.to_server.clear()
        self.ledger = RobotCommands()
        self.ledger.load([copy.copy(command) for command in self.stored.values() if command.is_open], self.now)
        self.ledger.robot_is("alba-1", "IDLE", self.now)

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.0, 31.0, 61.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.obey(self.ledger.tick(self.now))

    @rule(status=st.sampled_from(["IDLE", "SERVING", "EMERGENCY"]))
    def status_changes(self, status: str) -> None:
        self.obey(self.ledger.robot_is("alba-1", status, self.now))

    @invariant()
    def nothing_is_done_twice(self) -> None:
        assert all(count == 1 for count in self.acted.values()), self.acted

    @invariant()
    def what_is_said_to_be_done_is_done(self) -> None:
        for command in self.stored.values():
            assert command.status != "EXECUTED" or command.id in self.finished
            assert command.id not in self.acted or command.tries > 0

    @invariant()
    def everything_is_known(self) -> None:
        opened = {command.id for command in self.ledger.open("alba-1")}
        assert opened == {command.id for command in self.stored.values() if command.is_open}

    def teardown(self) -> None:
        for _ in range(4):  # asked, unanswered, given up; or away for an hour
            self.time_passes(3700.0)
        assert not any(command.is_open for command in self.stored.values()), "something is waited for without end"


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=int(os.environ.get("COMMAND_EXAMPLES", "60")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_the_promised_times() -> None:
    assert (robot_commands.TRIES, robot_commands.ACK_WITHIN_S, robot_commands.SILENT_S) == (3, 5, 300)
    assert (robot_commands.ANSWER_WITHIN_S, robot_commands.AWAY_S, robot_commands.HOLD_AT_MOST_S) == (60, 3600, 30)
    assert (robot_commands.EXPIRES_AFTER_S, robot_commands.QUEUED_EXPIRES_AFTER_S) == (30, 900)
