"""Reads a list of points (CSV) as points of a profile. Many headers are accepted, but values must be exact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from agent.cli.csv_files import read_rows
from drivers.model import UsageError
from drivers.profile import vocabulary
from drivers.profile.complaints import ProfileComplaints
from drivers.profile.points import build_point
from drivers.profile.register_layout import FUNCTION_WORDS, REGISTERS, TYPE_WORDS, Defaults
from drivers.toml import KeyPath, TomlSource, nearest, show

HEADERS: Final[Mapping[str, tuple[str, ...]]] = {  # key of a point in a profile -> headers that stand for it in lists
    "name": ("name", "point", "pointname", "tag", "variable", "名称", "点名", "测点", "测点名称"),
    "address": ("address", "addr", "register", "registeraddress", "reg", "地址", "寄存器", "寄存器地址"),
    "type": ("type", "datatype", "format", "dtype", "类型", "数据类型", "格式"),
    "unit": ("unit", "units", "uom", "单位"),
    "scale": ("scale", "factor", "multiplier", "coefficient", "resolution", "系数", "倍率", "比例", "比例系数", "精度"),
    "gain": ("gain", "divisor", "增益", "除数"),
    "function": ("function", "functioncode", "fc", "area", "space", "registertype", "功能码", "寄存器类型", "区"),
    "order": ("order", "byteorder", "wordorder", "endian", "endianness", "字节序", "字序"),
    "count": ("count", "length", "len", "quantity", "registers", "num", "数量", "长度", "个数", "寄存器数量"),
    "offset": ("offset", "bias", "偏移", "偏移量"),
    "decimals": ("decimals", "decimalplaces", "小数位", "小数位数"),
    "pace": ("pace", "interval", "采集周期"),
    "kind": ("kind", "种类"),
    "en": ("en", "english", "description", "meaning", "comment", "remark"),
    "zh": ("zh", "chinese", "说明", "描述", "中文", "备注", "含义"),
    "bit": ("bit", "位"),
    "ratio": ("ratio", "变比"),
}  # fmt: skip
UNITS: Final[Mapping[str, str]] = {
    "℃": "Cel",
    "°c": "Cel",
    "degc": "Cel",
    "c": "Cel",
    "m³": "m3",
    "m³/h": "m3/h",
    "Ω": "Ohm", "mΩ": "mOhm", "kΩ": "kOhm", "MΩ": "MOhm",
    "毫伏": "mV", "伏": "V", "伏特": "V", "千伏": "kV", "毫安": "mA", "安": "A", "安培": "A", "千安": "kA",
    "瓦": "W", "瓦特": "W", "千瓦": "kW", "兆瓦": "MW", "乏": "var", "千乏": "kvar", "兆乏": "Mvar",
    "伏安": "VA", "千伏安": "kVA", "兆伏安": "MVA", "瓦时": "Wh", "千瓦时": "kWh", "兆瓦时": "MWh",
    "乏时": "varh", "千乏时": "kvarh", "赫": "Hz", "赫兹": "Hz", "摄氏度": "Cel", "百分比": "%",
    "欧": "Ohm", "欧姆": "Ohm", "千欧": "kOhm", "兆欧": "MOhm", "帕": "Pa", "千帕": "kPa", "兆帕": "MPa", "巴": "bar",
    "立方米": "m3", "立方米/小时": "m3/h", "升": "l", "千焦": "kJ", "兆焦": "MJ", "吉焦": "GJ", "千克": "kg", "吨": "t",
    "毫秒": "ms", "秒": "s", "分钟": "min", "小时": "h", "天": "d",
}  # fmt: skip
NEEDED: Final = ("name", "address", "type")
# leading digit of an address in 4x notation -> function code
REFERENCE: Final[Mapping[int, int]] = {4: 3, 3: 4, 1: 2, 0: 1}


class _Lines(TomlSource):
    """Finds the line of the CSV file that defines a point. Error messages show this line."""

    lines: tuple[int, ...] = ()

    def line(self, path: KeyPath) -> int | None:
        return self.lines[path[1]] if len(path) > 1 and isinstance(path[1], int) else None


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Defaults for missing columns and empty cells of a list.

    ``is_4x``: True if addresses are in 4x notation, in which the first addresses are 40001, 30001, 10001 and 1.
    """

    function: int | None = None
    order: str = ""
    is_4x: bool = False


def read_list(path: Path, options: ListOptions) -> list[dict[str, Any]]:
    """Return the points of a list, as tables of a profile.

    Raises UsageError, or ProfileError with each invalid line.
    """
    table = read_rows(path, hint="Keep only the points that you need; a device has hundreds of points, not thousands")
    header = next((n for n, (_, cells) in enumerate(table) if len(_columns(cells)) >= 2), None)
    if header is None:
        needed = ", ".join(NEEDED)
        hint = (
            f"The first line must name the columns {needed}; the columns unit, factor, function and order are optional"
        )
        raise UsageError("no line of the file contains the column names", where=str(path), hint=hint)
    columns = _columns(table[header][1])
    missing = [key for key in NEEDED if key not in columns.values()]
    if missing:
        seen = ", ".join(cell for cell in table[header][1] if cell)[:120]
        hint = f"Columns of the file: {seen}. Accepted names of the missing column: {', '.join(HEADERS[missing[0]])}"
        raise UsageError(f"no column is named {', '.join(missing)}", where=f"{path}:{table[header][0]}", hint=hint)
    complaints = ProfileComplaints()
    source = _Lines(str(path), path.parent)
    complaints.source = source
    rows = [(line, cells) for line, cells in table[header + 1 :] if any(cells)]
    source.lines = tuple(line for line, _ in rows)
    points: list[dict[str, Any]] = []
    names: dict[str, int] = {}
    defaults = Defaults(values={"order": options.order} if options.order else {})
    for n, (line, cells) in enumerate(rows):
        given = {key: cells[at] for at, key in columns.items() if at < len(cells) and cells[at]}
        point = _Row(given, options, complaints, ("point", n)).read()
        reader = complaints.table(point, ("point", n))
        build_point(reader, defaults, vocabulary())
        if (first := names.setdefault(str(point.get("name")), line)) != line:
            complaints.at(
                ("point", n),
                f"line {first} of the file already uses the name {show(point.get('name'))}",
                "A name may occur only once",
            )
        points.append(point)
    if not points:
        raise UsageError("there are no points below the line with the column names", where=str(path))
    complaints.check()
    return points


def _columns(cells: list[str]) -> dict[int, str]:
    """Return column index -> key of a point, for the columns in a header. Unknown columns are left out."""
    found: dict[int, str] = {}
    for at, cell in enumerate(cells):
        plain = re.sub(r"[\s_\-./:()（）\[\]]+", "", cell.lower())
        key = next((key for key, words in HEADERS.items() if plain in words), "")
        if key and key not in found.values():
            found[at] = key
    return found


class _Row:
    """Converts one row to the table of a point. An invalid value becomes a complaint."""

    def __init__(
        self, given: Mapping[str, str], options: ListOptions, complaints: ProfileComplaints, path: KeyPath
    ) -> None:
        self.given, self.options, self.complaints, self.path = given, options, complaints, path

    def read(self) -> dict[str, Any]:
        given = self.given
        function, address = self._place()
        point: dict[str, Any] = {"name": _name(given.get("name", "")), "function": function, "address": address}
        if function > 2:
            point["type"] = self._type(given.get("type", "").strip().lower())
        for key in ("order", "pace", "kind", "en", "zh", "ratio"):
            if key in given:
                point[key] = given[key].upper() if key == "order" else given[key]
        if unit := given.get("unit", "").replace("\N{OHM SIGN}", "Ω"):
            point["unit"] = UNITS.get(unit) or UNITS.get(unit.lower(), unit)
        for key in ("scale", "offset", "decimals", "bit"):
            if (value := self._number(key)) is not None and not (key == "scale" and value == 1):
                point[key] = value
        if (gain := self._number("gain")) == 0:
            self._wrong("gain: the value is divided by it, so it cannot be 0", "Leave the cell empty")
        elif "scale" not in point and gain not in (None, 1):
            point["scale"] = 1 / Decimal(gain or 1)
        if point.get("type") in ("str", "mod10k") and isinstance(count := self._number("count"), int):
            point["count"] = count
        if REGISTERS.get(str(point.get("type")), 0) > 1 and self.options.order:
            point.setdefault("order", self.options.order)
        return point

    def _type(self, text: str) -> str:
        """Return the type in the notation of profiles. Other common names are translated.

        ``u16`` if the cell is empty.
        """
        if not text or text in REGISTERS or text in TYPE_WORDS:
            return TYPE_WORDS.get(text, text) or "u16"
        if nearest(text, REGISTERS):
            return text  # this is probably a typing error, which build_point refuses with the name of the nearest type
        hint = f"Allowed: {', '.join(REGISTERS)}, and words such as float, int32, 浮点"
        self._wrong(f"type: unknown value {show(self.given['type'])}", hint)
        return "u16"

    def _place(self) -> tuple[int, int]:
        """Return (function code, address as on the wire, where addresses begin at 0)."""
        given = self.given
        function = _function(given.get("function", ""), self.options)
        address = self._number("address")
        if isinstance(address, int) and address < 0:
            self._wrong(
                f"address: {show(given['address'])} is below 0",
                "The first register has address 0, which is 40001 in 4x notation",
            )
        elif isinstance(address, int) and self.options.is_4x:
            function, address = _reference(address, function)
            if address < 0:
                self._wrong(f"address: {show(given['address'])} is not in 4x notation", "40001 is the first register")
        if function is None and "function" in given:
            self._wrong(f"function: {show(given['function'])} is not a function", "3 or holding, 4 or input, 1, 2")
        elif function is None:
            self._wrong("there is no function", "Add a column, or say --function 3 (4x numbers: --4x)")
        if "address" not in given:
            self._wrong("there is no address")
        elif isinstance(address, Decimal):
            self._wrong(f"address: {show(given['address'])} is not a whole number", "Such as 256 or 0x0100")
        return 3 if function is None else function, max(address, 0) if isinstance(address, int) else 0

    def _number(self, key: str) -> int | Decimal | None:
        if key not in self.given:
            return None
        try:
            return _number(self.given[key])
        except ValueError:
            self._wrong(f"{key}: {show(self.given[key])} is not a number", "Such as 256, 0x0100 or 0.1")
            return None

    def _wrong(self, what: str, hint: str = "") -> None:
        self.complaints.at(self.path, what, hint)


def _number(text: str) -> int | Decimal:
    """Parse 256, 0x0100, 100H, 0.1, 1e-3 or, with a decimal comma, 0,1. Raises ValueError."""
    plain = text.replace(" ", "").replace("_", "")
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", plain):
        return int(plain, 16)
    if re.fullmatch(r"[0-9a-fA-F]+[hH]", plain):
        return int(plain[:-1], 16)
    try:
        value = Decimal(plain.replace(",", "."))
    except InvalidOperation:
        raise ValueError(text) from None
    if not value.is_finite() or abs(value.adjusted()) > 20:
        raise ValueError(text)
    return int(value) if value == value.to_integral_value() else value


def _function(text: str, options: ListOptions) -> int | None:
    plain = re.sub(r"[\s_\-]+", " ", text.strip().lower())
    plain = re.sub(r"\s*registers?$", "", plain) if not plain.startswith("input reg") else "input"
    return FUNCTION_WORDS.get(plain) if text else options.function


def _reference(address: int, function: int | None) -> tuple[int | None, int]:
    """Return (function, address on the wire) for a number in 4x notation, which has five or six digits.

    If ``function`` is given, it takes precedence over the leading digit.
    """
    size = 100_000 if address >= 100_000 else 10_000
    found = REFERENCE.get(address // size)
    return (found if function is None else function), address % size - 1


def _name(text: str) -> str:
    """Return the name of a point: ``text`` itself, or the vocabulary's name if ``text`` is the meaning of a point."""
    if re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", text):
        return text
    return _meanings().get(re.sub(r"\s+", " ", text.strip().lower()), text)


def _meanings() -> dict[str, str]:
    """Return meaning -> name, from the vocabulary. Each phase has its own entry. Names with numbers are left out."""
    out: dict[str, str] = {}
    for entry in vocabulary().entries():
        for word in ("l1", "l2", "l3", "l12", "l23", "l31"):
            name = entry.pattern.replace("{ll}" if len(word) == 3 else "{l}", word)
            if "{" in name or (filled := vocabulary().find(name)) is None:
                continue
            for meaning in (filled.en, filled.zh):
                out.setdefault(meaning.lower(), name)
                # lists in Chinese call the phases A, B and C
                for phase, letter in (("l1", "a"), ("l2", "b"), ("l3", "c")):
                    out.setdefault(meaning.lower().replace(f"{phase}相", f"{letter}相"), name)
    return out
