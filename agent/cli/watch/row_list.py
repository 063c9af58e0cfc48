"""A scrolling list of rows under a fixed heading. Only the visible rows are created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from agent.cli.watch.pages import Cell, Column, Page

GAP: Final = 2  # width of the space between two cells, in columns of the terminal
HEADING: Final = Style.parse("bold")
CURSOR: Final = Style.parse("reverse")
NARROWEST: Final = 6  # a column is never cut to a smaller width, in columns of the terminal
EXTRA: Final = 3  # columns with at least this ``drop`` are left out before any column is cut


class RowList(ScrollView, can_focus=True):
    """Shows a ``Page``. The selected row has reversed colours."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,b", "turn(-1)", show=False),
        Binding("pagedown,space", "turn(1)", show=False),
        Binding("home,g", "to_end(-1)", show=False),
        Binding("end,G", "to_end(1)", show=False),
        Binding("enter", "open", show=False),
    ]
    DEFAULT_CSS = "RowList { height: 1fr; scrollbar-size: 0 0; background: ansi_default; color: ansi_default; }"

    class Moved(Message):
        """Message that another row is selected."""

    class Opened(Message):
        """Message that Enter was pressed on a row."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self) -> None:
        super().__init__()
        self._page = Page((), 0, lambda at: ())
        self._widths: list[int] = []
        self._drawn: list[Strip] = []  # the lines on the screen
        # column -> width of its widest cell so far; it is kept so that columns do not move
        self._widest: dict[int, int] = {}
        self._kind = ""
        self._empty = ""
        self.cursor = 0

    @property
    def page(self) -> Page:
        """The page that the list shows."""
        return self._page

    def show(self, kind: str, page: Page, empty: str, is_tail: bool = False) -> None:
        """Show a page. If ``kind`` is unchanged, the cursor and the widths of columns stay.

        ``empty``: the text for a page without rows. ``is_tail``: True if a cursor on the last row follows new rows.
        """
        at_end = self.cursor >= self._page.count - 1
        if kind != self._kind:
            self._kind, self._widest, self.cursor = kind, {}, 0
            at_end = True
            self.scroll_to(y=0, animate=False, immediate=True)
        self._page, self._empty = page, empty
        self.cursor = min(self.cursor, max(page.count - 1, 0))
        if is_tail and at_end:
            self.cursor = max(page.count - 1, 0)
        self.virtual_size = Size(self.size.width, page.count + self._heads)
        self._measure()
        self._follow_cursor()
        self._redraw()

    @property
    def _heads(self) -> int:
        """The number of lines of the heading: 1, or 0 if no column has a title."""
        return int(any(column.title for column in self._page.columns))

    @property
    def _room(self) -> int:
        """The number of rows that fit below the heading."""
        return max(self.size.height - self._heads, 1)

    def _measure(self) -> None:
        """Compute the widths of all columns for the visible rows."""
        page, top = self._page, int(self.scroll_offset.y)
        rows = [page.row(at) for at in range(top, min(top + self._room, page.count))]
        for n, column in enumerate(page.columns):
            width = max([cell_len(column.title), *(cell_len(row[n].text) for row in rows)])
            self._widest[n] = max(self._widest.get(n, 0), min(width, column.most))
        self._widths = fitted(page.columns, [self._widest[n] for n in range(len(page.columns))], self.size.width)

    def _redraw(self) -> None:
        """Draw only the screen lines that have changed, because the connection to the terminal may be slow."""
        before, self._drawn = self._drawn, [self._line(y) for y in range(self.size.height)]
        for y, strip in enumerate(self._drawn):
            if y >= len(before) or before[y] != strip:
                self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        """Return the screen line at ``y``, which is the heading or a row."""
        return self._drawn[y] if y < len(self._drawn) else self._line(y)

    def _line(self, y: int) -> Strip:
        page, width = self._page, self.size.width
        if y < self._heads:
            heading = [Cell(column.title) for column in page.columns]
            return self._strip(heading, HEADING).adjust_cell_length(width)
        at = int(self.scroll_offset.y) + y - self._heads
        if at >= page.count:
            text = self._empty if not page.count and y == self._heads else ""
            return Strip([Segment(text)]).adjust_cell_length(width)
        over = CURSOR if at == self.cursor and self.has_focus else None
        return self._strip(page.row(at), over).adjust_cell_length(width, over)

    def _strip(self, cells: Sequence[Cell], over: Style | None) -> Strip:
        segments = []
        for column, cell, width in zip(self._page.columns, cells, self._widths, strict=True):
            if not width:
                continue
            text = cut(cell.text, width)
            space = " " * (width - cell_len(text))
            style = over if over is not None else Style.parse(cell.style) if cell.style else None
            segments += [Segment(space + text if column.right else text + space, style), Segment(" " * GAP, over)]
        return Strip(segments[:-1])

    def watch_has_focus(self, value: bool) -> None:
        """Redraw, because the cursor is shown only while the list has the focus."""
        super().watch_has_focus(value)
        self._redraw()

    def on_resize(self) -> None:
        """Choose and measure the columns for the new width."""
        self._widest = {}
        self._measure()
        self._follow_cursor()
        self._redraw()

    def _follow_cursor(self) -> None:
        top = int(self.scroll_offset.y)
        wanted = max(min(top, self.cursor), self.cursor - self._room + 1, 0)
        if wanted != top:
            self.scroll_to(y=wanted, animate=False, immediate=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Measure again after scrolling, because wider rows may have become visible."""
        super().watch_scroll_y(old_value, new_value)
        self._measure()
        self._redraw()

    def _go(self, at: int) -> None:
        self.cursor = max(0, min(at, self._page.count - 1))
        self._follow_cursor()
        self._redraw()
        self.post_message(self.Moved())

    def action_move(self, step: int) -> None:
        """Move one row up (``step`` -1) or down (1)."""
        self._go(self.cursor + step)

    def action_turn(self, step: int) -> None:
        """Move one screen up (``step`` -1) or down (1)."""
        self._go(self.cursor + step * self._room)

    def action_to_end(self, end: int) -> None:
        """Move to the first row (``end`` -1) or the last row (1)."""
        self._go(0 if end < 0 else self._page.count - 1)

    def action_open(self) -> None:
        """Post ``Opened`` for the selected row."""
        if self._page.count:
            self.post_message(self.Opened(self._page.name(self.cursor)))


def cut(text: str, width: int) -> str:
    """Cut a text to at most ``width`` columns of the terminal. A Chinese character takes two and is never halved."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…" if width > 1 else set_cell_size(text, width)


def fitted(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Return the widths of columns so that they fit into ``room``; 0 for a column that is not shown.

    Columns with the highest ``drop`` are left out first. After that, columns with ``shrinks`` are cut.
    """
    out = list(widths)

    def needs() -> int:
        shown = [width for width in out if width]
        return sum(shown) + GAP * max(len(shown) - 1, 0)

    def least() -> int:
        shown = [min(w, NARROWEST * 2) if column.shrinks else w for column, w in zip(columns, out, strict=True) if w]
        return sum(shown) + GAP * max(len(shown) - 1, 0)

    by_drop = sorted((n for n, column in enumerate(columns) if column.drop), key=lambda n: -columns[n].drop)
    for n in by_drop:
        # the columns do not fit even if they are cut, or this column is left out before any is cut
        if least() > room or (needs() > room and columns[n].drop >= EXTRA):
            out[n] = 0
    while needs() > room:
        longest = max((n for n, column in enumerate(columns) if column.shrinks and out[n] > NARROWEST),
                      key=lambda n: out[n], default=None)  # fmt: skip
        if longest is None:
            break
        out[longest] -= 1
    return out
