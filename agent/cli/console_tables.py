"""Tables for the terminal, with data from snapshot and ring. Texts from devices are shortened and cleaned first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agent.cli.common import show_age, show_quality, show_unit
from agent.cli.reading_words import QUALITIES
from drivers.model import clean_text

if TYPE_CHECKING:
    from agent.cli.ring_follower import Latest

PIPE_WIDTH = 260
INDENT: Final = 2


def plain_table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table without frames. The columns in ``right`` are right-aligned, because they have numbers."""
    from agent.cli.common import say

    # the title stays on one line, even if the table is narrower
    heading = Text(say(title), style="bold", no_wrap=True, overflow="ignore") if title else None
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        number = column in right
        table.add_column(say(column), justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def print_table(
    console: Console, title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()
) -> None:
    """Print rows of markup as a table. If the terminal is too narrow for the table, print each row as a few lines."""
    from agent.cli.common import say

    rows, table = list(rows), plain_table(title, *heads, right=tuple(right))
    for row in rows:
        table.add_row(*row)
    if not rows:
        return
    if console.measure(table, options=console.options.update_width(10_000)).maximum <= console.width:
        console.print(table)
        return
    if title:
        console.print(f"[bold]{say(title)}[/]")
    for first, *others in rows:
        console.print(first)
        print_parts(
            console, [f"[dim]{say(head)}[/] {text}" for head, text in zip(heads[1:], others, strict=True) if text]
        )


def print_parts(console: Console, parts: Iterable[str]) -> None:
    """Print pieces of markup in indented lines. Each line has as many pieces as fit."""
    line = ""
    for part in parts:
        longer = f"{line}   {part}" if line else part
        if line and Text.from_markup(longer).cell_len > console.width - INDENT:
            console.print(Padding(line, (0, 0, 0, INDENT)))
            longer = part
        line = longer
    if line:
        console.print(Padding(line, (0, 0, 0, INDENT)))


def open_console(stderr: bool = False) -> Console:
    """Return a console for tables, as wide as the terminal. For a pipe or a file it is so wide that no line wraps."""
    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, stderr=stderr, width=PIPE_WIDTH)


def cell(text: object, limit: int = 80) -> str:
    """Return the text of an object, made safe for terminal and markup."""
    return escape(clean_text(str(text), limit))


def quality_word(code: int, language: str) -> str:
    """Return a text that tells why a value with this quality code is missing or doubtful; "" for good quality."""
    from agent.cli.finding_words import reason_words
    from drivers.model import FIRST_REASON

    word = show_quality(code)
    if language != "zh" or not word:
        return word
    return reason_words(word)[1] if code >= FIRST_REASON else QUALITIES.get(word, (word, word))[1]


@lru_cache(maxsize=4096)
def point_title(point: str, language: str = "zh") -> str:
    """Return the title of a point from the vocabulary, in a language; "" if the vocabulary lacks the point."""
    from drivers.profile import vocabulary

    entry = vocabulary().find(point)
    return "" if entry is None else entry.zh if language == "zh" else entry.en


def point_table(latest: Iterable[Latest], now_ns: int) -> Table:
    """Return a table with one point per row: value, unit, quality or gap reason, and age of the last value.

    In Chinese, a column has the title of the point.
    """
    from agent.cli.common import speaks_chinese
    from agent.cli.ring_follower import GAP_CODES, show_short

    names, language = (["name"], "zh") if speaks_chinese() else ([], "en")
    table = plain_table("points", "device", "point", *names, "value", "unit", "quality", "age", right=("value", "age"))
    for point in latest:
        missing = point.quality >= GAP_CODES
        shown = cell(show_short(point.value, point.point.kind, point.point.is_float), 40)
        quality = quality_word(point.quality, language)
        table.add_row(
            cell(point.point.device),
            cell(point.point.name),
            *(cell(point_title(point.point.name)) for _ in names),
            f"[dim]{shown}[/]" if missing else shown,
            cell(show_unit(point.point.unit)),
            f"[red]{quality}[/]" if missing else f"[yellow]{quality}[/]",
            show_age(point.age_s(now_ns), language),
        )
    return table
