"""The faults of a database that goes away, comes back, hangs or refuses, while the server goes on with its spool."""

import contextlib
import dataclasses
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import psycopg

from tests.faults.judge import Tally
from tests.faults.load import Plan
from tests.faults.postgres import Postgres, PostgresOnBadLine
from tests.faults.rig import Rig, Screen, moment, series
from tests.faults.store import Sqlite, Store, StoreFactory

PLAN = Plan(anonymous=0.3, patience_s=10.0)
"""A device waits longer than the server for a database that hangs (5 s)."""

DOUBTFUL = dataclasses.replace(PLAN, anonymous=0.6)
"""What is done twice by mistake shows where it has no id."""

GENTLE = dataclasses.replace(PLAN, per_second=120)
"""What a spool takes in a few seconds is drained in a few."""

SQLITE_PATIENCE_S = 5.0

DRAINED_WITHIN_S = 60.0


def _postgres(rig: Rig) -> Postgres:
    assert isinstance(rig.store, Postgres)
    return rig.store


def _is_drained(rig: Rig) -> bool:
    return rig.victim.get("/readyz")[0] == 200 and b"\nrobodyne_spool_depth 0.0\n" in rig.victim.get("/metrics")[2]


def _expect_drained(rig: Rig, *, within_s: float = DRAINED_WITHIN_S) -> None:
    if not rig.wait_until(lambda: _is_drained(rig), within_s=within_s):
        rig.broke(f"the spool is not drained {within_s:.0f} s after the database came back: {rig.victim.checks()[1]}")


def restart(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Postgres) -> Tally:
    """Postgres ends at once and is back within half a second, again and again; every third time only when the spool of the last
    time is empty. Acknowledgements go on meanwhile (recovery: from the end of Postgres); nothing is lost or doubled, also
    without ids, and the order is kept."""

    def trial(rig: Rig, number: int) -> None:
        machine = _postgres(rig).machine
        rig.wait(min(1.0, moment(rig.rng)))
        machine.leave()
        since = time.monotonic()
        rig.recovered(since)
        rig.wait(rig.rng.uniform(0, 0.5))
        machine.come()
        if number % 3 == 2:
            _expect_drained(rig)

    return series(rounds, seed, folder, trial, sabotage=sabotage, store=store, plan=PLAN)


def kill_both(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Postgres) -> Tally:
    """The server is killed while Postgres is away and the spool is filling, and up to three times more while it drains; every
    other time it is started before Postgres. Nothing acknowledged is lost, nothing is doubled."""
    filled: list[int] = []
    left: list[int] = []

    def trial(rig: Rig, number: int) -> None:
        machine = _postgres(rig).machine
        rig.wait(rig.rng.uniform(0.05, 0.5))
        machine.leave()
        rig.wait(moment(rig.rng))
        rig.victim.kill()
        filled.append(rig.victim.spooled())
        is_first = number % 2 == 1
        if is_first:
            rig.victim.launch()
            time.sleep(rig.rng.uniform(0, 0.8))
        machine.come()
        if not is_first:
            rig.victim.launch()
        for _ in range(rig.rng.randint(1, 3)):
            if rig.rng.random() < 0.5:
                time.sleep(rig.rng.uniform(0.1, 1.5))
            else:
                rig.victim.until_ready()
                rig.wait(rig.rng.uniform(0, 0.3))
            rig.victim.kill()
            left.append(rig.victim.spooled())
            rig.victim.launch()
        since = time.monotonic()
        rig.victim.until_ready()
        rig.recovered(since)

    # What was acknowledged before a restart and comes again while the database is away nobody there can know: a repetition is
    # answered under another row (and stored once), a conflicting body becomes a dead letter. So here comes again only what
    # was not answered. Small batches: the spool takes a while to drain.
    plan = dataclasses.replace(GENTLE, conflicts=0.0, duplicates=0.0)
    tally = series(
        rounds, seed, folder, trial, sabotage=sabotage, store=store, plan=plan, settings={"DATABASE__BATCH_MAX": "20"}
    )
    tally.note += f"; {sum(filled)} messages in {sum(map(bool, filled))} spools"
    tally.note += f"; killed {len(left)} times more, {sum(map(bool, left))} of them with a spool that was not empty"
    return tally


def away(
    rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Postgres, seconds: float = 4.0
) -> Tally:
    """Postgres is away for 4 s (or `--seconds`). Acknowledgements go on, a screen sees volatile updates, and the same rows with
    offsets afterwards; everything is stored once and in order."""
    counts: Counter[str] = Counter()

    def trial(rig: Rig, number: int) -> None:
        machine = _postgres(rig).machine
        with Screen(rig.victim, "events") as screen:
            rig.wait_until(lambda: screen.updates > 0)
            rig.wait(0.3)
            machine.leave()
            screen.optimistic.clear()
            since = time.monotonic()
            rig.recovered(since)
            rig.wait(seconds - (time.monotonic() - since))
            if not any(ack.sent_at > since + 0.9 * seconds for ack in rig.ledger.acks):
                rig.broke("nothing was acknowledged any more towards the end of the outage")
            told = set(screen.optimistic)
            counts["optimistic"] += len(told)
            counts["spooled"] += sum(ack.sent_at >= since for ack in rig.ledger.acks)
            if len(told) < 10 * seconds:
                rig.broke(f"a screen saw {len(told)} rows in {seconds:.0f} s without Postgres")
            back = time.monotonic()
            machine.come()
            _expect_drained(rig, within_s=DRAINED_WITHIN_S + 3 * seconds)
            counts["drained_ms"] = max(counts["drained_ms"], int((time.monotonic() - back) * 1000))
            if not rig.wait_until(lambda: told <= screen.stored):
                rig.broke(f"{len(told - screen.stored)} of {len(told)} rows that were shown before never came with an offset")
        if screen.fault:
            rig.broke(f"the screen was cut off: {screen.fault}")

    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, plan=GENTLE)
    tally.note += f"; {counts['spooled']} acknowledged meanwhile, {counts['optimistic']} shown before they were stored"
    tally.note += f", drained within {counts['drained_ms'] / 1000:.1f} s"
    return tally


def terminate(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Postgres) -> Tally:
    """All connections of the server are ended by `pg_terminate_backend`, three times at random moments. Nothing is lost or
    doubled, also without ids."""
    ended: list[int] = []

    def trial(rig: Rig, number: int) -> None:
        for _ in range(3):
            rig.wait(rig.rng.uniform(0.02, 0.5))
            ended.append(_postgres(rig).terminate())
        rig.recovered(time.monotonic())

    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, plan=PLAN)
    tally.note += f"; {sum(ended)} connections ended"
    return tally


def cut(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = PostgresOnBadLine) -> Tally:
    """The line to Postgres is cut six times: at random, or where a COMMIT has happened and its answer is on the way, or right
    after that has arrived. What is in doubt is neither lost nor done twice, also without ids."""
    commits: Counter[str] = Counter()

    def trial(rig: Rig, number: int) -> None:
        assert isinstance(rig.store, PostgresOnBadLine)
        line = rig.store.line

        def was_cut(before: int) -> bool:
            return line.commits_cut > before

        moments: list[Literal["", "before", "after"]] = ["", "before", "after"] * 2
        for count, when in enumerate(moments):
            if count >= 3:
                _expect_drained(rig)  # a COMMIT out of the spool leaves no doubt: its mark is in it
            rig.wait(rig.rng.uniform(0.02, 0.4))
            if not when:
                line.cut()
                continue
            before = line.commits_cut
            line.cut_at_commit(when)
            if not rig.wait_until(partial(was_cut, before)):
                raise AssertionError("nothing was committed: the fault did not happen")
            commits[when] += 1
        rig.recovered(time.monotonic())

    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, plan=DOUBTFUL)
    tally.note += f"; cut {commits['before']} times before the answer to a COMMIT, {commits['after']} times after it"
    return tally


def hang(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = PostgresOnBadLine) -> Tally:
    """Nothing moves for 8 s: the line with a COMMIT on it, all of Postgres (SIGSTOP), or only the processes that serve us. The
    server loses its patience after 5 s; then messages are acknowledged again, and nothing is lost or doubled when what hung
    goes on after all."""

    def trial(rig: Rig, number: int) -> None:
        store = rig.store
        assert isinstance(store, PostgresOnBadLine)
        rig.wait(rig.rng.uniform(0.3, 1.0))
        if number % 3 == 0:
            held = store.line.commits_held
            store.line.hold_commit(8)
            if not rig.wait_until(lambda: store.line.commits_held > held):
                raise AssertionError("nothing was committed: the fault did not happen")
        else:
            store.machine.freeze(*(() if number % 3 == 1 else store.backends()))
        since = time.monotonic()
        if not rig.wait_until(lambda: any(ack.sent_at >= since for ack in rig.ledger.acks), within_s=7.5):
            rig.broke("nothing that was sent while Postgres hung was acknowledged within 7.5 s")
        rig.wait(8 - (time.monotonic() - since))
        store.machine.thaw()
        rig.recovered(time.monotonic())
        _expect_drained(rig)

    return series(rounds, seed, folder, trial, sabotage=sabotage, store=store, plan=DOUBTFUL)


# -- what a database refuses -----------------------------------------------------------------------------------------------


def poison(rounds: int, seed: int, folder: Path, *, sabotage: str = "", store: StoreFactory = Postgres) -> Tally:
    """Another program's rule refuses some events, and the database is away for a second (SQLite: locked for six). When it is
    back exactly these are dead letters, once; without the rule they are stored, by themselves or by `requeue`."""
    parked: list[int] = []

    def trial(rig: Rig, number: int) -> None:
        with _rule(rig.store) as lift:
            with _outage(rig.store):
                # A locked file is waited for a while before the spool takes over.
                rig.wait(rig.rng.uniform(0.8, 1.5) + (SQLITE_PATIENCE_S if isinstance(rig.store, Sqlite) else 0))
            _expect_drained(rig)
            parked.append(_judge_letters(rig))
            lift()
        status, answer = rig.victim.post("/api/dead-letters", {"action": "requeue", "ids": "all"})
        if status != 200 or not all(result["stored"] for result in answer["results"]):
            rig.broke(f"requeue: {status} {str(answer)[:300]}")
        if (left := rig.store.rows("SELECT count(*) FROM dead_letter")) != [(0,)]:
            rig.broke(f"{left[0][0]} dead letters are left after the requeue")
        rig.recovered(time.monotonic())

    plan = dataclasses.replace(GENTLE, kinds=("event",) * 8 + ("order", "poison"), conflicts=0.0)
    tally = series(rounds, seed, folder, trial, sabotage=sabotage, store=store, plan=plan)
    tally.note += f"; {sum(parked)} dead letters"
    return tally


def _judge_letters(rig: Rig) -> int:
    """Compare the dead letters with what was acknowledged; return how many there are."""
    acked = {(ack.device, ack.id) for ack in rig.ledger.acks if ack.what == "poison"}
    letters = rig.store.rows("SELECT device, message_id, attempts, error FROM dead_letter")
    stored = {name for (name,) in rig.store.rows("SELECT description FROM event WHERE severity = 'CRITICAL'")}
    named = Counter((device, id) for device, id, _, _ in letters)
    if twice := [id for (_, id), count in named.items() if count > 1]:
        rig.broke(f"{len(twice)} messages are several dead letters, as {twice[0]}")
    if wrong := [letter for letter in letters if letter[2] not in (1, 2, 3) or "poison" not in letter[3]]:
        rig.broke(f"{len(wrong)} dead letters that are not the rule's after one to three attempts, as {wrong[0]}")
    if both := [id for _, id in named if id in stored]:
        rig.broke(f"{len(both)} messages are stored and a dead letter, as {both[0]}")
    if missing := [id for device, id in acked if (device, id) not in named and id not in stored]:
        rig.broke(f"{len(missing)} acknowledged messages are neither stored nor a dead letter, as {missing[0]}")
    if not named:
        rig.broke("no dead letters: the fault did not happen")
    return len(letters)


@contextlib.contextmanager
def _rule(store: Store) -> Iterator[Callable[[], object]]:
    """Have the database refuse events of severity CRITICAL; yield what lifts that rule."""
    if isinstance(store, Postgres):
        with psycopg.connect(store.machine.url(store.database), autocommit=True) as connection:
            connection.execute("ALTER TABLE event ADD CONSTRAINT poison CHECK (severity <> 'CRITICAL') NOT VALID")
        yield lambda: store.rows("ALTER TABLE event DROP CONSTRAINT poison")
        return
    assert isinstance(store, Sqlite)
    _at_once(
        store,
        "CREATE TRIGGER poison BEFORE INSERT ON event WHEN NEW.severity = 'CRITICAL' BEGIN SELECT RAISE(ABORT, 'poison'); END",
    )
    yield lambda: _at_once(store, "DROP TRIGGER poison")


def _at_once(store: Sqlite, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(store.path, timeout=30, isolation_level=None)) as connection:
        connection.execute(statement)


@contextlib.contextmanager
def _outage(store: Store) -> Iterator[None]:
    """Take the database away for as long as the block lasts."""
    if isinstance(store, Postgres):
        store.machine.leave()
        try:
            yield
        finally:
            store.machine.come()
        return
    with locked(store):
        yield


@contextlib.contextmanager
def locked(store: Store) -> Iterator[Callable[[], object]]:
    """Hold the database's write lock, as a careless program does; yield what releases it before the end."""
    assert isinstance(store, Sqlite)
    connection = sqlite3.connect(store.path, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield lambda: connection.execute("ROLLBACK")
    finally:
        connection.close()
