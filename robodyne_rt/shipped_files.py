"""What comes with the program besides its code: config.toml with every setting explained, docs/, systemd/.

A clone has it at its top, a wheel puts it into PREFIX/share/robodyne-rt.
"""

from importlib import metadata
from pathlib import Path


def path_of(name: str) -> Path | None:
    """Return where a file is; None where whoever packaged the program put it elsewhere."""
    clone = Path(__file__).parent.parent
    if (clone / "setup.cfg").exists():
        return clone / name
    for file in metadata.files("robodyne-rt") or ():
        if file.as_posix().endswith(f"share/robodyne-rt/{name}"):
            return Path(str(file.locate())).resolve()
    return None
