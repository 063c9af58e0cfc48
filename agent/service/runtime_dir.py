"""Creates the directories of the agent, and locks the runtime directory so that only one agent uses it."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from drivers.files import is_locked, try_lock, write_atomic
from drivers.model import GatewayError

LOCK = "agent.lock"
SNAPSHOT, METRICS = "snapshot.json", "metrics.prom"
LAST_ERROR = "last-error"  # this file states why the agent ended; `status` shows it
PATHS = "Set another directory under [paths] in agent.toml"
# a start waits this long for the lock, because a tool that checks whether an agent runs may hold it briefly
LOCK_WAIT_S = 0.5


@contextlib.contextmanager
def instance_lock(state_dir: Path, runtime_dir: Path) -> Iterator[None]:
    """Lock the runtime directory.

    Without the lock, a second agent would mistake the ring in use for one that an earlier run has left. Only the owner
    may open the state directory and the lock file. Another user who can open the lock file could lock it, which would
    prevent the agent from starting.

    Raises:
        GatewayError: a directory cannot be created, or another agent runs there.
    """
    for folder, mode in ((state_dir, 0o700), (runtime_dir, 0o750)):
        make_folder(folder, mode)
    _remove_permissions(state_dir, 0o077)
    _remove_permissions(runtime_dir, 0o022)
    try:
        fd = os.open(runtime_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise GatewayError(
            f"cannot be written: {error.strerror}",
            where=str(runtime_dir),
            hint=PATHS,
        ) from error
    try:
        if not _locked(fd):
            raise GatewayError(
                "another agent is running with this runtime directory",
                where=str(runtime_dir),
                hint="Give each agent its own runtime directory: runtime_dir under [paths] in agent.toml",
            )
        yield
    finally:
        os.close(fd)  # closing the file releases the lock


def make_folder(folder: Path, mode: int) -> None:
    """Create a directory of the agent if it is missing. Raises GatewayError."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise GatewayError(f"cannot be created: {error.strerror}", where=str(folder), hint=PATHS) from error


def note_end(runtime_dir: Path, error: GatewayError, timezone: str) -> None:
    """Write the file from which `status` shows why and when (in the site's time) the agent ended or failed to start.

    If another agent is running with this directory, this function does nothing.
    """
    with contextlib.suppress(OSError):
        if not is_locked(runtime_dir / LOCK):
            # an agent that was killed leaves these files, and tools would show them instead of the error
            for name in (SNAPSHOT, METRICS):
                (runtime_dir / name).unlink(missing_ok=True)
            moment = datetime.now(ZoneInfo(timezone))
            write_atomic(runtime_dir / LAST_ERROR, f"{moment:%Y-%m-%d %H:%M:%S}: {error}".encode(), 0o640)


def _remove_permissions(folder: Path, bits: int) -> None:
    """Remove permission bits from a directory, if it belongs to the agent's user."""
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & bits:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~bits)


def _locked(fd: int) -> bool:
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        if try_lock(fd):
            return True
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)


def is_agent_running(runtime_dir: Path) -> bool:
    """Return True if an agent is running, starting or stopping with this runtime directory.

    Only root and the agent's user can call this.

    Raises:
        GatewayError: the lock cannot be read.
    """
    path = runtime_dir / LOCK
    try:
        return is_locked(path)
    except OSError as error:
        raise GatewayError(
            f"cannot be read: {error.strerror}", where=str(path), hint="Check the owner of this file"
        ) from error
