"""How deeply JSON is nested. Encoders and screens give up at some depth; ours is 32, told to whoever sends more."""

from typing import Any

MAX_DEPTH = 32


def is_too_deep(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Return whether decoded JSON is nested more than `depth` levels."""
    if not isinstance(value, dict | list):
        return False
    if depth == 0:
        return True
    items = value.values() if isinstance(value, dict) else value
    return any(isinstance(item, dict | list) and is_too_deep(item, depth - 1) for item in items)
