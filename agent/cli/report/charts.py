"""Draws the charts of the report as SVG: the bars of a trend, the curve of a day, and the stacked bars of hours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from agent.cli.report.labels import WORDS, number, text_in

# margins of the drawing area in px; they have room for the labels of the axes
LEFT, RIGHT, TOP, BELOW = 46.0, 6.0, 6.0, 18.0
# size of the labels in px; the page does not scale them, because it shows a chart at the width of the drawing
FONT: Final = 10.0
LEAVES: Final = ("export", "charge", "feed")  # outgoing flows, which are drawn below zero
COLOURS: Final[Mapping[str, str]] = {
    "grid.import": "#8f9aa3", "grid.export": "#5b6770", "generation.pv.generation": "#d9a21b",
    "generation.wind.generation": "#3f8fb5", "generation.hydro.generation": "#2b6f94", "direct.import": "#7cc27f",
    "storage.discharge": "#8f5fb0", "storage.charge": "#b99ccd", "load.consumption": "#b3362b",
}  # fmt: skip
MORE_COLOURS: Final = ("#3f9d6b", "#c0705a", "#4f6fb5", "#a08a3c", "#5aa7a7", "#9a5a7a")
# roles with a curve in the chart of a day; "check" has none, because check meters repeat other flows
DRAWN: Final = ("grid", "direct", "generation", "storage", "load", "x")
MOST_SERIES: Final = 9
KNOWN: Final = 0.999  # an interval counts as complete if at least this share of it is known
PARTS: Final = (("own", "#3f9d6b"), ("direct", "#7cc27f"), ("storage", "#d9b44a"), ("grid", "#8f9aa3"))


class Frame(NamedTuple):
    """A drawing area with its scale of values."""

    wide: float
    high: float
    bottom: float
    top: float

    def y(self, value: float) -> float:
        """Return the y coordinate of a value."""
        return TOP + (self.top - value) / (self.top - self.bottom) * self.high

    def x(self, share: float) -> float:
        """Return the x coordinate for a share of the width, from 0 to 1."""
        return LEFT + share * (self.wide - LEFT - RIGHT)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers for an axis that includes ``low`` and ``high``, in about ``count`` steps."""
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def _frame(wide: float, high: float, low: float, top: float) -> tuple[Frame, list[float]]:
    marks = ticks(low, top)
    return Frame(wide, high, marks[0], marks[-1]), marks


def _open(frame: Frame, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {frame.wide:g} {TOP + frame.high + BELOW:g}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    )


def _grid(frame: Frame, marks: Sequence[float]) -> Iterable[str]:
    for mark in marks:
        y = frame.y(mark)
        kind = "z" if mark == 0 else "g"
        yield f'<line class="{kind}" x1="{LEFT:g}" x2="{frame.wide - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 4:g}" y="{y + 3:.1f}" text-anchor="end">{number(f"{mark:.12g}", 4)}</text>'


def _labels(frame: Frame, labels: Sequence[tuple[float, str]]) -> Iterable[str]:
    """Yield the texts below the drawing. ``labels``: (share of the width from 0 to 1, text)."""
    for share, text in labels:
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        at = f'x="{frame.x(share):.1f}" y="{TOP + frame.high + 13:g}"'
        yield f'<text {at} text-anchor="{anchor}">{escape(text)}</text>'


def legend(entries: Iterable[tuple[str, str]], unit: str) -> str:
    """Return a legend with the unit, and a colour sample and a name for each entry.

    An entry: (CSS class or colour, name).
    """
    keys = "".join(f"<span><i {_style(look)}></i>{escape(text)}</span>" for look, text in entries)
    return f'<p class="small key"><span class="u">{escape(unit)}</span>{keys}</p>'


def _style(look: str) -> str:
    return f'style="background:{look}"' if look.startswith("#") else f'class="{look}"'


def bars(
    trend: Sequence[Mapping[str, str]], unit: str, language: str, title: str,
    bounds: Sequence[str] = (), worst: Mapping[str, str] | None = None, each: str = "",
) -> str:  # fmt: skip
    """Return the SVG of a trend as bars; "" if the trend has fewer than two values.

    Args:
        trend: has ``label`` and ``v`` for each bar; ``v`` is "" if the value is unknown.
        bounds: the targets, which are drawn as dashed lines.
        worst: the item of ``trend`` whose bar is drawn in another colour.
        each: the name of the bars in the legend, such as "by hour".
    """
    values = [(one["label"], float(one["v"]) if one["v"] else None) for one in trend]
    known = [value for _, value in values if value is not None]
    if len(known) < 2:
        return ""
    limits = [float(text) for text in bounds]
    frame, marks = _frame(340.0, 84.0, min(*known, *limits, 0.0), max(*known, *limits, 0.0))
    step = 1 / len(values)
    width = (frame.wide - LEFT - RIGHT) * step * 0.8
    out = [_open(frame, title), *_grid(frame, marks)]
    for n, (label, value) in enumerate(values):
        x = frame.x((n + 0.1) * step)
        if value is None:
            floor = frame.y(frame.bottom) - 3
            out.append(f'<rect class="unknown" x="{x:.1f}" y="{floor:.1f}" width="{width:.1f}" height="3"/>')
            continue
        upper, lower = frame.y(max(value, 0.0)), frame.y(min(value, 0.0))
        out.append(
            f'<rect class="{"w" if worst and label == worst["label"] else "b"}" '
            f'x="{x:.1f}" y="{upper:.1f}" width="{width:.1f}" '
            f'height="{max(lower - upper, 0.6):.1f}"><title>{escape(label)}: {number(f"{value:.12g}")}</title></rect>'
        )
    out += [f'<line class="t" x1="{LEFT:g}" x2="{frame.wide - RIGHT:g}" y1="{frame.y(b):.1f}" y2="{frame.y(b):.1f}"/>'
            for b in limits]  # fmt: skip
    every = max(1, math.ceil(len(values) / 6))
    out += _labels(frame, [((n + 0.5) * step, values[n][0]) for n in range(0, len(values), every)])
    words = WORDS[language]
    entries = [("b", each or words["trend"])]
    if worst and any(label == worst["label"] for label, _ in values):
        entries.append(("w", f"{words['worst']}{words['colon']}{worst['label']} ({number(worst['v'])})"))
    entries += [("t", words["target line"])] if limits else []
    entries += [("unknown", words["unknown time"])] if any(value is None for _, value in values) else []
    return "".join(out) + "</svg>" + legend(entries, unit)


def curve(page: Mapping[str, Any], language: str, zone: ZoneInfo) -> str:
    """Return the SVG of the mean power in each interval of a day; "" if there are no data.

    Each role and flow has its own curve. Outgoing flows are drawn below zero.
    """
    found = page.get("curve")
    if not found or len(found["slots"]) < 2 or not found["series"] or page["period"]["kind"] != "day":
        return ""
    begin, span = page["period"]["from"], page["period"]["to"] - page["period"]["from"]
    if span <= 0:
        return ""
    flows = [one for one in found["series"] if one["n"].partition(".")[0] in DRAWN]
    series = [one for one in flows if any(float(v or 0) for v in one["v"])][:MOST_SERIES] or flows[:1]
    signed = {one["n"]: [_signed(one["n"], v) for v in one["v"]] for one in series}
    known = [v for values in signed.values() for v in values if v is not None]
    if not known:
        return ""
    frame, marks = _frame(920.0, 220.0, min(*known, 0.0), max(*known, 0.0))

    def x(time_s: float) -> float:
        return frame.x((time_s - begin) / span)

    words = WORDS[language]
    out = [_open(frame, words["curve"]), *_grid(frame, marks)]
    unknown = _unknown_spans(found, series, begin, page["period"]["until"])
    for start, end in unknown:
        area = f'x="{x(start):.1f}" y="{TOP:g}" width="{x(end) - x(start):.1f}" height="{frame.high:g}"'
        out.append(f'<rect class="unknown" {area}/>')
    entries: list[tuple[str, str]] = []
    for n, one in enumerate(series):
        colour = COLOURS.get(one["n"], MORE_COLOURS[n % len(MORE_COLOURS)])
        out.append(_steps(signed[one["n"]], found, frame, x, colour))
        entries.append((colour, text_in(one["title"], language)))
    if unknown:
        entries.append(("unknown", words["unknown time"]))
    out += _labels(frame, _times(begin, begin + span, zone, is_day=True))
    drawing = f'<div class="wide">{"".join(out)}</svg></div>'
    return f"<h2>{words['curve']}</h2>{drawing}{legend(entries, found['u'])}"


def _signed(name: str, value: str) -> float | None:
    if not value:
        return None
    return -float(value) if name.rpartition(".")[2] in LEAVES else float(value)


def _unknown_spans(
    found: Mapping[str, Any], series: Sequence[Mapping[str, Any]], begin: float, until: float
) -> list[tuple[float, float]]:
    """Return the spans up to ``until`` in which a series is incomplete or no interval exists.

    Adjacent spans are merged.
    """
    spans: list[tuple[float, float]] = []
    at = begin
    for n, (start, end) in enumerate([*zip(found["slots"], found["ends"], strict=True), (until, until)]):
        is_known = n == len(found["slots"]) or all(float(one["known"][n]) >= KNOWN for one in series)
        for first, last in ((at, start), (start, start if is_known else end)):
            if last > first and spans and spans[-1][1] == first:
                spans[-1] = spans[-1][0], last
            elif last > first:
                spans.append((first, last))
        at = max(at, end)
    return spans


def _steps(values: Sequence[float | None], found: Mapping[str, Any], frame: Frame, x: Any, colour: str) -> str:
    """Return the SVG of a step line, which is interrupted where the value is unknown."""
    path, is_open = [], False
    for start, end, value in zip(found["slots"], found["ends"], values, strict=True):
        if value is None:
            is_open = False
            continue
        path.append(f"{'L' if is_open else 'M'}{x(start):.1f} {frame.y(value):.1f}H{x(end):.1f}")
        is_open = True
    return f'<path class="c" stroke="{colour}" d="{"".join(path)}"/>'


def stack(trace: Mapping[str, Any], period: Mapping[str, Any], language: str, zone: ZoneInfo) -> str:
    """Return the SVG of the sources of each hour's consumption as stacked bars. An hour without data has no bar."""
    if not trace["hours"]:
        return ""
    words = WORDS[language]
    hours = sorted([*trace["hours"], *trace.get("missing", ())], key=lambda one: one["from"])
    begin, end = hours[0]["from"], hours[-1]["to"]
    if period["kind"] == "day":
        begin, end = period["from"], period["to"]
    if end <= begin:
        return ""
    frame, marks = _frame(920.0, 150.0, 0.0, max(float(one.get("consumption", 0)) for one in hours))
    out = [_open(frame, words["trace"]), *_grid(frame, marks)]
    for one in hours:
        left, right = (frame.x((one[key] - begin) / (end - begin)) for key in ("from", "to"))
        place = f'x="{left + (right - left) * 0.05:.1f}" width="{(right - left) * 0.9:.2f}"'
        base = frame.y(0.0)
        if not one.get("complete"):
            out.append(f'<rect class="unknown" {place} y="{base:.1f}" height="4"/>')
        for name, colour in PARTS:
            tall = frame.y(0.0) - frame.y(float(one.get(name, 0)))
            if tall > 0:
                base -= tall
                title = f"{datetime.fromtimestamp(one['from'], zone):%m-%d %H:%M} {words[name]} {number(one[name])} kWh"
                out.append(
                    f'<rect fill="{colour}" {place} y="{base:.1f}" height="{tall:.1f}"><title>{title}</title></rect>'
                )
    out += _labels(frame, _times(begin, end, zone, is_day=period["kind"] == "day"))
    entries = [(colour, words[name]) for name, colour in PARTS if any(float(one.get(name, 0)) for one in hours)]
    if not all(one.get("complete") for one in hours):
        entries.append(("unknown", words["unknown time"]))
    return f'<div class="wide">{"".join(out)}</svg></div>{legend(entries, "kWh")}'


def _times(begin: float, end: float, zone: ZoneInfo, is_day: bool) -> list[tuple[float, str]]:
    """Return the labels of a time axis: the local time at each eighth of the axis. A day ends at 24:00."""
    form = "%H:%M" if is_day else "%m-%d"
    found = [(n / 8, datetime.fromtimestamp(begin + (end - begin) * n / 8, zone).strftime(form)) for n in range(9)]
    return [*found[:-1], (1.0, "24:00")] if is_day else found
