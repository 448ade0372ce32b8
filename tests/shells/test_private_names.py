"""What we use of aiohttp though it is not public: named here, so that a new version cannot take it away unseen."""

import ast
import inspect
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

import robodyne_rt
from robodyne_rt.model.access import Networks
from robodyne_rt.web.connections import HttpConnections
from robodyne_rt.web.runner import Connection, Runner, _Server

USED: dict[type, set[str]] = {
    web.AppRunner: {"_make_server"},
    web.Server: {"_loop", "_kwargs"},
}
"""In `robodyne_rt/web/runner.py`, the only place."""


def private_names(path: Path) -> set[str]:
    """Return the private names that a module uses, of others than its own objects, or overrides."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner not in ("self", "cls"):
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names if (node.module or "").startswith("aiohttp")}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def test_private_names_of_aiohttp_are_used_in_one_place() -> None:
    root = Path(robodyne_rt.__file__).parent
    sources = {path: path.read_text() for path in root.rglob("*.py")}
    ours = {node.name for text in sources.values() for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}  # fmt: skip
    ours -= {"_make_server"}  # ours by overriding aiohttp's
    for path, text in sources.items():
        if "aiohttp" in text:
            expected = set().union(*USED.values()) if path.name == "runner.py" else set()
            assert private_names(path) - ours == expected, path


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in USED.items() for name in sorted(names)])
def test_aiohttp_still_has(owner: type, name: str) -> None:
    assert hasattr(owner, name) or name in inspect.getsource(owner)


async def test_the_server_that_aiohttp_makes_answers_with_our_handler() -> None:
    connections = HttpConnections(limit=10, trusted_proxies=Networks([]), now=lambda: 0.0)
    runner = Runner(web.Application(), connections=connections, keepalive_timeout=7.0)
    await runner.setup()
    try:
        server = runner.server
        assert isinstance(server, _Server)
        handler = server()
        assert isinstance(handler, Connection) and isinstance(handler, RequestHandler)
        assert handler.keepalive_timeout == 7.0  # what the runner was told has arrived
    finally:
        await runner.cleanup()
