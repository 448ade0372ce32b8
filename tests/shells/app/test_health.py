"""The registry of checks: every check is told in both languages, and since when it stands as it does."""

import ast
import re
from pathlib import Path

import robodyne_rt
from robodyne_rt.app import health
from robodyne_rt.app.health import CHECKS, READINESS, Reading, ServerHealth

HANGUL = re.compile("[가-힣]")


def test_every_check_says_what_is_wrong_and_what_to_do_in_korean_and_english() -> None:
    for id, check in CHECKS.items():
        assert id == check.id and check.name
        for text in (check.problem, check.remedy):
            assert text.en.endswith(".") and not HANGUL.search(text.en)
            assert text.ko.endswith(".") and HANGUL.search(text.ko)


def test_every_probe_is_of_a_check_that_exists_and_every_check_has_a_probe() -> None:
    """A finding under an unknown name would end the command that reads it."""
    package = Path(robodyne_rt.__file__).parent
    used = set()
    for name in ("app/health.py", "app/machine_checks.py", "admin/doctor.py"):
        for node in ast.walk(ast.parse((package / name).read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "finding":
                assert isinstance(node.args[0], ast.Constant)
                used.add(node.args[0].value)
    probes = {"loop", "writer", "storage", "change-log", "listeners", "running"}
    assert used | probes == set(CHECKS)
    assert set(READINESS) <= probes


def test_it_is_known_since_when_a_check_stands_as_it_does() -> None:
    reading, now = Reading(True, "fine"), 100.0
    server = ServerHealth({"loop": lambda: reading}, wall=lambda: now)
    assert server.finding("loop").since == 100.0
    now = 200.0
    assert (server.finding("loop").since, server.finding("loop").severity) == (100.0, "ok")
    reading = Reading(False, "lag 2000 ms")
    (found,) = server.findings(["loop"])
    assert (found.since, found.severity, found.evidence) == (200.0, "error", "lag 2000 ms")
    now = 300.0
    assert server.finding("loop").since == 200.0


def test_a_finding_has_the_name_of_its_check_or_of_its_place() -> None:
    assert health.finding("disk", "error", "full").name == "disk"
    assert health.finding("disk", "error", "full", name="disk of the spool").name == "disk of the spool"
