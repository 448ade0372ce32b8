"""The faults: each is a function that hurts a server under load so many times, and returns what came of it.

`FAULTS` names them all, each with its negative control: the same fault on a server that is broken on purpose, which must
be found out.
"""

import contextlib
import errno
import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults import files, outages
from tests.faults.judge import Tally
from tests.faults.load import Plan
from tests.faults.postgres import Postgres, PostgresOnBadLine
from tests.faults.proxy import BadNetwork
from tests.faults.rig import RECOVERED_WITHIN_S, Pulse, Rig, Screen, moment, quantile, series
from tests.faults.shim import Kind, Shim
from tests.faults.store import Died, Sqlite, SqliteOnTmpfs, StoreFactory, Victim

MIB = 1 << 20
TEN_YEARS_S = 10 * 365 * 86400

CONTROL_SERIES_AT_MOST = 10


# -- the process and the machine end ---------------------------------------------------------------------------------


def kill(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """SIGKILL after 50 to 3000 ms of load. Nothing acknowledged is lost, nothing is doubled."""

    def trial(rig: Rig, number: int) -> None:
        rig.wait(moment(rig.rng))
        rig.victim.kill()
        rig.start_again()

    return series(rounds, seed, folder, trial, sabotage=sabotage, store=store, plan=Plan(anonymous=0.2))


def power(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """Power loss: what was not fsynced is gone, or (every other time) a random half of its blocks. Nothing acknowledged is
    lost, and the database is sound."""
    lost_bytes = []

    def trial(rig: Rig, number: int) -> None:
        rig.wait(moment(rig.rng))
        rig.victim.kill()
        lost_bytes.append(rig.shim.lose_power(rig.rng if number % 2 else None))
        rig.start_again()

    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, shim=True)
    tally.note += f"; {sum(lost_bytes) // max(1, len(lost_bytes)) // 1024} KiB not durable per power loss"
    return tally


def syscall_kill(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """SIGKILL right before or after the K-th fsync, write, truncation, unlink or rename: while a database is made, while it
    starts, under load, or at its shutdown; every other time with a power loss. It always comes back, with everything."""
    reached: dict[Kind, int] = dict.fromkeys(Kind, 0)

    def trial(rig: Rig, number: int) -> None:
        kind = Kind(number % len(Kind))
        at_most = 200 if kind in (Kind.SYNC, Kind.WRITE) else 3
        rig.victim.kill()
        rig.shim.kill_at(kind, round(at_most ** rig.rng.random()), after=rig.rng.random() < 0.5)
        with contextlib.suppress(Died):
            rig.victim.start()
            with contextlib.suppress(Died):
                rig.wait(1.0)
        assert rig.victim.process is not None
        if rig.victim.is_running:
            rig.victim.stop()
        if rig.victim.process.returncode == -9:
            reached[kind] += 1
        else:
            rig.tally.trials -= 1
        if number % 2:
            rig.shim.lose_power(rig.rng if number % 4 == 3 else None)
        rig.shim.heal()
        rig.start_again()

    born = rounds // 3
    tally = series(rounds - born, seed, folder, trial, sabotage=sabotage, store=store, shim=True)
    for number in range(born):
        _killed_at_birth(tally, number, random.Random(f"{seed}-{number}"), folder / f"birth-{number}")
    tally.note += f"; killed at {', '.join(f'{kind.name.lower()} {count}' for kind, count in reached.items())}; birth {born}"
    return tally


def _killed_at_birth(tally: Tally, number: int, rng: random.Random, folder: Path) -> None:
    """Kill a server that makes its database: the next one must make it, or find it whole."""
    data = folder / "data"
    data.mkdir(parents=True)
    kind = (Kind.SYNC, Kind.WRITE, Kind.UNLINK, Kind.TRUNCATE)[number % 4]
    shim = Shim(data, shadow=folder / "shadow", control=folder / "control")
    with contextlib.closing(shim):
        victim = Victim(data, log=folder / "server.log", settings={}, environment=shim.environment)
        shim.kill_at(kind, round(60 ** rng.random()) if kind <= Kind.WRITE else 1, after=rng.random() < 0.5)
        with contextlib.suppress(Died):
            victim.start()
        if victim.is_running:
            victim.kill()
        if number % 2:
            shim.lose_power(rng)
        shim.heal()
        tally.trials += 1
        started = time.monotonic()
        try:
            with victim.start():
                answer = victim.tell({"msg_type": "Event", "type": "INFO", "description": "born", "id": "1"})
                if answer[0]["status"] != "success" or victim.stop() != 0:
                    tally.violations.append(f"after a kill at birth: {answer}")
                tally.recovery_s.append(time.monotonic() - started)
        except Died as death:
            tally.violations.append(f"after a kill at birth, {kind.name}: {death}")
            return
        store = Sqlite(data)
        if store.damage() or store.rows("SELECT description FROM event") != [("born",)]:
            tally.violations.append(f"after a kill at birth: {store.damage()}")


# -- the disk fails ----------------------------------------------------------------------------------------------------


def disk_full(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """No space: for every file, for all but the spool, or on a file system of 8 MiB that fills up, also at a start. No success
    without a commit; reads and live telemetry go on; /readyz is 503 and says why; with the space it recovers by itself."""

    def trial(rig: Rig, number: int) -> None:
        spool_works = number % 2 == 1
        with _screen_of_a_robot(rig) as is_live:
            told = rig.shim.control.errors_told
            rig.shim.control.not_prefix = b"spool" if spool_works else b""
            rig.shim.control.write_error = errno.ENOSPC
            if not rig.wait_until(lambda: rig.shim.control.errors_told > told):
                raise AssertionError("nothing was written while the disk was full: the fault did not happen")
            if not spool_works:
                _expect_not_ready(rig)
            if not is_live():
                rig.broke("no live telemetry while the disk was full")
            rig.wait(rig.rng.uniform(0.1, 0.5))
            since = time.monotonic()
            rig.shim.heal()
            rig.recovered(since)
            _expect_ready(rig)

    def trial_on_tmpfs(rig: Rig, number: int) -> None:
        disk = rig.store.disk.outside  # type: ignore[attr-defined]
        ballast = disk / "ballast"
        with _screen_of_a_robot(rig) as is_live:
            ballast.write_bytes(bytes(_free_bytes(disk) - 300_000))
            _expect_not_ready(rig)
            if not is_live():
                rig.broke("no live telemetry while the disk was full")
            since = time.monotonic()
            ballast.unlink()
            rig.recovered(since)
            _expect_ready(rig)
        # And a start on a disk on which nothing is left: what is there is shown.
        ballast.write_bytes(bytes(_free_bytes(disk) - 300_000))
        rig.victim.stop()
        (disk / "last bytes").write_bytes(bytes(_free_bytes(disk)))
        rig.victim.start()
        if (status := rig.victim.get("/api/events")[0]) != 200:
            rig.broke(f"GET /api/events was {status} after a start on a full disk")
        _expect_not_ready(rig)
        since = time.monotonic()
        ballast.unlink()
        rig.recovered(since)
        _expect_ready(rig)

    on_tmpfs = rounds // 3
    tally = series(rounds - on_tmpfs, seed, folder / "shim", trial, sabotage=sabotage, store=store, shim=True)
    if on_tmpfs and store is Sqlite:
        try:
            # A fresh one each time: after a few rounds the messages themselves fill 8 MiB.
            for number in range(on_tmpfs):
                part = folder / f"tmpfs-{number}"
                tally += series(1, seed + number, part, trial_on_tmpfs, sabotage=sabotage, store=SqliteOnTmpfs)
        except OSError as error:
            tally.note += f"; without a real file system: {error}"
    return tally


def _free_bytes(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


def _expect_not_ready(rig: Rig) -> None:
    if not rig.wait_until(lambda: rig.victim.get("/readyz")[0] == 503):
        rig.broke("/readyz was 200 while the disk was full")
        return
    told = str(rig.victim.checks()[1])
    if not re.search("full|space|disk", told):
        rig.broke(f"/readyz does not say that the disk is full: {told}")


def _expect_ready(rig: Rig) -> None:
    if not rig.wait_until(lambda: rig.victim.get("/readyz")[0] == 200, within_s=RECOVERED_WITHIN_S):
        rig.broke(f"not ready {RECOVERED_WITHIN_S:.0f} s after the disk had space again: {rig.victim.checks()[1]}")


@contextlib.contextmanager
def _screen_of_a_robot(rig: Rig) -> Iterator[Callable[[], bool]]:
    """Watch a robot that has nothing to do with the load; yield a function that says whether it is still seen moving."""
    robot = f"screen-{rig.tally.trials}"
    (answer,) = rig.victim.tell({"msg_type": "Albabot", "robot_id": robot, "status": "IDLE", "id": robot})
    assert answer["status"] == "success", answer
    # From the spool, where an earlier round still has it emptied, it is acknowledged before it is known.
    rig.wait_until(lambda: robot in rig.victim.get("/api/robots")[2].decode())

    with Screen(rig.victim, "robots") as screen, rig.victim.dial() as device:
        rig.wait_until(lambda: screen.updates > 0)

        def is_live() -> bool:
            screen.volatile.clear()
            at = 0

            def is_seen() -> bool:
                nonlocal at
                at += 1
                line = f'{{"msg_type":"Telemetry","robot_id":"{robot}","x":{at},"y":0}}\n'
                device.sendall(line.encode())
                return robot in screen.volatile

            if (status := rig.victim.get("/api/events")[0]) != 200:
                rig.broke(f"GET /api/events was {status} while the disk was full")
            return rig.wait_until(is_seen, within_s=5)

        yield is_live
        if screen.fault:
            rig.broke(f"the screen was cut off: {screen.fault}")


def fsync_eio(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """One, three or all fsyncs fail with EIO; every other time what they should have written is gone with the power. The
    process may end with code 3 and is started again. No success for what is not on disk; repetitions are taken once."""
    exits = []

    def trial(rig: Rig, number: int) -> None:
        loses_power = number % 2 == 1
        control = rig.shim.control
        told = control.errors_told
        rig.wait(rig.rng.uniform(0.05, 0.5))
        control.fsync_drops = loses_power
        control.fsync_error_calls = (1, 3, -1)[number % 3]
        control.fsync_error = errno.EIO
        if not rig.wait_until(lambda: control.errors_told > told):
            raise AssertionError("nothing was fsynced: the fault did not happen")
        deadline = time.monotonic() + 1.5
        while rig.victim.is_running and time.monotonic() < deadline:
            time.sleep(0.01)
        exits.append(not rig.victim.is_running)
        rig.shim.heal()
        since = time.monotonic()
        if loses_power:
            if rig.victim.is_running:
                rig.victim.kill()
            assert rig.victim.process is not None
            if (code := rig.victim.process.wait(10)) not in (3, -9):
                rig.broke(f"exit code {code} instead of 3")
            rig.shim.lose_power(rig.rng)
            rig.victim.start()
        rig.recovered(since, restarts=True)

    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, shim=True, tracebacks=True, restarts=True)
    tally.note += f"; the process ended in {sum(exits)} of {len(exits)}"
    return tally


def fsync_slow(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """Each fsync takes 20, 100 or 500 ms longer, and then the process is killed. Acknowledgements go on, the loop does not
    wait for the disk, nothing is lost."""
    latencies_s: list[float] = []

    def trial(rig: Rig, number: int) -> None:
        delay_ms = (100, 500, 20)[number % 3]
        since = time.monotonic()
        rig.shim.control.fsync_delay_ms = delay_ms
        with Pulse(rig.victim.port) as pulse:
            rig.recovered(since)
            rig.wait(0.3 + 2 * delay_ms / 1000)
        latencies_s.extend(pulse.latencies_s)
        if delay_ms >= 100 and quantile(pulse.latencies_s, 0.5) > delay_ms / 2000:
            rig.broke(f"/livez takes {quantile(pulse.latencies_s, 0.5):.3f} s with fsyncs of {delay_ms} ms: the loop waits")
        rig.victim.kill()
        rig.shim.heal()
        rig.start_again()

    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, shim=True)
    tally.note += f"; /livez p99 {quantile(latencies_s, 0.99) * 1000:.0f} ms"
    return tally


# -- others at the database ----------------------------------------------------------------------------------------------


def locked(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """Another program holds BEGIN EXCLUSIVE for 1, 5 or 15 s; every other time the server is killed meanwhile. No traceback,
    nothing lost, and everything is stored in the end."""

    def trial(rig: Rig, number: int) -> None:
        held_s = (1, 1, 5, 15)[number % 4]
        with outages.locked(rig.store) as release:
            rig.wait(held_s)
            if number % 2 == 0:
                rig.victim.kill()
            since = time.monotonic()
            release()
        if rig.victim.is_running:
            rig.recovered(since)
        else:
            rig.start_again()

    return series(rounds, seed, folder, trial, sabotage=sabotage, store=store)


def checkpoint(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """A reader keeps its transaction open (every other time: many, by turns, so that one always is) until the write-ahead
    log has grown by 4 MiB. Afterwards it grows no more."""
    grown: list[int] = []

    def trial(rig: Rig, number: int) -> None:
        assert isinstance(rig.store, Sqlite)

        def has_acks(upto: int) -> bool:
            return len(rig.ledger.acks) >= upto

        log = rig.store.path.with_name("robodyne.db-wal")
        before, acks_before = log.stat().st_size, len(rig.ledger.acks)
        with _slow_readers(rig.store.path, 8 if number % 2 else 1):
            if not rig.wait_until(lambda: log.stat().st_size - before > 4 * MIB, within_s=20):
                raise AssertionError("the log did not grow while a reader held it: the fault did not happen")
        rig.recovered(time.monotonic())
        count = len(rig.ledger.acks) - acks_before
        sizes = [log.stat().st_size]
        for _ in range(2):  # the first time the server still has to notice that the reader is gone
            acks = len(rig.ledger.acks)
            rig.wait_until(partial(has_acks, acks + count), within_s=20)
            sizes.append(log.stat().st_size)
        grown.append(sizes[0])
        if sizes[2] - sizes[1] > (sizes[0] - before) / 2:
            rig.broke(f"the write-ahead log went on growing, {before} -> {' -> '.join(map(str, sizes))} bytes")

    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store)
    tally.note += f"; log of {max(grown, default=0) / MIB:.0f} MiB at most"
    return tally


@contextlib.contextmanager
def _slow_readers(path: Path, count: int) -> Iterator[None]:
    """Keep a read transaction open at any time: one throughout, or some by turns."""
    done = threading.Event()

    def read(number: int) -> None:
        rng = random.Random(number)
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=10)
        while not done.is_set():
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM robot").fetchone()
            done.wait(60 if count == 1 else rng.uniform(0.2, 0.6))
            connection.execute("COMMIT")
        connection.close()

    readers = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        done.set()
        for reader in readers:
            reader.join(15)


# -- the world outside -----------------------------------------------------------------------------------------------------


def clock(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """The clock jumps an hour and ten years to and fro and to 1970; every sixth time the server is started in 1970. Nothing is
    lost, no device and no screen is cut off, offsets go on."""

    def trial(rig: Rig, number: int) -> None:
        in_1970 = 1000 - int(time.time())
        jumps = (3600, -3600, in_1970, TEN_YEARS_S, -TEN_YEARS_S, in_1970)
        cuts = len(rig.ledger.of_kind("cut"))
        with Screen(rig.victim, "events") as screen:
            rig.wait_until(lambda: screen.updates > 0)
            since = time.monotonic()
            rig.shim.control.clock_offset_s = jumps[number % len(jumps)]
            rig.recovered(since)
            updates = screen.updates
            if not rig.wait_until(lambda: screen.updates > updates + 3):
                rig.broke("the screen stands still after the clock jumped")
            rig.wait(0.4)
        if screen.fault:
            rig.broke(f"the screen was cut off: {screen.fault}")
        if len(rig.ledger.of_kind("cut")) > cuts:
            rig.broke(f"a device was cut off when the clock jumped by {jumps[number % len(jumps)]} s")
        if number % len(jumps) == len(jumps) - 1:
            rig.victim.kill()
            rig.start_again()
        rig.shim.control.clock_offset_s = 0
        rig.wait(0.1)

    # A robot's state leaves nothing but its id, which may be forgotten after seven days of any clock.
    plan = Plan(kinds=("event", "event", "order"))
    return series(rounds, seed, folder, trial, sabotage=sabotage, store=store, shim=True, plan=plan)


def network(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """Latency, slices of one byte, little bandwidth, RST, half-close, black holes, slow closes, at random per connection.
    What was acknowledged is stored once, whatever was sent again."""
    seen: set[str] = set()

    def trial(rig: Rig, number: int) -> None:
        since = time.monotonic()
        rig.proxy.cut()
        rig.recovered(since)
        rig.wait(rig.rng.uniform(0.3, 1.5))
        seen.update(rig.proxy.seen)

    def calm(rig: Rig) -> None:
        rig.proxy.calm = True
        rig.proxy.cut()

    tally = series(
        rounds,
        seed,
        folder,
        trial,
        sabotage=sabotage,
        store=store,
        before_verdict=calm,
        plan=Plan(patience_s=1.0, devices=6),
        proxy=lambda port: BadNetwork(port, seed=seed),
    )
    tally.note += f"; {len(seen)} kinds of trouble"
    return tally


def duplicates(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """30 % is sent twice, 10 % carries a known id and another body, and after each of many reconnects what was unanswered
    comes again in any order. Applied once; other bodies are refused."""
    refused: list[int] = []

    def trial(rig: Rig, number: int) -> None:
        rig.wait(0.5)

    def count(rig: Rig) -> None:
        rig.load.finish()
        refused.extend(note["conflicts_refused"] for note in rig.ledger.of_kind("end"))

    plan = Plan(conflicts=0.1, shuffled=True, hang_up_every=150)
    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, plan=plan, before_verdict=count)
    tally.note += f"; {sum(refused)} other bodies refused"
    return tally


# -- the registry ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A fault and its negative control.

    Args:
        run: called with rounds, seed and folder, and by keyword with `sabotage`, `store`, and `seconds` where it `lasts`.
        sabotage: the broken server of the control (`sabotage.py`).
        shows: the count of the Tally in which the control must show.
        control_rounds: of one series of the control; there are more until it shows.
        stores: on which it is run.
        lasts: whether it takes `seconds`.
    """

    run: Callable[..., Tally]
    sabotage: str
    shows: str
    control_rounds: int = 2
    stores: tuple[StoreFactory, ...] = (Sqlite,)
    lasts: bool = False

    def control(self, seed: int, folder: Path, *, store: StoreFactory | None = None) -> tuple[Tally, int]:
        """Run the control until it shows; return what came of it, and how much of that shows that the rig bites.

        A broken server may be lucky: nothing was in flight when it was hurt. It is not lucky for ever.
        """
        tally = Tally()
        for number in range(CONTROL_SERIES_AT_MOST):
            part = folder / f"series-{number}"
            tally += self.run(self.control_rounds, seed + number, part, sabotage=self.sabotage, store=store or self.stores[0])
            if getattr(tally, self.shows):
                break
        found = getattr(tally, self.shows)
        return tally, found if isinstance(found, int) else len(found)


BOTH = (Sqlite, Postgres)
ONLY_POSTGRES = (Postgres,)

FAULTS: dict[str, Fault] = {
    "kill": Fault(kill, "late-commit", "lost", stores=BOTH),
    "power": Fault(power, "normal-sync", "lost", 1),
    "syscall-kill": Fault(syscall_kill, "late-commit", "lost"),
    "disk-full": Fault(disk_full, "late-commit", "lost", 1),
    "fsync-eio": Fault(fsync_eio, "late-commit", "lost", 2),
    "fsync-slow": Fault(fsync_slow, "late-commit", "lost", 3),
    "locked": Fault(locked, "late-spool", "lost", 1),
    "checkpoint": Fault(checkpoint, "no-checkpoint", "violations", 1),
    "owner": Fault(files.owner, "no-owner", "violations", stores=BOTH),
    "files": Fault(files.files, "trusting", "lost", 1),
    "spool-damage": Fault(files.spool_damage, "trusting", "lost", 1),
    "power-spooling": Fault(files.power_spooling, "normal-sync", "lost", 1),
    "history": Fault(files.history, "no-history", "violations", 1),
    "schema": Fault(files.schema, "piecemeal", "violations", 10),
    "clock": Fault(clock, "wall-clock-ids", "reordered"),
    "network": Fault(network, "no-memory", "doubled", 1),
    "duplicates": Fault(duplicates, "no-memory", "doubled", 1),
    "poison-while-spooled": Fault(outages.poison, "no-letters", "lost", 1, stores=(Postgres, Sqlite)),
    "postgres-restart": Fault(outages.restart, "late-commit", "lost", 1, stores=ONLY_POSTGRES),
    "postgres-kill-both": Fault(outages.kill_both, "late-spool", "lost", 1, stores=ONLY_POSTGRES),
    "postgres-away": Fault(outages.away, "late-commit", "lost", 1, stores=ONLY_POSTGRES, lasts=True),
    "postgres-terminate": Fault(outages.terminate, "late-commit", "lost", 1, stores=ONLY_POSTGRES),
    "postgres-cut": Fault(outages.cut, "no-doubt", "violations", stores=(PostgresOnBadLine,)),
    "postgres-hang": Fault(outages.hang, "patient", "violations", 1, stores=(PostgresOnBadLine,)),
}
