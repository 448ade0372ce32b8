"""Pauses grow, are bounded, and begin anew."""

from robodyne_rt.core.retry import Backoff


def test_pauses_double_up_to_the_longest_and_begin_anew() -> None:
    backoff = Backoff(0.05, 2.0)
    assert [backoff.next_s() for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    backoff.reset()
    assert [backoff.next_s() for _ in range(2)] == [0.05, 0.1]
