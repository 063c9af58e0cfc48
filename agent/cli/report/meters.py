"""Makes the rows of the table of meters: amount, known share of the period, times and reasons of missing readings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from agent.cli.finding_words import LANGUAGES, reason_words
from agent.cli.findings import Silence
from agent.cli.report.labels import WORDS, duration, number, own_text, share, silent_since, unit
from agent.indicators.quantities import FLOW_TITLES
from agent.roles import ROLES
from drivers.model import clean_text

MOST_SHOWN: Final = 4  # a row lists at most this many periods with missing readings


def heads(language: str) -> tuple[str, ...]:
    """Return the column heads for ``rows``."""
    return tuple(WORDS[language][name] for name in ("device", "role", "counted", "known", "gaps", "reasons"))


def rows(page: Mapping[str, Any], language: str) -> Iterator[tuple[str, ...]]:
    """Yield a row for each meter, then a row for each other device with missing readings.

    A row has times and reasons of missing readings.
    """
    words, zone = WORDS[language], ZoneInfo(page["timezone"])
    at = 0 if language == "en" else 1
    devices = {one["device"]: one for one in page["devices"]}
    shown = set()
    for one in page.get("meters", ()):
        role = ROLES[one["role"]][at] if one["role"] in ROLES else one["role"] or words["no role"]
        has_amount = any(flow["v"] is not None for flow in one["flows"])
        counted = words["semicolon"].join(_flow(flow, at) for flow in one["flows"]) if has_amount else "–"
        row = one["n"], role, counted, share(one["known"]), _missing(one, page, language, zone)
        device = devices.get(one["n"].partition("/")[0], {})
        shown.add(device.get("device"))
        why = why_missing(device, page, language)
        since, first = device.get("gaps_from"), page["period"]["from"]
        is_known = since is None and "silent" in device
        if one["missing"] and not is_known and (since is None or since > max(first, one["missing"][0]["from"])):
            unknown = (
                words["reasons unknown"] if since is None else words["reasons since"].format(_at(since, page, zone))
            )
            why = words["semicolon"].join(filter(None, (why, unknown)))
        yield _named(row[0], device, language), *row[1:], why
    for name, device in devices.items():
        if name not in shown and (why := why_missing(device, page, language)):
            yield _named(name, device, language), words["not counted"], "–", "–", "–", why


def _flow(flow: Mapping[str, Any], at: int) -> str:
    """Return a flow as text, such as ``imported 12 kWh``, or ``imported –`` if the amount is unknown."""
    name = FLOW_TITLES[flow["n"]][at] if flow["n"] in FLOW_TITLES else flow["n"]
    return f"{name} –" if flow["v"] is None else f"{name} {number(flow['v'], 6)} {unit(flow)}"


def _named(name: str, device: Mapping[str, Any], language: str) -> str:
    label = own_text(device.get("label", ""), language)
    return f"{name} ({label})" if label and label != name else name


def _at(seconds: float, page: Mapping[str, Any], zone: ZoneInfo) -> str:
    form = "%H:%M" if page["period"]["kind"] == "day" else "%Y-%m-%d %H:%M"
    return datetime.fromtimestamp(seconds, zone).strftime(form)


def why_missing(device: Mapping[str, Any], page: Mapping[str, Any], language: str) -> str:
    """Return the reasons why readings are missing, such as ``no answer in time 1.2 h; ...``; "" if none are missing.

    If the device is silent now, the text begins with this silence. The reasons follow, the longest duration first. A
    reason that never affected the whole device is marked "some points".
    """
    words, at = WORDS[language], LANGUAGES.index(language)
    texts = []
    if (silence := device.get("silent")) is not None:
        texts.append(silent_since(Silence(**silence), page["timezone"], language))
    for reason, (ms, whole_ms) in sorted(device.get("missing", {}).items(), key=lambda item: -item[1][0]):
        text = f"{clean_text(reason_words(reason)[at], 60)} {duration(ms, language)}"
        texts.append(text if whole_ms else words["some points"].format(text))
    return words["semicolon"].join(texts)


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
    """Return a sentence that lists the meters without a role, which no figure includes; "" if there are none."""
    names = sorted({one["n"].partition("/")[0] for one in page.get("meters", ()) if not one["role"]})
    return WORDS[language]["roleless"].format(", ".join(names)) if names else ""
