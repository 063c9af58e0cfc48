"""Tables for people, made of what snapshot and ring say. Text from devices is cut and cleaned before it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent.cli.common import show_age, show_quality, tidy

if TYPE_CHECKING:
    from agent.cli.live import Latest

PIPE_WIDTH = 260
LIFE_STYLES = {"alive": "green", "dead": "red", "unknown": "yellow"}


def plain_table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """A table without frames; the columns named in ``right`` hold numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        number = column in right
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def open_console() -> Console:
    """Where tables go: as wide as the terminal; into a pipe or file nothing is folded."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def cell(text: object, limit: int = 80) -> str:
    """Any text, harmless to terminal and markup."""
    return escape(tidy(str(text), limit))


def device_table(devices: Mapping[str, Mapping[str, Any]], now: float) -> Table:
    """One device a row."""
    table = plain_table(
        "devices", "device", "line", "state", "last answer", "readings", "gaps", "error",
        right=("last answer", "readings", "gaps"),
    )  # fmt: skip
    for name, device in devices.items():
        life = str(device.get("life", "?"))
        last = device.get("last_answer")
        table.add_row(
            cell(name),
            cell(device.get("line", "?")),
            f"[{LIFE_STYLES.get(life, 'white')}]{cell(life)}[/]",
            show_age(now - last if isinstance(last, (int, float)) else None),
            cell(device.get("readings", "-")),
            cell(device.get("gap_readings", "-")),
            cell(device.get("error") or "", 100),
        )
    return table


def line_table(lines: Mapping[str, Mapping[str, Any]]) -> Table:
    """One line a row, with what was counted."""
    table = plain_table("lines", "line", "busy", "asked", "answered", "trouble", right=("busy", "asked", "answered"))
    quiet = {"sent", "answers", "busy", "since_ns", "busy_ns", "opened", "notes"}
    for name, line in lines.items():
        sent = line.get("sent", 0)
        asked = sum(sent.values()) if isinstance(sent, dict) else sent
        busy = line.get("busy")
        trouble = [f"{value} {key.replace('_', ' ')}" for key, value in line.items() if key not in quiet and value]
        table.add_row(
            cell(name),
            f"{busy:.0%}" if isinstance(busy, (int, float)) else "-",
            cell(asked),
            cell(line.get("answers", "-")),
            cell(", ".join(trouble), 120),
        )
    return table


def uplink_table(uplinks: Mapping[str, Mapping[str, Any]], now: float) -> Table:
    """One destination a row."""
    table = plain_table("destinations", "destination", "state", "waiting", "error", right=("waiting",))
    for name, uplink in uplinks.items():
        connected = uplink.get("connected", True)
        state = "[green]connected[/]" if connected else "[red]not reached[/]"
        waiting = uplink.get("waiting", uplink.get("backlog", "-"))
        table.add_row(cell(name), state, cell(waiting), cell(uplink.get("error") or "", 120))
    return table


def point_table(latest: Iterable[Latest], now_ns: int) -> Table:
    """One point a row: value, unit, quality or reason, and how old the last value is."""
    from agent.cli.live import GAP_CODES, show_number

    table = plain_table("points", "device", "point", "value", "unit", "quality", "age", right=("value", "age"))
    for point in latest:
        missing = point.quality >= GAP_CODES
        shown = cell(show_number(point.value), 40)
        quality = show_quality(point.quality)
        table.add_row(
            cell(point.point.device),
            cell(point.point.name),
            f"[dim]{shown}[/]" if missing else shown,
            cell(point.point.unit),
            f"[red]{quality}[/]" if missing else f"[yellow]{quality}[/]",
            show_age(point.age_s(now_ns)),
        )
    return table
