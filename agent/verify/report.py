"""The report as plain values. ``as_dict`` makes JSON for programs, and ``report_text.py`` makes text for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from .agreed import AgreedStreams

HOUR_MS: Final = 3_600_000
# Longest usual times between two checkpoints. The gateway makes one each hour, and keeps one a day of the old ones.
HOURLY_MS, DAILY_MS = HOUR_MS + 600_000, 25 * HOUR_MS
_ALL: Final = AgreedStreams()
MAX_LISTED: Final = 100  # a list of faults, ranges and so on has at most this many entries; counts include all


class Verdict(StrEnum):
    """The overall verdict."""

    VERIFIED = "verified"
    UNPROVEN = "consistent, origin unproven"  # all is valid, but no pin was given
    INCOMPLETE = "incomplete"  # everything present is valid, but something is missing
    FAILED = "failed"
    NOTHING = "nothing to verify"


@dataclass(frozen=True, slots=True)
class Fault:
    """One pack or object that was refused, with the reason."""

    code: str
    reason: str
    stream: str = ""
    boot: str = ""
    seq: int = 0
    where: str = ""  # topic, or file and line
    unpinned: bool = False  # True if the only reason is that none of the gateway's keys is pinned

    def __str__(self) -> str:
        name = f"{self.stream} seq {self.seq} boot {self.boot}" if self.seq else self.stream
        return f"{name or self.where}: {self.reason}" + (f" ({self.where})" if name and self.where else "")


@dataclass(slots=True)
class Faults:
    """The number of all faults, their numbers by code, and a list of the first hundred."""

    count: int = 0
    by_code: dict[str, int] = field(default_factory=dict)
    listed: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Count a fault. It is also listed if the list has fewer than a hundred entries."""
        self.count += 1
        self.by_code[fault.code] = self.by_code.get(fault.code, 0) + 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(fault)


@dataclass(frozen=True, slots=True)
class Range:
    """Absent packs with the sequences ``first`` to ``last``. Together they covered the time ``[from_ms, to_ms)``."""

    first: int
    last: int
    from_ms: int
    to_ms: int
    readings: int | None  # readings due in that time; None if the birth in effect is unknown
    reason: str = ""  # the reason in the loss event; "" if the packs are missing without a loss event

    @property
    def packs(self) -> int:
        """The number of absent packs."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class IncompleteCheckpoint:
    """A checkpoint with missing pages. The heads on the missing pages are unknown."""

    gateway: str
    counter: int
    time_ms: int  # time when the checkpoint was made
    pages: int
    missing: list[int]  # numbers of the missing pages

    def __str__(self) -> str:
        some = ", ".join(map(str, self.missing[:5])) + (", ..." if len(self.missing) > 5 else "")
        if len(self.missing) == 1:
            return f"{self.gateway}: page {some} of {self.pages} is missing in checkpoint {self.counter}"
        return f"{self.gateway}: pages {some} of {self.pages} are missing in checkpoint {self.counter}"


@dataclass(frozen=True, slots=True)
class Handover:
    """A signed record of commissioning.

    It states how many devices were compared with their displays, and which differed.
    """

    id: str
    boot: str
    seq: int
    hash: str  # hash of the pack that contains the record
    time_ms: int
    who: str
    devices: int
    compared: int
    named: tuple[str, ...]  # names of devices whose readings differed from the display; may be incomplete
    differed: int

    @property
    def counts(self) -> str:
        """The numbers of devices as text, with the names of those that differed."""
        most = f" ({', '.join(self.named)}{', ...' if self.differed > len(self.named) else ''})" if self.named else ""
        return (
            f"devices: {self.devices}, compared with their displays: {self.compared}, "
            f"with a difference: {self.differed}{most}"
        )


@dataclass(slots=True)
class Day:
    """Completeness of a stream on one UTC day. The members are numbers of readings of gauges and counters."""

    due: int = 0
    got: int = 0
    asleep: int = 0  # due readings in gaps with the reason ``asleep``
    gaps: int = 0  # due readings in gaps with any other reason
    lost: int = 0  # due readings in packs that the gateway reported as dropped
    missing: int = 0


@dataclass(slots=True)
class StreamReport:
    """The facts about one stream."""

    stream: str
    packs: int = 0  # packs with a valid signature; redelivered packs count once
    verified: int = 0  # packs with a valid signature and without a fault
    readings: int = 0  # records in verified packs
    gaps: int = 0  # due readings in stated gaps
    asleep: int = 0  # due readings in gaps with the reason ``asleep``; ``gaps`` includes them
    gap_reasons: dict[str, int] = field(default_factory=dict)
    redelivered: int = 0
    # redelivered packs that could not be compared, because the hash of the first copy is no longer kept
    uncompared: int = 0
    reordered: int = 0
    rewritten: int = 0  # packs whose signature is valid only after canonicalisation
    births: int = 0
    boots: int = 0
    asked: bool = True  # False: the stream was not requested, so absent packs do not count as missing
    retired: bool = False  # True: the newest checkpoint states that the device is no longer read
    head_seq: int = 0  # sequence of the stream's head in the newest checkpoint; 0 without a checkpoint
    head_ms: int = 0
    oldest_head_seq: int = 0  # sequence of the stream's head, as the oldest checkpoint in the files states it
    is_unheard: bool = False  # True: the head advanced between two checkpoints, but no pack arrived
    first_seq: int = 0
    last_seq: int = 0
    from_ms: int = 0
    to_ms: int = 0
    begun_ms: int = 0  # end time of the first pack
    missing: list[Range] = field(default_factory=list)
    lost: list[Range] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)  # texts about rollbacks and clones
    restarts: list[str] = field(default_factory=list)  # texts about new histories of the stream
    unchecked: int = 0  # packs of unknown completeness, because the birth pack or the rest of a split pack is missing
    clock_unsynced: int = 0  # number of packs made while the clock was not synchronised
    clock_unknown: int = 0  # number of packs that do not state whether the clock was synchronised
    clock_backward: int = 0  # how often the monotonic clock went back although Linux had not rebooted
    early: int = 0  # number of read times that are more than 1 s before the start of their pack
    days: dict[str, Day] = field(default_factory=dict)
    handovers: list[Handover] = field(default_factory=list)  # only the first hundred handovers
    faults: Faults = field(default_factory=Faults)

    def waive(self) -> None:
        """Change the report of a stream that was not requested, so that absent packs do not count as missing.

        Packs of the stream that arrived are judged like any other packs.
        """
        self.asked, self.is_unheard, self.missing = False, False, []
        for day in self.days.values():
            day.due, day.missing = day.due - day.missing, 0
        self.days = {name: day for name, day in self.days.items() if day.due or day.got}

    @property
    def is_cut(self) -> bool:
        """True if the packs directly after the oldest checkpoint in files are absent.

        They are no longer kept, or somebody holds them back.
        """
        return bool(self.packs and self.oldest_head_seq) and self.oldest_head_seq + 1 < self.first_seq

    @property
    def cut_remark(self) -> str:
        """The remark if ``is_cut``: which packs are absent, and how this is known."""
        first, end = self.first_seq, self.oldest_head_seq
        return (
            f"packs begin with sequence {first}; an earlier checkpoint names sequence {end}, "
            f"so packs {end + 1} to {first - 1} are absent"
        )

    @property
    def missing_packs(self) -> int:
        """The number of packs that are neither present nor reported as lost."""
        return sum(hole.packs for hole in self.missing)

    @property
    def lost_packs(self) -> int:
        """The number of packs that the gateway reported as dropped."""
        return sum(hole.packs for hole in self.lost)


def latest(streams: Mapping[str, StreamReport]) -> dict[str, int]:
    """Return gateway -> end of its last pack in UTC ms."""
    ends: dict[str, int] = {}
    for name, stream in streams.items():
        if stream.packs:
            gateway = name.rpartition("/")[0]
            ends[gateway] = max(ends.get(gateway, stream.to_ms), stream.to_ms)
    return ends


def held_back(streams: Mapping[str, StreamReport], wanted: Collection[str], agreed: AgreedStreams = _ALL) -> list[str]:
    """Return the streams that have no pack here although they must have packs.

    In files, these are streams whose newest head in a checkpoint ends after the first pack of another stream of the
    gateway. On a broker, they are streams whose head advanced between two checkpoints.

    Retired streams, and streams that were not requested, are left out. A stream that was agreed by name or pattern is
    never left out, even if the export does not include it or the gateway calls it retired.
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
    reasons: list[str]  # why the verdict is not "verified"
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
    checkpointed: dict[str, int] = field(default_factory=dict)  # gateway -> time of its newest checkpoint, UTC ms
    beyond: dict[str, int] = field(default_factory=dict)  # gateway -> ms from its newest checkpoint to its last pack
    only: list[str] = field(default_factory=list)  # the streams to which the export was restricted; empty: all streams
    withheld: list[str] = field(default_factory=list)  # streams that have no packs although they should
    agreed: list[str] = field(default_factory=list)  # agreed names and patterns; empty: all streams are agreed
    unknown: list[str] = field(default_factory=list)  # agreed streams that neither a pack nor a checkpoint names
    content_types: dict[str, int] = field(default_factory=dict)  # unknown content types -> number of messages
    torn_checkpoints: list[IncompleteCheckpoint] = field(default_factory=list)
    held: int = 0  # number of packs that wait for keys
    first_bad: Fault | None = None
    faults: list[Fault] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)  # code -> number of faults

    @property
    def ok(self) -> bool:
        """True if the verdict is "verified"."""
        return self.verdict is Verdict.VERIFIED

    def shortfalls(self) -> list[str]:
        """Return texts about absent data, such as readings in gaps. The verdict can be "verified" in spite of them.

        This is for a user who expects that all readings are present.
        """
        short = []
        for name, stream in self.streams.items():
            if not stream.asked:
                continue
            if not stream.packs and not stream.retired:
                short.append(f"{name}: known, but without any pack")
            if stream.is_cut:
                short.append(f"{name}: {stream.cut_remark}")
            if awake := stream.gaps - stream.asleep:
                short.append(f"{name}: the gateway reported {awake} readings as missing (gaps)")
            if stream.lost_packs:
                short.append(f"{name}: {stream.lost_packs} packs are reported lost")
        for gateway, ms in self.beyond.items():
            if ms > DAILY_MS:
                short.append(f"{gateway}: the last pack ends {ms / HOUR_MS:.0f} h after the newest checkpoint")
        return short

    def as_dict(self) -> dict[str, Any]:
        """Return the report as one JSON object. Times are in UTC seconds; docs/verify.md explains the names."""
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
