"""Shared by the commands: options, error output, the configuration, the snapshot of a running agent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from drivers.model import ConfigError, GatewayError, ProfileError, Reason, clean_text

if TYPE_CHECKING:
    from agent.config import Config

F = TypeVar("F", bound=Callable[..., Any])
MAX_SNAPSHOT = 64 << 20
# controls, what turns the direction of writing or has no width, line separators, half characters
UNSHOWN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
DEFAULT_CONFIG = "/etc/meterhouse/agent.toml"


def complain(error: GatewayError) -> None:
    """Print an error on stderr, each complaint on its own line."""
    many: tuple[GatewayError, ...] = (error,)
    if isinstance(error, (ConfigError, ProfileError)):
        many = error.complaints
    for one in many:
        click.echo("\n".join(clean(line) for line in f"error: {one}".split("\n")), err=True)
    if len(many) > 1:
        click.echo(f"{len(many)} errors.", err=True)


def config_options(function: F) -> F:
    """``-c``, ``--state-dir`` and ``--runtime-dir``; they arrive as config_file, state_dir, runtime_dir."""
    folder = click.Path(file_okay=False, path_type=Path)
    options = [
        click.option(
            "-c",
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            default=DEFAULT_CONFIG,
            envvar="MH_CONFIG",
            show_default=True,
            help="The configuration; conf.d/*.toml beside it is read as well. Also MH_CONFIG.",
        ),
        click.option("--state-dir", type=folder, help="Folder of the database, in place of the configured one."),
        click.option("--runtime-dir", type=folder, help="Folder of ring and snapshot, in place of the configured one."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def json_option(function: F) -> F:
    """``--json``; it arrives as as_json."""
    decorated: F = click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")(function)
    return decorated


def read_config(config_file: Path, state_dir: Path | None, runtime_dir: Path | None) -> Config:
    """The checked configuration with what the command line sets. Raises ConfigError."""
    from agent.config import load_config

    return load_config(config_file, state_dir=state_dir, runtime_dir=runtime_dir)


def find_runtime_dir(config_file: Path, runtime_dir: Path | None, warn: bool = True) -> Path:
    """The runtime directory of the agent, also with an invalid configuration.

    A running agent keeps its configuration while the file is invalid, and can be asked: then it is only a warning.
    """
    if runtime_dir is not None:
        return runtime_dir
    usual = Path(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or "/run/meterhouse")
    if os.path.exists(config_file):  # unlike Path.exists, no error for names that cannot be
        try:
            return read_config(config_file, None, None).runtime_dir
        except ConfigError as error:
            if os.path.exists(usual / "snapshot.json"):
                for one in error.complaints if warn else ():
                    click.echo(f"warning: the next start would fail: {one}", err=True)
                return usual
            hint = "Or give the folder of the running agent with --runtime-dir"
            raise ConfigError(
                error.what, where=error.where, hint=error.hint or hint, complaints=error.complaints
            ) from error
    return usual


def read_snapshot(runtime_dir: Path) -> dict[str, Any]:
    """The snapshot of the running agent.

    Raises:
        GatewayError: no agent runs here, or its snapshot cannot be read.
    """
    from agent.cli.answers import check_snapshot

    path = runtime_dir / "snapshot.json"
    try:
        return check_snapshot(read_plain(path, MAX_SNAPSHOT))
    except FileNotFoundError:
        hint = "Is it started? `systemctl status meterhouse`; another folder: --runtime-dir"
        raise GatewayError("no agent is running here", where=str(runtime_dir), hint=hint) from None
    except OSError as error:
        hint = "Members of the group meterhouse may read it"
        raise GatewayError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from error
    except (ValueError, GatewayError) as error:
        why = f"{error.hint}. " if isinstance(error, GatewayError) else ""
        hint = f"{why}Check which program wrote it"
        raise GatewayError("not a snapshot of an agent", where=str(path), hint=hint) from error


def read_plain(path: Path, limit: int) -> bytes:
    """The content of a regular file in another user's folder: not a link, pipe or device, at most ``limit`` bytes.

    Raises OSError; ValueError for any other file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as stream:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit:
            raise ValueError("not a plain file, or too large")
        return stream.read(limit)


def learned_maps(snapshot: Mapping[str, Any]) -> dict[str, str]:
    """The agent's learned facts about register maps, by device: cuts, missing registers, shorter reads."""
    said = {name: device.get("learned") for name, device in snapshot.get("devices", {}).items()}
    return {str(name): tidy(str(text), 300) for name, text in said.items() if text}


def is_alive(pid: object) -> bool:
    """Does a process with this number exist?"""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def show_quality(code: int) -> str:
    """ "" for good, else the word for a quality or, from 128 on, for the reason of a gap."""
    from drivers.model import Quality

    if code >= min(Reason):
        return Reason(code).name.lower() if code in set(Reason) else f"reason {code}"
    if code == Quality.GOOD:
        return ""
    return Quality(code).name.lower() if code in set(Quality) else f"quality {code}"


def show_age(seconds: float | None) -> str:
    """An age for people: 3 s, 4 min, 2 h, 5 d; a dash if unknown."""
    if seconds is None:
        return "-"
    seconds = max(seconds, 0.0)
    for limit, size, unit in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}" if limit == 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def parse_for(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """``--for 20s``: seconds, with the units of the configuration, or bare seconds."""
    if value is None:
        return None
    from drivers.toml.parsers import Wrong, duration_ms

    try:
        return duration_ms(1, 366 * 86_400_000, "20 s")(value if value.strip()[-1:].isalpha() else f"{value} s") / 1000
    except Wrong as wrong:
        raise click.BadParameter(f"{wrong.what}. {wrong.hint}", ctx, param) from None


def as_line(facts: Mapping[str, Any]) -> str:
    """One JSON object on one line; what a terminal would obey is written as an escape."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"), default=str)
    return UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@contextlib.contextmanager
def unwound() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like Ctrl-C: its unfinished files are removed."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in before.items() if handler is signal.SIG_DFL}  # nohup ignores one
    if threading.current_thread() is not threading.main_thread():
        before = {}
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tidy(text: str, limit: int = 80) -> str:
    """Text that came from a device or a file, safe to show."""
    return clean_text(text, limit)


def clean(value: Any) -> Any:
    """The same with nothing in its texts that a terminal would obey, or that a line of text cannot hold."""
    if isinstance(value, str):
        return UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", value) if UNSHOWN.search(value) else value
    if isinstance(value, dict):
        return {clean(name): clean(member) for name, member in value.items()}
    return [clean(member) for member in value] if isinstance(value, list) else value
