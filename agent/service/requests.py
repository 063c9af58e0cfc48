"""What local tools may ask of an agent, and what an answer may use: between ``desk`` and those who answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any, Final, Protocol, TypeVar

from agent.config import Config
from agent.store import Store
from drivers.model import GatewayError, clean_text

T = TypeVar("T")
FOLDER: Final = "requests"
VERSION: Final = 1

# kind -> the module whose ``answer`` serves it; imported when first asked. A new kind is a line here and a module.
KINDS: Final[Mapping[str, str]] = {
    "declare": "agent.service.declaring",
    "export": "agent.service.exporting",
    "intervals": "agent.service.interval_export",
    "keys": "agent.service.keydesk",
    "report": "agent.service.reporting",
}


class Access(Protocol):
    """What a request may use: in the running agent through its threads, in a tool directly."""

    @property
    def config(self) -> Config: ...
    @property
    def service(self) -> Any: ...  # agent.service.core.Service; None where no agent runs

    async def call(self, function: Callable[[Store], T]) -> T:
        """Run in the store's thread. Not for long: sealing waits behind it, so do large things in slices."""


class Reply(Protocol):
    """Where an answer goes, piece by piece; what ``answer`` returns is its end."""

    async def part(self, data: bytes) -> None:
        """Bytes for the tool, in order; waits while the tool is behind. Up to about a megabyte."""

    def progress(self, done: int, total: int) -> None:
        """For a bar."""


Handler = Callable[[Access, Mapping[str, Any], Reply], Awaitable[Mapping[str, Any]]]


class Running:
    """The running agent as a request sees it. ``service``: an ``agent.service.core.Service``."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.config: Config = service.config

    async def call(self, function: Callable[[Store], T]) -> T:
        """Through the queue of the writer thread."""
        found: T = await self.service.writer.call(function)
        return found


def handler(kind: str) -> Handler:
    """``answer(access, body, reply) -> result`` of a kind. Raises GatewayError for one that is not known.

    ``body`` comes from another process: a handler checks it, and raises UsageError for what is wrong with it.
    """
    if kind not in KINDS:
        hint = "Are agent and tool of one version? `meterhouse status` shows the agent's"
        raise GatewayError(f"nothing answers to {clean_text(kind, 40)!r}", where="request", hint=hint)
    found: Handler = import_module(KINDS[kind]).answer
    return found
