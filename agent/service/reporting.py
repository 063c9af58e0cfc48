"""Answers a request for a report: the intervals of a period day by day, then its page as one part of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Any

from agent.indicators.compute import period_of
from agent.indicators.declared import from_dict
from agent.indicators.definitions import read_plan
from agent.indicators.figure import Period
from agent.indicators.plan import make_plan
from agent.indicators.report import FINER, Reporter
from agent.indicators.site import Balancer
from agent.intervals.cut import Cut
from agent.intervals.meters import Meters
from agent.intervals.rows import RoleSum
from agent.intervals.sums import sums
from agent.service.requests import Access, Reply
from agent.service.tables import derived_row
from agent.service.unwritten import UnwrittenStreams
from agent.store import Store
from drivers.model import UsageError, clean_text

SETTLED_MS = 2 * 3_600_000  # what is not written by then was not read


async def answer(access: Access, body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """``body``: period (day, month, year, rolling), day (any date inside; empty: today), now_ms, by (hour, interval).

    A running agent goes by its own clock: it is the one that its intervals were cut by.
    """
    config = access.config
    kind, day, now_ms = checked(body)
    if access.service is not None:
        now_ms = access.service.grid.now_ms()
    cut = Cut(config.timezone, config.interval.length_ms)
    at_ms = cut.midnight(day) if day is not None else now_ms
    until_ms = await access.call(partial(_known_until, now_ms))
    period: Period = period_of(cut, kind, at_ms, until_ms)  # type: ignore[arg-type]
    plan = make_plan(read_plan(config.indicators.plan), str(config.indicators.plan or "plan"))
    entries = [from_dict(plain) for plain in await access.call(Store.declarations)]
    reporter = Reporter(plan, cut, period, entries, "interval" if body.get("by") == "interval" else "hour")
    balancer = Balancer(cut, period, config.base, [derived_row(one) for one in config.derived])
    unwritten = UnwrittenStreams(config)
    days = list(cut.stretches("day", period.start_ms, max(period.until_ms, period.start_ms)))
    for done, (start, end) in enumerate(days, 1):
        takers = balancer.takers(start, end)
        reporter.add(await access.call(partial(_day, cut, start, min(end, period.until_ms), takers, unwritten)))
        balancer.add(takers, start, end)
        reply.progress(done, len(days))
    page = reporter.page() | balancer.page()
    page |= {"site": config.site, "gateway": config.gateway, "label": config.site_label, "timezone": config.timezone}
    page |= {"config": config.hash()}
    text = json.dumps(page, ensure_ascii=False, separators=(",", ":")).encode()
    for at in range(0, len(text), 1 << 19):
        await reply.part(text[at : at + (1 << 19)])
    return {"bytes": len(text)}


def _day(
    cut: Cut, start: int, end: int, takers: Sequence[Meters], unwritten: UnwrittenStreams, store: Store
) -> list[RoleSum]:
    late = unwritten.before(store, end)
    return sums(store, cut, start, end, trail="whole", meters=takers, unwritten=late)


def _known_until(now_ms: int, store: Store) -> int:
    """The end of the newest interval, unless it is long past: then nothing is known of what came after it."""
    ends = (page.to_ms for page in store.interval_pages(now_ms - SETTLED_MS, now_ms))
    return max((end for end in ends if end <= now_ms), default=now_ms)


def checked(body: Mapping[str, Any]) -> tuple[str, date | None, int]:
    """Period, day and the tool's clock of a request. Raises UsageError."""
    kind, day, now_ms = body.get("period"), body.get("day"), body.get("now_ms")
    if not isinstance(kind, str) or kind not in FINER:
        raise UsageError(f"a report is of a {', '.join(FINER)}", where="report")
    if type(now_ms) is not int or not 0 <= now_ms < 1 << 52:
        raise UsageError("now_ms is a time in ms", where="report")
    if day in ("", None):
        return kind, None, now_ms
    try:
        return kind, date.fromisoformat(str(day)), now_ms
    except ValueError:
        raise UsageError(f"{clean_text(str(day), 40)!r} is no date", where="report", hint="As 2026-11-24") from None


def last_whole(cut: Cut, now_ms: int) -> date:
    """Yesterday, local."""
    return cut.day(now_ms) - timedelta(days=1)
