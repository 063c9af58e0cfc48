"""The ring files of this boot: the file in use, and older files that are not completely sealed yet.

A ring cannot grow. If a reload needs a larger ring, it creates a second file (``ring.BOOT.2``). Each device moves to
the new ring between two ticks, and the first file is removed when all its records are sealed. If the agent is killed
before that, both files stay. The next start then seals their records, those of the first file first.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.config.parsers import show_bytes
from agent.config.ring_size import MIN_RING_BYTES, SLOT_BYTES
from agent.pack import BirthTable
from drivers.model import GatewayError
from ext.ring import Ring


@dataclass(frozen=True, slots=True)
class RingFile:
    """An open ring to which this agent writes."""

    ring: Ring
    path: Path

    @property
    def size_bytes(self) -> int:
        """The size of the ring without its header."""
        return self.ring.slots * SLOT_BYTES


class RingFiles:
    """Creates and removes ring files. Used only in the loop."""

    def __init__(self, runtime_dir: Path, boot: str) -> None:
        self._runtime_dir, self._boot = runtime_dir, boot
        self._count = 0
        self._files: list[RingFile] = []  # the last of these is in use
        self.removed: set[int] = set()  # ids of removed rings whose tables are still in the store

    @property
    def current(self) -> RingFile:
        """The ring that is in use."""
        return self._files[-1]

    @property
    def changing(self) -> bool:
        """True while an older ring is not completely sealed."""
        return len(self._files) > 1

    def create(self, size_bytes: int, table_hash: bytes) -> RingFile:
        """Create a ring. It is not in use until ``use`` is called. ``table_hash``: see ``tables_hash``.

        Raises:
            GatewayError: there is not enough space.
        """
        self._count += 1
        name = f"ring.{self._boot}" if self._count == 1 else f"ring.{self._boot}.{self._count}"
        return self._create(name, size_bytes, table_hash)

    def scratch(self) -> Ring:
        """Create the smallest ring, without a file. Drivers need it while the size of the real ring is computed.

        Raises:
            GatewayError: there is not enough space.
        """
        file = self._create("plan", MIN_RING_BYTES, bytes(32))
        file.path.unlink()
        return file.ring

    def _create(self, name: str, size_bytes: int, table_hash: bytes) -> RingFile:
        path = self._runtime_dir / name
        try:
            ring = Ring.create(str(path), size_bytes, secrets.randbits(63), int(self._boot, 16), table_hash)
        except OSError as error:
            disk = os.statvfs(self._runtime_dir)
            free = show_bytes(disk.f_bavail * disk.f_frsize)
            size = show_bytes(size_bytes)
            what = f"a ring buffer of {size} cannot be created: {error.strerror}; {free} are free on this disk"
            hint = "Free some space in this directory, or set a smaller [ring] max in agent.toml"
            raise GatewayError(what, where=str(self._runtime_dir), hint=hint) from error
        return RingFile(ring, path)

    def use(self, file: RingFile) -> None:
        """Use this ring from now on. Older rings stay until all their records are sealed."""
        self._files.append(file)

    def remove_sealed(self, in_use: Collection[Ring]) -> bool:
        """Remove the older rings that are not in ``in_use``. Returns True if at least one ring was removed."""
        gone = [file for file in self._files[:-1] if file.ring not in in_use]
        for file in gone:
            self.removed.add(file.ring.ring_id)
            discard(file)
            self._files.remove(file)
        return bool(gone)

    def trim(self) -> None:
        """Release the memory pages of all rings. The files keep the contents."""
        for file in self._files:
            file.ring.trim()

    def close(self, sealed: bool) -> None:
        """Close all rings. ``sealed``: all records are sealed, so the files can be removed too."""
        for file in self._files:
            file.ring.close()
            if sealed:
                file.path.unlink(missing_ok=True)


def discard(file: RingFile) -> None:
    """Close a ring and remove its file."""
    file.ring.close()
    file.path.unlink(missing_ok=True)


def tables_hash(tables: Iterable[BirthTable]) -> bytes:
    """Return the SHA-256 hash of the first tables of a ring."""
    digest = hashlib.sha256()
    for table in tables:  # one table at a time, because the tables of 3,000 devices would take 50 MB
        digest.update(table.encoded)
    return digest.digest()
