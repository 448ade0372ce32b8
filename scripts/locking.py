"""Writes constraints.txt: what `scripts/lock` runs.

pip resolves for each version of Python and each kind of machine; where all agree a package stands once, else once for each
with a marker. The file has a section for each extra, with what those before it lack: `scripts/setup` installs whole sections
(`pip --require-hashes` takes no package that is not pinned and hashed).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "constraints.txt"
VERSIONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
SECTIONS = ("build", "run", "speed", "postgres", "redis", "docs", "cluster", "dev")

HEAD = """\
# What is installed, to the byte: written by scripts/lock, read by scripts/setup and scripts/install. Do not edit.
"""

Found = dict[str, tuple[str, dict[str, str]]]
"""By name: version, and by file name the hash, of one version of Python on one kind of machine."""


def requirements() -> dict[str, list[str]]:
    """Return what setup.cfg and pyproject.toml ask for, by section."""
    import tomllib

    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = {name: config["options.extras_require"][name].split("\n") for name in config["options.extras_require"]}
    wanted["run"] = config["options"]["install_requires"].split("\n")
    wanted["build"] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return {name: [line.strip() for line in wanted[name] if line.strip()] for name in SECTIONS}


def resolve(lines: list[str], interpreter: str, version: str, machine: str) -> list[dict[str, Any]]:
    """Return pip's report on what it would install from wheels."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(39, 4, -1)]
    platforms += [f"--platform={name}_{machine}" for name in ("manylinux2014", "linux")]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            interpreter,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--dry-run",
            "--ignore-installed",
        ]
        command += ["--only-binary=:all:", "--target", folder, f"--python-version={version}", "--implementation=cp", *platforms]
        subprocess.run([*command, "--report", str(report), *lines], check=True)
        return list(json.loads(report.read_text())["install"])


def closure(lines: list[str], reports: dict[str, dict[str, Any]], version: str, machine: str) -> Iterator[str]:
    """Yield the names of what requirements need, themselves among them."""
    waiting = [Requirement(line) for line in lines]
    seen: set[tuple[str, frozenset[str]]] = set()
    environment = {"python_version": version, "python_full_version": f"{version}.0", "platform_machine": machine}
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen or name not in reports:
            continue
        seen.add((name, extras))
        yield name
        for text in reports[name]["metadata"].get("requires_dist", ()):
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate(environment | {"extra": extra}) for extra in ("", *extras)):
                waiting.append(needed)


def interpreter_of(version: str) -> str:
    return subprocess.run([ROOT / "scripts/python", version], capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    wanted = requirements()
    lines = [line for section in wanted.values() for line in section]
    sections: dict[str, str] = {}
    pins: dict[str, dict[str, set[str]]] = {}
    where: dict[tuple[str, str], set[str]] = {}
    for version in VERSIONS:
        for machine in MACHINES:
            print(f"resolving for Python {version} on {machine} ...", file=sys.stderr)
            report = resolve(lines, interpreter_of(version), version, machine)
            named: dict[str, dict[str, Any]] = {canonicalize_name(item["metadata"]["name"]): item for item in report}
            for section in SECTIONS:
                for name in closure(wanted[section], named, version, machine):
                    known = sections.get(name, section)
                    sections[name] = min(known, section, key=SECTIONS.index)
            for name, item in named.items():
                pin = item["metadata"]["version"]
                pins.setdefault(name, {}).setdefault(pin, set()).add(item["download_info"]["archive_info"]["hashes"]["sha256"])
                where.setdefault((name, pin), set()).add(version)
    text = HEAD
    for section in SECTIONS:
        text += f"\n# == {section}\n"
        for name in sorted(name for name in sections if sections[name] == section):
            for pin in sorted(pins[name], key=Version):
                versions = where[name, pin]
                marker = (
                    ""
                    if versions == set(VERSIONS)
                    else " ; " + " or ".join(f'python_version == "{v}"' for v in sorted(versions))
                )
                hashes = "".join(f" \\\n    --hash=sha256:{value}" for value in sorted(pins[name][pin]))
                text += f"{name}=={pin}{marker}{hashes}\n"
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
