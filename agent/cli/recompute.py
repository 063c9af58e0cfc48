"""Figures repeated from exported packs: the same readings, the same formulas, the same digits?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from agent.cli.recompute_book import Adding, AsOf, Life, Runs
from agent.cli.recompute_site import Site
from agent.indicators.compute import slots_of
from agent.indicators.declared import Declaration, from_dict
from agent.indicators.definitions import PlanText, shipped_sets
from agent.indicators.evaluate import evaluate
from agent.indicators.factors import shipped
from agent.indicators.figure import Period
from agent.indicators.plan import Plan, load_plan, make_plan
from agent.indicators.report import trace_result
from agent.indicators.site import KINDS as SITE_KINDS
from agent.indicators.site import KNOWN
from agent.intervals import Cut, Rule
from agent.intervals.replay import emitted
from agent.verify.files import BIRTHS, find_files, read_objects
from drivers.model import ConfigError, UsageError

MAX_LISTED = 100
LEAD_MS = 26 * 3_600_000  # a counter's odd step may wait so long for what those after it say
Result = Mapping[str, Any]


@dataclass(slots=True)
class Repeated:
    """What came of it. ``differ`` and ``unknown`` name figures with the reason, at most a hundred each."""

    agree: int = 0
    differ: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # could not be repeated, and why
    counts: dict[str, int] = field(default_factory=lambda: {"differ": 0, "unknown": 0})

    def add(self, what: str, text: str) -> None:
        """One more; the lists are bounded."""
        self.counts[what] += 1
        mine = self.differ if what == "differ" else self.unknown
        if len(mine) < MAX_LISTED:
            mine.append(text)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"agree": self.agree, **self.counts, "differing": self.differ, "not_repeated": self.unknown}


@dataclass(slots=True)
class _Results:
    """A stream of results, read pack by pack: what it said so far. A year of figures does not fit into memory."""

    stream: str
    files: list[Path] = field(default_factory=list)
    births: list[Result] = field(default_factory=list)
    entries: list[Declaration] = field(default_factory=list)

    def made(self, out: Repeated) -> Iterator[tuple[int, Result]]:
        """(number of the birth in force, result), in order; declarations go into ``entries``."""
        seen: set[int] = set()
        for path in self.files:
            for raw, _ in read_objects(path):
                body = _pack(raw)
                if body is not None and body["stream"] == self.stream and body["seq"] not in seen:
                    seen.add(body["seq"])
                    yield from self._of_pack(body, out)

    def _of_pack(self, body: Mapping[str, Any], out: Repeated) -> Iterator[tuple[int, Result]]:
        if "table" in body:
            self.births.append(body["table"])
        results = body.get("results", ())
        for result in results if isinstance(results, list) else ():
            if not isinstance(result, dict) or not isinstance(result.get("period", {}), dict):
                what = "a result is not written as a gateway writes it"
                out.add("differ", f"pack {body['seq']} of {self.stream}: {what}")
            elif result.get("kind") in ("figure", "trace", KNOWN, *SITE_KINDS) and self.births:
                yield len(self.births) - 1, result
            elif result.get("kind") == "declaration":
                try:
                    self.entries.append(from_dict(_numbers(result)))
                except (UsageError, TypeError, ValueError) as error:
                    out.add("unknown", f"declaration {result.get('id')}: {error}")


Births = dict[str, dict[int, Result]]


@dataclass(slots=True)
class _Moment:
    """What was known when results were made: the packs whose intervals counted, and who was configured."""

    last: dict[str, int]
    configured: frozenset[str] | None  # None: an older version does not say


@dataclass(frozen=True, slots=True)
class _Source:
    """Where packs lie: files by stream, and all tables by stream and sequence of their birth."""

    files: Mapping[str, list[Path]]
    births: Births


def recompute(paths: Iterable[Path], plan_file: Path | None) -> Repeated:
    """Repeat every figure and every trace whose packs are all here.

    Args:
        paths: files and folders of ``meterhouse export``. Verify them first: nothing is checked here.
        plan_file: for figures of a plan whose text is not in the packs.
    """
    results: dict[str, _Results] = {}
    bodies: dict[str, list[Path]] = {}
    births: Births = {}
    repeated = Repeated()
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
    for base, said in results.items():
        streams = {stream: files for stream, files in bodies.items() if stream.startswith(base + "/")}
        _repeat(base, said, _Source(streams, births), plan_file, repeated)
    return repeated


def _pack(raw: bytes) -> dict[str, Any] | None:
    if b'"stream"' not in raw or b'"from"' not in raw:
        return None
    try:
        body: dict[str, Any] = json.loads(raw, parse_float=str)
    except ValueError:
        return None  # the verifier says so
    return body if isinstance(body.get("stream"), str) and isinstance(body.get("seq"), int) else None


def _numbers(result: Result) -> dict[str, Any]:
    """Times were read as text."""
    return {key: float(value) if key in ("at", "from", "to") else value for key, value in result.items()}


def _repeat(base: str, said: _Results, source: _Source, plan_file: Path | None, out: Repeated) -> None:
    books: dict[str, tuple[Adding, AsOf, dict[str, Runs]]] = {}
    sites: dict[int, Site] = {}
    plans: dict[int, Plan | ConfigError] = {}
    for number, result, moment in _with_moments(said.made(out)):
        birth = said.births[number]
        entry = birth.get("interval")
        if not entry:
            continue
        if moment is None:
            out.add("unknown", f"{_name(result)}: nothing beside it says which packs were known then")
            continue
        key = json.dumps(entry, sort_keys=True)
        if key not in books:
            try:
                book, here = _read(entry, source)
            except (KeyError, TypeError, ValueError) as error:
                out.add("unknown", f"{_name(result)}: the birth does not say how intervals are cut ({error!r})")
                continue
            books[key] = Adding(book), book, here
        adding, book, here = books[key]
        adding.see(moment.last)
        book.configured = moment.configured
        if result["kind"] in SITE_KINDS:
            site = sites.setdefault(number, Site(book, base, birth))
            _compare_site(result, site, book, here, out)
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
            _compare(result, plan, adding, book, here, said.entries, out)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            out.add("differ", f"{_name(result)}: is not written as a gateway writes it ({error!r})")


def _with_moments(made: Iterable[tuple[int, Result]]) -> Iterator[tuple[int, Result, _Moment | None]]:
    """Each result with what was known at its moment; None where nothing says so."""
    for _, group in groupby(made, key=lambda pair: str(pair[1].get("period", {}).get("until"))):
        results = list(group)
        said = [result for _, result in results if result["kind"] == KNOWN]
        packs = [pack for one in said for pack in _written(one.get("packs", ()))]
        streams = frozenset(pack["stream"] for pack in packs) if any(one.get("configured") for one in said) else None
        moment = _Moment({pack["stream"]: pack["last"] for pack in packs}, streams) if said else None
        for number, result in results:
            if result["kind"] != KNOWN:
                yield number, result, moment


def _trails(result: Result) -> list[Mapping[str, Any]]:
    """What is written as a gateway writes it, of the trails of a figure."""
    found = [trail for one in result.get("inputs", ()) if isinstance(one, dict) for trail in one.get("from", ())]
    return _written([*found, *result.get("from", ())])


def _written(trails: Iterable[Any]) -> list[Mapping[str, Any]]:
    return [
        t for t in trails if isinstance(t, dict) and isinstance(t.get("stream"), str) and type(t.get("last")) is int
    ]


def _read(entry: Mapping[str, Any], source: _Source) -> tuple[AsOf, dict[str, Runs]]:
    """All packs into intervals, one stream after the other; and which sequences are here."""
    cut = Cut(entry["timezone"], round(float(entry["length"]) * 1000))
    period, slip = (round(float(value) * 1000) for value in entry["demand"])
    rule = Rule(round(float(entry["max_gap"]) * 1000), period, slip)
    lives = {stream: Life(source.births.get(stream, {})) for stream in source.files}
    book, here = AsOf(cut, rule, lives), dict[str, Runs]()
    for stream in source.files:
        seen: set[int] = set()
        packs = _packs_of(stream, source, seen, book, lives[stream])
        book.take(stream, emitted(stream, packs, cut, rule))
        here[stream] = Runs(seen)
    return book, here


def _packs_of(stream: str, source: _Source, seen: set[int], book: AsOf, life: Life) -> Iterator[bytes]:
    """Packs of one stream, each once, in the order of the files; their sequences go into ``seen``, times into ``life``.

    Where the first one is not the stream's first, it gets the table in force, and ``book`` learns from when on its
    counters are known as the gateway knew them.
    """
    for path in source.files[stream]:
        for raw, _ in read_objects(path):
            body = _pack(raw)
            if body is not None and body["stream"] == stream and body["seq"] not in seen:
                pack = raw
                if not seen and body["seq"] > 1:
                    before = [seq for seq in source.births.get(stream, ()) if seq < body["seq"]]
                    if "table" not in body and not before:
                        continue  # nothing is known of its points
                    if "table" not in body:
                        pack = json.dumps(body | {"table": source.births[stream][max(before)]}).encode()
                    book.ready_ms = max(book.ready_ms, round(float(body["from"]) * 1000) + LEAD_MS)
                from_ms, to_ms = (round(float(body[edge]) * 1000) for edge in ("from", "to"))
                life.from_ms, life.to_ms = life.from_ms or from_ms, max(life.to_ms, to_ms)
                seen.add(body["seq"])
                yield pack


def _plan(birth: Result, plan_file: Path | None) -> Plan:
    """The plan that the stream's birth names. Raises ConfigError where its text is nowhere, or another one is here."""
    said = birth.get("plan")
    if said is None:
        return make_plan(PlanText(schema=1))
    if "text" in said:
        raw, where = said["text"].encode(), "the plan in the packs"
    elif plan_file is None:
        raise ConfigError("the plan is not in the packs", where="plan", hint="Give its file with --plan")
    else:
        try:
            raw, where = plan_file.read_bytes(), str(plan_file)
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=str(plan_file)) from error
    if hashlib.sha256(raw).hexdigest() != said.get("hash"):
        raise ConfigError("is not the plan whose hash the packs name", where=where, hint="Give its file with --plan")
    return load_plan(raw, where)


def _name(result: Result) -> str:
    return f"{result.get('id')} of {result.get('period', {}).get('label')}"


def _compare(
    said: Result,
    plan: Plan,
    adding: Adding,
    book: AsOf,
    here: Mapping[str, Runs],
    entries: Sequence[Declaration],
    out: Repeated,
) -> None:
    if lack := _lack(said, here, book):
        out.add("unknown", f"{_name(said)}: {lack}")
        return
    period = _period(said["period"], book.cut)
    if said["kind"] == "trace":
        made = trace_result(slots_of(book.parts(period.start_ms, period.until_ms), book.cut), period)
    else:
        indicator = next((one for one in plan.indicators if one.name == said["id"]), None)
        if indicator is None or indicator.hash != said["formula"]["hash"]:
            known = "another formula" if indicator else "no such figure"
            sets = ", ".join(shipped_sets())
            out.add("unknown", f"{_name(said)}: {known} in this plan and version; sets here: {sets}")
            return
        known_entries = [entry for entry in entries if entry.at_ms < period.until_ms]
        supply = adding.tally(period).supply(known_entries, period)
        made = evaluate(plan, period, supply, [indicator])[0].as_dict(said["config"])
        _keep_words(said["factors"], made["factors"])
    _judge(said, made, out)


def _keep_words(said: Sequence[Mapping[str, Any]], made: Iterable[dict[str, Any]]) -> None:
    """What a version says about a shipped factor beside its value may be corrected in the next: no other figure."""
    signed = {one["id"]: one for one in said}
    for one in made:
        name, _, year = one["id"].rpartition("@")
        factor, words = shipped().get(name), signed.get(one["id"])
        entry = next((e for e in factor.entries if f"{e.year}" == year), None) if factor else None
        if words is None or entry is None or (entry.text, entry.source) != (one["v"], one["source"]):
            continue  # not in the figure, or the plan's own: its text is in the packs
        for key in ("source", "status", "published"):
            one.pop(key, None)
            if key in words:
                one[key] = words[key]


def _compare_site(said: Result, site: Site, book: AsOf, here: Mapping[str, Runs], out: Repeated) -> None:
    try:
        if lack := _lack(said, here, book):
            out.add("unknown", f"{_name(said)}: {lack}")
            return
        made = site.of(said, _period(said["period"], book.cut))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        out.add("differ", f"{_name(said)}: is not written as a gateway writes it ({error!r})")
        return
    _judge(said, made or {}, out)


def _lack(said: Result, here: Mapping[str, Runs], book: AsOf) -> str:
    """Which pack that a result was made from is not here, or that it lies too near to where the packs begin."""
    for trail in _trails(said):
        runs = here.get(trail["stream"])
        if missing := runs.missing(trail["first"], trail["last"]) if runs else trail["first"]:
            return f"pack {missing} of {trail['stream']} is not here"
    if round(float(said["period"]["from"]) * 1000) < book.ready_ms:
        return f"the packs begin too near to it: with an export from two days before it can be (here {book.ready})"
    mine = {trail["stream"] for trail in _trails(said)}
    if not mine or said.get("missing") or said.get("completeness") != "1":
        mine = set(book.seen)  # it also says what was not known
    for stream in sorted(mine):
        runs, last = here.get(stream), book.seen.get(stream, 0)
        if last and (runs is None or runs.missing(last, last)):
            return f"pack {last} of {stream} is not here"
    return ""


def _judge(said: Result, made: Result, out: Repeated) -> None:
    if wrong := _differences(_texts(said), _texts(made)):
        out.add("differ", f"{_name(said)}: {'; '.join(wrong[:2])}")
    else:
        out.agree += 1


def _period(when: Mapping[str, Any], cut: Cut) -> Period:
    start, end, until = (round(float(when[key]) * 1000) for key in ("from", "to", "until"))
    year = cut.day(start).year
    return Period(when["kind"], start, end, when["label"], year, _year_ms(cut, year), until)


@lru_cache(maxsize=16)
def _year_ms(cut: Cut, year: int) -> int:
    return cut.midnight(date(year + 1, 1, 1)) - cut.midnight(date(year, 1, 1))


def _texts(value: Any) -> Any:
    """Numbers as one text each: one side comes from JSON, the other one was just made."""
    if isinstance(value, Mapping):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_texts(item) for item in value]
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _differences(said: Any, made: Any, place: str = "") -> list[str]:
    """Where two results differ, the first places of them."""
    if isinstance(said, dict) and isinstance(made, dict):
        keys = [*(key for key in ("v", "numerator", "denominator") if key in said or key in made)]
        keys += sorted((said.keys() | made.keys()) - set(keys))
        return [text for key in keys for text in _differences(said.get(key), made.get(key), f"{place} {key}".strip())]
    if isinstance(said, list) and isinstance(made, list) and len(said) == len(made):
        names = [one.get("n", one.get("id", n)) if isinstance(one, dict) else n for n, one in enumerate(said, 1)]
        pairs = zip(names, said, made, strict=True)
        return [text for name, a, b in pairs for text in _differences(a, b, f"{place} {name}".strip())]
    return [] if said == made else [f"{place}: signed {_short(said)}, here {_short(made)}"]


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)[:120]
