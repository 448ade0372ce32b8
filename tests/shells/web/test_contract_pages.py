"""The contract is served whole, and its page shows it: with Swagger UI where that is installed, as links where it is not."""

import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from robodyne_rt.protocol.checking import Query
from robodyne_rt.web import contract, routes
from robodyne_rt.web.route import ROUTES


@pytest.fixture
async def client(aiohttp_client: Any) -> Any:
    async def openapi(request: web.Request) -> web.Response:
        return await contract.openapi(request, Query())

    async def asyncapi(request: web.Request) -> web.Response:
        return await contract.asyncapi(request, Query())

    app = web.Application()
    app[ROUTES] = routes.ROUTES
    app[contract.DOCUMENTS], app[contract.NAME] = {}, "test"
    app.router.add_get("/api/openapi.json", openapi)
    app.router.add_get("/api/asyncapi.json", asyncapi)
    app.router.add_get("/api/docs", contract.page)
    app.router.add_get("/api/docs/{asset}", contract.asset)
    return await aiohttp_client(app)


@pytest.fixture
def viewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "drf_spectacular_sidecar"
    files = package / "static/drf_spectacular_sidecar/swagger-ui-dist"
    files.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('needs Django')")
    (files / "swagger-ui.css").write_text("body {}")
    (files / "swagger-ui-bundle.js").write_text("1")
    (files / "other.html").write_text("no")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("drf_spectacular_sidecar", None)


async def test_both_documents_are_made_once(client: Any) -> None:
    for path, version in (("/api/openapi.json", "openapi"), ("/api/asyncapi.json", "asyncapi")):
        for _ in range(2):
            answer = await client.get(path)
            assert version in await answer.json()
    assert len(client.app[contract.DOCUMENTS]) == 2


@pytest.mark.usefixtures("viewer")
async def test_the_viewer_is_served_without_importing_its_package(client: Any) -> None:
    text = await (await client.get("/api/docs")).text()
    assert "swagger-ui-bundle.js" in text and "pip install" not in text
    assert await (await client.get("/api/docs/swagger-ui.css")).text() == "body {}"
    assert "/api/openapi.json" in await (await client.get("/api/docs/start.js")).text()


@pytest.mark.usefixtures("viewer")
@pytest.mark.parametrize("name", ["other.html", "..", "%2e%2e%2f__init__.py", "unknown"])
async def test_no_other_file_is_served(client: Any, name: str) -> None:
    assert (await client.get(f"/api/docs/{name}")).status >= 400


async def test_without_the_viewer_the_page_says_how_to_have_it(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "_viewer", lambda: None)
    answer = await client.get("/api/docs")
    assert "robodyne-rt[docs]" in await answer.text()
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert (await client.get("/api/docs/swagger-ui.css")).status >= 400
