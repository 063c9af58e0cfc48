"""Borrows a line from the running agent for a tool."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from agent.cli.common import NoAgent, read_snapshot
from agent.service.control.frames import FrameKind, decode_error
from drivers.model import GatewayError, LineDown, LineLent

if TYPE_CHECKING:
    from agent.cli.control import ControlClient
    from drivers.line import LineFactory

T = TypeVar("T")
Purpose = Literal["read", "identify", "scan"]
# longest wait for the line, in seconds; if the line is not free, the agent refuses ten seconds before this
GRANT_S: Final = 40.0
_KEPT: Final = "the running agent did not release the line for this command"


def borrow_line(folder: Path, url: str, purpose: Purpose, seconds: float) -> BorrowedLine:
    """Return a lease of the line if a running agent owns its port; else a lease without effect.

    Ports are compared, not names, because a name may have changed since the agent read its configuration.

    Raises LineDown if the agent's snapshot cannot be read, because then the agent may be using the port.
    """
    try:
        lines = read_snapshot(folder).get("lines", {})
    except NoAgent:
        return BorrowedLine()
    except GatewayError as error:
        what = f"cannot borrow the line from the running agent: {error.what}"
        raise LineDown(what, where=error.where, hint=error.hint) from error
    name = next((name for name, facts in lines.items() if is_same(facts.get("url"), url)), None)
    return BorrowedLine() if name is None else BorrowedLine(folder, str(name), purpose, seconds)


def line_factory() -> LineFactory:
    """Return the function that opens lines for this command: the one given to ``outcome``, or ``open_line``."""
    import click

    from drivers.line import open_line

    context = click.get_current_context(silent=True)
    return (context and context.obj) or open_line


def is_same(first: object, second: str) -> bool:
    """True if two line URLs mean the same port. They may differ, because a serial port has several paths."""
    if first == second:
        return True
    if not isinstance(first, str) or not first.startswith("serial:") or not second.startswith("serial:"):
        return False
    from drivers.line.port import is_same_port

    return is_same_port(first.removeprefix("serial:"), second.removeprefix("serial:"))


class BorrowedLine:
    """A context in which this process may use a line's port.

    ``folder`` is the runtime directory of the agent that lends the line; None if no agent owns the line.
    """

    def __init__(
        self, folder: Path | None = None, line: str = "", purpose: Purpose = "read", seconds: float = 0
    ) -> None:
        self._folder, self._line, self._purpose, self._seconds = folder, line, purpose, seconds
        self._client: ControlClient | None = None

    def __enter__(self) -> BorrowedLine:
        from agent.cli.control import ControlClient
        from agent.service.control.protocol import Lease

        if self._folder is None:
            return self
        try:
            client = ControlClient.connect(self._folder)
        except NoAgent:  # the agent was killed, and its snapshot still exists
            return self
        except GatewayError as error:
            what = f"cannot borrow the line from the running agent: {error.what}"
            raise LineDown(what, where=f"line {self._line}", hint=error.hint) from error
        try:
            client.send(Lease(line=self._line, purpose=self._purpose, seconds=self._seconds))
            client.give_up_after(GRANT_S)
            while (got := client.receive(GRANT_S))[0] is not FrameKind.PART:
                if got[0] is not FrameKind.PROGRESS:
                    raise self._refused(decode_error(got[1]))
        except BaseException:
            client.close()
            raise
        self._client = client
        return self

    def __exit__(self, *what: object) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    @property
    def limit_s(self) -> float | None:
        """The duration of the lease in seconds; None if no agent lends the line."""
        return None if self._client is None else self._seconds

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine with ``asyncio.run``. Raises LineLent if the agent takes the line back."""
        return asyncio.run(work if self._client is None else self._guarded(work, self._client))

    async def _guarded(self, work: Coroutine[Any, Any, T], client: ControlClient) -> T:
        sock = client.sock
        sock.setblocking(False)
        task = asyncio.ensure_future(work)
        over = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(sock, 1))  # this is done when the lease ends
        try:
            await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            over.cancel()
            task.cancel()
            await asyncio.gather(task, over, return_exceptions=True)
        hint = "The lease of the line has expired, or the agent was stopped or reloaded. Try again"
        what = "the agent has taken back the line that it had lent to this command"
        raise LineLent(what, where=f"line {self._line}", hint=hint)

    def _refused(self, error: GatewayError) -> GatewayError:
        if isinstance(error, LineLent):
            return LineLent(_KEPT, where=error.where, hint=error.what)
        return LineDown(f"{_KEPT}: {error.what}", where=f"line {self._line}", hint=error.hint)
