"""The layout of a point in registers: type, order, registers, function, address, parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from drivers.model import IDENTIFICATION, RegisterPart
from drivers.toml import TomlTable, show, suggestion
from drivers.toml.parsers import nearest
from ext.decode import ORDERS_24

OBJECTS = 3  # number of objects in a basic identification: vendor, product code, revision

# type -> number of registers. 0: the key "count" of the point gives the number of registers (of coils for the type
# bits).
REGISTERS: Mapping[str, int] = {
    **dict.fromkeys(("u16", "i16", "u8h", "u8l", "i8h", "i8l", "f16", "bcd16"), 1),
    **dict.fromkeys(("u24", "i24", "u32", "i32", "f32", "bcd32"), 2),
    **dict.fromkeys(("u64", "i64", "f64"), 4),
    **dict.fromkeys(("mod10k", "str", "bits"), 0),
}
ORDERS: Mapping[int, tuple[str, ...]] = {  # number of registers -> valid byte orders
    1: ("AB", "BA"),
    2: ("ABCD", "CDAB", "BADC", "DCBA"),
    4: ("ABCDEFGH", "GHEFCDAB", "BADCFEHG", "HGFEDCBA", "CDABGHEF", "ABCD", "CDAB", "BADC", "DCBA"),
}
BITS: Mapping[str, int] = {
    **dict.fromkeys(("u8h", "u8l", "i8h", "i8l"), 8),
    **{f"{sign}{wide}": wide for sign in "ui" for wide in (16, 24, 32, 64)},
}
INTEGERS = frozenset(BITS)
HALVES = frozenset({"u8h", "u8l", "i8h", "i8l"})

TYPE_WORDS: Mapping[str, str] = {  # name of a type in manuals and other tools -> our type
    **dict.fromkeys(("float", "float32", "real", "single", "ieee754", "f", "fp32"), "f32"),
    **dict.fromkeys(("double", "float64", "lreal"), "f64"),
    **dict.fromkeys(("int", "int16", "short", "signed", "s16", "sint16", "integer"), "i16"),
    **dict.fromkeys(("uint", "uint16", "word", "unsigned", "ushort"), "u16"),
    **dict.fromkeys(("int24", "s24", "sint24"), "i24"),
    **dict.fromkeys(("uint24",), "u24"),
    **dict.fromkeys(("int32", "dint", "long", "s32", "sint32"), "i32"),
    **dict.fromkeys(("uint32", "dword", "udint", "ulong"), "u32"),
    **dict.fromkeys(("int64", "lint", "s64"), "i64"),
    **dict.fromkeys(("uint64", "qword", "lword", "ulint"), "u64"),
    **dict.fromkeys(("string", "ascii", "char", "text", "utf8"), "str"),
    **dict.fromkeys(("bcd",), "bcd16"),
    **dict.fromkeys(("bool", "boolean", "bit", "coil", "布尔", "布尔型", "位"), "bits"),
    **dict.fromkeys(
        ("浮点", "浮点数", "浮点型", "单精度", "单精度浮点", "单精度浮点数", "32位浮点", "32位浮点数"), "f32"
    ),
    **dict.fromkeys(("双精度", "双精度浮点", "双精度浮点数", "64位浮点", "64位浮点数"), "f64"),
    **dict.fromkeys(
        ("整数", "整型", "短整型", "有符号", "有符号整数", "有符号整型", "16位有符号", "16位有符号整数"), "i16"
    ),
    **dict.fromkeys(
        ("无符号", "无符号整数", "无符号整型", "无符号短整型", "16位无符号", "16位无符号整数", "字"), "u16"
    ),
    **dict.fromkeys(("长整型", "长整数", "有符号长整型", "32位有符号", "32位有符号整数"), "i32"),
    **dict.fromkeys(("无符号长整型", "无符号长整数", "32位无符号", "32位无符号整数", "双字"), "u32"),
    **dict.fromkeys(("24位有符号", "24位有符号整数"), "i24"),
    **dict.fromkeys(("24位无符号", "24位无符号整数"), "u24"),
    **dict.fromkeys(("64位有符号", "64位有符号整数"), "i64"),
    **dict.fromkeys(("64位无符号", "64位无符号整数"), "u64"),
    **dict.fromkeys(("字符串", "字符", "文本"), "str"),
}
ORDER_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("big", "be", "msb", "big-endian", "big_endian", "bigendian", "1234", "no", "none"), "ABCD"),
    **dict.fromkeys(("swap", "swapped", "wordswap", "word-swap", "word_swap", "3412"), "CDAB"),
    **dict.fromkeys(("little", "le", "lsb", "little-endian", "little_endian", "littleendian"), "CDAB"),
    **dict.fromkeys(("byteswap", "byte-swap", "byte_swap", "2143"), "BADC"),
    **dict.fromkeys(("reverse", "reversed", "4321"), "DCBA"),
}
LITTLE_HINT = (
    'Words in the low-first order, which is usual, are "CDAB"; all bytes reversed are "DCBA". '
    "`meterhouse read --registers` shows both"
)
FUNCTION_WORDS: Mapping[str, int] = {
    **dict.fromkeys(("holding", "holdings", "hr", "4x", "fc3", "fc03", "03", "3", "0x03"), 3),
    **dict.fromkeys(("input", "ir", "input register", "3x", "fc4", "fc04", "04", "4", "0x04"), 4),
    **dict.fromkeys(("coil", "coils", "0x", "fc1", "fc01", "01", "1", "0x01"), 1),
    **dict.fromkeys(("discrete", "discrete input", "inputs", "di", "1x", "fc2", "fc02", "02", "2", "0x02"), 2),
}
PART_KEYS = ("address", "type", "order", "scale", "function")
MAX_WORDS = 125  # most registers in one read
MAX_COILS = 2000


@dataclass(frozen=True, slots=True)
class Defaults:
    """The profile's [defaults]. They apply to points that do not set the key themselves."""

    values: Mapping[str, Any] = field(default_factory=dict)
    sentinels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sleeps: bool = False
    max_words: int = MAX_WORDS
    maps_registers: bool = True  # whether points have register addresses; otherwise each point has a ``key``
    unsure: bool = False  # whether the type is invalid. Complaints that are only a consequence of it are left out


def read_type(table: TomlTable, default: str = "") -> tuple[str, bool]:
    """Read the type of a table. Returns (type, whether it is valid). For an invalid type, a complaint suggests the
    right type.
    """
    raw = table.raw.get("type")
    if not isinstance(raw, str) or raw in REGISTERS:
        return table.choice("type", REGISTERS, default), raw is None or isinstance(raw, str)
    meant = TYPE_WORDS.get(raw.strip().lower()) or nearest(raw, REGISTERS)
    table.known.add("type")
    hint = f'Did you mean "{meant}"?' if meant else f"Allowed: {', '.join(REGISTERS)}"
    if meant == "bits":
        hint = (
            "For one bit of a register, use type u16 with bit = 0; "
            'for coils (functions 1 and 2), leave out the key "type"'
        )
    table.complain(None, "type", f"unknown value {show(raw)}", hint)
    return (meant if meant and meant != "bits" else default or "u16"), False


def orders_of(type_: str, count: int) -> tuple[str, ...]:
    """The orders that a value of this type and this number of registers can have."""
    if type_ == "bits" or type_ in HALVES:
        return ()
    if BITS.get(type_) == 24:
        return (*ORDERS_24, *ORDERS[2])
    if type_ in REGISTERS and not REGISTERS[type_]:  # AB and BA: the registers are in their natural order
        words = ("CDAB", "CDABGHEF", "HGFEDCBA") if type_ == "str" else ORDERS[2]
        return (*ORDERS[1], *(words if count > 1 else ()))
    return ORDERS[count]


def order_hint(order: str, allowed: Iterable[str]) -> str:
    """A hint that names the order that was probably meant."""
    meant = ORDER_WORDS.get(order.strip().lower(), "")
    if meant == "CDAB" and order.strip().lower().startswith("l"):
        return LITTLE_HINT
    if meant and meant in allowed:
        return f'Did you mean "{meant}"?'
    return suggestion(order, allowed) or f"Choose one of {', '.join(allowed)}"


def read_function(table: TomlTable, default: int | None = None) -> int | None:
    """The function of a table. If it is given as a word, there is a complaint, and the number of that function is
    returned.
    """
    raw = table.raw.get("function")
    meant = FUNCTION_WORDS.get(raw.strip().lower()) if isinstance(raw, str) else None
    if meant is None:
        found = table.integer("function", 1, 4, default)
        return 3 if found is None and "function" in table.raw else found
    table.known.add("function")
    table.complain(None, "function", f"{show(raw)} is not a number", f"Write function = {meant}")
    return meant


@dataclass(frozen=True, slots=True)
class RegisterLayout:
    """The type of one point, and the place of its registers."""

    type: str
    order: str
    count: int
    function: int
    address: int
    parts: tuple[RegisterPart, ...] = ()


def raw_range(type_: str, count: int) -> tuple[int, int] | None:
    """The (lowest, highest) raw value of a type. None for floats and texts."""
    if wide := BITS.get(type_):
        return (-(1 << wide - 1), (1 << wide - 1) - 1) if type_.startswith("i") else (0, (1 << wide) - 1)
    if type_.startswith("bcd"):
        return 0, 10 ** (4 * REGISTERS[type_]) - 1
    return {"mod10k": (0, 10 ** (4 * count) - 1), "bits": (0, (1 << count) - 1)}.get(type_)


def read_layout(table: TomlTable, defaults: Defaults) -> RegisterLayout:
    """Return the layout of the point that ``table`` describes: only a type if the protocol has no registers."""
    if not defaults.maps_registers:
        return RegisterLayout(table.text("type"), "", 0, 0, 0)
    return _LayoutReader(table, defaults).read()


class _LayoutReader:
    def __init__(self, table: TomlTable, defaults: Defaults) -> None:
        self.table, self.defaults, self.given = table, defaults, table.raw
        self.unsure = False

    def read(self) -> RegisterLayout:
        if self.given.get("function") == IDENTIFICATION:
            return self._object()
        type_, order, count = self._layout()
        parts = self._parts() if "parts" in self.given else ()
        function, address = self._place(type_, count)
        if parts:
            address = min(p.address for p in parts)
            count = max(p.address + REGISTERS[p.type] for p in parts) - address
            type_ = parts[0].type
        if count > self.defaults.max_words and type_ != "bits":
            longest = self.defaults.max_words
            self.table.add("count", f"{count} registers do not fit into one read of this device ({longest} at most)")
        return RegisterLayout(type_, order, count, function, address, parts)

    def _object(self) -> RegisterLayout:
        """The layout of a text of function 43/14. ``address`` is the number of the object."""
        for key in ("type", "order", "count", "parts", "together", "barrier", "text"):
            if key in self.given:
                what = f'the key "{key}" does not apply to function {IDENTIFICATION}, whose objects are strings'
                self.table.add(key, what, "Leave this setting out")
        number = self.table.integer("address", 0, OBJECTS - 1)
        if number is None and "address" not in self.given:
            self.table.add(
                "address",
                'the key "address" is missing',
                "Write the number of the object: 0 vendor, 1 product code, 2 revision",
            )
        return RegisterLayout("str", "", 1, IDENTIFICATION, number or 0)

    def _layout(self) -> tuple[str, str, int]:
        """Return (type, byte order, size). The size is a number of registers, or of coils for functions 1 and 2."""
        table, values = self.table, self.defaults.values
        function = self.given.get("function", values.get("function"))
        coils = function in (1, 2)  # a tuple is used instead of a set, because a TOML value may be unhashable
        given = self.given.get("type", None if coils else values.get("type"))
        if coils and given not in (None, "bits"):
            what = f"type is {show(given)}, but function {function} reads single bits"
            table.add("type", what, 'Leave out the key "type"')
        type_, sure = ("bits", True) if coils else read_type(table, values.get("type", ""))
        type_ = type_ or "u16"
        self.unsure = not sure or ("type" not in self.given and self.defaults.unsure)
        if not coils and type_ == "bits":
            table.add(
                "type",
                'type "bits" is allowed only with functions 1 and 2',
                "For a register of flags, use type u16 with bit_labels",
            )
        if not coils and given is None and "parts" not in self.given and not self.defaults.unsure:
            table.add("type", 'the key "type" is missing')
        if self.unsure:  # without a valid type, neither the count nor the order can be checked
            return type_, "", table.integer("count", 1, MAX_WORDS, 1) or 1
        count = self._count(type_)
        return type_, self._order(type_, count), count

    def _count(self, type_: str) -> int:
        fixed = REGISTERS[type_]
        if fixed and "text" not in self.given:
            count = self.table.integer("count", 1, MAX_COILS, fixed) or fixed
            if count != fixed:
                self.table.add("count", f"count is {count}, but type {type_} needs count = {fixed}")
            return fixed
        if not fixed and type_ != "bits" and "count" not in self.given:
            self.table.add("count", f'type {type_} needs the key "count" (the number of registers)')
        highest = {"mod10k": 4, "bits": 64, "str": MAX_WORDS}.get(type_, MAX_WORDS)
        return self.table.integer("count", 1, highest, fixed or 1) or 1

    def _order(self, type_: str, count: int) -> str:
        own = self.table.text("order")
        allowed = ORDERS[1] if "text" in self.given else orders_of(type_, count)
        if not allowed or type_ in HALVES:
            if own:
                self.table.add(
                    "order", f'the key "order" does not apply to type {type_}', "Leave this setting out"
                )  # field pain 37
            return ""
        if own and own not in allowed:
            if (
                allowed == ORDERS[1]
            ):  # field pain 37: other software silently accepted an order of words for a single register
                what = f"order {show(own)} does not apply to the 16-bit registers of type {type_}"
                self.table.add("order", what, 'Write AB or BA, or leave the key "order" out')
            else:
                self.table.add("order", f"order {show(own)} does not fit {type_}", order_hint(own, allowed))
            return ""
        default = str(self.defaults.values.get("order", ""))
        if own or "parts" in self.given:
            return own
        if allowed[:2] == ORDERS[1]:  # one register, or several without an order of registers unless the point sets it
            return default if default in ORDERS[1] else ""
        if default not in allowed:
            self.table.add("order", f'type {type_} needs the key "order"', f"Choose one of {', '.join(allowed)}")
            return ""
        return default

    def _place(self, type_: str, count: int) -> tuple[int, int]:
        table = self.table
        default = self.defaults.values.get("function")
        function = read_function(table, default)
        if function is None:
            if "function" not in self.given:
                hint = (
                    "Set the function code: 1 coils, 2 inputs, 3 holding registers, 4 input registers, "
                    "43 identification"
                )
                table.add("function", 'the key "function" is missing', hint)
            function = 3
        if "parts" in self.given:
            if "address" in self.given:
                table.add(
                    "address", 'the keys "address" and "parts" cannot be used together', "Each part has its own address"
                )
            return function, 0
        address = table.integer("address", 0, 0xFFFF)
        if address is None:
            if "address" not in self.given:
                table.add("address", 'the key "address" is missing')
            return function, 0
        if address + count > 0x10000:
            what = "coils" if type_ == "bits" else "registers"
            table.add("address", f"from address {address} on, {count} {what} reach beyond address 65535")
        return function, address

    def _parts(self) -> tuple[RegisterPart, ...]:
        parts: list[RegisterPart] = []
        for table in self.table.tables("parts"):
            given = table.raw
            table.unknown(PART_KEYS)
            type_ = table.choice("type", [t for t, size in REGISTERS.items() if size], required=True)
            address = table.integer("address", 0, 0xFFFF)
            scale = table.number("scale", Decimal(1))
            if not scale:
                table.add("scale", "scale is 0, so this part would add nothing to the value")
            if address is None and "address" not in given:
                table.add("address", 'the key "address" is missing')
            if "function" in given:
                table.add(
                    "function",
                    'all parts are read in one request, so write the key "function" at the point, not at a part',
                )
            if not type_ or address is None:
                continue
            order = self._part_order(table, type_)
            parts.append(RegisterPart(address, type_, scale or Decimal(1), order))
        described = self.given["parts"]
        if isinstance(described, list) and len(described) < 2:
            self.table.add("parts", 'the key "parts" needs at least two entries')
        return tuple(parts)

    def _part_order(self, table: TomlTable, type_: str) -> str:
        allowed = orders_of(type_, REGISTERS[type_])
        order = table.choice("order", allowed)
        default = str(self.defaults.values.get("order", ""))
        if not order and default in allowed:
            return default
        if not order and REGISTERS[type_] > 1:
            table.add("order", f'type {type_} needs the key "order"', f"Choose one of {', '.join(allowed)}")
        return order
