"""The answers of a session, from their number to the proof that its user has them (SPEC section 4).

Final answers are numbered 1, 2, 3 ... within their session. Who comes back says the last number it saw, and gets what is
after it: that is how each answer arrives once, whatever broke in between.
"""

MAX_WAITING = 1000


class Outbox:
    """Answers that may not have arrived yet.

    Args:
        seq: number of the newest answer.
        acked: number up to which its user has them.
        waiting: those in between, by number.
    """

    __slots__ = ("acked", "seq", "waiting")

    def __init__(self, *, seq: int = 0, acked: int = 0, waiting: dict[int, bytes] | None = None) -> None:
        self.seq = max(seq, acked)
        self.acked = acked
        self.waiting: dict[int, bytes] = dict(sorted((waiting or {}).items()))

    def next_seq(self) -> int:
        """Return the number of the next answer."""
        self.seq += 1
        return self.seq

    def put(self, seq: int, payload: bytes) -> None:
        """Keep an answer until it is confirmed."""
        if seq > self.acked:
            self.waiting[seq] = payload
            if len(self.waiting) > MAX_WAITING:
                del self.waiting[next(iter(self.waiting))]  # it is stored; asked again, it is answered from there

    def confirm(self, upto: int) -> bool:
        """Note that everything up to a number arrived; return whether that is news. Numbers never given mean nothing."""
        if not self.acked < upto <= self.seq:
            return False
        self.acked = upto
        for seq in [seq for seq in self.waiting if seq <= upto]:
            del self.waiting[seq]
        return True
