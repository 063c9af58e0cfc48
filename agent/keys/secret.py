"""Reads secret files, which only their owner may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.keys.signer import KeyFileError
from drivers.files import others_may_use

MAX_BYTES = 1 << 20  # systemd's limit for a credential


def read_secret(path: Path, what: str = "signing key", hint: str = "", any_owner: bool = False) -> tuple[bytes, int]:
    """Content and owner of a file that only its owner may read. Raises KeyFileError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        hint = hint or f"Make one: `meterhouse keys create {path}`"
        raise KeyFileError(f"there is no {what}", where=str(path), hint=hint) from error
    except OSError as error:
        raise KeyFileError(
            f"the {what} cannot be read ({error.strerror})",
            where=str(path),
            hint="It must belong to the user that runs the agent",
        ) from error
    try:
        return read_open_secret(fd, path, what, any_owner)
    finally:
        os.close(fd)


def read_open_secret(fd: int, path: Path, what: str = "signing key", any_owner: bool = False) -> tuple[bytes, int]:
    """The same for an open file; ``path`` is for messages."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError("this is not a file", where=str(path), hint=f"Name the file of the {what} itself")
    _check_access(path, found, what, any_owner)
    return os.pread(fd, MAX_BYTES, 0), found.st_uid


def _check_access(path: Path, found: os.stat_result, what: str, any_owner: bool) -> None:
    """Check that only the owner may read, and that it is us. A file of root that one group may read passes too."""
    # systemd provides credentials like this (the group bits are the mask of an ACL), and packages install secrets so
    me, mode = os.geteuid(), stat.S_IMODE(found.st_mode)
    if found.st_uid not in {me, 0} and not (any_owner and me == 0):
        raise KeyFileError(
            f"the {what} belongs to user {found.st_uid}, not to user {me} who runs this",
            where=str(path),
            hint=f"sudo chown {me} {path}",
        )
    if others_may_use(found) or (me == 0 and mode & 0o077):  # root needs no group to read its own secrets
        raise KeyFileError(
            f"others may read or change the {what} (mode {mode:04o})",
            where=str(path),
            hint=f"chmod 600 {path}; if others could read it for a while, make a new one",
        )
