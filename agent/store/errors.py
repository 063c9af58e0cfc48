"""What can go wrong with the database, in words for whoever stands before the box."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from drivers.model import GatewayError


class StoreError(GatewayError):
    """The database cannot be used as asked. Nothing of the call was done."""


class StoreBusy(StoreError):
    """Another process holds the database, or the disk failed for a moment; later may work."""

    retry = True


class StoreFull(StoreError):
    """No room on the disk. Raised before SQLite itself runs out, so that cleaning up still works."""

    retry = True


class StoreDamaged(StoreError):
    """The file is not a sound database. The next ``Store.open`` sets it aside and starts a new one."""


class StoreNewer(StoreError):
    """The database was written by a newer version of meterhouse."""

    exit_code = 3


_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_damage(error: sqlite3.Error) -> bool:
    """Does SQLite say that the file itself is broken? Of some reads that failed it says no more than that, either."""
    code = getattr(error, "sqlite_errorcode", 0)
    return (code & 0xFF) in _DAMAGE or code == sqlite3.SQLITE_IOERR_CORRUPTFS


def lock_holders(path: Path) -> list[int]:
    """Processes that hold a lock on a file, as far as the kernel says so; not this one.

    An earlier version let the group read the database: who had it open at the upgrade can still hold a lock on it.
    """
    try:
        found, lines = path.stat(), Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    rows = [row for row in (line.split() for line in lines) if len(row) == 8 and row[5] == place]
    return sorted({int(row[4]) for row in rows} - {-1, 0, os.getpid()})  # -1: of an open file, not of a process


def explain(error: sqlite3.Error, path: str) -> StoreError:
    """The error of ours for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    if is_damage(error):
        return StoreDamaged(
            f"the database is damaged ({error})",
            where=path,
            hint="Restart the agent: it sets the file aside and goes on with a new one",
        )
    if primary in _BUSY:
        holders = lock_holders(Path(path))
        who = f" (process {', '.join(map(str, holders))})" if holders else ""
        hint = "Is a second agent running? Only one may use a state directory. "
        hint += f"`sudo fuser -v {path}` shows who has it open; end that one"
        return StoreBusy(f"another process has the database open{who}", where=path, hint=hint)
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull("no space left on the disk", where=path, hint="Free space there; the agent goes on by itself")
    if primary == sqlite3.SQLITE_IOERR:
        name = getattr(error, "sqlite_errorname", "SQLITE_IOERR")
        return StoreBusy(f"the disk failed ({name})", where=path, hint="If this stays, the card or disk is worn out")
    if primary in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return StoreError(
            f"the database cannot be opened for writing ({error})",
            where=path,
            hint="Does the directory exist, and does it belong to the user that runs the agent?",
        )
    return StoreError(f"the database refuses: {error}", where=path)
