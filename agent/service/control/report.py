"""Serves a report: the intervals of a period day by day, then its page as parts of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from agent.config import Config
from agent.indicators.compute import period_of
from agent.indicators.declared import from_dict
from agent.indicators.report import Reporter
from agent.indicators.site import BalanceReport
from agent.intervals.calendar import Calendar
from agent.intervals.sums import Unwritten, sums
from agent.service.births import derived_row
from agent.service.control.day import add_missing, day_of, now_of, send
from agent.service.control.export import is_ours
from agent.service.control.period import STREAMS_AT_ONCE, FetchedPages, fetch_pages, known_until, unwritten_of, validity
from agent.service.control.protocol import Access, PeriodReport, Reply
from agent.service.results.site import read
from agent.store import Store


async def answer(access: Access, request: PeriodReport, reply: Reply) -> dict[str, Any]:
    """Gives the length of the page; or only that it is unchanged since the client's ``stamp``."""
    config, day, now_ms = access.config, day_of(request.day), now_of(access, request.now_ms)
    calendar = Calendar(config.timezone, config.interval.length_ms)
    at_ms = calendar.midnight(day) if day is not None else now_ms
    until_ms = await access.call(partial(known_until, now_ms))
    period = period_of(calendar, request.period, at_ms, until_ms)
    ends = (period.start_ms, period.end_ms)
    valid = await access.call(partial(validity, access, calendar, *ends, now_ms, request.after_change))
    if request.unless == valid.stamp:
        return {"unchanged": True, **valid.as_dict()}
    plan = await asyncio.to_thread(read, config)
    entries = [from_dict(plain) for plain in await access.call(lambda store: store.documents.declarations())]
    reporter = Reporter(plan, calendar, period, entries, request.by)
    balancer = BalanceReport(calendar, period, config.base, [derived_row(one) for one in config.derived])
    unwritten, missing = unwritten_of(config), _Missing(config)
    streams = await access.call(lambda store: [name for name in store.packs.heads() if not is_ours(name)])
    days = list(calendar.stretches("day", period.start_ms, max(period.until_ms, period.start_ms)))
    for done, (start, end) in enumerate(days, 1):
        until = min(end, period.until_ms)
        pages = await fetch_pages(access, start, until, streams)
        late = await access.call(partial(unwritten.before, at_ms=until))
        # in a thread: the loop has lines to serve, and the database thread readings to seal
        await access.compute(partial(_add, reporter, balancer, calendar, start, end, until, pages, late))
        for at in range(0, len(streams), STREAMS_AT_ONCE):
            await access.call(partial(missing.add, streams[at : at + STREAMS_AT_ONCE], start, until))
        reply.progress(done, len(days))
    page = await access.compute(partial(_page, config, reporter, balancer))
    page |= valid.as_dict() | {"devices": await access.call(missing.devices)}
    return await send(access, reply, page)


def _page(config: Config, reporter: Reporter, balancer: BalanceReport) -> dict[str, Any]:
    page = reporter.page() | balancer.page()
    page |= {"site": config.site, "gateway": config.gateway, "label": config.site_label, "timezone": config.timezone}
    return page | {"config": config.hash()}


class _Missing:
    """What each device lacks of a period, by reason. Used in the database thread."""

    def __init__(self, config: Config) -> None:
        self._labels = {f"{config.base}/{device.name}": device.label for device in config.devices}
        self._found: dict[str, dict[str, list[int]]] = {}

    def add(self, streams: Sequence[str], start_ms: int, end_ms: int, store: Store) -> None:
        """One day of some streams."""
        for stream, row in store.intervals.gaps.rows(start_ms, end_ms, streams):
            add_missing(self._found.setdefault(stream, {}), row.reason, row.ms, row.whole_ms)

    def devices(self, store: Store) -> list[dict[str, Any]]:
        """All that are configured, and others that lack something."""
        starts = store.intervals.gaps.starts()
        return [
            {
                "device": stream.rpartition("/")[2],
                "label": self._labels.get(stream, ""),
                "missing": self._found.get(stream, {}),
                "gaps_from": starts[stream] // 1000 if stream in starts else None,
            }
            for stream in sorted(self._labels.keys() | self._found.keys())
        ]


def _add(
    reporter: Reporter,
    balancer: BalanceReport,
    calendar: Calendar,
    start: int,
    end: int,
    until: int,
    pages: FetchedPages,
    late: Sequence[Unwritten],
) -> None:
    """One day, known up to ``until``."""
    takers = balancer.takers(start, end)
    reporter.add(sums(pages, calendar, start, until, trail="whole", meters=takers, unwritten=late))
    balancer.add(takers, start, end)
