"""Handles requests to a stopped agent. A child process runs as the owner of the database and opens it.

The tool itself may run as root, so it never touches the state directory. New files there therefore belong to the
agent's user, and a symbolic link cannot give access to files that the agent's user may not access. The child answers
over a socket pair, with the frames of the control socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent.cli.control import ControlClient, NoAnswer, Take
from agent.cli.owner_process import child, path_owner
from agent.service.control.frames import (
    HEADER,
    MAX_REQUEST,
    FrameKind,
    encode_error,
    encode_facts,
    frame,
    header,
    parse_header,
)
from agent.service.control.peer import Caller, login_of, peer_of
from drivers.model import GatewayError, ProgressCallback, no_progress

if TYPE_CHECKING:
    from agent.config import Config
    from agent.service.control.protocol import Request
    from agent.store import Store

T = TypeVar("T")
# the tool must receive a part within this time, in seconds; it may be writing to a slow USB stick
SEND_S: Final = 600.0
_RUNS: Final = "an agent is running with this runtime directory"


class AgentRunning(GatewayError):
    """The agent is starting or stopping. It holds its lock, but does not listen."""


def ask_database(
    config: Config, request: Request, take: Take, progress: ProgressCallback = no_progress
) -> dict[str, Any]:
    """Return the result of a request to the database of a stopped agent. ``take`` gets the parts of the answer.

    Raises:
        AgentRunning: the agent runs.
        GatewayError: there is no database, the database cannot be opened, or this user may not open it.
    """
    owner = _owner(config.state_dir)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, child(owner, __name__, theirs, _absolute(config)), ControlClient(ours, config.store_path) as client:
        try:
            return client.ask(request, take, progress, pick_up_s=SEND_S, silence_s=SEND_S)
        except NoAnswer as error:
            hint = "To see why, run the command with MH_DEBUG=1 as the owner of the database"
            what = "the child process that opens the database has ended early"
            raise GatewayError(what, where=str(config.store_path), hint=hint) from error
        except GatewayError as error:
            if error.what == _RUNS:
                raise AgentRunning(error.what, where=error.where, hint=error.hint) from None
            raise


def _owner(state_dir: Path) -> os.stat_result:
    """Return the user as whom the child process must run. Raises GatewayError if the current user may not start it."""
    try:
        owner = state_dir.stat()
        if not owner.st_uid:  # the folder belongs to root, but another user may control a folder or link above it
            owner = path_owner(state_dir) or owner
    except FileNotFoundError:
        hint = "Did the agent ever run with this state_dir?"
        raise GatewayError("there is no database", where=str(state_dir), hint=hint) from None
    except OSError as error:
        raise GatewayError(f"cannot be accessed: {error.strerror}", where=str(state_dir), hint="Use sudo") from error
    if os.geteuid() not in (owner.st_uid, 0):
        hint = "Start the agent, or use sudo"
        what = "no agent is running, and only root and the agent's user may open the agent's database"
        raise GatewayError(what, where=str(state_dir), hint=hint)
    return owner


def _absolute(config: Config) -> Config:
    """Return the configuration with absolute paths, because the child has another working directory."""
    key, plan = config.key, config.indicators.plan
    return replace(
        config,
        state_dir=config.state_dir.absolute(),
        runtime_dir=config.runtime_dir.absolute(),
        profiles_dir=config.profiles_dir.absolute(),
        key=replace(key, file=key.file.absolute()) if key.file is not None else key,
        indicators=replace(config.indicators, plan=plan.absolute()) if plan is not None else config.indicators,
    )


# --- code that runs in the child process


def main(fd: int) -> None:
    """Serve one request on the socket ``fd``. The configuration is pickled on standard input."""
    config = pickle.load(sys.stdin.buffer)
    with socket.socket(fileno=fd) as sock:
        sock.settimeout(SEND_S)
        asyncio.run(_serve(sock, config))


async def _serve(sock: socket.socket, config: Config) -> None:
    from agent.service.control.protocol import decode_request
    from agent.service.control.server import handler

    with sock.makefile("rb") as stream:
        _, size = parse_header(stream.read(HEADER.size), frozenset({FrameKind.REQUEST}), MAX_REQUEST)
        request = decode_request(stream.read(size))
    uid = peer_of(sock).uid  # this is the user of the tool, because the tool created the socket pair
    try:
        with _opened(config) as store:
            access = StoppedAccess(config, Caller(uid, login_of(uid)), store)
            result = await handler(request)(access, request, StoppedReply(sock))
        last = frame(FrameKind.DONE, encode_facts(result))
    except BrokenPipeError:  # the tool has ended
        return
    except GatewayError as error:
        last = frame(FrameKind.FAILED, encode_error(error))
    sock.sendall(last)


@contextlib.contextmanager
def _opened(config: Config) -> Iterator[Store]:
    """Open the database of a stopped agent.

    Raises:
        GatewayError: the agent runs, there is no database, or the database is in use or cannot be opened.
    """
    from agent.service.runtime_dir import is_agent_running
    from agent.store import Store, StoreBusy

    path = config.store_path
    if is_agent_running(config.runtime_dir):
        raise GatewayError(_RUNS, where=str(config.runtime_dir))
    if not path.exists():
        raise GatewayError("there is no database", where=str(path), hint="Did the agent ever run with this state_dir?")
    try:
        store = Store.open(path, config.store.max_size_bytes, config.store.keep_delivered_s, rescue=False)
    except StoreBusy as error:
        hint = (
            "A meterhouse command or another agent has opened the database; if it is another agent, give its "
            "runtime_dir with --runtime-dir"
        )
        what = "the database is in use by another process"
        raise GatewayError(what, where=str(path), hint=f"{hint}. {error.what}") from error
    try:
        yield store
    finally:
        store.close()


class StoppedAccess:
    """Gives a request access to the database only, because no agent runs.

    Implements ``agent.service.control.protocol.Access``.
    """

    service = None

    def __init__(self, config: Config, caller: Caller, store: Store) -> None:
        self.config, self.caller, self._store = config, caller, store

    async def call(self, function: Callable[[Store], T]) -> T:
        """Call ``function`` at once, because nothing else uses the database."""
        return function(self._store)

    async def compute(self, function: Callable[[], T]) -> T:
        """Call ``function`` at once, because nothing else runs in this process."""
        return function()


class StoppedReply:
    """Sends frames on a socket. Sending may block, because there is no other client."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def part(self, data: bytes) -> None:
        self._sock.sendall(header(FrameKind.PART, len(data)))
        self._sock.sendall(data)

    def progress(self, done: int, total: int) -> None:
        self._sock.sendall(frame(FrameKind.PROGRESS, encode_facts({"done": done, "total": total})))

    def rest(self) -> None:
        """Do nothing, because a stopped agent has no line to lend."""
