"""When CI takes a ratio of the benchmark for a regression: beyond twice its target, and only a ratio."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts/benchmarks"))

from figures import Figure


@pytest.mark.parametrize(
    ("target", "at_least", "ratio", "beyond"),
    [(1.6, False, 3.2, False), (1.6, False, 3.21, True), (0.3, True, 0.15, False), (0.3, True, 0.149, True)],
)
def test_a_ratio_is_a_regression_beyond_twice_its_target(target: float, at_least: bool, ratio: float, beyond: bool) -> None:
    figure = Figure("group", "name", "us", target, at_least=at_least)
    for noise in (1.0, 2.0, 3.0):  # the best round counts: a busy machine makes it worse, never better
        figure.add(ratio / noise if at_least else ratio * noise, 1.0)
    assert figure.is_beyond(2.0) is beyond


def test_what_depends_on_the_machine_is_never_a_regression() -> None:
    assert not Figure("group", "name", "s", 1.0, compare="value", measured=[100.0]).is_beyond(2.0)
    assert not Figure("group", "name", "us", None, measured=[100.0], limits=[1.0]).is_beyond(2.0)
    assert not Figure("group", "name", "us", 1.0, measured=[100.0], limits=[1.0], spoiled="no idle core").is_beyond(2.0)
