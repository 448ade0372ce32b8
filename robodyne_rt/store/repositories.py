"""The loop's way to what people say: reads with a reader, writes through the one writer. Implements the repositories that
sessions, requests and staff messages ask for.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from robodyne_rt.model.changes import Entity
from robodyne_rt.model.rows import RequestRow, SessionRow
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.store.intake.intake import Intake
from robodyne_rt.store.intake.people_writes import (
    AnswerWrite,
    ReceiptWrite,
    RequestWrite,
    SessionWrite,
    StaffMessageWrite,
)
from robodyne_rt.store.intake.writes import CallWrite
from robodyne_rt.store.log.reader_pool import ReaderPool
from robodyne_rt.store.tables import requests, sessions, staff_messages
from robodyne_rt.store.tables.device_writes import DeviceMessageWriter

PATIENCE_S = 1.5
"""How long a session that comes back waits for what an earlier run left in the spool: its answers may be there. Clients give a
silent link up after three seconds."""


class _Repository:
    def __init__(self, *, readers: ReaderPool, intake: Intake) -> None:
        self._readers = readers
        self._intake = intake

    def next_id(self) -> int:
        return self._intake.next_id()

    @property
    def is_persisted(self) -> bool:
        """Whether all that was accepted is in the database, and not in the spool."""
        return self._intake.state in ("ok", "late")

    def _later(self, function: Callable[[DeviceMessageWriter], Any]) -> None:
        """Do what may be lost with the process, and what nobody waits for."""
        self._intake.submit(CallWrite(function))


class SessionRepository(_Repository):
    """Implements `ports.SessionRepository`."""

    async def find(self, token_digest: str, since: float) -> SessionRow | None:
        await self._intake.wait_until_drained(PATIENCE_S)
        return await self._readers.read(lambda db: sessions.find_session(db, token_digest, since=since))

    def create(self, columns: Entity) -> None:
        self._intake.submit(SessionWrite(columns, self.next_id()))

    def refresh(self, seen: list[tuple[str, int, float]]) -> None:
        self._later(lambda tables: sessions.refresh_sessions(tables.db, seen))

    def forget(self, before: float) -> None:
        self._later(lambda tables: sessions.forget_sessions(tables.db, before=before))


class RequestRepository(_Repository):
    """Implements `ports.RequestRepository`."""

    async def take(self, columns: Entity) -> RequestRow | None:
        known: RequestRow | None = await self._intake.write(lambda outcome: RequestWrite(columns, outcome))
        if not known and not self.is_persisted:  # what the database knows of it may be read all the same
            with contextlib.suppress(StorageUnavailable):
                known = await self.find(columns["user_name"], columns["request_id"])
        return known if known and known["id"] != columns["id"] else None

    async def answer(self, columns: Entity) -> None:
        await self._intake.write(lambda outcome: AnswerWrite(columns, outcome))

    async def find(self, user: str, request_id: str) -> RequestRow | None:
        return await self._readers.read(lambda db: requests.find_request(db, user, request_id))

    async def pending(self) -> list[RequestRow]:
        await self._intake.wait_until_drained(0)
        return await self._readers.read(requests.pending)

    async def history(self, user: str, before: int | None, limit: int) -> list[Entity]:
        return await self._readers.read(lambda db: requests.history(db, user, before=before, limit=limit))


class MessageRepository(_Repository):
    """Implements `ports.MessageRepository`."""

    async def first(self, sender: str, key: str) -> int | None:
        return await self._readers.read(lambda db: staff_messages.first_message(db, sender, key))

    async def store(self, columns: Entity, key: str | None, digest: str) -> int:
        stored = await self._intake.write(lambda outcome: StaffMessageWrite(columns, key, digest, outcome))
        return int(stored or columns["id"])

    async def find(self, id: int) -> Entity | None:
        return await self._readers.read(lambda db: staff_messages.find_message(db, id))

    async def unread(
        self, user: str, recipients: list[str], *, own: str, before: int | None = None, limit: int = staff_messages.MAX_UNREAD
    ) -> list[Entity]:
        await self._intake.wait_until_drained(0)
        return await self._readers.read(
            lambda db: staff_messages.unread(db, user, recipients, own=own, before=before, limit=limit)
        )

    async def listed(self, user: str, recipients: list[str], before: int | None, limit: int) -> list[Entity]:
        return await self._readers.read(
            lambda db: staff_messages.list_messages(db, user, recipients, before=before, limit=limit)
        )

    async def read(self, message_id: int, user: str, recipients: list[str], at: str) -> str | None:
        sender: str | None = await self._intake.write(lambda outcome: ReceiptWrite(message_id, user, recipients, at, outcome))
        return sender

    def mark_sent(self, ids: list[int]) -> None:
        self._later(lambda tables: staff_messages.mark_sent(tables.db, ids))
