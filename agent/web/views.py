"""Makes the values for the templates of the live pages."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

from agent.certificates import WARN_DAYS
from agent.cli.common import NoAgent, learned_maps, show_age, show_quality
from agent.cli.finding_words import LANGUAGES, device_reason, reason_words
from agent.cli.findings import DOUBTFUL, EARLY, show_size
from agent.cli.main_points import main_values
from agent.cli.reading_words import QUALITIES, line_trouble
from agent.cli.report.labels import own_text, share
from agent.cli.ring_follower import GAP_CODES, Latest, last_answer, show_number, show_short
from agent.web.labels import label, value_word
from agent.web.live import Moment
from agent.web.render import in_language, short_title
from drivers.line.trace import read_trace
from drivers.model import GatewayError, clean_text

MOST_FRAMES: Final = 200
STATES: Final = ("alive", "dead", "asleep", "unknown", "swapped")
GOOD: Final = 0.9  # if a smaller share of the due readings arrived, the share is marked as low
# A value is old if its age exceeds both OLD_S and OLD_PERIODS periods of its point. The period is the time between the
# point's last two ticks in the ring; for a few points it is a day.
OLD_S: Final = 5.0
OLD_PERIODS: Final = 3


@dataclass(frozen=True, slots=True)
class ShownPoint:
    """A point as the tables show it."""

    name: str
    unit: str
    kind: str
    value: str
    exact: str  # the value with all digits, shown on hover
    quality: str  # "" if the quality is good
    missing: bool
    old: bool  # True: the value is older than its period allows, so the agent or the line may hang
    age: str
    href: str


def now_view(
    moment: Moment, language: str, labels: Mapping[str, str], certificate_ends: float | None = None
) -> dict[str, Any]:
    """Return the values for the first page. ``certificate_ends``: expiry of the page's certificate in UTC seconds."""
    snapshot, outdated = moment.snapshot, moment.outdated
    devices = [
        _device_row(name, facts, moment, language, labels) for name, facts in snapshot.get("devices", {}).items()
    ]
    own = _own_findings(certificate_ends, moment.time, language)
    return {
        "problem": in_language(moment.error, language) if moment.error is not None else "",
        "catching_up": moment.catching_up,
        "findings": [
            {"level": one.level, "text": one.text(language), "advice": one.advice(language)} for one in moment.findings
        ]
        + own,
        "verdict": _verdict(moment, language, [str(one["level"]) for one in own]),
        "age": "" if moment.stopped or not snapshot else show_age(moment.age_s, language),
        "head": [] if moment.stopped else _head(snapshot, language),
        "devices": devices,
        "lines": [_line_row(name, facts, outdated, language) for name, facts in snapshot.get("lines", {}).items()],
        "uplinks": [
            _uplink_row(name, facts, outdated, language) for name, facts in snapshot.get("uplinks", {}).items()
        ],
        "learned": learned_maps(snapshot, language),
        "refreshes": True,
    }


def _own_findings(certificate_ends: float | None, now: float, language: str) -> list[dict[str, Any]]:
    """Return findings about the page itself, such as a certificate that expires soon."""
    if certificate_ends is None or (days := (certificate_ends - now) / 86_400) > WARN_DAYS:
        return []
    key = "certificate.ends" if days > 0 else "certificate.ended"
    advice = label("certificate.renew", language)
    level = "error" if days <= 0 else "warning"
    return [{"level": level, "text": label(key, language, days=max(1, round(abs(days)))), "advice": advice}]


def _verdict(moment: Moment, language: str, own: Sequence[str]) -> tuple[str, str]:
    """Return (CSS class, sentence that says whether all is well).

    ``own``: levels of the findings about the page itself.
    """
    if moment.error is not None:
        return "bad", label("verdict.stopped" if isinstance(moment.error, NoAgent) else "verdict.unseen", language)
    levels = Counter([*(one.level for one in moment.findings), *own])
    faults, warnings = levels["error"], levels["warning"]
    if faults:
        text = label("verdict.faults" if faults > 1 else "verdict.fault", language, count=faults)
        more = label("verdict.more" if warnings > 1 else "verdict.one_more", language, count=warnings)
        return "bad", text + (more if warnings else "")
    if warnings:
        return "soft", label("verdict.warnings" if warnings > 1 else "verdict.warning", language, count=warnings)
    if any(one.code in EARLY for one in moment.findings):
        return "soft", label("verdict.early", language)
    return "good", label("verdict.well", language)


def _head(snapshot: Mapping[str, Any], language: str) -> list[tuple[str, str]]:
    """Return (name, value) pairs about the gateway itself."""
    if not snapshot:
        return []
    store, clock, key = (snapshot.get(name, {}) for name in ("store", "clock", "key"))
    synced = {True: "clock.synced", False: "clock.not"}.get(clock.get("synced"), "clock.unknown")
    rows = [("head.clock", label(synced, language, error=round(clock.get("error_ms") or 0)))]
    if (running_s := snapshot.get("running_for")) is not None:
        rows.insert(0, ("head.running", show_age(float(running_s), language)))
    if store.get("size_bytes") is not None:
        size, limit, free = (
            show_size(store.get(name) or 0) for name in ("size_bytes", "limit_bytes", "disk_free_bytes")
        )
        rows.append(("head.store", label("store.of", language, size=size, limit=limit, free=free)))
    if key.get("thumbprint"):
        rows.append(("head.key", str(key["thumbprint"])))
    rows.append(("head.boot", str(snapshot.get("boot", "?"))))
    return [(label(name, language), clean_text(value, 200)) for name, value in rows]


def _device_row(
    name: str, facts: Mapping[str, Any], moment: Moment, language: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    recent = facts.get("recent") or {}
    state = "swapped" if facts.get("swapped") else str(facts.get("life", "unknown"))
    outdated = moment.outdated
    complete, missing = (None, {}) if outdated else (recent.get("complete"), recent.get("missing") or {})
    worst = max(missing, key=missing.__getitem__, default="")
    last = last_answer(facts, moment.points.get(name, ()))
    return {
        "name": name,
        "label": clean_text(own_text(labels.get(name, ""), language), 80),
        "href": device_href(name),
        "state": "unknown" if outdated or state not in STATES else state,
        "state_text": "–"
        if outdated
        else label(f"state.{state}", language)
        if state in STATES
        else clean_text(state, 20),
        "complete": "–" if complete is None else share(complete),
        "low": complete is not None and complete < GOOD,
        "worst": clean_text(device_reason(worst, facts)[LANGUAGES.index(language)], 60) if worst else "",
        "worst_count": missing.get(worst, ""),
        "doubtful": "" if outdated else sum((recent.get("marked") or {}).get(quality, 0) for quality in DOUBTFUL) or "",
        "last": show_age(moment.time - last, language) if last else "–",
        "line": str(facts.get("line", "?")),
        "line_href": f"/frames/{quote(str(facts.get('line', '')), safe='')}",
        "profile": str(facts.get("profile", "")),
        "values": [shown(one, moment, language) for one in _main_points(moment.points.get(name, ()))],
    }


def device_href(name: str) -> str:
    """Return the URL of a device's page."""
    return f"/device/{quote(name, safe='')}"


def reason_text(reason: str, language: str) -> str:
    """Return the reason of a gap in words."""
    return clean_text(reason_words(reason)[LANGUAGES.index(language)], 60)


def _main_points(points: Iterable[Latest]) -> list[Latest]:
    """Return the points that the page shows first."""
    by_name = {one.point.name: one for one in points}
    return [
        by_name[name]
        for name in main_values((name, one.point.kind, one.quality >= GAP_CODES) for name, one in by_name.items())
    ]


def shown(latest: Latest, moment: Moment, language: str) -> ShownPoint:
    """Return a point in the form that the tables show."""
    missing = latest.quality >= GAP_CODES
    name = show_quality(latest.quality)
    at = LANGUAGES.index(language)
    quality = reason_words(name)[at] if missing else QUALITIES.get(name, (name, name))[at]
    value = show_short(latest.value, latest.point.kind, latest.point.is_float)
    period_s = 86_400 if latest.point.is_daily else latest.period_ms / 1000
    limit_s = max(OLD_S, OLD_PERIODS * period_s)
    is_old = not missing and latest.period_ms > 0 and moment.time - latest.time_ns / 1e9 > limit_s
    if not latest.time_ns:
        quality = label("unread", language)
    elif is_old:
        quality = ", ".join(filter(None, (quality, label("old", language))))
    return ShownPoint(
        clean_text(latest.point.name, 120),
        clean_text(latest.point.unit, 20),
        latest.point.kind,
        clean_text("–" if value == "-" else value, 80),
        clean_text("" if latest.value is None else show_number(latest.value), 80),
        clean_text(quality, 60),
        missing,
        is_old,
        show_age(latest.age_s(int(moment.time * 1e9)), language),
        f"{device_href(latest.point.device)}/{quote(latest.point.name, safe='')}",
    )


def _line_row(name: str, facts: Mapping[str, Any], outdated: bool, language: str) -> dict[str, Any]:
    busy, lent = facts.get("busy_share"), facts.get("lent")
    state = label("line.lent", language, who=clean_text(str(lent), 60)) if lent else ""
    return {
        "name": name,
        "href": f"/frames/{quote(name, safe='')}",
        "kind": "unknown" if outdated else "alive" if facts.get("open") else "dead",
        "state": "–" if outdated else state or label("line.open" if facts.get("open") else "line.closed", language),
        "busy": f"{busy * 100:.0f} %" if busy is not None else "–",
        "asked": sum((facts.get("sent") or {}).values()),
        "answers": facts.get("answers", "–"),
        "trouble": line_trouble(facts, language),
        "url": clean_text(str(facts.get("url", "?")), 200),
    }


def _uplink_row(name: str, facts: Mapping[str, Any], outdated: bool, language: str) -> dict[str, Any]:
    connected = bool(facts.get("connected", True))
    state = label("uplink.connected" if connected else "uplink.not", language)
    if facts.get("backfilling"):
        state += f", {label('uplink.backfilling', language)}"
    subscriber = {True: "yes", False: "no"}.get(facts.get("subscriber"), "unknown")  # type: ignore[arg-type]
    return {
        "name": name,
        "kind": "unknown" if outdated else "alive" if connected else "dead",
        "state": "–" if outdated else state,
        "subscriber": label(f"subscriber.{subscriber}", language),
        **{key: facts.get(key, "–") for key in ("waiting", "confirmed", "refused")},
        "confirm": value_word("confirm", str(facts.get("confirm") or "–"), language),
    }


def device_view(moment: Moment, language: str, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the values for the page of one device."""
    facts = moment.snapshot.get("devices", {}).get(name, {})
    row = _device_row(name, facts, moment, language, labels)
    identity = {
        short_title(str(key), language)[:60]: value_word("", str(value), language)
        for key, value in (facts.get("identity") or {}).items()
        if value is not None
    }
    return {
        "device": row,
        "problem": in_language(moment.error, language) if moment.error is not None else "",
        "error": _say(str(facts.get("error") or ""), language),
        "variant": clean_text(str(facts.get("variant") or ""), 120),
        "identity": identity,
        "missing": [
            (reason_text(reason, language), count)
            for reason, count in ((facts.get("recent") or {}).get("missing") or {}).items()
            if not moment.outdated
        ],
        "points": [shown(one, moment, language) for one in moment.points.get(name, ())],
        "catching_up": moment.catching_up,
        "refreshes": True,
    }


def _say(text: str, language: str) -> str:
    """Return a text of the agent, translated if the catalogue has a translation."""
    if text and language == "zh":
        from agent.cli.chinese import translate

        text = translate(text)
    return clean_text(text, 300)


def frames_view(folder: Path, moment: Moment, name: str, timezone: str, language: str) -> dict[str, Any]:
    """Return the values for the page of a line's last frames, the newest first. Raises GatewayError if unreadable."""
    from agent.cli.watch.frames import FrameJoiner, ShownFrame, frames_path

    path = frames_path(folder, name, moment.snapshot)
    frames: list[ShownFrame] = []
    joiner, zone = FrameJoiner(), ZoneInfo(timezone)
    try:
        frames = [*joiner.join(read_trace(path, 0), time.time_ns()), *joiner.rest()]
    except FileNotFoundError:
        pass  # the line has not been opened yet
    except (OSError, ValueError) as error:
        raise GatewayError(f"cannot be read: {error}", where=str(path)) from error
    rows = [
        {
            "number": one.number,
            "at": datetime.fromtimestamp(one.time_ns // 1_000_000_000, zone),
            "ms": f"{one.time_ns // 1_000_000 % 1000:03d}",
            "direction": one.direction % 4,
            "hex": one.data.hex(" ").upper(),
            "broken": _say(one.broken, language),
        }
        for one in reversed(frames[-MOST_FRAMES:])
    ]
    facts = moment.snapshot.get("lines", {}).get(name, {})
    return {
        "line": name,
        "url": clean_text(str(facts.get("url", "?")), 200),
        "rows": rows,
        "lines": [(one, f"/frames/{quote(one, safe='')}") for one in moment.snapshot.get("lines", {})],
        "refreshes": True,
    }
