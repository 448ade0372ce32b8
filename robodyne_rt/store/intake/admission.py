"""What can be said of a write without the database: repetitions are answered, the rest is predicted and shown.

The ledger asks for this before a write goes to the spool (`Check`), and where a commit is late (`Show`).
"""

from typing import Any

from robodyne_rt.errors import InvalidPayload, ResourceNotFound, RobodyneError, StorageUnavailable
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

    def check(self, write: Write, *, show: bool) -> tuple[Any, RobodyneError | None, bool]:
        """Return what to answer, as (result, refusal), and whether the write is to be spooled first.

        Args:
            show: whether screens see it already.
        """
        if (known := self._acknowledged.answer(write)) is not None:
            return (*known, False)
        if write.expected is None:
            self._overlay.apply(write, show=show)
        assert write.expected is not None
        result, refusal = write.expected
        return (result, None, True) if refusal is None else (None, _without_database(refusal), False)


def _without_database(refusal: RobodyneError) -> RobodyneError:
    """Return what to tell a device whose message the prediction refuses: a dish or an order that is not at hand may well be in
    the database, so the message must be kept."""
    if isinstance(refusal, InvalidPayload | ResourceNotFound):
        text = f"storage is away, so this cannot be checked now ({refusal.text}); keep the message"
        return StorageUnavailable(text, retry_after_s=RETRY_AFTER_S)
    return refusal
