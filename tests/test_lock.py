"""constraints.txt and package-lock.json hold what is asked for, to the byte, and name no place to get it from."""

import json
import re
import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "constraints.txt").read_text()
ENTRY = re.compile(r"^([\w.-]+)==([\w.!+]+)(?: ; (.+?))?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def wanted() -> dict[str, list[str]]:
    """Return what is asked for, by section of the file."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = {name: config["options.extras_require"][name] for name in config["options.extras_require"] if name != "all"}
    lists["run"] = config["options"]["install_requires"]
    lines = {name: [line for line in text.split("\n") if line.strip()] for name, text in lists.items()}
    return lines | {"build": tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]}


@pytest.mark.parametrize("section", sorted(wanted()))
def test_what_is_asked_for_is_locked(section: str) -> None:
    pins = {canonicalize_name(name): version for name, version, _, _ in ENTRY.findall(TEXT)}
    for line in wanted()[section]:
        requirement = Requirement(line)
        version = pins.get(canonicalize_name(requirement.name))
        assert version and version in requirement.specifier, f"{line}: run scripts/lock"


def test_every_line_is_a_pin_with_its_hashes_and_no_host_is_named() -> None:
    rest = ENTRY.sub("", TEXT)
    assert all(line.startswith("#") or not line for line in rest.split("\n")), rest
    assert "://" not in TEXT and "index" not in TEXT.lower()


def test_a_section_is_printed_without_the_others() -> None:
    def printed(*sections: str) -> set[str]:
        done = subprocess.run([str(ROOT / "scripts/locked"), *sections], capture_output=True, text=True, check=True)
        return {name for name, *_ in ENTRY.findall(done.stdout)}

    run, dev = printed("build", "run"), printed("dev")
    assert {"setuptools", "aiohttp", "orjson"} <= run and "pytest" in dev and not run & dev
    assert printed("build", "run", "speed", "postgres", "redis", "docs", "cluster", "dev") == {
        name for name, *_ in ENTRY.findall(TEXT)
    }


def test_the_tools_for_javascript_are_locked_and_no_host_is_named() -> None:
    wanted = json.loads((ROOT / "tests/js/package.json").read_text())["devDependencies"]
    packages = json.loads((ROOT / "tests/js/package-lock.json").read_text())["packages"]
    assert packages.pop("")["devDependencies"] == wanted, "npm install --package-lock-only --prefix tests/js"
    for name, version in wanted.items():
        assert packages[f"node_modules/{name}"]["version"] == version
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-") and "resolved" not in package, name
