"""Pairings: good once, for a while, for whom they are; never more than so many."""

from collections.abc import Callable

import pytest

from robodyne_rt.core.pairing import MAX_OPEN, PAIRING_S, Pairings
from robodyne_rt.model.access import Principal
from robodyne_rt.protocol.errors import RateLimited, ResourceNotFound

KIM = Principal("kim", frozenset({"staff"}), frozenset({"read:robots"}))
PAGE = "https://one.example"


def test_no_id_is_kept_as_it_is() -> None:
    pairings = Pairings()
    secret, _ = pairings.begin(address="x", now=0.0)
    assert len(secret) >= 43 and secret not in repr(vars(pairings))


def test_a_pairing_ends_after_ten_minutes() -> None:
    pairings = Pairings()
    secret, pairing = pairings.begin(address="x", now=0.0)
    late = PAIRING_S
    assert pairings.by_code(pairing.code, late - 0.01) is pairing
    assert pairings.look(secret, late - 0.01) is pairing
    looks: tuple[Callable[[], object], ...] = (
        lambda: pairings.by_code(pairing.code, late),
        lambda: pairings.look(secret, late),
    )
    for look in looks:
        with pytest.raises(ResourceNotFound):
            look()
    assert pairings.waiting(late) == []


def test_an_approved_pairing_is_told_once_and_its_code_is_void() -> None:
    pairings = Pairings()
    secret, pairing = pairings.begin(address="x", now=0.0)
    assert pairings.look(secret, 1.0).token == ""
    pairings.approve(pairing, label="wall", token="given")
    with pytest.raises(ResourceNotFound):
        pairings.approve(pairing, label="wall", token="again")
    with pytest.raises(ResourceNotFound):
        pairings.by_code(pairing.code, 1.0)
    assert pairings.look(secret, 2.0, takes=False).token == "given"
    assert pairings.look(secret, 2.0).token == "given"
    with pytest.raises(ResourceNotFound):
        pairings.look(secret, 2.0)


def test_a_code_is_six_digits_and_never_shown_on_two_screens() -> None:
    pairings = Pairings()
    codes = {pairings.begin(address=f"10.0.{number // 250}.{number % 250}", now=0.0)[1].code for number in range(MAX_OPEN)}
    assert len(codes) == MAX_OPEN and all(len(code) == 6 and code.isdecimal() for code in codes)
    with pytest.raises(RateLimited):
        pairings.begin(address="x", now=1.0)
    assert pairings.begin(address="x", now=PAIRING_S + 1)


def test_ten_addresses_cannot_hold_all_places() -> None:
    pairings = Pairings()
    held = [pairings.begin(address=f"10.0.0.{number % 10}", now=0.0) for number in range(MAX_OPEN)]
    pairings.approve(held[0][1], label="wall", token="given")
    screens = [pairings.begin(address=f"10.0.1.{number}", now=1.0) for number in range(50)]
    assert len(pairings.waiting(1.0)) == MAX_OPEN - 1
    for secret, pairing in (*screens, held[0], held[-1]):
        assert pairings.look(secret, 2.0) is pairing
    with pytest.raises(ResourceNotFound):
        pairings.look(held[1][0], 2.0)
    with pytest.raises(ResourceNotFound):
        pairings.approve(held[1][1], label="gone", token="given")


def test_the_addresses_of_one_household_are_one() -> None:
    pairings = Pairings()
    for number in range(MAX_OPEN):
        pairings.begin(address=f"2001:db8::{number:x}", now=0.0)
    pairings.begin(address="2001:db8:1::1", now=0.0)
    assert len(pairings.waiting(0.0)) == MAX_OPEN


@pytest.mark.parametrize("code", ["", "x", "00000", "0000000", "１２３４５６", "é", "\0"])
def test_what_is_no_code_finds_no_screen(code: str) -> None:
    pairings = Pairings()
    for _ in range(20):
        pairings.begin(address="x", now=0.0)
    with pytest.raises(ResourceNotFound):
        pairings.by_code(code, 0.0)
