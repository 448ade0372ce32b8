"""Ports for servers that must be told theirs."""

import random
import socket

_given: set[int] = set()
_chance = random.SystemRandom()
"""Not the one that hypothesis seeds: two workers would be given the same ports."""


def free_port() -> int:
    """Return a port that nobody listens on just now, and that was not given before.

    It lies below the kernel's own range: a device that dials a dead server's port there could, by chance, be given that very
    port and talk to itself.
    """
    while True:
        port = _chance.randint(15000, 32000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
