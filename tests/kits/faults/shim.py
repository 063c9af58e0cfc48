"""Makes the agent's disk fail on demand; see ``shim.c``."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("shim.c")
MODES = (
    "well", "sync fails", "sync hangs", "write fails", "write full", "killed before a sync", "killed after a sync",
    "killed in a write", "killed before a send", "read fails",
)  # fmt: skip
_FIELDS = struct.Struct("<iiiii64s")  # mode, skip, times, hits, syncs, match


class Shim:
    """The library, compiled into ``folder``. A process uses it if its environment has ``env``."""

    def __init__(self, folder: Path, match: str = "store.db") -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler to build the failing disk with (apt: gcc)")
        library, control = folder / "fault_shim.so", folder / "fault_shim.control"
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
        control.write_bytes(_FIELDS.pack(0, 0, 0, 0, 0, match.encode()))
        fd = os.open(control, os.O_RDWR)
        self._map = mmap.mmap(fd, _FIELDS.size)
        os.close(fd)
        # a space in LD_PRELOAD separates libraries, so the folder, which may have one, is given apart
        path = ":".join(filter(None, (str(folder), os.environ.get("LD_LIBRARY_PATH"))))
        self.env = {"LD_PRELOAD": library.name, "LD_LIBRARY_PATH": path, "FAULT_SHIM": str(control)}

    def set(self, mode: str, skip: int = 0, times: int = -1) -> None:
        """Set the mode: ``skip`` calls pass, then ``times`` calls are hit (-1: until the mode is set again)."""
        struct.pack_into("<iii", self._map, 4, skip, times, 0)
        struct.pack_into("<i", self._map, 0, MODES.index(mode))

    @property
    def hits(self) -> int:
        """Number of calls that were hit since the mode was set."""
        return int(_FIELDS.unpack_from(self._map)[3])

    @property
    def syncs(self) -> int:
        """Number of syncs so far, of any file."""
        return int(_FIELDS.unpack_from(self._map)[4])

    def close(self) -> None:
        self._map.close()
