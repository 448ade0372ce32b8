"""LoginLimits is slow, and no stranger can lock out whom an account knows."""

import pytest

from robodyne_rt.core.login_limits import Device, LoginLimits
from robodyne_rt.protocol.errors import RateLimited

STRANGER, COOKIE, ADDRESS = Device.UNKNOWN, Device.KNOWN_BY_COOKIE, Device.KNOWN_BY_ADDRESS


def wrong(guessing: LoginLimits, account: str, source: str, device: Device, now: float) -> int:
    """Guess until it is refused; return how often it was not."""
    for count in range(200):
        try:
            guessing.begin(account, source, device, now)
        except RateLimited as error:
            assert error.details["retry_after"] > 0
            return count
    return 200


def test_a_stranger_is_slowed_by_address_over_all_accounts() -> None:
    guessing = LoginLimits()
    assert wrong(guessing, "kim", "10.0.0.1", STRANGER, 0.0) == 20
    assert wrong(guessing, "lee", "10.0.0.1", STRANGER, 59.9) == 0
    assert wrong(guessing, "lee", "10.0.0.1", STRANGER, 60.0) == 20


def test_strangers_are_slowed_by_account_over_all_addresses_but_three_alone_lock_no_other_stranger_out() -> None:
    guessing = LoginLimits()
    for number in range(3):
        assert wrong(guessing, "kim", f"10.0.0.{number}", STRANGER, 0.0) == 20
    guessing.begin("kim", "10.0.0.9", STRANGER, 0.0).succeeded()
    assert sum(wrong(guessing, "kim", f"10.0.1.{number}", STRANGER, 0.0) for number in range(100)) == 4
    assert wrong(guessing, "lee", "10.0.2.1", STRANGER, 0.0) == 20


def test_a_storm_of_strangers_leaves_known_devices_alone_also_at_the_same_address() -> None:
    guessing = LoginLimits()
    for number in range(300):
        wrong(guessing, "kim", f"10.0.{number // 250}.{number % 250}", STRANGER, 0.0)
    for device in (COOKIE, ADDRESS):
        for _ in range(50):
            guessing.begin("kim", "10.0.0.1", device, 1.0).succeeded()


def test_all_cookies_of_an_account_share_ten_wrong_ones_in_ten_minutes() -> None:
    guessing = LoginLimits()
    assert sum(wrong(guessing, "kim", f"10.0.0.{number}", COOKIE, 0.0) for number in range(5)) == 10
    assert wrong(guessing, "kim", "10.0.0.9", COOKIE, 599.9) == 0
    assert wrong(guessing, "lee", "10.0.0.9", COOKIE, 0.0) == 10
    assert wrong(guessing, "kim", "10.0.0.9", ADDRESS, 0.0) == 10, "an address that is known has its own"
    assert wrong(guessing, "kim", "10.0.0.8", ADDRESS, 0.0) == 10
    assert wrong(guessing, "kim", "10.0.0.7", STRANGER, 0.0) == 20, "and so have strangers"
    assert wrong(guessing, "kim", "10.0.0.9", COOKIE, 600.0) == 10


def test_what_is_under_way_counts_so_that_many_at_once_are_no_more() -> None:
    guessing = LoginLimits()
    under_way = [guessing.begin("kim", "10.0.0.1", STRANGER, 0.0) for _ in range(20)]
    assert wrong(guessing, "kim", "10.0.0.1", STRANGER, 0.0) == 0
    under_way[0].succeeded()
    assert wrong(guessing, "kim", "10.0.0.1", STRANGER, 0.0) == 1


def test_bad_tokens_are_slowed_with_the_passwords_of_their_address() -> None:
    guessing = LoginLimits()
    for _ in range(20):
        guessing.wrong("10.0.0.1", 0.0)
    with pytest.raises(RateLimited):
        guessing.wrong("10.0.0.1", 0.0)
    assert wrong(guessing, "kim", "10.0.0.1", STRANGER, 0.0) == 0
    assert wrong(guessing, "kim", "10.0.0.2", STRANGER, 0.0) == 20
