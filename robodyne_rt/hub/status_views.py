"""The topic `status` as each may see it: encoded once for all who have the same rights.

Who is there (`sessions`) is for those with the right of that name. Paths, addresses and names in what is wrong (`detail` of
problems and storage) are for those who may `look`.
"""

from dataclasses import dataclass

from robodyne_rt.model.access import Principal
from robodyne_rt.model.changes import Entity
from robodyne_rt.protocol import frames, topic_messages


@dataclass(slots=True)
class View:
    """What some may see.

    Attributes:
        payload: the newest JSON; `frame` is the same as a WebSocket message.
        offset: when it changed last; who has that or later has nothing to get.
    """

    data: Entity | None = None
    payload: bytes = b""
    frame: bytes = b""
    offset: int = 0


class StatusViews:
    """All views of the newest status."""

    def __init__(self) -> None:
        self._views = {(sessions, look): View() for sessions in (False, True) for look in (False, True)}

    def publish(self, data: Entity, *, offset: int, epoch: str) -> None:
        """Take the newest status; a view that is as it was stays."""
        for (sessions, look), view in self._views.items():
            shown = visible(data, sessions=sessions, look=look)
            if shown != view.data:
                view.data, view.offset = shown, offset
                view.payload = topic_messages.status(shown, offset=offset, epoch=epoch)
                view.frame = frames.frame(view.payload)

    def of(self, principal: Principal) -> View:
        """Return what somebody may see."""
        return self._views[principal.may("sessions"), principal.may("look")]


def visible(data: Entity, *, sessions: bool, look: bool) -> Entity:
    """Return what of the status they see who have these rights, or not."""
    shown = data
    if not sessions and "sessions" in data:
        shown = {name: value for name, value in shown.items() if name != "sessions"}
    if not look:
        if isinstance(storage := data.get("storage"), dict) and "detail" in storage:
            shown = shown | {"storage": {name: value for name, value in storage.items() if name != "detail"}}
        if problems := data.get("problems"):
            brief = [{name: value for name, value in problem.items() if name != "detail"} for problem in problems]
            shown = shown | {"problems": brief}
    return shown
