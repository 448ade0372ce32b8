"""Presence of one node, in memory."""

from robodyne_rt.ports import Presence


class MemorySessions:
    """Implements `ports.SessionStore`."""

    def __init__(self) -> None:
        self._present: dict[str, Presence] = {}

    async def put(self, presence: Presence) -> None:
        self._present[presence.session_id] = presence

    async def remove(self, session_id: str) -> None:
        self._present.pop(session_id, None)

    async def all(self) -> list[Presence]:
        return sorted(self._present.values(), key=lambda presence: presence.connected_at)
