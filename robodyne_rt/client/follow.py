"""Follow one topic from Python: reconnects, resumes from its position, and never shows a gap (SPEC sections 3 and 10)."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anyio
import orjson

from robodyne_rt.client.core import End, Reconnection, Wait, jitter


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
    offset, epoch = None, None
    address = f"{url.rstrip('/')}/ws/{topic}"
    reconnection = Reconnection(address, tries=None, renews=False, jitter=jitter)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(headers=headers) as session:
        while True:
            query = {"interval": str(interval_s)} if interval_s else {}
            if offset is not None:
                query |= {"since": str(offset), "epoch": str(epoch)}
            reason = "closed"
            reconnection.begin(anyio.current_time())
            try:
                async with session.ws_connect(address, params=query, max_msg_size=0, autoclose=True) as socket:
                    reconnection.opened()
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
                if (refused := reconnection.closed(code, why)) is not None:
                    raise refused
                reason = why or f"close code {code}" if reason == "closed" else reason
            except aiohttp.ClientError as error:
                reason = str(error)
            yield {"type": "lost", "topic": topic, "data": {"reason": reason}}
            match reconnection.lost(reason, anyio.current_time()):
                case Wait(seconds):
                    await anyio.sleep(seconds)
                case End(ended):
                    raise ended
