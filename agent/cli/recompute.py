"""Figures repeated from exported packs: the same readings, the same formulas, the same digits?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.indicators.compute import Tally, intervals_of
from agent.indicators.declared import Declaration, from_dict
from agent.indicators.definitions import PlanText, parse_plan, read_plan, shipped_sets
from agent.indicators.evaluate import evaluate
from agent.indicators.figure import Figure, Period
from agent.indicators.plan import Indicator, Plan, make_plan
from agent.intervals import Cut, Memory, Rule
from agent.intervals.replay import recompute as intervals_from
from agent.verify.files import find_files, read_objects
from drivers.model import ConfigError

MAX_LISTED = 100
COMPARED = ("v", "numerator", "denominator", "completeness", "estimated", "verdict")


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
    """What one stream of results says, with the birth in force at each figure."""

    births: list[Mapping[str, Any]] = field(default_factory=list)
    figures: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)  # (birth, figure)
    entries: list[Declaration] = field(default_factory=list)


def recompute(paths: Iterable[Path], plan_file: Path | None) -> Repeated:
    """Repeat every figure whose packs are all here.

    Args:
        paths: files and folders of ``meterhouse export``. Verify them first: nothing is checked here.
        plan_file: for figures of a plan whose text is not in the packs.
    """
    results: dict[str, _Results] = {}
    bodies: dict[str, list[Path]] = {}
    for path in find_files(paths):
        for raw, _ in read_objects(path):
            body = _pack(raw)
            if body is None:
                continue
            stream: str = body["stream"]
            if stream.endswith("/_indicators"):
                _take_results(results.setdefault(stream.rpartition("/")[0], _Results()), body)
            elif not stream.rpartition("/")[2].startswith("_") and path not in bodies.setdefault(stream, []):
                bodies[stream].append(path)
    repeated = Repeated()
    for base, said in results.items():
        streams = {stream: files for stream, files in bodies.items() if stream.startswith(base + "/")}
        _repeat(said, streams, plan_file, repeated)
    return repeated


def _pack(raw: bytes) -> dict[str, Any] | None:
    if b'"stream"' not in raw or b'"from"' not in raw:
        return None
    try:
        body: dict[str, Any] = json.loads(raw, parse_float=str)
    except ValueError:
        return None  # the verifier says so
    return body if isinstance(body.get("stream"), str) and isinstance(body.get("seq"), int) else None


def _take_results(into: _Results, body: Mapping[str, Any]) -> None:
    if "table" in body:
        into.births.append(body["table"])
    for result in body.get("results", ()):
        if result.get("kind") == "figure" and into.births:
            into.figures.append((len(into.births) - 1, result))
        elif result.get("kind") == "declaration":
            into.entries.append(from_dict(_numbers(result)))


def _numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """Times were read as text."""
    return {key: float(value) if key in ("at", "from", "to") else value for key, value in result.items()}


def _repeat(said: _Results, streams: Mapping[str, list[Path]], plan_file: Path | None, out: Repeated) -> None:
    books: dict[str, tuple[Cut, Memory, dict[str, set[int]]]] = {}
    for number, birth in enumerate(said.births):
        mine = [figure for at, figure in said.figures if at == number]
        entry = birth.get("interval")
        if not mine or not entry:
            continue
        key = json.dumps(entry, sort_keys=True)
        if key not in books:
            books[key] = _read(entry, streams)
        cut, book, here = books[key]
        try:
            plan = _plan(birth, plan_file)
        except ConfigError as error:
            for figure in mine:
                out.add("unknown", f"{_name(figure)}: {error}")
            continue
        for figure in mine:
            _compare(figure, plan, cut, book, here, said.entries, out)


def _read(entry: Mapping[str, Any], streams: Mapping[str, list[Path]]) -> tuple[Cut, Memory, dict[str, set[int]]]:
    """All packs into intervals, one stream after the other; and which sequences are here."""
    cut = Cut(entry["timezone"], round(float(entry["length"]) * 1000))
    period, slip = (round(float(value) * 1000) for value in entry["demand"])
    rule = Rule(round(float(entry["max_gap"]) * 1000), period, slip)
    book, here = Memory(), dict[str, set[int]]()
    for stream, files in streams.items():
        packs = _packs_of(stream, files, here.setdefault(stream, set()))
        for shape, rows in intervals_from(stream, packs, cut, rule):
            book.add(stream, shape, rows)
    return cut, book, here


def _packs_of(stream: str, files: Iterable[Path], seen: set[int]) -> Iterator[bytes]:
    """Packs of one stream, each once, in the order of the files; their sequences go into ``seen``."""
    for path in files:
        for raw, _ in read_objects(path):
            body = _pack(raw)
            if body is not None and body["stream"] == stream and body["seq"] not in seen:
                if not seen and "table" not in body:
                    continue  # nothing is known of its points
                seen.add(body["seq"])
                yield raw


def _plan(birth: Mapping[str, Any], plan_file: Path | None) -> Plan:
    """The plan that the stream's birth names. Raises ConfigError where its text is nowhere."""
    said = birth.get("plan")
    if said is None:
        return make_plan(PlanText(schema=1))
    if "text" in said:
        return make_plan(parse_plan(said["text"], "plan"), "plan")
    if plan_file is not None:
        return make_plan(read_plan(plan_file), str(plan_file))
    raise ConfigError("the plan is not in the packs", where="plan", hint="Give its file with --plan")


def _name(figure: Mapping[str, Any]) -> str:
    return f"{figure.get('id')} of {figure.get('period', {}).get('label')}"


def _compare(
    said: Mapping[str, Any],
    plan: Plan,
    cut: Cut,
    book: Memory,
    here: Mapping[str, set[int]],
    entries: Sequence[Declaration],
    out: Repeated,
) -> None:
    indicator = next((one for one in plan.indicators if one.name == said["id"]), None)
    if indicator is None or indicator.hash != said["formula"]["hash"]:
        known = "another formula" if indicator else "no such figure"
        out.add("unknown", f"{_name(said)}: {known} in this plan and version; sets here: {', '.join(shipped_sets())}")
        return
    if lack := _lack(said, here):
        out.add("unknown", f"{_name(said)}: {lack}")
        return
    when = said["period"]
    start, end, until = (round(float(when[key]) * 1000) for key in ("from", "to", "until"))
    first, after = cut.stretch("year", start)
    period = Period(when["kind"], start, end, when["label"], cut.day(start).year, after - first, until)
    made = _figure(plan, indicator, period, cut, book, entries).as_dict(said["config"])
    wrong = [name for name in COMPARED if made.get(name) != said.get(name)]
    inputs = {one["n"]: one["v"] for one in made["inputs"]}
    wrong += [f"input {one['n']}" for one in said["inputs"] if inputs.get(one["n"]) != one["v"]]
    if wrong:
        pairs = "; ".join(f"{name}: signed {said.get(name)}, here {made.get(name)}" for name in wrong[:2])
        out.add("differ", f"{_name(said)}: {pairs}")
    else:
        out.agree += 1


def _figure(
    plan: Plan, indicator: Indicator, period: Period, cut: Cut, book: Memory, entries: Sequence[Declaration]
) -> Figure:
    tally = Tally()
    for day_start, day_end in cut.stretches("day", period.start_ms, period.until_ms):
        start, end = max(day_start, period.start_ms), min(day_end, period.until_ms)
        tally.add(intervals_of(book, cut, start, end))
    known = [entry for entry in entries if entry.at_ms < period.until_ms]
    return evaluate(plan, period, tally.supply(known), [indicator])[0]


def _lack(said: Mapping[str, Any], here: Mapping[str, set[int]]) -> str:
    """Which packs of a figure's trail are not here; "" if all are."""
    for one in said["inputs"]:
        for trail in one.get("from", ()):
            seen = here.get(trail["stream"], set())
            missing = [seq for seq in range(trail["first"], trail["last"] + 1) if seq not in seen]
            if missing:
                return f"{trail['stream']} pack {missing[0]} is not here ({len(missing)} of its packs are missing)"
    return ""
