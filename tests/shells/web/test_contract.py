"""The contract that the server publishes is valid, whole, and made from the tables that the server works by."""

import json
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from robodyne_rt.model.topics import PUBLIC_TOPICS, TOPIC_NAMES
from robodyne_rt.protocol import asyncapi, client_types, openapi, session_messages
from robodyne_rt.protocol.errors import all_errors
from robodyne_rt.web.routes import ROUTES


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return openapi.document(ROUTES, name="test", version="1")


@pytest.fixture(scope="module")
def channels() -> dict[str, Any]:
    return asyncapi.document(name="test", version="1")


def test_the_openapi_document_is_valid_json_and_valid(api: dict[str, Any]) -> None:
    assert json.loads(json.dumps(api)) == api
    validate(api)


def test_every_route_stands_in_the_openapi_document(api: dict[str, Any]) -> None:
    operations = {(method.upper(), path) for path, found in api["paths"].items() for method in found}
    assert len(operations) == len(ROUTES) - 3 - 1 + len(TOPIC_NAMES), "all but the three WebSockets; each topic by itself"
    ids = [operation["operationId"] for found in api["paths"].values() for operation in found.values()]
    assert len(ids) == len(set(ids))
    assert all(operation["summary"].endswith(".") for found in api["paths"].values() for operation in found.values())


def test_what_needs_a_right_says_so(api: dict[str, Any]) -> None:
    assert "security" not in api["paths"]["/api/auth/login"]["post"]
    assert api["paths"]["/api/users"]["get"]["x-right"] == "administer"
    assert api["paths"]["/api/robots"]["get"]["x-right"] == "read:robots"
    assert "401" in api["paths"]["/api/users"]["get"]["responses"]


def test_each_topic_has_rows_of_its_own(api: dict[str, Any]) -> None:
    for topic in PUBLIC_TOPICS:
        schema = api["paths"][f"/api/{topic}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["properties"]["data"]["items"]["$ref"].rpartition("/")[2] in api["components"]["schemas"]


def test_every_message_of_a_client_stands_in_the_asyncapi_document(channels: dict[str, Any]) -> None:
    assert json.loads(json.dumps(channels)) == channels
    named = channels["channels"]["session"]["messages"]
    assert {f"client.{kind}" for kind in session_messages.CLIENT_TYPES} | {"client.sendMessage"} <= named.keys()
    assert "client.query" not in channels["channels"]["topic"]["messages"]


def test_every_close_is_explained(channels: dict[str, Any]) -> None:
    for error in all_errors():
        if "close_reason" in vars(error):
            assert f"`{error.close_reason}`" in channels["info"]["description"]


PAGES = Path(__file__).parents[3] / "robodyne_rt/web/pages"


def test_what_the_javascript_client_was_made_from_is_what_the_server_says() -> None:
    assert (PAGES / "rows.d.ts").read_text() == client_types.row_types(), "run scripts/contract"
    client = (PAGES / "robodyne-client.js").read_text()
    assert client == client_types.with_closes(client), "run scripts/contract"
