"""Data records of the variable structure: DIF, DIFE, VIF, VIFE, data. Source: EN 13757-3 clause 6."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache

from drivers.mbus import values, vif
from drivers.mbus.names import manufacturer, name_of
from drivers.mbus.values import Coded
from drivers.mbus.vif import Meaning
from drivers.model import FrameError, Quality, Reading, Reason, clean_text

MAX_EXTENSIONS = 10
FUNCTIONS = ("instantaneous", "maximum", "minimum", "error")
_SIZES = {0x1: 1, 0x2: 2, 0x3: 3, 0x4: 4, 0x5: 4, 0x6: 6, 0x7: 8, 0x9: 1, 0xA: 2, 0xB: 3, 0xC: 4, 0xE: 6}
_MAKER, _MAKER_MORE, _FILLER = 0x0F, 0x1F, 0x2F
_UNKNOWN = Meaning("unknown", "Unknown VIF")


@dataclass(slots=True)
class RecordArea:
    """The records of one telegram. ``fault`` tells why reading stopped early; the records before the fault are
    valid.
    """

    readings: list[Reading] = field(default_factory=list)
    more: bool = False  # DIF 1F: more telegrams follow
    maker: bytes = b""  # the manufacturer data after a DIF 0F or 1F
    fault: str = ""


class _Cursor:
    """Reads bytes from the front. A read beyond the end is a fault of the record."""

    def __init__(self, data: bytes, high_first: bool) -> None:
        self.data, self.at, self.high_first = data, 0, high_first

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            left = len(self.data) - self.at
            what = f"record truncated: expected {count} bytes, {left} left"
            raise FrameError(what, where=f"byte {self.at} of the record")
        piece = self.data[self.at : self.at + count]
        self.at += count
        return piece

    def number(self, count: int) -> bytes:
        """Read a multi-byte value. It is returned low byte first, whichever order the telegram uses."""
        piece = self.take(count)
        return piece[::-1] if self.high_first else piece

    def extensions(self, first: int, what: str) -> list[int]:
        """The extension bytes after ``first``. As long as the top bit of a byte is set, another extension byte
        follows.
        """
        found: list[int] = []
        last = first
        while last & 0x80:
            if len(found) == MAX_EXTENSIONS:
                raise FrameError(
                    f"the record has more than {MAX_EXTENSIONS} extension bytes of type {what}",
                    where=f"byte {self.at} of the record",
                )
            last = self.byte()
            found.append(last)
        return found


def parse(data: bytes, medium: int, *, high_first: bool = False) -> RecordArea:
    """Decode all records of ``data``. ``high_first``: mode 2 (CI 76h, 77h), in which the high byte comes first."""
    found, cursor = RecordArea(), _Cursor(data, high_first)
    try:
        while cursor.at < len(data):
            dif = cursor.byte()
            if dif == _FILLER:
                continue
            if dif in (_MAKER, _MAKER_MORE):
                found.more = dif == _MAKER_MORE
                found.maker = cursor.take(len(data) - cursor.at)
                found.readings.append(_maker_reading(found))
                break
            found.readings.append(_record(cursor, dif, medium))
    except FrameError as error:
        found.fault = f"{error.where}: {error.what}"
    return found


def _maker_reading(found: RecordArea) -> Reading:
    shown = found.maker.hex(" ").upper() or None
    name = "x.mbus.more_records" if found.more else "x.mbus.manufacturer"
    label = "More records follow" if found.more else "Manufacturer specific"
    quality = Quality.GOOD if shown else Reason.ABSENT
    return Reading(name, shown, quality=quality, raw=found.maker, label=label)


@dataclass(frozen=True, slots=True)
class _Shape:
    """The decoded header of a record. It is cached, because a meter sends the same header in every readout."""

    name: str
    storage: int
    tariff: int
    subunit: int
    function: str
    label: str
    coding: int  # low nibble of the DIF
    effect: _Effect


def _record(cursor: _Cursor, dif: int, medium: int) -> Reading:
    if dif & 0x0F == 0x0F:
        raise FrameError(f"DIF {dif:02X}h is reserved", where=f"byte {cursor.at - 1} of the record")
    begin = cursor.at - 1
    cursor.extensions(dif, "DIFE")
    first = cursor.byte()
    if first & 0x7F == 0x7C:
        cursor.take(cursor.byte())
    cursor.extensions(first, "VIFE")
    shape = _shape(cursor.data[begin : cursor.at], medium)
    coded, raw = _data(cursor, shape.coding, shape.effect.meaning)
    value, quality = _scaled(coded, shape.effect)
    return Reading(
        shape.name,
        value,
        shape.effect.meaning.unit,
        quality,
        raw,
        shape.storage,
        shape.tariff,
        shape.subunit,
        shape.function,
        label=shape.label,
    )


@lru_cache(maxsize=1024)
def _shape(head: bytes, medium: int) -> _Shape:
    """Decode DIF, DIFE, VIF and VIFE."""
    cursor = _Cursor(head, False)
    dif = cursor.byte()
    storage, tariff, subunit = dif >> 6 & 1, 0, 0
    for n, dife in enumerate(cursor.extensions(dif, "DIFE")):
        storage |= (dife & 0x0F) << (4 * n + 1)
        tariff |= (dife >> 4 & 3) << (2 * n)
        subunit |= (dife >> 6 & 1) << n
    meaning, modifiers, own_unit = _value_information(cursor)
    effect = _effect_of(modifiers, own_unit is not None, meaning)
    name = _named(effect, medium, tariff)
    if meaning.key == "datetime" and (storage or dif & 0x30 or effect.meaning is not meaning):
        name = "x.mbus.datetime"  # this is not the device's clock, but the time of a stored value or of an extreme
    label = ", ".join((effect.meaning.label, *effect.words))
    return _Shape(name, storage, tariff, subunit, FUNCTIONS[dif >> 4 & 3], label, dif & 0x0F, effect)


def _value_information(cursor: _Cursor) -> tuple[Meaning, list[int], str | None]:
    """Read VIF and VIFE. Returns (meaning, the VIFE that modify it, the text of a plain-text VIF).

    The text is None if the VIF is not a plain-text VIF.
    """
    first = cursor.byte()
    if first & 0x7F == 0x7C:
        words = str(values.text(cursor.take(cursor.byte()))[0] or "")
        own = clean_text(words)
        unit = own if own.startswith("%") or own in ("V", "A", "W", "Wh", "kWh", "m3", "Hz", "bar") else ""
        key = "humidity" if own == "%RH" else "text"
        return Meaning(key, own, unit), cursor.extensions(first, "VIFE"), own
    following = cursor.extensions(first, "VIFE")
    if first in (0xFD, 0xFB) and following:
        table = vif.FD if first == 0xFD else vif.FB
        code, rest = following[0] & 0x7F, following[1:]
        # this code leads to one more extension table, which is rarely used and not known here: the meaning stays
        # unknown
        if code == 0x7D and rest:
            return _UNKNOWN, rest[1:], None
        return table.get(code, Meaning("reserved", f"Reserved {first:02X}h {code:02X}h")), rest, None
    if first == 0xEF:
        return _UNKNOWN, following[1:], None
    meaning = vif.PRIMARY.get(first & 0x7F, Meaning("reserved", f"Reserved {first:02X}h"))
    return meaning, following if meaning.key != "manufacturer" else [], None


@dataclass(slots=True)
class _Effect:
    """The meaning of a VIF after its VIFE were applied."""

    meaning: Meaning
    factor: Decimal
    offset: Decimal = Decimal(0)
    words: tuple[str, ...] = ()
    suffix: str = ""
    backwards: bool = False
    other: str = ""  # what the value is, if it is not the quantity itself: a limit, a rate, a forecast
    no_data: int | None = None  # the gap reason, if the device reports that it has no value; None: there is a value
    foreign: bool = False  # whether the unit is not metric, such as gallons


_LIMIT_TIMES = frozenset((0x42, 0x43, 0x46, 0x47, 0x4A, 0x4B, 0x4E, 0x4F, 0x6A, 0x6B, 0x6E, 0x6F, 0x39))
_DURATIONS = ("s", "min", "h", "d")
_SAME_QUANTITY = frozenset((0x1D, 0x3A, 0x3B, 0x3E, 0x3F))  # VIFE that do not change the quantity


def _effect_of(modifiers: list[int], is_text: bool, meaning: Meaning) -> _Effect:
    effect = _Effect(meaning, meaning.factor)
    remaining = iter(modifiers)
    for byte in remaining:
        code = byte & 0x7F
        if code == 0x7C:
            _second_table(effect, next(remaining, 0) & 0x7F)
        elif code == 0x7F:
            effect.words += ("manufacturer specific",)
            break  # the remaining VIFE are manufacturer-specific
        else:
            _modify(effect, code)
    return effect


def _modify(effect: _Effect, code: int) -> None:
    """Change ``effect`` by one combinable VIFE of the first table (EN 13757-3 table 15)."""
    if code in _LIMIT_TIMES:
        words = "start of" if code == 0x39 else _limit_words(code)
        _retyped(effect, "datetime", f"Time: {words} {effect.meaning.label}")
    elif 0x50 <= code <= 0x5F or 0x60 <= code <= 0x67:
        unit = _DURATIONS[code & 3]
        scale = {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
        _retyped(effect, "number", f"Duration: {_limit_words(code)} {effect.meaning.label}", "s", scale)
    elif code in (0x41, 0x49):
        _retyped(effect, "number", f"Count: {vif.ANNOTATIONS[code]} {effect.meaning.label}")
    elif 0x70 <= code <= 0x77:
        effect.factor *= Decimal(10) ** ((code & 7) - 6)
    elif 0x78 <= code <= 0x7B:
        effect.offset += Decimal(10) ** ((code & 3) - 3)
    elif code == 0x7D:
        effect.factor *= 1000
    elif code in vif.ERRORS:
        effect.words += (vif.ERRORS[code],)
        effect.no_data = Reason.ABSENT if code < 0x16 else Reason.EXCEPTION
    elif code == 0x3C:
        effect.backwards = True
        effect.words += (vif.ANNOTATIONS[code],)
    elif code:
        words = vif.ANNOTATIONS.get(code, f"VIFE {code:02X}h")
        effect.words += (words,)
        if code == 0x3D:
            _foreign(effect)
        if code not in _SAME_QUANTITY:
            effect.other = "_".join(words.replace("/", " per ").lower().split())


def _limit_words(code: int) -> str:
    which = "last" if code & 4 else "first"
    if code >= 0x60:
        return f"{'end' if code & 1 else 'begin'} of {which}" if code >= 0x68 else f"of {which}"
    side = "upper" if code & 8 else "lower"
    if code >= 0x50:
        return f"of {which} exceed of {side} limit,"
    return f"{'end' if code & 1 else 'begin'} of {which} exceed of {side} limit,"


def _retyped(effect: _Effect, kind: str, label: str, unit: str = "", factor: int = 1) -> None:
    key = f"{effect.meaning.key}.{'time' if kind == 'datetime' else 'duration' if unit else 'count'}"
    effect.meaning = Meaning(f"at.{key}", label, unit, kind=kind)
    effect.factor = Decimal(factor)


def _foreign(effect: _Effect) -> None:
    """Note that the unit is not metric. The value then gets no unit, because editions of the standard define different
    units.
    """
    effect.foreign, effect.other = True, "non-metric"
    effect.meaning = replace(effect.meaning, unit="")


def _second_table(effect: _Effect, code: int) -> None:
    """Change ``effect`` by a VIFE after FCh, which gives a phase or a direction."""
    if code in vif.PHASES:
        effect.suffix = vif.PHASES[code]
    elif code == 0x13:
        _retyped(effect, "datetime", f"Time: end of {effect.meaning.label}")
    elif code:
        effect.words += (vif.SECOND_ANNOTATIONS.get(code, f"VIFE FCh {code:02X}h"),)
        effect.backwards = effect.backwards or code == 0x15
        if code == 0x0F:
            _foreign(effect)


def _data(cursor: _Cursor, code: int, meaning: Meaning) -> tuple[Coded, bytes]:
    """Read a data field. Returns ((value, quality), raw bytes). The DIF (``code``) and the meaning determine the
    format.
    """
    if code in (0x0, 0x8):  # two codes without data: "no data" and "selection for readout"
        return (None, Reason.ABSENT), b""
    if code == 0xD:
        return _variable(cursor, meaning)
    raw = cursor.number(_SIZES[code])
    if code == 0x5:
        return values.real(raw), raw
    if code >= 0x9:
        return values.bcd(raw), raw
    return _binary(raw, meaning), raw


def _variable(cursor: _Cursor, meaning: Meaning) -> tuple[Coded, bytes]:
    lvar = cursor.byte()
    size = values.variable_size(lvar)
    if size is None:
        raise FrameError(f"LVAR {lvar:02X}h is reserved", where=f"byte {cursor.at - 1} of the record")
    raw = cursor.number(size)
    if meaning.kind in ("date", "datetime") and 0xE0 <= lvar < 0xF0:
        return values.moment(raw), raw
    return values.variable(lvar, raw), raw


def _binary(raw: bytes, meaning: Meaning) -> Coded:
    if meaning.kind in ("date", "datetime") and len(raw) in (2, 3, 4, 6):
        return values.moment(raw)
    if meaning.key == "identification" and len(raw) == 8:  # these eight bytes are a whole secondary address
        maker = manufacturer(int.from_bytes(raw[4:6], "little"))
        return f"{raw[3::-1].hex().upper()} {maker} {raw[6]} {raw[7]}", Quality.GOOD
    if meaning.kind == "flags" or meaning.key in ("fabrication", "identification"):
        return values.integer(raw, signed=False)
    number, quality = values.integer(raw, signed=True)
    if meaning.kind == "rssi" and len(raw) == 1 and isinstance(number, Decimal) and number > 0:
        # a level above 0 dBm is impossible, so this is the other coding, that of EN 13757-4 and OMS
        number = 2 * number - 130
    return number, quality


def _scaled(coded: Coded, effect: _Effect) -> Coded:
    value, quality = coded
    if effect.no_data is not None:
        return None, effect.no_data
    if isinstance(value, Decimal):
        value = value * effect.factor + effect.offset
    if effect.foreign and value is not None:
        quality = Quality.SUSPECT
    return value, quality


def _named(effect: _Effect, medium: int, tariff: int) -> str:
    if effect.other:
        return f"x.mbus.{effect.meaning.key}.{effect.other}"
    name = name_of(effect.meaning.key, medium, effect.meaning.unit)
    if effect.backwards:
        name = {"ac.energy.import": "ac.energy.export", "ac.energy.reactive.import": "ac.energy.reactive.export"}.get(
            name, f"{name}.reverse" if name.endswith(".volume") else f"x.mbus.reverse.{effect.meaning.key}"
        )
    if effect.suffix:
        name = f"{name}.{effect.suffix}"
    if tariff and name.rpartition(".")[0] in ("ac.energy", "heat", "cool") and "energy" in name:
        name = f"{name}.tariff.{tariff}"
    return name
