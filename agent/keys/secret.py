"""Reads secret files, which only their owner may read."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from agent.keys.signer import KeyFileError
from drivers.files import others_may_use

MAX_BYTES = 1 << 20  # systemd's limit for a credential


def read_secret(path: Path, what: str = "signing key", hint: str = "", any_owner: bool = False) -> tuple[bytes, int]:
    """Return the content and the owner (user id) of a secret file. Raises KeyFileError.

    Args:
        what: the secret's name in messages.
        any_owner: let root read a file that belongs to another user.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        hint = hint or f"Create a key with `meterhouse keys create {shlex.quote(str(path))}`"
        raise KeyFileError(f"there is no {what}", where=str(path), hint=hint) from error
    except OSError as error:
        raise KeyFileError(
            f"the {what} cannot be read ({error.strerror})",
            where=str(path),
            hint="The file must belong to the user that runs the agent",
        ) from error
    try:
        return read_open_secret(fd, path, what, any_owner)
    finally:
        os.close(fd)


def read_open_secret(fd: int, path: Path, what: str = "signing key", any_owner: bool = False) -> tuple[bytes, int]:
    """Do the same as ``read_secret`` for an open file. ``path`` only appears in messages."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError(
            "this is not a file", where=str(path), hint=f"Give the path of a file that contains the {what}"
        )
    _check_access(path, found, what, any_owner)
    return os.pread(fd, MAX_BYTES, 0), found.st_uid


def _check_access(path: Path, found: os.stat_result, what: str, any_owner: bool) -> None:
    """Check that this user or root owns the file, and that no other user may read it.

    If root owns the file, its group may read it too.
    """
    # Systemd credentials belong to root, and their group bits are set, because these bits are the mask of an ACL.
    # Packages also install secrets of root that a group may read.
    me, mode = os.geteuid(), stat.S_IMODE(found.st_mode)
    if found.st_uid not in {me, 0} and not (any_owner and me == 0):
        raise KeyFileError(
            f"the {what} belongs to user {found.st_uid}, not to user {me}, who runs this command",
            where=str(path),
            hint=f"sudo chown {me} {path}",
        )
    if others_may_use(found) or (me == 0 and mode & 0o077):  # a process of root refuses files that a group may read
        raise KeyFileError(
            f"others may read or change the {what} (mode {mode:04o})",
            where=str(path),
            hint=f"Run chmod 600 {path}; if other users could read the file, replace the secret in it",
        )
