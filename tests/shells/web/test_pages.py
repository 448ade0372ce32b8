"""The server's pages are sent once: compressed where a browser takes that, and not again while they are the same."""

import gzip
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from robodyne_rt.web import pages

Client = TestClient[web.Request, web.Application]

SCRIPT = resources.files(pages.__name__).joinpath("app.js").read_bytes()


@pytest.fixture
async def client(aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    app = web.Application()
    for path, handler in pages.handlers().items():
        app.router.add_get(path, handler)
    return await aiohttp_client(app, auto_decompress=False, skip_auto_headers=["Accept-Encoding"])


@pytest.mark.parametrize(
    ("accepted", "is_gzip"),
    [
        ("gzip, deflate, br", True),
        ("GZIP", True),
        ("br;q=1.0, gzip;q=0.2", True),
        ("*", True),
        ("deflate, *;q=0.1", True),
        (None, False),
        ("", False),
        ("br", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*;q=0", False),
        ("xgzip", False),
        (";;,q=", False),
    ],
)
async def test_who_takes_gzip_gets_it(client: Client, accepted: str | None, is_gzip: bool) -> None:
    async with client.get("/static/app.js", headers={} if accepted is None else {"Accept-Encoding": accepted}) as answer:
        body = await answer.read()
    assert answer.status == 200
    assert answer.headers.get("Content-Encoding") == ("gzip" if is_gzip else None)
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert int(answer.headers["Content-Length"]) == len(body)
    assert (gzip.decompress(body) if is_gzip else body) == SCRIPT
    assert not is_gzip or len(body) < len(SCRIPT) / 2


async def test_what_a_browser_has_is_not_sent_again(client: Client) -> None:
    tags = {}
    for accepted in ("gzip", "identity"):
        async with client.get("/", headers={"Accept-Encoding": accepted}) as answer:
            tags[accepted] = answer.headers["ETag"]
            assert answer.headers["Cache-Control"] == "no-cache"
    assert tags["gzip"] != tags["identity"], "a proxy must not take one form for the other"
    for known in (tags["gzip"], f"W/{tags['gzip']}", f'"old", {tags["identity"]}', "*"):
        async with client.get("/", headers={"Accept-Encoding": "gzip", "If-None-Match": known}) as answer:
            assert answer.status == 304 and await answer.read() == b""
            assert answer.headers["ETag"] == tags["gzip"]
            assert "Content-Encoding" not in answer.headers and "frame-ancestors" in answer.headers["Content-Security-Policy"]
    for other in ('"old"', tags["gzip"][:-2] + '"', "nonsense", "", '"*"x'):
        async with client.get("/", headers={"If-None-Match": other}) as answer:
            assert answer.status == 200 and await answer.read()


async def test_every_page_has_its_type_and_a_tag_of_its_own(client: Client) -> None:
    seen: dict[str, Any] = {}
    for path in pages.handlers():
        async with client.get(path) as answer:
            seen[path] = (answer.headers["Content-Type"], answer.headers["ETag"])
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert seen["/static/robodyne-client.d.ts"][0] == "application/typescript; charset=utf-8"
    assert len({tag for _, tag in seen.values()}) == len(seen)
