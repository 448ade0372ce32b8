"""Times as text and back: UTC, ISO 8601 with `Z` and microseconds, so that text order is time order (SPEC section 2)."""

from datetime import UTC, datetime

BUILT_AT_S = 1_793_491_200.0
"""2026-11-01: this program was made after it, so that no clock that is right shows less."""


def to_text(epoch_s: float) -> str:
    """Return epoch seconds as `2026-11-21T19:42:00.000001Z`."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def to_epoch_s(value: float | str) -> float:
    """Return epoch seconds of a number or an ISO 8601 text; a text without an offset is taken as UTC.

    Raises:
        ValueError: not a time.
    """
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= value < 253402300800:
        raise ValueError("a time outside the years 1970 to 9999")
    return float(value)
