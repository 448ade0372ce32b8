"""The loop's way to what people say: reads with a reader, writes through the one writer. Implements the records that sessions,
requests and staff messages ask for.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from robodyne_rt.errors import StorageUnavailable
from robodyne_rt.model.changes import Entity
from robodyne_rt.store import talk
from robodyne_rt.store.apply import Applier
from robodyne_rt.store.changes import Readers
from robodyne_rt.store.intake import Intake
from robodyne_rt.store.talk import UNREAD_AT_MOST, AnswerWrite, ReceiptWrite, RequestWrite, SessionWrite, StaffMessageWrite
from robodyne_rt.store.writes import CallWrite

PATIENCE_S = 1.5
"""How long a session that comes back waits for what an earlier run left in the spool: its answers may be there. Clients give a
silent link up after three seconds."""


class _Records:
    def __init__(self, *, readers: Readers, intake: Intake) -> None:
        self._readers = readers
        self._intake = intake

    def next_id(self) -> int:
        return self._intake.next_id()

    @property
    def is_settled(self) -> bool:
        """Whether all that was accepted is in the database, and not in the spool."""
        return self._intake.state in ("ok", "late")

    def _later(self, function: Callable[[Applier], Any]) -> None:
        """Do what may be lost with the process, and what nobody waits for."""
        self._intake.submit(CallWrite(function))


class SessionRecords(_Records):
    """Implements `sessions.manager.Records`."""

    async def find(self, token_digest: str, since: float) -> Entity | None:
        await self._intake.past_stored(PATIENCE_S)
        return await self._readers.read(lambda session: talk.find_session(session, token_digest, since=since))

    def create(self, columns: Entity) -> None:
        self._intake.submit(SessionWrite(columns, self.next_id()))

    def refresh(self, seen: list[tuple[str, int, float]]) -> None:
        self._later(lambda applier: talk.refresh_sessions(applier.session, seen))

    def forget(self, before: float) -> None:
        self._later(lambda applier: talk.forget_sessions(applier.session, before=before))


class RequestRecords(_Records):
    """Implements `work.requests.RequestRecords`."""

    async def take(self, columns: Entity) -> Entity | None:
        known: Entity | None = await self._intake.write(lambda outcome: RequestWrite(columns, outcome))
        if not known and not self.is_settled:  # what the database knows of it may be read all the same
            with contextlib.suppress(StorageUnavailable):
                known = await self.find(columns["user_name"], columns["request_id"])
        return known if known and known["id"] != columns["id"] else None

    async def answer(self, columns: Entity) -> None:
        await self._intake.write(lambda outcome: AnswerWrite(columns, outcome))

    async def find(self, user: str, request_id: str) -> Entity | None:
        return await self._readers.read(lambda session: talk.request(session, user, request_id))

    async def pending(self) -> list[Entity]:
        await self._intake.past_stored(0)
        return await self._readers.read(talk.pending)

    async def history(self, user: str, before: int | None, limit: int) -> list[Entity]:
        return await self._readers.read(lambda session: talk.history(session, user, before=before, limit=limit))


class MessageRecords(_Records):
    """Implements `work.messages.MessageRecords`."""

    async def first(self, sender: str, key: str) -> int | None:
        return await self._readers.read(lambda session: talk.first_message(session, sender, key))

    async def store(self, columns: Entity, key: str | None, digest: str) -> int:
        stored = await self._intake.write(lambda outcome: StaffMessageWrite(columns, key, digest, outcome))
        return int(stored or columns["id"])

    async def find(self, id: int) -> Entity | None:
        return await self._readers.read(lambda session: talk.find_message(session, id))

    async def unread(
        self, user: str, recipients: list[str], *, own: str, before: int | None = None, limit: int = UNREAD_AT_MOST
    ) -> list[Entity]:
        await self._intake.past_stored(0)
        return await self._readers.read(
            lambda session: talk.unread(session, user, recipients, own=own, before=before, limit=limit)
        )

    async def listed(self, user: str, recipients: list[str], before: int | None, limit: int) -> list[Entity]:
        return await self._readers.read(lambda session: talk.messages(session, user, recipients, before=before, limit=limit))

    async def read(self, message_id: int, user: str, recipients: list[str], at: str) -> str | None:
        sender: str | None = await self._intake.write(lambda outcome: ReceiptWrite(message_id, user, recipients, at, outcome))
        return sender

    def mark_sent(self, ids: list[int]) -> None:
        self._later(lambda applier: talk.mark_sent(applier.session, ids))
