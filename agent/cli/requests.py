"""What a tool asks of an agent: by a file while it runs, of its database while it does not; the answer is the same."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from drivers.model import ConfigError, GatewayError, UsageError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.store import Store

T = TypeVar("T")
PICK_UP_S = 15.0  # an agent that starts seals first what the one before left in the ring
SILENCE_S = 30.0  # it says every second or two that it is at it
LOOK_S, LIFE_S = 0.005, 1.0  # at the answer, and whether there still is an agent
_TYPES: dict[str, type[GatewayError]] = {"UsageError": UsageError, "ConfigError": ConfigError}

Take = Callable[[bytes], None]
Progress = Callable[[int, int], None]


def _nowhere(data: bytes) -> None:
    """For questions whose whole answer is their result."""


def _quietly(done: int, total: int) -> None:
    """No bar."""


def ask(
    config: Config,
    kind: str,
    body: Mapping[str, Any],
    take: Take = _nowhere,
    progress: Progress = _quietly,
    pick_up_s: float = PICK_UP_S,
) -> dict[str, Any]:
    """The result of a request of one of ``agent.service.requests.KINDS``.

    Args:
        take: gets the parts of the answer, in order.
        progress: called with (done, total) now and then.

    Raises:
        GatewayError: what the one who answers says, or: no answer, no database, no permission.
    """
    from agent.service.places import is_taken

    if is_taken(config.runtime_dir):
        with Question(config.runtime_dir, kind, body) as question:
            return question.answer(take, progress, pick_up_s)
    return _do_ourselves(config, kind, body, take, progress)


class Question:
    """One request as a file; gone with all that belongs to it when the context ends, however it ends."""

    def __init__(self, runtime_dir: Path, kind: str, body: Mapping[str, Any]) -> None:
        from agent.service.requests import FOLDER, VERSION

        self._folder, self._name, self._fd = runtime_dir / FOLDER, secrets.token_hex(8), -1
        self._text = json.dumps({"v": VERSION, "kind": kind, "body": body}, ensure_ascii=False).encode()
        self._part = 0

    def __enter__(self) -> Question:
        draft = self._folder / f"{self._name}.new"
        give_up = time.monotonic() + 5.0
        while True:
            try:
                self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
                break
            except FileNotFoundError:  # an agent that is starting makes it soon
                if time.monotonic() > give_up:
                    raise self._unheard("The agent is starting, or older than this tool; or it hangs") from None
                time.sleep(0.05)
            except OSError as error:
                hint = "The user must be in the group meterhouse"
                raise GatewayError(
                    f"cannot ask the running agent: {error.strerror}", where=str(self._folder), hint=hint
                ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            os.write(self._fd, self._text)
            draft.rename(self._folder / f"{self._name}.ask")
        except OSError as error:
            self.__exit__()
            raise GatewayError(f"cannot ask the running agent: {error.strerror}", where=str(self._folder)) from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *what: object) -> None:
        for path in self._folder.glob(f"{self._name}.*"):
            path.unlink(missing_ok=True)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def answer(self, take: Take, progress: Progress, pick_up_s: float) -> dict[str, Any]:
        """Wait for it."""
        from agent.service.places import is_taken

        heard_s, limit_s, stamp, looked_s = time.monotonic(), pick_up_s, 0, time.monotonic()
        said: dict[str, Any] = {"state": "", "parts": 0}
        while True:
            now = time.monotonic()
            if (found := self._stamp()) != stamp and (raw := self._read("said")) is not None:
                before, said = said, json.loads(raw)
                if stamp and said["by"] != before["by"]:
                    raise self._unheard("It was restarted; ask again")
                stamp, heard_s, limit_s = found, now, SILENCE_S
            while self._part < said["parts"]:
                take(self._next_part())
                heard_s = time.monotonic()
            if stamp:
                progress(*said["progress"])
            if said["state"] == "done":
                result: dict[str, Any] = said["result"]
                return result
            if said["state"] == "failed":
                error = said["error"]
                raise _TYPES.get(error["type"], GatewayError)(error["what"], where=error["where"], hint=error["hint"])
            if now - heard_s > limit_s:
                raise self._unheard("It is starting, busy, or it hangs: `meterhouse status`")
            if now - looked_s > LIFE_S:
                looked_s = now
                if not is_taken(self._folder.parent):
                    raise self._unheard("It was stopped; ask again: then its database is opened")
            time.sleep(LOOK_S)

    def _next_part(self) -> bytes:
        name = str(self._part + 1)
        data = self._read(name)
        if data is None:
            raise GatewayError("a part of the answer is missing", where=str(self._folder), hint="Ask again")
        self._part += 1
        (self._folder / f"{self._name}.{name}").unlink(missing_ok=True)
        return data

    def _stamp(self) -> int:
        """Changes whenever the agent said something: each word is another file."""
        with contextlib.suppress(OSError):
            facts = (self._folder / f"{self._name}.said").stat()
            return facts.st_ino ^ facts.st_mtime_ns
        return 0

    def _read(self, suffix: str) -> bytes | None:
        try:
            return (self._folder / f"{self._name}.{suffix}").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            hint = "The user must be in the group meterhouse"
            raise GatewayError(
                f"the answer cannot be read: {error.strerror}", where=str(self._folder), hint=hint
            ) from error

    def _unheard(self, hint: str) -> GatewayError:
        return GatewayError("the running agent does not answer", where=str(self._folder), hint=hint)


class _Stopped:
    """The database of an agent that does not run."""

    service = None

    def __init__(self, config: Config, store: Store) -> None:
        self.config, self._store = config, store

    async def call(self, function: Callable[[Store], T]) -> T:
        return function(self._store)


class _Straight:
    """A reply that goes nowhere but to who asked."""

    def __init__(self, take: Take, progress: Progress) -> None:
        self._take, self.progress = take, progress

    async def part(self, data: bytes) -> None:
        self._take(data)


def _do_ourselves(config: Config, kind: str, body: Mapping[str, Any], take: Take, progress: Progress) -> dict[str, Any]:
    from agent.service.requests import handler

    async def work(store: Store) -> dict[str, Any]:
        return dict(await handler(kind)(_Stopped(config, store), body, _Straight(take, progress)))

    with stopped_store(config) as store:
        return asyncio.run(work(store))


@contextlib.contextmanager
def stopped_store(config: Config) -> Iterator[Store]:
    """The database of an agent that does not run.

    Raises:
        GatewayError: there is none, somebody uses it, or it cannot be opened.
    """
    from agent.store import Store, StoreBusy

    path = config.store_path
    if not path.exists():
        raise GatewayError("there is no database", where=str(path), hint="Did the agent ever run with this state_dir?")
    try:
        store = Store.open(path, config.store.max_size_bytes, config.store.keep_delivered_s)
    except StoreBusy as error:
        hint = "Another tool, or an agent with another runtime_dir: name it with --runtime-dir"
        raise GatewayError("somebody else uses the database", where=str(path), hint=hint) from error
    try:
        yield store
    finally:
        store.close()
