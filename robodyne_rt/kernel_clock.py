"""What the kernel knows of the wall clock (adjtimex(2))."""

import ctypes
from typing import ClassVar

_TIME_ERROR = 5
_STA_UNSYNC = 0x0040


class _Timex(ctypes.Structure):
    """The head of `struct timex`; what follows is only room for the kernel to write to."""

    _fields_: ClassVar = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    ]


def is_synchronised() -> bool:
    """Return whether the kernel says that somebody (NTP) keeps the clock right; False where it cannot be asked."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError):
        return False
    timex = _Timex(modes=0)
    state = adjtimex(ctypes.byref(timex))
    return state not in (-1, _TIME_ERROR) and not timex.status & _STA_UNSYNC
