"""Tickets: good once, for a while, for whom they are; never more than so many."""

import pytest

from robodyne_rt.core.tickets import MAX_OPEN, TICKET_S, Tickets, digest
from robodyne_rt.model.access import Principal
from robodyne_rt.protocol.errors import RateLimited, TokenInvalid

KIM = Principal("kim", frozenset({"staff"}), frozenset({"read:robots"}))
PAGE = "https://one.example"


def test_a_ticket_is_good_for_thirty_seconds() -> None:
    tickets = Tickets()
    first, second = (tickets.issue(KIM, origin=None, now=100.0) for _ in range(2))
    assert first != second
    assert tickets.redeem(first, origin=None, now=100.0 + TICKET_S - 0.01) is KIM
    with pytest.raises(TokenInvalid):
        tickets.redeem(second, origin=None, now=100.0 + TICKET_S)


def test_a_ticket_is_good_once_even_when_it_was_refused() -> None:
    tickets = Tickets()
    for origins in ((PAGE, PAGE), (PAGE, None), ("https://other.example", PAGE), ("null", PAGE), (PAGE + "/", PAGE)):
        text = tickets.issue(KIM, origin=PAGE, now=0.0)
        for number, origin in enumerate(origins):
            if number == 0 and origin == PAGE:
                assert tickets.redeem(text, origin=origin, now=1.0) is KIM
            else:
                with pytest.raises(TokenInvalid):
                    tickets.redeem(text, origin=origin, now=1.0)


def test_unknown_tickets_are_refused_alike() -> None:
    tickets = Tickets()
    text = tickets.issue(KIM, origin=None, now=0.0)
    said = set()
    for guess in ("", "x", text[:-1], text + "x", text.swapcase(), digest(text), "é\0\U0001f600"):
        with pytest.raises(TokenInvalid) as caught:
            tickets.redeem(guess, origin=None, now=0.0)
        said.add(caught.value.text)
    assert len(said) == 1
    assert tickets.redeem(text, origin=None, now=0.0) is KIM


def test_tickets_are_bounded_and_room_comes_back() -> None:
    tickets = Tickets()
    for _ in range(MAX_OPEN):
        try:
            tickets.issue(KIM, origin=None, now=0.0)
        except RateLimited:
            break
    with pytest.raises(RateLimited) as caught:
        for _ in range(MAX_OPEN):
            tickets.issue(KIM, origin=None, now=1.0)
    assert caught.value.details["retry_after"] > 0
    assert tickets.issue(KIM, origin=None, now=TICKET_S + 1)


def test_no_ticket_is_kept_as_it_is() -> None:
    tickets = Tickets()
    text = tickets.issue(KIM, origin=None, now=0.0)
    assert len(text) >= 43 and text not in repr(vars(tickets))


def test_one_user_has_twenty_open_tickets_and_others_have_theirs() -> None:
    tickets = Tickets()
    for _ in range(20):
        tickets.issue(KIM, origin=None, now=0.0)
    with pytest.raises(RateLimited):
        tickets.issue(KIM, origin=None, now=0.0)
    tickets.issue(Principal("lee", frozenset(), frozenset()), origin=None, now=0.0)
