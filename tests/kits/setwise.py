"""Judges packs as a set, as a database does: first each pack alone with ``check``, then the seams, in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.verify import (
    Balance,
    CheckedPack,
    CheckedPage,
    Day,
    KeyRing,
    PointTable,
    Refusal,
    balance,
    check,
    check_checkpoint,
    check_keys,
    check_seam,
    split_topic,
)

Object = tuple[str, bytes]  # topic, published bytes


@dataclass
class StreamSet:
    """All packs of one stream."""

    packs: dict[tuple[str, int], CheckedPack] = field(default_factory=dict)  # by (boot, sequence); the first to arrive
    codes: Counter[str] = field(default_factory=Counter)  # number of packs by code of their fault
    readings: int = 0
    gaps: Counter[str] = field(default_factory=Counter)
    days: dict[int, Day] = field(default_factory=dict)
    missing: int = 0
    lost: int = 0


@dataclass
class Judged:
    """The result for the whole set."""

    streams: dict[str, StreamSet] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    pages: list[CheckedPage] = field(default_factory=list)

    @property
    def failures(self) -> dict[str, int]:
        """The number of failures by code, as in a report."""
        codes = Counter(refusal.code for refusal in self.refused)
        for one in self.streams.values():
            codes.update(one.codes)
        return dict(codes)


def judge(objects: Sequence[Object], trust: Sequence[str]) -> Judged:
    """Judge the keys first, as if they were in the platform's database, then everything else in its order."""
    made = Judged()
    rings: dict[str, KeyRing] = {}
    tables: dict[str, PointTable] = {}
    late: list[tuple[str, bytes, KeyRing]] = []
    places = [(split_topic(topic), topic, raw) for topic, raw in objects]
    for place, topic, raw in places:
        if place and place.kind == "keys":
            ring = rings.setdefault(place.gateway, KeyRing(place.gateway, trust))
            if isinstance(done := check_keys(raw, topic, ring), Refusal) and done.wait:
                late.append((topic, raw, ring))  # this object is older than the pinned key
            elif isinstance(done, Refusal):
                made.refused.append(done)
    made.refused += [done for one in late if isinstance(done := check_keys(one[1], one[0], one[2]), Refusal)]
    for place, topic, raw in places:
        if place is None or place.kind == "keys":
            continue
        ring = rings.setdefault(place.gateway, KeyRing(place.gateway, trust))
        if place.kind == "checkpoint":
            page = check_checkpoint(raw, topic, ring)
            (made.refused if isinstance(page, Refusal) else made.pages).append(page)  # type: ignore[arg-type]
            continue
        pack = check(raw, topic, ring, tables.get)
        if isinstance(pack, Refusal):
            made.refused.append(pack)
            continue
        if pack.table:
            tables[pack.link.hash] = pack.table
        if pack.retained:
            continue
        own = made.streams.setdefault(pack.stream, StreamSet())
        known = own.packs.setdefault((pack.link.boot, pack.link.seq), pack)
        own.codes["fork"] += known.digest != pack.digest
    for own in made.streams.values():
        _judge_stream(own, tables)
        own.codes = +own.codes
    return made


def _judge_stream(own: StreamSet, tables: dict[str, PointTable]) -> None:
    by_hash = {pack.link.hash: pack for pack in own.packs.values()}
    wrong: dict[tuple[str, int], str] = {}
    ticks: dict[tuple[str, int, bool], list[CheckedPack]] = {}
    for name, pack in own.packs.items():
        link = pack.link
        near = own.packs.get((link.boot, link.seq - 1))
        before = by_hash.get(link.prev or "")
        if any(fault.code == "rule" for fault in pack.faults):
            wrong[name] = "rule"
        elif any(check_seam(left.link, link) for left in (near, before) if left):
            wrong[name] = "chain"
        begin = link.seq - link.part[0] + 1 if link.part else link.seq
        ticks.setdefault((link.boot, begin, link.part is not None), []).append(pack)
    for parts in ticks.values():
        names = [(pack.link.boot, pack.link.seq) for pack in parts]
        table = tables.get(parts[0].link.birth)
        whole = len(parts) == (parts[0].link.part or (1, 1))[1]
        if any(name in wrong for name in names):
            continue
        if table is None or not whole:
            own.readings += sum(pack.counts.readings for pack in parts)
            continue
        judged = parts[0].balance or balance([pack.counts for pack in parts], table)
        if judged.faults:
            wrong[names[0]] = judged.faults[0].code
        else:
            _add(own, judged, sum(pack.counts.readings for pack in parts))
    own.codes.update(wrong.values())
    told = {seq for pack in own.packs.values() for loss in pack.losses for seq in range(loss.first, loss.last + 1)}
    here = {seq for _, seq in own.packs}
    gone = set(range(min(here), max(here))) - here
    own.missing, own.lost = len(gone - told), len(gone & told)


def _add(own: StreamSet, judged: Balance, readings: int) -> None:
    own.readings += readings
    own.gaps.update(judged.gaps)
    for number, share in judged.days:
        day = own.days.setdefault(number, Day())
        day.due += share.due
        day.got += share.got
        day.asleep += share.asleep
        day.gaps += share.gaps
