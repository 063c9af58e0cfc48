"""Code that the commands share: error output, texts, progress, and reading the snapshot of a running agent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from unicodedata import east_asian_width

import click

from drivers import explain
from drivers.model import ConfigError, GatewayError, ProfileError, ProgressCallback, clean_text, no_progress

if TYPE_CHECKING:
    from agent.config import ConfigWarning

MAX_SNAPSHOT = 64 << 20
show_quality = explain.show_quality  # returns the word for a quality, which `decode` prints too
COLON: Final = {"en": ": ", "zh": "："}
SEMICOLON: Final = {"en": "; ", "zh": "；"}
LAST_ERROR: Final = "last-error"  # name of the file in the runtime directory that states why the agent ended
# characters that must not reach a terminal: control characters, line separators, surrogates, and those that have no
# width or change the writing direction
UNSHOWN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


# finds texts such as "1 devices", but not inside "1 of 1 devices" or "0.1 devices"
ONE_OF_MANY: Final = re.compile(
    r"(?<!\d of )(?<![\w.,:-])1 (device|line|pack|reading|gap reading|value|answer|fault|warning|error|stream|day|row"
    r"|point|register|figure|file|sample|exception|timeout|gateway|message|object|remark|column|byte|frame|hour"
    r"|minute|second)s\b(?: (are|were|have|do)\b)?"
)
VERBS: Final = {"are": "is", "were": "was", "have": "has", "do": "does"}
REQUESTED: Final[ContextVar[str | None]] = ContextVar("language of --lang", default=None)


def show_unit(unit: str) -> str:
    """Return a unit as screens, pages and reports show it. Packs and JSON use SenML units instead."""
    return explain.show_unit(unit).replace("m3", "m³").replace("m2", "m²").replace("CO2", "CO₂")


def language_of(given: str | None, environment: Mapping[str, str]) -> str:
    """Return ``en`` or ``zh``. This is ``given`` or, without it, the language of the terminal from ``environment``."""
    terminal = environment.get("LC_ALL") or environment.get("LC_MESSAGES") or environment.get("LANG", "")
    return given or ("zh" if terminal.startswith("zh") else "en")


def speaks_chinese() -> bool:
    """True if this command prints Chinese. --lang decides this; without --lang, the language of the terminal does."""
    return language_of(REQUESTED.get(), os.environ) == "zh"


def singular(text: str) -> str:
    """Return an English text in which plurals after 1 are corrected, such as "1 devices are" to "1 device is"."""
    return ONE_OF_MANY.sub(lambda found: f"1 {found[1]}" + (f" {VERBS[found[2]]}" if found[2] else ""), text)


def say(text: str) -> str:
    """Return a text in the language of the command; in English if it is not in the catalogue."""
    if not speaks_chinese():
        return singular(text)
    from agent.cli.chinese import translate

    return translate(text)


def say_at(where: str, what: str) -> str:
    """Return `WHERE: WHAT` in the language of the command."""
    if not speaks_chinese():
        return f"{where}: {what}"
    from agent.cli.chinese import describe

    return describe(where, what)


def as_complaint(kind: Literal["error", "warning"], one: GatewayError | ConfigWarning | str) -> str:
    """Return `error: WHERE: WHAT. WHAT TO DO` in the language of the command, without control characters."""
    text = singular(f"{kind}: {one}")
    if speaks_chinese():
        from agent.cli.chinese import describe, translate

        chinese = translate(one) if isinstance(one, str) else describe(one.where, one.what, one.hint)
        text = {"error": "错误：", "warning": "警告："}[kind] + chinese
    return "\n".join(clean(line) for line in text.split("\n"))


def complain(error: GatewayError) -> None:
    """Print an error on stderr. If it has several complaints, each is on its own line."""
    many: tuple[GatewayError, ...] = (error,)
    if isinstance(error, (ConfigError, ProfileError)):
        many = error.complaints
    for one in many:
        click.echo(as_complaint("error", one), err=True)
    if len(many) > 1:
        click.echo(say(f"{len(many)} errors."), err=True)


class NoAgent(GatewayError):
    """No agent runs with this runtime directory, or the agent does not accept connections."""

    def __init__(self, runtime_dir: Path) -> None:
        hint = (
            "Is the agent started? See `systemctl status meterhouse`; if the agent uses another runtime "
            "directory, give --runtime-dir"
        )
        what = "no agent is running here"
        with contextlib.suppress(OSError, ValueError):
            ended = read_plain(runtime_dir / LAST_ERROR, 1 << 16).decode("utf-8", "replace")
            what += f". The agent's previous run ended at {clean_text(ended, 600)}"
        super().__init__(what, where=str(runtime_dir), hint=hint)


def read_snapshot(runtime_dir: Path) -> dict[str, Any]:
    """Return the snapshot of the running agent.

    Raises:
        GatewayError: no agent runs here, or its snapshot cannot be read.
    """
    from agent.cli.answers import check_snapshot

    path = runtime_dir / "snapshot.json"
    try:
        return check_snapshot(read_plain(path, MAX_SNAPSHOT))
    except FileNotFoundError:
        raise NoAgent(runtime_dir) from None
    except OSError as error:
        hint = "Only root and members of the group meterhouse may read this file"
        raise GatewayError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from error
    except (ValueError, GatewayError) as error:
        why = error.hint if isinstance(error, GatewayError) else str(error)
        hint = (
            f"{why}. Do the agent and this command have the same version? Restart the agent, or check which "
            "program wrote the file"
        )
        raise GatewayError("this is not a snapshot of an agent", where=str(path), hint=hint) from error


def read_plain(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes. Safe for files in a folder of another user.

    Raises OSError, also for a symbolic link. Raises ValueError for a pipe, a device or a larger file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as stream:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit:
            raise ValueError("the file is not a regular file, or is too large")
        return stream.read(limit)


def learned_maps(snapshot: Mapping[str, Any], language: str = "en") -> dict[str, str]:
    """Return device name -> text with the facts that the agent has learned about the device's register map.

    The agent learns where to split reads, which registers are missing, and how long a read may be. Devices about which
    it has learned nothing are left out.
    """
    learned = {name: device.get("learned") for name, device in snapshot.get("devices", {}).items()}
    found = {str(name): clean_text(str(text), 300) for name, text in learned.items() if text}
    if language != "zh" or not found:
        return found
    from agent.cli.chinese import translate

    return {name: translate(text) for name, text in found.items()}


def docs_folder() -> Path | None:
    """Return the folder of the docs in the Debian package, the bundle or the source tree; None if there is none."""
    places = (Path("/usr/share/doc/meterhouse"), Path("/opt/meterhouse/doc"), Path(__file__).parents[2] / "docs")
    return next((place for place in places if os.path.isfile(place / "field-guide.md")), None)


def agent_runs(runtime_dir: Path) -> bool:
    """True if an agent runs with this runtime directory."""
    try:
        return is_alive(read_snapshot(runtime_dir).get("pid"))
    except GatewayError:
        return False


def is_alive(pid: object) -> bool:
    """True if a process with this number exists."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def pad(text: str, width: int) -> str:
    """Return a text padded to a width on a terminal, where a Chinese character takes two columns."""
    return text + " " * (width - len(text) - sum(east_asian_width(c) in "WF" for c in text))


def show_age(seconds: float | None, language: str = "en") -> str:
    """Return an age as text, such as 3 s, 4 min, 2 h or 5 d; a dash if the age is unknown."""
    if seconds is None:
        return "-"
    seconds = max(seconds, 0.0)
    for limit, size, unit in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            text = f"{seconds / size:.1f} {unit}" if limit == 10 else f"{seconds / size:.0f} {unit}"
            break
    else:
        text = f"{seconds / 86400:.0f} d"
    return measure(text, language)


def measure(text: str, language: str) -> str:
    """Return a number with a unit of time, such as ``3 min``, in this language."""
    if language != "zh":
        return text
    from agent.cli.chinese import translate_measure

    return translate_measure(text)


def columns(text: str) -> int:
    """Return the number of terminal columns of a text. A Chinese character takes two columns."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def as_line(facts: Mapping[str, Any]) -> str:
    """Return a JSON object as one line, with escaped control characters."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"), default=str)
    return UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@contextlib.contextmanager
def unwound() -> Iterator[None]:
    """In this context, SIGTERM and SIGHUP raise SystemExit, so that unfinished files are removed as after Ctrl-C."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A signal that is handled or ignored already is left unchanged. For example, nohup ignores SIGHUP.
    before = {number: handler for number, handler in before.items() if handler is signal.SIG_DFL}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def clean(value: Any) -> Any:
    """Return the same value, with control characters and line breaks in its texts replaced."""
    if isinstance(value, str):
        return UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", value) if UNSHOWN.search(value) else value
    if isinstance(value, dict):
        return {clean(name): clean(member) for name, member in value.items()}
    return [clean(member) for member in value] if isinstance(value, list) else value


@contextlib.contextmanager
def progress(unit: str) -> Iterator[ProgressCallback]:
    """Show a progress bar while the context is open. Shows nothing if stderr is not a terminal.

    Args:
        unit: the unit of ``done``, such as "packs".
    """
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(say(unit), total=None)

        def update(done: float, total: float | None = None, text: str = "") -> None:
            bar.update(task, completed=done, total=total, description=say(text) if text else f"{done:.0f} {say(unit)}")

        yield update
