"""What serves a request: what it may use, where its answer goes, and which module it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from agent.config import Config
from agent.service.control.peer import Caller
from agent.store import Store

if TYPE_CHECKING:
    from agent.service.control.protocol import Request

T = TypeVar("T")


class Access(Protocol):
    """What a request may use: in the running agent through its threads, else the database itself."""

    @property
    def config(self) -> Config: ...
    @property
    def caller(self) -> Caller: ...
    @property
    def service(self) -> Any: ...  # agent.service.app.Service; None where no agent runs

    async def call(self, function: Callable[[Store], T]) -> T:
        """Run in the store's thread. Not for long: sealing waits behind it, so do large things in slices."""


class Reply(Protocol):
    """Where an answer goes, piece by piece; what ``answer`` returns is its end."""

    async def part(self, data: bytes) -> None:
        """Bytes for the client, in order; waits while the client is behind. Up to about a megabyte."""

    def progress(self, done: int, total: int) -> None:
        """For a bar."""

    def rest(self) -> None:
        """Nothing more is said until the end: the client does other things than to read."""


Handler = Callable[[Access, Any, Reply], Awaitable[Mapping[str, Any]]]


class Slices:
    """The share of the store's thread that those who look have together.

    One slice at a time, and after it as long for others as it took: however many ask, sealing waits for one slice.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it when it is our turn."""
        async with self._lock:
            began = time.monotonic()
            result = await work()
            await asyncio.sleep(time.monotonic() - began)
            return result


class RunningAccess:
    """The running agent as a request sees it.

    Args:
        service: an ``agent.service.app.Service``.
        slices: None: what is asked of the store is little, and goes first come, first served.
    """

    def __init__(self, service: Any, caller: Caller, slices: Slices | None) -> None:
        self.service, self.caller, self._slices = service, caller, slices
        self.config: Config = service.config

    async def call(self, function: Callable[[Store], T]) -> T:
        """Through the queue of the writer thread."""

        async def work() -> T:
            found: T = await self.service.writer.call(function)
            return found

        return await (work() if self._slices is None else self._slices.run(work))


def handler(request: Request) -> Handler:
    """``answer(access, request, reply) -> result`` of a request's kind."""
    found: Handler = import_module(request.module).answer
    return found
