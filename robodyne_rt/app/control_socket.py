"""The socket for this machine's own commands (`dlq`, `user`, `backup`, `doctor`): beside the spool, for the server's user only.

A socket's path may have about a hundred bytes, a folder's far more: the folder is opened, and the socket named through that.
"""

import logging
import os
from pathlib import Path

import anyio
from aiohttp import web

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
"""How often it is looked whether the socket is still there: what tidies up a folder must not cut commands off."""


class ControlSocket:
    """One socket of a running server; it is made again when it vanishes.

    Args:
        runner: set up; serves what comes in.
    """

    def __init__(self, runner: web.AppRunner, path: Path) -> None:
        self._runner = runner
        self._path = path
        self._folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._site: web.UnixSite | None = None
        self._inode = 0
        self._told = ""
        self._is_closed = False

    async def listen(self) -> None:
        """Listen; what cannot be done is said in the log, and tried again by `run`."""
        try:
            former, self._site = self._site, None
            if former is not None:
                await former.stop()
            site = web.UnixSite(self._runner, f"/proc/self/fd/{self._folder}/{self._path.name}")
            await site.start()
            self._site = site
            self._path.chmod(0o600)
            self._inode = self._path.stat().st_ino
            self._told = ""
        except OSError as error:
            if self._told != str(error):
                logger.warning("%s: %s: commands cannot reach this server", self._path, error)
            self._told = str(error)

    async def run(self) -> None:
        """Look after the socket until cancelled; one that was closed is not missed."""
        while True:
            await anyio.sleep(LOOK_INTERVAL_S)
            if not self._is_closed and not self._is_there():
                logger.warning("%s vanished and is made again", self._path, extra={"action": "control_socket_lost"})
                with anyio.CancelScope(shield=True):  # a socket that was bound is known, and taken away in the end
                    await self.listen()
                if self._is_closed:
                    self._take_away()

    def _is_there(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Take the socket away, if it is still ours."""
        self._is_closed = True
        self._take_away()
        os.close(self._folder)

    def _take_away(self) -> None:
        if self._is_there():
            self._path.unlink(missing_ok=True)
