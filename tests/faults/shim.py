"""Building, loading and steering `shim.c`, which makes a process's disk and clock fail to order.

with Shim(data, shadow=folder / "shadow", control=folder / "control") as shim:
    subprocess.Popen(command, env=os.environ | shim.environment)
    shim.control.write_error = errno.ENOSPC
"""

import atexit
import ctypes
import functools
import mmap
import random
import shutil
import subprocess
import tempfile
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")

BLOCK_BYTES = 512
"""What a disk writes whole: a torn write ends between two of these."""


class Kind(IntEnum):
    """Kinds of calls that the shim counts and can kill at (`enum kind` of shim.c)."""

    SYNC = 0
    WRITE = 1
    TRUNCATE = 2
    UNLINK = 3
    RENAME = 4


class Control(ctypes.Structure):
    """`struct control` of shim.c, which says what each field means."""

    _fields_ = (
        ("fsync_delay_ms", ctypes.c_int64),
        ("fsync_error", ctypes.c_int64),
        ("fsync_error_calls", ctypes.c_int64),
        ("fsync_drops", ctypes.c_int64),
        ("write_error", ctypes.c_int64),
        ("kill_kind", ctypes.c_int64),
        ("kill_at", ctypes.c_int64),
        ("kill_after", ctypes.c_int64),
        ("clock_offset_s", ctypes.c_int64),
        ("calls", ctypes.c_int64 * len(Kind)),
        ("errors_told", ctypes.c_int64),
        ("copied_bytes", ctypes.c_int64),
        ("broken", ctypes.c_int64),
        ("only_suffix", ctypes.c_char * 32),
        ("not_prefix", ctypes.c_char * 32),
    )


class NoCompiler(Exception):
    """There is no C compiler to build the shim with."""


@functools.cache
def library() -> Path:
    """Return the built library; it is built once per process, in a folder that is removed at its end.

    Raises:
        NoCompiler: `cc` is missing; the text says what to install.
    """
    if shutil.which("cc") is None:
        raise NoCompiler("the fault shim needs a C compiler, `cc`: on Debian and Ubuntu, sudo apt install gcc libc6-dev")
    folder = Path(tempfile.mkdtemp(prefix="robodyne-shim-"))
    atexit.register(shutil.rmtree, folder)
    target = folder / "shim.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", "-o", str(target), str(SOURCE), "-ldl", "-lpthread"], check=True, timeout=60
    )
    return target


class Shim:
    """The shim around the files of one folder.

    Args:
        folder: whose files are watched; it exists.
        shadow: folder for what survives a power loss; begins as a copy of `folder`.
        control: the control file, made here.
    """

    def __init__(self, folder: Path, *, shadow: Path, control: Path) -> None:
        self.folder = folder.resolve()
        self.shadow = shadow.resolve()
        self.shadow.mkdir()
        self._save()
        control.write_bytes(bytes(ctypes.sizeof(Control)))
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.control = Control.from_buffer(self._map)
        self.environment = {
            "LD_PRELOAD": str(library()),
            "ROBODYNE_SHIM_FOLDER": str(self.folder),
            "ROBODYNE_SHIM_SHADOW": str(self.shadow),
            "ROBODYNE_SHIM_CONTROL": str(control.resolve()),
        }

    def heal(self) -> None:
        """Take back every fault but the clock's offset."""
        control = self.control
        control.fsync_delay_ms = control.fsync_error = control.fsync_error_calls = control.fsync_drops = 0
        control.write_error = control.kill_at = 0
        control.only_suffix = control.not_prefix = b""

    def kill_at(self, kind: Kind, number: int, *, after: bool) -> None:
        """Let the process that starts next be killed at its `number`th call of a kind."""
        control = self.control
        control.calls = (ctypes.c_int64 * len(Kind))()
        control.kill_kind, control.kill_after, control.kill_at = kind, after, number

    def _save(self) -> None:
        """Take all that the folder holds at first for durable."""
        for file in _files(self.folder):
            shutil.copy(file, self.shadow / file.name)

    def lose_power(self, rng: random.Random | None = None) -> int:
        """Bring the folder to what a power loss leaves; call it while no process uses it.

        Args:
            rng: None keeps nothing that was not fsynced; else a random half of the unfsynced blocks is kept, as by a
                disk that writes its cache in any order.
        Returns:
            How many bytes were not yet durable.
        """
        lost = 0
        for file in _files(self.folder):
            durable = self.shadow / file.name
            old = durable.read_bytes() if durable.exists() else b""
            new = file.read_bytes()
            lost += sum(new[at : at + BLOCK_BYTES] != old[at : at + BLOCK_BYTES] for at in _blocks(new)) * BLOCK_BYTES
            if rng is not None and durable.exists():
                durable.write_bytes(_torn(old, new, rng))
            file.unlink()
        for file in _files(self.shadow):
            shutil.copy(file, self.folder / file.name)
        return lost

    def close(self) -> None:
        """Give the control file back."""
        del self.control
        self._map.close()


def _files(folder: Path) -> list[Path]:
    """Return the watched files; an index in shared memory ("-shm") dies with the machine, and is removed where it lies."""
    files = [path for path in folder.iterdir() if path.is_file()]
    for path in files:
        if path.name.endswith("-shm"):
            path.unlink()
    return [path for path in files if not path.name.endswith("-shm")]


def _blocks(content: bytes) -> range:
    return range(0, len(content), BLOCK_BYTES)


def _torn(old: bytes, new: bytes, rng: random.Random) -> bytes:
    """Return `old` with some of the blocks of `new`; a block that is kept behind the old end leaves zeros before it."""
    content = bytearray(old)
    for at in _blocks(new):
        block = new[at : at + BLOCK_BYTES]
        if block != old[at : at + BLOCK_BYTES] and rng.random() < 0.5:
            content.extend(bytes(max(0, at + len(block) - len(content))))
            content[at : at + len(block)] = block
    return bytes(content)
