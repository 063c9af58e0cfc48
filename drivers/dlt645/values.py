"""Decodes data of DL/T 645: makes readings from identifier and payload.

Source: DL/T 645-2007 annex A (tables A.1 to A.7), DL/T 645-1997 annex A. The identifiers that a vendor defines are in
no table. Their value is kept as the text of its digits, with the name ``x.dlt645.<identifier>``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from drivers.dlt645.fields import Field, is_absent, read_moment, reading, word
from drivers.dlt645.frames import READ, READ_97, READ_NEXT, READ_NEXT_97, REREAD_97, Frame
from drivers.dlt645.tables import (
    DEMAND_UNITS,
    ENERGY_KINDS,
    ENERGY_KINDS_97,
    FIXED,
    FIXED_97,
    MOMENTARY,
    MOMENTARY_97,
)
from drivers.model import Quality, Reading, Reason

Readings = tuple[Reading, ...]
BLOCK = 0xFF  # in an identifier, this byte means all tariffs, all phases or all settlement days
STATUS_WORDS = 0x040005FF  # the block of all seven status words
BLOCK_END = 0xAA  # 1997 meters, and some 2007 meters, end a list of values with this byte


def decode_frame(frame: Frame) -> Readings:
    """The readings of one reply. Requests, error answers and replies without values give no readings."""
    if not frame.is_reply or frame.is_error:
        return ()
    if frame.reported_address:
        return (Reading("device.address.text", frame.reported_address, raw=frame.data, label="通信地址"),)
    if not frame.identifier or frame.function not in (READ, READ_NEXT, READ_97, READ_NEXT_97, REREAD_97):
        return ()
    found = decode(frame.identifier, frame.payload)
    # the earlier frames determine which values of the block these are, and this function does not have those frames
    if frame.is_follow_on:
        return tuple(r if r.value is None else replace(r, quality=Quality.SUSPECT) for r in found)
    return found


def decode(identifier: str, payload: bytes) -> Readings:
    """The readings in ``payload`` for ``identifier``. An identifier of 8 hex digits means 2007, one of 4 digits means
    1997.

    An invalid field gives a reading without value. The reason is SENTINEL if all its bytes are FF (no data), otherwise
    MISMATCH.
    """
    if not payload:
        return ()
    code = int(identifier, 16)
    if len(identifier) == 4:
        return _decode_97(code, payload)
    field = FIXED.get(code)
    if field is not None:
        return (reading(field, payload),)
    if code == STATUS_WORDS:
        words = (FIXED[code & ~BLOCK | n] for n in range(1, 8))
        return tuple(reading(word, raw) for word, raw in zip(words, _pieces(payload, 2), strict=False))
    family = _FAMILIES.get(code >> 24)
    found = family(code >> 16 & 0xFF, code >> 8 & 0xFF, code & 0xFF, payload) if family else ()
    return found or _unknown(identifier, payload)


def _unknown(identifier: str, payload: bytes) -> Readings:
    digits = payload[::-1].hex()
    name = f"x.dlt645.{identifier.lower()}"
    if is_absent(payload):
        return (Reading(name, None, quality=Reason.SENTINEL, raw=payload),)
    return (Reading(name, digits, raw=payload),)


def _pieces(payload: bytes, size: int) -> list[bytes]:
    """Split a block into the bytes of its values. A closing AA is not a value. An incomplete remainder becomes one
    short piece.
    """
    if len(payload) % size == 1 and payload[-1] == BLOCK_END:
        payload = payload[:-1]
    return [payload[i : i + size] for i in range(0, len(payload), size)]


def _tariffed(field: Field, tariff: int) -> Field:
    if not tariff:
        return replace(field, name=_word(field.name), label=field.label.replace("#", "总"))
    name = _word(f"{field.name}.tariff.{tariff}")
    return replace(field, name=name, label=field.label.replace("#", f"费率{tariff}"))


def _word(name: str) -> str:
    return name if name.startswith("x.") else word(name)


def _energy_field(kind: int) -> Field | None:
    found = ENERGY_KINDS.get(kind)
    if found is None:
        return None
    name, label, unit, signed = found
    return Field(f"ac.energy.{name}", f"{label}#电能", 4, 2, unit, "signed" if signed else "bcd")


def _demand_field(kind: int) -> Field | None:
    found = ENERGY_KINDS.get(kind)
    if found is None or kind >= 0x80:
        return None
    name, label, unit, signed = found
    # in the name, the quantity comes before the phase: ac.demand.import.max.l1
    stem, _, phase = name.partition(".l")
    full = f"ac.demand.{stem}.max" + (f".l{phase}" if phase else "")
    return Field(full, f"{label}#最大需量", 3, 4, DEMAND_UNITS[unit], "signed" if signed else "bcd")


Reader = Callable[[Field, bytes, int, int], Reading]


def _energy_value(field: Field, raw: bytes, storage: int, tariff: int) -> Reading:
    return reading(_tariffed(field, tariff), raw, storage=storage, tariff=tariff)


def _demand_value(field: Field, raw: bytes, storage: int, tariff: int) -> Reading:
    found = reading(_tariffed(field, tariff), raw[:3], storage=storage, tariff=tariff, moment=read_moment(raw[3:]))
    return replace(found, raw=raw) if len(raw) == 8 else replace(found, value=None, quality=Reason.MISMATCH, raw=raw)


def _spread(field: Field | None, size: int, read: Reader, tariff: int, storage: int, payload: bytes) -> Readings:
    """Read one value or a whole block. The block has all tariffs if ``tariff`` is FF, or all settlement days if
    ``storage`` is FF.
    """
    if field is None or (tariff == BLOCK and storage == BLOCK):
        return ()
    pieces = _pieces(payload, size)
    if tariff == BLOCK:
        return tuple(read(field, raw, storage, n) for n, raw in enumerate(pieces))
    if storage == BLOCK:
        return tuple(read(field, raw, n, tariff) for n, raw in enumerate(pieces))
    return (read(field, payload, storage, tariff),)


def _energy(kind: int, tariff: int, storage: int, payload: bytes) -> Readings:
    return _spread(_energy_field(kind), 4, _energy_value, tariff, storage, payload)


def _demand(kind: int, tariff: int, storage: int, payload: bytes) -> Readings:
    return _spread(_demand_field(kind), 8, _demand_value, tariff, storage, payload)


def _momentary(family: int, part: int, item: int, payload: bytes) -> Readings:
    """Identifiers 02......: voltages, currents, powers and so on, of one phase or of all phases as a block."""
    if family in (0x0A, 0x0B):
        return _harmonics(family, part, item, payload)
    found = MOMENTARY.get(family)
    if found is None or item != 0:
        return ()
    name, label, size, decimals, unit, kind, has_total = found
    suffixes = ("l12", "l23", "l31") if family == 0x0C else ("l1", "l2", "l3")
    names: tuple[str, ...] = ("", *suffixes) if has_total else suffixes
    if part == BLOCK:
        pieces = _pieces(payload, size)
        if len(pieces) > len(names):
            return ()
    else:
        position = part if has_total else part - 1
        if not 0 <= position < len(names):
            return ()
        names, pieces = names[position : position + 1], [payload]
    return tuple(
        reading(Field(f"{name}.{s}" if s else name, _phase_label(s) + label, size, decimals, unit, kind), raw)
        for s, raw in zip(names, pieces, strict=False)
    )


def _phase_label(suffix: str) -> str:
    return {"": "总", "l1": "A相", "l2": "B相", "l3": "C相", "l12": "AB", "l23": "BC", "l31": "CA"}[suffix]


def _harmonics(family: int, phase: int, order: int, payload: bytes) -> Readings:
    """Identifiers 020A and 020B: content of each harmonic. DI1 is the phase. DI0 is the order; FF means all orders."""
    if not 1 <= phase <= 3 or not (1 <= order <= 0x15 or order == BLOCK):
        return ()
    quantity, label = ("voltage", "电压") if family == 0x0A else ("current", "电流")
    first = 1 if order == BLOCK else order
    pieces = _pieces(payload, 2) if order == BLOCK else [payload]
    return tuple(
        reading(
            Field(f"ac.harmonic.{n}.{quantity}.l{phase}", f"{'ABC'[phase - 1]}相{label}{n}次谐波含量", 2, 2, "%"), raw
        )
        for n, raw in enumerate(pieces, first)
    )


def _frozen(series: int, part: int, number: int, payload: bytes) -> Readings:
    """Identifiers 05......: frozen values. DI2 is the series (00 timed, 06 daily, ...), DI1 the part. DI0 = n means the
    n-th last freeze.
    """
    if part == 0x00:
        return (reading(Field("x.freeze.time", "冻结时间", 5, kind="stamp"), payload, storage=number),)
    if 0x01 <= part <= 0x08:
        found = _spread(_energy_field(part), 4, _energy_value, BLOCK, number, payload)
    elif part in (0x09, 0x0A):
        found = _spread(_demand_field(part - 8), 8, _demand_value, BLOCK, number, payload)
    elif part == 0x10:
        halves = (0x03, payload[:12]), (0x04, payload[12:24])
        found = tuple(replace(r, storage=number) for family, raw in halves for r in _momentary(family, BLOCK, 0, raw))
    else:
        return ()
    return found


_FAMILIES: dict[int, Callable[[int, int, int, bytes], Readings]] = {
    0x00: _energy,
    0x01: _demand,
    0x02: _momentary,
    0x05: _frozen,
}


def _decode_97(code: int, payload: bytes) -> Readings:
    field = FIXED_97.get(code)
    if field is not None:
        return (reading(field, payload),)
    group, part = code >> 12, code >> 4 & 0xF
    when, item = code >> 8 & 0xF, code & 0xF
    storage, reactive = when >> 2, bool(when & 3)
    found: Readings = ()
    if group == 0x9 and storage < 3 and when & 3 < 2:
        found = _spread_97(ENERGY_KINDS_97.get((reactive, part)), "energy", reactive, item, storage, payload)
    elif group == 0xA and storage < 3 and when & 3 < 2:
        found = _spread_97(ENERGY_KINDS_97.get((reactive, part)), "demand", reactive, item, storage, payload)
    elif group == 0xB and storage < 3 and when & 3 < 2:
        found = _spread_97(ENERGY_KINDS_97.get((reactive, part)), "demand time", reactive, item, storage, payload)
    elif code >> 8 == 0xB6:
        found = _momentary_97(part, item, payload)
    elif code >> 8 == 0xB3:
        found = _phase_failures_97(part, item, payload)
    return found or _unknown(f"{code:04X}", payload)


def _spread_97(
    kind: tuple[str, str] | None, what: str, reactive: bool, item: int, storage: int, payload: bytes
) -> Readings:
    if kind is None:
        return ()
    name, label = kind
    if what == "energy":
        field = Field(f"ac.energy.{name}", f"{label}#电能", 4, 2, "kvarh" if reactive else "kWh")
    elif what == "demand":
        field = Field(f"ac.demand.{name}.max", f"{label}#最大需量", 3, 4, "kvar" if reactive else "kW")
    else:
        field = Field(f"x.demand.{name}.max.time", f"{label}#最大需量发生时间", 4, kind="monthstamp")
    if item == 0xF:
        return tuple(_energy_value(field, raw, storage, n) for n, raw in enumerate(_pieces(payload, field.size)))
    return (_energy_value(field, payload, storage, item),)


def _momentary_97(part: int, item: int, payload: bytes) -> Readings:
    found = MOMENTARY_97.get(part)
    if found is None:
        return _limits_97(part, item, payload)
    name, label, sizes, unit, has_total = found
    names: tuple[str, ...] = ("", "l1", "l2", "l3") if has_total else ("l1", "l2", "l3")
    first = 0 if has_total else 1
    if item == 0xF:
        size = next((s for s in sizes if len(_pieces(payload, s)) == len(names)), next(iter(sizes)))
        pieces: Iterable[bytes] = _pieces(payload, size)[: len(names)]
    elif first <= item <= 3:
        size = len(payload) if len(payload) in sizes else next(iter(sizes))
        names, pieces = (names[item - first],), (payload,)
    else:
        return _limits_97(part, item, payload)
    # the formats of 1997 have no sign bit, but some meters of 1997 set the top bit to report reversed power
    kind = "signed" if part in (3, 4) else "bcd"
    return tuple(
        reading(Field(f"{name}.{s}" if s else name, _phase_label(s) + label, size, sizes[size], unit, kind), raw)
        for s, raw in zip(names, pieces, strict=False)
    )


def _limits_97(part: int, item: int, payload: bytes) -> Readings:
    if part == 3 and item in (4, 5):
        name, label = ("import", "正向有功功率上限值") if item == 4 else ("export", "反向有功功率上限值")
        return (reading(Field(f"x.limit.{name}", label, 2, 2, "kW"), payload),)
    return ()


def _phase_failures_97(part: int, item: int, payload: bytes) -> Readings:
    """Identifiers B3xy of 1997: losses of a phase.

    The digit x selects the value: 1 the count, 2 the minutes, 3 the start of the last loss, 4 its end. The digit y
    selects the phase: 0 all phases, 1 to 3 phase A to C.
    """
    phase = {0: "", 1: ".l1", 2: ".l2", 3: ".l3"}.get(item)
    if phase is None:
        return ()
    match part:
        case 1:
            field = Field(f"x.count.phase_failure{phase}", "断相次数", 2)
        case 2:
            field = Field(f"x.time.phase_failure{phase}", "断相时间累计值", 3, unit="min")
        case 3:
            field = Field(f"x.phase_failure.start{phase}", "最近一次断相起始时刻", 4, kind="monthstamp")
        case 4:
            field = Field(f"x.phase_failure.end{phase}", "最近一次断相结束时刻", 4, kind="monthstamp")
        case _:
            return ()
    return (reading(field, payload),)
