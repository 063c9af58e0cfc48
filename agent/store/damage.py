"""Is the database damaged, or did the disk fail? SQLite calls a page "malformed" that the disk did not return, too.

A database that is set aside costs a stretch of its history, so nobody believes that word alone: all bytes are read
past SQLite, and the file is checked. What only the disk had done is an error that passes; readings wait in the ring.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from agent.store.errors import StoreBusy, StoreError, explain

CHECK_BYTES: Final = 256 << 20  # what may be read and checked while everything else waits
PATIENCE_S: Final = 60.0  # a disk that comes back does so sooner; a bad sector stays
PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # between the tries of a start
MAX_CLEARED: Final = 3  # then SQLite is believed: a service that stumbles on and on helps nobody
_BLOCK: Final = 1 << 20


def suspect_file(path: Path) -> Path:
    """Lies beside a database that was called damaged while it was in use; a byte each time."""
    return path.with_name(path.name + ".suspect")


def strikes(path: Path) -> int:
    """How often the database was called damaged since it was last found sound."""
    try:
        return max(1, suspect_file(path).stat().st_size)
    except OSError:
        return 0


def suspect(path: Path) -> None:
    """Remember that all of the database is to be looked at."""
    with contextlib.suppress(OSError), suspect_file(path).open("ab") as file:
        file.write(b".")


def acquit(path: Path) -> None:
    """All of the database was looked at, and is sound."""
    with contextlib.suppress(OSError):
        suspect_file(path).unlink(missing_ok=True)


def small(path: Path) -> bool:
    """May all of the file be looked at while the agent waits?"""
    return path.stat().st_size <= CHECK_BYTES if path.exists() else True


def unreadable(path: Path) -> str:
    """What the disk says instead of giving all bytes of the database and its WAL; "" where it gives them."""
    for file in (path, path.with_name(path.name + "-wal")):
        at = 0
        try:
            fd = os.open(file, os.O_RDONLY)
            try:
                while block := os.pread(fd, _BLOCK, at):
                    at += len(block)
            finally:
                os.close(fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{error.strerror} near byte {at} of {file.name}"
    return ""


class Tries:
    """Of a start that met damage: it is believed when it is still there after the disk gave all bytes of the file."""

    def __init__(self, path: Path) -> None:
        self._path, self._pauses, self._read_well = path, list(PAUSES_S), False

    def another(self) -> bool:
        """Is another try worth it? Waits before it says yes, where the disk fails or the file is too large to ask."""
        if self._read_well or not self._pauses:
            return False
        self._read_well = small(self._path) and not unreadable(self._path)
        if not self._read_well:
            time.sleep(self._pauses.pop(0))
        return True


class Doubt:
    """Judges what SQLite says of a database that is in use. ``patient`` once the store is open: a start tries again."""

    def __init__(self, conn: sqlite3.Connection, path: Path) -> None:
        self._conn, self._path = conn, path
        self._unreadable_since: float | None = None
        self._cleared = 0
        self.patient = False

    def judge(self, error: sqlite3.Error) -> StoreError:
        """StoreBusy where it was the disk; else StoreDamaged, remembered beside the file for the next start."""
        found = explain(error, str(self._path))
        if small(self._path):
            if why := unreadable(self._path):
                now = time.monotonic()
                self._unreadable_since = self._unreadable_since or now
                if self.patient and now - self._unreadable_since < PATIENCE_S:
                    return self._busy(f"the disk cannot be read ({why})")
            else:
                self._unreadable_since = None
                if self.patient and self._cleared < MAX_CLEARED and self._is_sound():
                    self._cleared += 1
                    return self._busy(f"the disk failed for a moment ({error}, but what it holds is sound)")
        suspect(self._path)
        return found

    def _is_sound(self) -> bool:
        try:
            return bool(self._conn.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")
        except sqlite3.Error:
            return False

    def _busy(self, what: str) -> StoreBusy:
        return StoreBusy(what, where=str(self._path), hint="If this stays, the card or disk is worn out")
