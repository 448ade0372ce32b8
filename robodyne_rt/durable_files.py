"""Files that are replaced as a whole: after a power cut there is the old one or the new one."""

import os
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Replace a file; it is on the disk when this returns.

    Raises:
        OSError: it cannot be written; the old one is still whole.
    """
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
