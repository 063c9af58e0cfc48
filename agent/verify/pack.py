"""One pack read strictly: what it says of itself, without looking at any other pack."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agent.verify.canonical import canonical
from agent.verify.quick import Sketch
from agent.verify.signed import Signed
from agent.verify.strict import MAX_SHOWN, Refused, parse_object, shown
from agent.verify.table import Gap, Table, ms_of

NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}"  # of a site, a gateway, the last part of a stream
STREAM: Final = re.compile(f"{NAME}/{NAME}/{NAME}")
BOOT: Final = re.compile(r"[0-9a-f]{16}")
_HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_WORD: Final = re.compile(r"[a-z0-9_-]{1,32}")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,400}(?:\.[0-9]{1,400})?")
_EPOCHS: Final = frozenset(("identity", "firmware", "ratio", "variant"))  # events that begin a counter epoch
_VALUES: Final = ("v", "vs", "vb")
_FOREIGN: Final = frozenset(("bs", "bu", "bv", "bver", "vd"))  # SenML has them, packs do not: readings would differ
MAX_PARTS: Final = 4096
MAX_STEPS: Final = 100  # clock steps and losses that one pack states
MAX_KERNEL: Final = 64  # characters of a kernel's boot
EARLY_MS: Final = 1000  # a read time this far before the pack is worth a doubt


@dataclass(frozen=True, slots=True)
class Edge:
    """What a pack's neighbours in its stream must fit."""

    boot: str
    seq: int
    hash: str
    prev: str | None
    prev_boot: str | None
    first: bool  # of its boot
    from_ms: int
    to_ms: int
    part: tuple[int, int] | None
    birth: str  # in force after this pack: its own hash if it is a birth
    is_birth: bool
    steps: tuple[tuple[int, int], ...]  # clock_step events: (old, new) in ms
    signer: int  # place of its key in the chain of keys


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss event: packs ``first`` to ``last`` that the gateway dropped and says so."""

    boot: str
    first: int
    last: int
    from_ms: int
    to_ms: int
    hash: str
    reason: str


@dataclass(slots=True)
class Pack:
    """A pack whose signature holds."""

    stream: str
    edge: Edge
    digest: bytes
    table: Table | None  # of a birth
    counts: Mapping[str, int]  # records by point
    readings: int
    gaps: tuple[Gap, ...]
    losses: tuple[Loss, ...]
    synced: bool | None
    monotonic: tuple[str, int] | None  # (kernel boot, ms)
    early: int = 0  # read times before the pack begins
    faults: list[str] = field(default_factory=list)


def read_pack(signed: Signed, signer: int = 0, sketch: Sketch | None = None) -> Pack:
    """What a pack says.

    Args:
        sketch: of its records, where ``signed.value`` has none.

    Raises:
        Refused: code ``shape``; a member that is needed is missing or not what it must be.
    """
    value = signed.value
    get = value.get
    if get("v") != 1 or type(get("v")) is not int:
        raise Refused("shape", f"pack of format {shown(get('v'))}, 1 is known")
    stream, boot, seq = get("stream"), get("boot"), get("seq")
    if not isinstance(stream, str) or not STREAM.fullmatch(stream):
        raise Refused("shape", f"stream {shown(stream)}, <site>/<gateway>/<name> is wanted")
    if not isinstance(boot, str) or not BOOT.fullmatch(boot):
        raise Refused("shape", f"boot {shown(boot)}, 16 hex digits are wanted")
    if type(seq) is not int or not 1 <= seq < 1 << 53:
        raise Refused("shape", f"seq {shown(seq)}, a whole number from 1 on is wanted")
    prev = _hash(get("prev", ""), "prev", null=True)
    first = "prev_boot" in value
    prev_boot = get("prev_boot")
    if prev_boot is not None and not (isinstance(prev_boot, str) and BOOT.fullmatch(prev_boot)):
        raise Refused("shape", f"prev_boot {shown(prev_boot)}, 16 hex digits or null are wanted")
    from_ms, to_ms = ms_of(get("from"), "from"), ms_of(get("to"), "to")
    if from_ms > to_ms:
        raise Refused("shape", f"from {shown(get('from'))} is later than to {shown(get('to'))}")
    table = Table(value["table"]) if "table" in value else None
    digest_text = signed.hash
    edge = Edge(
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
    pack = Pack(stream, edge, signed.digest, table, {}, 0, (), (), None, None)
    if "events" in value:
        _read_events(value["events"], pack)
    if "gaps" in value:
        pack.gaps = _gaps(value["gaps"], from_ms, to_ms)
    if sketch is not None:
        _read_records(sketch.records, pack)
        pack.counts, pack.readings = sketch.counts, sketch.readings
    elif "e" in value:
        _read_records(value["e"], pack)
    _read_clock(get("clock"), pack)
    _check_alone(value, pack)
    return pack


def _check_alone(value: Mapping[str, Any], pack: Pack) -> None:
    """Rules between the members of one pack; breaking one leaves it readable."""
    edge, faults = pack.edge, pack.faults
    if edge.is_birth and "birth" in value:
        faults.append("a birth that names a birth")
    if edge.is_birth and edge.part:
        faults.append("a birth in parts")
    if edge.first and not edge.is_birth:
        faults.append("the first pack of a boot is no birth")
    if edge.prev is None and not (edge.first and edge.prev_boot is None and edge.seq == 1):
        faults.append("prev is null, but this is not sequence 1 with prev_boot null")
    if edge.prev is not None and (edge.seq == 1 or (edge.first and edge.prev_boot is None)):
        faults.append("prev is there, but this is sequence 1 or prev_boot is null")


def audit(signed: Signed, table: Table) -> list[str]:
    """Faults of form, which show the same way in every pack of a birth, so that one pack of each is looked at."""
    value = parse_object(signed.payload) if signed.sketched else signed.value
    faults = check_units(value.get("e", ()), table)
    if canonical({n: v for n, v in value.items() if n != "sig"}) != signed.payload:
        faults.append("signed over bytes that are not in canonical form")
    return faults


def check_units(records: Sequence[Mapping[str, Any]], table: Table) -> list[str]:
    """The first record whose unit is not its birth's."""
    if table.names is not None:
        for record in records:
            want = table.units.get(record["n"])
            if want is not None and (record.get("u", ""), record.get("du", "")) != want:
                seen = f"{record.get('u', '')}{record.get('du', '')}" or "none"
                name, wanted = record["n"][:MAX_SHOWN], "".join(want)[:MAX_SHOWN] or "none"
                return [f"{name} comes in unit {seen[:MAX_SHOWN]}, its birth says {wanted}"]
    return []


def units_of(signed: Signed) -> list[dict[str, Any]]:
    """Records with nothing but name and unit, each pair once: for ``check_units``, when the birth is here."""
    seen: dict[str, tuple[Any, Any]] = {}
    kept = []
    for record in (parse_object(signed.payload) if signed.sketched else signed.value).get("e", ()):
        unit = (record.get("u", ""), record.get("du", ""))
        if seen.get(record["n"]) != unit:
            seen[record["n"]] = unit
            kept.append({name: record[name] for name in ("n", "u", "du") if name in record})
    return kept


def _hash(value: object, what: str, null: bool = False) -> str | None:
    if value is None and null:
        return None
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise Refused("shape", f"{what} {shown(value)}, a hash of 43 characters is wanted")
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
    raise Refused("shape", f"part {shown(value)}, [k, n] with 1 <= k <= n is wanted")


def _gaps(value: object, from_ms: int, to_ms: int) -> tuple[Gap, ...]:
    if not isinstance(value, list):
        raise Refused("shape", "gaps is no array")
    gaps = []
    for item in value:
        if not isinstance(item, dict):
            raise Refused("shape", "a gap is no object")
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
        raise Refused("shape", "events is no array")
    steps, losses = [], []
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
        if len(steps) + len(losses) > MAX_STEPS:
            raise Refused("shape", f"more than {MAX_STEPS} clock steps and losses in one pack")
    pack.losses = tuple(losses)
    pack.edge = replace(pack.edge, steps=tuple(steps))


def _check_epoch(name: str, event: Mapping[str, Any]) -> None:
    """An event that begins a counter epoch says what was, what is, and where the counters stood and stand."""
    epoch, counters = event.get("epoch"), event.get("counters")
    if type(epoch) is not int or epoch < 0 or not isinstance(counters, list):
        raise Refused("shape", f"an event {name} without epoch and counters")
    if not isinstance(event.get("old"), dict) or not isinstance(event.get("new"), dict):
        raise Refused("shape", f"an event {name} without old and new")
    for counter in counters:
        if not isinstance(counter, dict) or not isinstance(counter.get("n"), str):
            raise Refused("shape", f"an event {name} with a counter that has no name")
        for side in ("old", "new"):
            reading = counter.get(side)
            if reading is None:
                continue
            value = reading.get("v") if isinstance(reading, dict) else None
            if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
                of = f"{side} of {counter['n'][:MAX_SHOWN]} in an event {name}"
                raise Refused("shape", f"{of} is {shown(value)}, no exact decimal")
            ms_of(reading.get("t"), f"t of {side} of a counter in an event {name}")


def _loss(event: Mapping[str, Any]) -> Loss:
    boot, first, last = event.get("boot"), event.get("first"), event.get("last")
    low, high = ms_of(event.get("from"), "from of a loss"), ms_of(event.get("to"), "to of a loss")
    if (
        not isinstance(boot, str)
        or type(first) is not int
        or type(last) is not int
        or not 1 <= first <= last
    ):  # fmt: skip
        raise Refused("shape", "a loss event without boot, first and last")
    reason = event.get("reason")
    if not isinstance(reason, str) or not _WORD.fullmatch(reason):
        reason = "?"  # it is shown and weighs nothing
    return Loss(boot, first, last, low, high, _hash(event.get("hash"), "hash of a loss") or "", reason)


def _read_clock(value: object, pack: Pack) -> None:
    if not isinstance(value, dict) or not (value.get("synced", 0) is None or isinstance(value.get("synced"), bool)):
        pack.faults.append("no clock with synced true, false or null")
        return
    pack.synced = value["synced"]
    kernel, mono = value.get("kernel_boot"), value.get("mono_ms")
    if isinstance(kernel, str) and isinstance(mono, (int, float)):
        pack.monotonic = (kernel[:MAX_KERNEL], int(mono))


def _read_records(e: object, pack: Pack) -> None:
    """SenML: names counted, values of the right type; the usual record {n, u, v} is not looked at one by one."""
    if not isinstance(e, list) or not {dict}.issuperset(map(type, e)):
        raise Refused("shape", "e is no array of records")
    try:
        names = [record["n"] for record in e]
    except KeyError:
        raise Refused("shape", "a record without its name") from None
    if not {str}.issuperset(map(type, names)):
        raise Refused("shape", "a record whose name is no text")
    usual = [record["v"] for record in e if len(record) - ("u" in record) == 2 and "v" in record]
    if not _NUMBERS.issuperset(map(type, usual)):
        raise Refused("shape", "a record whose v is no number")
    if e and ("bt" not in e[0] or "bn" not in e[0]):
        raise Refused("shape", "the first record has no bn and bt")
    if len(usual) != len(e):
        _read_unusual([record for record in e if len(record) - ("u" in record) != 2 or "v" not in record], pack)
    pack.counts = Counter(names)
    pack.readings = len(names)


_NUMBERS: Final = frozenset((int, float))


def _read_unusual(records: list[dict[str, Any]], pack: Pack) -> None:
    base_ms = 0.0
    for record in records:
        for label in record:
            if label.endswith("_") or label in _FOREIGN:
                raise Refused("shape", f"SenML label {shown(label)} that must be understood and is not")
        if record.get("bn", pack.stream + "/") != pack.stream + "/":
            raise Refused("shape", f"records of {shown(record['bn'])} in a pack of {pack.stream}")
        times = [record[label] for label in ("bt", "t") if label in record]
        if not _NUMBERS.issuperset(map(type, times)) or type(record.get("mt", 0)) not in _NUMBERS:
            raise Refused("shape", f"{record['n'][:MAX_SHOWN]} has a time that is no number")
        if "bt" in record:
            base_ms = record["bt"] * 1000
        if times and base_ms + record.get("t", 0) * 1000 < pack.edge.from_ms - EARLY_MS:
            pack.early += 1
        present = [label for label in _VALUES if label in record]
        if len(present) != 1:
            raise Refused("shape", f"{record['n'][:MAX_SHOWN]} has {len(present)} values, one is wanted")
        kind = type(record[present[0]])
        want: tuple[type, ...] = {"v": (int, float), "vb": (bool,)}.get(present[0], (str,))
        if kind not in want:
            raise Refused("shape", f"{record['n'][:MAX_SHOWN]} has {present[0]} of type {kind.__name__}")
