"""Which history the offsets count in, as clients are told it (SPEC section 6).

The epoch is renewed by `store/opening.py` at start, by the writer while it runs, and by `restore`.
"""

from robodyne_rt.store.log.change_log import Line


class History:
    """The random name of this history, new when history was lost.

    Attributes:
        epoch: what clients are told. It changes on the loop, in the same moment as the whole state reaches the hub, so that
            no offset is ever sent under the wrong epoch.
        stored: what the database says; the writer sets it when it renews the epoch or finds another one, a moment earlier.
        last_lines: the newest line of the change log that the writer read, by topic: a database that has another one at its
            place holds another history, whatever its epoch says.
    """

    __slots__ = ("epoch", "last_lines", "stored")

    def __init__(self, epoch: str) -> None:
        self.epoch = self.stored = epoch
        self.last_lines: dict[str, Line] = {}

    def begin(self, epoch: str) -> None:
        """Tell clients a new epoch from now on; for the loop's thread."""
        self.epoch = epoch
