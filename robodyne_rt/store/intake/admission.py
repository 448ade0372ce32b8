"""What can be said of a write without the database: repetitions are answered, the rest is predicted and shown.

The ledger asks for this before a write goes to the spool (`Check`), and where a commit is late (`Show`).
"""

from collections.abc import Sequence

from robodyne_rt.core.spooling import Answered
from robodyne_rt.protocol.errors import InvalidPayload, ResourceNotFound, RobodyneError, StorageUnavailable
from robodyne_rt.store.intake.acknowledged import Acknowledged
from robodyne_rt.store.intake.optimistic import OptimisticOverlay
from robodyne_rt.store.intake.writes import Write

RETRY_AFTER_S = 1
"""What a device is told to wait before it repeats what was not stored."""


class Admission:
    """Belongs to the loop's thread.

    Args:
        acknowledged: what earlier messages were answered.
    """

    def __init__(self, *, acknowledged: Acknowledged, overlay: OptimisticOverlay) -> None:
        self._acknowledged = acknowledged
        self._overlay = overlay

    def show(self, write: Write) -> None:
        """Show what a write will do, unless it repeats one whose effect is shown already."""
        write.expected = self._acknowledged.newest(write)
        if write.expected is None:
            self._overlay.apply(write)

    def check(self, entries: Sequence[Write], *, show: bool) -> tuple[list[Answered[Write]], list[Answered[Write]]]:
        """Return the writes that may be spooled, and those that can be answered now: what is durable already, or is refused.

        Args:
            show: whether screens see what may be spooled.
        """
        accepted: list[Answered[Write]] = []
        answered: list[Answered[Write]] = []
        for write in entries:
            if (known := self._acknowledged.answer(write)) is not None:
                answered.append((write, *known))
                continue
            if write.expected is None:
                self._overlay.apply(write, show=show)
            assert write.expected is not None
            result, refusal = write.expected
            if refusal is None:
                accepted.append((write, result, None))
            else:
                answered.append((write, None, _without_database(refusal)))
        return accepted, answered


def _without_database(refusal: RobodyneError) -> RobodyneError:
    """Return what to tell a device whose message the prediction refuses: a dish or an order that is not at hand may well be in
    the database, so the message must be kept."""
    if isinstance(refusal, InvalidPayload | ResourceNotFound):
        text = f"storage is away, so this cannot be checked now ({refusal.text}); keep the message"
        return StorageUnavailable(text, retry_after_s=RETRY_AFTER_S)
    return refusal
