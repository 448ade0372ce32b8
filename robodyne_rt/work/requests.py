"""Requests of people: taken once, worked in order, answered exactly once (SPEC section 4).

A request is stored when it is taken and again with its answer, and only then is the answer sent; what was not answered when
the server ended is worked when its session comes back. One user's requests wait for each other, those of others do not.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup

from robodyne_rt.core import request_ledger
from robodyne_rt.core.callbacks import TIMEOUT_S, Callback, PendingCallbacks
from robodyne_rt.core.rate_limit import SlidingWindow
from robodyne_rt.core.request_ledger import MAX_WAITING, RequestLedger
from robodyne_rt.core.retry import Backoff
from robodyne_rt.model import times
from robodyne_rt.model.access import Principal
from robodyne_rt.model.changes import Entity
from robodyne_rt.model.rows import RequestRow
from robodyne_rt.ports import Answerer, CannotAsk, Clock, NoReply, RequestRepository
from robodyne_rt.protocol import session_messages
from robodyne_rt.protocol.errors import RobodyneError, StorageUnavailable
from robodyne_rt.protocol.session_messages import CAPABILITIES, CallbackKind, Dialect
from robodyne_rt.sessions.manager import Session, SessionManager, answer_payload
from robodyne_rt.supervision import Supervisor

logger = logging.getLogger(__name__)

WORK_S = 30.0
"""Time for one request, from the start of work; waiting for the client does not count."""

FIRST_PROGRESS_S = 2.0
LONGEST_SILENCE_S = 15.0
STORE_AGAIN_S = (0.5, 5.0)

ABSENCE_S = 5.0
"""A screen that is away for so long is not waited for by who went on at another one: a page that was loaded anew, say."""

ABSENCE_LOOK_S = 1.0


class RequestStats:
    """Plain numbers that `/metrics` reads."""

    def __init__(self) -> None:
        self.answered: dict[str, int] = {}
        self.work_s = 0.0
        self.callbacks = 0

    def count(self, result: str) -> None:
        """Count one final answer."""
        self.answered[result] = self.answered.get(result, 0) + 1


Request = request_ledger.Request[Session]


class RequestDesk:
    """Takes requests from sessions and brings the answers back.

    Args:
        limit: of queries, by user or by session.
        renewed: tells what somebody may do now; raises where that is nothing any more.
        shared: whether a user's sessions share it.
        ask_undeclared: whether to ask clients that do not say what they can be asked.
    """

    def __init__(
        self,
        *,
        sessions: SessionManager,
        repository: RequestRepository,
        answerer: Answerer,
        limit: SlidingWindow,
        shared: bool,
        renewed: Callable[[Principal, float], Principal],
        ask_undeclared: bool = False,
        supervisor: Supervisor | None = None,
        clock: Clock,
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self.stats = RequestStats()
        self.callbacks = PendingCallbacks()
        self._sessions = sessions
        self._repository = repository
        self._answerer = answerer
        self._limit = limit
        self._shared = shared
        self._renewed = renewed
        self._ask_undeclared = ask_undeclared
        self._clock = clock
        self._tasks: TaskGroup | None = None
        self._ledger: RequestLedger[Session] = RequestLedger()
        # Until it is stored that a request was taken.
        self._taking: dict[Request, anyio.Event] = {}
        self._waiting: dict[str, _Wait] = {}

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; ready when it knows what an earlier run left, if that can be known."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            found = await self._find_left()
            task_status.started()
            if not found:
                await self._supervisor.keep("requests", self._find_left_on)
            await anyio.sleep_forever()

    async def _find_left_on(self) -> None:
        backoff = Backoff(*STORE_AGAIN_S)
        while not await self._find_left():
            await anyio.sleep(backoff.next_s())
        await anyio.sleep_forever()

    async def _find_left(self) -> bool:
        """Find the requests that were not answered when the server ended; each waits for its session to come back."""
        try:
            left = await self._repository.pending()
        except StorageUnavailable:
            return False
        except Exception:
            logger.exception("requests of before the start cannot be read", extra={"action": "requests_unreadable"})
            return True
        if left:
            logger.info("%d requests wait for who asked them", len(left), extra={"action": "requests_left"})
        for id in self._ledger.found(left):
            session = self._sessions.get(id)
            if session is not None and session.link is not None:
                self._take_up(session)
        return True

    def session_attached(self, session: Session) -> None:
        """Go on with what a session asked before the server ended, by the rights that it has now; ask again what is open."""
        self._take_up(session)
        for stored, dialect in self._ledger.take_undelivered(session):
            self._repeat(session, stored, dialect)
        for callback in self.callbacks.of_session(session.id):
            if session.link is not None:
                session.link.send(_question(callback, self._clock.now()))

    def _take_up(self, session: Session) -> None:
        for request in self._ledger.take_up(session):
            self._enqueue(request, is_older=True)

    # -- taking --------------------------------------------------------------------------------------------------

    async def ask(self, session: Session, request_id: str, text: str, dialect: Dialect, *, again: bool = False) -> None:
        """Take a request; its final answer goes to the session, whatever happens.

        Args:
            again: whether the client only wants to be sure that it arrived.
        """
        if self._ledger.joins(session, request_id, dialect):
            return
        if (known := self._ledger.answered(session.user, request_id)) is not None:
            self._repeat(session, known, dialect, again=again)
            return
        verdict = self._limit.look(self._limited(session), self._clock.now())
        if verdict.retry_after:
            if not await self._is_known(session, request_id, dialect, again=again):
                wait_s = round(verdict.retry_after, 3)
                text = f"too many questions; ask again in {wait_s:.0f} s"
                self._fail_now(session, dialect, request_id, "RATE_LIMITED", text, retry_after=wait_s, remaining=0)
            return
        if self._ledger.is_full(session.user):
            text = f"{MAX_WAITING} requests wait already"
            self._fail_now(session, dialect, request_id, "RATE_LIMITED", text, retry_after=WORK_S, remaining=0)
            return
        verdict = self._limit.take(self._limited(session), self._clock.now())
        request = Request(
            id=self._repository.next_id(),
            user=session.user,
            request_id=request_id,
            text=text,
            dialect=dialect,
            session=session,
            asked_at=self._clock.stamp(),
            remaining=verdict.remaining,
            again=again,
        )
        self._taking[request] = anyio.Event()
        self._enqueue(request)
        assert self._tasks is not None
        self._tasks.start_soon(self._supervisor.once, "request", self._take, request)
        if self.callbacks.asks_person(request.user):
            _tell_progress(request, "waiting")

    def _limited(self, session: Session) -> tuple[str, str]:
        return ("user", session.user) if self._shared else ("session", session.id)

    async def _is_known(self, session: Session, request_id: str, dialect: Dialect, *, again: bool) -> bool:
        """Answer what only the database remembers, and return whether it does: to ask again costs nothing."""
        try:
            known = await self._repository.find(session.user, request_id)
        except StorageUnavailable:
            known = None
        if known is None or known["status"] == "PENDING":
            return False
        self._repeat(session, known, dialect, again=again)
        return True

    def _fail_now(self, session: Session, dialect: Dialect, request_id: str, code: str, text: str, **details: Any) -> None:
        """Answer what was not taken: nothing of it is stored, so that the same id may be used again."""
        self.stats.count(code)
        if session.link is not None:
            session.link.send(session_messages.failure(dialect, request_id, code, text, **details))

    def _repeat(self, session: Session, stored: RequestRow, dialect: Dialect, *, again: bool = False) -> None:
        """Send a stored answer again to who asks again; another session's number means nothing to this one."""
        if session.link is None:
            return
        seq = stored["seq"] if stored["session_id"] == session.id else None
        if again and seq in session.outbox.waiting:
            return  # it is on its way over this very connection: the two of them crossed
        remaining = self._limit.look(self._limited(session), self._clock.now()).remaining
        session.link.send(answer_payload({**stored, "dialect": dialect, "seq": seq}, remaining=remaining))

    def _enqueue(self, request: Request, *, is_older: bool = False) -> None:
        if self._ledger.enqueue(request, is_older=is_older):
            assert self._tasks is not None
            self._tasks.start_soon(self._supervisor.once, "request", self._work, request.user)

    async def _take(self, request: Request) -> None:
        """Store that it is taken."""
        columns = {
            "id": request.id,
            "user_name": request.user,
            "session_id": request.session.id,
            "request_id": request.request_id,
            "dialect": request.dialect,
            "question": request.text,
            "timestamp": request.asked_at,
        }
        try:
            known = await self._repository.take(columns)
            if known is not None and known["status"] == "PENDING":
                self._ledger.is_taken_up(request, known)
            elif known is not None:
                request.known = known
                self._limit.give_back(self._limited(request.session))
        except StorageUnavailable:
            logger.warning("a request could not be stored; it is worked all the same", extra={"action": "request_unstored"})
        except Exception:
            logger.exception("a request could not be stored", extra={"action": "request_unstored"})
        finally:
            self._taking.pop(request).set()

    # -- working -------------------------------------------------------------------------------------------------

    async def _work(self, user: str) -> None:
        """Work one user's requests in order, until none is left."""
        while (request := self._ledger.next(user)) is not None:
            if (taking := self._taking.get(request)) is not None:
                await taking.wait()
                continue  # an older one may have been found meanwhile
            try:
                if request.known is not None:
                    self._tell_known(request, request.known)
                else:
                    await self._answer(request)
            except Exception:
                logger.exception("a request could not be answered", extra={"action": "request_failed"})
                text = "an unforeseen error; try again"
                self._fail_now(request.session, request.dialect, request.request_id, "INTERNAL", text)
            self._ledger.done(request)

    def _tell_known(self, request: Request, known: RequestRow) -> None:
        """Repeat to all who asked what an earlier run answered."""
        self._ledger.remember(request, known)
        for session, dialect in {request.session: request.dialect, **request.others}.items():
            again = request.again and session is request.session
            self._tell_other(self._sessions.current(session), known, dialect, again=again)

    async def _answer(self, request: Request) -> None:
        conversation = _Conversation(self, request)
        started = self._clock.now()
        status, code, text = "ERROR", "TIMEOUT", f"no answer was found within {WORK_S:.0f} s"
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(conversation.tell_progress)
            with conversation.scope:
                try:
                    text = (await self._answerer.answer(conversation)).replace("\0", "")[: session_messages.MAX_TEXT * 4]
                    status, code = "COMPLETED", ""
                except Exception:
                    logger.exception("an answerer failed", extra={"action": "answerer_failed"})
                    code, text = "INTERNAL", "the question could not be answered: an unforeseen error"
            helpers.cancel_scope.cancel()
        self.stats.work_s += self._clock.now() - started
        self.stats.count(code or "completed")
        session = request.session = self._sessions.current(request.session)
        seq = session.outbox.next_seq()
        stored = RequestRow(
            id=request.id,
            user_name=request.user,
            session_id=session.id,
            request_id=request.request_id,
            dialect=request.dialect,
            question=request.text,
            timestamp=request.asked_at or self._clock.stamp(),  # of one taken up again the row has its own
            status=status,
            code=code or None,
            response=text,
            seq=seq,
            answered_at=times.to_text(self._clock.wall()),
        )
        try:
            await self._repository.answer({**stored})
        except StorageUnavailable:
            logger.warning("an answer could not be stored; it is sent all the same", extra={"action": "answer_unstored"})
        except Exception:
            logger.exception("an answer could not be stored; it is sent all the same", extra={"action": "answer_unstored"})
        self._ledger.remember(request, stored)
        self._sessions.deliver(self._sessions.current(session), seq, answer_payload(stored, remaining=request.remaining))
        for other, dialect in request.others.items():
            self._tell_other(self._sessions.current(other), stored, dialect)

    def _tell_other(self, session: Session, stored: RequestRow, dialect: Dialect, *, again: bool = False) -> None:
        """Send an answer to a session that asked for the same, now or when it comes back; its own are in its outbox."""
        if session.link is not None:
            self._repeat(session, stored, dialect, again=again)
        elif self._sessions.get(session.id) is not None:
            self._ledger.keep_undelivered(session, stored, dialect)

    # -- callbacks -----------------------------------------------------------------------------------------------

    def callback_answered(self, session: Session, type: str, request_id: Any, fields: Entity) -> None:
        """Take a client's answer to a question.

        Raises:
            InvalidRequestId: no such question is open for this session.
        """
        callback = self.callbacks.answer(request_id, answer=type, session=session.id, user=session.user, now=self._clock.now())
        wait = self._waiting.pop(callback.id, None)
        if wait is not None:
            wait.fields = fields
            wait.done.set()

    def session_gone(self, session: Session) -> None:
        """Ask a session nothing more, and owe it nothing."""
        self._ledger.take_undelivered(session)
        for callback in self.callbacks.of_session(session.id):
            self.callbacks.close(callback.id)
            if (wait := self._waiting.pop(callback.id, None)) is not None:
                wait.done.set()

    def capabilities(self, session: Session) -> frozenset[str]:
        """Return what a session's client may be asked."""
        if session.capabilities is None:
            return CAPABILITIES if self._ask_undeclared else frozenset()
        return session.capabilities

    def right_to_read(self, session: Session) -> Callable[[str], bool]:
        """Return what tells which topics who asks may see now, also while the session is away."""
        try:
            return self._renewed(session.principal, self._clock.wall()).may_read
        except RobodyneError:
            return lambda topic: False

    def _keeps_others_waiting(self, request: Request, kind: CallbackKind) -> bool:
        """Return whether a person is asked on a screen that they left, and have asked on another one since."""
        session = request.session
        if kind is not CallbackKind.CLARIFICATION or session.link is not None:
            return False
        others = any(other.session is not session for other in self._ledger.waiting_beside(request))
        return others and self._clock.now() - session.last_seen >= ABSENCE_S

    async def ask_client(self, request: Request, kind: CallbackKind, **fields: Any) -> Entity:
        """Ask the client of a request; return its answer.

        Raises:
            NoReply: no answer came in time, or the session is gone.
        """
        session = request.session
        now = self._clock.now()
        callback = self.callbacks.open(
            kind, session=session.id, user=session.user, query_id=request.request_id, fields=fields, now=now
        )
        wait = self._waiting[callback.id] = _Wait()
        self.stats.callbacks += 1
        if session.link is not None:
            session.link.send(_question(callback, now))
        if kind is CallbackKind.CLARIFICATION:
            for other in self._ledger.waiting_beside(request):
                _tell_progress(other, "waiting")
        try:
            with anyio.move_on_after(TIMEOUT_S[kind]):
                while not wait.done.is_set() and not self._keeps_others_waiting(request, kind):
                    with anyio.move_on_after(ABSENCE_LOOK_S):
                        await wait.done.wait()
        finally:
            self.callbacks.close(callback.id)
            self._waiting.pop(callback.id, None)
        if wait.fields is None:
            raise NoReply(f"{callback.kind.value}: no answer")
        return wait.fields


def _tell_progress(request: Request, text: str) -> None:
    if request.dialect == "session" and (link := request.session.link) is not None:
        link.send(session_messages.progress(request.request_id, text))


class _Wait:
    """Somebody waits for a client's answer."""

    __slots__ = ("done", "fields")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.fields: Entity | None = None


class _Conversation:
    """Implements `ports.Conversation`; its clock stands while a callback is open."""

    def __init__(self, desk: RequestDesk, request: Request) -> None:
        self.question = request.text
        self.user = request.user
        self.scope = anyio.move_on_after(WORK_S)
        self._desk = desk
        self._request = request
        # Derived once, and anew after each wait for the client.
        self._right_to_read: Callable[[str], bool] | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        return self._desk.capabilities(self._request.session)

    def may_read(self, topic: str) -> bool:
        if self._right_to_read is None:
            self._right_to_read = self._desk.right_to_read(self._request.session)
        return self._right_to_read(topic)

    def progress(self, text: str) -> None:
        """Tell the client that work goes on."""
        _tell_progress(self._request, text)

    async def tell_progress(self) -> None:
        """Tell from time to time that the request is being worked on."""
        backoff = Backoff(FIRST_PROGRESS_S, LONGEST_SILENCE_S)
        while True:
            await anyio.sleep(backoff.next_s())
            self.progress("working")

    async def clarify(self, question: str, options: list[str]) -> str:
        if "clarification" not in self.capabilities:
            raise CannotAsk("the client cannot ask its user")
        fields = await self._stopped(
            self._desk.ask_client(self._request, CallbackKind.CLARIFICATION, question=question, options=options)
        )
        text = fields.get("response", fields.get("message"))
        if not isinstance(text, str) or not text.strip():
            raise CannotAsk("the answer is no text")
        return text.strip()[: session_messages.MAX_TEXT]

    async def available_data(self, question: str) -> list[Any]:
        if "available_data" not in self.capabilities:
            raise CannotAsk("the client has no data of its own")
        fields = await self._stopped(self._desk.ask_client(self._request, CallbackKind.DATA, question=question))
        data = fields.get("data")
        return data if isinstance(data, list) else []

    async def api(self, name: str, params: dict[str, Any]) -> Any:
        if "api" not in self.capabilities:
            raise CannotAsk("the client calls nothing for us")
        fields = await self._stopped(self._desk.ask_client(self._request, CallbackKind.API, api=name, params=params))
        return fields.get("result", fields.get("data"))

    async def _stopped(self, waiting: Awaitable[Entity]) -> Entity:
        """Wait with the request's clock standing."""
        left_s = self.scope.deadline - anyio.current_time()
        self.scope.deadline = math.inf
        try:
            return await waiting
        finally:
            self.scope.deadline = anyio.current_time() + left_s
            self._right_to_read = None


def _question(callback: Callback, now: float) -> bytes:
    return session_messages.ask(
        callback.kind,
        id=callback.id,
        query_id=callback.query_id,
        left_s=callback.deadline - now,
        fields=callback.fields,
    )
