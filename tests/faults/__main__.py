"""`scripts/faults`: hurt the server in every way, and print a table of what came of it."""

import argparse
import dataclasses
import functools
import sys
import tempfile
import time
from pathlib import Path

from robodyne_rt.sim.cluster import NoPostgres
from tests.faults.faults import FAULTS, Fault
from tests.faults.judge import Tally
from tests.faults.rig import quantile
from tests.faults.shim import NoCompiler
from tests.faults.store import StoreFactory

COLUMNS = (
    ("fault", 20),
    ("store", 8),
    ("trials", 7),
    ("acknowledged", 13),
    ("lost", 5),
    ("doubled", 8),
    ("reordered", 10),
    ("false acks", 11),
    ("other", 6),
    ("recovery p50/p99/max", 21),
    ("control", 18),
    ("verdict", 0),
)


def main() -> int:
    """Run the faults that were asked for; return the exit code."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(FAULTS)):
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    if options.keep and Path(options.keep).exists() and any(Path(options.keep).iterdir()):
        parser.error(f"{options.keep} is not empty")
    if options.list:
        for name, fault in FAULTS.items():
            stores = ", ".join(store.name for store in fault.stores)
            print(f"{name:20} {' '.join((fault.run.__doc__ or '').split())} ({stores})")
        return 0
    _print_row([name for name, _ in COLUMNS])
    with tempfile.TemporaryDirectory(prefix="robodyne-faults-", ignore_cleanup_errors=True) as temporary:
        folder = Path(options.keep or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            good = [
                _run(name, _lasting(FAULTS[name], options.seconds), store, options.rounds, options.seed, folder)
                for name in options.names or FAULTS
                for store in FAULTS[name].stores
                if options.store in ("all", store.name)
            ]
        except (NoCompiler, NoPostgres) as error:
            print(error, file=sys.stderr)
            return 1
    return 0 if all(good) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description="Hurt the server under load, again and again, and compare the database with what devices were told. Each "
        "fault is also tried on a server that is broken on purpose (the control), which must be found out.",
        epilog="Exit codes: 0 every promise held and every control was found out, 1 not so, 2 wrong usage.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to run (default: all)")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="trials of each fault (default: 20)")
    parser.add_argument(
        "--store", choices=("sqlite", "postgres", "all"), default="all", help="only on this database (default: all)"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="how long an outage lasts (postgres-away; default: 4)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of all that is random (default: 1)")
    parser.add_argument("--keep", metavar="FOLDER", help="keep SQLite files, ledgers and logs in this folder")
    parser.add_argument("--list", action="store_true", help="say what each fault does and promises, and end")
    return parser


def _lasting(fault: Fault, seconds: float | None) -> Fault:
    if seconds is None or not fault.lasts:
        return fault
    return dataclasses.replace(fault, run=functools.partial(fault.run, seconds=seconds))


def _run(name: str, fault: Fault, store: StoreFactory, rounds: int, seed: int, folder: Path) -> bool:
    """Run one fault and its control, print its row; return whether all is well."""
    started = time.monotonic()
    tally = fault.run(rounds, seed, folder / f"{name}-{store.name}", store=store)
    control, found = fault.control(seed, folder / f"{name}-{store.name}-control", store=store)
    is_good = not tally.broken and found > 0
    verdict = "holds" if is_good else "BROKEN" if tally.broken else "BLIND"
    if is_good:
        verdict += f", failures < {3 / max(1, tally.trials):.3g} (95 %)"
    _print_row(
        [
            name,
            store.name,
            tally.trials,
            tally.acknowledged,
            tally.lost,
            tally.doubled,
            tally.reordered,
            tally.false_acks,
            len(tally.violations),
            _recovery(tally),
            f"{fault.shows} {found} of {control.acknowledged}",
            verdict,
        ]
    )
    for text in filter(None, [tally.note.strip("; "), *dict.fromkeys(tally.violations)]):
        print(f"    {text}")
    print(f"    {time.monotonic() - started:.0f} s; control: {fault.sabotage}", flush=True)
    return is_good


def _recovery(tally: Tally) -> str:
    if not tally.recovery_s:
        return "-"
    return "/".join(f"{quantile(tally.recovery_s, share):.2f}" for share in (0.5, 0.99, 1.0)) + " s"


def _print_row(cells: list[object]) -> None:
    texts = (str(cell).ljust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    print(" ".join(texts).rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
