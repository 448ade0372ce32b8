"""The optimistic overlay: what screens are shown before it is stored, and how it is confirmed or taken back (SPEC section 6).

`apply` predicts what a write will do and shows it; later the write is confirmed (the database brought it) or reverted (it is
stored nowhere, or did something else). Which and when is the ledger's decision.
"""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from robodyne_rt.model.changes import Update
from robodyne_rt.model.topics import TOPICS
from robodyne_rt.ports import ChangeSink
from robodyne_rt.protocol.errors import RobodyneError
from robodyne_rt.store.intake.prediction import Predictor
from robodyne_rt.store.intake.writes import Write
from robodyne_rt.store.log.change_log import Lookups

logger = logging.getLogger(__name__)

Key = tuple[str, int]
"""Topic and id of an entity."""


class OptimisticOverlay:
    """Belongs to the loop's thread.

    Args:
        marker: a file that exists while screens show what no disk has: a server that is killed then tells its next start.
        lookups: rows that messages are checked by, see `ChangeLog.lookups`; brought up to date by `lookups = ...`.
    """

    def __init__(self, *, sink: ChangeSink, predictor: Predictor, marker: Path, lookups: Lookups) -> None:
        self.lookups = lookups
        self._sink = sink
        self._predictor = predictor
        self._marker = marker
        # Number of the newest write that changes an entity and is not at its end; the oldest first.
        self._shown: OrderedDict[Key, int] = OrderedDict()

    @property
    def is_empty(self) -> bool:
        """Whether screens show nothing that is not stored."""
        return not self._shown

    def apply(self, write: Write, *, show: bool = True) -> None:
        """Predict what a write will do, into `write.expected`, and show it."""
        write.expected = (None, None)
        if not write.spoolable:
            return
        try:
            if not self._predictor.is_active:
                with contextlib.suppress(OSError):
                    self._marker.touch()
                self._predictor.begin({topic: self._sink.current(topic) for topic in TOPICS}, self.lookups)
            prediction = self._predictor.apply(write)
        except RobodyneError as refusal:
            write.expected = (None, refusal)
            return
        except Exception as error:  # the write's own fault, which the database will find as well
            logger.debug("no prediction for a %s: %s", write.kind, error, extra={"action": "prediction_failed"})
            return
        write.expected = (prediction.result, None)
        if not show:
            return
        for topic, changes in prediction.changes.items():
            self._sink.show_optimistic(topic, changes)
            for id in changes:
                self._shown[topic, id] = write.number
                self._shown.move_to_end((topic, id))

    def confirm(self, upto: int, updates: Sequence[Update]) -> None:
        """Take what writes up to a number have shown off the screens: `updates` brought it, or nothing of it will come."""
        brought = {update.topic: {*update.entities, *update.removed} for update in updates}
        confirmed: list[Key] = []
        reverted: list[Key] = []
        while self._shown:
            (topic, id), number = next(iter(self._shown.items()))
            if number > upto:
                break
            del self._shown[topic, id]
            (confirmed if id in brought.get(topic, ()) else reverted).append((topic, id))
        self._take_off(confirmed, reverted)

    def revert(self, writes: Sequence[Write]) -> None:
        """Take back what these have shown: they are stored nowhere, and may come again under the same id."""
        numbers = {write.number for write in writes}
        self.revert_entities([key for key, number in self._shown.items() if number in numbers])
        if self._predictor.is_active:
            for write in writes:
                self._predictor.forget(write)

    def revert_entities(self, keys: list[Key]) -> None:
        """Take back what is shown of these entities."""
        for key in keys:
            self._shown.pop(key, None)
        self._take_off([], keys)

    def learn(self, updates: Sequence[Update]) -> None:
        """Take what was stored into the predictions."""
        if self._predictor.is_active:
            for update in updates:
                self._predictor.learn(update)

    def end_if_empty(self) -> None:
        """Forget all predictions where everything shown is at its end."""
        if self._predictor.is_active and not self._shown:
            self._predictor.end()
            with contextlib.suppress(OSError):
                self._marker.unlink(missing_ok=True)

    def close(self) -> None:
        """Forget the predictions, for when nothing more is reported; the marker stays where something is shown yet."""
        self._predictor.end()

    def _take_off(self, confirmed: list[Key], reverted: list[Key]) -> None:
        for topic, ids in _by_topic(confirmed).items():
            self._sink.confirm(topic, ids)
        for topic, ids in _by_topic(reverted).items():
            self._sink.revert(topic, ids)
        if self._predictor.is_active:
            for key in (*confirmed, *reverted):
                self._predictor.confirm(*key)


def _by_topic(keys: list[Key]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for topic, id in keys:
        found.setdefault(topic, []).append(id)
    return found
