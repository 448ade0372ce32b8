"""An order goes forwards, by what devices say; the last item that is ready makes it ready."""

import pytest

from robodyne_rt.core import order_steps

FORWARDS = ["PLACED", "PREPARING", "READY", "SERVING", "SERVED"]


@pytest.mark.parametrize("current", FORWARDS)
@pytest.mark.parametrize("said", FORWARDS)
def test_steps_may_be_skipped_and_never_go_back(current: str, said: str) -> None:
    assert order_steps.is_backwards(current, said) is (FORWARDS.index(said) < FORWARDS.index(current))


@pytest.mark.parametrize("current", FORWARDS)
def test_cancelled_comes_from_any_step_but_served_and_ends_it(current: str) -> None:
    assert order_steps.is_backwards(current, "CANCELLED") is (current == "SERVED")
    assert order_steps.is_backwards("CANCELLED", current)
    assert not order_steps.is_backwards("CANCELLED", "CANCELLED")


@pytest.mark.parametrize(
    ("status", "items", "becomes"),
    [
        ("PREPARING", ["READY", "READY"], "READY"),
        ("PLACED", ["READY", "SERVED"], "READY"),
        ("PREPARING", ["READY", "CANCELLED"], "READY"),
        ("PREPARING", ["READY", "PREPARING"], "PREPARING"),
        ("PREPARING", ["READY", "PLACED"], "PREPARING"),
        ("PREPARING", ["CANCELLED", "CANCELLED"], "PREPARING"),
        ("PREPARING", [], "PREPARING"),
        ("READY", ["PLACED"], "READY"),
        ("SERVING", ["READY"], "SERVING"),
        ("SERVED", ["READY"], "SERVED"),
        ("CANCELLED", ["READY"], "CANCELLED"),
    ],
)
def test_the_last_item_ready_makes_the_order_ready(status: str, items: list[str], becomes: str) -> None:
    assert order_steps.with_items(status, items) == becomes
