"""Makes the pages of the full screen as rows of cells: devices, values, lines, destinations, findings, frames.

This file does not use a terminal. Control characters are removed from all texts before they get into a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple

from agent.cli.common import COLON, SEMICOLON, say, show_age, show_unit
from agent.cli.console_tables import point_title, quality_word
from agent.cli.finding_words import LANGUAGES, device_reason
from agent.cli.findings import Finding
from agent.cli.reading_words import CONFIRM_WORDS, KIND_WORDS, borrower, line_trouble, word_in
from agent.cli.report.labels import own_text, share
from agent.cli.ring_follower import GAP_CODES, Latest, show_short
from agent.cli.sparkline import sparkline
from agent.cli.status_screen import StatusScreen
from agent.cli.watch.live_view import LiveView
from agent.cli.watch.texts import word
from agent.cli.watch.trends import ERRORS, Trends
from drivers.model import clean_text

TREND_WIDTH: Final = 12
STATES: Final = {"alive": "green", "dead": "red", "swapped": "red", "unknown": "yellow", "asleep": "dim"}


class Cell(NamedTuple):
    """A text without control characters, with its style in the notation of rich."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a page.

    ``right``: the cells are aligned to the right. ``drop``: a narrow screen leaves out the columns with the highest
    ``drop`` first, and never a column with 0. ``shrinks``: the cells may be cut. ``most``: limit of the width, in
    columns of the terminal.
    """

    title: str
    right: bool = False
    drop: int = 0
    shrinks: bool = False
    most: int = 60


@dataclass(slots=True)
class Page:
    """The content of one page. The functions ``row``, ``detail`` and ``name`` get the index of a row."""

    columns: Sequence[Column]
    count: int
    row: Callable[[int], Sequence[Cell]]
    detail: Callable[[int], str] = field(default=lambda at: "")
    name: Callable[[int], str] = field(default=lambda at: "")  # returns the device or line that the key Enter opens


def matches(words: Sequence[str], *texts: str) -> bool:
    """True if each word occurs in one of the texts."""
    found = " ".join(texts).casefold()
    return all(word in found for word in words)


class Pages:
    """Creates pages from the newest snapshot and ring.

    Args:
        language: ``en`` or ``zh``.
        labels: device name -> label.
    """

    def __init__(self, language: str, labels: Mapping[str, str] | None = None) -> None:
        self._language, self._at = language, LANGUAGES.index(language)
        self.name_devices(labels or {})
        self.outdated = False  # True: the snapshot is old, because the agent hangs or has ended
        self.search: tuple[str, ...] = ()
        self.trouble_only = False

    def name_devices(self, labels: Mapping[str, str]) -> None:
        """Set the labels of devices. A search finds a label in both of its languages."""
        self._full_labels = labels
        self._labels = {name: own_text(text, self._language) for name, text in labels.items()}

    def _word(self, key: str, **values: object) -> str:
        return word(key, self._language, **values)

    def _columns(self, *columns: Column) -> tuple[Column, ...]:
        return tuple(
            Column(self._word(one.title), one.right, one.drop, one.shrinks, one.most) if one.title else one
            for one in columns
        )

    # --- devices

    def devices(self, view: LiveView, now: float) -> Page:
        """Return the page with one device per row, in the order of the configuration file."""
        columns = self._columns(
            Column("device", shrinks=True, most=30), Column("state"), Column("complete", right=True),
            Column("missing", shrinks=True, drop=1), Column("answered", right=True),
            Column("line", shrinks=True, drop=2, most=24),
        )  # fmt: skip
        devices = view.snapshot.get("devices", {})
        names = [
            name for name, device in devices.items()
            if matches(
                self.search, name, self._full_labels.get(name, ""),
                str(device.get("line", "")), str(device.get("profile", "")),
            )
            and (not self.trouble_only or self._ails(device))
        ]  # fmt: skip

        def row(at: int) -> Sequence[Cell]:
            device = devices[names[at]]
            state = "swapped" if device.get("swapped") else str(device.get("life", "unknown"))
            state, recent = ("unknown", {}) if self.outdated else (state, device.get("recent") or {})
            complete, missing = recent.get("complete"), recent.get("missing") or {}
            worst = max(missing, key=missing.__getitem__, default="")
            last = view.last_answer(names[at])
            return (
                Cell(clean_text(self._named(names[at]), 60)),
                Cell(self._word(state) if state in STATES else clean_text(state, 20), STATES.get(state, "")),
                Cell("-" if complete is None else share(complete), _shade(complete)),
                Cell(f"{self._reason(worst, device)} ({missing[worst]})" if worst else ""),
                Cell(self._age(now - last if last else None)),
                Cell(clean_text(str(device.get("line", "")), 60)),
            )

        def detail(at: int) -> str:
            device = devices[names[at]]
            parts = [self._named(names[at]), str(device.get("profile") or ""), str(device.get("variant") or "")]
            parts.append(say(str(device.get("error") or "")))
            return clean_text("  ".join(filter(None, parts)), 300)

        return Page(columns, len(names), row, detail, names.__getitem__)

    def _named(self, device: str) -> str:
        label = self._labels.get(device, "")
        return f"{device} {label}" if label and label != device else device

    @staticmethod
    def _ails(device: Mapping[str, Any]) -> bool:
        complete = (device.get("recent") or {}).get("complete")
        return bool(
            device.get("life") not in ("alive", "asleep")
            or device.get("swapped")
            or (complete is not None and complete < 1)
        )

    def _age(self, seconds: float | None) -> str:
        text = show_age(seconds, self._language)
        return text.replace(" ", "") if self._at else text  # as narrow as in English, so that no column is dropped

    def _reason(self, name: str, device: Mapping[str, Any]) -> str:
        return device_reason(name, device)[self._at] if self._at else clean_text(name, 20)

    # --- values

    def values(self, view: LiveView, now_ns: int, device: str = "") -> Page:
        """Return the page with one point per row. If ``device`` is not "", only its points are shown."""
        rows = view.shown()
        if device:
            rows = [one for one in rows if one.point.device == device]
        if self.search or self.trouble_only:
            rows = [one for one in rows if self._is_wanted(one)]
        columns = self._columns(
            *([] if device else [Column("device", shrinks=True, most=24)]),
            Column("point", shrinks=True, most=48), Column("value", right=True, most=24), Column("unit"),
            Column("trend", drop=2), Column("quality", shrinks=True), Column("age", right=True, drop=1),
            *([Column("name", shrinks=True, drop=3)] if self._at else []),
        )  # fmt: skip
        history = view.history or {}

        def row(at: int) -> Sequence[Cell]:
            latest = rows[at]
            point, missing = latest.point, latest.quality >= GAP_CODES
            shown = clean_text(show_short(latest.value, point.kind, point.is_float), 40)
            title = point_title(point.name).partition("（")[0] if self._at else ""
            cells = [
                Cell(clean_text(title or point.name, 80)),
                Cell(shown, "dim" if missing else ""),
                Cell(clean_text(show_unit(point.unit), 12)),
                Cell(sparkline(history.get((point.device, point.name), ()), TREND_WIDTH), "cyan"),
                Cell(quality_word(latest.quality, self._language), "red" if missing else "yellow"),
                Cell(self._age(latest.age_s(now_ns))),
            ]
            if not device:
                cells.insert(0, Cell(clean_text(point.device, 60)))
            return cells + ([Cell(clean_text(point.name, 80))] if self._at else [])

        def detail(at: int) -> str:
            latest = rows[at]
            point = latest.point
            value = latest.value  # a point with scale 10 has values such as 1.23E+3
            what = "-" if value is None else format(value, "f") if isinstance(value, Decimal) else str(value)
            title = point_title(point.name) if self._at else point_title(point.name, "en")
            parts = [f"{point.device}/{point.name}", title, f"{what} {show_unit(point.unit)}"]
            parts.append(word_in(KIND_WORDS, point.kind, self._language))
            if not latest.time_ns:
                parts.append(self._word("not heard"))
            return clean_text("  ".join(filter(None, parts)), 300)

        return Page(columns, len(rows), row, detail, lambda at: rows[at].point.device)

    def _is_wanted(self, latest: Latest) -> bool:
        point = latest.point
        if self.trouble_only and not latest.quality:
            return False
        return not self.search or matches(
            self.search, point.device, self._full_labels.get(point.device, ""), point.name, point_title(point.name)
        )

    # --- lines

    def lines(self, view: LiveView, trends: Trends) -> Page:
        """Return the page with one line (bus or connection) per row.

        A row shows the load now and in the last minute, and the errors since the start and in the last minute.
        """
        columns = self._columns(
            Column("line", shrinks=True, most=24), Column("state"), Column("load", right=True), Column("trend", drop=1),
            Column("asked", right=True, drop=2), Column("errors", right=True), Column("minute", right=True),
            Column("trouble", shrinks=True, most=50), Column("url", shrinks=True, drop=3),
        )  # fmt: skip
        lines = view.snapshot.get("lines", {})
        names = [
            name for name, line in lines.items()
            if matches(self.search, name, str(line.get("url", "")))
            and (not self.trouble_only or not line.get("open") or trends.errors(name))
        ]  # fmt: skip

        def row(at: int) -> Sequence[Cell]:
            name, line = names[at], lines[names[at]]
            state = "lent" if line.get("lent") else "open" if line.get("open") else "closed"
            busy, minute = line.get("busy_share"), trends.errors(name)
            if self.outdated:
                state, busy, minute = "unknown", None, 0
            errors = sum(line.get(kind) or 0 for kind in ERRORS)
            trouble = line_trouble(line, self._language)
            return (
                Cell(clean_text(name, 60)),
                Cell(self._word(state), {"open": "green", "closed": "red"}.get(state, "yellow")),
                Cell("-" if busy is None else f"{busy * 100:.0f} %", "red" if (busy or 0) > 0.9 else ""),
                Cell(sparkline(trends.busy(name), TREND_WIDTH, 0.0, 1.0), "cyan"),
                Cell(str(sum((line.get("sent") or {}).values()))),
                Cell(str(errors or ""), "yellow" if errors else ""),
                Cell(str(minute or ""), "red" if minute else ""),
                Cell(trouble),
                Cell(clean_text(str(line.get("url", "")), 200)),
            )

        def detail(at: int) -> str:
            line = lines[names[at]]
            who = borrower(str(line.get("lent") or ""), self._language)
            lent = f"{self._word('lent')}{COLON[self._language]}{who}" if who else ""
            found = line.get("notes")
            notes = (
                SEMICOLON[self._language].join(
                    f"{name}{COLON[self._language]}{say(str(text))}" for name, text in found.items()
                )
                if isinstance(found, dict)
                else ""
            )
            return clean_text("  ".join(filter(None, (names[at], str(line.get("url", "")), lent, notes))), 300)

        return Page(columns, len(names), row, detail, names.__getitem__)

    # --- destinations

    def destinations(self, view: LiveView, trends: Trends) -> Page:
        """Return the page with one destination per row. A row also shows the outbox of the destination."""
        columns = self._columns(
            Column("destination", shrinks=True, most=24), Column("state", shrinks=True), Column("subscriber", drop=2),
            Column("waiting", right=True), Column("trend", drop=1), Column("drain", right=True),
            Column("confirmed", right=True), Column("refused", right=True), Column("confirm", drop=3),
        )  # fmt: skip
        uplinks = view.snapshot.get("uplinks", {})
        names = [
            name for name, uplink in uplinks.items()
            if matches(self.search, name) and (not self.trouble_only or not uplink.get("connected", True))
        ]  # fmt: skip

        def row(at: int) -> Sequence[Cell]:
            name, uplink = names[at], uplinks[names[at]]
            connected = uplink.get("connected", True)
            state = self._word("connected" if connected else "not reached")
            if connected and uplink.get("backfilling"):
                state = self._word("catching up")
            subscriber = {True: self._word("yes"), False: self._word("no")}.get(uplink.get("subscriber"), "?")
            left = trends.drain_s(name)
            if self.outdated:
                state, subscriber, left = self._word("unknown"), "?", None
            growing = left == float("inf")
            return (
                Cell(clean_text(name, 60)),
                Cell(state, "" if self.outdated else "green" if connected else "red"),
                Cell(subscriber, "" if uplink.get("subscriber") or self.outdated else "yellow"),
                Cell(str(uplink.get("waiting", "-"))),
                Cell(sparkline(trends.waiting(name), TREND_WIDTH, 0.0), "cyan"),
                Cell(self._word("growing") if growing else self._age(left), "yellow" if growing else ""),
                Cell(str(uplink.get("confirmed", "-"))),
                Cell(str(uplink.get("refused") or 0), "red" if uplink.get("refused") else ""),
                Cell(clean_text(word_in(CONFIRM_WORDS, str(uplink.get("confirm") or "-"), self._language), 20)),
            )

        def detail(at: int) -> str:
            uplink = uplinks[names[at]]
            texts = [say(str(uplink[key])) for key in ("error", "hint") if uplink.get(key)]
            return clean_text("  ".join([names[at], str(uplink.get("url") or ""), *texts]), 300)

        return Page(columns, len(names), row, detail, names.__getitem__)

    # --- findings and frames

    def findings(self, view: LiveView, findings: Sequence[Finding], now: float, width: int) -> Page:
        """Return the page with findings and their advice, faults first, as lines of at most ``width`` columns."""
        screen = StatusScreen(view.snapshot, self._language, now)
        faults = sorted(findings, key=lambda one: not one.exit_code)
        lines: list[Cell] = []
        for one in faults if not self.trouble_only else [one for one in faults if one.exit_code]:
            texts = screen.lines_of([one])
            if not matches(self.search, *texts):
                continue
            style = "red" if one.exit_code else "yellow"
            for text in texts:
                indent = "  " if text.startswith(" ") else ""
                lines += [Cell(indent + part, style) for part in wrapped(text.strip(), width - len(indent))]
                style = ""
        if not lines:
            lines = [Cell(self._word("all well" if not findings else "no match"))]
        return Page((Column("", shrinks=True, most=400),), len(lines), lambda at: (lines[at],))

    def frames(self, texts: Sequence[str]) -> Page:
        """Return the page with one frame per row, the newest frame last."""
        return Page((Column("", shrinks=True, most=1000),), len(texts), lambda at: (Cell(texts[at]),),
                    texts.__getitem__)  # fmt: skip


def _shade(complete: float | None) -> str:
    return "" if complete is None else "red" if complete < 0.9 else "yellow" if complete < 1 else "green"


def wrapped(text: str, width: int) -> list[str]:
    """Return a text as lines of at most ``width`` columns of a terminal. Lines break between words if possible."""
    from rich.console import Console
    from rich.text import Text

    lines = Text(clean_text(text, 1000)).wrap(Console(width=max(width, 10)), max(width, 10))
    return [line.plain.rstrip() for line in lines]
