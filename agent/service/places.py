"""The agent's folders: made where they are missing, and the runtime directory taken for one process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from drivers.model import GatewayError

LOCK = "lock"
PATIENCE_S = 0.5  # a tool that looks whether an agent runs holds the lock for an instant


@contextlib.contextmanager
def taken(state_dir: Path, runtime_dir: Path) -> Iterator[None]:
    """Hold the runtime directory: a second agent there would take a living ring for one that was left behind.

    Raises:
        GatewayError: a folder cannot be made, or another agent runs there.
    """
    for folder in (state_dir, runtime_dir):
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise GatewayError(
                f"cannot be made: {error.strerror}", where=str(folder), hint="Another place: [paths] in agent.toml"
            ) from error
    try:
        fd = os.open(runtime_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise GatewayError(
            f"cannot be written: {error.strerror}", where=str(runtime_dir), hint="Another place: [paths] in agent.toml"
        ) from error
    try:
        if not _locked(fd):
            raise GatewayError(
                "another agent runs with this runtime directory",
                where=str(runtime_dir),
                hint="Give each its own: runtime_dir under [paths] in agent.toml",
            )
        yield
    finally:
        os.close(fd)  # the lock goes with it


def _locked(fd: int) -> bool:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.01)
        else:
            return True


def is_taken(runtime_dir: Path) -> bool:
    """Does an agent run with this runtime directory?

    Raises:
        GatewayError: that cannot be found out.
    """
    try:
        fd = os.open(runtime_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        hint = "Members of the group meterhouse may ask"
        raise GatewayError(f"cannot be read: {error.strerror}", where=str(runtime_dir / LOCK), hint=hint) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)
