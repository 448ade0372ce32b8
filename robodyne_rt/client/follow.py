"""Follow one topic from Python: reconnects, resumes from its position, and never shows a gap (SPEC sections 3 and 10)."""

import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anyio
import orjson

from robodyne_rt.client.errors import Refused
from robodyne_rt.core.retry import Backoff
from robodyne_rt.protocol.errors import retry_after_close

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
STEADY_S = 10.0


async def follow(url: str, topic: str, *, interval_s: float = 0.0, token: str = "") -> AsyncIterator[dict[str, Any]]:
    """Yield a topic's messages, snapshots and updates, for ever; connections come and go unseen.

    A message of type `lost` (made here, `data.reason`) says that the connection broke.

    Args:
        url: of the server, `http://host:8000`.
        interval_s: least time between two updates; 0 for each at once.
        token: who asks; empty where the topic is open to everybody.
    Raises:
        Refused: unknown topic, or no right to read it.
    """
    offset, epoch, backoff = None, None, Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(headers=headers) as session:
        while True:
            query = {"interval": str(interval_s)} if interval_s else {}
            if offset is not None:
                query |= {"since": str(offset), "epoch": str(epoch)}
            reason = "closed"
            since = anyio.current_time()
            try:
                address = f"{url.rstrip('/')}/ws/{topic}"
                async with session.ws_connect(address, params=query, max_msg_size=0, autoclose=True) as socket:
                    while (raw := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                        message = orjson.loads(raw.data)
                        if message["type"] == "ping":
                            await socket.send_str(orjson.dumps({"type": "pong", "data": message["data"]}).decode())
                            continue
                        if message["type"] == "update" and "offset" in message:
                            if not message.get("snapshot") and offset is not None and message["prev"] > offset:
                                reason = "gap"
                                break
                            offset, epoch = message["offset"], message.get("epoch", epoch)
                        yield message
                    code, why = socket.close_code, str(raw.extra or "") if raw.type is aiohttp.WSMsgType.CLOSE else ""
                if code is not None and retry_after_close(code, why) in ("never", "after_login", "after_refresh"):
                    raise Refused(f"{address}: refused: {why} (close code {code})", code=code, reason=why)
                reason = why or f"close code {code}" if reason == "closed" else reason
            except aiohttp.ClientError as error:
                reason = str(error)
            yield {"type": "lost", "topic": topic, "data": {"reason": reason}}
            if anyio.current_time() - since >= STEADY_S:
                backoff.reset()
            await anyio.sleep(backoff.next_s() * random.uniform(0.5, 1.0))
