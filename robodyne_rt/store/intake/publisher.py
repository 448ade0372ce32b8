"""Brings what the writer read to the screens, and to what is predicted beside them. For the loop's thread."""

import logging

from robodyne_rt.core.ids import IdGenerator
from robodyne_rt.ports import ChangeSink, Clock
from robodyne_rt.store.intake.optimistic import OptimisticOverlay
from robodyne_rt.store.intake.reports import Report
from robodyne_rt.store.log.history import History

logger = logging.getLogger(__name__)

GIVEN_TOPICS = frozenset({"events", "orders", "systemlogs"})
"""Topics whose ids are from our series; other programs may have chosen some."""


class Publisher:
    """The way of a report's updates; `ids` are kept above those that others chose."""

    def __init__(
        self, *, history: History, sink: ChangeSink, overlay: OptimisticOverlay, ids: IdGenerator, clock: Clock
    ) -> None:
        self._history = history
        self._sink = sink
        self._overlay = overlay
        self._ids = ids
        self._clock = clock

    def publish(self, report: Report) -> None:
        """Publish a report's updates; where `epoch` is named they are the whole state of a new history."""
        try:
            if report.epoch:
                self._history.begin(report.epoch)
                self._sink.begin_history(report.updates)
            else:
                self._sink.publish(report.updates)
            self._overlay.learn(report.updates)
            for update in report.updates:
                if update.topic in GIVEN_TOPICS and update.entities and max(update.entities) > self._ids.newest:
                    self._ids.stay_above(max(update.entities), self._clock.now())
        except Exception:
            # What is stored must be answered, whatever became of the screens.
            logger.exception("updates could not be published", extra={"action": "publish_failed"})
