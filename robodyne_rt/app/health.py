"""The one registry of checks: what can be wrong, how people are told, and what to do about it.

`CHECKS` says what each check means, in Korean and English; a probe says how it stands now. `ServerHealth` runs the probes of a
running server (`server_probes.py`) for `/readyz`, for the topic `status` (so for the page) and, through them, for `doctor`; the
probes that need no server are in `machine_checks.py` (read by `doctor`). A new check is one entry in `_CHECKS`, its id in
`READINESS` or `ATTENTION`, one probe, and one line in docs/problems.md.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import anyio

from robodyne_rt.model import times

LOOK_S = 1.0

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

    def to_json(self) -> dict[str, Any]:
        """Return it as `/readyz?verbose` shows it; what is wrong with what it means and what to do."""
        row = {
            "id": self.check.id,
            "name": self.name,
            "ok": self.is_ok,
            "severity": self.severity,
            "detail": self.evidence,
            "since": None if self.since is None else times.to_text(self.since),
        }
        return row if self.is_ok else row | self._advice()

    def to_problem(self) -> dict[str, Any]:
        """Return it as the topic `status` shows it; `detail` may hold paths, addresses and names, the rest does not."""
        since = None if self.since is None else times.to_text(self.since)
        return {
            "id": self.check.id,
            "severity": self.severity,
            "since": since,
            **self._advice(),
            "detail": self.evidence,
        }

    def _advice(self) -> dict[str, Any]:
        return {"text": self.check.problem._asdict(), "remedy": self.check.remedy._asdict()}


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
        Text(
            "The server puts missing triggers back by itself; where it cannot, its log says why.",
            "서버가 없어진 트리거를 스스로 복구합니다. 복구하지 못하면 이유가 로그에 있습니다.",
        ),
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
    Check(
        "lock",
        "lock of the data",
        Text(
            "The lock that keeps other servers from this data is lost.",
            "다른 서버가 이 데이터를 쓰지 못하게 하는 잠금을 잃었습니다.",
        ),
        Text(
            "Start no other server here, and restart this one: systemctl restart robodyne-rt. Keep programs that tidy up away "
            "from files that end in .lock.",
            "이곳에서 다른 서버를 시작하지 말고 이 서버를 다시 시작하세요: systemctl restart robodyne-rt. "
            "정리 프로그램이 .lock 파일을 지우지 않게 하세요.",
        ),
    ),
    Check(
        "spool-swollen",
        "size of the spool",
        Text(
            "Very many messages wait for the database; soon devices must keep their own.",
            "데이터베이스를 기다리는 메시지가 매우 많습니다. 곧 장치가 메시지를 직접 보관해야 합니다.",
        ),
        Text(
            "Bring the database back first; what waits is stored then by itself. Do not delete the spool.",
            "먼저 데이터베이스를 복구하세요. 기다리는 메시지는 스스로 저장됩니다. 스풀 파일을 지우지 마세요.",
        ),
    ),
    Check(
        "serial",
        "serial ports",
        Text(
            "A serial port is not there: its device is not heard.",
            "시리얼 포트가 없습니다. 그 포트의 장치와 통신할 수 없습니다.",
        ),
        Text(
            "Look at the plug and the cable; the server opens the port by itself when it is back. If the device is gone for "
            "good, take its [[serial]] section out of config.toml.",
            "플러그와 케이블을 확인하세요. 다시 연결되면 서버가 스스로 엽니다. 장치를 없앴다면 config.toml에서 "
            "[[serial]] 항목을 지우세요.",
        ),
    ),
    Check(
        "clock-jump",
        "jump of the clock",
        Text(
            "The clock of this machine jumped within the last hour.",
            "지난 한 시간 안에 이 컴퓨터의 시계가 갑자기 바뀌었습니다.",
        ),
        Text(
            "Nothing, where somebody set it or it found its time server; otherwise look: timedatectl.",
            "누군가 시계를 맞췄거나 시간 서버와 동기화된 것이라면 할 일이 없습니다. 아니라면 확인하세요: timedatectl.",
        ),
    ),
    Check(
        "backup",
        "backup",
        Text("The last backup could not be made.", "마지막 백업을 만들지 못했습니다."),
        Text(
            "Make room for twice the database, or repair the disk; then: robodyne-rt backup.",
            "데이터베이스의 두 배만큼 공간을 확보하거나 디스크를 고친 뒤 실행하세요: robodyne-rt backup.",
        ),
    ),
    Check(
        "tasks",
        "tasks",
        Text(
            "A part of the server failed and was started again within the last minute.",
            "지난 1분 안에 서버의 일부가 실패하여 다시 시작되었습니다.",
        ),
        Text(
            "If it comes again, save the log for support (journalctl -u robodyne-rt) and restart the server.",
            "반복되면 지원팀에 보낼 로그를 저장하고(journalctl -u robodyne-rt) 서버를 다시 시작하세요.",
        ),
    ),
    Check(
        "log",
        "log",
        Text("Lines of the log were lost: nobody reads them in time.", "로그를 제때 읽지 않아 일부가 없어졌습니다."),
        Text(
            "Look at who reads the log: systemctl status systemd-journald, or the program behind the pipe.",
            "로그를 읽는 쪽을 확인하세요: systemctl status systemd-journald, 또는 파이프 뒤의 프로그램.",
        ),
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
    """What a probe of a running server says; `severity` counts where it is not well."""

    is_ok: bool
    evidence: str
    severity: Literal["warning", "error"] = "error"


Probe = Callable[[], Reading]


READINESS = ("loop", "writer", "change-log", "listeners", "running")
"""The checks that decide whether a server is ready, in the order in which people read them."""


ATTENTION = (
    "storage",
    "spool-swollen",
    "lock",
    "dead-letters",
    "disk",
    "backup",
    "clock",
    "clock-jump",
    "serial",
    "tasks",
    "log",
)
"""The checks that a person should look at, though the server does its work; `/readyz?verbose` names them too."""


PROBLEMS = ("loop", "change-log", *ATTENTION)
"""The checks that screens show where they are not well; of a writer in trouble `storage` tells."""


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

    async def run(self, on_change: Callable[[], None], *, sleep: Callable[[float], Awaitable[None]] = anyio.sleep) -> None:
        """Look at all checks each second, so that it is known since when, until cancelled.

        Args:
            on_change: called where screens have to be told.
        """
        told: list[dict[str, Any]] = []
        while True:
            if (found := self.problems()) != told:
                told = found
                on_change()
            await sleep(LOOK_S)

    def report(self) -> tuple[bool, list[dict[str, Any]]]:
        """Return whether the server is ready, and the report of `/readyz?verbose`."""
        readiness = self.findings(READINESS)
        rows = [found.to_json() for found in (*readiness, *self.findings(ATTENTION))]
        return all(found.is_ok for found in readiness), rows

    def problems(self) -> list[dict[str, Any]]:
        """Return what is wrong, for the topic `status`."""
        return [found.to_problem() for found in self.findings(PROBLEMS) if not found.is_ok]

    def findings(self, ids: Iterable[str]) -> list[Finding]:
        """Return how these checks stand now."""
        return [self.finding(id) for id in ids]

    def finding(self, id: str) -> Finding:
        """Return how one check stands now; it is noted since when."""
        try:
            is_ok, evidence, severity = self._probes[id]()
        except Exception as error:  # a disk that cannot even be asked
            is_ok, evidence, severity = False, f"cannot be told: {error}", "error"
        before = self._since.get(id)
        if before is None or before[0] != is_ok:
            before = self._since[id] = (is_ok, self._wall())
        check = CHECKS[id]
        return Finding(check, "ok" if is_ok else severity, evidence, check.name, before[1])
