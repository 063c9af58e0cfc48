"""Replaces files atomically, locks files, and checks who may read or change a secret."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path


def write_atomic(path: Path, data: bytes, mode: int, *, durable: bool = False) -> None:
    """Replace the file at ``path`` atomically: readers see either the old content or the whole new content. Raises
    OSError.

    Args:
        mode: permissions of the new file, before the umask is applied.
        durable: the new content is synced to the disk, so that it survives a power cut after the return.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    draft = f"{path.name}.new"
    try:
        remove(draft, folder)
        try:
            write_draft(draft, data, mode, folder, durable=durable)
            os.rename(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            remove(draft, folder)
            raise
        if durable:
            os.fsync(folder)
    finally:
        os.close(folder)


def write_draft(
    name: str, data: bytes, mode: int, folder: int, *, like: os.stat_result | None = None, durable: bool = True
) -> None:
    """Write a new file ``name`` in the open directory ``folder``. The caller then renames or links it. Raises OSError.

    Args:
        like: the new file gets the owner and group of this file, and exactly the permissions ``mode``; the umask is
        ignored.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, mode if like is None else 0o600, dir_fd=folder)
    try:
        if like is not None:
            if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, like.st_uid, like.st_gid)
            os.fchmod(fd, mode)
        with open(fd, "wb", closefd=False) as stream:
            stream.write(data)
        if durable:
            os.fsync(fd)
    except BaseException:
        remove(name, folder)
        raise
    finally:
        os.close(fd)


def remove(name: str, folder: int) -> None:
    """Remove a file from the open directory ``folder``. Does nothing if the file does not exist. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def sync_directory(directory: Path) -> None:
    """Sync a directory to the disk, so that renames in it survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file (flock) without waiting. Returns False if another process holds the lock.

    Closing the file releases the lock.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of this file. False if the file does not exist. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not try_lock(fd, shared=True)
    finally:
        os.close(fd)


def others_may_use(found: os.stat_result) -> bool:
    """Whether other users can read or change a secret file. If root owns the file, its group is allowed to read it."""
    return bool(stat.S_IMODE(found.st_mode) & (0o037 if found.st_uid == 0 else 0o077))
