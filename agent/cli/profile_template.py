"""`meterhouse profiles new`: writes a profile that the user completes. Comments in it are a guide."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from agent.cli.config_files import make_folder, write_new
from drivers.model import UsageError, clean_text
from drivers.profile import vocabulary
from drivers.profile.review import TEMPLATE_SOURCE
from drivers.registry import DEFAULT
from drivers.texts import Catalogue

KINDS: Final[Mapping[str, Sequence[str]]] = {  # kind of device -> its usual points, as name, type, scale and unit
    "meter": (
        "ac.voltage.l1 f32 1 V", "ac.voltage.l2 f32 1 V", "ac.voltage.l3 f32 1 V", "ac.current.l1 f32 1 A",
        "ac.current.l2 f32 1 A", "ac.current.l3 f32 1 A", "ac.power.active f32 1 kW", "ac.power.reactive f32 1 kvar",
        "ac.power.factor f32 1 -", "ac.frequency f32 1 Hz", "ac.energy.import f32 1 kWh", "ac.energy.export f32 1 kWh",
    ),
    "inverter": (
        "device.serial str 1 -", "device.state u16 1 -", "ac.power.generation i32 1 W", "ac.voltage.l1 u16 0.1 V",
        "ac.current.l1 u16 0.1 A", "ac.frequency u16 0.01 Hz", "dc.string.1.voltage u16 0.1 V",
        "dc.string.1.current u16 0.1 A", "ac.energy.generation u32 0.1 kWh", "ac.energy.generation.today u32 0.1 kWh",
        "device.temperature i16 0.1 Cel",
    ),
    "storage": (
        "device.state u16 1 -", "battery.soc u16 0.1 %", "battery.soh u16 0.1 %", "battery.voltage u16 0.1 V",
        "battery.current i16 0.1 A", "battery.power i32 1 W", "battery.temperature.max i16 0.1 Cel",
        "battery.energy.charge u32 0.1 kWh", "battery.energy.discharge u32 0.1 kWh",
    ),
    "heat": (
        "heat.power f32 1 kW", "heat.energy u32 1 kWh", "heat.volume u32 0.01 m3", "heat.flow f32 1 m3/h",
        "heat.temperature.supply i16 0.1 Cel", "heat.temperature.return i16 0.1 Cel",
    ),
    "water": ("water.volume u32 0.01 m3", "water.flow f32 1 m3/h", "water.temperature i16 0.1 Cel"),
    "plc": (
        "heat.source.temperature.supply i16 0.1 Cel", "heat.source.temperature.return i16 0.1 Cel",
        "pump.1.state u16 1 -", "pump.1.power u16 0.1 kW", "tank.1.level.percent u16 0.1 %", "x.my.value i16 0.1 -",
    ),
    "weather": ("ambient.irradiance u16 1 W/m2", "ambient.temperature i16 0.1 Cel", "ambient.wind.speed u16 0.1 m/s"),
}  # fmt: skip
REGISTERS: Final[Mapping[str, int]] = {"f32": 2, "u32": 2, "i32": 2, "str": 8}
SLOW: Final = ("energy", "volume", "temperature", "soh", "state", "level", "soc")
TEXTS: Final = Catalogue(__package__, "template")
# a profile has no secrets, and the agent's user must be able to read it, whatever the umask
MODE: Final = 0o644
FOLDER_MODE: Final = 0o755
_ID = re.compile(r"[a-z0-9][a-z0-9-]*")


def check_place(path: Path) -> str:
    """Return the id VENDOR/FAMILY of a profile in this file. Raises UsageError if the path does not give an id."""
    vendor, family = path.absolute().parent.name, path.stem
    if path.suffix != ".toml" or not _ID.fullmatch(vendor) or not _ID.fullmatch(family):
        shown = clean_text(f"{vendor}/{path.name}", 60)
        hint = (
            "The path of a profile is VENDOR/FAMILY.toml, in small letters, digits and -, such as profiles/acme/x1.toml"
        )
        raise UsageError(f"{shown} is not the path of a profile", where=str(path), hint=hint)
    return f"{vendor}/{family}"


def write_profile(path: Path, text: str) -> None:
    """Write a new profile that the agent can read. Raises UsageError if the file exists or cannot be written."""
    for folder in (path.parent.parent, path.parent):
        make_folder(folder, FOLDER_MODE)
    write_new(path, text, MODE)


def template(kind: str, vendor: str, lang: str) -> str:
    """Return the text of a valid profile for a kind of device. Its points have consecutive addresses as an example."""
    rows = [row.split() for row in KINDS[kind]]
    points: list[dict[str, Any]] = []
    address = 0
    for name, type_, scale, unit in rows:
        point: dict[str, Any] = {"name": name, "address": address, "type": type_}
        address += REGISTERS.get(type_, 1)
        if type_ == "str":
            point["count"] = REGISTERS["str"]
        if scale != "1":
            point["scale"] = Decimal(scale)
        if unit != "-":
            point["unit"] = unit
        if name == "device.state":
            point["labels"] = {"0": "standby", "1": "running"}
            point["states"] = {"0": "standby", "1": "running"}
        point["pace"] = "once" if type_ == "str" else pace_of(name)
        if name.startswith("x."):
            point |= {"en": "What it means", "zh": "含义"}
        points.append(point)
    return document(kind, vendor, points, lang)


def pace_of(name: str) -> str:
    """Return the pace that is usual for a point with this name."""
    words = name.split(".")
    return "slow" if any(word in SLOW for word in words) else "fast" if "power" in words else "normal"


def document(kind: str, vendor: str, points: Sequence[Mapping[str, Any]], lang: str, source: str = "") -> str:
    """Return the text of a profile with these points. ``source``: file name of the list from which they were read."""
    say = TEXTS[lang]
    out = [f"# {say['head']}", f"# {say['registers']}", *([f"# {say['list'].format(file=source)}"] if source else [])]
    out += [
        "schema = 1",
        f"vendor = {_text(vendor)}",
        f"# {say['models']}",
        'models = ["MODEL*"]',
        f"kind = {_text(kind)}",
    ]
    out += [f'protocol = "{DEFAULT}"', f"# {say['source']}", f"source = {_text(source or TEMPLATE_SOURCE)}"]
    out += [f"# {say['evidence']}", 'evidence = "derived"', f"# {say['second']}"]
    out += ['second_source = { en = "None was looked for.", zh = "尚未查找。" }', f"# {say['limits']}"]
    out += [
        '# limits = { max_words = 60, quiet = "20 ms", timeout = "1 s" }',
        f"# {say['serial']}",
        '# serial = "9600 8N1"',
    ]
    ratio = [f"# {say['ratio']}"] if kind == "meter" else []
    out += ["", f"# {say['defaults']}", f"# {say['order']}", *ratio, "[defaults]", "function = 3", 'order = "ABCD"']
    out += ["", *(f"# {say[key]}" for key in ("points", "address", "scale", "paces", "labels"))]
    for given in points:
        point = {**given, "pace": given.get("pace", pace_of(str(given["name"])))}
        entry = vocabulary().find(str(point["name"]))
        meaning = (entry.zh if lang == "zh" else entry.en) if entry else ""
        out += ["", *([f"# {meaning}"] if meaning else []), "[[point]]"]
        out += [f"{key} = {_value(value)}" for key, value in point.items()]
    out += ["", f"# {say['sample']}", "# [[sample]]", '# name = "at noon, compared with the display"']
    out += ["# holding = { 0 = [0x4366, 0x199A] }", f"# expect = {{ {_text(points[0]['name'])} = 230.1 }}"]
    return "\n".join(out) + "\n"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    return _text(value) if isinstance(value, str) else f"{value:f}" if isinstance(value, Decimal) else str(value)


def _text(value: object) -> str:
    """Return a value as TOML. It is written as JSON, because basic strings of TOML have the same escapes."""
    return json.dumps(value, ensure_ascii=False)
