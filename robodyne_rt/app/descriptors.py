"""File descriptors: as many as the system allows, shared so that browsers leave those of the devices alone."""

import logging
import resource

logger = logging.getLogger(__name__)

OWN = 96
"""What the server itself has open: database, spool, readers, sockets that listen, a backup; and what it refuses just now."""

LEAST_PART = 4
"""One in so many is for HTTP at least, where there are too few for all."""

MAX_HTTP = 32_768
"""More HTTP connections than this are too many for the memory of an edge box (about 14 KiB each)."""

UNLIMITED = 1 << 20
"""What Linux lets a process have where nothing else limits it (fs.nr_open)."""


def raise_limit() -> int:
    """Take as many descriptors as we may; return how many that is. A usual login gives 1024 of them and allows far more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft not in (resource.RLIM_INFINITY, wanted):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            wanted = soft  # a sandbox may say no
    return wanted


def http_share(limit: int, *, devices: int) -> int:
    """Return how many HTTP connections there may be, WebSockets among them, so that every device still finds a place.

    Args:
        limit: descriptors of this process.
        devices: how many of them may connect.
    """
    left = limit - devices - OWN
    if left < limit // LEAST_PART:
        logger.warning(
            "%d file descriptors are few for %d devices and everything else: raise LimitNOFILE (systemd) or ulimit -n",
            limit,
            devices,
            extra={"action": "descriptors_few"},
        )
    return max(1, min(MAX_HTTP, max(left, limit // LEAST_PART)))
