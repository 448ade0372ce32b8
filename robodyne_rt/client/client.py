"""A session with the server from Python: topics with their state, questions, callbacks, messages; through lost links and
restarts (SPEC sections 4 and 10).

    async with Client("http://localhost:8000", token=Login("http://localhost:8000", "kim", "secret")) as client:
        orders = await client.subscribe("orders")
        async for change in orders:
            ...
"""

import base64
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import anyio
import orjson
from anyio.abc import TaskGroup

from robodyne_rt.client.core import Asked, AskedOnce, End, Heard, Reconnection, Wait, jitter
from robodyne_rt.client.errors import ClientError, Refused, RequestFailed, Unreachable
from robodyne_rt.client.login import Login
from robodyne_rt.client.state import Gap
from robodyne_rt.client.topic import Topic
from robodyne_rt.protocol.errors import Internal, StorageUnavailable, TopicFull

logger = logging.getLogger(__name__)

PING_S = 1.1
SILENCE_S = 3.3
"""A dead link is noticed within this."""

OPEN_S = 10.0
TOKEN_S = 60.0
"""How long an application may take to give a token: it may ask a person."""

POLL_S = 2.0
FULL_WAIT_S = 5.0
"""Until it is asked again for a topic that has no room."""

RENEWED_AT = 0.8
"""Part of a token's life after which it is renewed in the living connection."""

FOR_A_WHILE = {error.session_code for error in (TopicFull, StorageUnavailable, Internal)}
"""Errors of a topic that pass: it is asked for again."""


State = Literal["connecting", "connected", "polling", "reconnecting", "stopped"]
Token = str | Login | Callable[[], Awaitable[str]]


@dataclass(slots=True)
class Answer:
    """The answer to a question; `remaining` is how many more may be asked now."""

    text: str
    remaining: int | None


@dataclass(frozen=True, slots=True)
class StaffMessage:
    """What somebody wrote to this user, or to one of their roles."""

    id: int
    sender: str
    recipient: str
    message: str
    message_type: str
    audio_url: str | None
    timestamp: str


@dataclass(eq=False, slots=True)
class _Pending:
    message: dict[str, Any]
    on_progress: Callable[[str], None] | None
    done: anyio.Event = field(default_factory=anyio.Event)
    result: Answer | ClientError | None = None


class Client:
    """One session. Use it as a context: `async with Client(url) as client`.

    Args:
        url: of the server, `http://host:8000`.
        token: a token, a `Login`, or a coroutine function that returns one; None where the server asks for none.
        device: names this device among the user's.
        tries: how often in a row it may fail to connect before it gives up; None: never.
        on_clarification: answers a question to the person: `(question, options) -> text`.
        on_available_data: says what this app has on a question: `(question) -> list`.
        on_api: gets data of this app: `(name, params) -> anything that is JSON`.
        on_staff_message: told of each message to this user, once.
        on_state: told when the connection changes: `(state, why)`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        device: str = "",
        tries: int | None = 10,
        on_clarification: Callable[[str, list[str]], Awaitable[str]] | None = None,
        on_available_data: Callable[[str], Awaitable[list[Any]]] | None = None,
        on_api: Callable[[str, dict[str, Any]], Awaitable[Any]] | None = None,
        on_staff_message: Callable[[StaffMessage], Awaitable[None]] | None = None,
        on_state: Callable[[State, str], None] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.state: State = "connecting"
        self.user = ""
        self.topics: dict[str, Topic] = {}
        self._token = token
        self._device = device
        self._on_clarification = on_clarification
        self._on_available_data = on_available_data
        self._on_api = on_api
        self._on_staff_message = on_staff_message
        self._on_state = on_state
        self._session_token = ""
        self._reconnection = Reconnection(self.url, tries=tries, renews=callable(token), jitter=jitter)
        self._heard = Heard()
        self._requests: dict[str, _Pending] = {}
        self._asked = AskedOnce()
        self._asking: dict[Asked, anyio.CancelScope] = {}
        self._first_outcome = anyio.Event()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._ended: ClientError | None = None
        self._polling = False

    # -- life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Client":
        self._http = aiohttp.ClientSession()
        self._tasks: TaskGroup = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._run)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        with anyio.CancelScope(shield=True):
            if self._socket is not None:
                with anyio.move_on_after(1):
                    await self._socket.close()
        self._tasks.cancel_scope.cancel()
        try:
            # Without the exception: it goes on as it is, not as a group of one.
            await self._tasks.__aexit__(None, None, None)
        finally:
            with anyio.CancelScope(shield=True):
                await self._http.close()

    # -- what it can do ------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait for the first connection, or the first answer where topics are polled.

        Raises:
            Refused, Unreachable: there will be none.
        """
        await self._first_outcome.wait()
        self._check()

    async def subscribe(self, topic: str, *, interval_s: float = 0.0) -> Topic:
        """Watch a topic; returns when its state is there.

        Args:
            interval_s: least time between two updates; 0 for each at once.
        Raises:
            Refused: no such topic, or no right to read it.
            Unreachable: no server, for as many tries as are allowed.
        """
        self._check()
        known = self.topics.get(topic)
        if known is None:
            known = self.topics[topic] = Topic(topic, interval_s=interval_s)
            await self._subscribe(known)
        await known.ready()
        return known

    async def unsubscribe(self, topic: str) -> None:
        """Watch a topic no more; who iterates over it comes to the end."""
        known = self.topics.pop(topic, None)
        if known is not None:
            known.close()
            await self._say(orjson.dumps({"type": "unsubscribe", "topic": topic}))

    async def request(
        self,
        message: str,
        *,
        timeout_s: float = 180.0,
        request_id: str | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> Answer:
        """Ask a question; return its answer, whatever happens to the connection meanwhile.

        Args:
            request_id: unique for the user; asked again under the same one, it is answered from what is stored.
        Raises:
            RequestFailed: the final answer is an error (`RATE_LIMITED`, `TIMEOUT`, ...).
            Refused, Unreachable: the client ended.
            TimeoutError: no answer came in time.
        """
        self._check()
        id = request_id or secrets.token_urlsafe(12)
        pending = self._requests.get(id)
        if pending is None:
            pending = self._requests[id] = _Pending({"type": "query", "requestId": id, "message": message}, on_progress)
            await self._say(orjson.dumps(pending.message))
        try:
            with anyio.fail_after(timeout_s):
                await pending.done.wait()
        finally:
            self._requests.pop(id, None)
        if isinstance(pending.result, Answer):
            return pending.result
        raise pending.result or Unreachable("the client ended")

    async def send_message(self, recipient: str, message: str, **fields: Any) -> dict[str, Any]:
        """Write to a user, or to all of a role (`role:kitchen`); returns when it is stored.

        Raises:
            RequestFailed: it was not taken.
            Unreachable: the server did not answer; it may be sent again.
        """
        body = {"recipient": recipient, "message": message, **fields}
        return await self._post("/api/messages", body, {"Idempotency-Key": secrets.token_urlsafe(16)})

    async def mark_read(self, message_id: int) -> None:
        """Say that a staff message was read; its sender is told, and every session of ours."""
        await self._say(orjson.dumps({"type": "message_read", "messageId": message_id}))

    # -- connecting ----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended

    def _become(self, state: State, why: str = "") -> None:
        if self._ended is not None and state != "stopped":
            return  # a poll that was under way has failed too
        if state != self.state:
            self.state = state
            if self._on_state is not None:
                _call(self._on_state, state, why)

    async def _run(self) -> None:
        reconnection = self._reconnection
        while self._ended is None:
            reconnection.begin(anyio.current_time())
            why = "closed"
            try:
                token = await self._current_token()
                with anyio.fail_after(OPEN_S):
                    socket = await self._open(token)
                reconnection.opened()
                try:
                    code, why = await self._talk(socket, token)
                finally:
                    with anyio.move_on_after(1, shield=True):
                        await socket.close()
                if (refused := reconnection.closed(code, why)) is not None:
                    self._end(refused)
                    return
            except Refused as error:
                self._end(error)
                return
            except (aiohttp.ClientError, OSError, TimeoutError, Unreachable) as error:
                why = str(error) or type(error).__name__
            finally:
                self._socket = None
            match reconnection.lost(why, anyio.current_time(), polled=self.state == "polling"):
                case End(ended):
                    self._end(ended)
                    return
                case Wait(seconds, polls):
                    if polls and not self._polling:
                        self._polling = True
                        self._tasks.start_soon(self._poll)
                    if self.state != "polling":
                        self._become("reconnecting", why)
                    await anyio.sleep(seconds)

    async def _current_token(self) -> str:
        if self._token is None or isinstance(self._token, str):
            return self._token or ""
        return await self._given_token(fresh=self._reconnection.wants_fresh)

    async def _given_token(self, *, fresh: bool) -> str:
        """Ask the application for a token.

        Raises:
            Refused, Unreachable: it gave none.
        """
        assert callable(self._token)
        try:
            with anyio.fail_after(TOKEN_S):
                return await (self._token(fresh=fresh) if isinstance(self._token, Login) else self._token())
        except ClientError:
            raise
        except Exception as error:  # whatever goes wrong in the application may go well the next time
            raise Unreachable(f"no token: {str(error) or type(error).__name__}") from error

    async def _open(self, token: str) -> aiohttp.ClientWebSocketResponse:
        query = {"device": self._device, "session": self._session_token, "answered": str(self._heard.answered)}
        capabilities = ",".join(
            word
            for word, handler in (
                ("clarification", self._on_clarification),
                ("available_data", self._on_available_data),
                ("api", self._on_api),
            )
            if handler is not None
        )
        query["capabilities"] = capabilities or "none"
        return await self._http.ws_connect(
            f"{self.url}/ws",
            params={name: value for name, value in query.items() if value},
            headers=_bearer(token),
            max_msg_size=0,
            timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
        )

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse, token: str) -> tuple[int | None, str]:
        """Take what comes until the connection ends; return the close code and its reason."""
        reason = ""
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(self._ping, socket)
            helpers.start_soon(self._keep_token, token)
            while True:
                try:
                    message = await socket.receive(timeout=SILENCE_S)
                except TimeoutError:
                    reason = "silent"
                    break
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._take(socket, orjson.loads(message.data))
                elif message.type is not aiohttp.WSMsgType.BINARY:
                    reason = message.extra or reason
                    break
            helpers.cancel_scope.cancel()
        if reason == "silent":
            return None, reason
        return socket.close_code, reason or str(socket.close_code)

    async def _ping(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while not socket.closed:
            await anyio.sleep(PING_S)
            await self._say(b'{"type":"ping"}')

    async def _keep_token(self, token: str) -> None:
        """Renew the token in the living connection, before it ends."""
        while callable(self._token) and (life_s := _life_left_s(token)) is not None:
            await anyio.sleep(max(1.0, life_s * RENEWED_AT))
            try:
                token = await self._given_token(fresh=True)
            except ClientError as error:
                logger.warning("the token could not be renewed: %s", error)
                await anyio.sleep(5.0)
                continue
            await self._say(orjson.dumps({"type": "token", "token": token}))

    async def _say(self, body: bytes) -> None:
        """Send where there is a connection; what must arrive is said again when there is one."""
        socket = self._socket
        if socket is None or socket.closed:
            return
        try:
            await socket.send_str(body.decode())
        except (ConnectionError, aiohttp.ClientError):
            logger.debug("a message was not sent: the connection is gone")

    def _end(self, error: ClientError) -> None:
        self._ended = error
        self._polling = False
        self._first_outcome.set()
        self._become("stopped", str(error))
        for topic in self.topics.values():
            topic.fail(error)
        for pending in self._requests.values():
            pending.result = error
            pending.done.set()

    # -- what comes ----------------------------------------------------------------------------------------------

    async def _take(self, socket: aiohttp.ClientWebSocketResponse, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "connected":
                await self._connected(socket, message)
            case "update":
                await self._update(message)
            case "ping":
                await self._say(orjson.dumps({"type": "pong", "data": message.get("data")}))
            case "response":
                self._heard.final(message.get("seq"))
                self._answer(message["requestId"], Answer(message["response"], message.get("remaining")))
            case "error":
                self._heard.final(message.get("seq"))
                self._error(message)
            case "progress":
                pending = self._requests.get(message["requestId"])
                if pending is not None and pending.on_progress is not None:
                    _call(pending.on_progress, message["message"])
            case "clarification_request" | "request_available_data" | "request_api":
                self._tasks.start_soon(self._callback, message)
            case "staff_message":
                await self._staff_message(message)

    async def _connected(self, socket: aiohttp.ClientWebSocketResponse, message: dict[str, Any]) -> None:
        self._socket = socket
        self._first_outcome.set()
        self._reconnection.greeted()
        self._polling = False
        self._heard.connected(resumed=message["resumed"])
        self.user, self._session_token = message["userId"], message["sessionToken"]
        self._become("connected")
        for topic in list(self.topics.values()):
            await self._subscribe(topic)
        # Also those that were sent before: one may have got lost with the link, and none is run twice.
        for pending in list(self._requests.values()):
            await self._say(orjson.dumps(pending.message | {"again": True}))

    async def _subscribe(self, topic: Topic) -> None:
        message = {"type": "subscribe", "topic": topic.name, **topic.position()}
        if topic.interval_s:
            message["interval"] = topic.interval_s
        await self._say(orjson.dumps(message))

    async def _subscribe_later(self, topic: Topic) -> None:
        """Ask again for a place in a topic that is full."""
        await anyio.sleep(FULL_WAIT_S * jitter())
        if self.topics.get(topic.name) is topic:
            await self._subscribe(topic)

    def _refuse(self, topic: Topic, error: Refused) -> None:
        del self.topics[topic.name]
        topic.fail(error)

    async def _update(self, message: dict[str, Any]) -> None:
        topic = self.topics.get(message["topic"])
        if topic is None:
            return
        try:
            topic.take(message)
        except Gap:
            await self._subscribe(topic)

    def _answer(self, request_id: str, result: Answer | ClientError) -> None:
        self._asked.over(request_id)
        pending = self._requests.get(request_id)
        if pending is not None and pending.result is None:
            pending.result = result
            pending.done.set()

    def _error(self, message: dict[str, Any]) -> None:
        data = dict(message["data"])
        code, text = data.pop("code"), data.pop("message")
        if (request_id := data.pop("requestId", None)) is not None:
            self._answer(request_id, RequestFailed(code, text, data))
        elif (topic := self.topics.get(message.get("topic", ""))) is not None:
            if code in FOR_A_WHILE:
                self._tasks.start_soon(self._subscribe_later, topic)
            else:
                self._refuse(topic, Refused(text, reason=code.lower()))
        else:
            logger.warning("the server says %s: %s", code, text)

    async def _callback(self, message: dict[str, Any]) -> None:
        asked, is_new = self._asked.take(message, connection=self._heard.connections, now=anyio.current_time())
        if is_new:
            with anyio.CancelScope(deadline=asked.deadline) as self._asking[asked]:
                asked.answer = await self._answer_to(message)
            del self._asking[asked]
        elif (time := self._asking.get(asked)) is not None:
            time.deadline = asked.deadline
            return  # it is being answered
        if asked.answer is not None:
            await self._say(orjson.dumps(asked.answer | {"requestId": asked.request_id}))

    async def _answer_to(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return what the application answers; None where it does not."""
        kind: str = message["type"]
        try:
            if kind == "clarification_request" and self._on_clarification is not None:
                text = await self._on_clarification(message["question"], message.get("options", []))
                return {"type": "human_response", "response": text}
            if kind == "request_available_data" and self._on_available_data is not None:
                return {"type": "available_data", "data": await self._on_available_data(message["question"])}
            if kind == "request_api" and self._on_api is not None:
                return {"type": "api_result", "result": await self._on_api(message["api"], message["params"])}
        except Exception:
            logger.exception("a callback failed")
        return None

    async def _staff_message(self, message: dict[str, Any]) -> None:
        if self._heard.is_new(message["id"]) and self._on_staff_message is not None:
            told = StaffMessage(
                message["id"],
                message["sender"],
                message["recipient"],
                message["message"],
                message["messageType"],
                message["audioUrl"],
                message["timestamp"],
            )
            self._tasks.start_soon(self._tell, told)

    async def _tell(self, message: StaffMessage) -> None:
        assert self._on_staff_message is not None
        try:
            await self._on_staff_message(message)
        except Exception:
            logger.exception("on_staff_message failed")

    # -- HTTP ----------------------------------------------------------------------------------------------------

    async def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        token = await self._current_token()
        try:
            async with self._http.post(f"{self.url}{path}", json=body, headers=headers | _bearer(token)) as response:
                answer: dict[str, Any] = await response.json(content_type=None)
                if response.status >= 400:
                    code = answer.pop("code", str(response.status))
                    raise RequestFailed(code, answer.get("detail", ""), answer)
                return answer
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unreachable(f"{path}: {error}") from error

    async def _poll(self) -> None:
        """Ask for topics over HTTP, where WebSocket does not get through."""
        while self._polling:
            for topic in list(self.topics.values()):
                try:
                    with anyio.fail_after(SILENCE_S):
                        status, body = await self._ask_for(topic)
                    if self._polling and self.topics.get(topic.name) is topic:
                        self._polled(topic, status, body)
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError, Gap, ClientError) as error:
                    self._become("reconnecting", str(error))
            await anyio.sleep(POLL_S)

    async def _ask_for(self, topic: Topic) -> tuple[int, dict[str, Any]]:
        headers = _bearer(await self._current_token())
        query = {name: str(value) for name, value in topic.position().items()}
        async with self._http.get(f"{self.url}/api/{topic.name}", params=query, headers=headers) as response:
            return response.status, orjson.loads(await response.read())

    def _polled(self, topic: Topic, status: int, body: dict[str, Any]) -> None:
        """Take the answer for a topic: its update, or why there is none."""
        if status == 200:
            topic.take(body)
            self._first_outcome.set()
            self._become("polling")
        elif status in (403, 404):
            reason = "forbidden" if status == 403 else "unknown_topic"
            self._refuse(topic, Refused(f"{topic.name}: {body.get('detail', reason)}", code=status, reason=reason))
        elif status == 401 and callable(self._token) and not self._reconnection.wants_fresh:
            self._reconnection.wants_fresh = True
        elif status == 401:
            reason = str(body.get("code", "token_invalid")).lower()
            self._end(Refused(f"{self.url}: the token is not good: {reason}", code=status, reason=reason))
        else:
            self._become("reconnecting", f"status {status}")


def _call(function: Callable[..., None], *arguments: Any) -> None:
    """Call what the application gave: its faults are not ours to die of."""
    try:
        function(*arguments)
    except Exception:
        logger.exception("%s failed", getattr(function, "__name__", "a callback"))


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _life_left_s(token: str) -> float | None:
    """Return how long a token is good, None where it does not say."""
    try:
        part = token.split(".")[1]
        claims = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return float(claims["exp"]) - time.time()
    except (IndexError, KeyError, ValueError, TypeError):
        return None
