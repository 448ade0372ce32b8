"""What lies outside the ledger, in a few lines: disks that survive a crash, a writer, a spool, devices that keep count."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robodyne_rt.core import spooling
from robodyne_rt.core.spooling import Answered, Reason, SpoolingLedger

BATCH_MAX = 3
ANSWER_WITHIN_S = 10.0


@dataclass(eq=False)
class Entry:
    """One submission of a device; `name` is unique and grows over restarts."""

    name: int
    device: int
    spoolable: bool
    asked_at: float
    number: int = 0
    submitted_at: float = 0.0


class Model:
    """What must be true whatever happens: the reference that the ledger is held against."""

    def __init__(self) -> None:
        self.database: list[Entry] = []
        self.rows: dict[int, Entry] = {}
        self.mark = 0
        self.lost: set[int] = set()
        self.asked: list[Entry] = []
        self.answers: Counter[int] = Counter()
        self.acknowledged: list[Entry] = []
        self.unanswerable: set[int] = set()

    def answer(self, entry: Entry, now: float) -> None:
        self.answers[entry.name] += 1
        assert self.answers[entry.name] == 1, f"{entry.name} is answered twice"
        assert now - entry.asked_at <= ANSWER_WITHIN_S + 0.01, f"{entry.name} waited for {now - entry.asked_at} s"

    def acknowledge(self, entry: Entry, now: float) -> None:
        self.answer(entry, now)
        self.acknowledged.append(entry)
        assert self.is_durable(entry), f"{entry.name} is acknowledged and on no disk"

    def is_durable(self, entry: Entry) -> bool:
        return entry.name in self.lost or any(kept is entry for kept in (*self.database, *self.rows.values()))

    def check_end(self) -> None:
        stored = [entry.name for entry in self.database]
        assert len(stored) == len(set(stored)), "something was stored twice"
        acknowledged = {entry.name for entry in self.acknowledged} - self.lost
        assert acknowledged <= set(stored), f"{acknowledged - set(stored)} were acknowledged and are gone"
        for device in {entry.device for entry in self.database}:
            names = [entry.name for entry in self.database if entry.device == device and entry.spoolable]
            assert names == sorted(names), f"device {device}: stored in the order {names}"
        waiting = {entry.name for entry in self.asked} - set(self.answers) - self.unanswerable
        assert not waiting, f"{waiting} were never answered"


class World:
    """Carries out the ledger's decisions one at a time, as the shells do, and tells it what came of them.

    Args:
        is_certain: a commit always has an answer, and nothing has a name (SQLite, messages without ids): what is given and
            spooled is stored twice. Otherwise a commit may go unheard, and names keep it from being done twice.
    """

    def __init__(
        self, acknowledge: Any, *, is_certain: bool = False, ledger: type[SpoolingLedger[Entry]] = SpoolingLedger
    ) -> None:
        self.acknowledge = acknowledge
        self.is_certain = is_certain
        self.ledger_class = ledger
        self.model = Model()
        self.now = 1000.0
        self.names = 0
        self.last_seq = 0
        self.database_works = True
        self.is_locked = False  # why it does not
        self.spool_works = True
        self.spool_is_readable = True
        self.begin()

    def begin(self) -> None:
        """Start a process: all but the disks is new."""
        model = self.model
        self.ledger = self.ledger_class(
            acknowledge=self.acknowledge,
            batch_max=BATCH_MAX,
            last_seq=self.last_seq,
            rows_left=len(model.rows),
            drained_upto=model.mark,
            wait_above_rows=2 * BATCH_MAX,
            push_deadline_s=0.05,
            answer_within_s=ANSWER_WITHIN_S,
        )
        self.decisions: deque[Any] = deque()
        # What the threads said and the loop has not heard yet, in order.
        self.reports: deque[Callable[[], list[Any]]] = deque()
        self.batches: deque[spooling.Give[Entry]] = deque()
        self.appends: deque[spooling.Append[Entry]] = deque()
        self.appends_set_aside: set[int] = set()
        self.generation = 0
        self.writer_is_away = False
        self.target = model.mark
        self.is_paused = False
        self.shown: set[int] = set()
        self.obey(self.ledger.start())

    def crash(self) -> None:
        """End the process: whoever waits is told nothing by it."""
        self.model.unanswerable |= {entry.name for entry in self.model.asked}
        self.begin()

    def obey(self, decisions: list[Any]) -> None:
        self.decisions.extend(decisions)

    def obey_one(self) -> None:
        decision: spooling.Decision[Entry] = self.decisions.popleft()
        match decision:
            case spooling.Give():
                self.batches.append(decision)
            case spooling.Check(entries=entries):
                refused = [entry for entry in entries if entry.name % 7 == 0]  # what the shell answers by itself
                for entry in refused:
                    self.model.answer(entry, self.now)
                more = self.ledger.checked([(entry, entry.name, None) for entry in entries if entry not in refused])
                self.decisions.extendleft(reversed(more))
                self.shown |= {entry.number for entry in entries}
            case spooling.Append():
                self.appends.append(decision)
            case spooling.Drain(upto=upto):
                self.target = max(self.target, upto)
            case spooling.Acknowledge(entries=answered):
                for entry, _, _ in answered:
                    self.model.acknowledge(entry, self.now)
            case spooling.Refuse(entries=entries, reason=reason):
                for entry in entries:
                    self.model.answer(entry, self.now)
                    assert reason is Reason.TIMEOUT or not self.model.is_durable(entry), f"{entry.name} is stored, not refused"
            case spooling.Show(entries=entries):
                assert not self.shown & {entry.number for entry in entries}, "shown twice"
                self.shown |= {entry.number for entry in entries}
            case spooling.Confirm(upto=upto):
                self.shown = {number for number in self.shown if number > upto}
            case spooling.Revert(entries=entries):
                self.shown -= {entry.number for entry in entries}
            case spooling.Resume():
                assert not self.ledger.is_behind
                self.is_paused = False
            case spooling.SetAside(_):
                self.set_aside()
            case spooling.Interrupt():
                self.fail()
            case spooling.EndOutage():
                assert not self.ledger.is_away

    def obey_all(self) -> None:
        while self.decisions:
            self.obey_one()

    def hear(self) -> None:
        """Let the loop take the oldest report of the writer's thread."""
        if self.reports:
            self.obey(self.reports.popleft()())

    # -- what happens ----------------------------------------------------------------------------------------------

    def submit(self, device: int, spoolable: bool) -> None:
        self.names += 1
        entry = Entry(self.names, device, spoolable, self.now)
        self.model.asked.append(entry)
        self.ledger.submitted(entry, self.now)
        self.is_paused = self.ledger.is_behind  # as a shell asks after each message

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with the ticks that the shell's timer brings."""
        until = self.now + seconds
        while self.now < until:
            step = self.ledger.next_tick_s(self.now)
            self.now = min(until, self.now + (0.5 if step is None else min(0.5, step)))
            self.obey(self.ledger.tick(self.now))
            self.obey_all()

    def store(self, entries: list[Entry]) -> None:
        known = set() if self.is_certain else {entry.name for entry in self.model.database}
        self.model.database += [entry for entry in entries if entry.name not in known]

    def fail(self) -> None:
        """The writer meets a fault: it lets go of everything and begins a new generation."""
        if not self.writer_is_away:
            self.writer_is_away = True
            self.generation += 1
            over = self.generation - 1
            is_locked = self.is_locked and not self.database_works
            self.reports.append(lambda: self.ledger.failed(over, self.now, is_locked=is_locked))

    def write(self, *, is_heard: bool = True) -> None:
        """The writer's cycle: come back, else drain up to the next batch, else write it."""
        model = self.model
        if not self.database_works:
            return self.fail()
        if self.writer_is_away:
            self.writer_is_away = False
            mark = model.mark
            self.reports.append(lambda: [*self.ledger.drained(mark), *self.ledger.recovered()])
            return None
        while self.batches and self.batches[0].generation != self.generation:
            self.batches.popleft()
        upto = min(self.target, self.batches[0].after_seq) if self.batches else self.target
        if model.mark < upto:
            return self.drain(upto, is_heard)
        if self.batches:
            batch = self.batches.popleft()
            self.store(list(batch.entries))
            if is_heard:
                done = [(entry, entry.name, None) for entry in batch.entries]
                self.reports.append(lambda: self.ledger.committed(batch.generation, done))
            else:
                self.fail()
        return None

    def drain(self, upto: int, is_heard: bool) -> None:
        model = self.model
        if not self.spool_is_readable:
            self.reports.append(lambda: self.ledger.drain_failed("damaged", self.now))
            return
        seqs = sorted(seq for seq in model.rows if model.mark < seq <= upto)[:BATCH_MAX]
        self.store([model.rows[seq] for seq in seqs])
        model.mark = seqs[-1] if len(seqs) == BATCH_MAX else upto
        for seq in [seq for seq in model.rows if seq <= model.mark]:
            assert model.rows[seq] in model.database, f"row {seq} was never applied"
            del model.rows[seq]
        mark = model.mark
        if is_heard:
            self.reports.append(lambda: self.ledger.drained(mark))
        else:
            self.fail()

    def append(self, *, may_be_stored: bool = False) -> None:
        """The spool's thread: one append, all or none."""
        if not self.appends:
            return
        append = self.appends.popleft()
        last_seq = append.first_seq + len(append.entries) - 1
        is_aside = append.first_seq in self.appends_set_aside
        if (self.spool_works or may_be_stored) and not is_aside:
            self.put(append.first_seq, append.entries)
            self.last_seq = last_seq
        if self.spool_works:
            self.obey(self.ledger.appended(last_seq))
        else:
            self.obey(self.ledger.append_failed(last_seq, "fault", self.now, may_be_stored=may_be_stored))

    def put(self, first_seq: int, entries: Any) -> None:
        rows: list[Answered[Entry]] = list(entries)
        for seq, (entry, _, _) in enumerate(rows, first_seq):
            assert seq not in self.model.rows and seq > self.model.mark, f"row number {seq} is used again"
            self.model.rows[seq] = entry

    def set_aside(self) -> None:
        """The file goes, with its rows and with what is being appended to it; a new one takes over its numbers."""
        self.model.lost |= {entry.name for entry in self.model.rows.values()}
        self.appends_set_aside |= {append.first_seq for append in self.appends}
        self.model.rows.clear()
        self.spool_is_readable = True

    def settle(self) -> None:
        """Let everything work again and come to its end, in this process and in one after it."""
        self.database_works = self.spool_works = True
        self.run_to_the_end()
        self.submit(device=0, spoolable=True)
        last = self.model.asked[-1]
        self.run_to_the_end()
        assert last in self.model.acknowledged or last.name % 7 == 0, "all works again, and nothing is stored"
        assert self.now - last.asked_at < spooling.LATE_S, "all works again, and devices wait"
        self.model.check_end()
        assert not self.shown, f"{self.shown} stay on screens"
        self.crash()
        self.run_to_the_end()
        assert not self.model.rows, "rows stay in the spool"
        self.model.check_end()

    def run_to_the_end(self) -> None:
        ledger = self.ledger
        for _ in range(400):
            self.obey(ledger.turn_ended(self.now))
            self.obey_all()
            self.append()
            self.obey_all()
            self.write()
            while self.reports:
                self.hear()
                self.obey_all()
            if not (self.appends or self.batches or ledger.spool_backlog or ledger.waiting or self.writer_is_away):
                break
            self.pass_time(0.05)
        assert not ledger.waiting and not ledger.spool_backlog, "it never comes to an end"
        assert ledger.state(self.now) == "ok" and not ledger.is_spooling
        assert not self.is_paused, "devices stay paused"
