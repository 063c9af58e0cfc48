"""`meterhouse watch`: live values or frames of the running agent, read from shared memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import as_line, read_snapshot, say, show_age
from agent.cli.options import ConfigOptions, config_options, json_option, parse_for
from drivers.model import GatewayError, UsageError

if TYPE_CHECKING:
    from agent.cli.ring_follower import Follower, Latest
    from drivers.line.trace import TracedFrame

LOOK_EVERY_S = 0.2
SNAPSHOT_EVERY_S = 2.0
JOIN_NS = 50_000_000
SENT = 0
DIRECTIONS = ("->", "<-", "??")
DIRECTION_WORDS = ("sent", "received", "noise")


@click.command()
@click.argument("device", nargs=-1)
@config_options
@click.option(
    "--point", "patterns", multiple=True, metavar="GLOB", help='Only matching points, such as "ac.*". May be repeated.'
)
@click.option("--frames", "line", metavar="LINE", help="Show the frames of a line instead, as sent over the wire.")
@click.option("--for", "seconds", callback=parse_for, metavar="TIME", help="Stop after this time, such as 20s.")
@json_option
def watch(
    device: tuple[str, ...],
    options: ConfigOptions,
    patterns: tuple[str, ...],
    line: str | None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Show live values of all devices, or of the given ones. Stop with Ctrl-C.

    Reads shared memory only: neither the agent nor the devices are disturbed.

    \b
    Examples:
      meterhouse watch
      meterhouse watch inv1 --point 'ac.power.*'
      meterhouse watch --json --for 20s > values.jsonl
      meterhouse watch --frames cabinet-2

    \b
    Exit codes: 0 good, 1 no agent runs here or it ended, 2 unknown device or line, 3 bad configuration.
    """
    folder = options.find_runtime_dir()
    end = time.monotonic() + seconds if seconds is not None else None
    if line is not None:
        _frames(folder, line, end, as_json)
    else:
        _values(folder, device, patterns, end, as_json)


def until(end: float | None, every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """Turn after turn until the monotonic time ``end``; at least one."""
    while True:
        yield
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            return
        time.sleep(every_s if left is None else min(every_s, left))


class LiveView:
    """Snapshot and ring of the agent, reopened when it restarts."""

    def __init__(self, folder: Path, devices: Sequence[str], patterns: Sequence[str]) -> None:
        self.folder, self._devices, self._patterns = folder, devices, patterns
        self.snapshot = read_snapshot(folder)
        known = self.snapshot.get("devices", {})
        for name in devices:
            if name not in known:
                from drivers.toml.parsers import did_you_mean

                hint = did_you_mean(name, known, "It has") if known else "It has none"
                raise UsageError(f'the running agent has no device "{name[:40]}"', where="watch", hint=hint)
        self.follower = self._open()
        if patterns and not self.shown():
            hint = "`meterhouse status --points` lists them"
            raise UsageError(f'no point matches "{patterns[0][:40]}"', where="watch", hint=hint)
        self._look_at = time.monotonic() + SNAPSHOT_EVERY_S

    def _open(self) -> Follower:
        from agent.cli.ring_follower import Follower

        return Follower.open(self.folder, self.snapshot)

    def news(self) -> Iterator[Latest]:
        """Every word heard since the last call. Raises GatewayError when the agent is gone."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + SNAPSHOT_EVERY_S
            before = self.snapshot
            self.snapshot = read_snapshot(self.folder)
            if self.snapshot.get("ring") != before.get("ring"):
                self.follower.ring.close()
                self.follower = self._open()
            else:
                self.follower.learn(self.snapshot)
        yield from (latest for latest in self.follower.follow() if self.wanted(latest))

    def catch_up(self) -> None:
        """Take all news; ``shown`` has them."""
        for _ in self.news():
            pass

    def wanted(self, latest: Latest) -> bool:
        point = latest.point
        if self._devices and point.device not in self._devices:
            return False
        return not self._patterns or any(fnmatchcase(point.name, glob) for glob in self._patterns)

    def shown(self) -> list[Latest]:
        """All points that are asked for, heard or not."""
        return [latest for latest in self.follower.latest.values() if self.wanted(latest)]

    def close(self) -> None:
        self.follower.ring.close()


def _values(folder: Path, devices: Sequence[str], patterns: Sequence[str], end: float | None, as_json: bool) -> None:
    watched = LiveView(folder, devices, patterns)
    try:
        if as_json:
            watched.catch_up()  # existing messages: only the newest of each is shown, then all of them
            _tell(watched.shown())
            for _ in until(end):
                _tell(watched.news())
        else:
            _live(watched, end)
    finally:
        watched.close()


def _tell(points: Iterable[Latest]) -> None:
    now_ns = time.time_ns()
    for latest in points:
        if latest.time_ns:
            click.echo(as_line(latest.to_json(now_ns)))
    sys.stdout.flush()


def _live(watched: LiveView, end: float | None) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from agent.cli.console_tables import open_console, point_table

    console = open_console()

    def page() -> Group:
        rows = watched.shown()
        room = max(console.height - 4, 5) if console.is_terminal else len(rows)
        more = f", {len(rows) - room} more below: choose with DEVICE or --point" if len(rows) > room else ""
        age = show_age(time.time() - float(watched.snapshot.get("time", 0)))
        since = say(f"agent heard {age} ago{more}")
        head = f"{watched.snapshot.get('site')}/{watched.snapshot.get('gateway')}  {since}"
        return Group(Text(head), point_table(rows[:room], time.time_ns()))

    watched.catch_up()
    if not console.is_terminal:  # a file gets the last state once, not a film
        for _ in until(end if end is not None else 0.0):
            watched.catch_up()
        console.print(page())
        return
    with Live(page(), console=console, refresh_per_second=5, screen=False) as live:
        for _ in until(end):
            watched.catch_up()
            live.update(page())


def frames_path(folder: Path, line: str, snapshot: Mapping[str, Any]) -> Path:
    """The file with a line's last frames. Raises UsageError naming the lines there are."""
    lines = snapshot.get("lines", {})
    if line not in lines:
        from drivers.toml.parsers import did_you_mean

        hint = did_you_mean(line, lines, "It has") if lines else "It has none"
        raise UsageError(f'the running agent has no line "{line[:40]}"', where="watch", hint=hint)
    return folder / f"frames.{line}"


def _frames(folder: Path, line: str, end: float | None, as_json: bool) -> None:
    from drivers.line.trace import read_trace

    path = frames_path(folder, line, read_snapshot(folder))
    tell: Callable[[TracedFrame], str] = _frame_json if as_json else _frame_text
    joiner = FrameJoiner()
    for _ in until(end):
        try:
            frames = list(read_trace(path, joiner.last))
        except FileNotFoundError:
            hint = "Frames are shown once the line has been opened"
            raise GatewayError("has no frames yet", where=f"line {line}", hint=hint) from None
        except (OSError, ValueError) as error:
            raise GatewayError(f"cannot be read: {error}", where=str(path)) from error
        for frame in joiner.join(frames, time.time_ns()):
            click.echo(tell(frame))
        sys.stdout.flush()
    for frame in joiner.rest():
        click.echo(tell(frame))


class FrameJoiner:
    """A serial port hands over an answer in pieces; pieces that follow one another closely are shown as one line."""

    def __init__(self) -> None:
        self.last = 0  # number of the newest piece taken
        self._held: TracedFrame | None = None
        self._end_ns = 0

    def join(self, frames: Iterable[TracedFrame], now_ns: int) -> Iterator[TracedFrame]:
        """The whole frames among the pieces; the last is held back while more of it may come."""
        for frame in frames:
            self.last = frame.number
            held = self._held
            if held and frame.direction == held.direction != SENT and frame.time_ns - self._end_ns < JOIN_NS:
                self._held = held._replace(data=held.data + frame.data)
            else:
                yield from self.rest()
                self._held = frame
            self._end_ns = frame.time_ns
        if now_ns - self._end_ns > JOIN_NS:
            yield from self.rest()

    def rest(self) -> Iterator[TracedFrame]:
        """The frame that is held back, if any."""
        held, self._held = self._held, None
        if held is not None:
            yield held


def _frame_text(frame: TracedFrame) -> str:
    at = datetime.fromtimestamp(frame.time_ns // 1_000_000_000, UTC).astimezone()
    clock = f"{at:%H:%M:%S}.{frame.time_ns // 1_000_000 % 1000:03d}"
    return f"{clock} {DIRECTIONS[frame.direction % 3]} {frame.data.hex(' ').upper()}"


def _frame_json(frame: TracedFrame) -> str:
    facts = {
        "number": frame.number,
        "time": frame.time_ns / 1e9,
        "direction": DIRECTION_WORDS[frame.direction % 3],
        "hex": frame.data.hex(),
    }
    return as_line(facts)
