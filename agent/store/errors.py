"""The errors of the store, with hints for the technician. Also verifies damage that SQLite reports.

SQLite reports "malformed" both for a damaged database and for a failing disk. Setting a database aside loses a part of
its history, so this report alone is not enough. The store also reads all bytes without SQLite, and checks the file. If
only the disk failed, the error is temporary, and readings stay in the ring meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from drivers.model import GatewayError

# a file with more bytes is not checked as a whole at a start, because all other work would wait
CHECK_BYTES: Final = 256 << 20
# a disk usually recovers within this time; a longer failure counts as a bad sector, which stays unreadable
UNREADABLE_S: Final = 60.0
PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # pauses in s between the attempts to open the database
MAX_CLEARED: Final = 3  # in one run, a check may refute this number of reports of damage; the next report is believed
_BLOCK: Final = 1 << 20


class StoreError(GatewayError):
    """A call of the store failed and changed nothing."""


class StoreBusy(StoreError):
    """Another process has the database open, or the disk failed briefly. The call may succeed later."""

    retry = True


class StoreFull(StoreError):
    """The disk is full.

    Usually the store raises this before SQLite itself runs out of space, so that a clean-up still works.
    """

    retry = True


class StoreDamaged(StoreError):
    """The database is damaged. The next ``Store.open`` sets the file aside and starts a new one."""


class StoreNewer(StoreError):
    """The database was written by a newer version of meterhouse."""

    exit_code = 3


class WrongType(TypeError):
    """A value in the database has another type than it was stored with. The text says which."""


# One flipped bit can also cause these errors of Python: it can change the type of a value, or put invalid UTF-8 into
# SQLite's error message about a table.
VALUE_ERRORS: Final = (UnicodeDecodeError, TypeError, OverflowError)

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_damage(error: sqlite3.Error) -> bool:
    """Return True if SQLite reports a damaged file. SQLite also reports this for some failed reads."""
    code = getattr(error, "sqlite_errorcode", 0)
    if not code and str(error).startswith("Could not decode to UTF-8"):  # Python's own error: a stored text is damaged
        return True
    return (code & 0xFF) in _DAMAGE or code == sqlite3.SQLITE_IOERR_CORRUPTFS


def lock_holders(path: Path) -> list[int]:
    """Return the ids of other processes that hold a lock on a file; empty if the kernel does not list locks.

    An earlier version let the group read the database. A process that opened it before the upgrade can still lock it.
    """
    try:
        found, lines = path.stat(), Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    rows = [row for row in (line.split() for line in lines) if len(row) == 8 and row[5] == place]
    # a process id of -1 means that the lock belongs to an open file, not to a process
    return sorted({int(row[4]) for row in rows} - {-1, 0, os.getpid()})


def damage_error(what: str) -> sqlite3.DatabaseError:
    """Make an error like SQLite's own, for damage that SQLite does not notice."""
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def explain(error: sqlite3.Error, path: str) -> StoreError:
    """Return the StoreError for an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    if is_damage(error):
        return StoreDamaged(
            f"the database is damaged ({error})",
            where=path,
            hint="Restart the agent: it sets the damaged file aside and continues with a new file",
        )
    if primary in _BUSY:
        holders = lock_holders(Path(path))
        who = f" (process {', '.join(map(str, holders))})" if holders else ""
        hint = "Is a second agent running? Only one agent may use a state directory. "
        hint += f"`sudo fuser -v {path}` shows which process has the database open; end that process"
        return StoreBusy(f"another process has the database open{who}", where=path, hint=hint)
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull(
            "no space left on the disk", where=path, hint="Free some space on this disk; the agent resumes by itself"
        )
    if primary == sqlite3.SQLITE_IOERR:
        name = getattr(error, "sqlite_errorname", "SQLITE_IOERR")
        return StoreBusy(
            f"the disk failed ({name})", where=path, hint="If the error persists, replace the memory card or disk"
        )
    if primary in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return StoreError(
            f"the database cannot be opened for writing ({error})",
            where=path,
            hint="Does the directory exist, and does it belong to the user that runs the agent?",
        )
    return StoreError(f"SQLite reports: {error}", where=path)


def suspicion_file(path: Path) -> Path:
    """Return the path of the file that counts the reports of damage since the last check. Each report adds one byte."""
    return path.with_name(path.name + ".suspect")


def suspicion_count(path: Path) -> int:
    """Return the number of reports of damage since a check last found the database intact."""
    try:
        return max(1, suspicion_file(path).stat().st_size)
    except OSError:
        return 0


def add_suspicion(path: Path) -> None:
    """Note for the next start that the whole database must be checked."""
    with contextlib.suppress(OSError), suspicion_file(path).open("ab") as file:
        file.write(b".")


def clear_suspicion(path: Path) -> None:
    """Remove the note that ``add_suspicion`` made, because a check of the whole database found it intact."""
    with contextlib.suppress(OSError):
        suspicion_file(path).unlink(missing_ok=True)


def is_small(path: Path) -> bool:
    """Return True if the file is small enough to be checked as a whole while the agent waits."""
    return path.stat().st_size <= CHECK_BYTES if path.exists() else True


def read_error(path: Path) -> str:
    """Read all bytes of the database and its WAL.

    Returns the error of the disk as text; "" if all bytes can be read.
    """
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


class RetryPolicy:
    """Decides whether a start tries again after damage. Damage is real if it persists while all bytes can be read."""

    def __init__(self, path: Path) -> None:
        self._path, self._pauses, self._was_readable = path, list(PAUSES_S), False

    def should_retry(self) -> bool:
        """Return True if opening should be tried again.

        Waits first if the disk fails or the file is too large to read.
        """
        if self._was_readable or not self._pauses:
            return False
        self._was_readable = is_small(self._path) and not read_error(self._path)
        if not self._was_readable:
            time.sleep(self._pauses.pop(0))
        return True


class DamageVerifier:
    """Verifies damage that SQLite reports. ``in_use``: the store is open.

    Until then, ``RetryPolicy`` handles damage.
    """

    def __init__(self, conn: sqlite3.Connection, path: Path) -> None:
        self._conn, self._path = conn, path
        self._unreadable_since: float | None = None
        self._cleared = 0
        self.in_use = False

    def classify(self, error: sqlite3.Error) -> StoreError:
        """Return StoreBusy if only the disk failed.

        Otherwise note the damage for the next start, and return StoreDamaged.
        """
        damaged = explain(error, str(self._path))
        if is_small(self._path):
            if why := read_error(self._path):
                now = time.monotonic()
                self._unreadable_since = self._unreadable_since or now
                if self.in_use and now - self._unreadable_since < UNREADABLE_S:
                    return self._busy(f"the disk cannot be read ({why})")
            else:
                self._unreadable_since = None
                if self.in_use and self._cleared < MAX_CLEARED and self._is_sound():
                    self._cleared += 1
                    return self._busy(f"temporary disk error ({error}; the database is intact)")
        add_suspicion(self._path)
        return damaged

    def _is_sound(self) -> bool:
        try:
            return bool(self._conn.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")
        except sqlite3.Error:
            return False

    def _busy(self, what: str) -> StoreBusy:
        return StoreBusy(what, where=str(self._path), hint="If the error persists, replace the memory card or disk")
