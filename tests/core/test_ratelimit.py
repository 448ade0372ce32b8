"""A token bucket lets a burst through, and then the rate."""

from robodyne_rt.core.ratelimit import TokenBucket


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
    assert bucket.take(50.0) > 0
