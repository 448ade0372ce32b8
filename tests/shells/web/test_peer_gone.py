"""A peer that goes away is no error of ours, whatever the kernel calls it; the same error of our own is."""

import errno
import logging
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from robodyne_rt.web import middleware

FAULTS = [
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ConnectionAbortedError(errno.ECONNABORTED, "Software caused connection abort"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    OSError(errno.EHOSTUNREACH, "No route to host"),
]


@pytest.fixture(autouse=True)
def without_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "CONTEXT", "context")
    monkeypatch.setattr(middleware, "check_host", lambda *arguments: None)
    monkeypatch.setattr(middleware, "check_origin", lambda *arguments: None)


async def guard(error: Exception, *, is_gone: bool) -> web.StreamResponse:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    transport = Mock(is_closing=lambda: is_gone)
    request = make_mocked_request("POST", "/api/device-messages", transport=transport, app={"context": Mock()})
    return await middleware.guard(request, handler)


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
async def test_only_where_the_peer_is_there_it_is_an_error_of_ours(error: OSError, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert (await guard(error, is_gone=True)).status == 400
        assert not caplog.records
        assert (await guard(error, is_gone=False)).status == 500
        assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_mistake_is_told_though_the_peer_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    await guard(KeyError("x"), is_gone=True)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
