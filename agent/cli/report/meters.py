"""Rows of the meters: what each counted, how much of the period is known, and when it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from agent.cli.report.labels import WORDS, number, percent, unit
from agent.indicators.quantities import FLOW_TITLES
from agent.roles import ROLES

MOST_SHOWN: Final = 4  # stretches of a row


def heads(language: str) -> tuple[str, ...]:
    """Over ``rows``."""
    return tuple(WORDS[language][name] for name in ("device", "role", "counted", "known", "gaps"))


def rows(page: Mapping[str, Any], language: str) -> Iterator[tuple[str, ...]]:
    """One meter each, with the stretches in which readings are missing."""
    words, zone = WORDS[language], ZoneInfo(page["timezone"])
    at = 0 if language == "en" else 1
    for one in page.get("meters", ()):
        role = ROLES[one["role"]][at] if one["role"] in ROLES else one["role"] or words["no role"]
        counted = words["semicolon"].join(
            f"{FLOW_TITLES[flow['n']][at] if flow['n'] in FLOW_TITLES else flow['n']} "
            f"{number(flow['v'], 6)} {unit(flow)}"
            for flow in one["flows"]
        )
        yield one["n"], role, counted, percent(one["known"]), _missing(one, page, language, zone)


def _missing(meter: Mapping[str, Any], page: Mapping[str, Any], language: str, zone: ZoneInfo) -> str:
    words, period = WORDS[language], page["period"]
    if not meter["missing"]:
        return words["none"]
    if not Decimal(meter["known"]):
        return words["begin of day"]
    form = "%H:%M" if period["kind"] == "day" else "%m-%d"
    shown = []
    for one in meter["missing"][:MOST_SHOWN]:
        begin, end = (datetime.fromtimestamp(one[key], zone) for key in ("from", "to"))
        last = (
            end.strftime(form)
            if period["kind"] == "day"
            else datetime.fromtimestamp(one["to"] - 1, zone).strftime(form)
        )
        if period["kind"] == "day" and last == "00:00":
            last = "24:00"
        first = begin.strftime(form)
        shown.append(first if first == last else f"{first}–{last}")
    more = len(meter["missing"]) - MOST_SHOWN
    if more > 0:
        shown.append(words["and more"].format(more))
    return words["comma"].join(shown)


def roleless(page: Mapping[str, Any], language: str) -> str:
    """A sentence about meters that count in no figure; "" if there is none."""
    names = sorted({one["n"].partition("/")[0] for one in page.get("meters", ()) if not one["role"]})
    return WORDS[language]["roleless"].format(", ".join(names)) if names else ""
