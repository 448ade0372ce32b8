"""The least that aiohttp needs for a WebSocket: what the memory of an idle connection is held against.

Prints {"port": P} and serves until its standard input ends.
"""

import asyncio
import json
import sys

from aiohttp import web


async def socket(request: web.Request) -> web.WebSocketResponse:
    """Read until the client goes."""
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for _ in websocket:
        pass
    return websocket


async def main() -> None:
    """Serve on a free port of 127.0.0.1."""
    app = web.Application()
    app.router.add_get("/", socket)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
