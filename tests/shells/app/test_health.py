"""The registry of checks: every check is told in both languages, and since when it stands as it does."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import robodyne_rt
from robodyne_rt.app import health
from robodyne_rt.app.health import ATTENTION, CHECKS, PROBLEMS, READINESS, Reading, ServerHealth
from robodyne_rt.app.server_probes import LOSS_SHOWN_S, DiskWatch, LossWatch, server_probes
from robodyne_rt.core.clock_watch import CALM_S, ClockWatch
from robodyne_rt.settings import Settings
from robodyne_rt.supervision import Supervisor


class Bench:
    """The probes over parts that a test sets by hand."""

    def __init__(self) -> None:
        self.state = ("ok", "")
        self.spool_fill = (0, 0.0)
        self.lock_trouble = self.backup_trouble = ""
        self.ports = [SimpleNamespace(name="/dev/a", trouble=""), SimpleNamespace(name="/dev/b", trouble="")]
        self.stats = SimpleNamespace(trouble="", commits=7, missing_triggers=[], parked_letters=0)
        self.now = 100.0
        self.lost = 0
        self.disks = SimpleNamespace(trouble="")
        self.supervisor = Supervisor(now=lambda: self.now)
        self.clock = ClockWatch(noted_at=1e9, wall=1e9, now=self.now)
        self.hub = SimpleNamespace(stats=SimpleNamespace(loop_lag_s=0.0), draining=False)
        bench: Any = self
        self.spool_path = "/data/spool.db"
        self.intake = SimpleNamespace(queued=0)
        self.probes = server_probes(
            bench,
            bench.hub,
            clock=self.clock,
            is_listening=lambda: True,
            ports=lambda: self.ports,
            disks=bench.disks,
            supervisor=self.supervisor,
            log_lines_lost=lambda: self.lost,
        )
        self.health = ServerHealth(self.probes, wall=lambda: 1e9)

    def problems(self) -> list[tuple[str, str]]:
        return [(found["id"], found["severity"]) for found in self.health.problems()]

    def detail(self, id: str) -> str:
        return next(str(found["detail"]) for found in self.health.problems() if found["id"] == id)


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
    for name in ("app/health.py", "app/machine_checks.py", "cli/doctor.py"):
        for node in ast.walk(ast.parse((package / name).read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "finding":
                assert isinstance(node.args[0], ast.Constant)
                used.add(node.args[0].value)
    probes = set(Bench().probes)
    assert used | probes == set(CHECKS)
    assert {*READINESS, *ATTENTION, *PROBLEMS} == probes | set(PROBLEMS)


def test_a_technician_finds_each_check_in_the_documents() -> None:
    text = (Path(__file__).parents[3] / "docs" / "problems.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE) == list(CHECKS)


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


def test_nothing_is_wrong_with_a_server_that_is_well() -> None:
    bench = Bench()
    assert bench.problems() == []
    is_ready, rows = bench.health.report()
    assert is_ready and all(row["ok"] and row["severity"] == "ok" and "text" not in row for row in rows)
    assert [row["id"] for row in rows] == [*READINESS, *ATTENTION]


@pytest.mark.parametrize(
    ("state", "severity"),
    [("late", "warning"), ("draining", "warning"), ("spooling", "error"), ("refusing", "error"), ("stalled", "error")],
)
def test_storage_in_trouble_is_one_problem(state: str, severity: str) -> None:
    bench = Bench()
    bench.state = (state, "")
    assert bench.problems() == [("storage", severity)]
    assert bench.detail("storage") == f"{state}: see the log"
    assert bench.health.report()[0] == (state == "draining")


@pytest.mark.parametrize(
    ("rows", "part", "found"),
    [
        (9_999, 0.49, []),
        (10_000, 0.0, [("spool-swollen", "warning")]),
        (1, 0.5, [("spool-swollen", "warning")]),
        (1, 0.9, [("spool-swollen", "error")]),
        (0, 0.9, []),
    ],
)
def test_a_spool_is_swollen_by_messages_or_by_bytes(rows: int, part: float, found: list[tuple[str, str]]) -> None:
    bench = Bench()
    bench.spool_fill = (rows, part)
    assert bench.problems() == found


def test_each_port_that_is_away_is_named() -> None:
    bench = Bench()
    bench.ports[0].trouble = "no such port (yet)"
    assert bench.problems() == [("serial", "warning")] and bench.detail("serial") == "/dev/a: no such port (yet)"
    bench.ports[1].trouble = "lost"
    assert bench.detail("serial") == "/dev/a: no such port (yet); /dev/b: lost"


def test_a_jump_of_the_clock_is_told_for_an_hour_and_a_doubtful_one_as_long_as_it_is() -> None:
    bench = Bench()
    bench.clock.tick(wall=1e9 + 7205, now=105.0, is_synchronised=False)
    assert bench.problems() == [("clock-jump", "warning")] and "+7200 s" in bench.detail("clock-jump")
    bench.clock.tick(wall=1e9 + 7205 + CALM_S, now=105.0 + CALM_S, is_synchronised=False)
    assert bench.problems() == []
    bench.clock.tick(wall=1e9 + 90 * 86400, now=106.0 + CALM_S, is_synchronised=False)
    assert bench.problems() == [("clock", "warning"), ("clock-jump", "warning")]
    bench.clock.tick(wall=1e9 + 90 * 86400, now=106.0 + CALM_S, is_synchronised=True)
    assert bench.problems() == [("clock-jump", "warning")]


@pytest.mark.parametrize(
    ("id", "severity"), [("lock", "error"), ("backup", "warning"), ("disk", "error"), ("dead-letters", "warning")]
)
def test_what_the_parts_say_of_themselves_is_a_problem(id: str, severity: str) -> None:
    bench = Bench()
    bench.lock_trouble = "deleted" if id == "lock" else ""
    bench.backup_trouble = "no room" if id == "backup" else ""
    bench.disks.trouble = "1 MiB free" if id == "disk" else ""
    bench.stats.parked_letters = 2 if id == "dead-letters" else 0
    assert bench.problems() == [(id, severity)]


def test_triggers_that_are_gone_and_a_loop_that_lags_are_errors() -> None:
    bench = Bench()
    bench.stats.missing_triggers = ["zz_robot_update"]
    bench.hub.stats.loop_lag_s = 1.0
    assert bench.problems() == [("loop", "error"), ("change-log", "error")] and not bench.health.report()[0]


async def test_a_task_that_failed_is_a_problem_for_a_minute() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    bench = Bench()
    await bench.supervisor.once("unread messages", fail)
    assert bench.problems() == [("tasks", "warning")] and bench.detail("tasks") == "unread messages"
    bench.now += 60
    assert bench.problems() == []


def test_lost_lines_are_a_problem_for_a_while() -> None:
    now, lost = 5.0, 0
    watch = LossWatch(lambda: lost, now=lambda: now)
    assert watch().is_ok
    lost = 3
    assert watch() == (False, "3 lines lost since the start", "warning")
    now += LOSS_SHOWN_S
    assert watch().is_ok
    lost = 4
    assert not watch().is_ok


def test_a_probe_that_fails_is_what_it_finds() -> None:
    def fails() -> Reading:
        raise OSError(5, "Input/output error")

    found = ServerHealth({"lock": fails}, wall=lambda: 0.0).finding("lock")
    assert (found.severity, found.evidence) == ("error", "cannot be told: [Errno 5] Input/output error")


async def test_screens_are_told_when_something_changes_and_only_then() -> None:
    bench, told = Bench(), 0

    class Over(Exception):
        pass

    looks = 0

    async def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            bench.lock_trouble = "deleted"
        if looks == 6:
            bench.lock_trouble = ""
        if looks == 9:
            raise Over

    def tell() -> None:
        nonlocal told
        told += 1

    with pytest.raises(Over):
        await bench.health.run(tell, sleep=sleep)
    assert told == 2


async def test_a_disk_without_room_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robodyne_rt.app.machine_checks.DISK_FREE_BYTES", 1 << 60)
    assert "too little" in DiskWatch(Settings())._look()
    monkeypatch.setattr("robodyne_rt.app.machine_checks.DISK_FREE_BYTES", 0)
    assert DiskWatch(Settings())._look() == ""
