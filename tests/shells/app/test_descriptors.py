"""Descriptors: raised to what is allowed, and shared so that devices find theirs."""

import logging
import resource

import pytest

from robodyne_rt.app import descriptors
from robodyne_rt.app.descriptors import MAX_HTTP, OWN, UNLIMITED, http_share


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "limit"),
    [
        (1024, 4096, True, 4096),
        (4096, 4096, True, 4096),
        (1024, resource.RLIM_INFINITY, True, UNLIMITED),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, True, UNLIMITED),
        (1024, 4096, False, 1024),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, allowed: bool, limit: int
) -> None:
    wanted: list[tuple[int, int]] = []

    def setrlimit(which: int, limits: tuple[int, int]) -> None:
        if not allowed:
            raise OSError(1, "not permitted")
        wanted.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert descriptors.raise_limit() == limit
    assert wanted == ([(limit, hard)] if allowed and soft not in (limit, resource.RLIM_INFINITY) else [])


def test_http_leaves_the_descriptors_of_devices_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert http_share(1024, devices=500) == 1024 - 500 - OWN
    assert http_share(1 << 20, devices=500) == MAX_HTTP
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        assert http_share(256, devices=500) == 64
    assert [record.__dict__["action"] for record in caplog.records] == ["descriptors_few"]
