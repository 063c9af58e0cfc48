"""Requests of local tools: a file in the runtime directory asks, files answer. No socket, and one user of the database.

``<runtime>/requests/<id>.ask`` is a JSON object ``{"v", "kind", "body"}`` that the tool writes under another name,
locks (flock) and renames; the lock ends with its process, whatever becomes of it. The agent answers beside it:

    <id>.said   {"by": pid, "state": "waiting" | "working" | "done" | "failed", "parts", "progress", "result" or
                "error"}, replaced atomically, at least every second or two while the agent works
    <id>.<n>    bytes of the answer, from 1 on; the tool removes each when it has it, and never more than two wait

Whoever may write the folder (its group) may ask. What is no request is removed and costs one line a minute at most.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from agent.service.requests import VERSION, Access, handler
from drivers.model import GatewayError, clean_text

log = logging.getLogger("meterhouse")
LOOK_S: Final = 0.2
BEAT_S: Final = 1.0  # how often a tool hears that we are still at it
MAX_BYTES: Final = 64 << 10  # of a request
MAX_FILES, MAX_READ = 256, 16  # looked at, and read, in one look: the loop has lines to serve
MAX_JOBS, MAX_WAITING = 3, 16
BURST, EVERY_S = 20, 0.5  # requests taken up: so many at once, then one in so many seconds
PARTS: Final = 2  # of an answer that wait for the tool; the runtime directory is memory
STALL_S: Final = 60.0  # a tool that takes no part for so long has hung
DRAFT_S: Final = 60.0  # a request that is being written is left alone for so long
SAY_EVERY_S: Final = 60.0
_ASK: Final = re.compile(r"[0-9a-f]{16}\.ask\Z")
_DRAFT: Final = re.compile(r"[0-9a-f]{16}\.new\Z")


class _Job:
    """One request with its files."""

    def __init__(self, folder: Path, name: str, fd: int, kind: str, body: Mapping[str, Any]) -> None:
        self.kind, self.body = kind, body
        self._folder, self._name, self._fd = folder, name, fd
        self._parts, self._taken = 0, 0
        self._progress = (0, 0)
        self.ended_s = 0.0  # when its end was said; 0: it goes on

    def alive(self) -> bool:
        """Does the tool still hold its lock?"""
        return is_locked(self._fd)

    def progress(self, done: int, total: int) -> None:
        self._progress = (done, total)

    async def part(self, data: bytes) -> None:
        give_up = time.monotonic() + STALL_S
        while self._waiting() >= PARTS:
            if not self.alive():
                raise GatewayError("the tool is gone", where="request")
            if time.monotonic() > give_up:
                raise GatewayError(f"the tool took nothing for {STALL_S:g} s", where="request")
            await asyncio.sleep(0.01)
        write_whole(self._folder, f"{self._name}.{self._parts + 1}", data)
        self._parts += 1
        self.say("working")

    def _waiting(self) -> int:
        while self._taken < self._parts and not (self._folder / f"{self._name}.{self._taken + 1}").exists():
            self._taken += 1
        return self._parts - self._taken

    def say(self, state: str, **more: object) -> None:
        """Replace the word that the tool reads."""
        said = {"by": os.getpid(), "state": state, "parts": self._parts, "progress": self._progress, **more}
        write_whole(self._folder, f"{self._name}.said", json.dumps(said, ensure_ascii=False).encode())
        if state in {"done", "failed"}:
            self.ended_s = time.monotonic()

    def fail(self, error: GatewayError) -> None:
        self.say("failed", error={"type": type(error).__name__, "what": error.what, "where": error.where,
                                  "hint": error.hint})  # fmt: skip

    def close(self) -> None:
        """Let go of the request; its files stay."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def remove(self) -> None:
        """Nobody wants it any more."""
        self.close()
        for n in range(self._taken + 1, self._parts + 1):
            (self._folder / f"{self._name}.{n}").unlink(missing_ok=True)
        for suffix in ("ask", "said"):
            (self._folder / f"{self._name}.{suffix}").unlink(missing_ok=True)


class Desk:
    """Takes up requests and has them answered, a few at a time. Only the loop touches it.

    Args:
        access: what handlers work with.
        folder: ``<runtime>/requests``.
    """

    def __init__(self, access: Access, folder: Path) -> None:
        self._access, self._folder = access, folder
        self._jobs: dict[str, _Job] = {}  # by file name of the request
        self._waiting: deque[_Job] = deque()
        self._working = 0
        self._stamp = -1
        self._reads = 0  # files that may still be read in this look
        self._tokens, self._tokens_s = float(BURST), time.monotonic()
        self._said_s, self._unsaid = -SAY_EVERY_S, 0
        self._beat_s = 0.0

    async def run(self) -> None:
        """Serve until cancelled. What cannot be served costs the agent nothing but a line in the log."""
        if not self._open():
            return
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._look()
                    while self._waiting and self._working < MAX_JOBS:
                        self._working += 1
                        group.create_task(self._carry_out(self._waiting.popleft()))
                    await asyncio.sleep(LOOK_S)
        finally:
            for job in self._jobs.values():
                if not job.ended_s:
                    self._try(job.fail, _stopping())
                job.close()

    def _open(self) -> bool:
        """Make the folder, and remove what an agent or a tool before left there."""
        try:
            made = prepare(self._folder)
            for entry in os.scandir(self._folder) if not made else ():
                if not (_ASK.match(entry.name) and self._is_wanted(entry.name)):
                    self._discard(entry.name)
        except (OSError, GatewayError) as error:
            log.error("no requests of local tools are served: %s", error)
            return False
        return True

    def _is_wanted(self, name: str) -> bool:
        """Is somebody waiting for an answer to this file?"""
        try:
            fd = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return is_locked(fd)
        finally:
            os.close(fd)

    # --- looking

    def _look(self) -> None:
        now = time.monotonic()
        self._tokens = min(float(BURST), self._tokens + (now - self._tokens_s) / EVERY_S)
        self._tokens_s = now
        self._clear(now)
        try:
            stamp = os.stat(self._folder).st_mtime_ns
            if stamp != self._stamp or self._jobs:
                # anew after a change within the clock's grain
                self._stamp = stamp if time.time_ns() - stamp > 50_000_000 else -1
                with os.scandir(self._folder) as entries:
                    found = sorted(entry.name for entry in islice(entries, MAX_FILES))
                self._reads = MAX_READ
                for name in found:
                    self._meet(name)
        except OSError as error:
            self._complain(f"{self._folder}: {error.strerror}")

    def _meet(self, name: str) -> None:
        """A file in the folder: ours, a request, one that is being written, or nothing that belongs here."""
        if name in self._jobs or f"{name.partition('.')[0]}.ask" in self._jobs:
            return
        if _DRAFT.match(name) and time.time() - os.lstat(self._folder / name).st_mtime < DRAFT_S:
            return
        if not _ASK.match(name):
            self._discard(name)
            return
        if self._tokens < 1 or not self._reads:
            self._stamp = -1  # look again without a change
            return
        try:
            job = self._take(name)
        except (OSError, ValueError, RecursionError) as error:
            self._discard(name)
            self._complain(f"{name}: {getattr(error, 'strerror', None) or error}")
            return
        if job is None:  # who asked is gone already
            self._discard(name)
            return
        self._tokens -= 1
        self._jobs[name] = job
        if len(self._waiting) + self._working >= MAX_JOBS + MAX_WAITING:
            job.fail(GatewayError("too many requests wait", where="agent", hint="Try again in a minute"))
        else:
            job.say("waiting")
            self._waiting.append(job)

    def _take(self, name: str) -> _Job | None:
        """Read a request. Raises ValueError and OSError for what is none."""
        fd = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
                raise ValueError("no plain file")
            if facts.st_mode & stat.S_IWOTH:
                raise ValueError("everybody may write it")
            if facts.st_size > MAX_BYTES:
                raise ValueError(f"{facts.st_size} bytes, at most {MAX_BYTES} are read")
            if not is_locked(fd):
                os.close(fd)
                return None
            self._reads -= 1
            asked = json.loads(os.read(fd, MAX_BYTES))
            if not isinstance(asked, dict) or asked.get("v") != VERSION or not isinstance(asked.get("kind"), str):
                raise ValueError(f"no request of version {VERSION}")
            body = asked.get("body")
            if not isinstance(body, dict):
                raise ValueError("no body")
        except BaseException:
            os.close(fd)
            raise
        return _Job(self._folder, name.partition(".")[0], fd, asked["kind"], body)

    def _clear(self, now: float) -> None:
        """Forget those whose tool is gone; tell the others that we are here."""
        beat = now - self._beat_s >= BEAT_S
        if beat:
            self._beat_s = now
        for name, job in list(self._jobs.items()):
            if job.ended_s:
                if not job.alive() or now - job.ended_s > STALL_S:
                    self._try(job.remove)
                    del self._jobs[name]
            elif beat:
                self._try(job.say, "waiting" if job in self._waiting else "working")

    def _discard(self, name: str) -> None:
        """Remove what does not belong here. A link is removed itself, never what it leads to."""
        path = self._folder / name
        try:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            self._complain(f"{name} cannot be removed: {error.strerror}")

    # --- answering

    async def _carry_out(self, job: _Job) -> None:
        try:
            if job.alive():
                job.say("working")
                result = await handler(job.kind)(self._access, job.body, job)
                job.say("done", result=result)
            else:
                job.ended_s = time.monotonic()
        except GatewayError as error:
            self._try(job.fail, error)
        except Exception as error:
            log.exception("a request for %s failed", clean_text(job.kind, 40))
            self._try(job.fail, _fault(error))
        job.ended_s = job.ended_s or time.monotonic()  # not if cancelled: ``run`` tells the tools then
        self._working -= 1

    def _try(self, work: Callable[..., object], *args: object) -> None:
        """The runtime directory may be full or gone: then the tool hears nothing, and gives up by itself."""
        try:
            work(*args)
        except OSError as error:
            self._complain(f"cannot answer: {error.strerror}")

    def _complain(self, what: str) -> None:
        """One line a minute, however many there are."""
        self._unsaid += 1
        now = time.monotonic()
        if now - self._said_s >= SAY_EVERY_S:
            more = f" ({self._unsaid} since the last such line)" if self._unsaid > 1 else ""
            log.warning("requests: %s%s", clean_text(what, 160), more)
            self._said_s, self._unsaid = now, 0


def prepare(folder: Path) -> bool:
    """Make the folder of requests. True if it is new. Raises OSError, or GatewayError where another owns it."""
    try:
        folder.mkdir()
    except FileExistsError:
        facts = os.lstat(folder)
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            hint = "Remove it, and see who may write the runtime directory"
            raise GatewayError("is no folder of ours", where=str(folder), hint=hint) from None
        return False
    try:
        folder.chmod(0o2770)  # what a tool makes here must be readable to the agent, and the other way: the group's
    except PermissionError:  # a sandbox without that bit (RestrictSUIDSGID=); tmpfiles.d makes it beforehand
        folder.chmod(0o770)
    return True


def is_locked(fd: int) -> bool:
    """Does another process hold this file?"""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def write_whole(folder: Path, name: str, data: bytes) -> None:
    """A file that appears whole, readable to the group. Never through a link that somebody put there."""
    draft = folder / f"{name}.draft"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        with open(fd, "wb") as stream:
            os.fchmod(fd, 0o640)
            stream.write(data)
        draft.replace(folder / name)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _stopping() -> GatewayError:
    return GatewayError("the agent was stopped", where="agent", hint="Ask again: a stopped agent's database is opened")


def _fault(error: Exception) -> GatewayError:
    return GatewayError(f"a fault of ours: {type(error).__name__}: {error}", where="agent", hint="Its log has more")
