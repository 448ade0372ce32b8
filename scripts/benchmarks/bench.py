"""The benchmark of robodyne-rt (SPEC section 11): every figure side by side with its limit, in one run.

`scripts/bench` starts it. figures.py measures, rig.py holds the processes, the C programs are load and limit.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import signal
import sqlite3
import sys
import time
from importlib import metadata
from pathlib import Path

import figures
from bulk import bulk
from compare import compare
from fairness import fairness
from figures import Figure, Scale
from postgres import postgres
from rig import BenchError, Rig

QUICK_WITHIN_S = 90
ROUND_WITHIN_S = 300
"""Nothing here runs for ever: the whole run is ended after this long per round."""

GUARDED = ("fan-out", "latency", "ingest")
GUARD_ROUNDS = 5
GUARD_FACTOR = 2.0
"""Both sides of a ratio are measured in one run, so that a busy machine costs them alike: twice its target is a regression."""

EXIT_BEYOND = 3

ALL = {**figures.FIGURES, "bulk": bulk, "fairness": fairness, "postgres": postgres}

USAGE = """\
examples:
  scripts/bench                                   everything, 5 rounds: about five minutes
  scripts/bench --only fan-out --only latency     some figures
  scripts/bench --quick                           does it work at all: small numbers, one round
  scripts/bench --guard                           for CI: short; fails where a ratio is beyond twice its target
  scripts/bench --against ../before --rounds 11   what a change costs
  scripts/bench --markdown >> docs/performance.md

The server runs on one core, the load on another. Exit code: 0 measured (met or not), 1 not measured, 2 wrong usage,
3 a ratio is beyond twice its target (with --guard only).
"""


def main() -> int:
    """Measure and print."""
    options = _options()
    if options.guard:
        options.rounds, options.only = GUARD_ROUNDS, options.only or list(GUARDED)
    scale = figures.QUICK if options.quick else Scale(rounds=options.rounds)
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGHUP, _ended)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(QUICK_WITHIN_S if options.quick else ROUND_WITHIN_S * scale.rounds)
    results: list[Figure] = []
    failed: list[str] = []
    began = time.monotonic()
    try:
        with Rig(note=_note) as rig:
            machine = _machine(rig.folder)
            if options.against:
                print(compare(rig, scale, options.against.resolve()))
                return 0
            for name in options.only or ALL:
                _note(f"{name}: {scale.rounds} round{'s' if scale.rounds > 1 else ''}")
                try:
                    results += ALL[name](rig, scale)
                except BenchError as error:
                    failed.append(f"{name}: {error}")
                    _note(failed[-1])
    except (BenchError, TimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: ended", file=sys.stderr)
        return 130
    took_s = time.monotonic() - began
    print(_markdown(results, machine, scale) if options.markdown else _text(results, machine, scale))
    if options.quick:
        print("\n--quick shows that everything works; its numbers are too small to compare with the targets.")
    if options.json:
        content = {
            "machine": machine,
            "scale": dataclasses.asdict(scale),
            "seconds": round(took_s, 1),
            "failed": failed,
            "figures": [figure.as_json() for figure in results],
        }
        options.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for text in failed:
        print(f"bench: not measured: {text}", file=sys.stderr)
    if failed:
        return 1
    beyond = [figure for figure in results if figure.is_beyond(GUARD_FACTOR)] if options.guard else []
    for figure in beyond:
        print(
            f"bench: {figure.group}: {figure.name}: beyond {GUARD_FACTOR:g} times its target in every round",
            file=sys.stderr,
        )
    return EXIT_BEYOND if beyond else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure the server against its limits.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=list(ALL), metavar="NAME", help=" | ".join(ALL))
    parser.add_argument("--rounds", type=_rounds, default=5, metavar="N", help="rounds, of which the median counts (default 5)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="CPU time per event and per commit beside another checkout (which has run scripts/setup dev), nothing else",
    )
    parser.add_argument(
        "--guard",
        action="store_true",
        help=f"{GUARD_ROUNDS} rounds of {', '.join(GUARDED)}; exit 3 where a ratio is far beyond its target",
    )
    parser.add_argument("--quick", action="store_true", help="one round with small numbers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE too")
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/performance.md")
    return parser.parse_args()


def _rounds(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError("expected 1 to 100")
    return value


def _note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _ended(number: int, frame: object) -> None:
    signal.alarm(0)
    raise KeyboardInterrupt


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError("it took too long, and was ended")


# -- printing ---------------------------------------------------------------------------------------------------------


def _machine(folder: Path) -> dict[str, str]:
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    try:
        loop = f"uvloop {metadata.version('uvloop')}"
    except metadata.PackageNotFoundError:
        loop = "asyncio"
    file_system = _file_system(folder)
    if file_system in ("tmpfs", "ramfs"):
        _note("the temporary folder is in memory: a sync costs nothing here; set TMPDIR to a folder on disk")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "loop": loop,
        "aiohttp": metadata.version("aiohttp"),
        "file system": file_system,
    }


def _file_system(folder: Path) -> str:
    device = folder.stat().st_dev
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            return source.split()[0]
    return "unknown file system"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _row(figure: Figure) -> list[str]:
    content = figure.as_json()
    bound = "≥" if figure.at_least else "≤"
    sign, unit = {"ratio": ("", "×"), "difference": ("+", f" {figure.unit}"), "value": ("", f" {figure.unit}")}[figure.compare]
    shown = [f"{value:.2f}" for value in (min(figure.results), max(figure.results))]
    limit = _number(content["limit"]) if content["limit"] is not None else ""
    return [
        f"{figure.group}: {figure.name}",
        f"{_number(content['measured'])} {figure.unit}",
        limit,
        f"{figure.result:+.2f}{unit}" if figure.compare == "difference" else f"{figure.result:.2f}{unit}",
        "–".join(shown),
        "" if figure.target is None else f"{bound} {sign}{figure.target:g}{unit}",
        "" if figure.target is None else "yes" if figure.met else f"NO ({figure.spoiled})" if figure.spoiled else "NO",
    ]


HEAD = ["figure", "measured", "limit", "ratio", "rounds", "target", "met"]


def _text(results: list[Figure], machine: dict[str, str], scale: Scale) -> str:
    rows = [HEAD, *(_row(figure) for figure in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [", ".join(f"{name} {value}" for name, value in machine.items()), f"median of {scale.rounds}", ""]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    lines += ["", *_remarks(results)]
    return "\n".join(lines)


def _markdown(results: list[Figure], machine: dict[str, str], scale: Scale) -> str:
    lines = [
        f"Measured on {machine['date']} with `scripts/bench`, median of {scale.rounds} rounds: {machine['cpu']}; "
        f"{machine['kernel']}; Python {machine['python']}, SQLite {machine['sqlite']}, {machine['loop']}, "
        f"aiohttp {machine['aiohttp']}; {machine['file system']}. Server on one core, load on the other.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    lines += ["| " + " | ".join(_row(figure)) + " |" for figure in results]
    lines += ["", *(f"- {remark}" for remark in _remarks(results))]
    return "\n".join(lines)


def _remarks(results: list[Figure]) -> list[str]:
    return list(dict.fromkeys(f"{figure.group}: {remark}" for figure in results for remark in figure.remarks))


if __name__ == "__main__":
    sys.exit(main())
