"""A line of a running agent, lent to a technician's tool for a while.

``<runtime>/leases/<line>.ask`` is written and locked (flock) by the tool; the lock ends with its process,
whatever becomes of it. The agent finishes its request, closes its port and writes ``<line>.lent`` with the
same id; from then on the port is the tool's. The agent takes the line back when the lock is gone or the
time is over.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from drivers.model import LineLent, UsageError

LONGEST_S = 900.0
_LOOK_NS = 100_000_000  # the agent looks at the folder at most this often
GRANT_WAIT_S = 30.0


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # common to all processes; does not jump


class LeaseDesk:
    """The agent's side: which lines are lent at the moment. One for all lines."""

    def __init__(self, folder: Path, mono_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Makes the folder. Raises OSError."""
        if not folder.is_dir():
            folder.mkdir(parents=True)
            try:
                folder.chmod(0o2770)  # what a technician's tool makes here must be readable to the agent: the group's
            except PermissionError:  # a sandbox without that bit (RestrictSUIDSGID=); tmpfiles.d makes it beforehand
                folder.chmod(0o770)
        self._folder, self._mono_ns = folder, mono_ns
        self._look_at = 0
        self._stamp = -1
        self._asked: dict[str, str] = {}  # line -> who holds it
        for old in folder.glob("*.lent"):
            old.unlink(missing_ok=True)

    def holder(self, line: str) -> str:
        """Who holds the line now; "" if nobody does."""
        now = self._mono_ns()
        if now >= self._look_at:
            self._look_at = now + _LOOK_NS
            stamp = self._folder.stat().st_mtime_ns
            if stamp != self._stamp or self._asked:
                self._stamp = stamp
                self._asked = self._look()
        return self._asked.get(line, "")

    def grant(self, line: str) -> None:
        """Tell the tool that the port is free now."""
        granted = self._folder / f"{line}.lent"
        asked = self._read(self._folder / f"{line}.ask")
        if asked is not None and self._read(granted) != asked:
            fresh = granted.with_suffix(".new")
            fresh.write_text(json.dumps(asked))
            fresh.rename(granted)

    def _look(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in self._folder.glob("*.ask"):
            asked = self._read(path)
            until = asked.get("until") if asked is not None else None
            if asked is not None and isinstance(until, int | float) and until > _now() and _is_locked(path):
                found[path.stem] = str(asked.get("who", "?"))
            elif asked is not None:
                path.unlink(missing_ok=True)
        for path in self._folder.glob("*.lent"):
            if path.stem not in found:
                path.unlink(missing_ok=True)
        return found

    @staticmethod
    def _read(path: Path) -> dict[str, object] | None:
        """A lease file's object; None while there is none, it is half written, or not ours to read."""
        try:
            asked = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return asked if isinstance(asked, dict) else None


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


class Lease:
    """The tool's side, a context manager: inside, the line's port is ours.

    Args:
        folder: the agent's lease folder.
        line: name of the line.
        seconds: how long at most; 900 at most.
        who: shown to others, such as "read by anna".

    Raises:
        UsageError: a time that cannot be.
        LineLent: somebody else holds the line.
        TimeoutError: no agent has granted it within ``wait_s``.
    """

    def __init__(self, folder: Path, line: str, seconds: float, who: str, wait_s: float = GRANT_WAIT_S) -> None:
        if not 0 < seconds <= LONGEST_S:
            raise UsageError(f"a lease of {seconds:g} s", where=f"line {line}", hint="At most 15 minutes")
        self._ask, self._lent = folder / f"{line}.ask", folder / f"{line}.lent"
        self.line, self._seconds, self._who, self._wait_s = line, seconds, who, wait_s
        self._fd = -1

    def __enter__(self) -> Lease:
        give_up = time.monotonic() + 0.3  # the agent's own look holds the lock for an instant
        while True:
            fd = os.open(self._ask, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                if time.monotonic() > give_up:
                    raise LineLent("somebody else holds the line", where=f"line {self.line}") from None
                time.sleep(0.01)
                continue
            if self._ask.exists() and os.stat(self._ask).st_ino == os.fstat(fd).st_ino:
                break
            os.close(fd)  # the agent removed an old file just now: its name is free
        self._fd = fd
        asked = {"id": secrets.token_hex(8), "until": _now() + self._seconds, "who": self._who, "pid": os.getpid()}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(asked).encode(), 0)
        os.utime(self._ask.parent)  # an old file's new content does not touch the folder's time
        give_up = time.monotonic() + self._wait_s
        while LeaseDesk._read(self._lent) != asked:
            if time.monotonic() > give_up:
                self.__exit__(None, None, None)
                raise TimeoutError(f"line {self.line}: no agent lent it within {self._wait_s:g} s; is one running?")
            time.sleep(0.02)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ask.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1
