"""The park's figures of a day, month or year for the page. A verdict on partial data is never green or red."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from agent.cli.findings import Silence
from agent.cli.report import balance as balance_rows
from agent.cli.report.labels import (
    BALANCE_WORDS,
    WORDS,
    cited,
    duration,
    known_of_period,
    lacking,
    number,
    own_text,
    share,
    silent_since,
    target,
    text_in,
    unit,
    value_of,
    verdict_of,
)
from agent.indicators.quantities import title_of
from agent.web.labels import label
from agent.web.site_data import PeriodName
from agent.web.views import GOOD, reason_text
from drivers.model import clean_text

PERIODS: Final[Mapping[str, PeriodName]] = {"day": "day", "month": "month", "year": "year"}
TRACE: Final = ("consumption", "own", "direct", "storage", "grid", "certified")


def figures(page: Mapping[str, Any], period: str, language: str, silent: Mapping[str, Silence]) -> dict[str, Any]:
    """Return the template values of the figures page. ``page``: the agent's report.

    Args:
        silent: devices that do not answer, as returned by ``agent.cli.findings.silent_devices``.
    """
    zone = ZoneInfo(page["timezone"])
    groups = []
    own = {"id": "site", "title": {"en": WORDS["en"]["own_figures"], "zh": WORDS["zh"]["own_figures"]}, "source": ""}
    for one in (*page["sets"], own):
        mine = [figure for figure in page["figures"] if figure["id"].startswith(one["id"] + "/")]
        if mine:
            title, source = (
                clean_text(text_in(one["title"], language), 120),
                clean_text(cited(one["source"], language), 300),
            )
            cards = [_card(figure, page["period"], language) for figure in mine]
            groups.append({"id": clean_text(one["id"], 60), "title": title, "source": source, "cards": cards})
    return {
        "label": clean_text(page["period"]["label"], 40),
        "until": _until(page["period"], zone, language),
        "over": page["period"]["until"] >= page["period"]["to"],
        "known": any(value_of(figure) for figure in page["figures"]),
        "groups": groups,
        "trace": _trace(page["trace"], "%H:%M" if period == "day" else "%m-%d %H:%M", language, zone),
        "balance": _balance(page.get("balance"), language),
        "inputs": _inputs(page["figures"], language),
        "excluded": [
            (clean_text(text_in(one["title"], language), 120), clean_text(own_text(one["why"], language), 300))
            for one in page["excluded"]
        ],
        "gaps": _gaps(page, period, language, silent),
        "closed": bool(page.get("closed")),
    }


def no_figures(wanted: date, period: str, first: str, today: str) -> dict[str, Any]:
    """Return the template values for a period before the first or after the last interval. Does not query the agent."""
    digits = {"day": 10, "month": 7}.get(period, 4)

    def to(day: str) -> str:
        return f"/figures?{urlencode({'period': period, 'date': day})}"

    is_before = str(wanted) < first
    links = {"earlier": "" if is_before else to(today), "later": to(first) if is_before else "", "day": str(wanted)}
    return {
        "label": str(wanted)[:digits],
        "until": "",
        "over": True,
        "known": False,
        "groups": [],
        "trace": {},
        "balance": {},
        "inputs": [],
        "excluded": [],
        "gaps": [],
        "closed": False,
        "links": links,
    }


def _until(period: Mapping[str, Any], zone: ZoneInfo, language: str) -> str:
    """Return a text that says up to which time the data of a period are known, or when a future period begins."""
    if period["until"] <= period["from"]:
        begin = datetime.fromtimestamp(period["from"], zone)
        return label("figures.future", language, begin=f"{begin:%Y-%m-%d %H:%M}")
    until = datetime.fromtimestamp(period["until"], zone)
    return label("figures.until", language, until=f"{until:%Y-%m-%d %H:%M}")


def _card(figure: Mapping[str, Any], period: Mapping[str, Any], language: str) -> dict[str, Any]:
    """Return the values of one figure.

    Its verdict is green or red only if at least nine tenths of the period are known.
    """
    completeness, verdict, value = float(figure["completeness"]), verdict_of(figure, period), value_of(figure)
    known = bool(value)
    kind, text = {"met": "good", "not met": "bad", "not enough": "warn"}.get(verdict, "plain"), ""
    if verdict == "not enough":
        text = label("verdict.unjudged", language, share=share(float(known_of_period(figure, period))))
    elif verdict in ("met", "not met", "no data"):
        text = label(f"verdict.{verdict}", language)
    trend = [(clean_text(one["label"], 30), one["v"]) for one in figure["trend"]]
    return {
        "id": clean_text(figure["id"], 80),
        "key": "".join(char if char.isalnum() else "-" for char in figure["id"])[:80],
        "title": clean_text(text_in(figure["title"], language), 160),
        "value": number(value),
        "unit": clean_text(unit(figure), 30),
        "kind": kind,
        "verdict": text,
        "target": clean_text(target(figure), 60),
        "gate": WORDS[language][figure["gate"]] if figure["gate"] else "",
        "known": share(completeness) if known else "",
        "low": completeness < GOOD,
        "estimated": share(figure["estimated"]) if figure["estimated"] != "0" else "",
        "drags": [
            f"{clean_text(text_in(one['title'], language), 80)} {number(one['v'])} {clean_text(unit(one), 20)}"
            for one in figure["drags"]
        ],
        "lacking": clean_text(lacking(figure, language), 500),
        "note": clean_text(text_in(figure["note"], language), 400),
        "monitoring": figure["monitoring"] and known,
        "trend": [(at, number(v), str(float(v)) if v else "") for at, v in trend]
        if known and sum(bool(v) for _, v in trend) > 1
        else [],
    }


def _trace(trace: Mapping[str, Any], form: str, language: str, zone: ZoneInfo) -> dict[str, Any]:
    words = WORDS[language]
    if trace["consumption"] == "0":
        return {}
    rows = [(words[name], f"{number(trace[name], 6)} kWh") for name in TRACE]
    rows += [(words[name], share(trace[name])) for name in ("at_the_time", "with_certificates")]
    if "known" in trace:
        rows.append((words["known"], share(trace["known"])))
    if trace["incomplete"]:
        rows.append((words["incomplete"], str(trace["incomplete"])))
    names = ("own", "direct", "storage", "grid")
    hours = [
        {
            "at": datetime.fromtimestamp(one["from"], zone).strftime(form),
            "complete": one["complete"],
            "values": [(number(one[name]), str(float(one[name]))) for name in names],
        }
        for one in trace["hours"]
    ]
    return {"rows": rows, "hours": hours, "names": [words[name] for name in names]}


def _balance(balance: Mapping[str, Any] | None, language: str) -> dict[str, Any]:
    if not balance:
        return {}

    def title(name: str) -> str:
        return clean_text(title_of(name)[language], 80)

    odd = BALANCE_WORDS[language]["not reliable"] if balance_rows.is_odd(balance) else ""
    kind = {"within": "good", "beyond": "bad"}.get(balance.get("verdict", ""), "soft")
    return {
        "text": balance_rows.site_row(balance, language),
        "odd": odd,
        "kind": kind,
        "flows": balance_rows.flow_rows(balance, language, title),
        "heads": balance_rows.node_heads(language),
        "nodes": balance_rows.node_rows(balance, language),
        "counts": balance_rows.counts_row(balance, language),
        "unknown": balance_rows.unknown_row(balance, language),
    }


def _inputs(found: Sequence[Mapping[str, Any]], language: str) -> list[dict[str, Any]]:
    """Return the inputs of all figures without duplicates, each with the packs from which it was computed."""
    words, seen, rows = WORDS[language], set(), []
    for one in (one for figure in found for one in figure["inputs"]):
        key = (one["n"], one["basis"], one["v"])
        if key in seen:
            continue
        seen.add(key)
        rows.append(
            {
                "title": clean_text(text_in(one["title"], language), 120),
                "basis": words[one["basis"]],
                "amount": f"{number(one['v'], 6)} {clean_text(unit(one), 20)}" if one["basis"] != "absent" else "–",
                "known": share(one["completeness"]) if "completeness" in one else "",
                "low": float(one.get("completeness", 1)) < GOOD,
                "packs": [pack for place in one.get("from", ()) if (pack := _pack_range(place))],
            }
        )
    return rows


def _pack_range(place: object) -> dict[str, str] | None:
    if not isinstance(place, Mapping):
        return None
    stream, first, last = place.get("stream"), place.get("first"), place.get("last")
    if not isinstance(stream, str) or not isinstance(first, int) or not isinstance(last, int):
        return None
    device = stream.rpartition("/")[2]
    front = f"/pack/{quote(device, safe='')}"
    return {
        "device": clean_text(device, 80),
        "first": str(first),
        "first_href": f"{front}/{first}",
        "last": str(last),
        "last_href": f"{front}/{last}",
    }


def _gaps(page: Mapping[str, Any], period: str, language: str, silent: Mapping[str, Silence]) -> list[dict[str, Any]]:
    timezone = page["timezone"]
    day = f"{datetime.fromtimestamp(page['period']['from'], ZoneInfo(timezone)):%Y-%m-%d}"
    rows = []
    for one in page.get("devices", ()):
        name, missing = one["device"], sorted(one.get("missing", {}).items(), key=lambda item: -item[1][0])
        if missing or name in silent:
            rows.append(
                {
                    "name": clean_text(name, 80),
                    "label": clean_text(own_text(one.get("label", ""), language), 80),
                    "href": f"/day?{urlencode({'date': day, 'device': name})}" if period == "day" else "",
                    "silent": silent_since(silent[name], timezone, language) if name in silent else "",
                    "missing": [(reason_text(why, language), duration(ms, language)) for why, (ms, _) in missing],
                }
            )
    return rows


def neighbours(page: Mapping[str, Any], period: str, first: str, today: str) -> dict[str, str]:
    """Return the URLs of the previous and the next period; "" for a period without intervals.

    Args:
        first: first day with intervals, as an ISO date.
        today: today's date as an ISO date.
    """
    zone = ZoneInfo(page["timezone"])
    begin = datetime.fromtimestamp(page["period"]["from"], zone).date()
    last = datetime.fromtimestamp(float(Decimal(page["period"]["to"])) - 1, UTC).astimezone(zone).date()
    before, after = begin - timedelta(days=1), last + timedelta(days=1)

    def to(day: date) -> str:
        return f"/figures?{urlencode({'period': period, 'date': str(day)})}"

    shown = min(max(str(begin), first), today)
    return {
        "earlier": to(before) if str(before) >= first else "",
        "later": to(after) if str(after) <= today else "",
        "day": shown,
    }
