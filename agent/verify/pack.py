"""Reads one pack and checks it by itself, without looking at any other pack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .canonical import MAX_SAFE
from .point_table import Gap, PointTable, ms_of
from .readings import PackRecords, read_records
from .report import Handover
from .seam import ChainLink
from .signed import Signed
from .strict import MAX_SHOWN, Columns, Refused, clean, shown
from .topics import STREAM

BOOT: Final = re.compile(r"[0-9a-f]{16}")
_HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_WORD: Final = re.compile(r"[a-z0-9_-]{1,32}")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,400}(?:\.[0-9]{1,400})?")
_EPOCHS: Final = frozenset(("identity", "firmware", "ratio", "variant"))  # events that begin a new counter epoch
MAX_PARTS: Final = 4096
MAX_STEPS: Final = 100  # limit of the clock steps and losses of a pack, counted together
# limit of the handovers that are read from a pack, and of the devices that are read from a handover
MAX_HANDOVERS: Final = 20
MAX_KERNEL: Final = 64  # only this many characters of the boot id of Linux are kept
EARLY_MS: Final = 1000  # a read time is doubtful if it is more than this before the start of its pack


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss event, in which the gateway reports that it dropped packs ``first`` to ``last``."""

    boot: str
    first: int
    last: int
    from_ms: int
    to_ms: int
    hash: str
    reason: str


@dataclass(slots=True)
class Pack:
    """A pack with a valid signature."""

    stream: str
    link: ChainLink
    digest: bytes
    table: PointTable | None  # the point table if the pack is a birth; None if it is not
    records: PackRecords
    gaps: tuple[Gap, ...]
    losses: tuple[Loss, ...]
    synced: bool | None
    monotonic: tuple[str, int] | None  # (boot id of Linux, monotonic clock in ms)
    handovers: tuple[Handover, ...] = ()
    faults: list[str] = field(default_factory=list)


def read_pack(signed: Signed, signer: int = 0, columns: Columns | None = None) -> Pack:
    """Read a pack whose signature is valid.

    Args:
        signer: number of the signing key; see ``ChainLink``.
        columns: columns of the pack's member ``e``; None if ``parse_columns`` returned no columns.

    Raises:
        Refused: with code ``shape``, if a required member is missing or invalid.
    """
    value = signed.value
    get = value.get
    if get("v") != 1 or type(get("v")) is not int:
        raise Refused("shape", f"pack of format {shown(get('v'))}, 1 is known")
    stream, boot, seq = get("stream"), get("boot"), get("seq")
    if not isinstance(stream, str) or not STREAM.fullmatch(stream):
        raise Refused("shape", f"stream {shown(stream)}, expected <site>/<gateway>/<name>")
    if not isinstance(boot, str) or not BOOT.fullmatch(boot):
        raise Refused("shape", f"boot {shown(boot)}, expected 16 hex digits")
    if type(seq) is not int or not 1 <= seq < MAX_SAFE:
        raise Refused("shape", f"seq {shown(seq)}, expected a whole number from 1 on")
    prev = _hash(get("prev", ""), "prev", null=True)
    first = "prev_boot" in value
    prev_boot = get("prev_boot")
    if prev_boot is not None and not (isinstance(prev_boot, str) and BOOT.fullmatch(prev_boot)):
        raise Refused("shape", f"prev_boot {shown(prev_boot)}, expected 16 hex digits or null")
    from_ms, to_ms = ms_of(get("from"), "from"), ms_of(get("to"), "to")
    if from_ms > to_ms:
        raise Refused("shape", f"`from` ({shown(get('from'))}) is later than `to` ({shown(get('to'))})")
    table = PointTable(value["table"]) if "table" in value else None
    digest_text = signed.hash
    link = ChainLink(
        boot,
        seq,
        digest_text,
        prev,
        prev_boot,
        first,
        from_ms,
        to_ms,
        _part(value["part"]) if "part" in value else None,
        digest_text if table else _birth(get("birth")),
        table is not None,
        (),
        signer,
    )
    pack = Pack(stream, link, signed.digest, table, PackRecords(), (), (), None, None)
    if "events" in value:
        _read_events(value["events"], pack)
    if "gaps" in value:
        pack.gaps = _gaps(value["gaps"], from_ms, to_ms)
    if "e" in value:
        pack.records = read_records(value["e"], columns, stream, from_ms - EARLY_MS)
    _read_clock(get("clock"), pack)
    _check_alone(value, pack)
    return pack


def _check_alone(value: Mapping[str, Any], pack: Pack) -> None:
    """Check the rules between members of one pack. If the pack breaks a rule, a fault is added to it."""
    link, faults = pack.link, pack.faults
    if link.is_birth and "birth" in value:
        faults.append("a birth that names a birth")
    if link.is_birth and link.part:
        faults.append("a birth in parts")
    if link.first and not link.is_birth:
        faults.append("the first pack of a boot is not a birth")
    if link.prev is None and not (link.first and link.prev_boot is None and link.seq == 1):
        faults.append("prev is null, but this is not sequence 1 with prev_boot null")
    if link.prev is not None and (link.seq == 1 or (link.first and link.prev_boot is None)):
        faults.append("prev is present, but this is sequence 1 or prev_boot is null")


def _hash(value: object, what: str, null: bool = False) -> str | None:
    if value is None and null:
        return None
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise Refused("shape", f"{what} {shown(value)}, expected a hash of 43 characters")
    return value


def _birth(value: object) -> str:
    if value is None:
        raise Refused("shape", "neither birth nor table")
    return _hash(value, "birth") or ""


def _part(value: object) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        part, parts = value
        if 1 <= part <= parts <= MAX_PARTS:
            return part, parts
    raise Refused("shape", f"part {shown(value)}, expected [k, n] with 1 <= k <= n")


def _gaps(value: object, from_ms: int, to_ms: int) -> tuple[Gap, ...]:
    if not isinstance(value, list):
        raise Refused("shape", "gaps is not an array")
    gaps = []
    for item in value:
        if not isinstance(item, dict):
            raise Refused("shape", "a gap is not an object")
        low, high = ms_of(item.get("from"), "from of a gap"), ms_of(item.get("to"), "to of a gap")
        if not from_ms <= low < high <= to_ms:
            raise Refused("shape", f"gap [{low / 1000}, {high / 1000}) is empty or not inside the pack")
        points, reason = item.get("points"), item.get("reason")
        if not isinstance(reason, str) or not _WORD.fullmatch(reason):
            raise Refused("shape", f"a gap with reason {shown(reason)}")
        if points == "*":
            gaps.append(Gap(low, high, None, reason))
        elif isinstance(points, list) and points and all(isinstance(p, str) for p in points):
            if len(set(points)) != len(points):
                raise Refused("shape", "a gap names a point twice")
            gaps.append(Gap(low, high, tuple(points), reason))
        else:
            raise Refused("shape", 'a gap whose points are neither "*" nor names')
    return tuple(gaps)


def _read_events(value: object, pack: Pack) -> None:
    if not isinstance(value, list):
        raise Refused("shape", "events is not an array")
    steps, losses, handovers = [], [], list[Handover]()
    for event in value:
        name = event.get("event") if isinstance(event, dict) else None
        if not isinstance(name, str):
            raise Refused("shape", "an event without its name")
        if name == "clock_step":
            steps.append((ms_of(event.get("old"), "old of clock_step"), ms_of(event.get("new"), "new of clock_step")))
        elif name == "loss":
            losses.append(_loss(event))
        elif name in _EPOCHS:
            _check_epoch(name, event)
        elif name == "handover" and len(handovers) < MAX_HANDOVERS and pack.stream.endswith("/_gateway"):
            handovers += _handover(event, pack.link)
        if len(steps) + len(losses) > MAX_STEPS:
            raise Refused("shape", f"more than {MAX_STEPS} clock steps and losses in one pack")
    pack.losses, pack.handovers = tuple(losses), tuple(handovers)
    pack.link = replace(pack.link, steps=tuple(steps))


def _check_epoch(name: str, event: Mapping[str, Any]) -> None:
    """Check an event that begins a counter epoch. The event must have the states and counters before and after it."""
    epoch, counters = event.get("epoch"), event.get("counters")
    if type(epoch) is not int or epoch < 0 or not isinstance(counters, list):
        raise Refused("shape", f"an event {name} without epoch and counters")
    if not isinstance(event.get("old"), dict) or not isinstance(event.get("new"), dict):
        raise Refused("shape", f"an event {name} without old and new")
    for counter in counters:
        if not isinstance(counter, dict) or not isinstance(counter.get("n"), str):
            raise Refused("shape", f"an event {name} with a counter without a name")
        for side in ("old", "new"):
            reading = counter.get(side)
            if reading is None:
                continue
            value = reading.get("v") if isinstance(reading, dict) else None
            if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
                of = f"{side} of {counter['n'][:MAX_SHOWN]} in an event {name}"
                raise Refused("shape", f"{of} is {shown(value)}, not an exact decimal")
            ms_of(reading.get("t"), f"t of {side} of a counter in an event {name}")


def _handover(event: Mapping[str, Any], link: ChainLink) -> list[Handover]:
    """Return a list with one entry, which has those members of a handover that reports show.

    If the event has another form, the list is empty. This is not a fault, because handovers do not affect the verdict.
    """
    devices, who = event.get("devices"), event.get("who")
    if not isinstance(who, str) or not isinstance(devices, list):
        return []
    if not all(isinstance(one, dict) and isinstance(one.get("device"), str) for one in devices):
        return []
    try:
        at_ms = ms_of(event.get("t"), "t of a handover")
    except Refused:
        return []
    compared = [one for one in devices if type(one.get("agrees")) is bool]
    differ = [clean(one["device"], MAX_SHOWN) for one in compared if not one["agrees"]]
    name = event.get("id")
    record = Handover(
        clean(name, MAX_SHOWN) if isinstance(name, str) else "", link.boot, link.seq, link.hash, at_ms,
        clean(who, 200), len(devices), len(compared), tuple(differ[:MAX_HANDOVERS]), len(differ),
    )  # fmt: skip
    return [record]


def _loss(event: Mapping[str, Any]) -> Loss:
    boot, first, last = event.get("boot"), event.get("first"), event.get("last")
    low, high = ms_of(event.get("from"), "from of a loss"), ms_of(event.get("to"), "to of a loss")
    if (
        not isinstance(boot, str)
        or not BOOT.fullmatch(boot)
        or type(first) is not int
        or type(last) is not int
        or not 1 <= first <= last < MAX_SAFE
    ):  # fmt: skip
        raise Refused("shape", "a loss event without boot, first and last")
    reason = event.get("reason")
    if not isinstance(reason, str) or not _WORD.fullmatch(reason):
        reason = "?"  # an invalid reason is only shown as "?", because it does not affect the verdict
    return Loss(boot, first, last, low, high, _hash(event.get("hash"), "hash of a loss") or "", reason)


def _read_clock(value: object, pack: Pack) -> None:
    if not isinstance(value, dict) or not (value.get("synced", 0) is None or isinstance(value.get("synced"), bool)):
        pack.faults.append("no clock, or its synced is not true, false or null")
        return
    pack.synced = value["synced"]
    kernel, mono = value.get("kernel_boot"), value.get("mono_ms")
    if isinstance(kernel, str) and isinstance(mono, (int, float)) and abs(mono) < MAX_SAFE:
        pack.monotonic = (clean(kernel[:MAX_KERNEL], MAX_KERNEL), int(mono))
