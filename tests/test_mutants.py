"""The list of mistakes made on purpose is true to the code: what each changes stands there, and so do its tests."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_mistake_can_be_made_and_has_its_tests() -> None:
    found = list(runpy.run_path(str(ROOT / "scripts/mutants.py"))["mutants"]())
    assert len(found) >= 120
    for mutant in found:
        assert mutant.old in (ROOT / "robodyne_rt" / mutant.file).read_text(), mutant
        assert mutant.tests and all((ROOT / name).exists() for name in mutant.tests), mutant
