"""The steps of an order and of its items (SPEC section 2): PLACED, PREPARING, READY, SERVING, SERVED; steps may be skipped.

CANCELLED may follow any step but SERVED. What devices say late or twice must never move an order back; foreign programs may
set any step, and a recall is no device's business.
"""

from collections.abc import Collection

from robodyne_rt.model.enums import OrderStatus

STEPS = (OrderStatus.PLACED, OrderStatus.PREPARING, OrderStatus.READY, OrderStatus.SERVING, OrderStatus.SERVED)
FINAL = (OrderStatus.SERVED, OrderStatus.CANCELLED)

_UNFINISHED = STEPS[:-1]
_BEFORE = {step: STEPS[:index] for index, step in enumerate(STEPS)} | {OrderStatus.CANCELLED: _UNFINISHED}


def steps_before(status: str) -> tuple[str, ...]:
    """Return the words from which an order, or an item, may come to `status`."""
    return _BEFORE[OrderStatus(status)]


def is_backwards(current: str, said: str) -> bool:
    """Return whether a word would move an order back, or out of SERVED or CANCELLED."""
    return said != current and current not in steps_before(said)


def with_items(status: str, items: Collection[str]) -> str:
    """Return the step of an order at `status` whose items are at these: the last item READY makes the order READY."""
    left = [item for item in items if item != OrderStatus.CANCELLED]
    is_ready = bool(left) and not any(item in steps_before(OrderStatus.READY) for item in left)
    return str(OrderStatus.READY) if is_ready and status in steps_before(OrderStatus.READY) else status
