"""The one registry of checks: what can be wrong, how people are told, and what to do about it.

`CHECKS` says what each check means, in Korean and English; a probe says how it stands now. The probes of a running server are
here (`ServerHealth`, read by `/readyz`, the topic `status` and, through them, by `doctor`); those that need no server are in
`machine_checks.py` (read by `doctor`). A new check is one line in `CHECKS` and one probe.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from robodyne_rt.core.clock_watch import ClockWatch

if TYPE_CHECKING:  # `doctor` reads the table without a server
    from robodyne_rt.hub.manager import ConnectionManager
    from robodyne_rt.store.storage import Storage

MAX_LOOP_LAG_S = 1.0

Severity = Literal["ok", "warning", "error"]


class Text(NamedTuple):
    """One sentence in the languages of the screens."""

    en: str
    ko: str


class Check(NamedTuple):
    """One thing that can be wrong.

    Attributes:
        id: stable name, for programs.
        name: as technicians read it.
        problem: what it means for the restaurant.
        remedy: what to do.
    """

    id: str
    name: str
    problem: Text
    remedy: Text


@dataclass(frozen=True, slots=True)
class Finding:
    """How one check stands.

    Attributes:
        evidence: what was measured or met, in technicians' words.
        name: as technicians read it; the check's own, or with the place it is about.
        since: wall time (epoch seconds) since when it is so; None where nobody watched before.
    """

    check: Check
    severity: Severity
    evidence: str
    name: str
    since: float | None = None

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.severity == "ok"


_CHECKS = (
    # -- of a running server
    Check(
        "loop",
        "loop",
        Text("The server is overloaded: answers and screens are late.", "서버가 과부하 상태입니다. 응답과 화면이 늦어집니다."),
        Text("Look for programs that use the processor (top).", "프로세서를 많이 쓰는 프로그램을 확인하세요(top)."),
    ),
    Check(
        "writer",
        "writer",
        Text("Messages are not stored in the database now.", "메시지가 지금 데이터베이스에 저장되지 않습니다."),
        Text(
            "Look at the database and its disk; the server goes on by itself when they are back.",
            "데이터베이스와 디스크를 확인하세요. 복구되면 서버가 스스로 계속합니다.",
        ),
    ),
    Check(
        "storage",
        "storage",
        Text("Storage does not work as it should.", "저장소가 정상적으로 동작하지 않습니다."),
        Text("The detail says what is the matter; see docs/storage.md.", "세부 내용을 확인하세요. docs/storage.md 참고."),
    ),
    Check(
        "change-log",
        "change log",
        Text(
            "Changes of other programs may not reach the screens.", "다른 프로그램의 변경이 화면에 나타나지 않을 수 있습니다."
        ),
        Text("Restart the server: it makes the missing triggers.", "서버를 다시 시작하면 없어진 트리거를 만듭니다."),
    ),
    Check(
        "listeners",
        "listeners",
        Text("The server does not listen on its ports yet.", "서버가 아직 포트에서 연결을 받지 않습니다."),
        Text("Wait for the start; the log says what it waits for.", "시작을 기다리세요. 무엇을 기다리는지는 로그에 있습니다."),
    ),
    Check(
        "running",
        "running",
        Text("The server is shutting down.", "서버가 종료되는 중입니다."),
        Text("Wait for it to start again.", "다시 시작될 때까지 기다리세요."),
    ),
    # -- of the machine, also without a server
    Check(
        "configuration",
        "configuration",
        Text("The configuration cannot be used.", "설정을 사용할 수 없습니다."),
        Text("Repair config.toml where the message says.", "메시지가 가리키는 config.toml 항목을 고치세요."),
    ),
    Check(
        "port",
        "port",
        Text("A port is taken by another program.", "다른 프로그램이 포트를 사용하고 있습니다."),
        Text("End that program, or set another port.", "그 프로그램을 끝내거나 다른 포트를 설정하세요."),
    ),
    Check(
        "server",
        "server",
        Text("No server runs here, or it is not ready.", "서버가 실행되지 않거나 준비되지 않았습니다."),
        Text("Start it: systemctl start robodyne-rt.", "시작하세요: systemctl start robodyne-rt."),
    ),
    Check(
        "secret",
        "secret",
        Text("The secret that signs tokens cannot be used.", "토큰을 서명하는 비밀 키를 사용할 수 없습니다."),
        Text("Put the copy of the file back.", "보관해 둔 파일을 다시 넣으세요."),
    ),
    Check(
        "database",
        "database",
        Text("The database cannot be used.", "데이터베이스를 사용할 수 없습니다."),
        Text(
            "The message says why; a damaged file is restored from a backup.",
            "메시지를 확인하고, 손상되었으면 백업을 복원하세요.",
        ),
    ),
    Check(
        "sqlite-version",
        "SQLite",
        Text("This SQLite has a known fault.", "이 SQLite 버전에는 알려진 결함이 있습니다."),
        Text("Update SQLite.", "SQLite를 업데이트하세요."),
    ),
    Check(
        "users",
        "users",
        Text("Nobody can log in yet.", "아직 아무도 로그인할 수 없습니다."),
        Text("Make the first administrator: robodyne-rt init.", "첫 관리자를 만드세요: robodyne-rt init."),
    ),
    Check(
        "dead-letters",
        "dead letters",
        Text("Messages could not be stored and wait for a person.", "저장하지 못한 메시지가 사람을 기다립니다."),
        Text("Look at them: robodyne-rt dlq list.", "확인하세요: robodyne-rt dlq list."),
    ),
    Check(
        "disk",
        "disk",
        Text("A disk is full or cannot be written.", "디스크가 가득 찼거나 쓸 수 없습니다."),
        Text("Make room, or repair the rights of the folder.", "공간을 확보하거나 폴더 권한을 고치세요."),
    ),
    Check(
        "disk-usage",
        "disk usage",
        Text("The disk will be full before long.", "디스크가 곧 가득 찹니다."),
        Text(
            "Make room, move copies elsewhere, or keep less: [retention] in config.toml.",
            "공간을 확보하거나 사본을 옮기거나, config.toml의 [retention]에서 보관 기간을 줄이세요.",
        ),
    ),
    Check(
        "spool",
        "spool",
        Text("Messages wait in the spool for the database.", "메시지가 스풀에서 데이터베이스를 기다립니다."),
        Text("Start the server: it stores them.", "서버를 시작하면 저장합니다."),
    ),
    Check(
        "rescued",
        "rescued data",
        Text(
            "The database's files were taken away while the server ran; what they held was saved.",
            "서버 실행 중에 데이터베이스 파일이 사라져, 들어 있던 내용을 따로 저장했습니다.",
        ),
        Text(
            "Stop the server and restore the saved file, or move it away when it is of no more use.",
            "서버를 멈추고 저장된 파일을 복원하거나, 필요 없으면 다른 곳으로 옮기세요.",
        ),
    ),
    Check(
        "spool-damaged",
        "damaged spool",
        Text(
            "The spool was damaged, and messages that waited in it may be lost.",
            "스풀이 손상되어, 그 안에서 기다리던 메시지가 없어졌을 수 있습니다.",
        ),
        Text(
            "Look what was lost (an ERROR event says how much), check the disk, then delete the file.",
            "무엇이 없어졌는지 확인하고(ERROR 이벤트에 개수가 있습니다), 디스크를 점검한 뒤 파일을 지우세요.",
        ),
    ),
    Check(
        "clock",
        "clock",
        Text("The clock of this machine is wrong.", "이 컴퓨터의 시계가 맞지 않습니다."),
        Text("Set it: timedatectl.", "시계를 맞추세요: timedatectl."),
    ),
)

CHECKS: Mapping[str, Check] = {check.id: check for check in _CHECKS}


def finding(id: str, severity: Severity, evidence: str, *, name: str = "") -> Finding:
    """Return how the check with this id stands."""
    check = CHECKS[id]
    return Finding(check, severity, evidence, name or check.name)


class Reading(NamedTuple):
    """What a probe of a running server says."""

    is_ok: bool
    evidence: str


Probe = Callable[[], Reading]


READINESS = ("loop", "writer", "change-log", "listeners", "running")
"""The checks that decide whether a server is ready, in the order in which people read them."""


ATTENTION = ("dead-letters", "clock")
"""The checks that a person should look at, though the server does its work; `/readyz?verbose` names them too."""


def server_probes(
    storage: "Storage", hub: "ConnectionManager", *, clock: ClockWatch, is_listening: Callable[[], bool]
) -> Mapping[str, Probe]:
    """Return the probes of a running server, by id of the check."""

    def writer() -> Reading:
        state, detail = storage.state
        is_ok = state in ("ok", "draining") and not storage.stats.trouble
        return Reading(
            is_ok, f"{state}: {detail}" if detail else f"{storage.stats.commits} commits, {storage.intake.queued} waiting"
        )

    def change_log() -> Reading:
        missing = storage.stats.missing_triggers
        return Reading(
            not missing, f"triggers are gone, restart: {', '.join(missing)}" if missing else "all triggers are there"
        )

    def storage_state() -> Reading:
        state, detail = storage.state
        return Reading(state == "ok", detail)

    def letters() -> Reading:
        count = storage.stats.parked_letters
        return Reading(not count, f"{count} wait for a person: robodyne-rt dlq list" if count else "none")

    def clock_reading() -> Reading:
        text = "far ahead of what was noted before, and nobody keeps it right: nothing is deleted for its age"
        return Reading(not clock.is_doubtful, text if clock.is_doubtful else "can be believed")

    return {
        "dead-letters": letters,
        "clock": clock_reading,
        "loop": lambda: Reading(hub.stats.loop_lag_s < MAX_LOOP_LAG_S, f"lag {hub.stats.loop_lag_s * 1000:.0f} ms"),
        "writer": writer,
        "storage": storage_state,
        "change-log": change_log,
        "listeners": lambda: Reading(is_listening(), "bound" if is_listening() else "not bound yet"),
        "running": lambda: Reading(not hub.draining, "shutting down" if hub.draining else "serving"),
    }


class ServerHealth:
    """The checks of a running server.

    Args:
        probes: by id of the check; each returns at once.
        wall: returns the time, in epoch seconds.
    """

    def __init__(self, probes: Mapping[str, Probe], *, wall: Callable[[], float]) -> None:
        self._probes = probes
        self._wall = wall
        self._since: dict[str, tuple[bool, float]] = {}

    def findings(self, ids: Iterable[str]) -> list[Finding]:
        """Return how these checks stand now."""
        return [self.finding(id) for id in ids]

    def finding(self, id: str) -> Finding:
        """Return how one check stands now; it is noted since when."""
        is_ok, evidence = self._probes[id]()
        before = self._since.get(id)
        if before is None or before[0] != is_ok:
            before = self._since[id] = (is_ok, self._wall())
        check = CHECKS[id]
        severity: Severity = "ok" if is_ok else "warning" if id in ATTENTION else "error"
        return Finding(check, severity, evidence, check.name, before[1])
