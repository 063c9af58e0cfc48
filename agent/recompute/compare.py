"""Recomputes signed results from exported packs, and compares both digit by digit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from agent.indicators.compute import slots_of
from agent.indicators.declared import Declaration, countable, from_dict, hash_of_ids
from agent.indicators.definitions import PlanText, shipped_sets
from agent.indicators.evaluate import evaluate
from agent.indicators.factors import shipped
from agent.indicators.figure import Period
from agent.indicators.plan import IndicatorPlan, load_plan, make_plan, rests_on_declared
from agent.indicators.report import trace_result
from agent.indicators.site import KINDS as SITE_KINDS
from agent.indicators.site import KNOWN, RESTATED, SiteResults
from agent.intervals.calendar import Calendar
from agent.intervals.ledger import rows_of_packs
from agent.intervals.meters import MeterSums
from agent.intervals.sums import sums as interval_sums
from agent.intervals.tracked_points import Rule
from agent.recompute.as_of import IntervalsAsOf, PeriodSums, SequenceRanges, StreamInfo
from agent.verify.agreed import AgreedStreams
from agent.verify.files import BIRTHS, find_files, read_objects
from drivers.model import ConfigError, UsageError

MAX_LISTED = 100
LEAD_MS = 26 * 3_600_000  # within this time, later readings accept or reject a suspicious counter step
UNDECIDABLE = (
    "not decidable from this export, because it lacks a declaration that was in effect, or the gateway no longer had a "
    "declaration that is here; the pack of the first interval of each day restates them"
)
Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lack:
    """The reason why a result cannot be recomputed.

    ``kind``: ``not_asked``: it needs a stream that is not among the agreed streams. ``undecidable``: it rests on
    declarations, and the packs lack some of those that were in effect.
    """

    text: str
    kind: Literal["", "not_asked", "undecidable"] = ""


@dataclass(slots=True)
class Recomputed:
    """The outcome of a recomputation. ``differ`` and ``unknown`` list results with reasons, at most 100 each.

    ``counts`` has their full numbers.
    """

    agree: int = 0
    differ: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # results that could not be recomputed, with the reason
    counts: dict[str, int] = field(default_factory=lambda: {"differ": 0, "unknown": 0})
    not_asked: int = 0  # number of unknown results that need a stream outside the agreed ones
    undecidable: int = 0  # number of unknown results that rest on declarations which the packs lack

    def add_lack(self, name: str, lack: Lack) -> None:
        """Count a result that cannot be recomputed."""
        self.not_asked += lack.kind == "not_asked"
        self.undecidable += lack.kind == "undecidable"
        self.add("unknown", f"{name}: {lack.text}")

    def add(self, what: str, text: str) -> None:
        """Count a result as ``what`` ("differ" or "unknown"). Add ``text`` to the list unless the list is full."""
        self.counts[what] += 1
        mine = self.differ if what == "differ" else self.unknown
        if len(mine) < MAX_LISTED:
            mine.append(text)

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as ``--json`` prints it."""
        lists = {"differing": self.differ, "not_repeated": self.unknown}
        counts = {**self.counts, "not_asked": self.not_asked, "undecidable": self.undecidable}
        return {"agree": self.agree, **counts, **lists}


@dataclass(slots=True)
class _Results:
    """The signed results of one stream. They are read pack by pack, because a year does not fit into memory."""

    stream: str
    files: list[Path] = field(default_factory=list)
    births: list[Result] = field(default_factory=list)
    entries: dict[str, Declaration] = field(default_factory=dict)  # by id

    def read(self, out: Recomputed) -> Iterator[tuple[int, Result]]:
        """Yield (index in ``births`` of the birth in effect, result), in order. Declarations go into ``entries``."""
        seen: set[int] = set()
        for path in self.files:
            for raw, _ in read_objects(path):
                body = _pack(raw)
                if body is not None and body["stream"] == self.stream and body["seq"] not in seen:
                    seen.add(body["seq"])
                    yield from self._of_pack(body, out)

    def _of_pack(self, body: Mapping[str, Any], out: Recomputed) -> Iterator[tuple[int, Result]]:
        if "table" in body:
            self.births.append(body["table"])
        results = body.get("results", ())
        for result in results if isinstance(results, list) else ():
            if not isinstance(result, dict) or not isinstance(result.get("period", {}), dict):
                where, what = f"pack {body['seq']} of {self.stream}", "a result is malformed"
                out.add("differ", f"{where}: {what}")
            elif result.get("kind") in ("figure", "trace", KNOWN, *SITE_KINDS) and self.births:
                yield len(self.births) - 1, result
            elif result.get("kind") in ("declaration", RESTATED):
                try:
                    entry = from_dict(_numbers(result))
                except (UsageError, TypeError, ValueError) as error:
                    out.add("unknown", f"declaration {result.get('id')}: {error}")
                    continue
                if self.entries.setdefault(entry.id, entry) != entry:
                    where, what = f"declaration {entry.id}", "two packs state it differently"
                    out.add("differ", f"{where}: {what}")


Births = dict[str, dict[int, Result]]


@dataclass(slots=True)
class _KnownAt:
    """What the gateway knew when it made a result: the last pack of each stream, and the configured streams."""

    last: dict[str, int]
    configured: frozenset[str] | None  # None: the result is of a version that did not record them
    declared: str  # the hash of the ids of the declarations in effect


@dataclass(frozen=True, slots=True)
class _Source:
    """The exported packs: their files by stream, and all point tables by stream and by sequence of the birth."""

    files: Mapping[str, list[Path]]
    births: Births
    agreed: AgreedStreams


class SiteBalances:
    """Recomputes balances and derived points, as one birth of the ``_indicators`` stream configures them."""

    def __init__(self, book: IntervalsAsOf, base: str, birth: Mapping[str, Any]) -> None:
        rows: Sequence[Mapping[str, Any]] = birth.get("derived", ())
        self._book, self._results = book, SiteResults(book.calendar, base, rows, str(birth.get("config")))
        self._day: tuple[date, tuple[MeterSums, MeterSums], dict[int, int]] | None = None
        self._last: tuple[object, list[Mapping[str, Any]]] | None = None

    def recompute(self, signed: Mapping[str, Any], period: Period) -> Mapping[str, Any] | None:
        """Return the recomputed result that has the kind and id of ``signed``; None if there is no such result."""
        book = self._book
        key = period.kind, period.start_ms, dict(book.seen), book.configured
        if self._last is None or self._last[0] != key:
            self._last = key, self._made(period)
        names = signed["kind"], signed["id"]
        return next((one for one in self._last[1] if (one["kind"], one["id"]) == names), None)

    def _made(self, period: Period) -> list[Mapping[str, Any]]:
        book, day = self._book, self._book.calendar.day(period.start_ms)
        if period.kind == "interval" and book.is_settled(day, period.end_ms):
            if self._day is None or self._day[0] != day:
                self._day = day, *self._whole(day)
            _, takers, numbers = self._day
            return self._results.made(takers, period, numbers[period.start_ms])
        return self._results.of(book, period, book.unwritten(period.end_ms))

    def _whole(self, day: date) -> tuple[tuple[MeterSums, MeterSums], dict[int, int]]:
        """Sum all intervals of a day at once. Returns the sums, and the number of each interval by its start in ms."""
        book = self._book
        start, end = book.calendar.stretch("day", book.calendar.midnight(day))
        numbers = {first: n for n, (first, _) in enumerate(book.calendar.intervals(start, end))}
        takers = self._results.takers(len(numbers))
        with book.all_seen():
            interval_sums(book, book.calendar, start, end, roles=(), meters=takers)
        return takers, numbers


def recompute(paths: Iterable[Path], plan_file: Path | None = None, streams: Iterable[str] = ()) -> Recomputed:
    """Recompute every figure, trace and balance whose packs are all present.

    Args:
        paths: files and folders written by ``meterhouse export``. Verify them first, because this function checks no
            signature.
        plan_file: needed for figures of a plan whose text is not in the packs.
        streams: the agreed streams, as for ``Verifier``; empty: all. A figure that needs another stream is unknown.

    Raises:
        OSError: a file or folder cannot be read.
    """
    results: dict[str, _Results] = {}
    bodies: dict[str, list[Path]] = {}
    births: Births = {}
    outcome, agreed = Recomputed(), AgreedStreams(streams)
    for path in find_files(paths):
        for raw, _ in read_objects(path):
            body = _pack(raw)
            if body is None:
                continue
            stream: str = body["stream"]
            if "table" in body:
                births.setdefault(stream, {})[body["seq"]] = body["table"]
            if path.name in BIRTHS and not stream.endswith("/_indicators"):
                continue
            if stream.endswith("/_indicators"):
                mine = results.setdefault(stream.rpartition("/")[0], _Results(stream)).files
                mine += [path] if path not in mine else []
            elif not stream.rpartition("/")[2].startswith("_") and path not in bodies.setdefault(stream, []):
                bodies[stream].append(path)
    for base, signed in results.items():
        own = {stream: files for stream, files in bodies.items() if stream.startswith(base + "/")}
        _repeat(base, signed, _Source(own, births, agreed), plan_file, outcome)
    return outcome


def _pack(raw: bytes) -> dict[str, Any] | None:
    if b'"stream"' not in raw or b'"from"' not in raw:
        return None
    try:
        body: dict[str, Any] = json.loads(raw, parse_float=str)
    except ValueError:
        return None  # not an error here, because the verifier reports invalid JSON
    return body if isinstance(body.get("stream"), str) and isinstance(body.get("seq"), int) else None


def _numbers(result: Result) -> dict[str, Any]:
    """Return a result with its times as numbers, because ``_pack`` parses decimals as text."""
    return {key: float(value) if key in ("at", "from", "to") else value for key, value in result.items()}


def _repeat(base: str, signed: _Results, source: _Source, plan_file: Path | None, out: Recomputed) -> None:
    books: dict[str, tuple[PeriodSums, IntervalsAsOf, dict[str, SequenceRanges]]] = {}
    agreed = source.agreed
    sites: dict[int, SiteBalances] = {}
    plans: dict[int, IndicatorPlan | ConfigError] = {}
    for number, result, moment in _with_known(signed.read(out)):
        birth = signed.births[number]
        entry = birth.get("interval")
        if not entry:
            continue
        if moment is None:
            why = "the gateway did not record which packs it knew when it computed this result"
            out.add("unknown", f"{_name(result)}: {why}")
            continue
        key = json.dumps(entry, sort_keys=True)
        if key not in books:
            try:
                book, here = _read_intervals(entry, source)
            except (KeyError, TypeError, ValueError) as error:
                out.add(
                    "unknown",
                    f"{_name(result)}: the interval settings in the birth pack are missing or malformed ({error!r})",
                )
                continue
            books[key] = PeriodSums(book), book, here
        sums, book, here = books[key]
        sums.see(moment.last)
        book.configured = moment.configured
        if result["kind"] in SITE_KINDS:
            site = sites.setdefault(number, SiteBalances(book, base, birth))
            _compare_balance(result, site, book, here, agreed, out)
            continue
        if number not in plans:
            try:
                plans[number] = _plan(birth, plan_file)
            except ConfigError as error:
                plans[number] = error
        plan = plans[number]
        if isinstance(plan, ConfigError):
            out.add("unknown", f"{_name(result)}: {plan}")
            continue
        try:
            if lack := _missing_pack(result, here, book, agreed):
                out.add_lack(_name(result), lack)
                continue
            _compare(result, plan, sums, book, list(signed.entries.values()), moment.declared, out)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            out.add("differ", f"{_name(result)}: malformed ({error!r})")


def _with_known(computed: Iterable[tuple[int, Result]]) -> Iterator[tuple[int, Result, _KnownAt | None]]:
    """Yield (birth, result, knowledge): what the gateway knew when it made the result.

    The birth is its index in ``births``. The knowledge is None if the result is of a version that did not record it.
    """
    for _, group in groupby(computed, key=lambda pair: str(pair[1].get("period", {}).get("until"))):
        results = list(group)
        signed = [result for _, result in results if result["kind"] == KNOWN]
        packs = [pack for one in signed for pack in _well_formed(one.get("packs", ()))]
        streams = frozenset(pack["stream"] for pack in packs) if any(one.get("configured") for one in signed) else None
        declared = str(signed[0].get("declared")) if signed else ""
        moment = _KnownAt({pack["stream"]: pack["last"] for pack in packs}, streams, declared) if signed else None
        for number, result in results:
            if result["kind"] != KNOWN:
                yield number, result, moment


def _sources(result: Result) -> list[Mapping[str, Any]]:
    """Return the well-formed sources of a result. A source names a stream and a range of its packs."""
    found = [source for one in result.get("inputs", ()) if isinstance(one, dict) for source in one.get("from", ())]
    return _well_formed([*found, *result.get("from", ())])


def _well_formed(sources: Iterable[Any]) -> list[Mapping[str, Any]]:
    return [
        t for t in sources if isinstance(t, dict) and isinstance(t.get("stream"), str) and type(t.get("last")) is int
    ]


def _read_intervals(entry: Mapping[str, Any], source: _Source) -> tuple[IntervalsAsOf, dict[str, SequenceRanges]]:
    """Return the intervals of all streams, and the sequences of the packs that are present in each stream."""
    calendar = Calendar(entry["timezone"], round(float(entry["length"]) * 1000))
    period, slip = (round(float(value) * 1000) for value in entry["demand"])
    rule = Rule(round(float(entry["max_gap"]) * 1000), period, slip)
    streams = {stream: StreamInfo(source.births.get(stream, {})) for stream in source.files}
    book, here = IntervalsAsOf(calendar, rule, streams), dict[str, SequenceRanges]()
    for stream in source.files:
        seen: set[int] = set()
        packs = _packs_of(stream, source, seen, book, streams[stream])
        book.take(stream, rows_of_packs(stream, packs, calendar, rule))
        here[stream] = SequenceRanges(seen)
    return book, here


def _packs_of(stream: str, source: _Source, seen: set[int], book: IntervalsAsOf, life: StreamInfo) -> Iterator[bytes]:
    """Yield each pack of one stream once, in the order of the files.

    Adds its sequence to ``seen`` and its times to ``life``.

    If the export lacks the first pack of the stream, the point table in effect is added to the first exported pack.
    Then ``book.ready_ms`` is set to a time after which results do not depend on the missing counter readings.
    """
    for path in source.files[stream]:
        for raw, _ in read_objects(path):
            body = _pack(raw)
            if body is not None and body["stream"] == stream and body["seq"] not in seen:
                pack = raw
                if not seen and body["seq"] > 1:
                    before = [seq for seq in source.births.get(stream, ()) if seq < body["seq"]]
                    if "table" not in body and not before:
                        continue  # the readings of this pack cannot be used without a point table
                    if "table" not in body:
                        pack = json.dumps(body | {"table": source.births[stream][max(before)]}).encode()
                    book.ready_ms = max(book.ready_ms, round(float(body["from"]) * 1000) + LEAD_MS)
                from_ms, to_ms = (round(float(body[edge]) * 1000) for edge in ("from", "to"))
                life.from_ms, life.to_ms = life.from_ms or from_ms, max(life.to_ms, to_ms)
                seen.add(body["seq"])
                yield pack


def _plan(birth: Result, plan_file: Path | None) -> IndicatorPlan:
    """Return the plan that the stream's birth names. Raises ConfigError if its text is missing or has another hash."""
    signed = birth.get("plan")
    if signed is None:
        return make_plan(PlanText(schema=1))
    if "text" in signed:
        raw, where = signed["text"].encode(), "the plan in the packs"
    elif plan_file is None:
        raise ConfigError("the plan is not in the packs", where="plan", hint="Give the file of the plan with --plan")
    else:
        try:
            raw, where = plan_file.read_bytes(), str(plan_file)
        except OSError as error:
            raise ConfigError(f"cannot read the plan: {error.strerror}", where=str(plan_file)) from error
    if hashlib.sha256(raw).hexdigest() != signed.get("hash"):
        hint = "Give the file of the plan with --plan"
        raise ConfigError("the hash of this plan differs from the plan hash in the packs", where=where, hint=hint)
    return load_plan(raw, where)


def _name(result: Result) -> str:
    return f"{result.get('id')} of {result.get('period', {}).get('label')}"


def _compare(
    signed: Result,
    plan: IndicatorPlan,
    sums: PeriodSums,
    book: IntervalsAsOf,
    entries: Sequence[Declaration],
    declared: str,
    out: Recomputed,
) -> None:
    period = _period(signed["period"], book.calendar)
    if signed["kind"] == "trace":
        computed = trace_result(slots_of(book.parts(period.start_ms, period.until_ms), book.calendar), period)
    else:
        indicator = next((one for one in plan.indicators if one.name == signed["id"]), None)
        if indicator is None or indicator.hash != signed["formula"]["hash"]:
            known = "different formula" if indicator else "unknown figure"
            sets = ", ".join(shipped_sets())
            out.add(
                "unknown",
                f"{_name(signed)}: {known} in this plan and this version of meterhouse; available sets of indicators: "
                f"{sets}",
            )
            return
        known_entries = [entry for entry in entries if entry.at_ms < period.until_ms]
        year_ms, _ = book.calendar.stretch("year", period.start_ms)
        if rests_on_declared(plan, indicator) and hash_of_ids(countable(known_entries, year_ms)) != declared:
            out.add_lack(_name(signed), Lack(UNDECIDABLE, "undecidable"))
            return
        supply = sums.tally(period).supply(known_entries, period)
        computed = evaluate(plan, period, supply, [indicator])[0].as_dict(signed["config"])
        _ignore_reworded(signed["factors"], computed["factors"])
    _compare_texts(signed, computed, out)


def _ignore_reworded(signed: Sequence[Mapping[str, Any]], computed: Iterable[dict[str, Any]]) -> None:
    """Copy the signed descriptions of shipped factors into ``computed``, so that they do not differ.

    A later version may correct a description, which does not change the figure.
    """
    texts = {one["id"]: one for one in signed}
    for one in computed:
        name, _, year = one["id"].rpartition("@")
        factor, words = shipped().get(name), texts.get(one["id"])
        entry = next((e for e in factor.entries if f"{e.year}" == year), None) if factor else None
        if words is None or entry is None or (entry.text, entry.source) != (one["v"], one["source"]):
            continue  # the signed figure does not have this factor, or it is a factor of the plan
        for key in ("source", "status", "published"):
            one.pop(key, None)
            if key in words:
                one[key] = words[key]


def _compare_balance(
    signed: Result,
    site: SiteBalances,
    book: IntervalsAsOf,
    here: Mapping[str, SequenceRanges],
    agreed: AgreedStreams,
    out: Recomputed,
) -> None:
    try:
        if lack := _missing_pack(signed, here, book, agreed):
            out.add_lack(_name(signed), lack)
            return
        computed = site.recompute(signed, _period(signed["period"], book.calendar))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        out.add("differ", f"{_name(signed)}: malformed ({error!r})")
        return
    _compare_texts(signed, computed or {}, out)


def _missing_pack(
    signed: Result, here: Mapping[str, SequenceRanges], book: IntervalsAsOf, agreed: AgreedStreams
) -> Lack | None:
    """Return why a result cannot be recomputed; None if it can.

    The reason is a missing pack, or that the period begins too soon after the first pack.
    """

    def lack(stream: str, pack: int) -> Lack:
        if agreed.asked(stream):
            return Lack(f"pack {pack} of {stream} is not here")
        return Lack(f"needs {stream}, which was not asked for", "not_asked")

    for source in _sources(signed):
        runs = here.get(source["stream"])
        if missing := runs.missing(source["first"], source["last"]) if runs else source["first"]:
            return lack(source["stream"], missing)
    if round(float(signed["period"]["from"]) * 1000) < book.ready_ms:
        return Lack(
            "its period begins too soon after the first pack; start the export two days earlier "
            f"(the packs here are enough only for periods that begin at {book.ready} or later)"
        )
    mine = {source["stream"] for source in _sources(signed)}
    if not mine or signed.get("missing") or signed.get("completeness") != "1":
        mine = set(book.seen)  # a result that is not complete also depends on streams that it does not name
    for stream in sorted(mine):
        runs, last = here.get(stream), book.seen.get(stream, 0)
        if last and (runs is None or runs.missing(last, last)):
            return lack(stream, last)
    return None


def _compare_texts(signed: Result, computed: Result, out: Recomputed) -> None:
    if wrong := _differences(_texts(signed), _texts(computed)):
        out.add("differ", f"{_name(signed)}: {'; '.join(wrong[:2])}")
    else:
        out.agree += 1


def _period(when: Mapping[str, Any], calendar: Calendar) -> Period:
    start, end, until = (round(float(when[key]) * 1000) for key in ("from", "to", "until"))
    year = calendar.day(start).year
    return Period(when["kind"], start, end, when["label"], year, _year_ms(calendar, year), until)


@lru_cache(maxsize=16)
def _year_ms(calendar: Calendar, year: int) -> int:
    return calendar.midnight(date(year + 1, 1, 1)) - calendar.midnight(date(year, 1, 1))


def _texts(value: Any) -> Any:
    """Convert all numbers to text, so that a result parsed from JSON can be compared with a computed one."""
    if isinstance(value, Mapping):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_texts(item) for item in value]
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _differences(signed: Any, computed: Any, place: str = "") -> list[str]:
    """Return a text for each member in which the two results differ."""
    if isinstance(signed, dict) and isinstance(computed, dict):
        keys = [*(key for key in ("v", "numerator", "denominator") if key in signed or key in computed)]
        keys += sorted((signed.keys() | computed.keys()) - set(keys))
        return [
            text for key in keys for text in _differences(signed.get(key), computed.get(key), f"{place} {key}".strip())
        ]
    if isinstance(signed, list) and isinstance(computed, list) and len(signed) == len(computed):
        names = [one.get("n", one.get("id", n)) if isinstance(one, dict) else n for n, one in enumerate(signed, 1)]
        items = zip(names, signed, computed, strict=True)
        return [text for name, a, b in items for text in _differences(a, b, f"{place} {name}".strip())]
    return [] if signed == computed else [f"{place}: signed {_short(signed)}, recomputed {_short(computed)}"]


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)[:120]
