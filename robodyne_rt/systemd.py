"""What systemd says and hears: readiness, watchdog, sockets that it opened for us, its journal (sd_notify(3),
sd_listen_fds(3), systemd.exec(5)). `app/lifecycle.py` feeds the watchdog.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import TextIO

_FIRST_FD = 3

NOTIFY_TIMEOUT_S = 1.0
"""A manager that does not read must not keep the loop waiting."""


def notify(state: str) -> bool:
    """Send a state such as `READY=1`; return False where nobody asked for it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(NOTIFY_TIMEOUT_S)
            sock.connect(address)
            sock.sendall(state.encode(errors="replace"))
    except OSError:  # no descriptor left, no manager that reads
        return False
    return True


def watchdog_interval_s() -> float | None:
    """Return how often the watchdog wants to hear from us at least, None where there is none for this process."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6


def listen_sockets(environment: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Return the listening sockets of a .socket unit in the order it names them; empty without one."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environment.get("LISTEN_FDS", "0"))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    found = []
    for index in range(count):
        sock = socket.socket(fileno=_FIRST_FD + index)
        sock.setblocking(False)
        sock.set_inheritable(False)
        found.append(sock)
    return found


def is_journal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the journal reads a stream: JOURNAL_STREAM is also inherited by those whose output goes elsewhere."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return environment.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
