"""The probes of a running server: how each check of `health.py` stands now. Each returns at once."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import anyio
import anyio.to_thread

from robodyne_rt.app import machine_checks
from robodyne_rt.app.health import Probe, Reading
from robodyne_rt.core.clock_watch import ClockWatch
from robodyne_rt.hub.manager import ConnectionManager
from robodyne_rt.settings import Settings
from robodyne_rt.store.storage import Storage
from robodyne_rt.supervision import Supervisor

MAX_LOOP_LAG_S = 1.0

MANY_SPOOLED = 10_000
MUCH_SPOOLED, VERY_MUCH_SPOOLED = 0.5, 0.9
"""Parts of `spool_max_bytes`."""

LOSS_SHOWN_S = 600.0
"""Lost lines of the log are a problem for so long."""

DISK_LOOK_S = 60.0
DISK_PATIENCE_S = 10.0


class Port(Protocol):
    """A serial port; `trouble` is why it is not served, empty while it is."""

    @property
    def name(self) -> str: ...

    @property
    def trouble(self) -> str: ...


class DiskWatch:
    """Looks at the disks now and then, in a thread: one that hangs must hold up nobody."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.trouble = ""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            trouble = "a disk does not answer"
            with anyio.move_on_after(DISK_PATIENCE_S):
                trouble = await anyio.to_thread.run_sync(self._look, abandon_on_cancel=True)
            self.trouble = trouble
            await anyio.sleep(DISK_LOOK_S)

    def _look(self) -> str:
        found = machine_checks.disks(self._settings)
        return "; ".join(one.evidence for one in found if one.check.id == "disk" and not one.is_ok)


class LossWatch:
    """Remembers for a while that lines of the log were lost."""

    def __init__(self, lost: Callable[[], int], *, now: Callable[[], float] = time.monotonic) -> None:
        self._lost = lost
        self._now = now
        self._seen = 0
        self._seen_at = 0.0

    def __call__(self) -> Reading:
        lost, now = self._lost(), self._now()
        if lost > self._seen:
            self._seen, self._seen_at = lost, now
        is_ok = not self._seen or now - self._seen_at >= LOSS_SHOWN_S
        return Reading(is_ok, f"{lost} lines lost since the start", "warning")


def server_probes(
    storage: Storage,
    hub: ConnectionManager,
    *,
    clock: ClockWatch,
    is_listening: Callable[[], bool],
    ports: Callable[[], Sequence[Port]],
    disks: DiskWatch,
    supervisor: Supervisor,
    log_lines_lost: Callable[[], int],
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
            not missing,
            f"triggers are gone and cannot be put back: {', '.join(missing)}" if missing else "all triggers are there",
        )

    def storage_state() -> Reading:
        state, detail = storage.state
        evidence = detail if state == "ok" else f"{state}: {detail or 'see the log'}"
        return Reading(state == "ok", evidence, "warning" if state in ("late", "draining") else "error")

    def spool() -> Reading:
        rows, part = storage.spool_fill
        is_ok = not rows or (rows < MANY_SPOOLED and part < MUCH_SPOOLED)
        text = f"{rows} messages wait in {storage.spool_path}, {part:.0%} of spool_max_bytes"
        return Reading(is_ok, text, "error" if part >= VERY_MUCH_SPOOLED else "warning")

    def letters() -> Reading:
        count = storage.stats.parked_letters
        return Reading(not count, f"{count} wait for a person: robodyne-rt dlq list" if count else "none", "warning")

    def clock_reading() -> Reading:
        text = "far ahead of what was noted before, and nobody keeps it right: nothing is deleted for its age"
        return Reading(not clock.is_doubtful, text if clock.is_doubtful else "can be believed", "warning")

    def clock_jump() -> Reading:
        jump_s = clock.recent_jump_s
        text = f"by {jump_s:+.0f} s; for an hour nothing is deleted for its age" if jump_s else "none within the hour"
        return Reading(not jump_s, text, "warning")

    def serial() -> Reading:
        away = [f"{port.name}: {port.trouble}" for port in ports() if port.trouble]
        return Reading(not away, "; ".join(away) or "all are open", "warning")

    return {
        "loop": lambda: Reading(hub.stats.loop_lag_s < MAX_LOOP_LAG_S, f"lag {hub.stats.loop_lag_s * 1000:.0f} ms"),
        "writer": writer,
        "storage": storage_state,
        "spool-swollen": spool,
        "lock": lambda: Reading(not storage.lock_trouble, storage.lock_trouble or "held"),
        "change-log": change_log,
        "listeners": lambda: Reading(is_listening(), "bound" if is_listening() else "not bound yet"),
        "running": lambda: Reading(not hub.draining, "shutting down" if hub.draining else "serving"),
        "dead-letters": letters,
        "disk": lambda: Reading(not disks.trouble, disks.trouble or "there is room"),
        "backup": lambda: Reading(not storage.backup_trouble, storage.backup_trouble or "none failed", "warning"),
        "clock": clock_reading,
        "clock-jump": clock_jump,
        "serial": serial,
        "tasks": lambda: Reading(not supervisor.failing, ", ".join(supervisor.failing) or "none failed lately", "warning"),
        "log": LossWatch(log_lines_lost),
    }
