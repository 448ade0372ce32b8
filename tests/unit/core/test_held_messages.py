"""Whom a staff message is for, and what is held until it is in the database."""

from typing import Any

import pytest

from robodyne_rt.core import held_messages
from robodyne_rt.core.held_messages import HeldMessages, addresses, is_for
from robodyne_rt.model.access import ROLES, Principal


def somebody(name: str, *roles: str, **fields: Any) -> Principal:
    return Principal(name, frozenset(roles), frozenset(), **({"is_bearer": True} | fields))


KIM = somebody("kim", "kitchen", "staff")


def message(id: int = 1, *, sender: str = "lee", recipient: str = "kim") -> dict[str, Any]:
    return {"id": id, "sender": sender, "recipient": recipient}


def test_somebody_is_meant_by_name_and_by_each_role() -> None:
    assert addresses(KIM) == ["kim", "role:kitchen", "role:staff"]


def test_where_nobody_logs_in_every_role_means_everybody() -> None:
    assert addresses(somebody("guest", is_bearer=False)) == ["guest", *(f"role:{role}" for role in ROLES)]
    assert addresses(somebody("anonymous", is_bearer=False, is_anonymous=True)) == ["anonymous"]


@pytest.mark.parametrize(
    ("sender", "recipient", "reaches"),
    [
        ("lee", "kim", True),
        ("lee", "role:kitchen", True),
        ("lee", "role:manager", False),
        ("lee", "lee", False),
        ("kim", "kim", True),  # a note to oneself
        ("kim", "role:kitchen", False),  # who writes to their role knows what they wrote
    ],
)
def test_a_message_reaches_whom_it_is_for(sender: str, recipient: str, reaches: bool) -> None:
    assert is_for(KIM, message(sender=sender, recipient=recipient)) is reaches


def test_where_nobody_logs_in_all_have_the_same_name_and_are_told() -> None:
    assert is_for(somebody("kitchen-1", is_bearer=False), message(sender="kitchen-1", recipient="role:kitchen"))


def test_a_message_is_held_from_its_acceptance_until_the_database_has_it() -> None:
    held = HeldMessages()
    held.begin(message(1))
    held.begin(message(2, recipient="lee"))
    assert held.of(KIM) == [message(1)]
    held.end(1)
    assert held.of(KIM) == []


def test_what_is_only_spooled_is_held_until_it_is_drained() -> None:
    held = HeldMessages()
    for id in (1, 2):
        held.begin(message(id))
    held.spooled(1)
    held.end(1)
    assert held.of(KIM) == [message(1), message(2)]
    held.let_go()
    assert held.of(KIM) == [message(2)]
    held.spooled(9)  # one that was sent again: the first one is held already
    assert held.of(KIM) == [message(2)]


def test_no_more_is_taken_where_storing_is_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    assert held_messages.MAX_HELD == 10_000
    monkeypatch.setattr(held_messages, "MAX_HELD", 2)
    held = HeldMessages()
    held.begin(message(1))
    held.spooled(1)
    held.end(1)
    assert not held.is_full
    held.begin(message(2))
    assert held.is_full


def test_a_key_is_its_senders_and_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_messages, "MAX_HELD", 2)
    held = HeldMessages()
    for id in (1, 2, 3):
        held.remember("lee", f"k{id}", id)
    held.remember("lee", None, 4)
    assert [held.came_before("lee", f"k{id}") for id in (1, 2, 3)] == [None, 2, 3]
    assert held.came_before("kim", "k3") is None
