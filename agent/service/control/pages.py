"""Serves the data of the gateway's page and of reports: a day by intervals, lists of days, births, packs, periods.

An answer is one JSON document, sent in parts. Its numbers keep all their digits. The size of an answer is limited:
an answer about one device has only the requested points, by default the main points. An answer about all devices has
only totals. The store is read in slices, so that sealing does not have to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from itertools import groupby, islice
from typing import Any, Final

import msgspec

from agent.config import Config
from agent.indicators.compute import period_of
from agent.indicators.declared import from_dict
from agent.indicators.figure import Period
from agent.indicators.report import Reporter
from agent.indicators.site import BalanceReport
from agent.intervals.amounts import mean_of, mean_of_role, tidy
from agent.intervals.calendar import Calendar
from agent.intervals.meters import MeterAmount, MeterSums
from agent.intervals.page_format import Column, PageSchema
from agent.intervals.query import query
from agent.intervals.rows import Flag, IntervalRow, RoleSum
from agent.intervals.sums import Unwritten, sums
from agent.service.births import derived_row
from agent.service.control.export import chosen, is_ours
from agent.service.control.period import STREAMS_AT_ONCE, FetchedPages, fetch_pages, known_until, unwritten_of, validity
from agent.service.control.protocol import Access, Birth, Day, Days, Pack, PeriodReport, Reply
from agent.service.results.site import read
from agent.store import Store
from agent.verify.signed import payload_hash
from drivers.encoding import base64url
from drivers.model import GatewayError, UsageError, clean_text

FIRST_YEAR, LAST_YEAR = 1970, 2199
MOST_POINTS: Final = 24  # if the request names no points, the answer has at most this number of points of a device
DAYS_AT_ONCE: Final = 32
PART_BYTES: Final = 1 << 19
NEWEST: Final = 1 << 53  # a request for the newest pack uses this number, because it is larger than every sequence
_PER_HOUR: Final[Mapping[str, str]] = {"kWh": "kW", "kvarh": "kvar", "kVAh": "kVA"}

_encoder = msgspec.json.Encoder(decimal_format="number")


async def answer(access: Access, request: Day | Days | Birth | Pack | PeriodReport, reply: Reply) -> dict[str, Any]:
    """Serve one of the requests that this module handles."""
    if isinstance(request, Days):
        return await days(access, request)
    if isinstance(request, Birth | Pack):
        return await signed(access, request, reply)
    if isinstance(request, PeriodReport):
        return await report(access, request, reply)
    return await day(access, request, reply)


def day_of(text: str, where: str = "report") -> date | None:
    """Parse the day of a request. Returns None if the text is empty, which means today. Raises UsageError."""
    if not text:
        return None
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"invalid date {clean_text(text, 40)!r}", where=where, hint="Example: 2026-11-24") from None
    # the day must be far from the limits of ``date``, because other days are computed from it
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        hint = f"Reports cover the years {FIRST_YEAR} to {LAST_YEAR}"
        raise UsageError(f"no report for {found}", where=where, hint=hint)
    return found


def now_of(access: Access, now_ms: int) -> int:
    """Return the time of the answer in UTC ms.

    This is the time of the agent's clock, which intervals use too. If no agent runs, it is ``now_ms`` of the request.
    """
    return now_ms if access.service is None else int(access.service.clock.now_ms())


async def send(access: Access, reply: Reply, document: Mapping[str, Any]) -> dict[str, Any]:
    """Send a document in parts. Returns its length."""
    text = await access.compute(lambda: _encoder.encode(document))
    for at in range(0, len(text), PART_BYTES):
        await reply.part(text[at : at + PART_BYTES])
    return {"bytes": len(text)}


async def days(access: Access, request: Days) -> dict[str, Any]:
    """Return the local days that have intervals, and today. If the client already has this answer, say only that."""
    calendar = Calendar(access.config.timezone, access.config.interval.length_ms)
    now_ms = now_of(access, request.now_ms)
    valid = await access.call(partial(validity, access, calendar, 0, 0, now_ms, request.after_change))
    if request.unless == valid.stamp:
        return {"unchanged": True, **valid.as_dict()}
    found: list[str] = []

    def bounds_of(at_ms: int) -> tuple[int, int]:
        return calendar.stretch("day", at_ms)

    source: Iterator[int] | None = None

    def some(store: Store) -> list[str]:
        nonlocal source
        source = store.intervals.days(bounds_of) if source is None else source
        return [str(calendar.day(start)) for start in islice(source, DAYS_AT_ONCE)]

    while more := await access.call(some):
        found += more
    ends = {"first": found[0] if found else None, "last": found[-1] if found else None}
    today = str(calendar.day(now_ms))
    return valid.as_dict() | ends | {"days": found, "today": today, "timezone": calendar.timezone}


async def signed(access: Access, request: Birth | Pack, reply: Reply) -> dict[str, Any]:
    """Send a birth or another pack in parts, byte for byte. Returns its length and hash."""
    known = await access.call(lambda store: sorted(store.packs.heads()))
    (stream,) = chosen(known, [request.stream])
    is_birth, seq = isinstance(request, Birth), request.seq

    def read(store: Store) -> bytes | None:
        if is_birth:
            return store.packs.birth_before(stream, seq + 1 if seq else NEWEST)
        return next((pack.data for pack in store.packs.after(stream, seq - 1, seq, 1)), None)

    data = await access.call(read)
    if data is None:
        what = "the store has no birth pack with this time"
        if not is_birth:
            what = f"pack {seq} is not in the store: it was deleted, or is not sealed yet"
        hint = (
            "The agent deletes delivered packs after the time set by keep_delivered; "
            "the newest birth pack is never deleted"
            if is_birth
            else "The agent deletes delivered packs after the time set by keep_delivered; "
            "ask the platform for these packs"
        )
        raise GatewayError(what, where=clean_text(request.stream, 80), hint=hint)
    for at in range(0, len(data), PART_BYTES):
        await reply.part(data[at : at + PART_BYTES])
    return {"bytes": len(data), "hash": base64url(payload_hash(data))}


async def day(access: Access, request: Day, reply: Reply) -> dict[str, Any]:
    """Send the document of a day. Returns its length. If the client already has this document, say only that."""
    config = access.config
    calendar = Calendar(config.timezone, config.interval.length_ms)
    now_ms = now_of(access, request.now_ms)
    wanted = day_of(request.day, "day") or calendar.day(now_ms)
    start, end = calendar.midnight(wanted), calendar.midnight(wanted + timedelta(days=1))
    look = partial(validity, access, calendar, start, end, now_ms, request.after_change)
    valid = await access.call(
        look
    )  # The stamp is taken before the work: if intervals change during the work, the client then asks again.
    if request.unless == valid.stamp:
        return {"unchanged": True, **valid.as_dict()}
    until = end if end <= now_ms else max(start, await access.call(partial(known_until, now_ms)))
    known = await access.call(lambda store: sorted(name for name in store.packs.heads() if not is_ours(name)))
    work = _DayWork(config, calendar, start, min(until, end))
    if request.streams:
        streams = chosen(known, request.streams)
        site: list[dict[str, Any]] = []
        devices = []
        for done, stream in enumerate(streams, 1):
            devices.append(await work.device(access, stream, request.points))
            reply.progress(done, len(streams))
    else:
        site, devices = await work.overview(access, known)
    document = {
        "day": str(wanted),
        "timezone": config.timezone,
        "length": config.interval.length_ms // 1000,
        "from": start // 1000,
        "to": end // 1000,
        "until": work.until_ms // 1000,
        "starts": [bound // 1000 for bound in calendar.bounds_of_day(wanted)[:-1]],
        **valid.as_dict(),
        "site": site,
        "gaps": [] if request.streams else work.site_gaps(),
        "devices": devices,
    }
    return await send(access, reply, document)


class _DayWork:
    """Collects the data for a request about a day. The intervals of the day are known up to ``until_ms``."""

    def __init__(self, config: Config, calendar: Calendar, start_ms: int, until_ms: int) -> None:
        self._config, self._calendar = config, calendar
        self._start_ms, self.until_ms = start_ms, until_ms
        # (start of the interval, reason) -> [number of devices, ms, whole_ms]
        self._gaps_of_all: dict[tuple[int, str], list[int]] = {}
        self._roles_of: dict[str, set[tuple[str, str]]] = {}  # stream -> the (role, flow) pairs to which it contributes
        # (role, flow) -> start of the interval -> the gaps of its devices
        self._worst: dict[tuple[str, str], dict[int, _Lacking]] = {}
        self._configured = {f"{config.base}/{device.name}": device for device in config.devices}

    # --- all devices

    async def overview(self, access: Access, known: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the site's roles by interval, and the totals of each device."""
        pages = await fetch_pages(access, self._start_ms, self.until_ms, known)
        late = await access.call(partial(unwritten_of(self._config).before, at_ms=self.until_ms))
        parts, meters = await access.compute(partial(self._sums, pages, late))
        for one in parts:
            for stream, _ in one.meters:
                self._roles_of.setdefault(stream, set()).add((one.role, one.flow))
        found: dict[str, dict[str, Any]] = {}
        for at in range(0, len(known), STREAMS_AT_ONCE):
            found |= await access.call(partial(self._heads, known[at : at + STREAMS_AT_ONCE]))
        for meter in meters:
            if meter.key.stream in found:
                found[meter.key.stream]["energy"].append(self._total(meter))
        seen = {meter.key.stream for meter in meters} | self._configured.keys()
        shown = [found[name] for name in known if name in seen or found[name]["missing"]]
        return await access.compute(partial(self._site, parts)), shown

    def _sums(self, pages: FetchedPages, late: Sequence[Unwritten]) -> tuple[list[RoleSum], list[MeterAmount]]:
        if self.until_ms <= self._start_ms:
            return [], []
        taker = MeterSums(lambda stream, column: is_main(column))
        ends = self._start_ms, self.until_ms
        parts = sums(pages, self._calendar, *ends, trail="whole", meters=[taker], unwritten=late)
        return parts, taker.found()

    def _heads(self, streams: Sequence[str], store: Store) -> dict[str, dict[str, Any]]:
        """Describe each device, with the sums of its gaps in this day."""
        starts = store.intervals.gaps.starts()
        out: dict[str, dict[str, Any]] = {}
        for stream in streams:
            device = self._configured.get(stream)
            out[stream] = {
                "device": stream.rpartition("/")[2],
                "label": device.label if device is not None else "",
                "profile": device.profile if device is not None else "",
                "configured": device is not None,
                "gaps_from": starts[stream] // 1000 if stream in starts else None,
                "missing": {},
                "energy": [],
            }
        rows = store.intervals.gaps.rows(self._start_ms, self.until_ms, streams)
        for (stream, start_ms), group in groupby(rows, key=lambda one: (one[0], one[1].start_ms)):
            reasons = [(row.reason, row.ms, row.whole_ms) for _, row in group]
            for reason, ms, whole_ms in reasons:
                add_missing(out[stream]["missing"], reason, ms, whole_ms)
                of_all = self._gaps_of_all.setdefault((start_ms // 1000, reason), [0, 0, 0])
                for at, more in enumerate((1, ms, whole_ms)):
                    of_all[at] += more
            for role in self._roles_of.get(stream, ()):
                self._worst.setdefault(role, {}).setdefault(start_ms // 1000, _Lacking()).add(stream, reasons)
        return out

    def site_gaps(self) -> list[list[Any]]:
        """Return the gaps of all devices, added up by interval and reason: [from, reason, devices, ms, whole_ms].

        ``devices`` is the number of devices with gaps. ``whole_ms`` is the part of ``ms`` in which all points of a
        device were missing.
        """
        return [[start, reason, *sums_of] for (start, reason), sums_of in sorted(self._gaps_of_all.items())]

    def _total(self, one: MeterAmount) -> dict[str, Any]:
        return {
            "n": one.key.point,
            "role": one.column.role,
            "flow": one.key.flow,
            "u": one.unit,
            "total": tidy(one.amount) if one.covered_ms else None,
            "known": self._share(one.covered_ms),
        }

    def _share(self, covered_ms: int) -> Decimal:
        length = self.until_ms - self._start_ms
        return share(covered_ms, length) if length > 0 else Decimal(0)

    def _site(self, parts: Sequence[RoleSum]) -> list[dict[str, Any]]:
        """Return one entry for each role and flow, sorted by role."""
        found: dict[tuple[str, str, str], list[RoleSum]] = {}
        for one in parts:
            found.setdefault((one.role, one.flow, one.unit), []).append(one)
        out = []
        for (role, flow, unit), mine in sorted(found.items()):
            known_ms = sum((one.completeness * (one.end_ms - one.start_ms) for one in mine), Decimal(0))
            rows = [_site_row(one) for one in mine]
            total = sum((one.amount for one in mine), Decimal(0))
            worst = sorted(self._worst.get((role, flow), {}).items())
            out.append({
                "role": role, "flow": flow, "u": unit, "mean_u": per_hour(unit),
                "total": tidy(total) if known_ms else None, "known": self._share(int(known_ms)), "rows": rows,
                "gaps": [[start, one.stream.rpartition("/")[2], one.devices, one.reasons] for start, one in worst],
            })  # fmt: skip
        return out

    # --- one device

    async def device(self, access: Access, stream: str, points: Sequence[str]) -> dict[str, Any]:
        """Return a device with its points and gaps by interval."""
        head: dict[str, Any] = (await access.call(partial(self._heads, [stream])))[stream]
        pages = await fetch_pages(access, self._start_ms, self.until_ms, [stream])
        columns = self._columns(pages)
        main = sorted((column for column in columns.values() if is_main(column)), key=_order)
        names = [column.point for column in [*main, *sorted(set(columns.values()) - set(main), key=_order)]]
        taken = [name for name in names if name in points] if points else names[:MOST_POINTS]
        made = await access.compute(partial(self._series, pages, columns, taken))
        gaps = await access.call(partial(self._gaps, stream))
        return head | {
            "energy": [one.total(self) for one in made if one.unit and is_main(columns[one.point])],
            "points": [one.total(self) | {"rows": one.rows} for one in made],
            "left_out": [name for name in names if name not in taken],
            "gaps": gaps,
        }

    def _columns(self, pages: FetchedPages) -> dict[str, Column]:
        found = pages.interval_pages(self._start_ms, self.until_ms)
        return {column.point: column for page in found for column in PageSchema.decode(page.shape).columns}

    def _series(self, pages: FetchedPages, columns: Mapping[str, Column], taken: Sequence[str]) -> list[_Series]:
        series: dict[tuple[str, str], _Series] = {}
        for row in query(pages, self._start_ms, self.until_ms, points=frozenset(taken)) if taken else ():
            key = row.point, row.flow
            if key not in series:
                series[key] = _Series(columns[row.point].kind, row)
            series[key].add(row)
        order = {name: at for at, name in enumerate(taken)}
        return [one for _, one in sorted(series.items(), key=lambda item: (order[item[0][0]], item[0]))]

    def _gaps(self, stream: str, store: Store) -> list[list[Any]]:
        rows = store.intervals.gaps.rows(self._start_ms, self.until_ms, [stream])
        return [[row.start_ms // 1000, row.reason, row.ms, row.whole_ms] for _, row in rows]

    def share_of_day(self, covered_ms: int) -> Decimal:
        """Return ``covered_ms`` as a share of the known part of the day."""
        return self._share(covered_ms)


class _Lacking:
    """The gaps of one role in one interval: the device with the largest gap, and the number of devices with gaps."""

    def __init__(self) -> None:
        self.stream, self.devices, self._lack = "", 0, (0, 0)
        self.reasons: Sequence[tuple[str, int, int]] = ()

    def add(self, stream: str, reasons: Sequence[tuple[str, int, int]]) -> None:
        """Count one device with gaps.

        ``reasons``: (reason, ms, the part of these ms in which all points of the device were missing).
        """
        self.devices += 1
        lack = sum(whole_ms for _, _, whole_ms in reasons), sum(ms for _, ms, _ in reasons)
        if not self.stream or lack > self._lack:
            self.stream, self.reasons, self._lack = stream, reasons, lack


class _Series:
    """The rows of one flow of one point, and their sum."""

    def __init__(self, kind: str, first: IntervalRow) -> None:
        self.point, self.unit, self._kind, self._first = first.point, first.unit, kind, first
        self.rows: list[list[Any]] = []
        self._covered_ms, self._amount = 0, Decimal(0)
        if first.amount is None and first.gauge_unit:
            self.unit = ""  # gauges have no sum, except a power, whose sum over time is an energy

    def add(self, row: IntervalRow) -> None:
        """Add a row."""
        is_known = row.covered_ms > 0
        mean = row.mean
        if self._kind == "counter":
            mean = mean_of(row.amount, row.covered_ms) if is_known and row.amount is not None else None
        if row.amount is not None and is_known:
            self._amount += row.amount
            self._covered_ms += row.covered_ms
        elif not self.unit:
            self._covered_ms += row.covered_ms
        self.rows.append([
            row.start_ms // 1000, row.end_ms // 1000, row.amount if is_known else None, mean, row.low, row.high,
            row.completeness, [(flag.name or "").lower() for flag in Flag if flag in row.flags],
            row.first_seq or None, row.last_seq or None,
        ])  # fmt: skip

    def total(self, work: _DayWork) -> dict[str, Any]:
        """Describe the point, with the sum of its rows."""
        first = self._first
        mean_u = per_hour(self.unit) if self._kind == "counter" else first.gauge_unit
        return {
            "n": first.point, "kind": self._kind, "role": first.role, "part": first.part, "flow": first.flow,
            "u": self.unit, "mean_u": mean_u,
            "total": tidy(self._amount) if self.unit and self._covered_ms else None,
            "known": work.share_of_day(self._covered_ms),
        }  # fmt: skip


def add_missing(into: dict[str, list[int]], reason: str, ms: int, whole_ms: int) -> None:
    """Add a gap to the sums in ``into``: reason -> [ms, whole_ms]."""
    sums_of = into.setdefault(reason, [0, 0])
    sums_of[0] += ms
    sums_of[1] += whole_ms


def is_main(column: Column) -> bool:
    """Return True if answers have this column by default.

    A column is returned by default if it has a flow, or if it is a counter that has no role and counts for the whole
    device.
    """
    return bool(column.flow) or (not column.role and column.kind == "counter" and column.point.count(".") <= 2)


def _order(column: Column) -> tuple[bool, int, str]:
    return not column.flow, column.point.count("."), column.point


def share(covered_ms: int, length_ms: int) -> Decimal:
    """Return the share of a time that is covered, from 0 to 1, with six decimals."""
    return tidy(Decimal(min(covered_ms, length_ms) * 1_000_000 // length_ms) / 1_000_000)


def per_hour(unit: str) -> str:
    """Return the unit of a mean per hour: ``kW`` for ``kWh``, ``m3/h`` for ``m3``."""
    return _PER_HOUR.get(unit, f"{unit}/h") if unit else ""


def _site_row(one: RoleSum) -> list[Any]:
    """Return [from, amount, mean, known, estimated, flags] of one role in one interval."""
    is_known = one.completeness > 0
    flawed = tidy((one.estimated / one.amount).quantize(Decimal("1e-6"))) if is_known and one.amount else Decimal(0)
    return [
        one.start_ms // 1000,
        tidy(one.amount) if is_known else None,
        mean_of_role(one.amount, one.completeness, one.end_ms - one.start_ms),
        one.completeness,
        min(max(flawed, Decimal(0)), Decimal(1)),
        [(flag.name or "").lower() for flag in Flag if flag in one.flags],
    ]


async def report(access: Access, request: PeriodReport, reply: Reply) -> dict[str, Any]:
    """Send the report of a period. Returns its length. If the client already has this report, say only that."""
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
    roles = {role for device in config.devices for role in device.roles.values()}
    late_roles = await access.call(partial(_late_roles, config, period))
    reporter = Reporter(plan, calendar, period, entries, request.by, roles, late_roles)
    balancer = BalanceReport(calendar, period, config.base, [derived_row(one) for one in config.derived])
    unwritten, missing = unwritten_of(config), _Missing(config)
    streams = await access.call(lambda store: [name for name in store.packs.heads() if not is_ours(name)])
    days = list(calendar.stretches("day", period.start_ms, max(period.until_ms, period.start_ms)))
    for done, (start, end) in enumerate(days, 1):
        until = min(end, period.until_ms)
        pages = await fetch_pages(access, start, until, streams)
        late = await access.call(partial(unwritten.before, at_ms=until))
        # in a separate thread, because the loop must serve the lines, and the database thread must seal readings
        await access.compute(partial(_add, reporter, balancer, calendar, start, end, until, pages, late))
        for at in range(0, len(streams), STREAMS_AT_ONCE):
            await access.call(partial(missing.add, streams[at : at + STREAMS_AT_ONCE], start, until))
        reply.progress(done, len(days))
    page = await access.compute(partial(_page, config, reporter, balancer))
    page |= valid.as_dict() | {"devices": await access.call(missing.devices)}
    return await send(access, reply, page)


def _late_roles(config: Config, period: Period, store: Store) -> set[str]:
    """Return the roles of devices that have no pack, or whose first pack begins after the known part of the period.

    If the period is over, the result is empty.
    """
    if period.until_ms >= period.end_ms:
        return set()
    heads = store.packs.heads()
    return {
        role
        for device in config.devices
        if (stream := f"{config.base}/{device.name}") not in heads
        or store.packs.first_pack(stream)[1] >= period.until_ms
        for role in device.roles.values()
    }


def _page(config: Config, reporter: Reporter, balancer: BalanceReport) -> dict[str, Any]:
    page = reporter.page() | balancer.page()
    page |= {"site": config.site, "gateway": config.gateway, "label": config.site_label, "timezone": config.timezone}
    return page | {"config": config.hash()}


class _Missing:
    """Adds up the gaps of a period, by device and reason. Used in the database thread."""

    def __init__(self, config: Config) -> None:
        self._labels = {f"{config.base}/{device.name}": device.label for device in config.devices}
        self._found: dict[str, dict[str, list[int]]] = {}

    def add(self, streams: Sequence[str], start_ms: int, end_ms: int, store: Store) -> None:
        """Add the gaps of some streams in one day."""
        for stream, row in store.intervals.gaps.rows(start_ms, end_ms, streams):
            add_missing(self._found.setdefault(stream, {}), row.reason, row.ms, row.whole_ms)

    def devices(self, store: Store) -> list[dict[str, Any]]:
        """Return the sums of gaps by reason, for all configured devices and for removed devices that have gaps."""
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
    """Add the day from ``start`` to ``end`` to the report. Its intervals are known only up to ``until``."""
    takers = balancer.takers(start, end)
    reporter.add(sums(pages, calendar, start, until, trail="whole", meters=takers, unwritten=late))
    balancer.add(takers, start, end)
