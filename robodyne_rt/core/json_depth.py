"""How deeply JSON is nested. Encoders and screens give up at some depth; ours is 32, told to whoever sends more."""

from typing import Any

DEPTH_AT_MOST = 32


def is_too_deep(value: Any, depth: int = DEPTH_AT_MOST) -> bool:
    """Return whether decoded JSON is nested more than `depth` levels."""
    if isinstance(value, dict):
        return depth == 0 or any(is_too_deep(item, depth - 1) for item in value.values())
    if isinstance(value, list):
        return depth == 0 or any(is_too_deep(item, depth - 1) for item in value)
    return False
