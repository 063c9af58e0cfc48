"""Tables for the terminal, from snapshot and ring. Text from devices is cut and cleaned before it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent.cli.common import show_age, show_quality, show_unit
from drivers.model import clean_text

if TYPE_CHECKING:
    from agent.cli.ring_follower import Latest

PIPE_WIDTH = 260
LINE_TROUBLE = ("timeouts", "broken", "mismatches", "exceptions", "stale", "foreign", "open_failures", "lost")
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
    return escape(clean_text(str(text), limit))


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
    """One line a row, with its counts."""
    columns = ("line", "url", "state", "busy", "asked", "answered", "trouble")
    table = plain_table("lines", *columns, right=("busy", "asked", "answered"))
    for name, line in lines.items():
        sent = line.get("sent", {})
        state = f"lent to {line['lent']}" if line.get("lent") else "open" if line.get("open") else "closed"
        busy = line.get("busy_share")
        table.add_row(
            cell(name),
            cell(line.get("url", "?"), 200),
            cell(state),
            f"{busy:.0%}" if isinstance(busy, (int, float)) else "-",
            cell(sum(sent.values())),
            cell(line.get("answers", "-")),
            cell(", ".join(f"{line[key]} {key}" for key in LINE_TROUBLE if line.get(key)), 160),
        )
    return table


def uplink_table(uplinks: Mapping[str, Mapping[str, Any]]) -> Table:
    """One destination a row. ``confirm`` is what counts as delivered there."""
    columns = ("destination", "state", "mqtt", "confirm", "waiting", "confirmed", "refused", "error")
    table = plain_table("destinations", *columns, right=("waiting", "confirmed", "refused"))
    for name, uplink in uplinks.items():
        connected = uplink.get("connected", True)
        state = "[green]connected[/]" if connected else "[red]not reached[/]"
        if uplink.get("backfilling"):
            state += ", catching up"
        counts = [cell(uplink.get(key, "-")) for key in ("waiting", "confirmed", "refused")]
        words = [cell(uplink.get(key) or "-") for key in ("mqtt", "confirm")]
        table.add_row(cell(name), state, *words, *counts, cell(uplink.get("error") or "", 160))
    return table


def point_table(latest: Iterable[Latest], now_ns: int) -> Table:
    """One point a row: value, unit, quality or reason, and how old the last value is."""
    from agent.cli.ring_follower import GAP_CODES, show_number

    table = plain_table("points", "device", "point", "value", "unit", "quality", "age", right=("value", "age"))
    for point in latest:
        missing = point.quality >= GAP_CODES
        shown = cell(show_number(point.value, point.point.kind, point.point.is_float), 40)
        quality = show_quality(point.quality)
        table.add_row(
            cell(point.point.device),
            cell(point.point.name),
            f"[dim]{shown}[/]" if missing else shown,
            cell(show_unit(point.point.unit)),
            f"[red]{quality}[/]" if missing else f"[yellow]{quality}[/]",
            show_age(point.age_s(now_ns)),
        )
    return table
