"""An outbox gives each answer a number and keeps it until it is known to have arrived."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from robodyne_rt.core.outbox import Outbox


def test_numbers_go_on_after_what_was_given_and_confirmed() -> None:
    assert Outbox().next_seq() == 1
    assert Outbox(seq=7, acked=3).next_seq() == 8
    assert Outbox(seq=3, acked=7).next_seq() == 8  # the note of what was confirmed may be newer than what was stored


def test_what_waits_is_in_the_order_of_its_numbers() -> None:
    assert list(Outbox(seq=3, waiting={3: b"c", 1: b"a", 2: b"b"}).waiting) == [1, 2, 3]


def test_confirming_forgets_everything_up_to_a_number_and_says_whether_that_was_news() -> None:
    outbox = Outbox(seq=3, waiting={1: b"a", 2: b"b", 3: b"c"})
    assert outbox.confirm(2) is True
    assert outbox.waiting == {3: b"c"} and outbox.acked == 2
    assert [outbox.confirm(seq) for seq in (2, 1, 0, -1)] == [False] * 4
    assert outbox.waiting == {3: b"c"}


def test_a_number_that_was_never_given_confirms_nothing() -> None:
    outbox = Outbox(seq=2, waiting={1: b"a", 2: b"b"})
    assert [outbox.confirm(seq) for seq in (3, 99, 2**70)] == [False] * 3
    assert list(outbox.waiting) == [1, 2] and outbox.next_seq() == 3


def test_an_answer_that_was_confirmed_already_is_not_kept() -> None:
    outbox = Outbox(seq=2, acked=2)
    outbox.put(2, b"again")
    assert not outbox.waiting


class Lines(RuleBasedStateMachine):
    """A server with an outbox and a client that remembers the highest number, over lines that lose what comes late."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()
        self.stored: dict[int, bytes] = {}
        self.acked_stored = 0
        self.line: list[tuple[int, bytes]] = []
        self.highest = 0
        self.taken: list[int] = []

    @rule()
    def answer(self) -> None:
        seq = self.outbox.next_seq()
        self.stored[seq] = payload = b"answer %d" % seq
        self.outbox.put(seq, payload)
        self.line.append((seq, payload))

    @precondition(lambda self: self.line)
    @rule()
    def arrive(self) -> None:
        seq, payload = self.line.pop(0)
        assert payload == self.stored[seq]
        if seq > self.highest:
            self.highest = seq
            self.taken.append(seq)

    @rule()
    def confirm(self) -> None:
        self.outbox.confirm(self.highest)

    @rule(lost=st.booleans())
    def come_back(self, lost: bool) -> None:
        """The line broke; who comes back says what it has, or that word is lost."""
        if not lost:
            self.outbox.confirm(self.highest)
        self.line = list(self.outbox.waiting.items())

    @rule()
    def note(self) -> None:
        self.acked_stored = self.outbox.acked

    @rule()
    def restart(self) -> None:
        waiting = {seq: payload for seq, payload in self.stored.items() if seq > self.acked_stored}
        self.outbox = Outbox(seq=max(self.stored, default=0), acked=self.acked_stored, waiting=waiting)
        self.line = list(self.outbox.waiting.items())

    @invariant()
    def each_arrives_once_in_order_and_none_is_out_of_reach(self) -> None:
        assert self.taken == list(range(1, len(self.taken) + 1))
        missing = set(self.stored) - set(self.taken)
        assert missing <= set(self.outbox.waiting)


TestLines = Lines.TestCase
