"""A line of a running agent for a tool's use."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from agent.cli.common import find_runtime_dir, is_alive, read_snapshot
from drivers.model import ConfigError, GatewayError, LineDown, LineLent


def lend(folder: Path, url: str, what: str, seconds: float) -> AbstractContextManager[Any]:
    """A lease of the line where a running agent owns its port; nothing where none does.

    The port tells, not the name: it may have been renamed since the agent read its configuration.
    """
    try:
        snapshot = read_snapshot(folder)
    except GatewayError:
        return nullcontext()
    lines = snapshot.get("lines", {})
    name = next((name for name, facts in lines.items() if is_same(facts.get("url"), url)), None)
    if name is None or not is_alive(snapshot.get("pid")):
        return nullcontext()
    return _Leased(folder / "leases", name, what, seconds)


def is_same(first: object, second: str) -> bool:
    """Whether two addresses of lines lead to one port: a serial port has many names."""
    if first == second:
        return True
    if not isinstance(first, str) or not first.startswith("serial:") or not second.startswith("serial:"):
        return False
    return os.path.realpath(first.removeprefix("serial:")) == os.path.realpath(second.removeprefix("serial:"))


def agents_folder(config_file: Path, runtime_dir: Path | None) -> Path:
    """Where an agent of this machine would be, also when its configuration is being edited and does not load."""
    try:
        return find_runtime_dir(config_file, runtime_dir)
    except ConfigError:
        return find_runtime_dir(Path(os.devnull) / "none", None)


class _Leased(AbstractContextManager[None]):
    """A lease whose refusal reads like any other trouble with a line."""

    def __init__(self, folder: Path, line: str, what: str, seconds: float) -> None:
        from drivers.line import Lease

        who = f"{what} by {os.environ.get('SUDO_USER') or _user()}"
        self._line, self._lease = line, Lease(folder, line, seconds, who)

    def __enter__(self) -> None:
        try:
            self._lease.__enter__()
        except TimeoutError as error:
            raise LineLent("the running agent did not lend it", where=f"line {self._line}", hint=str(error)) from error
        except OSError as error:
            hint = "The user must be in the group meterhouse"
            raise LineDown(
                f"cannot ask the running agent for it: {error.strerror}", where=f"line {self._line}", hint=hint
            ) from error

    def __exit__(self, *what: object) -> None:
        self._lease.__exit__(*what)  # type: ignore[arg-type]


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"
