"""Who sees what of the status: sessions, and what names paths, addresses and people, each by a right of its own."""

import json
from typing import Any

import pytest

from robodyne_rt.hub.status_views import StatusViews, visible
from robodyne_rt.model.access import Principal

DATA: dict[str, Any] = {
    "robots": {"by_status": {}},
    "storage": {"kind": "sqlite", "state": "spooling", "detail": "/data/spool.db"},
    "problems": [{"id": "serial", "severity": "warning", "text": {"en": "x", "ko": "y"}, "detail": "/dev/ttyUSB0"}],
    "sessions": [{"userId": "kim"}],
}


def principal(*rights: str) -> Principal:
    return Principal("x", frozenset(), frozenset(rights))


@pytest.mark.parametrize("rights", [(), ("sessions",), ("look",), ("sessions", "look"), ("*",)])
def test_each_right_opens_its_own(rights: tuple[str, ...]) -> None:
    views = StatusViews()
    views.publish(DATA, offset=1, epoch="e")
    text = views.of(principal(*rights)).payload.decode()
    data = json.loads(text)["data"]
    may_look, knows_who = {"look", "*"} & {*rights}, {"sessions", "*"} & {*rights}
    assert ("sessions" in data) == bool(knows_who)
    assert ("/dev/ttyUSB0" in text) == ("/data/spool.db" in text) == bool(may_look)
    assert data["problems"][0]["text"] == {"en": "x", "ko": "y"} and data["storage"]["state"] == "spooling"


def test_who_sees_no_difference_gets_no_update() -> None:
    views = StatusViews()
    views.publish(DATA, offset=1, epoch="e")
    views.publish(DATA | {"sessions": []}, offset=2, epoch="e")
    assert views.of(principal("sessions")).offset == 2
    assert views.of(principal("look")).offset == views.of(principal()).offset == 1
    problems = [DATA["problems"][0] | {"detail": "/dev/ttyUSB1"}]
    views.publish(DATA | {"sessions": [], "problems": problems}, offset=3, epoch="e")
    assert [views.of(principal(*rights)).offset for rights in ((), ("look",), ("sessions",))] == [1, 3, 2]


def test_what_is_published_stays_as_it_is() -> None:
    before = json.dumps(DATA)
    visible(DATA, sessions=False, look=False)
    assert json.dumps(DATA) == before
