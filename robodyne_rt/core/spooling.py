"""Where every submission stands on its way to a disk, and what to do with it next (SPEC section 6).

The ledger is the pure part of the intake: no thread, no database, no clock. The shell (`store/intake/intake.py`) tells it
what happened, one method an input, and carries out the decisions that it returns, in their order.

    submitted ──▶ direct ──Give──▶ writer ──committed──▶ Acknowledge
                    │                 └──── failed ──┐
                    ▼ (database away)                ▼
                  Check ──▶ Append ──appended──▶ Acknowledge ──Drain──▶ writer ──drained──▶ stored
                                └─append_failed─▶ Refuse

States: `ok` (direct), `late` (direct, the oldest waits for over a second), `spooling` (the database is away, the spool takes
everything), `draining` (it is back, the spool's rows are stored first), `refusing` (neither takes anything).

Invariants, which `tests/unit/core/test_spooling_machine.py` holds against a model, with a crash between any two decisions:

1. Nothing is acknowledged before it is durable: committed in the database, or appended to the spool.
2. Every submission is answered once, and within `answer_within_s`; after that time its device is told `TIMEOUT` (it may
   be stored) or `UNAVAILABLE` (it surely is not).
3. Order is kept per device: what is taken back from the writer goes to the spool in the order of submission. (What cannot be
   spooled, telemetry and calls, comes behind everything older; where the spool takes everything first, that is its only order.)
4. A row of the spool is applied once: rows are numbered by `seq`, numbers are never used again, also over a restart, and the
   writer keeps the number that it has come to in the same transaction as the rows.
5. What is new queues behind what is old while the spool drains: a batch is given with the number of the row after
   which it is written, and only when every older append has come to its end.
6. A healthy database is never kept waiting by a broken spool: a spool that cannot be read or is gone is set aside, and what
   waited for it takes the direct way.

A lock of another program is an outage like any other but for three things: what cannot be spooled waits for its end
(`PATIENCE_S`) instead of being refused, without a spool everything does, and people are told only where it lasts (`LATE_S`).

`queued` cannot be configured yet.
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

LATE_S = 1.0
"""A commit that takes longer than this is reported as late."""

PATIENCE_S = 5.0
"""A database that has not answered for this long is taken to be away; so long a lock is waited for by what is not spooled."""

SPOOL_RETRY_S = 1.0
"""After a failed append the spool is left alone for this long."""

MIN_TICK_S = 0.005

MAX_SHOWN_PER_TICK = 100
"""Submissions shown optimistically in one turn of the loop: about 10 ms."""


class Submission(Protocol):
    """What the ledger needs to know of a write.

    Attributes:
        number: counts submissions in their order; set by the ledger.
        submitted_at: monotonic time in seconds; set by the ledger.
        spoolable: whether it may outlive this process in the spool.
    """

    number: int
    submitted_at: float

    @property
    def spoolable(self) -> bool: ...


S = TypeVar("S", bound=Submission)

Answered = tuple[S, Any, BaseException | None]
"""A submission with what its device is told: the result, or why there is none."""


class Reason(Enum):
    """Why a submission is refused."""

    UNAVAILABLE = "surely not stored"
    TIMEOUT = "may be stored"


class Give(NamedTuple, Generic[S]):
    """Give a batch to the writer, which writes it between the spool's rows up to `after_seq` and those behind them; it drops a
    batch whose `generation` has failed."""

    generation: int
    after_seq: int
    entries: Sequence[S]


class Check(NamedTuple, Generic[S]):
    """Look at what is to be spooled: answer repetitions and what must be refused, show the rest optimistically; then say which
    are `checked`."""

    entries: Sequence[S]


class Append(NamedTuple, Generic[S]):
    """Append rows to the spool, all or none, numbered from `first_seq`; then say `appended` or `append_failed`."""

    first_seq: int
    entries: Sequence[Answered[S]]


class Drain(NamedTuple):
    """Let the writer store the spool's rows up to a number."""

    upto: int


class Acknowledge(NamedTuple, Generic[S]):
    """Tell devices: it is durable, or the database refused it for good."""

    entries: Sequence[Answered[S]]


class Refuse(NamedTuple, Generic[S]):
    """Tell devices that they keep it; `fault` is what `append_failed` was told, if that is why."""

    entries: Sequence[S]
    reason: Reason
    fault: Any = None


class Show(NamedTuple, Generic[S]):
    """Show optimistically what the database has not confirmed in time."""

    entries: Sequence[S]


class Confirm(NamedTuple):
    """Every submission up to this number has come to its end: what was shown of it is stored, or never will be."""

    upto: int


class Revert(NamedTuple, Generic[S]):
    """Take back what was shown of these: they are stored nowhere."""

    entries: Sequence[S]


class Resume(NamedTuple):
    """Read from devices again."""


class Interrupt(NamedTuple):
    """Make the writer's call fail: the database hangs."""


class SetAside(NamedTuple):
    """Put the spool's file aside, report its rows, `rows` at most, as lost, begin a new one."""

    rows: int


class EndOutage(NamedTuple):
    """Nothing goes to the spool any more: what only an outage needs can go."""


Decision = (
    Give[S] | Check[S] | Append[S] | Drain | Acknowledge[S] | Refuse[S] | Show[S] | Confirm | Revert[S] | Resume | Interrupt
    | SetAside | EndOutage
)  # fmt: skip

State = Literal["ok", "late", "spooling", "draining", "refusing"]


class _Appending(Generic[S]):
    """An append under way, or rows of the spool that are not drained yet (then nobody waits for `entries`); `given_up` counts
    entries whose devices were told that it took too long, and that the spool's thread has still."""

    __slots__ = ("entries", "first_number", "given_up", "last_seq")

    def __init__(self, entries: list[Answered[S]], last_seq: int) -> None:
        self.entries = entries
        self.first_number = entries[0][0].number
        self.last_seq = last_seq
        self.given_up = 0


class SpoolingLedger(Generic[S]):
    """The state of all submissions that are not at their end. `now` is monotonic seconds everywhere.

    Args:
        acknowledge: `stored`: after the commit in the database; `queued`: after the append to the spool, which then takes
            every spoolable submission first.
        has_spool: False where there is none; then nothing is accepted while the database is away.
        batch_max: submissions per transaction; devices are paused above four batches, and the spool is left when two
            batches or less remain in it.
        last_seq: newest row number that the spool ever gave; `rows_left`: rows that an earlier run left in it.
        drained_upto: the row number that the database says it has come to.
        wait_above_rows: rows of an earlier run above which devices wait for the drain: only the database knows all ids.
        push_deadline_s: age at which a submission is shown optimistically; 0: never.
        answer_within_s: age at which a submission is answered at the latest.
    """

    def __init__(
        self,
        *,
        acknowledge: Literal["stored", "queued"] = "stored",
        has_spool: bool = True,
        batch_max: int,
        last_seq: int = 0,
        rows_left: int = 0,
        drained_upto: int = 0,
        wait_above_rows: int = 0,
        push_deadline_s: float = 0.0,
        answer_within_s: float = 10.0,
    ) -> None:
        self._is_queued_mode = acknowledge == "queued" and has_spool
        self._has_spool = has_spool
        self._max_waiting = 4 * batch_max
        self._leave_below_rows = 2 * batch_max
        self._push_deadline_s = push_deadline_s
        self._answer_within_s = answer_within_s
        self._number = 0
        self._generation = 0
        self._is_away = False
        self._turn_is_open = False
        self._told_behind = False
        # Whether the database is only locked; and since when, or was, in the newest outage of that kind.
        self._waits_for_lock = False
        self._locked_at = float("-inf")
        # On the direct way, by number: gathered for the writer, or given to it and not answered.
        self._direct: dict[int, S] = {}
        self._gathered: list[S] = []
        self._newest_direct = 0  # of what could be spooled
        # Numbers of what the writer had when it failed: a commit that was never answered may have stored it.
        self._in_doubt: set[int] = set()
        # Numbers of what took too long, and the writer has still: devices must not fill its queue without end.
        self._given_up: set[int] = set()
        # On the way into the spool.
        self._to_check: list[S] = []
        self._in_check: list[S] = []
        self._appending: deque[_Appending[S]] = deque()
        self._undrained: deque[_Appending[S]] = deque()
        self._waiting_for_spool = 0
        self._spool_fault: Any = None
        self._spool_again_at = float("-inf")
        # Row numbers: given, durable, stored in the database; and where both stood when the database came back.
        self._next_seq = last_seq + 1
        self._appended_upto = self._left_upto = last_seq
        self._drained_upto = max(last_seq - rows_left, min(drained_upto, last_seq))
        self._seq_at_return, self._drained_at_return = self._next_seq, self._drained_upto
        self._is_spooling = rows_left > wait_above_rows and self.spool_backlog > self._leave_below_rows
        # Numbers: up to which effects were predicted, and perhaps shown; and told to be confirmed.
        self._predicted_upto = self._confirmed_upto = 0

    # -- what can be asked -----------------------------------------------------------------------------------------

    @property
    def is_spooling(self) -> bool:
        """Whether submissions go to the spool because of an outage."""
        return self._is_spooling

    @property
    def is_away(self) -> bool:
        """Whether the database cannot be written."""
        return self._is_away

    @property
    def spool_fault(self) -> Any:
        """What the last append failed with; None while appends succeed."""
        return self._spool_fault

    @property
    def waiting(self) -> int:
        """Submissions that are not durable yet, also those that took too long for their devices."""
        waiting = len(self._direct) + len(self._to_check) + len(self._in_check) + self._waiting_for_spool
        if self._appending:
            waiting += sum(append.given_up for append in self._appending)
        return waiting + len(self._given_up)

    @property
    def spool_backlog(self) -> int:
        """Rows of the spool that are not stored in the database, at most."""
        return max(0, self._appended_upto - self._drained_upto)

    @property
    def spooled_upto(self) -> int:
        """Number of the spool's newest row that is durable."""
        return self._appended_upto

    @property
    def rows_left(self) -> int:
        """Rows of an earlier run that are not stored in the database, at most."""
        return max(0, self._left_upto - self._drained_upto)

    @property
    def is_behind(self) -> bool:
        """Whether devices are to be paused: four full batches wait, or the spool would not run dry.

        Once this was said, `Resume` says when it is over.
        """
        is_behind = self.waiting >= self._max_waiting or (self._is_spooling and self._would_drain_for_ever())
        self._told_behind |= is_behind
        return is_behind

    def _would_drain_for_ever(self) -> bool:
        """Return whether more comes into the spool while it drains than goes out."""
        if self._is_away:
            return False
        since_return = self._next_seq - self._seq_at_return
        return 2 * since_return > self._drained_upto - self._drained_at_return + self._leave_below_rows

    @property
    def next_direct(self) -> S | None:
        """The oldest submission on the direct way."""
        return next(iter(self._direct.values()), None)

    def state(self, now: float) -> State:
        """Return the state of storage."""
        if self._is_away:
            return "refusing" if not self._has_spool or self._spool_fault is not None else "spooling"
        if self.spool_backlog and not self._is_queued_mode:
            return "draining"
        oldest = self.next_direct
        return "late" if oldest is not None and now - oldest.submitted_at > LATE_S else "ok"

    def told_state(self, now: float) -> State:
        """Return the state of storage as people are told it: a lock of a moment, and what follows it, is no news."""
        return "ok" if now - self._locked_at <= LATE_S else self.state(now)

    def next_tick_s(self, now: float) -> float | None:
        """Return after how many seconds `tick` is due, None where nothing waits."""
        oldest = self.next_direct
        waiting = [oldest] if oldest is not None else []
        waiting += [append.entries[0][0] for append in self._appending if append.entries]
        if not waiting:
            return None
        due = min(min(entry.submitted_at for entry in waiting) + self._answer_within_s, now + PATIENCE_S)
        if oldest is not None and self._is_away:
            due = min(due, oldest.submitted_at + PATIENCE_S)
        if oldest is not None and self._push_deadline_s:
            unshown = next((entry for entry in self._direct.values() if entry.number > self._predicted_upto), None)
            due = min(due, (now if unshown is None else unshown.submitted_at) + self._push_deadline_s)
        return max(MIN_TICK_S, due - now)

    # -- inputs: submissions ---------------------------------------------------------------------------------------

    def start(self) -> list[Decision[S]]:
        """Begin: what an earlier run left in the spool is drained first."""
        return [Drain(self._left_upto)] if self.rows_left else []

    def submitted(self, entry: S, now: float) -> bool:
        """Take a submission; return whether it opens a turn, at whose end the shell calls `turn_ended`."""
        self._number = number = self._number + 1
        entry.number = number
        entry.submitted_at = now
        if self._goes_to_spool(entry, now):
            self._to_check.append(entry)
        else:
            self._hold(entry)
        if self._turn_is_open:
            return False
        self._turn_is_open = True
        return True

    def turn_ended(self, now: float) -> list[Decision[S]]:
        """Send on what was submitted in this turn of the loop."""
        self._turn_is_open = False
        decisions = self._to_spool(now) if self._to_check else []
        decisions += self._give()
        return self._finish(decisions)

    # -- inputs: the writer ----------------------------------------------------------------------------------------

    def committed(self, generation: int, done: Sequence[Answered[S]]) -> list[Decision[S]]:
        """The writer committed these, or the database refused some of them for good; in order."""
        if generation != self._generation:
            return []  # its entries were taken back before
        pop = self._direct.pop
        answered = [answer for answer in done if pop(answer[0].number, None) is not None]
        if self._given_up:
            self._given_up.difference_update(write.number for write, _, _ in done)
        decisions: list[Decision[S]] = [Acknowledge(answered)] if answered else []
        return self._finish(decisions)

    def failed(self, generation: int, now: float, *, may_be_stored: bool = True, is_locked: bool = False) -> list[Decision[S]]:
        """The database is away, locked or full. Nothing of this generation and before that was not reported as committed will
        be written; what it had goes to the spool, in order.

        Args:
            may_be_stored: whether a commit was under way whose answer is missing; not where the database was locked or full.
            is_locked: whether another program's lock is all that is in the way: what cannot go to the spool waits for its end.
        """
        if generation < self._generation:
            return []  # its entries were taken back before
        if not is_locked:
            self._locked_at = float("-inf")
        elif not self._is_spooling and not self.spool_backlog:
            self._locked_at = now
        self._generation = generation + 1
        self._given_up.clear()
        self._is_away = self._is_spooling = True
        self._waits_for_lock = is_locked
        if may_be_stored:
            self._in_doubt |= self._direct.keys() - {entry.number for entry in self._gathered}
        taken = self._in_order([*self._direct.values(), *self._to_check])
        self._direct = {}
        self._to_check, self._gathered = [], []
        for entry in taken:
            if self._goes_to_spool(entry, now):
                self._to_check.append(entry)
            else:
                self._hold(entry)
        return self._finish(self._to_spool(now))

    def recovered(self) -> list[Decision[S]]:
        """The database can be written again."""
        self._is_away = False
        self._seq_at_return, self._drained_at_return = self._next_seq, self._drained_upto
        return self._finish([*self._leave_spool(), *self._give()])

    def drained(self, upto: int) -> list[Decision[S]]:
        """The spool's rows up to a number are stored in the database."""
        self._drained_upto = max(self._drained_upto, upto)
        self._spool_fault = None  # its rows go: there is room again
        while self._undrained and self._undrained[0].last_seq <= upto:
            self._undrained.popleft()
        return self._finish([*self._leave_spool(), *self._give()])

    def drain_failed(self, fault: Any, now: float) -> list[Decision[S]]:
        """The writer cannot read the spool, and trying again will not help: it is set aside, the database goes on."""
        return self.spool_lost(now)

    # -- inputs: the spool -----------------------------------------------------------------------------------------

    def checked(self, accepted: Sequence[Answered[S]]) -> list[Decision[S]]:
        """These of a `Check` are to be spooled; the shell has answered the others."""
        if self._in_doubt:
            answered = {entry.number for entry in self._in_check} - {entry.number for entry, _, _ in accepted}
            self._in_doubt -= answered
        self._in_check = []
        if not accepted:
            return self._finish(self._give())
        first_seq, self._next_seq = self._next_seq, self._next_seq + len(accepted)
        self._appending.append(_Appending(list(accepted), self._next_seq - 1))
        self._waiting_for_spool += len(accepted)
        return self._finish([*self._give(), Append(first_seq, accepted)])

    def appended(self, upto: int) -> list[Decision[S]]:
        """The append that ends with this row is durable."""
        append = self._take_append(upto)
        if append is None:
            return []  # into a spool that was set aside meanwhile
        self._spool_fault = None
        self._appended_upto = append.last_seq
        answered, append.entries = append.entries, []
        self._in_doubt.difference_update(entry.number for entry, _, _ in answered)
        self._undrained.append(append)
        decisions: list[Decision[S]] = [Drain(append.last_seq)]
        if answered:
            decisions.append(Acknowledge(answered))
        return self._finish([*decisions, *self._leave_spool(), *self._give()])

    def append_failed(self, upto: int, fault: Any, now: float, *, may_be_stored: bool = False) -> list[Decision[S]]:
        """The append that ends with this row failed; `may_be_stored` where it was its commit, which may have taken place."""
        append = self._take_append(upto)
        if append is None:
            return []
        self._spool_fault = fault
        self._spool_again_at = now + SPOOL_RETRY_S
        refused = [entry for entry, _, _ in append.entries]
        decisions: list[Decision[S]] = []
        if may_be_stored:
            self._in_doubt |= {entry.number for entry in refused}
            # Rows that are there after all are stored in their order, and not after what is newer.
            self._appended_upto = append.last_seq
            decisions.append(Drain(append.last_seq))
        decisions += self._refuse(refused, fault)
        return self._finish([*decisions, *self._leave_spool(), *self._give()])

    def spool_lost(self, now: float) -> list[Decision[S]]:
        """The spool's file is gone or damaged: rows that were not drained are lost, what is new does not wait for them."""
        rows = self.spool_backlog
        self._appended_upto = self._next_seq - 1
        self._drained_upto = max(self._drained_upto, self._appended_upto)
        self._left_upto = min(self._left_upto, self._drained_upto)
        self._undrained.clear()
        self._spool_fault = None
        # Appends under way end in the file that is set aside: whatever becomes of them, they are not durable.
        again = [entry for append in self._appending for entry, _, _ in append.entries]
        self._appending.clear()
        self._waiting_for_spool = 0
        decisions: list[Decision[S]] = [SetAside(rows)]
        if self._is_away:
            self._to_check = self._in_order([*again, *self._to_check])
            return self._finish([*decisions, *self._to_spool(now)])
        waiting = self._in_order([*again, *self._to_check, *self._direct.values()])
        self._newest_direct = max([self._newest_direct, *(entry.number for entry in waiting if entry.spoolable)])
        gathered = {entry.number for entry in (*again, *self._to_check, *self._gathered)}
        self._to_check = []
        self._direct = {entry.number: entry for entry in waiting}
        self._gathered = [entry for entry in waiting if entry.number in gathered]
        return self._finish([*decisions, *self._leave_spool(), *self._give()])

    # -- inputs: the clock -----------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Decision[S]]:
        """Show what storage holds up, give up on a database that hangs, answer what waited for too long."""
        decisions = self._time_out(now)
        oldest = self.next_direct
        if oldest is not None:
            if self._is_away:
                decisions += self._give_up_lock(now)
            if self._push_deadline_s:
                decisions += self._show_late(now)
            was_given = not self._gathered or oldest.number < self._gathered[0].number
            if now - oldest.submitted_at > PATIENCE_S and was_given and not self._is_away and not self.spool_backlog:
                decisions.append(Interrupt())
        return self._finish(decisions)

    def _show_late(self, now: float) -> list[Decision[S]]:
        late: list[S] = []
        for entry in self._direct.values():
            if now - entry.submitted_at < self._push_deadline_s or len(late) == MAX_SHOWN_PER_TICK:
                break
            if entry.number > self._predicted_upto:
                late.append(entry)
        if not late:
            return []
        self._predicted_upto = late[-1].number
        return [Show(late)]

    def _give_up_lock(self, now: float) -> list[Decision[S]]:
        """Refuse what has waited for the lock of another program for long enough."""
        late = [entry for entry in self._direct.values() if now - entry.submitted_at > PATIENCE_S]
        for entry in late:
            del self._direct[entry.number]
        self._gathered = [entry for entry in self._gathered if entry.number in self._direct]
        return self._refuse(late)

    def _time_out(self, now: float) -> list[Decision[S]]:
        """Answer what is over its time: the writer and the spool may still store what they have."""
        oldest_at = now - self._answer_within_s
        late = [entry for entry in self._direct.values() if entry.submitted_at <= oldest_at]
        gathered = {entry.number for entry in self._gathered} if late else set()
        held = [entry for entry in late if entry.number in gathered]
        given = [entry for entry in late if entry.number not in gathered]
        for entry in late:
            del self._direct[entry.number]
        self._given_up.update(entry.number for entry in given)
        if held:
            self._gathered = [entry for entry in self._gathered if entry.number in self._direct]
        for append in self._appending:
            waiting = [answer for answer in append.entries if answer[0].submitted_at > oldest_at]
            if len(waiting) < len(append.entries):
                self._waiting_for_spool -= len(append.entries) - len(waiting)
                given += [answer[0] for answer in append.entries if answer[0].submitted_at <= oldest_at]
                append.given_up += len(append.entries) - len(waiting)
                append.entries = waiting
        decisions = self._refuse(held)
        return [*decisions, Refuse(given, Reason.TIMEOUT)] if given else decisions

    # -- steps that several inputs share ---------------------------------------------------------------------------

    def _in_order(self, entries: list[S]) -> list[S]:
        """Return entries that were taken back in the order of their submission."""
        return sorted(entries, key=lambda entry: entry.number)

    def _goes_to_spool(self, entry: S, now: float) -> bool:
        """Return whether a submission takes the way of the spool (where it may be refused), and not the direct one."""
        if self._is_spooling and not self._waits_for_lock:
            return True
        return (self._is_spooling or self._is_queued_mode) and entry.spoolable and self._spool_comes_first(now)

    def _spool_comes_first(self, now: float) -> bool:
        """Return whether the spool works, and nothing older is on the direct way: taken back it would come behind."""
        return self._has_spool and now >= self._spool_again_at and self._newest_direct not in self._direct

    def _hold(self, entry: S) -> None:
        """Let a submission take the direct way, at the end of the turn, or when the database can be written again."""
        self._direct[entry.number] = entry
        self._gathered.append(entry)
        if entry.spoolable:
            self._newest_direct = entry.number

    def _to_spool(self, now: float) -> list[Decision[S]]:
        """Route what goes to the spool: to be checked and appended, or refused."""
        entries, self._to_check = self._to_check, []
        if not entries:
            return []
        if not self._has_spool or now < self._spool_again_at:
            return self._refuse(entries)
        decisions = self._refuse([entry for entry in entries if not entry.spoolable])
        spoolable = [entry for entry in entries if entry.spoolable]
        if spoolable:
            self._in_check = spoolable
            self._predicted_upto = max(self._predicted_upto, spoolable[-1].number)
            decisions.append(Check(spoolable))
        return decisions

    def _give(self) -> list[Decision[S]]:
        """Give the writer what is gathered, up to what is behind an append that is under way."""
        gathered = self._gathered
        if not gathered or self._in_check or self._is_away:
            return []
        if self._appending:
            first = self._appending[0].first_number
            self._gathered = [entry for entry in gathered if entry.number > first]
            gathered = [entry for entry in gathered if entry.number < first]
            if not gathered:
                return []
        else:
            self._gathered = []
        return [Give(self._generation, self._appended_upto, gathered)]

    def _leave_spool(self) -> list[Decision[S]]:
        """Take the direct way again where the database is back and little is left in the spool."""
        if not self._is_spooling or self._is_away or self.spool_backlog > self._leave_below_rows:
            return []
        self._is_spooling = self._waits_for_lock = False
        return [EndOutage()]

    def _refuse(self, entries: list[S], fault: Any = None) -> list[Decision[S]]:
        """Refuse what nobody has; what a commit without an answer may have stored is told so."""
        decisions: list[Decision[S]] = []
        doubtful = [entry for entry in entries if entry.number in self._in_doubt] if self._in_doubt else []
        self._in_doubt.difference_update(entry.number for entry in doubtful)
        certain = [entry for entry in entries if entry not in doubtful] if doubtful else entries
        if certain:
            decisions.append(Refuse(certain, Reason.UNAVAILABLE, fault))
        if doubtful:
            decisions.append(Refuse(doubtful, Reason.TIMEOUT, fault))
        if shown := [entry for entry in entries if entry.number <= self._predicted_upto]:
            decisions.append(Revert(shown))
        return decisions

    def _take_append(self, upto: int) -> _Appending[S] | None:
        """Return the append that ends with a row, which is the oldest one; None where it was given up."""
        if not self._appending or self._appending[0].last_seq != upto:
            return None
        append = self._appending.popleft()
        self._waiting_for_spool -= len(append.entries)
        return append

    def _resolved_upto(self) -> int:
        """Return the number up to which every submission has come to its end."""
        waiting = [entries[0].number for entries in (self._to_check, self._in_check) if entries]
        waiting += [append[0].first_number for append in (self._undrained, self._appending) if append]
        if self._direct:
            waiting.append(next(iter(self._direct)))
        return min(waiting) - 1 if waiting else self._number

    def _finish(self, decisions: list[Decision[S]]) -> list[Decision[S]]:
        """Add what every input may bring about: confirmations, and the end of a pause."""
        if self._confirmed_upto < self._predicted_upto and (upto := self._resolved_upto()) > self._confirmed_upto:
            self._confirmed_upto = upto
            decisions.append(Confirm(upto))
        if self._told_behind and not self.is_behind:
            self._told_behind = False
            decisions.append(Resume())
        return decisions
