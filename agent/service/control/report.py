"""Serves a report: the intervals of a period day by day, then its page as one part of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import Any

from agent.config import Config
from agent.indicators.compute import period_of
from agent.indicators.declared import from_dict
from agent.indicators.report import Reporter
from agent.indicators.site import BalanceReport
from agent.intervals.calendar import Calendar
from agent.intervals.meters import MeterSums
from agent.intervals.rows import RoleSum
from agent.intervals.sums import sums
from agent.service.births import derived_row
from agent.service.control.protocol import Access, PeriodReport, Reply
from agent.service.results.balance import UnwrittenStreams
from agent.service.results.indicators import read
from agent.store import Store
from drivers.model import UsageError, clean_text

FIRST_YEAR, LAST_YEAR = 1970, 2199
SETTLED_MS = 2 * 3_600_000  # intervals that are not written by then were not read


async def answer(access: Access, request: PeriodReport, reply: Reply) -> dict[str, Any]:
    """Gives the length of the page.

    A running agent uses its own clock, by which its intervals were cut.
    """
    config, day = access.config, _day_of(request.day)
    now_ms = request.now_ms if access.service is None else access.service.clock.now_ms()
    calendar = Calendar(config.timezone, config.interval.length_ms)
    at_ms = calendar.midnight(day) if day is not None else now_ms
    until_ms = await access.call(partial(_known_until, now_ms))
    period = period_of(calendar, request.period, at_ms, until_ms)
    plan = await asyncio.to_thread(read, config)
    entries = [from_dict(plain) for plain in await access.call(lambda store: store.documents.declarations())]
    reporter = Reporter(plan, calendar, period, entries, request.by)
    balancer = BalanceReport(calendar, period, config.base, [derived_row(one) for one in config.derived])
    unwritten = UnwrittenStreams(config)
    days = list(calendar.stretches("day", period.start_ms, max(period.until_ms, period.start_ms)))
    for done, (start, end) in enumerate(days, 1):
        takers = balancer.takers(start, end)
        found = await access.call(partial(_day, calendar, start, min(end, period.until_ms), takers, unwritten))
        await asyncio.to_thread(reporter.add, found)  # in a thread: the loop has lines to serve
        await asyncio.to_thread(balancer.add, takers, start, end)
        reply.progress(done, len(days))
    text = await asyncio.to_thread(_page, config, reporter, balancer)
    for at in range(0, len(text), 1 << 19):
        await reply.part(text[at : at + (1 << 19)])
    return {"bytes": len(text)}


def _page(config: Config, reporter: Reporter, balancer: BalanceReport) -> bytes:
    page = reporter.page() | balancer.page()
    page |= {"site": config.site, "gateway": config.gateway, "label": config.site_label, "timezone": config.timezone}
    page |= {"config": config.hash()}
    return json.dumps(page, ensure_ascii=False, separators=(",", ":")).encode()


def _day(
    calendar: Calendar, start: int, end: int, takers: Sequence[MeterSums], unwritten: UnwrittenStreams, store: Store
) -> list[RoleSum]:
    late = unwritten.before(store, end)
    return sums(store.intervals, calendar, start, end, trail="whole", meters=takers, unwritten=late)


def _known_until(now_ms: int, store: Store) -> int:
    """The end of the newest interval if it is recent, else ``now_ms``."""
    ends = (page.to_ms for page in store.intervals.interval_pages(now_ms - SETTLED_MS, now_ms))
    return max((end for end in ends if end <= now_ms), default=now_ms)


def _day_of(text: str) -> date | None:
    """The day of a request; None: today. Raises UsageError."""
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"invalid date {clean_text(text, 40)!r}", where="report", hint="Example: 2026-11-24") from None
    if not FIRST_YEAR <= day.year <= LAST_YEAR:  # the days before and after must be valid dates, too
        hint = f"Reports cover the years {FIRST_YEAR} to {LAST_YEAR}"
        raise UsageError(f"no report for {day}", where="report", hint=hint)
    return day
