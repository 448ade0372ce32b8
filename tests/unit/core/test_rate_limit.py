"""A token bucket lets a burst through, and then the rate; a window allows so many in so many seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.core.rate_limit import SlidingWindow, TimeShare, TokenBucket, Verdict


def test_a_burst_passes_and_the_next_is_told_when() -> None:
    bucket = TokenBucket(rate_per_s=2, burst=3)
    assert [bucket.take(10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(10.0) == 0.5
    assert bucket.take(10.5) == 0.0
    assert bucket.take(10.5) == 0.5


def test_rest_fills_it_up_to_the_burst_and_no_further() -> None:
    bucket = TokenBucket(rate_per_s=2, burst=3)
    bucket.take(0.0)
    assert [bucket.take(1000.0) == 0.0 for _ in range(5)] == [True, True, True, False, False]


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=1)
    assert bucket.take(100.0) == 0.0
    assert 0 < bucket.take(50.0) <= 1.0, "nor does it take anything"


# -- any so many in so many seconds ------------------------------------------------------------------------------------------


def test_a_window_allows_so_many_and_says_when_the_next_is_free() -> None:
    window = SlidingWindow(limit=3, window_s=60.0)
    assert [window.take("anna", at).remaining for at in (0.0, 10.0, 20.0)] == [2, 1, 0]
    assert window.take("anna", 30.0) == Verdict(30.0, 0)
    assert window.take("anna", 59.0) == Verdict(1.0, 0)
    assert window.take("anna", 60.0) == Verdict(0.0, 0)  # the first one is a minute ago
    assert window.take("anna", 60.0) == Verdict(10.0, 0)


def test_what_is_refused_does_not_count_and_looking_does_not_take() -> None:
    window = SlidingWindow(limit=2, window_s=10.0)
    assert [window.look("anna", 0.0) for _ in range(5)] == [Verdict(0.0, 2)] * 5
    window.take("anna", 0.0)
    window.take("anna", 0.0)
    for at in range(9):
        assert window.take("anna", float(at)).retry_after == 10.0 - at
    assert window.take("anna", 10.0) == Verdict(0.0, 1)


def test_each_key_has_its_own_window() -> None:
    window = SlidingWindow(limit=1, window_s=10.0)
    assert window.take("anna", 0.0) == window.take("bert", 0.0) == window.take(("session", "anna"), 0.0) == Verdict(0.0, 0)
    assert window.take("anna", 1.0).retry_after == 9.0


def test_the_keys_that_were_quiet_longest_are_forgotten_first() -> None:
    window = SlidingWindow(limit=1, window_s=10.0, keys_at_most=2)
    for at, key in enumerate(("a", "b", "c")):
        window.take(key, float(at))
    assert window.look("a", 3.0).remaining == 1
    assert (window.look("b", 3.0).remaining, window.look("c", 3.0).remaining) == (0, 0)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 5), st.floats(0.1, 20))
def test_never_more_than_the_limit_in_any_window(steps: list[float], limit: int, window_s: float) -> None:
    window = SlidingWindow(limit=limit, window_s=window_s)
    now, taken = 0.0, []
    for step in steps:
        now += step
        verdict = window.take("anna", now)
        assert verdict.retry_after >= 0 and 0 <= verdict.remaining < limit
        if verdict.retry_after:
            assert verdict.retry_after <= window_s * 1.000001
        else:
            taken.append(now)
            assert sum(now - at < window_s * 0.999999 for at in taken) <= limit  # the edge itself is a matter of rounding


def test_a_moment_before_the_window_is_over_is_not_after_it() -> None:
    """`now - at` and `at + window_s - now` round differently."""
    window = SlidingWindow(limit=1, window_s=60.0)
    window.take("anna", 4063.6560941460507)
    verdict = window.take("anna", 4123.65609414605)
    assert verdict.remaining >= 0, verdict


def test_work_within_its_share_of_the_time_never_rests() -> None:
    share = TimeShare(share=0.5, burst_s=0.01)
    assert all(share.spend(now, now + 0.004) == 0.0 for now in (0.01 * turn for turn in range(100)))


def test_work_beyond_its_share_rests_until_it_may_take_as_much_again() -> None:
    share = TimeShare(share=0.5, burst_s=0.01)
    assert share.spend(0.0, 0.004) == 0.0
    rest_s = share.spend(0.004, 0.03)
    assert rest_s == pytest.approx((0.01 + 0.005) / 0.5)  # half of the 0.03 s worked is paid by the share, 0.01 was saved
    assert share.spend(0.03 + rest_s, 0.03 + rest_s) == 0.0


def test_in_the_long_run_work_takes_its_share() -> None:
    share, now, worked_s = TimeShare(share=0.25, burst_s=0.01), 0.0, 0.0
    while now < 100.0:
        rest_s = share.spend(now, now + 0.02)
        now += 0.02 + rest_s
        worked_s += 0.02
    assert worked_s / now == pytest.approx(0.25, rel=0.01)


def test_time_without_work_is_saved_up_to_the_burst_only() -> None:
    share = TimeShare(share=0.5, burst_s=0.01)
    share.spend(0.0, 0.0)
    assert share.spend(100.0, 100.03) > 0.0
