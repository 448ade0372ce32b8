"""The ledger's decisions, one promise each; `test_spooling_machine.py` tries everything in every order."""

from dataclasses import dataclass
from typing import Any

import pytest

from robodyne_rt.core import spooling
from robodyne_rt.core.spooling import (
    Acknowledge,
    Append,
    Check,
    Confirm,
    Drain,
    EndOutage,
    Give,
    Interrupt,
    Reason,
    Refuse,
    Resume,
    Revert,
    SetAside,
    Show,
    SpoolingLedger,
)


@dataclass(eq=False)
class Entry:
    text: str
    spoolable: bool = True
    number: int = 0
    submitted_at: float = 0.0

    def __repr__(self) -> str:
        return self.text


class Bench:
    """A ledger and its clock; what goes to the spool is accepted as it is."""

    def __init__(self, **options: Any) -> None:
        self.now = 100.0
        self.ledger: SpoolingLedger[Entry] = SpoolingLedger(**({"batch_max": 2, "push_deadline_s": 0.05} | options))

    def submit(self, *texts: str, **options: Any) -> list[Any]:
        for text in texts:
            self.ledger.submitted(Entry(text, **options), self.now)
        return self.accept(self.ledger.turn_ended(self.now))

    def accept(self, decisions: list[Any]) -> list[Any]:
        """Check what is to be checked; return the other decisions in their order."""
        found: list[Any] = []
        for decision in decisions:
            if isinstance(decision, Check):
                found += self.ledger.checked([(entry, entry.text.upper(), None) for entry in decision.entries])
            else:
                found.append(decision)
        return found

    def committed(self, give: Give[Entry]) -> list[Any]:
        return self.ledger.committed(give.generation, [(entry, entry.text.upper(), None) for entry in give.entries])

    def away(self, generation: int = 0) -> list[Any]:
        return self.accept(self.ledger.failed(generation, self.now))

    def tick(self, seconds: float) -> list[Any]:
        self.now += seconds
        return self.ledger.tick(self.now)


def texts(decision: Any) -> list[str]:
    return [entry[0].text if isinstance(entry, tuple) else entry.text for entry in decision.entries]


def of(kind: type, decisions: list[Any]) -> list[Any]:
    return [decision for decision in decisions if isinstance(decision, kind)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- the database works ------------------------------------------------------------------------------------------------


def test_a_turn_is_one_batch_and_is_acknowledged_after_its_commit_only(bench: Bench) -> None:
    (give,) = bench.submit("a", "b")
    assert isinstance(give, Give) and texts(give) == ["a", "b"] and (give.generation, give.after_seq) == (0, 0)
    assert bench.committed(give) == [Acknowledge([(give.entries[0], "A", None), (give.entries[1], "B", None)])]
    assert bench.ledger.waiting == 0


def test_only_the_first_submission_opens_a_turn(bench: Bench) -> None:
    assert [bench.ledger.submitted(Entry(text), 0.0) for text in "abc"] == [True, False, False]
    bench.ledger.turn_ended(0.0)
    assert bench.ledger.submitted(Entry("d"), 0.0)


def test_nobody_is_answered_twice(bench: Bench) -> None:
    (give,) = bench.submit("a")
    assert of(Acknowledge, bench.committed(give))
    assert bench.committed(give) == []


def test_a_report_of_a_generation_that_is_over_answers_nobody(bench: Bench) -> None:
    (give,) = bench.submit("a")
    bench.away()
    assert bench.committed(give) == []


def test_devices_are_paused_at_four_batches_and_resumed_below(bench: Bench) -> None:
    (give,) = bench.submit(*"abcdefgh")
    assert bench.ledger.is_behind
    assert Resume() in bench.committed(give)
    (give,) = bench.submit(*"abcdefg")
    assert not bench.ledger.is_behind
    assert Resume() not in bench.committed(give)


# -- late --------------------------------------------------------------------------------------------------------------


def test_what_storage_holds_up_is_shown_once_and_confirmed_with_its_commit(bench: Bench) -> None:
    (give,) = bench.submit("a", "b")
    assert bench.tick(0.04) == []
    (show,) = bench.tick(0.02)
    assert isinstance(show, Show) and texts(show) == ["a", "b"]
    assert bench.tick(0.05) == []
    assert Confirm(2) in bench.committed(give)


def test_a_shell_without_a_push_deadline_shows_nothing() -> None:
    bench = Bench(push_deadline_s=0.0)
    bench.submit("a")
    assert bench.tick(3.0) == []


def test_one_turn_shows_a_hundred_and_the_next_the_rest(bench: Bench) -> None:
    bench.submit(*[str(number) for number in range(150)])
    assert [len(show.entries) for show in bench.tick(0.1)] == [100]
    assert [len(show.entries) for show in bench.tick(0.01)] == [50]


@pytest.mark.parametrize(("seconds", "state"), [(0.9, "ok"), (1.1, "late")])
def test_a_commit_of_over_a_second_is_late(bench: Bench, seconds: float, state: str) -> None:
    bench.submit("a")
    bench.now += seconds
    assert bench.ledger.state(bench.now) == state


def test_a_database_that_hangs_is_interrupted_after_five_seconds(bench: Bench) -> None:
    bench.submit("a")
    assert not of(Interrupt, bench.tick(4.9))
    assert of(Interrupt, bench.tick(0.2))


def test_a_database_is_not_interrupted_for_what_it_was_never_given(bench: Bench) -> None:
    bench.away()
    bench.submit("old")
    bench.ledger.recovered()
    bench.submit("new")  # waits for the spool, not for the database
    assert not of(Interrupt, bench.tick(6.0))


@pytest.mark.parametrize(("after", "due"), [(0.0, 0.05), (0.03, 0.02), (0.2, 0.005)])
def test_the_next_tick_is_when_something_is_due(bench: Bench, after: float, due: float) -> None:
    assert bench.ledger.next_tick_s(bench.now) is None
    bench.submit("a")
    assert bench.ledger.next_tick_s(bench.now + after) == pytest.approx(due)


def test_everybody_is_answered_within_ten_seconds(bench: Bench) -> None:
    (give,) = bench.submit("a")
    bench.tick(0.1)
    assert not of(Refuse, bench.tick(9.8))
    (refuse,) = of(Refuse, bench.tick(0.11))
    assert (texts(refuse), refuse.reason) == (["a"], Reason.TIMEOUT)
    assert not of(Acknowledge, bench.committed(give))  # its device was told, and asks again


def test_what_was_never_given_is_surely_not_stored_when_its_time_is_over(bench: Bench) -> None:
    bench.away()
    bench.submit("spooled")
    bench.ledger.recovered()
    bench.submit("new")  # waits for the append
    bench.now += 10.0
    refused = {refuse.reason: texts(refuse) for refuse in of(Refuse, bench.ledger.tick(bench.now))}
    assert refused == {Reason.TIMEOUT: ["spooled"], Reason.UNAVAILABLE: ["new"]}


# -- locked ------------------------------------------------------------------------------------------------------------


def lock(bench: Bench, generation: int = 0) -> list[Any]:
    return bench.accept(bench.ledger.failed(generation, bench.now, may_be_stored=False, is_locked=True))


def test_a_lock_sends_to_the_spool_what_waits_and_what_comes(bench: Bench) -> None:
    bench.submit("a")
    (append,) = lock(bench)
    assert texts(append) == ["a"]
    (append,) = bench.submit("b")
    assert isinstance(append, Append) and texts(append) == ["b"]


def test_what_cannot_be_spooled_waits_for_the_end_of_a_lock(bench: Bench) -> None:
    bench.submit("call", spoolable=False)
    assert lock(bench) == []
    assert bench.submit("another", spoolable=False) == []
    assert bench.ledger.waiting == 2
    assert [texts(give) for give in of(Give, bench.ledger.recovered())] == [["call", "another"]]


def test_it_comes_behind_what_was_spooled_meanwhile(bench: Bench) -> None:
    bench.submit("call", spoolable=False)
    lock(bench)
    bench.submit("event")
    bench.ledger.appended(1)
    (give,) = of(Give, bench.ledger.recovered())
    assert (texts(give), give.after_seq, give.generation) == (["call"], 1, 1)


def test_without_a_spool_everything_waits_for_the_end_of_a_lock() -> None:
    bench = Bench(has_spool=False)
    bench.submit("a")
    assert not of(Refuse, lock(bench))
    bench.submit("b")
    assert [texts(give) for give in of(Give, bench.ledger.recovered())] == [["a", "b"]]


def test_a_spool_in_trouble_keeps_nothing_from_waiting_for_a_lock_in_its_order(bench: Bench) -> None:
    bench.away()
    bench.submit("refused")
    bench.ledger.append_failed(1, "full", bench.now)
    bench.ledger.recovered()
    bench.submit("a")
    lock(bench, 1)
    bench.now += spooling.SPOOL_RETRY_S + 0.1
    bench.submit("b")  # the spool may work again, but "a" is older
    assert [texts(give) for give in of(Give, bench.ledger.recovered())] == [["a", "b"]]


def test_a_lock_is_waited_for_for_five_seconds(bench: Bench) -> None:
    bench.submit("call", spoolable=False)
    lock(bench)
    assert not of(Refuse, bench.tick(4.9))
    assert bench.ledger.next_tick_s(bench.now) == pytest.approx(0.05)
    (refuse,) = of(Refuse, bench.tick(0.2))
    assert (texts(refuse), refuse.reason) == (["call"], Reason.UNAVAILABLE)
    assert not of(Give, bench.ledger.recovered())


def test_what_waits_for_a_lock_is_refused_where_the_database_goes_away(bench: Bench) -> None:
    bench.submit("call", spoolable=False)
    lock(bench)
    bench.ledger.recovered()
    assert [texts(refuse) for refuse in of(Refuse, bench.away(1))] == [["call"]]


def test_people_are_told_of_a_lock_that_lasts_for_a_second(bench: Bench) -> None:
    bench.submit("a")
    lock(bench)
    bench.ledger.appended(1)
    assert bench.ledger.state(bench.now) == "spooling"
    assert bench.ledger.told_state(bench.now + 1.0) == "ok"
    assert bench.ledger.told_state(bench.now + 1.1) == "spooling"
    bench.ledger.recovered()
    assert bench.ledger.told_state(bench.now + 1.0) == "ok"
    assert bench.ledger.told_state(bench.now + 1.1) == "draining"


def test_people_are_told_of_any_other_outage_at_once(bench: Bench) -> None:
    lock(bench)
    bench.ledger.recovered()
    bench.away(1)
    assert bench.ledger.told_state(bench.now) == "spooling"


def test_each_lock_counts_for_itself_but_not_one_that_lets_nothing_through(bench: Bench) -> None:
    bench.submit("a")
    lock(bench)
    bench.ledger.appended(1)
    bench.ledger.recovered()
    bench.now += 0.9
    lock(bench, 1)  # before anything was drained: the same one
    assert bench.ledger.told_state(bench.now + 0.2) == "spooling"
    bench.ledger.recovered()
    bench.ledger.drained(1)
    lock(bench, 2)
    assert bench.ledger.told_state(bench.now + 0.2) == "ok"


# -- away --------------------------------------------------------------------------------------------------------------


def test_what_the_writer_had_goes_to_the_spool_in_its_order_and_is_acknowledged_after_the_append(bench: Bench) -> None:
    bench.submit("a", "b")
    bench.submit("c")
    (append,) = bench.away()
    assert isinstance(append, Append) and (append.first_seq, texts(append)) == (1, ["a", "b", "c"])
    assert bench.ledger.state(bench.now) == "spooling"
    drain, acknowledge = bench.ledger.appended(3)
    assert drain == Drain(3) and isinstance(acknowledge, Acknowledge) and texts(acknowledge) == ["a", "b", "c"]
    assert [answer[1] for answer in acknowledge.entries] == ["A", "B", "C"]


def test_rows_go_on_being_numbered_after_those_of_earlier_runs() -> None:
    bench = Bench(last_seq=41)
    bench.away()
    (append,) = bench.submit("a")
    assert append.first_seq == 42


def test_a_failure_that_was_heard_of_before_changes_nothing(bench: Bench) -> None:
    bench.away()
    bench.ledger.recovered()
    (give,) = bench.submit("a")
    assert give.generation == 1
    assert bench.ledger.failed(0, bench.now) == []
    assert of(Acknowledge, bench.committed(give))


def test_what_is_given_after_a_failure_is_of_the_next_generation(bench: Bench) -> None:
    for generation in range(3):
        (give,) = bench.submit("a")
        assert give.generation == generation
        bench.away(generation)
        bench.ledger.appended(generation + 1)
        bench.ledger.recovered()
        bench.ledger.drained(generation + 1)


def test_what_cannot_be_spooled_is_refused(bench: Bench) -> None:
    bench.submit("call", spoolable=False)
    (refuse,) = bench.away()
    assert refuse.reason is Reason.TIMEOUT  # the writer had it: a commit without an answer may have stored it
    (refuse,) = bench.submit("call", spoolable=False)
    assert refuse.reason is Reason.UNAVAILABLE


def test_a_doubt_ends_with_its_answer() -> None:
    bench = Bench(has_spool=False)
    bench.submit("a")
    assert [refuse.reason for refuse in bench.away()] == [Reason.TIMEOUT]
    assert not bench.ledger._in_doubt
    spooled = Bench()
    spooled.submit("a")
    spooled.away()
    assert spooled.ledger._in_doubt
    spooled.ledger.appended(1)
    assert not spooled.ledger._in_doubt
    answered = Bench()
    answered.submit("a")
    answered.ledger.failed(0, answered.now)
    answered.ledger.checked([])  # the shell could answer it
    assert not answered.ledger._in_doubt


def test_what_a_locked_or_full_database_was_given_is_surely_not_stored() -> None:
    bench = Bench(has_spool=False)
    bench.submit("a")
    (refuse,) = bench.ledger.failed(0, bench.now, may_be_stored=False)
    assert isinstance(refuse, Refuse) and refuse.reason is Reason.UNAVAILABLE


def test_without_a_spool_everything_is_refused() -> None:
    bench = Bench(has_spool=False)
    bench.away()
    (refuse,) = bench.submit("a")
    assert (texts(refuse), refuse.reason) == (["a"], Reason.UNAVAILABLE)
    assert bench.ledger.state(bench.now) == "refusing"


def test_who_is_answered_by_the_check_is_not_spooled(bench: Bench) -> None:
    bench.away()
    for text in "ab":
        bench.ledger.submitted(Entry(text), bench.now)
    (check,) = bench.ledger.turn_ended(bench.now)
    assert isinstance(check, Check)
    (append,) = of(Append, bench.ledger.checked([(check.entries[1], "B", None)]))
    assert texts(append) == ["b"] and bench.ledger.waiting == 1


def test_a_failed_append_refuses_takes_back_and_leaves_the_spool_alone_for_a_second(bench: Bench) -> None:
    bench.away()
    bench.submit("a")
    refuse, revert, *_ = bench.ledger.append_failed(1, "full", bench.now)
    assert isinstance(refuse, Refuse) and (refuse.reason, refuse.fault) == (Reason.UNAVAILABLE, "full")
    assert isinstance(revert, Revert) and texts(revert) == ["a"]
    assert bench.ledger.state(bench.now) == "refusing"
    bench.now += 0.9
    assert of(Refuse, bench.submit("b"))
    bench.now += 0.2
    (append,) = of(Append, bench.submit("c"))
    assert append.first_seq == 2
    bench.ledger.appended(2)
    assert bench.ledger.state(bench.now) == "spooling"


def test_rows_of_an_append_whose_commit_was_not_answered_are_drained_in_their_order(bench: Bench) -> None:
    bench.away()
    bench.submit("a")
    decisions = bench.ledger.append_failed(1, "I/O error", bench.now, may_be_stored=True)
    assert decisions[0] == Drain(1)
    assert [refuse.reason for refuse in of(Refuse, decisions)] == [Reason.TIMEOUT]
    assert bench.ledger.spool_backlog == 1
    bench.ledger.recovered()
    (give,) = bench.submit("b")
    assert give.after_seq == 1


# -- back --------------------------------------------------------------------------------------------------------------


def back(bench: Bench, rows: int) -> None:
    """Let the database come back with so many rows in the spool."""
    bench.away()
    bench.submit(*[str(number) for number in range(rows)])
    bench.ledger.appended(rows)


def test_much_in_the_spool_is_drained_before_the_direct_way_is_taken(bench: Bench) -> None:
    back(bench, 5)  # two batches of two are little
    assert bench.ledger.recovered() == []
    assert bench.ledger.state(bench.now) == "draining"
    assert of(Append, bench.submit("new"))
    bench.ledger.appended(6)
    assert not of(EndOutage, bench.ledger.drained(1))
    assert of(EndOutage, bench.ledger.drained(2))
    (give,) = bench.submit("newer")
    assert give.after_seq == 6
    bench.ledger.drained(6)
    assert bench.ledger.state(bench.now) == "late" or bench.ledger.state(bench.now) == "ok"


def test_nothing_is_given_while_an_older_append_is_under_way(bench: Bench) -> None:
    bench.away()
    bench.submit("old")
    assert bench.ledger.recovered() == [EndOutage()]
    assert bench.submit("new") == []
    drain, acknowledge, give = bench.ledger.appended(1)
    assert (drain, texts(acknowledge)) == (Drain(1), ["old"])
    assert isinstance(give, Give) and (texts(give), give.after_seq) == (["new"], 1)


def test_what_was_shown_is_confirmed_when_it_is_drained(bench: Bench) -> None:
    back(bench, 2)
    bench.ledger.recovered()
    assert not of(Confirm, bench.ledger.drained(1))
    assert of(Confirm, bench.ledger.drained(2)) == [Confirm(2)]


def test_devices_are_paused_while_more_comes_than_drains(bench: Bench) -> None:
    back(bench, 20)
    bench.ledger.recovered()
    seq = 20
    while not bench.ledger.is_behind:
        seq += 1
        bench.submit("more")
        bench.ledger.appended(seq)
    assert seq == 23  # as much as two batches, halved, before anything was drained
    assert of(Resume, bench.ledger.drained(10))


def test_an_earlier_runs_rows_come_first_and_new_ones_wait_only_for_much() -> None:
    few, many = Bench(last_seq=30, rows_left=20, wait_above_rows=20), Bench(last_seq=30, rows_left=21, wait_above_rows=20)
    assert few.ledger.start() == many.ledger.start() == [Drain(30)]
    assert of(Give, few.submit("a")) and of(Append, many.submit("a"))
    assert few.ledger.rows_left == 20
    few.ledger.drained(30)
    assert few.ledger.rows_left == 0


def test_devices_are_paused_while_much_of_an_earlier_run_drains_too_slowly() -> None:
    bench = Bench(last_seq=100, rows_left=100, wait_above_rows=20)
    bench.ledger.start()
    for seq in (101, 102, 103):
        assert not bench.ledger.is_behind
        bench.submit("new")
        bench.ledger.appended(seq)
    assert bench.ledger.is_behind
    assert of(Resume, bench.ledger.drained(10))


def test_a_spool_that_was_drained_has_room_again(bench: Bench) -> None:
    bench.away()
    bench.submit("a")
    bench.ledger.append_failed(1, "full", bench.now)
    bench.ledger.recovered()
    bench.ledger.drained(1)
    bench.away(1)
    assert bench.ledger.state(bench.now) == "spooling"


def test_rows_that_a_crash_left_though_they_were_stored_are_waited_for_by_nobody() -> None:
    bench = Bench(last_seq=30, rows_left=30, drained_upto=30, wait_above_rows=20)
    assert bench.ledger.start() == []
    assert bench.ledger.state(bench.now) == "ok" and of(Give, bench.submit("a"))


# -- a spool that is broken --------------------------------------------------------------------------------------------


def test_a_spool_that_cannot_be_read_is_set_aside_and_the_database_goes_on(bench: Bench) -> None:
    back(bench, 9)
    bench.ledger.recovered()
    bench.submit("waits in the append")
    decisions = bench.ledger.drain_failed("damaged", bench.now)
    assert decisions[0] == SetAside(9)
    (give,) = of(Give, decisions)
    assert (texts(give), give.after_seq) == (["waits in the append"], 10)
    assert bench.ledger.state(bench.now) == "ok" and bench.ledger.spool_backlog == 0
    assert bench.ledger.appended(10) == []  # into the file that is gone: no answer to anybody
    assert of(Acknowledge, bench.committed(give))


def test_a_spool_that_is_lost_while_the_database_is_away_is_begun_anew(bench: Bench) -> None:
    back(bench, 2)
    bench.submit("under way")
    decisions = bench.accept(bench.ledger.spool_lost(bench.now))
    assert decisions[0] == SetAside(2)
    (append,) = of(Append, decisions)
    assert (append.first_seq, texts(append)) == (4, ["under way"])
    assert bench.ledger.append_failed(3, "gone", bench.now) == []
    assert of(Acknowledge, bench.ledger.appended(4))


# -- acknowledged from the spool ---------------------------------------------------------------------------------------


def test_queued_means_acknowledged_after_the_append_and_drained_behind_the_answer() -> None:
    bench = Bench(acknowledge="queued")
    (append,) = bench.submit("a")
    assert isinstance(append, Append)
    drain, acknowledge = bench.ledger.appended(1)
    assert drain == Drain(1) and texts(acknowledge) == ["a"]
    assert bench.ledger.state(bench.now) == "ok"


def test_queued_what_cannot_be_spooled_comes_behind_what_is_older() -> None:
    bench = Bench(acknowledge="queued")
    bench.submit("a")
    assert bench.submit("call", spoolable=False) == []
    (give,) = of(Give, bench.ledger.appended(1))
    assert (texts(give), give.after_seq) == (["call"], 1)


def test_queued_each_is_given_once_where_a_turn_mixes_both_ways() -> None:
    bench = Bench(acknowledge="queued")
    bench.ledger.submitted(Entry("first call", spoolable=False), bench.now)
    bench.ledger.submitted(Entry("a"), bench.now)
    bench.ledger.submitted(Entry("second call", spoolable=False), bench.now)
    decisions = bench.accept(bench.ledger.turn_ended(bench.now))
    given = of(Give, decisions)
    given += of(Give, bench.ledger.appended(1))
    assert [texts(give) for give in given] == [["first call"], ["second call"]]


def test_queued_a_spool_in_trouble_sends_what_is_new_the_direct_way() -> None:
    bench = Bench(acknowledge="queued")
    bench.submit("a")
    assert of(Refuse, bench.ledger.append_failed(1, "full", bench.now))
    (give,) = bench.submit("b")
    assert isinstance(give, Give)
    bench.now += 1.1
    assert isinstance(bench.submit("c")[0], Give)  # taken back, "b" would come behind it
    bench.committed(give)


def test_without_a_spool_queued_is_stored() -> None:
    bench = Bench(acknowledge="queued", has_spool=False)
    assert isinstance(bench.submit("a")[0], Give)
