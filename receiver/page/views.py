"""Values for the templates of the fleet's page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from agent.cli.common import show_age, show_unit
from agent.cli.report.labels import duration, share
from agent.verify.jws import base64url
from agent.web.day_view import Row, Series, number
from agent.web.source_view import pack_view
from agent.web.views import GOOD, reason_text
from drivers.model import clean_text
from receiver.database import boot_text
from receiver.finding_texts import finding_meaning, finding_word
from receiver.fleet_state import GatewayState
from receiver.page.data import DAYS, FleetView, GatewayFacts, PackRow, Shares
from receiver.page.figures import MOST_PACKS, Figure, Figures
from receiver.page.labels import label

VERDICTS: Final = ("failed", "incomplete", "silent", "verified")
FILTERS: Final = ("failed", "incomplete", "late", "silent", "verified")
COLUMNS: Final = ("state", "gateway", "complete", "findings", "missing", "seen")
PAGE_ROWS: Final = 100
DAY_MS: Final = 86_400_000
NO_PACK: Final = "no_pack"  # the reason that the page shows for times that no pack covers


@dataclass(frozen=True, slots=True)
class Choice:
    """The filters, the order and the page that the viewer has selected for the table."""

    text: str = ""
    state: str = ""
    sort: str = "state"
    descending: bool = False
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Choice:
        """Read the selection from the query part of a URL. Invalid parts are ignored."""
        sort, state, page = query.get("sort", ""), query.get("state", ""), query.get("page", "1")
        return cls(
            query.get("q", "")[:130].strip(),
            state if state in FILTERS else "",
            sort if sort in COLUMNS else "state",
            query.get("order") == "desc",
            int(page) if page.isascii() and page.isdigit() and len(page) < 7 else 1,
        )

    def href(self, root: str, **changes: Any) -> str:
        """The URL of the table with this selection, changed by ``changes``."""
        facts = {"q": self.text, "state": self.state, "sort": self.sort, "order": "desc" if self.descending else ""}
        made = {
            name: value for name, value in {**facts, **changes}.items() if value and (name, value) != ("sort", "state")
        }
        return f"{root}/?{urlencode(made)}" if made else f"{root}/"


def fleet_view(fleet: FleetView, choice: Choice, root: str, language: str) -> dict[str, Any]:
    """Values for the first page: the number of gateways in each state, and the gateways that match the selection."""
    now_s = fleet.time_s
    found = [one for one in fleet.state.gateways if choice.text.lower() in one.name.lower()]
    summary = fleet.state.summary(now_s)
    chosen = [one for one in found if not choice.state or _matches(one, choice.state, now_s)]
    chosen.sort(key=lambda one: one.name)
    chosen.sort(key=lambda one: _order(one, choice.sort), reverse=choice.descending)
    last_page = max(1, -(-len(chosen) // PAGE_ROWS))
    page = min(max(1, choice.page), last_page)
    shown = chosen[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    return {
        "choice": choice,
        "total": summary["gateways"],
        "count": len(chosen),
        "tiles": [
            {
                "state": one,
                "count": summary[one],
                "href": choice.href(root, state="" if choice.state == one else one, page=""),
                "on": choice.state == one,
            }
            for one in FILTERS
        ],
        "columns": [_column(name, choice, root) for name in COLUMNS],
        "rows": [_fleet_row(one, fleet.shares.get(one.name, {}), fleet.days, root, language, now_s) for one in shown],
        "first": (page - 1) * PAGE_ROWS + 1 if shown else 0,
        "last": (page - 1) * PAGE_ROWS + len(shown),
        "earlier": choice.href(root, page=page - 1) if page > 1 else "",
        "later": choice.href(root, page=page + 1) if page < last_page else "",
        "reset": f"{root}/" if choice.text or choice.state else "",
        "notes": _notes(fleet, language),
        "unknown": [(clean_text(name, 130), clean_text(thumb, 60)) for name, thumb in fleet.state.unknown[:20]],
        "unknown_more": max(0, fleet.state.unknown_count - 20),
        "days": DAYS,
        "sums": {
            "packs": _grouped(summary["packs"]),
            "readings": _grouped(summary["received"]),
            "due": _grouped(summary["due"] + summary["due_missing"]),
            "missing": _grouped(summary["missing_packs"]),
            "lost": _grouped(summary["lost_packs"]),
        },
        "time": f"{datetime.fromtimestamp(fleet.time_s, UTC):%H:%M:%S} UTC",
        "filters": FILTERS,
    }


def _matches(one: GatewayState, state: str, now_s: float) -> bool:
    return one.is_late(now_s) if state == "late" else one.verdict == state


def _order(one: GatewayState, column: str) -> Any:
    if column == "state":
        return VERDICTS.index(one.verdict)
    if column == "gateway":
        return one.name
    if column == "complete":
        return 2.0 if one.completeness is None else one.completeness
    if column == "findings":
        return -(sum(one.findings.values()) * (1 << 40) + one.refused)
    if column == "missing":
        return -(one.missing + one.withheld) * (1 << 40) - one.lost
    return one.newest_ms or 0  # the gateway that has been silent longest comes first


def _column(name: str, choice: Choice, root: str) -> dict[str, str]:
    on = choice.sort == name
    turn = on and not choice.descending
    return {
        "name": name,
        "href": choice.href(root, sort=name, order="desc" if turn else "", page=""),
        "aria": ("descending" if choice.descending else "ascending") if on else "",
    }


def _fleet_row(
    one: GatewayState, shares: Shares, days: Sequence[date], root: str, language: str, now_s: float
) -> dict[str, Any]:
    late = one.is_late(now_s)
    return {
        "name": one.name,
        "href": gateway_href(root, one.name),
        "verdict": one.verdict,
        "late": late,
        **_completeness(one),
        "strip_of_days": strip(shares, days, language),
        "findings": findings_of(one, language),
        "refused": one.refused,
        "refused_why": clean_text(one.refused_why, 160),
        "missing": missing_of(one, language),
        "seen": show_age(one.late_s(now_s), language) if one.newest_ms is not None else "",
        "online": one.online,
    }


def _completeness(one: GatewayState) -> dict[str, Any]:
    known = one.completeness
    return {"complete": "–" if known is None else share(known), "low": known is not None and known < GOOD}


def findings_of(one: GatewayState, language: str) -> list[tuple[str, str, int]]:
    """Return (word, meaning, number) for each kind of finding. The most frequent kind comes first."""
    return [
        (clean_text(finding_word(code, language), 40), finding_meaning(code, language), count)
        for code, count in sorted(one.findings.items(), key=lambda item: -item[1])
    ]


def missing_of(one: GatewayState, language: str) -> dict[str, Any]:
    """The texts about missing packs, and about readings in stated gaps. The most frequent gap reason comes first."""
    counts = (("packs_missing", one.missing), ("packs_withheld", one.withheld), ("packs_lost", one.lost))
    packs = [label(key, language, count=_grouped(count)) for key, count in counts if count]
    lists = (("streams_unnamed", one.unnamed), ("streams_unasked", one.unasked))
    packs += [label(key, language, names=clean_text(", ".join(names), 200)) for key, names in lists if names]
    readings = [
        label("readings_of", language, why=reason_text(reason, language), count=_grouped(count))
        for reason, count in sorted(one.reasons.items(), key=lambda item: -item[1])
    ]
    return {"packs": packs, "readings": readings, "any": bool(packs or readings)}


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", "\u2009")


def strip(shares: Shares, days: Sequence[date], language: str) -> dict[str, Any]:
    """The values for the strip of days: a cell (colour class, text) for each day, and one text for the whole strip."""
    cells = []
    for day in days:
        known = shares.get(day)
        cells.append((_shade(known), f"{day:%m-%d} {'–' if known is None else share(min(1.0, known))}"))
    return {
        "cells": cells,
        "text": ", ".join(text for _, text in cells if not text.endswith("–")) or label("none", language),
    }


def _shade(known: float | None) -> str:
    if known is None:
        return "c-none"
    return next(
        name
        for bound, name in ((1.0, "c-all"), (0.98, "c-most"), (0.9, "c-good"), (0.5, "c-low"), (-1.0, "c-bad"))
        if known >= bound
    )


def _notes(fleet: FleetView, language: str) -> list[tuple[bool, str]]:
    """The notes that concern the whole platform, as (whether it is a fault, text)."""
    notes = [(True, label("away", language, place=one.place, why=clean_text(one.why, 200))) for one in fleet.state.away]
    if fleet.state.lots_waiting:
        notes.append((True, label("lots_waiting", language, count=fleet.state.lots_waiting)))
    if fleet.state.unsettled:
        notes.append((False, label("unsettled", language, count=fleet.state.unsettled)))
    return notes


def gateway_view(facts: GatewayFacts, root: str, language: str) -> dict[str, Any]:
    """Values for the page of a gateway: its streams, findings and missing packs."""
    now_s, state = time.time(), facts.state
    by_day = []
    for day in facts.days:
        known = facts.shares.get(day)
        percent = None if known is None else round(min(100.0, known * 100), 2)
        text = "–" if known is None else share(min(1.0, known))
        by_day.append((f"{day:%m-%d}", percent, text, known is not None and known < GOOD))
    return {
        **_fleet_row(state, facts.shares, facts.days, root, language, now_s),
        "name": state.name,
        "version": clean_text(state.version or "", 60),
        "streams": [
            {**_fleet_row(one.state, {}, (), root, language, now_s), "stream": one.name,
             "href": stream_href(root, one.state.name), "packs": _grouped(one.state.packs),
             "readings": _grouped(one.state.readings)}
            for one in facts.streams
        ],
        "list": [
            {"stream": stream.rpartition("/")[2], "seq": seq, "href": pack_href(root, stream, seq) if seq else "",
             "code": clean_text(finding_word(code, language), 40), "meaning": finding_meaning(code, language),
             "boot": boot_text(boot), "found": _at(found, UTC)}
            for stream, seq, boot, code, found in facts.findings
        ],
        "holes": [
            {"stream": stream.rpartition("/")[2], "first": low, "last": high, "lost": lost, "count": high - low + 1}
            for stream, low, high, lost in facts.holes
        ],
        "refusals": [
            {"code": clean_text(finding_word(code, language), 40), "meaning": finding_meaning(code, language),
             "times": times, "why": clean_text(why, 300), "last": _at(at, UTC)}
            for code, times, why, at in facts.refusals
        ],
        "thumbprints": [clean_text(thumb, 60) for thumb, _ in facts.thumbprints],
        "keys": label("keys.counter", language, counter=facts.keys[0], time=_at(facts.keys[1], UTC)) if facts.keys
        else label("keys.none", language),
        "asked": [clean_text(one, 80) for one in facts.asked],
        "by_day": by_day,
        "days": DAYS,
    }  # fmt: skip


def stream_view(
    figures: Figures | None, stream: str, day: date, between: tuple[int, int], zone: ZoneInfo, root: str, language: str
) -> dict[str, Any]:
    """The values for the page of a stream, which shows one day of one point as a chart."""
    start, end = between[0] // 1000, between[1] // 1000
    now_ms = round(time.time() * 1000)
    now_s = now_ms // 1000
    closed = now_s >= end
    frame = {
        "from": start, "to": end, "until": min(end, now_s), "zone": str(zone), "closed": closed,
        "until_text": "" if closed else f"{datetime.fromtimestamp(now_s, zone):%H:%M}",
    }  # fmt: skip
    if figures is None or not any(row.packs for row in figures.rows):
        return {"chart": None, "day": frame, "counter": False, "too_many": 0}
    # the clock of a gateway may be ahead, so there may be packs of quarters that have not begun
    shown = [row for row in figures.rows if row.packs or row.from_ms < now_ms]
    while shown and not shown[-1].packs:
        shown.pop()
    while shown and not shown[0].packs:
        shown.pop(0)
    rows = [_figure_row(row, figures, stream, zone, root, language, now_ms) for row in shown]
    passed_ms = sum(row.length_ms(now_ms) for row in shown)
    known = sum(row.known(now_ms) * row.length_ms(now_ms) for row in shown) / passed_ms
    amounts = [row.amount for row in shown if row.amount is not None]
    reasons: dict[str, float] = {}
    for row in shown:
        for reason, ms in _gaps(row, now_ms).items():
            reasons[reason] = reasons.get(reason, 0) + ms
    is_counter = figures.kind == "counter"
    unit = show_unit(clean_text(figures.unit, 20))
    chart = Series(
        "figures", clean_text(figures.point, 120), unit, _mean_unit(unit) if is_counter else unit,
        number(sum(amounts)) if amounts else "–", share(known), known < GOOD, rows,
        source=pack_href(root, stream, figures.birth) if figures.birth else "",
        has_range=not is_counter, has_energy=is_counter, has_packs=True,
        reasons=[
            (_class(reason), _reason(reason, language), duration(ms, language))
            for reason, ms in sorted(reasons.items(), key=lambda item: -item[1])
        ],
    )  # fmt: skip
    return {
        "chart": chart,
        "day": frame,
        "counter": is_counter,
        "too_many": 0 if figures.all_packs else MOST_PACKS,
    }


def _mean_unit(unit: str) -> str:
    """The unit of an amount per hour, such as kW for kWh."""
    return {"kWh": "kW", "MWh": "MW", "Wh": "W", "kvarh": "kvar"}.get(unit, f"{unit}/h" if unit else "/h")


def _gaps(row: Figure, now_ms: int) -> dict[str, float]:
    """The missing time in ms by reason. Time that no pack covers has the reason ``NO_PACK``."""
    found: dict[str, float] = dict(row.gaps_ms)
    if (nothing := row.length_ms(now_ms) - row.covered_ms) > 0:
        found[NO_PACK] = nothing
    return found


def _reason(reason: str, language: str) -> str:
    return label("no_pack", language) if reason == NO_PACK else reason_text(reason, language)


def _class(reason: str) -> str:
    return "".join(char for char in reason if char.isalnum() or char == "_")[:40] or "unknown"


def _figure_row(
    row: Figure, figures: Figures, stream: str, zone: ZoneInfo, root: str, language: str, now_ms: int
) -> Row:
    is_counter = figures.kind == "counter"
    mean = (None if row.amount is None else row.amount * 4) if is_counter else row.mean
    remarks = [label("remark.readings", language, count=row.readings)]
    remarks += [label("remark.doubtful", language, count=row.doubtful)] if row.doubtful else []
    remarks += [label("remark.faulty", language, count=row.faulty)] if row.faulty else []
    back = is_counter and row.readings > 0 and row.amount is None
    remarks += [label("remark.back", language)] if back else []
    gaps, known = _gaps(row, now_ms), row.known(now_ms)
    href = packs_href(root, stream, figures.point, row.from_ms, row.to_ms)
    return Row(
        row.from_ms // 1000, row.to_ms // 1000, _span(row.from_ms, row.to_ms, zone), number(row.amount), number(mean),
        number(row.low) if row.readings else "", number(row.high) if row.readings else "", known, share(known),
        ", ".join(remarks), bool(row.doubtful or row.faulty or back),
        " ".join(f"{_class(reason)}:{ms:.0f}:{ms:.0f}" for reason, ms in gaps.items()),
        "; ".join(f"{_reason(reason, language)} {duration(ms, language)}" for reason, ms in gaps.items()),
        ((row.packs, href),) if row.packs else (),
    )  # fmt: skip


def packs_view(
    packs: Sequence[PackRow], figure: Figure | None, figures: Figures | None, most: int, zone: ZoneInfo, root: str,
    language: str,
) -> dict[str, Any]:  # fmt: skip
    """Values for the page with the packs behind a figure."""
    shown = ""
    if figure is not None and figures is not None and figure.readings:
        unit = show_unit(clean_text(figures.unit, 20))
        value = figure.amount if figures.kind == "counter" else figure.mean
        shown = f"{number(value)} {unit}"
    return {
        "figure": shown,
        "readings": figure.readings if figure else 0,
        "known": share(figure.known(round(time.time() * 1000))) if figure else "",
        "rows": [_pack_row(one, zone, root, language) for one in packs],
        "more": len(packs) >= most,
        "most": most,
    }


def _pack_row(one: PackRow, zone: ZoneInfo, root: str, language: str) -> dict[str, Any]:
    verdict, good = pack_verdict(one, language)
    return {
        "seq": one.seq,
        "href": pack_href(root, one.stream, one.seq),
        "boot": boot_text(one.boot),
        "covers": _span(one.from_ms, one.to_ms, zone, seconds=True),
        "readings": one.readings,
        "hash": base64url(one.hash),
        "received": _at(one.received, zone),
        "verdict": verdict,
        "good": good,
        "twin": one.is_fork,
        "meaning": "; ".join(filter(None, (finding_meaning(code, language) for code in one.codes))),
    }


def pack_verdict(one: PackRow, language: str) -> tuple[str, str]:
    """The verdict on a pack, as (text, CSS class). The class is ``good``, ``bad`` or ``soft``."""
    if one.codes:
        return ", ".join(clean_text(finding_word(code, language), 40) for code in one.codes), "bad"
    if not one.checked:
        return label("not_checked", language), "soft"
    if one.due is None:
        return label("open", language), "soft"
    return label("verified", language), "good"


def one_pack_view(one: PackRow, value: Mapping[str, Any], zone: ZoneInfo, root: str, language: str) -> dict[str, Any]:
    """Values for one pack: its facts, first readings and gaps."""
    return {
        **_pack_row(one, zone, root, language),
        **pack_view({"pack": value, "hash": base64url(one.hash)}, str(zone), language),
        "raw_href": f"{root}/raw/{_path(one.stream)}/{one.seq}?hash={one.hash.hex()}",
        "size": len(one.body),
    }


def gateway_href(root: str, name: str) -> str:
    """The URL of a gateway's page."""
    return f"{root}/gateway/{_path(name)}"


def stream_href(root: str, stream: str, **query: str) -> str:
    """The URL of a stream's page."""
    return f"{root}/stream/{_path(stream)}" + (f"?{urlencode(query)}" if query else "")


def packs_href(root: str, stream: str, point: str, from_ms: int, to_ms: int) -> str:
    """The URL of the page with the packs behind a figure."""
    return f"{root}/packs/{_path(stream)}?{urlencode({'point': point, 'from': from_ms, 'to': to_ms})}"


def pack_href(root: str, stream: str, seq: int) -> str:
    """The URL of a pack's page."""
    return f"{root}/pack/{_path(stream)}/{seq}"


def _path(name: str) -> str:
    return quote(name, safe="/")


def _span(from_ms: int, to_ms: int, zone: ZoneInfo, *, seconds: bool = False) -> str:
    form = "%H:%M:%S" if seconds else "%H:%M"
    try:
        low, high = datetime.fromtimestamp(from_ms / 1000, zone), datetime.fromtimestamp(to_ms / 1000, zone)
    except (OverflowError, ValueError, OSError):
        return f"{from_ms}–{to_ms} ms"
    return f"{low:{form}}–{high:{form}}"


def _at(when: datetime | None, zone: Any) -> str:
    return "–" if when is None else f"{when.astimezone(zone):%Y-%m-%d %H:%M:%S}"
