"""Make small mistakes on purpose, one at a time, in a copy of the program, and look whether a test finds each.

A bound, a unit, a retry, a right, an order of steps: what can be changed without a test that turns red is not tested.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_suffix(".txt")
WITHIN_S = 60.0
"""A mistake that makes tests hang is found as well."""


class Mutant(NamedTuple):
    """One mistake: `old` in a file becomes `new`; `tests` must find it."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} -> {self.new!r}"


def mutants() -> Iterator[Mutant]:
    """Read the list."""
    tests: dict[str, tuple[str, ...]] = {}
    for line in LIST.read_text().splitlines():
        if line.startswith("= "):
            file, *named = line[2:].split()
            tests[file] = tuple(named)
        elif line and not line.startswith("#"):
            file, old, new = (part.replace("\\n", "\n").replace("\\|", "|") for part in _parts(line))
            yield Mutant(file.strip(), old, new, tests[file.strip()])


def _parts(line: str) -> list[str]:
    parts = line.replace("\\|", "\0").split(" | ")
    return [part.replace("\0", "\\|") for part in parts]


def survives(mutant: Mutant, copy: Path) -> str:
    """Return how a mistake came through, nothing where a test found it."""
    path = copy / "robodyne_rt" / mutant.file
    text = path.read_text()
    if mutant.old not in text:
        return "what is to be changed does not stand there: mend the list"
    tests = [name for name in mutant.tests if (copy / name).exists()]
    if not tests:
        return "there is no such test"
    path.write_text(text.replace(mutant.old, mutant.new, 1))
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        ended = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    finally:
        path.write_text(text)
    return "" if ended.returncode == 1 or "error" in ended.stdout[-300:] else "all its tests pass"


def main() -> int:
    """Run all mutants, or those of named files; exit 1 where one survives."""
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__)
    parser.add_argument("files", nargs="*", help="only those of these files, e.g. core/ids.py")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    options = parser.parse_args()
    chosen = [mutant for mutant in mutants() if not options.files or mutant.file in options.files]
    survivors: list[tuple[Mutant, str]] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.workers):
            copy = Path(folder) / str(number)
            ignored = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "node_modules", ".*_cache")
            shutil.copytree(ROOT, copy, ignore=ignored)
            copies.put(copy)

        def run(mutant: Mutant) -> str:
            copy = copies.get()
            try:
                return survives(mutant, copy)
            finally:
                copies.put(copy)

        for number, (mutant, why) in enumerate(zip(chosen, pool.map(run, chosen), strict=True), 1):
            print(f"{number}/{len(chosen)} {f'SURVIVED ({why})' if why else 'killed'}: {mutant}", flush=True)
            if why:
                survivors.append((mutant, why))
    killed = len(chosen) - len(survivors)
    print(f"\n{killed} of {len(chosen)} killed ({100 * killed // max(1, len(chosen))} %)")
    for mutant, why in survivors:
        print(f"survived: {mutant}: {why}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
