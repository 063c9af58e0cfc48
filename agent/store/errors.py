"""Errors of the store: what SQLite and the disk report, with a hint for the technician."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from drivers.model import GatewayError


class StoreError(GatewayError):
    """The call failed; nothing of it was done."""


class StoreBusy(StoreError):
    """Another process has the database open, or the disk failed for a moment. The call may succeed later."""

    retry = True


class StoreFull(StoreError):
    """The disk is full. Raised before SQLite itself runs out of space, so that cleaning up still works."""

    retry = True


class StoreDamaged(StoreError):
    """The database is damaged. The next ``Store.open`` sets the file aside and starts a new one."""


class StoreNewer(StoreError):
    """The database was written by a newer version of meterhouse."""

    exit_code = 3


_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite reports that the file itself is damaged. It reports the same for some failed reads."""
    code = getattr(error, "sqlite_errorcode", 0)
    return (code & 0xFF) in _DAMAGE or code == sqlite3.SQLITE_IOERR_CORRUPTFS


def lock_holders(path: Path) -> list[int]:
    """Ids of other processes that hold a lock on a file, where the kernel lists them.

    An earlier version let the group read the database: a process that had it open at the upgrade can still lock it.
    """
    try:
        found, lines = path.stat(), Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    rows = [row for row in (line.split() for line in lines) if len(row) == 8 and row[5] == place]
    return sorted({int(row[4]) for row in rows} - {-1, 0, os.getpid()})  # -1: the lock of an open file


def damage_error(what: str) -> sqlite3.DatabaseError:
    """The error that SQLite would raise for damage that it does not notice itself."""
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def explain(error: sqlite3.Error, path: str) -> StoreError:
    """The StoreError for an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    if is_damage(error):
        return StoreDamaged(
            f"the database is damaged ({error})",
            where=path,
            hint="Restart the agent: it sets the file aside and continues with a new one",
        )
    if primary in _BUSY:
        holders = lock_holders(Path(path))
        who = f" (process {', '.join(map(str, holders))})" if holders else ""
        hint = "Is a second agent running? Only one may use a state directory. "
        hint += f"`sudo fuser -v {path}` shows who has it open; end that process"
        return StoreBusy(f"another process has the database open{who}", where=path, hint=hint)
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull("no space left on the disk", where=path, hint="Free space there; the agent resumes by itself")
    if primary == sqlite3.SQLITE_IOERR:
        name = getattr(error, "sqlite_errorname", "SQLITE_IOERR")
        return StoreBusy(f"the disk failed ({name})", where=path, hint="If this persists, replace the card or disk")
    if primary in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return StoreError(
            f"the database cannot be opened for writing ({error})",
            where=path,
            hint="Does the directory exist, and does it belong to the user that runs the agent?",
        )
    return StoreError(f"SQLite reports: {error}", where=path)
