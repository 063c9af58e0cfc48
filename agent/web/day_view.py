"""The day pages of the site and of a device. For each interval they show amounts, mean power, and gaps with reasons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from agent.cli.common import show_unit
from agent.cli.findings import Silence
from agent.cli.report.labels import duration, own_text, share, silent_since
from agent.indicators.quantities import FLOW_TITLES, title_of
from agent.web.labels import FLAGS, LANGUAGES, label
from agent.web.views import GOOD, device_href, reason_text
from drivers.model import clean_text

# A point has one chart. A power without a counter has two: one for each direction of the energy.
MAIN_POINTS: Final = 3  # number of points with charts on a device's page by default; other points are shown as links
MOST_POINTS: Final = 6  # number of points whose charts a URL may request
MOST_LACKING: Final = 3  # number of devices with missing data that are named under a chart
DIGITS: Final = 5  # significant digits of a number


@dataclass(frozen=True, slots=True)
class Row:
    """One interval of a series: a row of the table, from which the script draws the chart."""

    start: int
    end: int
    at: str
    energy: str
    mean: str
    low: str
    high: str
    known: float
    known_text: str
    flags: str
    doubtful: bool
    gaps: str  # the gaps for the chart: items reason:ms:whole_ms as in the agent's answer, separated by blanks
    missing: str  # the same gaps in words, for the table
    # (sequence, URL) of the first and last pack from which the interval was computed
    packs: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """One chart with its table."""

    key: str
    title: str
    unit: str
    mean_unit: str
    total: str
    known: str
    low: bool
    rows: Sequence[Row]
    source: str = ""
    has_range: bool = False
    has_energy: bool = True
    has_packs: bool = False
    # (code of a reason, text of the reason, duration)
    reasons: Sequence[tuple[str, str, str]] = field(default_factory=tuple)
    lacking: Sequence[tuple[str, str, str]] = ()  # devices with missing data: (name, URL, what is missing and why)
    more_lacking: int = 0
    flow: str = ""  # the direction of the energy, if the page has a chart for each direction


def number(value: float | None) -> str:
    """Format a number with 5 significant digits and thin spaces between thousands.

    None and non-finite values give "–".
    """
    if value is None or not math.isfinite(value):
        return "–"
    # from 99,999.5 on, the format g would round to 1e+05
    text = f"{value:,.{DIGITS}g}" if abs(value) < 10**DIGITS - 0.5 else f"{value:,.0f}"
    if "e" in text:
        text = f"{value:.6f}".rstrip("0").rstrip(".") if abs(value) >= 1e-6 else "0"
    if text == "-0":
        text = "0"
    return text.replace(",", "\u2009")


def day_links(shown: date, days: Sequence[str], today: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return links to the previous day, the next day and today ("" for no link), and the bounds of the calendar."""

    def to(day: str) -> str:
        return f"/day?{urlencode({**query, 'date': day})}"

    earlier = [day for day in days if day < str(shown)]
    later = [day for day in [*days, today] if day > str(shown)]
    return {
        "earlier": to(earlier[-1]) if earlier else "",
        "later": to(min(later)) if later else "",
        "today": to(today) if str(shown) != today else "",
        "first_day": days[0] if days else today,
        "last_day": today,
    }


def site_day(
    answer: Mapping[str, Any], language: str, labels: Mapping[str, str], silent: Mapping[str, Silence]
) -> dict[str, Any]:
    """Return the template values for the page of the whole site: a chart for each role, and a table of the devices.

    Args:
        silent: devices that do not answer, as returned by ``agent.cli.findings.silent_devices``.
    """
    zone = ZoneInfo(answer["timezone"])
    roles = sorted(answer["site"], key=lambda one: (one["role"].startswith("x."), one["role"], one["flow"]))
    known = [one for one in roles if one["rows"] and one["role"] != "check"]
    shown = [one for one in known if one["total"] != 0] or known  # show all if all are 0, as at night with PV only
    series = [_site_series(n, one, answer, zone, language, silent) for n, one in enumerate(shown)]
    return {
        "series": series,
        "devices": [_device_total(one, answer, language, labels, silent) for one in _listed(answer["devices"], silent)],
        **_frame(answer, language),
    }


def before_start(answer: Mapping[str, Any], first_day: str, device: str, language: str) -> str:
    """Return a text that explains why the first day with data has no data before its first interval; "" for other days.

    After an upgrade, the agent may have the reasons of gaps only from a later day on. This later day gets "" too,
    because earlier days have intervals.

    Args:
        device: the device of the page; "" for the whole site.
    """
    starts = [one["gaps_from"] for one in answer["devices"] if one["gaps_from"] is not None]
    if 0 in starts:  # 0 means that the agent has recorded the reasons of gaps since the device's first interval
        intervals = [*(answer["site"] or ()), *(point for one in answer["devices"] for point in one.get("points", ()))]
        starts = [start for start in starts if start] + [int(row[0]) for one in intervals for row in one["rows"]]
    if answer["day"] != first_day or not starts or not answer["from"] < min(starts) < answer["to"]:
        return ""
    time = _clock(min(starts), ZoneInfo(answer["timezone"]))
    return label("day.before_start.device" if device else "day.before_start", language, time=time)


def why_nothing(shown: date | None, days: Sequence[str], today: str, language: str, of: str = "day") -> str:
    """Return a text that explains why a day or period may have no data; "" if the reason is not known.

    Args:
        days: the days that have intervals, as ISO dates.
        of: ``day`` or ``period``.
    """
    if not days:
        return label("day.empty", language)
    if str(shown) > today:
        return label(f"{of}.future", language)
    if str(shown) < days[0]:
        return label("day.before", language, day=days[0])
    return label("day.early", language) if str(shown) == today and today not in days else ""


def _listed(devices: Sequence[Mapping[str, Any]], silent: Mapping[str, Silence]) -> list[Mapping[str, Any]]:
    """Return the devices in the answer, then the silent devices that the answer lacks, as they have no sealed pack."""
    nothing = {"label": "", "configured": True, "energy": (), "missing": {}}
    names = {one["device"] for one in devices}
    return [*devices, *({"device": name, **nothing} for name in silent if name not in names)]


def device_day(
    answer: Mapping[str, Any], language: str, wanted: Sequence[str], silent: Mapping[str, Silence]
) -> dict[str, Any]:
    """Return the template values for the page of one device: a chart for each of its main points.

    Args:
        wanted: points that the URL names; charts show these instead of the main points.
        silent: see ``site_day``.
    """
    zone = ZoneInfo(answer["timezone"])
    device: Mapping[str, Any] = answer["devices"][0]
    points = device.get("points", [])
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for one in points:
        by_name.setdefault(one["n"], []).append(one)
    wanted = wanted[:MOST_POINTS]
    chosen = [one for name in wanted for one in by_name.get(name, ())] or _main(points)
    without = [clean_text(name, 120) for name in wanted if name not in by_name]
    gaps: dict[int, list[tuple[str, int, int]]] = {}
    for start, reason, ms, whole in device.get("gaps", ()):
        gaps.setdefault(int(start), []).append((reason, int(ms), int(whole)))
    reasons = [
        (clean_text(reason, 40), reason_text(reason, language), duration(ms, language))
        for reason, (ms, _) in sorted(device.get("missing", {}).items(), key=lambda item: -item[1][0])
    ]
    series = [
        replace(
            _device_series(n, one, device["device"], answer, gaps, reasons, zone, language),
            flow=_flow(one["flow"], language) if len(by_name[one["n"]]) > 1 else "",
        )
        for n, one in enumerate(chosen)
    ]
    if gaps and not series:  # this day has gaps, but no reading of the device is sealed
        nothing = {"n": "", "kind": "gauge", "u": "", "mean_u": "", "total": None, "known": 0.0, "rows": ()}
        found = _device_series(0, nothing, device["device"], answer, gaps, reasons, zone, language)
        # The share is known only if the gaps cover the whole first interval. Otherwise the device may have become
        # silent in that interval, and its readings from before the silence may not be sealed yet
        known = found.known if sum(whole for *_, whole in gaps[min(gaps)]) >= answer["length"] * 1000 else ""
        series = [replace(found, title=label("day.gaps", language), source="", known=known)]
    others = [name for name in (*by_name, *device.get("left_out", ())) if name not in {one["n"] for one in chosen}]
    query = {"device": device["device"], "date": answer["day"]}
    since = device.get("gaps_from")
    return {
        "series": series,
        "without": without,
        "others": [
            (clean_text(name, 120), f"/day?{urlencode({**query, 'point': name})}") for name in others if name in by_name
        ],
        "reasons": reasons,
        "silent": _silent(device["device"], silent, answer["timezone"], language),
        "gaps_unknown": since is None or since > answer["from"],
        **_frame(answer, language),
    }


def _frame(answer: Mapping[str, Any], language: str) -> dict[str, Any]:
    zone = ZoneInfo(answer["timezone"])
    until = datetime.fromtimestamp(answer["until"], zone)
    return {
        "from": int(answer["from"]),
        "to": int(answer["to"]),
        "until": int(answer["until"]),
        "until_text": "" if answer["until"] >= answer["to"] else f"{until:%H:%M}",
        "closed": answer["closed"],
        "zone": answer["timezone"],
        "length": duration(answer["length"] * 1000, language),
    }


def _main(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the points to show first: counters with a role, or all counters if none has a role; then the power."""
    counters = [one for one in points if one["kind"] == "counter" and one["rows"]]
    roles = [one for one in counters if one["role"]] or counters
    fewest = min((one["n"].count(".") for one in roles), default=0)
    found = [one for one in roles if one["n"].count(".") == fewest and "energy" in one["n"]] or roles
    powers = [one for one in points if one["kind"] == "gauge" and ".power" in one["n"] and one["rows"]]
    power = [one for one in powers if one["n"] == powers[0]["n"]]
    return [*found[: MAIN_POINTS - 1], *power] or list(points[:1])


def _clock(seconds: float, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(seconds, zone):%H:%M}"


def _span(start: int, end: int, zone: ZoneInfo) -> str:
    return f"{_clock(start, zone)}–{_clock(end, zone)}"


def _flags(flags: Iterable[str], language: str) -> tuple[str, bool]:
    """Return (text of the flags, True if one of them makes the amount doubtful)."""
    found = [clean_text(flag, 30) for flag in flags]
    words = ", ".join(FLAGS[language].get(flag, flag) for flag in found)
    return words, bool({"suspect", "estimated", "spread", "glitch", "swap", "reset", "clock"} & set(found))


def _site_series(
    n: int,
    one: Mapping[str, Any],
    answer: Mapping[str, Any],
    zone: ZoneInfo,
    language: str,
    silent: Mapping[str, Silence],
) -> Series:
    """Return the series of a role.

    The gaps of an interval are those of the device with the most missing data, because a mean over devices would
    hide them.
    """
    rows, gaps = [], {int(start): gap for start, *gap in one.get("gaps", ())}
    sealed = {int(row[0]): row for row in one["rows"]}
    for start in sorted({*sealed, *gaps}):
        _, energy, mean, known, estimated, flags = sealed.get(start, (start, None, None, 0.0, 0.0, ()))
        words, doubtful = _flags(flags, language)
        end, (device, devices, reasons) = int(start) + int(answer["length"]), gaps.get(int(start), ("", 0, ()))
        rows.append(
            Row(
                int(start), end, _span(int(start), end, zone), number(energy), number(mean), "", "", float(known),
                share(known) if start in sealed else "–", words, doubtful or estimated > 0.1,
                " ".join(f"{_word(reason)}:{ms}:{whole}" for reason, ms, whole in reasons),
                _who_lacks(device, devices, reasons, language) if devices else "",
            )
        )  # fmt: skip
    seen = dict.fromkeys(reason for _, _, reasons in gaps.values() for reason, _, _ in reasons)
    lacking = _lacking(one, answer, language, silent)
    return Series(
        f"site{n}",
        clean_text(title_of(f"{one['role']}.{one['flow']}")[language], 80),
        show_unit(clean_text(one["u"], 20)),
        show_unit(clean_text(one["mean_u"], 20)),
        number(one["total"]),
        share(one["known"]),
        one["known"] < GOOD,
        rows,
        reasons=[(_word(reason), reason_text(reason, language), "") for reason in seen],
        lacking=lacking[:MOST_LACKING],
        more_lacking=len(lacking[MOST_LACKING:]),
    )


def _who_lacks(device: str, devices: int, reasons: Sequence[tuple[str, int, int]], language: str) -> str:
    """Return a text about the devices with missing data, such as ``inv2: no answer in time 15 min; and 3 more``."""
    why = "; ".join(f"{reason_text(reason, language)} {duration(ms, language)}" for reason, ms, _ in reasons)
    more = label("lacking.more", language, count=devices - 1) if devices > 1 else ""
    return f"{clean_text(device, 80)}{label('colon', language)}{why}{more}"


def _lacking(
    one: Mapping[str, Any], answer: Mapping[str, Any], language: str, silent: Mapping[str, Silence]
) -> list[tuple[str, str, str]]:
    """Return the devices with this role that lack data on the day. The device with the most missing data comes first.

    Each item is (name, URL, text with the missing time and its reasons).
    """
    found = []
    for device in answer["devices"]:
        name, missing = device["device"], device["missing"]
        counts = any((energy["role"], energy["flow"]) == (one["role"], one["flow"]) for energy in device["energy"])
        if not counts or not (missing or name in silent):
            continue
        why = [_silent(name, silent, answer["timezone"], language)] if name in silent else []
        for reason, (ms, _) in sorted(missing.items(), key=lambda item: -item[1][0]):
            why.append(f"{reason_text(reason, language)} {duration(ms, language)}")
        whole_ms, ms = (sum(both[n] for both in missing.values()) for n in (1, 0))
        href = f"/day?{urlencode({'date': answer['day'], 'device': name})}"
        found.append((name not in silent, -whole_ms, -ms, name, href, "; ".join(why)))
    return [(clean_text(name, 80), href, why) for *_, name, href, why in sorted(found)]


def _device_series(
    n: int,
    one: Mapping[str, Any],
    device: str,
    answer: Mapping[str, Any],
    gaps: Mapping[int, Sequence[tuple[str, int, int]]],
    reasons: Sequence[tuple[str, str, str]],
    zone: ZoneInfo,
    language: str,
) -> Series:
    by_start = {int(row[0]): row for row in one["rows"]}
    length = int(answer["length"])
    rows = []
    for start in sorted({*by_start, *gaps}):
        row = by_start.get(start) or (start, start + length, None, None, None, None, 0.0, (), None, None)
        _, end, energy, mean, low, high, known, flags, first, last = row
        words, doubtful = _flags(flags, language)
        here = gaps.get(start, ())
        sealed = (
            start in by_start or sum(whole for *_, whole in here) >= length * 1000
        )  # False: nothing but gaps is known of this interval
        rows.append(
            Row(
                start, int(end), _span(start, int(end), zone), number(energy), number(mean),
                "" if low is None else number(low), "" if high is None else number(high), float(known),
                share(known) if sealed else "–",
                words, doubtful, " ".join(f"{_word(reason)}:{ms}:{whole}" for reason, ms, whole in here),
                "; ".join(f"{reason_text(reason, language)} {duration(ms, language)}" for reason, ms, _ in here),
                _packs(device, first, last),
            )
        )  # fmt: skip
    return Series(
        f"point{n}",
        clean_text(one["n"], 120),
        show_unit(clean_text(one["u"], 20)),
        show_unit(clean_text(one["mean_u"], 20)),
        number(one["total"]),
        share(one["known"]),
        one["known"] < GOOD,
        rows,
        source=f"{device_href(device)}/{quote(one['n'], safe='')}",
        has_range=any(row.low for row in rows),
        has_energy=one["kind"] == "counter" or bool(one["u"]),
        has_packs=True,
        reasons=reasons,
    )


def _word(reason: str) -> str:
    return "".join(char for char in reason if char.isalnum() or char == "_")[:40] or "unknown"


def _packs(device: str, first: int | None, last: int | None) -> tuple[tuple[int, str], ...]:
    if first is None or last is None:
        return ()
    numbers = (int(first),) if first == last else (int(first), int(last))
    return tuple((seq, f"/pack/{quote(device, safe='')}/{seq}") for seq in numbers)


def _silent(name: str, silent: Mapping[str, Silence], timezone: str, language: str) -> str:
    return silent_since(silent[name], timezone, language) if name in silent else ""


def _device_total(
    one: Mapping[str, Any],
    answer: Mapping[str, Any],
    language: str,
    labels: Mapping[str, str],
    silent: Mapping[str, Silence],
) -> dict[str, Any]:
    name = one["device"]
    main = [energy for energy in one["energy"] if energy["role"]] or one["energy"][:1]
    both = Counter(energy["n"] for energy in main)  # a point can have two amounts, one for each direction of the energy
    return {
        "name": name,
        "label": clean_text(own_text(one["label"], language) or labels.get(name, ""), 80),
        "href": f"/day?{urlencode({'date': answer['day'], 'device': name})}",
        "configured": one["configured"],
        "silent": _silent(name, silent, answer["timezone"], language),
        "energy": [
            {
                "point": clean_text(energy["n"], 120),
                "flow": _flow(energy["flow"], language) if both[energy["n"]] > 1 else "",
                "total": number(energy["total"]),
                "unit": show_unit(clean_text(energy["u"], 20)),
                "known": share(energy["known"]),
                "low": energy["known"] < GOOD,
            }
            for energy in main
        ],
        "missing": [
            (reason_text(reason, language), duration(ms, language))
            for reason, (ms, _) in sorted(one["missing"].items(), key=lambda item: -item[1][0])
        ],
    }


def _flow(flow: str, language: str) -> str:
    known = FLOW_TITLES.get(flow)
    return clean_text(known[LANGUAGES.index(language)] if known else flow, 40)


def day_of(text: str) -> date | None:
    """Return the date in a URL; None if it is invalid or outside the years 1970 to 2199."""
    try:
        found = date.fromisoformat(text[:10])
    except ValueError:
        return None
    return found if 1970 <= found.year <= 2199 and len(text) == 10 else None
