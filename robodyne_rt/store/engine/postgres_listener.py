"""Hears that another program committed to Postgres (`LISTEN`), on a connection and in a thread of its own."""

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from robodyne_rt.core.retry import Backoff

LISTEN_PROBE_S = 5.0
"""How often the connection is asked whether it still lives: a half-open link is otherwise never noticed."""

FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 5.0


class PostgresChangeListener:
    """A connection of its own that listens; it comes back by itself, and after each return asks for a look."""

    def __init__(self, connect: Callable[[], "psycopg.Connection[Any]"], notify: Callable[[], None]) -> None:
        self.trouble = "not listening yet"
        self._connect = connect
        self._notify = notify
        self._stopped = threading.Event()
        self._wake, self._woken = socket.socketpair()

    def run(self) -> None:
        with self._wake, self._woken:
            self._run()

    def _run(self) -> None:
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while not self._stopped.is_set():
            try:
                with self._connect() as connection:
                    channel = connection.execute("SELECT quote_ident(current_schema()) || '.change'").fetchone()
                    assert channel is not None
                    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel[0])))
                    self.trouble = ""
                    backoff.reset()
                    self._notify()  # what was committed while nobody listened
                    self._listen(connection)
            except Exception as error:  # whatever the driver raises: the writer looks by itself meanwhile
                self.trouble = f"not listening: {' '.join(str(error).split())}"
                self._stopped.wait(backoff.next_s())

    def _listen(self, connection: "psycopg.Connection[Any]") -> None:
        while not self._stopped.is_set():
            link, wake = connection.fileno(), self._woken.fileno()
            poll = select.poll()  # `select.select` knows no descriptor above 1023
            poll.register(link, select.POLLIN)
            poll.register(wake, select.POLLIN)
            readable = dict(poll.poll(LISTEN_PROBE_S * 1000))
            if wake in readable:
                return
            if readable:
                connection.pgconn.consume_input()
                is_notified = False
                while connection.pgconn.notifies() is not None:
                    is_notified = True
                if is_notified:
                    self._notify()
                elif connection.pgconn.status != psycopg.pq.ConnStatus.OK:
                    raise psycopg.OperationalError("the connection was closed")
            else:
                connection.execute("SELECT 1")

    def stop(self) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
