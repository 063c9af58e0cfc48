"""The report as plain values. ``as_dict`` converts it for programs, ``report_text.py`` for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from .agreed import AgreedStreams

HOUR_MS: Final = 3_600_000
# longest usual time without a checkpoint: one is made each hour, and of the old ones, one a day is kept
HOURLY_MS, DAILY_MS = HOUR_MS + 600_000, 25 * HOUR_MS
_ALL: Final = AgreedStreams()
MAX_LISTED: Final = 100  # at most this many faults, ranges and so on are listed; all are counted


class Verdict(StrEnum):
    """The overall verdict."""

    VERIFIED = "verified"
    UNPROVEN = "consistent, origin unproven"  # no pin was given
    INCOMPLETE = "incomplete"  # everything present is valid, but something is missing
    FAILED = "failed"
    NOTHING = "nothing to verify"


@dataclass(frozen=True, slots=True)
class Fault:
    """One pack or object that was refused, and why."""

    code: str
    reason: str
    stream: str = ""
    boot: str = ""
    seq: int = 0
    where: str = ""  # topic, or file and line

    def __str__(self) -> str:
        name = f"{self.stream} seq {self.seq} boot {self.boot}" if self.seq else self.stream
        return f"{name or self.where}: {self.reason}" + (f" ({self.where})" if name and self.where else "")


@dataclass(slots=True)
class Faults:
    """Faults: the number of all, the numbers by code, and the first hundred."""

    count: int = 0
    by_code: dict[str, int] = field(default_factory=dict)
    listed: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Count a fault. It is listed if there are fewer than a hundred."""
        self.count += 1
        self.by_code[fault.code] = self.by_code.get(fault.code, 0) + 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(fault)


@dataclass(frozen=True, slots=True)
class Range:
    """Absent packs: sequences ``first`` to ``last``, which covered ``[from_ms, to_ms)``."""

    first: int
    last: int
    from_ms: int
    to_ms: int
    readings: int | None  # readings due in that time; None if the birth in effect is unknown
    reason: str = ""  # reason of the loss event; "" for missing packs

    @property
    def packs(self) -> int:
        """Number of packs."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class IncompleteCheckpoint:
    """A checkpoint with missing pages. The heads on the missing pages are unknown."""

    gateway: str
    counter: int
    time_ms: int  # when it was made
    pages: int
    missing: list[int]  # numbers of the missing pages

    def __str__(self) -> str:
        some = ", ".join(map(str, self.missing[:5])) + (", ..." if len(self.missing) > 5 else "")
        gone = f"page {some} of {self.pages} is" if len(self.missing) == 1 else f"pages {some} of {self.pages} are"
        return f"{self.gateway}: {gone} missing in checkpoint {self.counter}"


@dataclass(frozen=True, slots=True)
class Handover:
    """A signed record of commissioning: how many devices were compared with their displays, and which differed."""

    id: str
    boot: str
    seq: int
    hash: str  # hash of the pack that contains the record
    time_ms: int
    who: str
    devices: int
    compared: int
    named: tuple[str, ...]  # names of devices that differed; perhaps not all
    differed: int

    def __str__(self) -> str:
        most = f": {', '.join(self.named)}{', ...' if self.differed > len(self.named) else ''}" if self.named else ""
        counts = f"{self.devices} devices, {self.compared} compared with their displays, {self.differed} differ{most}"
        return f"handover by {self.who}, {counts}; sequence {self.seq}, hash {self.hash}"


@dataclass(slots=True)
class Day:
    """Completeness of a stream over one UTC day: numbers of readings of gauges and counters."""

    due: int = 0
    got: int = 0
    asleep: int = 0  # due readings in gaps because the device sleeps
    gaps: int = 0  # due readings in stated gaps, without those of ``asleep``
    lost: int = 0  # due readings in packs that the gateway reports as dropped
    missing: int = 0


@dataclass(slots=True)
class StreamReport:
    """The facts about one stream."""

    stream: str
    packs: int = 0  # packs with a valid signature; redelivered packs count once
    verified: int = 0  # of these packs, those without a fault
    readings: int = 0  # records in verified packs
    gaps: int = 0  # due readings in stated gaps
    asleep: int = 0  # of these readings, those in gaps because the device sleeps
    gap_reasons: dict[str, int] = field(default_factory=dict)
    redelivered: int = 0
    uncompared: int = 0  # of these packs, those whose bytes could not be compared: their hash is no longer kept
    reordered: int = 0
    rewritten: int = 0  # packs whose signature fits only after canonicalisation
    births: int = 0
    boots: int = 0
    asked: bool = True  # False: the stream was not requested, so its packs may be absent
    retired: bool = False  # the newest checkpoint states that its device is no longer read
    head_seq: int = 0  # sequence of its head in the newest checkpoint; 0 without a checkpoint
    head_ms: int = 0
    oldest_head_seq: int = 0  # sequence of its head in the oldest checkpoint in files
    is_unheard: bool = False  # its head advanced between two checkpoints, but no pack arrived
    first_seq: int = 0
    last_seq: int = 0
    from_ms: int = 0
    to_ms: int = 0
    begun_ms: int = 0  # end of the first pack
    missing: list[Range] = field(default_factory=list)
    lost: list[Range] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)  # rollbacks and clones
    restarts: list[str] = field(default_factory=list)  # where the history begins anew
    unchecked: int = 0  # packs of unknown completeness, because their birth or other parts are missing
    clock_unsynced: int = 0  # packs made while the clock was not synchronised
    clock_unknown: int = 0  # packs that do not state whether the clock was synchronised
    clock_backward: int = 0  # how often the monotonic clock went back within a kernel boot
    early: int = 0  # read times more than 1 s before the start of their pack
    days: dict[str, Day] = field(default_factory=dict)
    handovers: list[Handover] = field(default_factory=list)  # the first hundred
    faults: Faults = field(default_factory=Faults)

    def waive(self) -> None:
        """Change the report of a stream that was not requested: absent packs are not missing.

        Packs that arrived are judged like any others.
        """
        self.asked, self.is_unheard, self.missing = False, False, []
        for day in self.days.values():
            day.due, day.missing = day.due - day.missing, 0
        self.days = {name: day for name, day in self.days.items() if day.due or day.got}

    @property
    def is_cut(self) -> bool:
        """True if packs after the oldest checkpoint in files are absent: they are no longer kept, or held back."""
        return bool(self.packs and self.oldest_head_seq) and self.oldest_head_seq + 1 < self.first_seq

    @property
    def missing_packs(self) -> int:
        """Packs that are neither present nor reported lost."""
        return sum(hole.packs for hole in self.missing)

    @property
    def lost_packs(self) -> int:
        """Packs that the gateway reports as dropped."""
        return sum(hole.packs for hole in self.lost)


def latest(streams: Mapping[str, StreamReport]) -> dict[str, int]:
    """Return the end of the last pack of each gateway, in ms."""
    ends: dict[str, int] = {}
    for name, stream in streams.items():
        if stream.packs:
            gateway = name.rpartition("/")[0]
            ends[gateway] = max(ends.get(gateway, stream.to_ms), stream.to_ms)
    return ends


def held_back(streams: Mapping[str, StreamReport], wanted: Collection[str], agreed: AgreedStreams = _ALL) -> list[str]:
    """Return the streams that have no pack here, but must have had some.

    In files, this is a stream whose newest head in a checkpoint ends after the first pack of another stream of the
    gateway. On a broker, it is a stream whose head advanced between two checkpoints.

    Retired streams, and streams that were not requested, may be absent. A stream that was agreed by name or pattern may
    not: it is returned even if the files were exported without it or the gateway calls it retired.
    """
    begun: dict[str, int] = {}
    for name, stream in streams.items():
        gateway = name.rpartition("/")[0]
        if stream.packs:
            begun[gateway] = min(begun.get(gateway, stream.begun_ms), stream.begun_ms)
    first = min(begun.values(), default=0)
    found = []
    for name, stream in streams.items():
        gateway, _, last = name.rpartition("/")
        if not stream.head_seq or stream.packs or not agreed.asked(name):
            continue
        if agreed.names(name):
            start = begun.get(gateway, first)
        elif gateway in begun and not stream.retired and (not wanted or last in wanted):
            start = begun[gateway]
        else:
            continue
        if stream.is_unheard or (stream.oldest_head_seq and stream.head_ms > start):
            found.append(name)
    return found


@dataclass(slots=True)
class Report:
    """The report on all streams, with the verdict."""

    verdict: Verdict
    reasons: list[str]  # why it is not "verified"
    trust: dict[str, str | None]  # gateway -> thumbprint of its first key
    streams: dict[str, StreamReport]
    packs: int = 0
    verified: int = 0
    failed: int = 0
    readings: int = 0
    gaps: int = 0
    asleep: int = 0
    redelivered: int = 0
    reordered: int = 0
    missing: int = 0
    lost: int = 0
    bad_signatures: int = 0
    checkpoints: int = 0  # number of pages of checkpoints
    checkpointed: dict[str, int] = field(default_factory=dict)  # gateway -> time of its newest checkpoint, ms
    beyond: dict[str, int] = field(default_factory=dict)  # gateway -> ms from its newest checkpoint to its last pack
    only: list[str] = field(default_factory=list)  # the streams that files were exported for; empty: all
    withheld: list[str] = field(default_factory=list)  # streams without packs that should have some
    agreed: list[str] = field(default_factory=list)  # agreed names and patterns; empty: all streams
    unknown: list[str] = field(default_factory=list)  # agreed streams that neither a pack nor a checkpoint names
    content_types: dict[str, int] = field(default_factory=dict)  # unknown content types -> number of messages
    torn_checkpoints: list[IncompleteCheckpoint] = field(default_factory=list)
    held: int = 0  # packs that wait for keys
    first_bad: Fault | None = None
    faults: list[Fault] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)  # code -> number of faults

    @property
    def ok(self) -> bool:
        """True if the verdict is "verified"."""
        return self.verdict is Verdict.VERIFIED

    def shortfalls(self) -> list[str]:
        """Return what is absent although the verdict may be "verified", such as readings in gaps.

        For a user who expects all readings.
        """
        short = []
        for name, stream in self.streams.items():
            if not stream.asked:
                continue
            if not stream.packs and not stream.retired:
                short.append(f"{name}: known, but without any pack")
            if stream.is_cut:
                end = f"an earlier checkpoint ends with sequence {stream.oldest_head_seq}"
                begin = f"begins with sequence {stream.first_seq}"
                short.append(f"{name}: {begin}, {end}, and the packs in between are absent")
            if awake := stream.gaps - stream.asleep:
                short.append(f"{name}: {awake} readings are in gaps")
            if stream.lost_packs:
                short.append(f"{name}: {stream.lost_packs} packs are reported lost")
        for gateway, ms in self.beyond.items():
            if ms > DAILY_MS:
                short.append(f"{gateway}: packs continue for {ms / HOUR_MS:.0f} h after its newest checkpoint")
        return short

    def as_dict(self) -> dict[str, Any]:
        """Return the report as one JSON object: times in UTC seconds, names as in docs/verify.md."""
        made = asdict(self)
        made["verdict"] = self.verdict.value
        made["beyond"] = {gateway: ms / 1000 for gateway, ms in self.beyond.items()}
        made["checkpointed"] = {gateway: time_ms / 1000 for gateway, time_ms in self.checkpointed.items()}
        for checkpoint in made["torn_checkpoints"]:
            checkpoint["time"] = checkpoint.pop("time_ms") / 1000
        for name, stream in made["streams"].items():
            report = self.streams[name]
            for key in ("from", "to"):
                stream[key] = stream.pop(f"{key}_ms") / 1000
            stream["head_to"] = stream.pop("head_ms") / 1000
            del stream["begun_ms"]
            for record in stream["handovers"]:
                record["time"] = record.pop("time_ms") / 1000
            for kind in ("missing", "lost"):
                for hole in stream[kind]:
                    for key in ("from", "to"):
                        hole[key] = hole.pop(f"{key}_ms") / 1000
            stream["missing_packs"], stream["lost_packs"] = report.missing_packs, report.lost_packs
            stream["failed"] = report.faults.count
            stream["failures"] = report.faults.by_code
            del stream["faults"]
        return made
