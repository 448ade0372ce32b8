"""Faults of the files and of who owns them: taken away, put back, damaged, owned twice, killed while their schema changes."""

import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.server import command
from tests.faults.judge import Tally
from tests.faults.load import Plan
from tests.faults.rig import Rig, moment, series
from tests.faults.shim import Kind, Shim
from tests.faults.store import Died, Sqlite, StoreFactory, Victim
from tests.schema.test_upgrade import FIXTURES, NAMES

OWNED = 4
BROKEN = 3


def owner(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """A second server, a restore, a migration and a user command come to the data of one that serves, and either server is
    killed. There is one owner, the others end with code 4 and touch nothing; no lock is left behind, nothing is lost."""

    def trial(rig: Rig, number: int) -> None:
        first = rig.victim.process
        assert first is not None
        rig.wait(moment(rig.rng) / 3)
        kills_first = number % 2 == 0
        rig.victim.launch()
        second = rig.victim.process
        assert second is not None
        rig.victim.process = first
        rig.wait(rig.rng.uniform(0.0, 1.0))
        # Of a database that is no file also from another machine, which knows nothing of the spool.
        elsewhere = rig.folder / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        database = {f"ROBODYNE_RT__{name}": value for name, value in rig.store.settings.items()}
        for where, words in (
            (rig.victim.folder, (("migrate",), ("restore", "nothing.db"))[number % 2]),
            *([(elsewhere, ("migrate",))] if database else []),
        ):
            done = command(where, *words, **database)
            if done.returncode not in (OWNED, 2) or (words == ("migrate",) and done.returncode != OWNED):  # 2: no such backup
                rig.broke(f"{words[0]} beside a server ended with {done.returncode}: {done.stderr[-300:]}")
        if kills_first:
            first.kill()
            first.wait(10)
            since = time.monotonic()
            rig.victim.process = second
            try:
                rig.victim.until_ready(wait_s=15)
            except (Died, AssertionError):
                if second.poll() not in (OWNED, 2):  # the port may be the reason, where it was in a hurry
                    rig.broke(f"the second server ended with {second.poll()} after the first was killed")
                rig.victim.start()
            rig.recovered(since)
        else:
            second.kill()
            second.wait(10)
            since = time.monotonic()
            rig.recovered(since)
        if not rig.victim.is_running:
            rig.broke("the owner ended")

    def only_one(rig: Rig) -> None:
        """A second server that is left alone ends with code 4, and says who has the data."""
        first = rig.victim.process
        rig.victim.launch()
        second, rig.victim.process = rig.victim.process, first
        assert second is not None
        try:
            code = second.wait(25)
        except subprocess.TimeoutExpired:
            second.kill()
            second.wait(10)
            code = -1
        if code != OWNED or "is in use by" not in rig.victim.log():
            rig.broke(f"a second server beside the first ended with {code}")

    return series(
        rounds, seed, folder, trial, sabotage=sabotage, store=store, before_verdict=only_one, tracebacks=bool(sabotage)
    )


# -- SQLite's files ----------------------------------------------------------------------------------------------------


def files(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """Under load the database is deleted, an older copy is moved into its place, or its WAL is deleted. The server ends with
    code 3 and has saved what was stored; restored, nothing acknowledged is missing."""

    def trial(rig: Rig, number: int) -> None:
        assert isinstance(rig.store, Sqlite)
        database = rig.store.path
        _copy(database, rig.folder / "older.db")
        rig.wait(moment(rig.rng) / 3)
        how = number % 3
        if how == 0:
            database.unlink()
        elif how == 1:
            (rig.folder / "older.db").replace(database)
        else:
            database.with_name(database.name + "-wal").unlink()
        process = rig.victim.process
        assert process is not None
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            code = 0
            rig.victim.kill()  # a server that does not see it
        saved = sorted(database.parent.glob(f"{database.name}.rescued-*"))
        if code != BROKEN or not saved:
            rig.broke(f"the server ended with {code} and saved {len(saved)} copies")
        if saved:
            done = command(rig.victim.folder, "restore", str(saved[-1]))
            if done.returncode:
                rig.broke(f"the saved copy cannot be restored: {done.stdout}{done.stderr}")
            saved[-1].unlink()
        rig.start_again()

    return series(rounds, seed, folder, trial, sabotage=sabotage, store=store, tracebacks=True)


def spool_damage(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """While the database is locked the spool is deleted, loses its WAL or is replaced, and the server is killed a moment
    later; or the spool gets a page of rubbish. Devices are answered within 10 s, and what is lost with a page is told."""
    told = 0

    def trial(rig: Rig, number: int) -> None:
        nonlocal told
        assert isinstance(rig.store, Sqlite)
        spool = rig.victim.folder / "spool.db"
        cuts = len(rig.ledger.of_kind("cut"))
        with _locked(rig.store.path):
            rig.wait(rig.rng.uniform(5.2, 6.5))  # SQLite waits for 5 s, then it spools
            how = number % 5
            if how in (0, 2):
                spool.unlink(missing_ok=True)
            if how in (1, 2):
                spool.with_name("spool.db-wal").unlink(missing_ok=True)
            if how == 3:
                _copy(spool, rig.folder / "other.db", "DELETE FROM spool; UPDATE spool_name SET name = 'other'")
                (rig.folder / "other.db").replace(spool)
            if how == 4:
                _checkpoint(spool)
                _spoil(spool, rig.rng)
            rig.wait(rig.rng.uniform(0.5, 1.0))
            if how < 4:
                rig.victim.kill()
        if how < 4:
            rig.start_again()
        else:
            rig.recovered(since=time.monotonic())
        if not rig.wait_until(lambda: rig.victim.get("/readyz")[0] == 200, within_s=20):
            rig.broke(f"not ready after the spool was hurt in way {how}")
        late = [cut for cut in rig.ledger.of_kind("cut")[cuts:] if "no answer" in cut["text"]]
        if late:
            rig.broke(f"no answer when the spool was hurt in way {how}: {late[0]['text']}")

    def count(rig: Rig) -> None:
        nonlocal told
        rig.wait(1.0)
        rows = rig.store.rows("SELECT data FROM event WHERE severity = 'ERROR' AND description LIKE '%spool%'")
        told += sum(json.loads(data)["lost"] or 0 for (data,) in rows)

    plan = Plan(kinds=("event", "order"), patience_s=11.0)
    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, before_verdict=count, plan=plan)
    tally.note += f"; {tally.lost} lost with a damaged page, {told} told"
    tally.lost = max(0, tally.lost - told)
    return tally


def power_spooling(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """Power loss while the database is locked and everything goes to the spool. Nothing acknowledged is lost."""

    def trial(rig: Rig, number: int) -> None:
        assert isinstance(rig.store, Sqlite)
        with _locked(rig.store.path):
            rig.wait(5.2 + moment(rig.rng) / 3)
            rig.victim.kill()
        rig.shim.lose_power(rig.rng if number % 2 else None)
        rig.start_again()

    return series(rounds, seed, folder, trial, sabotage=sabotage, store=store, shim=True)


# -- history and schema --------------------------------------------------------------------------------------------------


def history(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """An older copy is written over the database while it serves (`.restore`), or put in its place between two runs, and
    every other time another program writes on. Each time a new epoch begins, with an ERROR event and in the metric."""
    silent: list[str] = []
    losses = 0

    def trial(rig: Rig, number: int) -> None:
        nonlocal losses
        assert isinstance(rig.store, Sqlite)
        copy = rig.folder / "older.db"
        _copy(rig.store.path, copy)
        rig.wait(1.3 + moment(rig.rng) / 3)  # the note is written once a second
        ((epoch,),) = rig.store.rows("SELECT value FROM meta WHERE key = 'epoch'")
        before = _regressions(rig)
        is_serving, writes_on = number % 2 == 0, number % 4 > 1
        if is_serving:
            _copy(copy, rig.store.path)
        else:
            rig.victim.kill()
            for end in ("", "-wal", "-shm"):
                rig.store.path.with_name(rig.store.path.name + end).unlink(missing_ok=True)
            shutil.copyfile(copy, rig.store.path)
            before = 0
        if writes_on:
            with contextlib.closing(sqlite3.connect(rig.store.path, timeout=20)) as till:
                for _ in range(300):
                    till.execute("INSERT INTO event(type, timestamp) VALUES ('INFO', '2026-11-27T00:00:00Z')")
                till.commit()
        since = time.monotonic()
        if not is_serving:
            rig.victim.start()
        rig.recovered(since)
        if not rig.wait_until(lambda: _regressions(rig) > before, within_s=8):
            silent.append(f"round {number}: nothing was told of a database that lost history")
            return
        losses += 1
        ((now,),) = rig.store.rows("SELECT value FROM meta WHERE key = 'epoch'")
        if now == epoch:
            silent.append(f"round {number}: the epoch stayed")
        told = "SELECT count(*) FROM event WHERE severity = 'ERROR' AND description LIKE 'the database %lost'"
        if not rig.wait_until(lambda: rig.store.rows(told.replace("%lost", "%"))[0][0] > 0, within_s=5):
            silent.append(f"round {number}: no ERROR event")

    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, tracebacks=bool(sabotage))
    # What an older copy lacks is gone; what counts is that nobody is left in the belief that it is there.
    tally.note = f"{losses} losses, each told"
    tally.lost = tally.doubled = tally.reordered = tally.false_acks = 0
    tally.violations = silent + [text for text in tally.violations if "integrity_check" in text or "nothing was ack" in text]
    return tally


def schema(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Sqlite) -> Tally:
    """The server is killed at the K-th write or fsync while it brings a database of an earlier version forward, every other
    time with a power loss. Started again it has all rows, and the new schema."""
    tally = Tally()
    for number in range(rounds):
        name = NAMES["sqlite"][number % len(NAMES["sqlite"])]
        _killed_while_migrating(tally, name, random.Random(f"{seed}-{number}"), folder / f"{number}", sabotage=sabotage)
    return tally


def _killed_while_migrating(tally: Tally, name: str, rng: random.Random, folder: Path, *, sabotage: str) -> None:
    data = folder / "data"
    data.mkdir(parents=True)
    link = sqlite3.connect(data / "robodyne.db")
    link.executescript((FIXTURES / f"{name}.sqlite.sql").read_text(encoding="utf-8"))
    link.execute("PRAGMA journal_mode = wal")
    wanted = _counts(link)
    link.close()
    shim = Shim(data, shadow=folder / "shadow", control=folder / "control")
    with contextlib.closing(shim):
        victim = Victim(data, log=folder / "server.log", settings={}, environment=shim.environment, sabotage=sabotage)
        kind = (Kind.SYNC, Kind.WRITE)[rng.random() < 0.8]
        shim.kill_at(kind, round((400 if kind is Kind.WRITE else 12) ** rng.random()), after=rng.random() < 0.5)
        with contextlib.suppress(Died):
            victim.start()
        if victim.is_running:
            victim.kill()
        if rng.random() < 0.5:
            shim.lose_power(rng)
        shim.heal()
        tally.trials += 1
        try:
            with victim.start():
                (answer,) = victim.tell({"msg_type": "Event", "type": "INFO", "description": "after", "id": "x"})
                tally.acknowledged += answer["status"] == "success"
                victim.stop()
        except Died as death:
            tally.violations.append(f"{name}, killed at {kind.name}: {death}")
            return
    link = sqlite3.connect(data / "robodyne.db")
    found = _counts(link)
    found["event"] -= 1
    found["system_log"] -= link.execute("SELECT count(*) FROM system_log WHERE source = 'server'").fetchone()[0]
    missing = {table: (count, found[table]) for table, count in wanted.items() if found[table] != count}
    if missing:
        tally.violations.append(f"{name}: rows before and after: {missing}")
    if (verdict := link.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
        tally.violations.append(f"{name}: {verdict}")
    link.close()


def _counts(link: sqlite3.Connection) -> dict[str, int]:
    tables = ("robot", "table_", "event", "order_", "order_item", "menu_item", "customer", "inventory", "system_log")
    return {table: link.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


# -- tools -----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep the database locked, as another program would."""
    other = sqlite3.connect(path, timeout=20, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


def _copy(source: Path, target: Path, then: str = "") -> None:
    """Copy a database as SQLite's own backup does, into a file that may be open."""
    deadline = time.monotonic() + 20
    while True:
        with (
            contextlib.closing(sqlite3.connect(source, timeout=20)) as old,
            contextlib.closing(sqlite3.connect(target, timeout=20)) as new,
        ):
            try:
                old.backup(new)
                new.executescript(then)
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.01)


def _checkpoint(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=5)) as link:
        link.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _spoil(path: Path, rng: random.Random) -> None:
    """Write rubbish over one page that is not the first."""
    pages = path.stat().st_size // 4096
    if pages > 3:
        with path.open("r+b") as file:
            file.seek(4096 * rng.randrange(3, pages))
            file.write(rng.randbytes(4096))


def _regressions(rig: Rig) -> float:
    try:
        text = rig.victim.get("/metrics")[2].decode()
    except OSError:
        return -1
    (line,) = [line for line in text.splitlines() if line.startswith("robodyne_data_regressed_total ")]
    return float(line.split()[1])
