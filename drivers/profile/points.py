"""Turns a [[point]] table into a Point: checks types, addresses, units and names."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from decimal import Decimal

from drivers.clocks import CLOCKS
from drivers.model import FLOATS, IDENTIFICATION, KIND_CODES, PACES, Kind, Point
from drivers.profile.register_layout import BITS, INTEGERS, REGISTERS, Defaults, RegisterLayout, raw_range, read_layout
from drivers.profile.vocabulary import Vocabulary, VocabularyEntry
from drivers.toml import TomlTable, parsers, show, suggestion

COMMON_KEYS = [
    "name",
    "unit",
    "kind",
    "pace",
    "scale",
    "decimals",
    "offset",
    "range",
    "width",
    "digits",
    "labels",
    "bit_labels",
    "states",
    "sentinel",
    "ratio",
    "sleeps",
    "clock",
    "optional",
    "bit",
    "mask",
    "en",
    "zh",
]
ONE_EACH = 'Or write text = "low" or text = "high" if each register has one character, in its low or high byte'
REGISTER_KEYS = (*COMMON_KEYS, "function", "address", "count", "type", "order", "parts", "together", "barrier", "text")
OTHER_KEYS = (*COMMON_KEYS, "key", "type", "count")
RATIO_DIMENSIONS = frozenset(
    {
        "voltage",
        "current",
        "power",
        "power-reactive",
        "power-apparent",
        "energy",
        "energy-reactive",
        "energy-apparent",
        "charge",
    }
)


MEASURED = frozenset({"voltage", "current", "power", "power-reactive", "power-apparent"})
SIGNED = frozenset({"i16", "i32", "i64"})


def build_point(table: TomlTable, defaults: Defaults, vocabulary: Vocabulary) -> Point | None:
    """Make the Point that a table describes. None if the table has errors that make it unusable."""
    name = table.text("name", required=True)
    if not name:
        return None
    table.name = name
    return _Reader(table, defaults, vocabulary, name).read()


def reach(
    layout: RegisterLayout, scale: Decimal, offset: Decimal = Decimal(0), mask: int | None = None
) -> tuple[Decimal, Decimal] | None:
    """The (lowest, highest) value that the registers can hold. None if this is not known, as for floats."""
    if layout.parts:
        found = [(raw_range(part.type, 0), part.scale) for part in layout.parts]
        if any(raw is None for raw, _ in found):
            return None
        ends = [sorted((raw[0] * factor, raw[1] * factor)) for raw, factor in found if raw is not None]
        return sum((low for low, _ in ends), Decimal(0)), sum((high for _, high in ends), Decimal(0))
    raw = (0, _shifted(mask)) if mask is not None else raw_range(layout.type, layout.count)
    if raw is None or not layout.function:  # without registers, the type does not limit the value
        return None
    low, high = sorted(((raw[0] + offset) * scale, (raw[1] + offset) * scale))
    return low, high


def _shifted(mask: int) -> int:
    """A mask without its trailing zeros: the value is shifted down by them."""
    return mask // (mask & -mask)


def _below_full(
    layout: RegisterLayout, scale: Decimal, offset: Decimal, low: Decimal | None, high: Decimal | None
) -> tuple[Decimal | None, Decimal | None]:
    """The range without the raw values 7FFF and 7FFFFFFF, which many devices send if they do not have a value.

    By default only 8000 and FFFF are sentinels. A reading of 7FFF is kept, but because of this range it is marked as
    out of range.
    """
    raw = raw_range(layout.type, layout.count)
    if raw is None or layout.type not in SIGNED or not layout.function or layout.parts:
        return low, high
    ends = (raw[0] + offset) * scale, (raw[1] - 1 + offset) * scale
    return max(min(ends), min(ends) if low is None else low), min(max(ends), max(ends) if high is None else high)


class _Reader:
    def __init__(self, table: TomlTable, defaults: Defaults, vocabulary: Vocabulary, name: str) -> None:
        self.table, self.defaults, self.vocabulary, self.name = table, defaults, vocabulary, name
        self.given = table.raw
        self.maps_registers = defaults.maps_registers

    def read(self) -> Point | None:
        table = self.table
        table.unknown(REGISTER_KEYS if self.maps_registers else OTHER_KEYS)
        entry = self._entry()
        kind = self._kind(entry)
        unit = self._unit(entry, kind)
        layout = read_layout(table, self.defaults)
        type_, count = layout.type, layout.count
        bit, mask = self._bit_and_mask(type_, count)
        scale, offset = self._scale(), table.number("offset", Decimal(0)) or Decimal(0)
        low, high = self._range(entry, unit)
        if kind in {Kind.GAUGE, Kind.COUNTER}:
            low, high = self._bounded(low, high, unit if entry else "", reach(layout, scale, offset, mask))
        is_characters = type_ == "str" or "text" in self.given or (kind is Kind.TEXT and not self.maps_registers)
        no_texts = self._no_texts() if is_characters else ()
        sentinels = None if is_characters else self._sentinels(type_, bit, mask)
        if kind is Kind.GAUGE and entry and entry.dimension in MEASURED and sentinels is None and mask is None:
            low, high = _below_full(layout, scale, offset, low, high)
        bits, digits = self._width(kind, type_, bool(layout.parts), mask)
        ratio = self._ratio(entry, unit)
        pace = self.defaults.values.get("pace", "once" if kind is Kind.TEXT else "normal")
        if "clock" in self.given:  # reading a clock once a day is enough, because it drifts by seconds per day
            pace = "once"
        clock = table.choice("clock", CLOCKS)
        if clock and (kind is not Kind.GAUGE or unit != "s"):
            table.add(
                "clock",
                'the key "clock" is allowed only for a gauge with the unit s',
                'Use the key "clock" for a point such as device.clock.offset',
            )
        text = self._text(Kind.TEXT if clock else kind, type_, count)
        self._meaning(kind, type_, unit)
        return Point(
            name=self.name,
            kind=kind,
            unit=unit,
            pace=table.choice("pace", PACES, pace),
            function=layout.function,
            address=layout.address,
            count=count,
            type=type_,
            order=layout.order,
            bit=bit,
            mask=mask,
            scale=scale,
            offset=offset,
            sentinels=sentinels,
            no_texts=no_texts,
            low=low,
            high=high,
            bits=bits,
            digits=digits,
            labels=self._labels("labels", kind),
            bit_labels=self._bit_labels(kind, type_, count),
            states=self._states(kind),
            parts=layout.parts,
            together=table.text("together"),
            barrier=table.flag("barrier", bool(self.defaults.values.get("barrier"))),
            ratio=ratio,
            sleeps=table.flag("sleeps", self.defaults.sleeps),
            optional=table.flag("optional"),
            key=table.text("key", required=not self.maps_registers),
            flips=bool(entry and entry.flips),
            clock=clock,
            text=text,
            en=table.text("en"),
            zh=table.text("zh"),
        )

    def _entry(self) -> VocabularyEntry | None:
        if unfilled := re.search(r"\{[^}]*\}", self.name):
            self.table.add("name", f"{unfilled[0]} is not the variable of an enclosing repeat")
            return None
        if not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", self.name):
            self.table.add(
                "name",
                f"invalid point name {show(self.name)}",
                "Write two or more parts, separated by dots; each part may contain only lowercase letters, digits "
                "and _",
            )
            return None
        if self.name.startswith("x."):
            return None
        entry = self.vocabulary.find(self.name)
        if entry is None:
            near = self.vocabulary.nearest(self.name)
            hint = f'Did you mean "{near}"? ' if near else ""
            self.table.add(
                "name",
                f"{show(self.name)} is not in the vocabulary",
                f'{hint}Custom names begin with "x."',
            )
        return entry

    def _kind(self, entry: VocabularyEntry | None) -> Kind:
        own = self.table.choice("kind", [k.value for k in KIND_CODES])
        if entry and own and own != entry.kind:
            self.table.add("kind", f'kind is "{own}", but the vocabulary says "{entry.kind.value}"')
        if entry:
            return entry.kind
        is_text = self.given.get("type") == "str" or self.given.get("function") == IDENTIFICATION
        return Kind(own) if own else Kind.TEXT if is_text else Kind.GAUGE

    def _unit(self, entry: VocabularyEntry | None, kind: Kind) -> str:
        unit = self.table.text("unit")
        if entry is None:
            if unit and unit not in self.vocabulary.units:
                hint = suggestion(unit, self.vocabulary.units)
                self.table.add("unit", f"unit {show(unit)} is not in the vocabulary", hint)
            return unit
        if not unit and "" not in entry.units and entry.units:
            self.table.add("unit", 'the key "unit" is missing', f"Choose one of {', '.join(entry.units)}")
        elif unit and unit not in entry.units:
            wanted = ", ".join(u for u in entry.units if u) or "no unit"
            near = next((one for one in entry.units if one.lower() == unit.lower()), "")
            hint = f'Did you mean "{near}"?' if near else f"Allowed: {wanted}"
            self.table.add("unit", f"unit {show(unit)} does not fit {entry.dimension}", hint)
        return unit

    def _scale(self) -> Decimal:
        scale = self.table.number("scale", Decimal(1))
        decimals = self.table.integer("decimals", 0, 12)
        if decimals is not None:
            if "scale" in self.given:
                self.table.add("decimals", 'the keys "decimals" and "scale" cannot be used together')
            return Decimal(1).scaleb(-decimals)
        if not scale:
            self.table.add("scale", "scale is 0, so every value would be 0")
            return Decimal(1)
        return scale

    def _range(self, entry: VocabularyEntry | None, unit: str) -> tuple[Decimal | None, Decimal | None]:
        if "range" not in self.given:
            if entry and entry.low is not None and entry.units and unit == entry.units[0]:
                return entry.low, entry.high
            return None, None
        value = self.table.of_types("range", (list,), "[lowest, highest]", [])
        try:
            low, high = map(parsers.number, value)
        except (parsers.InvalidValue, ValueError):
            low = high = Decimal(0)
        if low >= high:
            self.table.add("range", f"invalid range [{', '.join(show(v) for v in value)}]", "Write [lowest, highest]")
            return None, None
        return low, high

    def _bounded(
        self, low: Decimal | None, high: Decimal | None, unit: str, reach: tuple[Decimal, Decimal] | None
    ) -> tuple[Decimal | None, Decimal | None]:
        """Limit the range of a point to the bounds of its unit. The range stays as it is if the registers cannot exceed
        the bounds.
        """
        own = low is not None and high is not None and "range" in self.given
        if own and reach is not None and (low > reach[1] or high < reach[0]):  # type: ignore[operator]
            what = f"no value can lie in the range, because the registers can hold only {reach[0]:f} to {reach[1]:f}"
            self.table.add("range", what, "Is scale, offset or type wrong?")
        bounds = self.vocabulary.bounds(unit)
        if bounds is None:
            return low, high
        if reach is not None and bounds[0] <= reach[0] and reach[1] <= bounds[1]:
            return low, high
        return bounds[0] if low is None else max(low, bounds[0]), bounds[1] if high is None else min(high, bounds[1])

    def _bit_and_mask(self, type_: str, count: int) -> tuple[int | None, int | None]:
        wide = count if type_ == "bits" else BITS.get(type_, 0)
        if ("bit" in self.given or "mask" in self.given) and (not wide or "parts" in self.given):
            key = "bit" if "bit" in self.given else "mask"
            self.table.add(key, f'the key "{key}" does not apply to {"parts" if "parts" in self.given else type_}')
            return None, None
        if "bit" in self.given and "mask" in self.given:
            self.table.add("mask", 'the keys "mask" and "bit" cannot be used together')
        return self.table.integer("bit", 0, max(wide - 1, 0)), self.table.integer("mask", 1, max(2**wide - 1, 1))

    def _width(self, kind: Kind, type_: str, parts: bool, mask: int | None) -> tuple[int | None, int | None]:
        width, digits = self.table.integer("width", 1, 64), self.table.integer("digits", 1, 19)
        for key in ("width", "digits"):
            if key in self.given and kind is not Kind.COUNTER:
                self.table.add(key, f'the key "{key}" applies to counters only, but this point is a {kind.value}')
        if width and digits:
            self.table.add(
                "digits",
                'the keys "digits" and "width" cannot be used together',
                'Write "width" if the counter rolls over after a number of bits, or "digits" if it rolls over after a '
                "number of decimal digits",
            )
        if kind is not Kind.COUNTER:
            return None, None
        if not width and not digits and not parts and type_.startswith("u"):
            width = BITS.get(type_) if mask is None else _shifted(mask).bit_length()
        if not width and not digits and type_.startswith("bcd"):
            digits = REGISTERS[type_] * 4
        return width, digits

    def _no_texts(self) -> tuple[str, ...]:
        """The texts that mean "no reading", for a point whose value is a text that is not made from one number."""
        value = self.table.of_types("sentinel", (str, list, bool), "a text, a list of texts, or false", False)
        items = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        if value is True or not all(isinstance(i, str) and i.strip() for i in items):
            what = "sentinel of a text must be a text, a list of texts, or false if there is none"
            self.table.add("sentinel", what, 'Write for example "N/A". An empty text always means "no reading"')
            return ()
        return tuple(i.strip() for i in items)

    def _sentinels(self, type_: str, bit: int | None, mask: int | None) -> tuple[int, ...] | None:
        if "sentinel" in self.given:
            value = self.table.of_types(
                "sentinel", (int, list, bool), "a raw value, a list of raw values, or false", []
            )
            if value is False:
                return ()
            items = value if isinstance(value, list) else [value]
            wide = BITS.get(type_, 16 * REGISTERS.get(type_, 1) or 64) if self.maps_registers else 64
            if value is True or not all(isinstance(i, int) and not isinstance(i, bool) for i in items):
                what = "sentinel must be a raw value, a list of raw values, or false if the point has none"
                self.table.add("sentinel", what)
                return None
            if any(not 0 <= i < 2**wide for i in items):
                hint = "Write the raw bits, such as 0xFFFF"
                self.table.add("sentinel", f"sentinel does not fit into the {wide} bits of {type_ or 'a number'}", hint)
                return None
            return tuple(items)
        if bit is not None or mask is not None:
            return ()  # this point is only a part of a word, and all of its bits may be 1 in a valid word
        return self.defaults.sentinels.get(type_)

    def _ratio(self, entry: VocabularyEntry | None, unit: str) -> str:
        ratio = self.table.choice("ratio", ("apply", "done"), self.defaults.values.get("ratio", ""))
        concerned = bool(entry and entry.dimension in RATIO_DIMENSIONS and ".ac." in f".{self.name}")
        if "ratio" in self.given and not concerned:
            self.table.add("ratio", f'the key "ratio" does not apply to {self.name} in {unit or "no unit"}')
        return ratio if concerned else ""

    def _labels(self, key: str, kind: Kind) -> Mapping[int, str]:
        labels = self.table.keyed(key)
        if labels and kind is not Kind.STATE:
            self.table.add(key, f'the key "{key}" applies to states only, but this point is a {kind.value}')
        for number, label in labels.items():
            if not isinstance(label, str) or not label:
                self.table.add(key, f"{key}: the label of {number} must be a string, and not empty")
                return {}
        return labels

    def _bit_labels(self, kind: Kind, type_: str, count: int) -> Mapping[int, str]:
        labels = self._labels("bit_labels", kind)
        wide = count if type_ == "bits" else BITS.get(type_, 64)
        for number in labels:
            if not 0 <= number < wide:
                self.table.add("bit_labels", f"bit_labels names bit {number}, but {type_} has bits 0 to {wide - 1}")
        return labels

    def _states(self, kind: Kind) -> Mapping[int, str]:
        states = self.table.keyed("states")
        if states and not self.name.endswith("device.state"):
            self.table.add(
                "states",
                'the key "states" is allowed only for device.state',
                'For the states of other points, use the key "labels"',
            )
        for number, state in states.items():
            if not isinstance(state, str) or state not in self.vocabulary.states:
                hint = suggestion(str(state), self.vocabulary.states)
                allowed = f"Allowed: {', '.join(self.vocabulary.states)}"
                self.table.add("states", f"unknown state {show(state)} for the raw value {number}", hint or allowed)
        return states

    def _text(self, kind: Kind, type_: str, count: int) -> str:
        form = self.table.text("text")
        if not form:
            if kind is Kind.TEXT and self.maps_registers and type_ != "str" and type_ not in INTEGERS:
                self.table.add(
                    "type",
                    f'a point of kind "text" cannot have the type {type_}',
                    'Use type "str" or an integer type',
                )
            return ""
        if kind is not Kind.TEXT or type_ not in {"u16", "u8h"}:
            self.table.add(
                "text",
                'the key "text" is allowed only for text points of type u16 (whole registers) or u8h (single bytes)',
            )
            return ""
        if form in ("low", "high"):
            if type_ != "u16":
                hint = 'For two characters per register, leave the key "text" out and use type str'
                self.table.add("text", f'text = "{form}" needs type "u16" and one character in each register', hint)
            return form
        wrong = self._form_fault(form, 2 * count if type_ == "u8h" else count)
        if wrong:
            self.table.add("text", wrong, ONE_EACH)
        return "" if wrong else form

    @staticmethod
    def _form_fault(form: str, count: int) -> str:
        """The error in a text form that is filled with ``count`` numbers. "" if there is no error."""
        try:
            fields = [f for _, f, _, _ in string.Formatter().parse(form) if f is not None]
            form.format(*range(count))
        except (ValueError, IndexError, KeyError) as error:
            return f'the template {show(form)} in the key "text" cannot be filled with {count} numbers ({error})'
        if not fields or not all(f.isdigit() for f in fields):
            return f"text {show(form)} may use numbered fields only, such as {{0}} or {{1:02x}}"
        return ""

    def _meaning(self, kind: Kind, type_: str, unit: str) -> None:
        if kind in {Kind.STATE, Kind.TEXT}:
            for key in ("scale", "decimals", "offset", "range", "ratio"):
                if key in self.given:
                    self.table.add(
                        key,
                        f'the key "{key}" does not apply to a point of kind "{kind.value}"',
                        'The value of a point of kind "state" or "text" is always the raw value',
                    )
        elif type_ == "str" and "clock" not in self.given:
            self.table.add("type", f'a point of kind "{kind.value}" cannot have the type str')
        if type_ in FLOATS and "sentinel" in self.given and kind is Kind.STATE:
            self.table.add("type", f'a point of kind "state" cannot have the type {type_}')
