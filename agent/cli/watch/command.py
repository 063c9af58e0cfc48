"""`meterhouse watch`: shows live values or frames of the running agent, which it reads from shared memory."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.common import NoAgent, as_line, read_snapshot, say, show_age, speaks_chinese
from agent.cli.options import (
    ConfigOptions,
    Duration,
    FoundAgent,
    config_options,
    json_option,
    lang_option,
    warn_of_next_start,
)

if TYPE_CHECKING:
    from agent.cli.ring_follower import Latest
    from agent.cli.watch.frames import ShownFrame
    from agent.cli.watch.live_view import LiveView
    from drivers.line.trace import TracedFrame

LOOK_EVERY_S = 0.2


@click.command()
@click.argument("device", nargs=-1)
@config_options
@click.option(
    "--point", "patterns", multiple=True, metavar="GLOB", help='Only matching points, such as "ac.*". May be repeated.'
)
@click.option("--frames", "line", metavar="LINE", help="Show the raw frames of a line instead.")
@click.option("--plain", is_flag=True, help="Print one table instead of filling the screen; this takes less memory.")
@click.option("--for", "seconds", type=Duration(), metavar="TIME", help="Stop after this time, such as 20s.")
@lang_option
@json_option
def watch(
    device: tuple[str, ...],
    options: ConfigOptions,
    patterns: tuple[str, ...],
    line: str | None,
    plain: bool,
    seconds: float | None,
    lang: str,
    as_json: bool,
) -> None:
    """Show live values, devices, lines and destinations of the running agent, or only the given devices.

    In a terminal, the command fills the screen, and waits while no agent runs. The keys 1 to 5 change the page, /
    searches, ? shows all keys, q quits. If stdout is not a terminal, the command prints the last values once. It only
    reads shared memory: neither the agent nor the devices are disturbed.

    \b
    Examples:
      meterhouse watch
      meterhouse watch inv1 --point 'ac.power.*'
      meterhouse watch --json --for 20s > values.jsonl
      meterhouse watch --frames cabinet-2

    \b
    Exit codes: 0 good, 1 no agent runs here or the agent ended, 2 unknown device or line, 3 bad configuration,
    130 Ctrl-C.
    """
    found = options.find_agent()
    folder, complaints = found.folder, found.complaints
    warn_of_next_start(complaints)
    end = time.monotonic() + seconds if seconds is not None else None
    if line is not None:
        _frames(folder, line, end, as_json, found.timezone)
    elif as_json or plain or not fills_screen():
        _values(folder, device, patterns, end, as_json)
    else:
        _screen(found, device, patterns, seconds, lang, options.read_labels if found.config else None)


def fills_screen() -> bool:
    """True if the terminal can show a full screen: it has a usable TERM and UTF-8."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    if not all(stream.isatty() for stream in streams) or os.environ.get("TERM", "dumb") in {"dumb", "unknown"}:
        return False
    return all((stream.encoding or "").lower().replace("-", "") == "utf8" for stream in streams)


def _screen(
    found: FoundAgent,
    devices: Sequence[str],
    patterns: Sequence[str],
    seconds: float | None,
    lang: str,
    read_labels: Callable[[], Mapping[str, str]] | None,
) -> None:
    from agent.cli.watch.app import WatchApp
    from agent.cli.watch.live_view import LiveView

    with contextlib.suppress(NoAgent):  # the screen waits for an agent
        # reports unknown names before the screen opens
        LiveView(found.folder, devices, patterns).close()
    app = WatchApp(
        found.folder, devices, patterns, lang, seconds,
        on_disk=[str(one) for one in found.complaints], labels=found.labels, read_labels=read_labels,
        timezone=found.timezone,
    )  # fmt: skip
    raise SystemExit(app.run_in_terminal())


def until(end: float | None, every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """Yield every ``every_s`` seconds until the monotonic time ``end``, but at least once. None means forever."""
    while True:
        yield
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            return
        time.sleep(every_s if left is None else min(every_s, left))


def _values(folder: Path, devices: Sequence[str], patterns: Sequence[str], end: float | None, as_json: bool) -> None:
    from agent.cli.watch.live_view import LiveView

    watched = LiveView(folder, devices, patterns)
    try:
        if as_json:
            watched.catch_up()  # print only the newest record of each point first, and every new record after that
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
        more = (
            f", {len(rows) - room} more rows do not fit: choose rows with DEVICE or --point" if len(rows) > room else ""
        )
        age = show_age(time.time() - float(watched.snapshot.get("time", 0)), "zh" if speaks_chinese() else "en")
        since = say(f"the agent's status is {age} old{more}")
        head = f"{watched.snapshot.get('site')}/{watched.snapshot.get('gateway')}  {since}"
        return Group(Text(head), point_table(rows[:room], time.time_ns()))

    watched.catch_up()
    if not console.is_terminal:  # if stdout is not a terminal, print only the last state, once
        for _ in until(end if end is not None else 0.0):
            watched.catch_up()
        console.print(page())
        return
    with Live(page(), console=console, refresh_per_second=5, screen=False) as live:
        for _ in until(end):
            watched.catch_up()
            live.update(page())


def _frames(folder: Path, line: str, end: float | None, as_json: bool, timezone: str) -> None:
    from zoneinfo import ZoneInfo

    from agent.cli.watch.frames import FrameJoiner, NoFrames, frame_json, frame_text, frames_path, read_frames

    path = frames_path(folder, line, read_snapshot(folder))
    zone = ZoneInfo(timezone) if timezone else None
    tell: Callable[[ShownFrame], str] = frame_json if as_json else lambda frame: frame_text(frame, zone)
    if not as_json:
        click.echo(
            say(
                f"All times are in the time zone {timezone}"
                if timezone
                else "All times are in the time zone of this machine"
            ),
            err=True,
        )
    joiner, is_open = FrameJoiner(), False
    for _ in until(end):
        pieces: list[TracedFrame] = []
        try:
            pieces, is_open = read_frames(path, line, joiner), True
        except NoFrames:
            if not is_open:
                raise
            with contextlib.suppress(NoAgent):  # the agent restarts, which may remove the folder for some seconds
                frames_path(folder, line, read_snapshot(folder))  # raises if a reload has removed the line
        for frame in joiner.join(pieces, time.time_ns()):
            click.echo(tell(frame))
        sys.stdout.flush()
    for frame in joiner.rest():
        click.echo(tell(frame))
